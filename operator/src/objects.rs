//! The Kubernetes objects of a store, as values. Built from scratch each time, for server-side apply.
//!
//! Pure: what is built depends on the store, on its [`Layout`], and on nothing else in the cluster.

use crate::names;
use crate::plan::Shape;
use crate::settings::Settings;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Resource, ResourceExt};
use quorate_crds::{Durability, ReplicatedStore};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Grace of a pod, in seconds: a hand-over takes milliseconds, this is for a machine that is busy.
const GRACE_SECONDS: u32 = 30;
/// User and group of the node's process.
const USER: u32 = 65532;

/// The objects of a store but for its secret, which is made once.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Gives pods their DNS names; answers also for pods that are not ready.
    pub headless: Service,
    /// For cluster clients: every node.
    pub client: Service,
    /// For clients that know no cluster: the primary.
    pub primary: Service,
    /// What the pods run as. It may do nothing.
    pub service_account: ServiceAccount,
    /// Bounds voluntary disruptions of the shard; None to leave it as it is, or for a single replica, which would never be drained.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// That of the shard.
    pub stateful_sets: Vec<StatefulSet>,
}

/// What depends on the state of a shard of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Index of the shard.
    pub shard: u32,
    /// Pods of the shard's StatefulSet.
    pub replicas: u32,
    /// Pods that may be disrupted at a time; None to leave the budget as it is.
    pub max_unavailable: Option<u32>,
    /// What volumes of this store belong to.
    pub store_id: String,
    /// The node's image where the spec names none.
    pub default_image: String,
}

impl Layout {
    /// Of shard 0 of a store that has no object yet.
    #[must_use]
    pub fn new(settings: &Settings, default_image: String) -> Self {
        let quorum = settings.quorum;
        Self {
            shard: 0,
            replicas: quorum.replicas,
            max_unavailable: (quorum.replicas > 1).then(|| quorum.failover_tolerates().min(quorum.writes_tolerate())),
            store_id: names::store_id(&settings.namespace, &settings.name).to_string(),
            default_image,
        }
    }

    /// Of another shard.
    #[must_use]
    pub fn of_shard(mut self, shard: u32) -> Self {
        self.shard = shard;
        self
    }

    /// Of shard 0 with that StatefulSet, or none, whose keeper wants that shape.
    #[must_use]
    pub fn following(settings: &Settings, default_image: String, shape: Option<Shape>, present: Option<&StatefulSet>) -> Self {
        let mut layout = Self::new(settings, default_image);
        let pods = present.map(pods_of);
        match shape {
            Some(Shape { replicas, max_unavailable }) => {
                (layout.replicas, layout.max_unavailable) = (replicas, max_unavailable);
            }
            // The keeper does not know enough yet: nothing is taken away from what is there.
            None if pods.is_some() => {
                layout.replicas = layout.replicas.max(pods.unwrap_or_default());
                layout.max_unavailable = None;
            }
            None => {}
        }
        if let Some(id) = present.and_then(store_id_of) {
            layout.store_id = id;
        }
        layout
    }
}

/// The image of the nodes where the spec names none: the one of the release that made the store. A new operator restarts
/// nothing, unless the spec says that the store goes with it.
#[must_use]
pub fn default_image(store: &ReplicatedStore, present: Option<&StatefulSet>, released: &str) -> String {
    let pinned = present.filter(|_| !store.spec.update.follow_operator);
    let pinned = pinned.and_then(|set| set.annotations().get(names::ANNOTATION_DEFAULT_IMAGE).cloned());
    pinned.unwrap_or_else(|| released.to_owned())
}

/// What the template of a StatefulSet asks for, in one word.
#[must_use]
pub fn revision_of(set: &StatefulSet) -> Option<String> {
    let template = set.spec.as_ref()?.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get(names::ANNOTATION_REVISION).cloned()
}

/// The pods that a StatefulSet is to have.
#[must_use]
pub fn pods_of(set: &StatefulSet) -> u32 {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    u32::try_from(replicas.unwrap_or(1)).unwrap_or_default()
}

