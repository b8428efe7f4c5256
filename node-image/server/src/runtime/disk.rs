//! Room on the disk, as the core, clients and the operator are told of it.
//!
//! A disk is full when the next segment of the log cannot be made: the current one still takes what is under way. A primary
//! refuses writes from then on, also while full disks leave no write quorum among its members; reads go on. A follower
//! takes entries while they fit, then no more, and says so in every answer; it goes on by itself when there is room.
//!
//! What the core gave to be written and found no room is `unwritten`: as much as was under way, because a full disk is given
//! no more.

use super::node::Node;
use crate::command::NoRoom;
use quorate_api::{DiskRoom, Entry, NodeRole};
use quorate_protocol::Event;
use std::sync::Arc;

impl Node {
    /// Tells the core of the disk, if it knows otherwise, before it is given `entries`. A follower that had no room for an
    /// entry takes none before the next segment is there: smaller ones that would fit only follow that one.
    pub(super) fn look_at_disk(&mut self, entries: &[Arc<Entry>]) {
        let before = self.replica().disk();
        let room = match self.log_reader().room(entries) {
            _ if self.has_unwritten() => DiskRoom::Full,
            DiskRoom::Tight => before.max(DiskRoom::Tight),
            room => room,
        };
        if room != before {
            self.step(Event::Disk(room));
        }
    }

    /// Why writes are refused, if a full disk is the reason.
    pub(super) fn no_room(&self) -> Option<NoRoom> {
        if self.log_reader().room(&[]) != DiskRoom::Ample || self.has_unwritten() {
            return Some(NoRoom::Own);
        }
        let (have, needed) = self.replica().lacks_room()?;
        Some(NoRoom::Members { have, needed })
    }

    /// Called at every tick.
    pub(super) fn tend_disk(&mut self) {
        if self.has_unwritten() && matches!(self.replica().role(), NodeRole::Follower | NodeRole::Learner | NodeRole::Blank) {
            self.write_unwritten();
        }
        self.look_at_disk(&[]);
    }
}
