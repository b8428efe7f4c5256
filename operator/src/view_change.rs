//! The view changes that the operator drives: the first one of a store, failovers, switchovers, changes of members and
//! quorum. Each runs in a task of its own.
//!
//! They talk to the members and to nobody else, and work while the API server is down. Only the first view change of a store
//! writes down whom it was over, and needs the API server for it.

use crate::names;
use crate::observe::Observed;
use crate::plan::{Goal, ViewChange};
use crate::settings::Settings;
use crate::store::of_shard;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use quorate_api::{Configuration, Epoch};
use quorate_client::{DriveError, Driven, Live, drive};
use quorate_crds::{ReplicatedStore, ReplicatedStoreStatus};
use quorate_protocol::Driver;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// A drive that takes longer is given up; the next one knows more.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Why a view change did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ViewChangeError {
    /// The members.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The API server.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// The store was bootstrapped before, over other volumes.
    #[error("this store was bootstrapped before, over other volumes")]
    DataLost,
    /// A failover was more urgent.
    #[error("a failover was needed meanwhile")]
    Overtaken,
}

/// What a drive needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Where members are now.
    pub live: Live,
    /// Highest epoch number seen.
    pub highest: u64,
    /// Every configuration that a member told.
    pub configurations: Vec<Configuration>,
}

impl Known {
    /// From what was observed, and the highest epoch number heard of otherwise.
    #[must_use]
    pub fn of(members: &[Observed], highest: u64) -> Self {
        let statuses = || members.iter().filter_map(|member| Some((member, member.status.as_ref()?)));
        let mut configurations: Vec<Configuration> = Vec::new();
        for (_, status) in statuses() {
            if let Some((_, configuration)) = &status.configuration
                && !configurations.contains(configuration)
            {
                configurations.push(configuration.clone());
            }
        }
        Self {
            live: statuses()
                .filter_map(|(member, status)| Some((status.id.incarnation, member.address.clone()?)))
                .collect(),
            highest: statuses()
                .map(|(_, status)| status.promised.number)
                .max()
                .unwrap_or_default()
                .max(highest),
            configurations,
        }
    }
}

/// Carries out a view change of a shard that was planned, under `epoch`.
///
/// # Errors
/// See [`ViewChangeError`].
pub async fn carry_out(
    shard: u32,
    change: ViewChange,
    epoch: Epoch,
    token: Arc<Vec<u8>>,
    client: Client,
    settings: Settings,
) -> Result<Driven, ViewChangeError> {
    if let Goal::Bootstrap(target) = &change.goal {
        write_down(client, &settings, shard, target).await?;
    }
    let live = change.known.live.clone();
    Ok(drive(driver(change, epoch), &token, &live, DEADLINE).await?)
}

/// The driver of a view change that was planned, under `epoch`.
#[must_use]
pub fn driver(change: ViewChange, epoch: Epoch) -> Driver {
    let ViewChange {
        goal,
        reason: _,
        from: _,
        primary: stay,
        avoid,
        leave_out,
        silence: _,
        known,
    } = change;
    match goal {
        Goal::Bootstrap(target) => Driver::bootstrap(epoch, target),
        Goal::Failover => Driver::keep(epoch, known.configurations, avoid).leaving_out(leave_out),
        Goal::Switchover(to) => Driver::keep(epoch, known.configurations, avoid).preferring(Some(to)),
        Goal::Change(target) => Driver::change(epoch, known.configurations, target).preferring(stay),
        Goal::Recover(survivors) => Driver::recover(epoch, known.configurations, survivors),
    }
}

/// What is written down before a store is bootstrapped over these volumes.
#[must_use]
pub fn bootstrap_mark(target: &Configuration) -> String {
    let mut members: Vec<_> = target.members().iter().collect();
    members.sort_by_key(|member| member.ordinal);
    let incarnations: Vec<String> = members.iter().map(|member| member.incarnation.to_string()).collect();
    incarnations.join(",")
}

/// Between the marks of bootstraps that were begun one after the other.
const MARKS: char = ';';