/// The identity that the volumes of a StatefulSet belong to. One that was made when it was the UID of the store keeps it.
#[must_use]
pub fn store_id_of(set: &StatefulSet) -> Option<String> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let variables = pod.containers.iter().flat_map(|container| container.env.iter().flatten());
    variables
        .into_iter()
        .find(|variable| variable.name == names::ENV_STORE_ID)?
        .value
        .clone()
}

fn image<'a>(store: &'a ReplicatedStore, layout: &'a Layout) -> &'a str {
    store.spec.image.as_deref().unwrap_or(&layout.default_image)
}

/// What a person chose of the pods, in one word. It changes with the spec and never with the operator: what the spec leaves
/// out does not enter it.
#[must_use]
pub fn revision(store: &ReplicatedStore, settings: &Settings, layout: &Layout) -> String {
    let spec = &store.spec;
    let mut chosen = BTreeMap::from([("image", json!(image(store, layout)))]);
    if settings.max_memory > 0 {
        chosen.insert("maxMemory", json!(settings.max_memory));
    }
    if let Some(resources) = &spec.resources {
        chosen.insert("resources", json!(resources));
    }
    if spec.replication.durability != Durability::Fsync {
        chosen.insert("durability", json!(spec.replication.durability));
    }
    if !spec.node_selector.is_empty() {
        chosen.insert("nodeSelector", json!(spec.node_selector));
    }
    if !spec.tolerations.is_empty() {
        chosen.insert("tolerations", json!(spec.tolerations));
    }
    let text = serde_json::to_string(&chosen).expect("a spec is plain data");
    let hash = format!("{:032x}", names::fingerprint(&text));
    hash[..16].to_owned()
}

/// Builds the objects of the store and of the shard of that layout.
#[must_use]
pub fn build(store: &ReplicatedStore, settings: &Settings, layout: &Layout) -> Objects {
    let name = &settings.name;
    let meta = |object: String| {
        json!({
            "name": object,
            "namespace": settings.namespace,
            "labels": names::labels(store),
            "ownerReferences": [store.controller_owner_ref(&()).expect("a store from the API server has a name and a UID")],
        })
    };
    let selector = names::selector(store);
    let mut shard_selector = selector.clone();
    shard_selector.insert(names::LABEL_SHARD.to_owned(), layout.shard.to_string());
    let mut primary_selector = selector.clone();
    primary_selector.insert(names::LABEL_ROLE.to_owned(), "primary".to_owned());
    let redis = json!({"name": "redis", "port": names::CLIENT_PORT, "targetPort": "redis"});
    Objects {
        headless: typed(json!({
            "metadata": meta(names::headless_service(name)),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": true,
                "selector": selector,
                "ports": [redis, {"name": "replica", "port": names::REPLICA_PORT, "targetPort": "replica"}],
            },
        })),
        client: typed(json!({
            "metadata": meta(name.clone()),
            "spec": {"selector": selector, "ports": [redis]},
        })),
        primary: typed(json!({
            "metadata": meta(names::primary_service(name)),
            "spec": {"selector": primary_selector, "ports": [redis]},
        })),
        service_account: typed(json!({
            "metadata": meta(name.clone()),
            "automountServiceAccountToken": false,
        })),
        disruption_budget: layout.max_unavailable.map(|tolerated| {
            typed(json!({
                "metadata": meta(names::disruption_budget(name, layout.shard)),
                "spec": {"maxUnavailable": tolerated, "selector": {"matchLabels": shard_selector}},
            }))
        }),
        stateful_sets: vec![typed({
            let mut meta = meta(names::stateful_set(name, layout.shard));
            meta["annotations"] = json!({names::ANNOTATION_DEFAULT_IMAGE: layout.default_image});
            json!({"metadata": meta, "spec": stateful_set(store, settings, layout)})
        })],
    }
}

