//! Which changes of objects are reasons to reconcile. The operator's own writes of status, and what controllers note in the
//! status of the objects of a store, are none: without this, every failover would apply every object anew.

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Changes and deletions of objects of a kind, but not of their status.
pub fn changes<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut known = HashMap::new();
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| std::future::ready(reason(event, &mut known)))
}

type Key = (Option<String>, Option<String>);

fn reason<K>(
    event: Result<Event<PartialObjectMeta<K>>, watcher::Error>,
    known: &mut HashMap<Key, u64>,
) -> Option<Result<PartialObjectMeta<K>, watcher::Error>> {
    let key = |object: &PartialObjectMeta<K>| (object.metadata.namespace.clone(), object.metadata.name.clone());
    match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => {
            let print = fingerprint(&object.metadata);
            (known.insert(key(&object), print) != Some(print)).then_some(Ok(object))
        }
        Ok(Event::Delete(object)) => {
            known.remove(&key(&object));
            Some(Ok(object))
        }
        Ok(Event::Init | Event::InitDone) => None,
        Err(error) => Some(Err(error)),
    }
}

/// What differs when something else than the status does.
fn fingerprint(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    match meta.generation {
        Some(generation) => {
            let owners = meta.owner_references.iter().flatten().map(|owner| &owner.uid);
            (generation, &meta.uid, &meta.labels, &meta.annotations).hash(&mut hasher);
            owners.for_each(|owner| owner.hash(&mut hasher));
        }
        // A kind without generations: services.
        None => (&meta.uid, &meta.resource_version).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use kube::core::PartialObjectMetaExt;
    use serde_json::json;

    #[test]
    fn a_status_is_no_reason_and_everything_else_is() {
        let object = |meta: serde_json::Value| {
            let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
            meta.into_response_partial::<StatefulSet>()
        };
        let base = json!({"name": "s", "uid": "u", "generation": 1, "resourceVersion": "1"});
        let with = |field: &str, value: serde_json::Value| {
            let mut meta = base.clone();
            meta[field] = value;
            object(meta)
        };
        let mut known = HashMap::new();
        let mut told = |event| reason(Ok(event), &mut known).is_some();
        assert!(told(Event::InitApply(object(base.clone()))));
        assert!(!told(Event::Apply(with("resourceVersion", json!("2")))), "a status");
        assert!(told(Event::Apply(with("generation", json!(2)))), "a spec");
        assert!(told(Event::Apply(with("labels", json!({"a": "b"})))), "a label");
        assert!(told(Event::Delete(object(base.clone()))));
        assert!(told(Event::Apply(object(base.clone()))), "made again");
        let mut service = base.clone();
        service.as_object_mut().unwrap().remove("generation");
        assert!(told(Event::Apply(object(service.clone()))));
        service["resourceVersion"] = json!("3");
        assert!(told(Event::Apply(object(service))), "where there is no generation, any change");
    }
}
