//! Brings a node's state back from its volume: the newest snapshot that reads, then the log.
//!
//! A snapshot outranks the log: a log that does not reach it, or says something else there, is what an installation
//! left behind when it was stopped, or lost entries that the snapshot covers; it starts anew behind the snapshot. What is
//! neither in a snapshot nor in the log although it was durable once is remembered as unreadable, before anything is cut.

use crate::keyspace::{Keyspace, SnapshotError};
use crate::storage::{Log, LogOptions, Recovered, SnapshotDirectory, SnapshotHead, SnapshotReader, StorageError};
use anyhow::Context;
use quorate_api::{EntryBody, EntryId, Epoch, Position};
use quorate_protocol::LogView;
use std::path::{Path, PathBuf};

/// What came back.
#[derive(Debug)]
pub struct Restored {
    /// The log, ready to be continued.
    pub log: Log,
    /// What the core knows of it.
    pub view: LogView,
    /// The state up to `commit`.
    pub keyspace: Keyspace,
    /// Committed for certain.
    pub commit: u64,
    /// The newest snapshot.
    pub snapshot: Option<Position>,
}

/// Why a snapshot does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What it holds.
    #[error(transparent)]
    Content(#[from] SnapshotError),
}

/// Reads a whole snapshot; `block` is called now and then.
///
/// # Errors
/// When the file is damaged or of another version.
pub fn load_snapshot(path: PathBuf, mut block: impl FnMut()) -> Result<(SnapshotHead, Keyspace), LoadError> {
    let (mut reader, head) = SnapshotReader::open(path)?;
    let mut keyspace = Keyspace::new();
    while let Some(bytes) = reader.block()? {
        keyspace.read_block(&bytes)?;
        block();
    }
    Ok((head, keyspace))
}

/// See the module. `promised` is the highest epoch that entries here can be of; `remember` makes durable that entries up to
/// the one given cannot be read here.
///
/// Entries up to `settled` are known to be committed, beside what the log and the snapshot tell.
///
/// # Errors
/// When the volume cannot be used at all; the message says what to do.
pub fn restore(
    log_directory: &Path,
    options: LogOptions,
    snapshots: &SnapshotDirectory,
    settled: u64,
    promised: Epoch,
    mut remember: impl FnMut(EntryId) -> anyhow::Result<()>,
) -> anyhow::Result<Restored> {
    let (mut log, recovered) = Log::open(log_directory, options)?;
    let Recovered {
        base,
        entries,
        commit_hint,
        damage,
        headless,
    } = recovered;
    let (found, damaged) = newest(snapshots)?;
    let covered = found.as_ref().map_or(0, |(head, _)| head.position.id.index);
    if let Some(damage) = damage
        && damage.last.index > covered
    {
        tracing::error!(first = damage.first, last = ?damage.last, "log entries that were durable do not read: waiting for peers to repair them");
        // This replica may be the only one that acknowledged them.
        let epoch = if damage.open_end {
            promised.max(damage.last.epoch)
        } else {
            damage.last.epoch
        };
        remember(EntryId { epoch, ..damage.last })?;
    }
    if damage.is_some() {
        log.cut_damage(&headless)?;
    }
    if damaged && base.id.index > covered {
        tracing::error!(
            first = base.id.index,
            "no snapshot reads, and the log does not reach back to the beginning: waiting for peers to send the state"
        );
        let last = log.last().id;
        remember(last)?;
        log.restart_after(Position::default())?;
        return Ok(Restored {
            log,
            view: LogView::new(Position::default(), None, 0),
            keyspace: Keyspace::new(),
            commit: 0,
            snapshot: None,
        });
    }
    anyhow::ensure!(
        base.id.index <= covered,
        "the log in {} begins after entry {} and no snapshot reaches there: a part of the volume is missing. \
         Move it aside to start this replica empty; it then rejoins as a new member",
        log_directory.display(),
        base.id.index
    );
    let (mut view, mut keyspace, snapshot) = match found {
        None => (LogView::new(base, None, 0), Keyspace::new(), None),
        Some((head, keyspace)) => {
            let SnapshotHead {
                position,
                configuration,
                timestamp_millis,
                keys: _,
            } = head;
            let at = position.id.index;
            let held = match at.checked_sub(base.id.index) {
                Some(0) => base == position,
                Some(count) => entries.get(count as usize - 1).is_some_and(|entry| entry.position() == position),
                None => false,
            };
            if !held {
                tracing::info!(index = at, "the log goes on behind the snapshot: what it held before is covered");
                log.restart_after(position)?;
                return Ok(Restored {
                    log,
                    view: LogView::new(position, Some(configuration), timestamp_millis),
                    keyspace,
                    commit: at,
                    snapshot: Some(position),
                });
            }
            // A configuration above the base comes with its entry.
            let before = Some(configuration).filter(|(id, _)| id.index <= base.id.index);
            (LogView::new(base, before, timestamp_millis), keyspace, Some(position))
        }
    };
    let last = base.id.index + entries.len() as u64;
    let commit = commit_hint.max(covered).max(settled.min(last));
    for entry in entries {
        if let EntryBody::Effects(effects) = &entry.body
            && (covered + 1..=commit).contains(&entry.id.index)
        {
            keyspace
                .apply(effects, entry.id.index)
                .with_context(|| format!("entry {} holds effects that this version does not know", entry.id.index))?;
        }
        view.push(entry);
        view.shrink_tail(commit);
    }
    view.forget_configurations(commit);
    Ok(Restored {
        log,
        view,
        keyspace,
        commit,
        snapshot,
    })
}

