//! When a write counts as held by a node, and what that means for its volume after a stop.
//!
//! With [`Durability::PageCache`] nothing is synced before it is acknowledged: what a node acknowledged outlives its process
//! and not its machine. While it runs, its superblock names the run of the machine's kernel (the boot id) that holds what is
//! not on the disk. A node that finds the name of another run was not stopped cleanly and its machine was restarted, or the
//! volume moved to another one: it may have lost what it acknowledged. It is another replica from then on, with a new
//! incarnation that no quorum ever counted, and becomes a member again by a change, as after the loss of its volume. It keeps
//! its log: most of it needs no repair, and where all members lost power at once it is what a person goes on with.
//!
//! Invariants: the mark is on the disk before anything is acknowledged that is not · it goes only after all is synced · a
//! new incarnation is on the disk before anything else is done under it.

use crate::runtime::node::Stored;
use crate::storage::{Log, StorageError, Superblock};
use anyhow::{Context, bail};
use clap::ValueEnum;
use quorate_api::Incarnation;
use std::path::Path;

/// When a write counts as held by a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// When it is on the disk.
    #[default]
    Fsync,
    /// When the system has it.
    PageCache,
}

/// The name of the present run of the machine's kernel.
///
/// # Errors
/// When the file does not read or is empty.
pub fn boot_id(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read the machine's boot id from {}", file.display()))?;
    let id = text.trim();
    if id.is_empty() {
        bail!("{} names no run of the machine", file.display());
    }
    Ok(id.to_owned())
}

/// Before a volume is used: gives it a new incarnation if it may have lost what it acknowledged. Durable on return.
///
/// # Errors
/// When the boot id is needed and cannot be read, or the superblock cannot be written.
pub fn take_up(stored: &mut Stored, superblock: &mut Superblock, boot_id_file: &Path) -> anyhow::Result<()> {
    let Some(ran) = &stored.page_cache else { return Ok(()) };
    if *ran == boot_id(boot_id_file)? {
        return Ok(());
    }
    let former = stored.id.incarnation;
    stored.id.incarnation = Incarnation(uuid::Uuid::new_v4());
    stored.former = Some(former);
    stored.page_cache = None;
    // What the former one may have acknowledged is no duty of this one.
    stored.hard.unreadable = None;
    superblock.write(stored)?;
    tracing::warn!(
        %former,
        id = %stored.id.incarnation,
        "the machine was restarted, or is another one, and this node had not stopped: writes that it acknowledged were in the page \
         cache only and may be gone. It goes on as another replica and catches up before it counts again"
    );
    Ok(())
}

/// Before the first acknowledgement: has the log work as was asked for, and marks or clears the volume. Durable on return.
///
/// # Errors
/// When the boot id is needed and cannot be read, or the disk fails.
pub fn begin(
    durability: Durability,
    stored: &mut Stored,
    superblock: &mut Superblock,
    log: &mut Log,
    boot_id_file: &Path,
) -> anyhow::Result<()> {
    match durability {
        Durability::PageCache => {
            log.leave_to_the_system();
            if stored.page_cache.is_none() {
                stored.page_cache = Some(boot_id(boot_id_file)?);
                superblock.write(stored)?;
            }
        }
        // Under the setting of before, something may be in the page cache still.
        Durability::Fsync => end(stored, superblock, log)?,
    }
    Ok(())
}

/// After the last acknowledgement: everything is on the disk.
///
/// # Errors
/// When the disk fails; the mark stays then.
pub fn end(stored: &mut Stored, superblock: &mut Superblock, log: &mut Log) -> Result<(), StorageError> {
    if stored.page_cache.is_some() {
        log.sync_to_disk()?;
        stored.page_cache = None;
        superblock.write(stored)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LogOptions;
    use quorate_api::{EntryId, Epoch, ReplicaId, StoreId};
    use quorate_protocol::HardState;
    use uuid::Uuid;

    /// A volume and the machine that it is on.
    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let id = ReplicaId {
                store: StoreId(Uuid::nil()),
                shard: 0,
                ordinal: 0,
                incarnation: Incarnation(Uuid::from_u128(1)),
            };
            let hard = HardState {
                promised: Epoch { number: 4, token: 1 },
                unreadable: Some(EntryId::default()),
                ..HardState::default()
            };
            Superblock::create(folder.path(), &Stored::new(id, hard)).unwrap();
            let machine = Self { folder };
            machine.boots("first");
            machine
        }

        fn boots(&self, name: &str) {
            std::fs::write(self.folder.path().join("boot"), format!("{name}\n")).unwrap();
        }

        /// A node starts; `ends` cleanly or is killed. What its superblock says then.
        fn runs(&self, durability: Durability, ends: bool) -> Stored {
            let (path, boot) = (self.folder.path(), self.folder.path().join("boot"));
            let (mut superblock, mut stored) = Superblock::open::<Stored>(path).unwrap().unwrap();
            take_up(&mut stored, &mut superblock, &boot).unwrap();
            let (mut log, _) = Log::open(&path.join("log"), LogOptions { segment_bytes: 4096 }).unwrap();
            begin(durability, &mut stored, &mut superblock, &mut log, &boot).unwrap();
            if ends {
                end(&mut stored, &mut superblock, &mut log).unwrap();
            }
            let (_, written) = Superblock::open::<Stored>(path).unwrap().unwrap();
            assert_eq!(written.page_cache, stored.page_cache);
            written
        }
    }

    #[test]
    fn a_machine_that_restarts_under_a_node_that_had_not_stopped_makes_it_another_replica() {
        let machine = Machine::new();
        let first = machine.runs(Durability::PageCache, false);
        assert_eq!(first.page_cache.as_deref(), Some("first"));
        let again = machine.runs(Durability::PageCache, false);
        assert_eq!(again.id, first.id, "its process was killed, and the machine holds what it wrote");
        machine.boots("second");
        let other = machine.runs(Durability::PageCache, false);
        assert_ne!(other.id.incarnation, first.id.incarnation);
        assert_eq!(other.former, Some(first.id.incarnation));
        assert_eq!(other.hard.promised, first.hard.promised, "a promise never falls");
        assert_eq!((other.hard.unreadable, other.page_cache.as_deref()), (None, Some("second")));
    }

    #[test]
    fn after_a_clean_end_or_with_every_write_on_the_disk_a_restart_changes_nothing() {
        let machine = Machine::new();
        let first = machine.runs(Durability::PageCache, true);
        machine.boots("second");
        assert_eq!(machine.runs(Durability::Fsync, false).id, first.id);
        machine.boots("third");
        assert_eq!(machine.runs(Durability::Fsync, false).id, first.id);
    }

    #[test]
    fn the_setting_may_change_while_the_machine_runs() {
        let machine = Machine::new();
        let first = machine.runs(Durability::PageCache, false);
        let synced = machine.runs(Durability::Fsync, false);
        assert_eq!(
            (synced.id, synced.page_cache),
            (first.id, None),
            "what was in the page cache was synced first"
        );
        machine.boots("second");
        assert_eq!(machine.runs(Durability::PageCache, false).id, first.id);
        machine.boots("third");
        assert_ne!(
            machine.runs(Durability::Fsync, false).id,
            first.id,
            "it was lost before the setting changed"
        );
    }
}
