//! What is told of disks that are full or that do not read.

use super::{Say, unreachable_after};
use crate::observe::Observed;
use crate::plan::{Observation, Phase};
use quorate_api::{DiskRoom, NodeStatus};
use quorate_crds::conditions::reasons;

/// What a person can do, and what happens then.
const WAY_OUT: &str =
    "give the volumes more room (enlarge their claims, if their class allows it, or free what else is on them); it goes on by itself";

/// Why writes are refused, and perhaps reads too, if full disks are the reason.
pub(super) fn refused(seen: &Observation<'_>, phase: &Phase) -> Option<Say> {
    let what = match phase {
        Phase::Serving(primary, true) => {
            let (_, leader) = heard(seen).find(|(_, status)| status.id.incarnation == *primary)?;
            format!("writes are refused and reads go on, because {}", leader.writes_refused.as_ref()?)
        }
        Phase::NoRoom(text) => format!("no primary serves: {text}"),
        _ => return None,
    };
    let text = format!("{what}; no room: {}; {WAY_OUT}", full(seen));
    Some((false, reasons::DISK_FULL, text))
}

/// What is wrong with disks of a store that takes writes.
pub(super) fn ill(seen: &Observation<'_>) -> Option<(&'static str, String)> {
    if heard(seen).any(|(_, status)| status.disk != DiskRoom::Ample) {
        let text = format!("no room for the log: {}; {WAY_OUT}", full(seen));
        return Some((reasons::DISK_FULL, text));
    }
    if let Some((member, rot)) = heard(seen).find_map(|(member, status)| Some((member, status.rot.as_ref()?))) {
        let text = format!(
            "the disk of {} lost what it held ({rot}): a snapshot of its state in memory takes its place, by itself",
            member.pod
        );
        return Some((reasons::DAMAGED, text));
    }
    let damaged = heard(seen)
        .filter(|(_, status)| status.damaged)
        .map(|(member, _)| member.pod.as_str());
    let damaged: Vec<&str> = damaged.collect();
    if damaged.is_empty() {
        return None;
    }
    let text = format!(
        "entries of the log do not read on the disk of {}: its peers send them again, by themselves, and it is not chosen as primary before",
        damaged.join(", ")
    );
    Some((reasons::DAMAGED, text))
}

fn heard<'a>(seen: &'a Observation<'_>) -> impl Iterator<Item = (&'a Observed, &'a NodeStatus)> {
    let limit = unreachable_after(seen.settings);
    seen.members
        .iter()
        .filter_map(move |member| Some((member, member.fresh(seen.now, limit)?)))
}

fn full(seen: &Observation<'_>) -> String {
    let full = heard(seen).filter(|(_, status)| status.disk != DiskRoom::Ample);
    let names: Vec<&str> = full.map(|(member, _)| member.pod.as_str()).collect();
    match names.is_empty() {
        true => "members that the operator does not hear".to_owned(),
        false => names.join(", "),
    }
}