fn stateful_set(store: &ReplicatedStore, settings: &Settings, layout: &Layout) -> Value {
    let shard = layout.shard;
    let spec = &store.spec;
    let mut selector = names::selector(store);
    selector.insert(names::LABEL_SHARD.to_owned(), shard.to_string());
    let mut labels = names::labels(store);
    labels.insert(names::LABEL_SHARD.to_owned(), shard.to_string());
    let annotations = json!({names::ANNOTATION_REVISION: revision(store, settings, layout)});
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": spec.storage.size}},
    });
    if let Some(class) = &spec.storage.storage_class_name {
        claim["storageClassName"] = json!(class);
    }
    let spread = |topology: &str, weight: u32| {
        json!({
            "weight": weight,
            "podAffinityTerm": {"topologyKey": topology, "labelSelector": {"matchLabels": selector}},
        })
    };
    let mut pod = json!({
        "serviceAccountName": settings.name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            spread("kubernetes.io/hostname", 100),
            spread("topology.kubernetes.io/zone", 50),
        ]}},
        "containers": [container(store, settings, layout)],
        "volumes": [{"name": "token", "secret": {"secretName": names::token_secret(&settings.name), "defaultMode": 0o440}}],
    });
    if !spec.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.node_selector);
    }
    if !spec.tolerations.is_empty() {
        pod["tolerations"] = json!(spec.tolerations);
    }
    json!({
        "serviceName": names::headless_service(&settings.name),
        "replicas": layout.replicas,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "selector": {"matchLabels": selector},
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    })
}