/// What has to be written down before a store is bootstrapped over the volumes of `mark`, by what is `written` already and by its
/// status. None: it is written.
///
/// A bootstrap that was begun over other volumes, before its spec was changed or one of them was lost, does no harm if one
/// volume is in both marks. Each needs the promise of that replica: one that has promised to the earlier tells of its members,
/// and the later needs all of them, blank; one that has promised to the later refuses the earlier. That holds for two, so every
/// mark is kept, and the next must meet each of them.
///
/// # Errors
/// [`ViewChangeError::DataLost`] if it was bootstrapped before, over other volumes.
pub fn to_write_down(written: Option<&str>, status: Option<&ReplicatedStoreStatus>, mark: &str) -> Result<Option<String>, ViewChangeError> {
    let earlier = || written.into_iter().flat_map(|written| written.split(MARKS));
    if earlier().last() == Some(mark) {
        return Ok(None);
    }
    let served = status.is_some_and(|status| status.shards.iter().any(|shard| shard.epoch > 0));
    let meets = |earlier: &str| earlier.split(',').any(|volume| mark.split(',').any(|other| other == volume));
    if served || !earlier().all(meets) {
        return Err(ViewChangeError::DataLost);
    }
    Ok(Some(
        written.map_or_else(|| mark.to_owned(), |written| format!("{written}{MARKS}{mark}")),
    ))
}

/// Writes down over which volumes the store is bootstrapped, before it is: a group that comes back blank and is another
/// one is not bootstrapped again.
async fn write_down(client: Client, settings: &Settings, shard: u32, target: &Configuration) -> Result<(), ViewChangeError> {
    let (name, namespace) = (&settings.name, &settings.namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let stores: Api<ReplicatedStore> = Api::namespaced(client, namespace);
    let set_name = names::stateful_set(name, shard);
    let set = sets.get(&set_name).await?;
    let mark = bootstrap_mark(target);
    let annotations = set.metadata.annotations.unwrap_or_default();
    let status = stores.get(name).await?.status.map(|status| of_shard(&status, shard));
    let written = annotations.get(names::ANNOTATION_BOOTSTRAP).map(String::as_str);
    let Some(marks) = to_write_down(written, status.as_ref(), &mark)? else {
        return Ok(());
    };
    // The resource version makes this a compare-and-swap: of two operators, one writes.
    let patch = json!({
        "metadata": {
            "resourceVersion": set.metadata.resource_version,
            "annotations": {names::ANNOTATION_BOOTSTRAP: marks},
        },
    });
    sets.patch(&set_name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::ShardStatus;

    #[test]
    fn a_store_is_bootstrapped_over_other_volumes_only_if_one_of_them_knows_of_the_first_time() {
        let may = |written: Option<&str>, epoch, mark: &str| {
            let shards = vec![ShardStatus {
                epoch,
                ..ShardStatus::default()
            }];
            let status = ReplicatedStoreStatus {
                shards,
                ..ReplicatedStoreStatus::default()
            };
            to_write_down(written, Some(&status), mark).ok()
        };
        let write = |marks: &str| Some(Some(marks.to_owned()));
        assert_eq!(may(None, 0, "a,b,c"), write("a,b,c"));
        assert_eq!(may(Some("a,b,c"), 0, "a,b,c"), Some(None));
        assert_eq!(may(Some("a,b,c"), 0, "a"), write("a,b,c;a"), "the spec was made smaller");
        assert_eq!(may(Some("a"), 0, "a,b,c"), write("a;a,b,c"), "the spec was made larger");
        assert_eq!(may(Some("a,b,c;a,d,e"), 0, "a,d,e"), Some(None));
        assert_eq!(
            may(Some("a,b,c;a,d,e"), 0, "f,d,e"),
            None,
            "nobody of the first time is there, whatever the second shares with this one"
        );
        assert_eq!(may(Some("a,b,c"), 0, "d,e,f"), None, "nobody of then is there");
        assert_eq!(may(Some("a,b,c"), 1, "a,d,e"), None, "it has served");
        assert_eq!(may(None, 1, "a,b,c"), None, "it has served");
    }
}