/// The newest snapshot that reads, and whether one does not.
fn newest(snapshots: &SnapshotDirectory) -> anyhow::Result<(Option<(SnapshotHead, Keyspace)>, bool)> {
    let mut damaged = false;
    for index in snapshots.indexes()? {
        match load_snapshot(snapshots.path(index), || ()) {
            Ok(found) => return Ok((Some(found), damaged)),
            Err(LoadError::Storage(error)) if error.is_damage() => {
                tracing::error!(%error, "a snapshot does not read");
                snapshots.put_aside(index)?;
                damaged = true;
            }
            Err(error) => return Err(error).context("load the newest snapshot"),
        }
    }
    Ok((None, damaged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::{Change, NEVER, Value};
    use crate::storage::{SnapshotWriter, crash};
    use bytes::BytesMut;
    use quorate_api::slot::slot_of;
    use quorate_api::{Configuration, Entry, Incarnation, Member};
    use std::sync::Arc;

    const OPTIONS: LogOptions = LogOptions { segment_bytes: 4096 };

    /// A volume, and what should come back from it.
    struct Volume {
        folder: tempfile::TempDir,
        entries: Vec<Arc<Entry>>,
    }

    fn configuration() -> Configuration {
        let members = vec![Member {
            incarnation: Incarnation(uuid::Uuid::nil()),
            ordinal: 0,
            host: "a".into(),
        }];
        Configuration::new(members, 1, 1).unwrap()
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, token: 0 }
    }

    /// An epoch start and then `count` entries that set a key each; `epoch_number` tells logs apart.
    fn entries(count: usize, epoch_number: u64) -> Vec<Arc<Entry>> {
        let (mut position, mut entries) = (Position::default(), Vec::new());
        for number in 0..=count {
            let body = if number == 0 {
                EntryBody::EpochStart(configuration())
            } else {
                let mut effects = BytesMut::new();
                let key = format!("key{}", number % 50).into_bytes();
                let value = Value::String(vec![b'v'; 100 + number].into());
                let mut change = Change {
                    effects: &mut effects,
                    index: position.id.index + 1,
                };
                Keyspace::new().put(slot_of(&key), &key, value, NEVER, &mut change);
                EntryBody::Effects(effects.freeze())
            };
            let entry = Arc::new(Entry::next(position, epoch(epoch_number), 7, body));
            position = entry.position();
            entries.push(entry);
        }
        entries
    }

    fn state_at(entries: &[Arc<Entry>], index: u64) -> Keyspace {
        let mut keyspace = Keyspace::new();
        for entry in entries.iter().filter(|entry| entry.id.index <= index) {
            if let EntryBody::Effects(effects) = &entry.body {
                keyspace.apply(effects, entry.id.index).unwrap();
            }
        }
        keyspace
    }

    impl Volume {
        fn new(count: usize) -> Self {
            let volume = Self {
                folder: tempfile::tempdir().unwrap(),
                entries: entries(count, 1),
            };
            let (mut log, _) = Log::open(&volume.log_path(), OPTIONS).unwrap();
            for entry in &volume.entries {
                log.append(std::slice::from_ref(entry), entry.id.index - 1).unwrap();
            }
            log.sync().unwrap();
            volume
        }

        fn log_path(&self) -> PathBuf {
            self.folder.path().join("log")
        }

        fn directory(&self) -> SnapshotDirectory {
            SnapshotDirectory::open(self.folder.path().join("snapshots")).unwrap()
        }

        /// Leaves a snapshot of `entries` up to `index` under an unfinished name.
        fn write_snapshot(directory: &SnapshotDirectory, entries: &[Arc<Entry>], index: u64) -> PathBuf {
            let head = SnapshotHead {
                position: entries[index as usize - 1].position(),
                configuration: (entries[0].id, configuration()),
                timestamp_millis: 7,
                keys: 0,
            };
            let path = directory.partial("own");
            let mut writer = SnapshotWriter::create(path.clone(), &head).unwrap();
            let state = state_at(entries, index).snapshot();
            state.blocks(|block| writer.block(block).map(drop)).unwrap();
            writer.finish().unwrap();
            path
        }

        fn publish_snapshot(&self, entries: &[Arc<Entry>], index: u64) {
            let directory = self.directory();
            let partial = Self::write_snapshot(&directory, entries, index);
            directory.publish(&partial, index).unwrap();
        }

        fn trim(&self, index: u64) -> Position {
            let (log, _) = Log::open(&self.log_path(), OPTIONS).unwrap();
            let boundary = log.reader().boundary(index, 0).unwrap();
            log.reader().trim(boundary).unwrap();
            boundary
        }

        fn segments(&self) -> Vec<PathBuf> {
            let files = std::fs::read_dir(self.log_path()).unwrap().map(|entry| entry.unwrap().path());
            let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
            segments.sort();
            segments
        }

        fn restore(&self) -> (Restored, Option<EntryId>) {
            let mut lost = None;
            let restored = restore(&self.log_path(), OPTIONS, &self.directory(), 0, epoch(9), |id| {
                lost = lost.max(Some(id));
                Ok(())
            });
            (restored.unwrap(), lost)
        }
    }

    /// The state is that of the log at `commit`, the log ends at `last`, and both can go on; also at the next start.
    fn assert_comes_back(volume: &Volume, entries: &[Arc<Entry>], base: u64, last: u64, commit: u64) {
        for _ in 0..2 {
            let (restored, lost) = volume.restore();
            assert_eq!(lost, None);
            assert_eq!((restored.commit, restored.view.base().id.index), (commit, base));
            let end = last
                .checked_sub(1)
                .map_or(Position::default(), |at| entries[at as usize].position());
            assert_eq!((restored.view.last(), restored.log.last()), (end, end));
            assert!(restored.keyspace == state_at(entries, commit));
            assert_eq!(restored.view.configurations().len(), 1);
        }
    }

    #[test]
    fn a_stop_while_a_snapshot_is_written_leaves_the_log() {
        let volume = Volume::new(100);
        Volume::write_snapshot(&volume.directory(), &volume.entries, 60);
        assert_comes_back(&volume, &volume.entries, 0, 101, 100);
    }

    #[test]
    fn a_snapshot_and_the_trimmed_log_behind_it_give_the_same_state() {
        let volume = Volume::new(100);
        volume.publish_snapshot(&volume.entries, 60);
        assert_comes_back(&volume, &volume.entries, 0, 101, 100);
        let base = volume.trim(60);
        assert!(base.id.index > 10);
        assert_comes_back(&volume, &volume.entries, base.id.index, 101, 100);
    }

    #[test]
    fn a_stop_while_the_log_is_trimmed_leaves_a_log_that_begins_somewhere_before_the_snapshot() {
        let volume = Volume::new(100);
        volume.publish_snapshot(&volume.entries, 101);
        for path in volume.segments().iter().take(3) {
            std::fs::remove_file(path).unwrap();
        }
        let base = volume.restore().0.view.base().id.index;
        assert_comes_back(&volume, &volume.entries, base, 101, 101);
    }

    #[test]
    fn an_installation_that_was_stopped_at_any_point_is_completed() {
        // The log that the snapshot replaces is shorter, or as long and of another epoch.
        for (held, epoch_number) in [(40, 1), (40, 2), (300, 2)] {
            let theirs = entries(200, epoch_number);
            let segments = Volume::new(held).segments().len();
            // Segments go from the end: any number of them may be left.
            for left in (0..=segments).rev() {
                let volume = Volume::new(held);
                volume.publish_snapshot(&theirs, 150);
                for path in &volume.segments()[left..] {
                    std::fs::remove_file(path).unwrap();
                }
                assert_comes_back(&volume, &theirs, 150, 150, 150);
                let (mut restored, _) = volume.restore();
                restored.log.append(&theirs[150..], 150).unwrap();
                restored.log.sync().unwrap();
                drop(restored);
                assert_comes_back(&volume, &theirs, 150, 201, 150);
            }
        }
    }

    #[test]
    fn a_damaged_snapshot_is_made_good_by_an_older_one_or_by_the_whole_log() {
        let volume = Volume::new(100);
        volume.publish_snapshot(&volume.entries, 30);
        volume.publish_snapshot(&volume.entries, 60);
        for index in [60, 30] {
            let path = volume.directory().path(index);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_comes_back(&volume, &volume.entries, 0, 101, 100);
        }
    }

    #[test]
    fn a_damaged_snapshot_under_a_trimmed_log_is_loss_that_is_remembered() {
        let volume = Volume::new(100);
        volume.publish_snapshot(&volume.entries, 60);
        volume.trim(60);
        std::fs::write(volume.directory().path(60), b"?").unwrap();
        let (restored, lost) = volume.restore();
        assert_eq!(lost, Some(volume.entries[100].id));
        assert_eq!(
            (restored.commit, restored.view.last(), restored.keyspace.len()),
            (0, Position::default(), 0)
        );
        drop(restored);
        let (again, _) = volume.restore();
        assert_eq!((again.commit, again.log.last()), (0, Position::default()));
    }

    #[test]
    fn a_trimmed_log_without_any_snapshot_is_refused() {
        let volume = Volume::new(100);
        volume.publish_snapshot(&volume.entries, 60);
        volume.trim(60);
        std::fs::remove_file(volume.directory().path(60)).unwrap();
        let refused = restore(&volume.log_path(), OPTIONS, &volume.directory(), 0, epoch(9), |_| Ok(()));
        assert!(refused.unwrap_err().to_string().contains("a part of the volume is missing"));
    }

    #[test]
    fn damage_in_the_log_below_a_snapshot_costs_nothing_and_above_it_is_remembered() {
        for (place, remembered) in [(0, false), (3, true)] {
            let volume = Volume::new(100);
            let covered = if remembered { 10 } else { 101 };
            volume.publish_snapshot(&volume.entries, covered);
            let path = &volume.segments()[place];
            let mut bytes = std::fs::read(path).unwrap();
            bytes[200] ^= 1;
            std::fs::write(path, bytes).unwrap();
            let (restored, lost) = volume.restore();
            assert_eq!(lost.is_some(), remembered);
            let commit = restored.commit;
            assert!(commit >= covered && restored.log.last().id.index >= covered);
            assert!(restored.keyspace == state_at(&volume.entries, commit));
        }
    }

    #[test]
    fn a_segment_whose_head_does_not_read_is_damage_and_not_the_end_of_the_node() {
        let whole = Volume::new(100);
        let count = whole.segments().len();
        for place in 0..count {
            let volume = Volume::new(100);
            let path = &volume.segments()[place];
            let mut bytes = std::fs::read(path).unwrap();
            bytes[20] ^= 1;
            std::fs::write(path, bytes).unwrap();
            let (mut restored, lost) = volume.restore();
            let (lost, last) = (lost.unwrap(), volume.entries.last().unwrap().id);
            assert!(lost >= last, "{lost:?} bounds what was lost up to {last:?}");
            assert_eq!(lost.epoch, if place + 1 == count { epoch(9) } else { epoch(1) });
            assert!(restored.commit <= restored.log.last().id.index);
            assert!(restored.keyspace == state_at(&volume.entries, restored.commit));
            // Peers send the rest.
            let held = restored.log.last().id.index as usize;
            restored.log.append(&volume.entries[held..], last.index).unwrap();
            restored.log.sync().unwrap();
            drop(restored);
            assert_comes_back(&volume, &volume.entries, 0, last.index, last.index);
        }
    }

    /// Runs `change` with an end of the process before each of its operations, and shows what is left to `check`.
    fn at_every_end(volume: impl Fn() -> Volume, change: impl Fn(&Volume) -> Result<(), StorageError>, check: impl Fn(&Volume, bool)) {
        for operations in 0.. {
            let volume = volume();
            // As it is left by a process that ends: nothing runs after the failure.
            crash::after(Some(operations));
            let done = change(&volume).is_ok();
            crash::after(None);
            check(&volume, done);
            if done {
                println!("{operations} operations");
                assert!(operations > 3, "the change does nothing");
                return;
            }
        }
    }

    #[test]
    fn an_installation_that_ends_before_any_of_its_operations_leaves_the_old_state_or_the_new_one() {
        let theirs = entries(200, 2);
        let received = || {
            let volume = Volume::new(300);
            Volume::write_snapshot(&volume.directory(), &theirs, 150);
            volume
        };
        let install = |volume: &Volume| {
            let (mut log, _) = Log::open(&volume.log_path(), OPTIONS)?;
            let directory = SnapshotDirectory {
                path: volume.folder.path().join("snapshots"),
            };
            directory.publish(&directory.partial("own"), 150)?;
            log.restart_after(theirs[149].position())?;
            directory.remove_before(150)
        };
        at_every_end(received, install, |volume, done| {
            let published = volume.directory().path(150).exists();
            assert!(published || !done);
            if published {
                assert_comes_back(volume, &theirs, 150, 150, 150);
            } else {
                assert_comes_back(volume, &volume.entries, 0, 301, 300);
            }
        });
    }

    #[test]
    fn an_own_snapshot_that_ends_before_any_of_its_operations_changes_nothing_of_the_state() {
        let written = || {
            let volume = Volume::new(300);
            volume.publish_snapshot(&volume.entries, 40);
            Volume::write_snapshot(&volume.directory(), &volume.entries, 250);
            volume
        };
        let publish = |volume: &Volume| {
            let (log, _) = Log::open(&volume.log_path(), OPTIONS)?;
            let directory = SnapshotDirectory {
                path: volume.folder.path().join("snapshots"),
            };
            directory.publish(&directory.partial("own"), 250)?;
            directory.remove_before(250)?;
            let boundary = log.reader().boundary(250, 0).expect("the log reaches there");
            log.reader().trim(boundary)
        };
        at_every_end(written, publish, |volume, _| {
            let base = volume.restore().0.view.base().id.index;
            assert_comes_back(volume, &volume.entries, base, 301, 300);
        });
    }
}