fn container(store: &ReplicatedStore, settings: &Settings, layout: &Layout) -> Value {
    let value = |name: &str, value: String| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    let mut container = json!({
        "name": names::CONTAINER,
        "image": image(store, layout),
        "ports": [
            {"name": "redis", "containerPort": names::CLIENT_PORT},
            {"name": "replica", "containerPort": names::REPLICA_PORT},
            {"name": "http", "containerPort": names::HTTP_PORT},
        ],
        "env": [
            value(names::ENV_STORE_ID, layout.store_id.clone()),
            value("QUORATE_STORE_NAME", settings.name.clone()),
            value("QUORATE_SHARD", layout.shard.to_string()),
            field("QUORATE_POD_NAME", "metadata.name"),
            field("QUORATE_POD_IP", "status.podIP"),
            value("QUORATE_DATA_DIR", "/data".to_owned()),
            value("QUORATE_TOKEN_FILE", "/etc/quorate/token/token".to_owned()),
            value("QUORATE_MAX_MEMORY", settings.max_memory.to_string()),
            value("QUORATE_LOG_FORMAT", "json".to_owned()),
        ],
        "readinessProbe": probe("/readyz", 5, 3),
        "livenessProbe": probe("/livez", 10, 6),
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "token", "mountPath": "/etc/quorate/token", "readOnly": true},
        ],
    });
    if settings.durability == Durability::PageCache {
        // Only where it is asked for: pods of other stores stay as they are.
        let env = container["env"].as_array_mut().expect("built above");
        env.push(value("QUORATE_DURABILITY", "page-cache".to_owned()));
    }
    if let Some(resources) = &store.spec.resources {
        container["resources"] = json!(resources);
    }
    container
}

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the objects built here are of their types")
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::ReplicatedStoreSpec;

    fn objects(spec: Value) -> Objects {
        objects_of(spec, 0)
    }

    fn objects_of(spec: Value, shard: u32) -> Objects {
        let spec: ReplicatedStoreSpec = serde_json::from_value(spec).unwrap();
        let mut store = ReplicatedStore::new("orders", spec);
        store.metadata.namespace = Some("shop".into());
        store.metadata.uid = Some("11111111-2222-3333-4444-555555555555".into());
        let settings = Settings::of(&store).unwrap();
        let layout = Layout {
            store_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            ..Layout::new(&settings, "quorate/node:test".to_owned()).of_shard(shard)
        };
        build(&store, &settings, &layout)
    }

    #[test]
    fn a_store_that_is_created_again_is_the_one_that_its_volumes_belong_to() {
        let id = |namespace, store| names::store_id(namespace, store).to_string();
        assert_eq!(
            id("shop", "orders"),
            "dcad416b-296d-840b-9589-599438c180d3",
            "never to change: volumes carry it"
        );
        assert_ne!(id("shop", "orders"), id("shop", "order"));
        assert_ne!(id("shop", "orders"), id("sho", "porders"));
    }

    #[test]
    fn the_pod_template_is_the_one_that_running_pods_have() {
        let set = &objects(json!({})).stateful_sets[0];
        let template = serde_json::to_string_pretty(&set.spec.as_ref().unwrap().template).unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pod-template.json");
        if std::env::var_os("QUORATE_UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!("{template}\n")).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            format!("{template}\n"),
            golden,
            "a change here changes the pods of every store at their next restart; QUORATE_UPDATE_GOLDEN=1 accepts it"
        );
    }

    #[test]
    fn the_revision_changes_with_what_a_person_chose_and_with_nothing_else() {
        let revision = |spec| {
            let template = objects(spec).stateful_sets[0].spec.clone().unwrap().template;
            template.metadata.unwrap().annotations.unwrap()[names::ANNOTATION_REVISION].clone()
        };
        let plain = revision(json!({}));
        assert_eq!(plain, "b0345a0b4ac22ab2", "never to change: running pods carry it");
        assert_eq!(
            revision(json!({"replicasPerShard": 5, "failover": {"heartbeatMillis": 100}})),
            plain
        );
        for chosen in [
            json!({"image": "another"}),
            json!({"maxMemory": "1Gi"}),
            json!({"resources": {"limits": {"cpu": "1"}}}),
            json!({"nodeSelector": {"disk": "fast"}}),
            json!({"tolerations": [{"key": "data", "operator": "Exists"}]}),
            json!({"replication": {"durability": "PageCache"}}),
        ] {
            assert_ne!(revision(chosen.clone()), plain, "{chosen}");
        }
    }

    #[test]
    fn a_node_is_told_to_leave_writes_in_the_page_cache_only_where_the_spec_says_so() {
        let told = |spec| {
            let set = serde_json::to_value(&objects(spec).stateful_sets[0]).unwrap();
            let env = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
            env.into_iter().find(|variable| variable["name"] == "QUORATE_DURABILITY")
        };
        assert_eq!(told(json!({})), None);
        let page_cache = told(json!({"replication": {"durability": "PageCache"}})).unwrap();
        assert_eq!(page_cache["value"], "page-cache");
    }

    #[test]
    fn every_shard_has_its_own_pods_and_its_own_budget() {
        for (shard, set_name, budget_name) in [(0, "orders-0", "orders"), (2, "orders-2", "orders-2")] {
            let objects = objects_of(json!({}), shard);
            let budget = serde_json::to_value(objects.disruption_budget.unwrap()).unwrap();
            let set = serde_json::to_value(&objects.stateful_sets[0]).unwrap();
            let selector = json!({
                "app.kubernetes.io/instance": "orders",
                "app.kubernetes.io/managed-by": "quorate",
                "quorate.io/shard": shard.to_string(),
            });
            assert_eq!(budget["spec"]["selector"]["matchLabels"], selector);
            assert_eq!(set["spec"]["selector"]["matchLabels"], selector);
            let variables = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
            assert!(variables.contains(&json!({"name": "QUORATE_SHARD", "value": shard.to_string()})));
            assert_eq!(
                (&budget["metadata"]["name"], &set["metadata"]["name"]),
                (&json!(budget_name), &json!(set_name))
            );
        }
    }

    #[test]
    fn pods_are_started_together_and_restarted_by_the_operator_only() {
        let objects = objects(json!({"replicasPerShard": 5, "quorum": {"write": 4, "read": 2}}));
        let spec = objects.stateful_sets[0].spec.clone().unwrap();
        assert_eq!(spec.pod_management_policy.as_deref(), Some("Parallel"));
        assert_eq!(spec.update_strategy.unwrap().type_.as_deref(), Some("OnDelete"));
        let budget = serde_json::to_value(objects.disruption_budget.unwrap().spec.unwrap()).unwrap();
        assert_eq!(budget["maxUnavailable"], 1, "one below the smaller quorum");
    }
}
