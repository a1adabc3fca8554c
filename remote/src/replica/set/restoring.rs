//! A replica that is handed over as it was at a moment of its past.
//!
//! What changed since is put back into the image, from the history, which stays as it is: so it can be done as often as it takes. A
//! file, `restoring`, says which moment; until it is done the image is no state of the volume, and the next start, or a reload,
//! finishes it.

use super::aside::notes::{DETACHED, RESTORING};
use super::aside::shelf::Directory;
use super::aside::{Aside, AsideError, Left, Shelf, end_uses};
use super::{ReplicaSet, Slot, files_in};
use crate::replica::Replica;
use farside_storage::{Moment, StorageError, Store, View};
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// First line of the file.
const HEADING: &str = "farside restoring 1";
/// Put back at once.
const STEP_BYTES: u64 = 1 << 20;

/// Which moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Goal {
    serial: u64,
    record: u64,
}

impl Goal {
    fn text(self) -> String {
        format!("{HEADING}\n{} {}\n", self.serial, self.record)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == HEADING)?;
        let mut numbers = lines.next()?.split(' ');
        let goal = Self {
            serial: numbers.next()?.parse().ok()?,
            record: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(goal)
    }
}

impl ReplicaSet {
    /// As [`detach`](Self::detach), with the image as it was at a moment. Blocks for as long as it takes to put back what changed since;
    /// `tell` hears how much of that is done, and says whether to go on.
    ///
    /// # Errors
    /// [`AsideError`]. Before anything was changed it is in service as before; after that it is not, until a reload or the next start has
    /// finished it.
    pub fn detach_at(
        &self,
        name: &str,
        moment: &Moment,
        tell: &dyn Fn(u64, u64) -> bool,
    ) -> Result<(u64, PathBuf), AsideError> {
        let replica = self.claim_open(name)?;
        let image = replica.files().image.clone();
        let goal = Goal {
            serial: moment.serial(),
            record: moment.record,
        };
        // It must not leave the history while the rest is received.
        let Some(pin) = replica.store().history().and_then(|history| history.pin(moment)) else {
            self.settle_slot(name.to_owned(), Ok(replica));
            return Err(gone(name, goal));
        };
        let shelf = Directory::new(&replica.files().maps);
        let begun = end_uses(name, &replica).and_then(|()| begin(name, &replica, goal, &shelf));
        if let Err(error) = begun {
            let files = replica.files().clone();
            drop((replica, pin));
            // A word that is there although it could not be made sure of would be followed at the next start.
            let again = shelf.remove(RESTORING).and_then(|()| self.open_replica(&files));
            self.settle_slot(name.to_owned(), again.map_err(|error| error.to_string()));
            return Err(error);
        }
        let restored = put_back(name, replica, goal, tell);
        let slot = match &restored {
            Ok(left) => Slot::Aside(Aside::Detached(*left), left.bytes),
            Err(error) => Slot::Failed(unfinished(goal, error)),
        };
        self.slots.lock().insert(name.to_owned(), slot);
        restored.map(|left| (left.record, image))
    }

    /// Whether a replica was being restored when it was used last.
    pub(super) fn is_restoring(&self, name: &str) -> bool {
        Directory::new(&self.config.directory.join(name)).has(RESTORING)
    }

    /// Finishes that, beside everything else: it takes as long as writing what changed. The slot is the caller's.
    pub(super) fn go_on_restoring(self: &Arc<Self>, name: String) {
        let (set, wanted) = (Arc::clone(self), name.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("restore {name}"))
            .spawn(move || {
                let slot = set.finish_restoring(&name);
                if let Slot::Failed(problem) = &slot {
                    tracing::error!(replica = name, "replica not in service: {problem}");
                }
                set.slots.lock().insert(name, slot);
            });
        if let Err(error) = spawned {
            let problem =
                format!("no thread to finish a restore with: {error}; reload the unit to try again");
            tracing::error!(replica = wanted, "{problem}");
            self.slots.lock().insert(wanted, Slot::Failed(problem));
        }
    }

    fn finish_restoring(&self, name: &str) -> Slot {
        let files = files_in(&self.config.directory, name);
        let shelf = Directory::new(&files.maps);
        let goal = match shelf.read(RESTORING) {
            Ok(text) => text.and_then(|text| Goal::parse(std::str::from_utf8(&text).ok()?)),
            Err(error) => return Slot::Failed(error.to_string()),
        };
        let Some(goal) = goal else {
            return Slot::Failed(format!(
                "{} does not say which moment it was being brought back to; put the right file back, or move the replica's directory \
                 away: it then gets a full copy",
                shelf.name_of(RESTORING)
            ));
        };
        tracing::warn!(
            replica = name,
            record = goal.record,
            "it was being brought back to this record; that goes on"
        );
        let storage = |error| AsideError::Storage(name.to_owned(), error);
        let finished = self.open_replica(&files).map_err(storage).and_then(|replica| {
            end_uses(name, &replica)?;
            let goes_on = |_, _| !self.stopping.load(Ordering::Acquire);
            put_back(name, replica, goal, &goes_on)
        });
        match finished {
            Ok(left) => Slot::Aside(Aside::Detached(left), left.bytes),
            Err(error) => Slot::Failed(unfinished(goal, &error)),
        }
    }
}

fn unfinished(goal: Goal, error: &AsideError) -> String {
    format!(
        "it was being brought back to record {}, which is not done: {error}. Its image is no state of the volume until a reload (SIGHUP) has \
         finished that; if it cannot be, move the replica's directory away: it then gets a full copy",
        goal.record
    )
}

fn gone(name: &str, goal: Goal) -> AsideError {
    let text = format!("no longer has the state after record {}", goal.record);
    AsideError::Unfit(name.to_owned(), text)
}

/// Notes that it begins, if it can be done: nothing has been changed so far.
fn begin(name: &str, replica: &Arc<Replica>, goal: Goal, shelf: &Directory) -> Result<(), AsideError> {
    if Arc::strong_count(replica) > 1 {
        let text = "something still reads it, and would read what is being put back; try again";
        return Err(AsideError::Unfit(name.to_owned(), text.to_owned()));
    }
    // What was still to be received may have taken its place in the history.
    let (view, newest) = view_of(name, replica.store(), goal)?;
    let changed = replica
        .store()
        .history()
        .and_then(|history| history.changed(view.moment(), &newest));
    changed.ok_or_else(|| gone(name, goal))?;
    let noted = shelf.replace(RESTORING, goal.text().as_bytes());
    noted.map_err(|error| AsideError::Storage(name.to_owned(), error))
}

/// The moment, and the newest there is.
fn view_of(name: &str, store: &Store, goal: Goal) -> Result<(View, Moment), AsideError> {
    let Some(history) = store.history() else {
        let text = "its history is not open: set link.history_size, or see the log for what is wrong with it, and start the unit again";
        return Err(AsideError::Unfit(name.to_owned(), text.to_owned()));
    };
    let moment = history.again(goal.serial, goal.record);
    let view = moment.and_then(|moment| store.view(&moment));
    let newest = history.state().newest;
    view.zip(newest).ok_or_else(|| gone(name, goal))
}

/// Puts back what changed since the moment, and notes how the replica is left. Nobody else uses it.
fn put_back(
    name: &str,
    replica: Arc<Replica>,
    goal: Goal,
    tell: &dyn Fn(u64, u64) -> bool,
) -> Result<Left, AsideError> {
    let storage = |error| AsideError::Storage(name.to_owned(), error);
    let store = replica.store();
    let (view, newest) = view_of(name, store, goal)?;
    write_all(store, (&view, &newest), tell).map_err(storage)?;
    let left = Left {
        record: view.moment().record,
        time_us: view.moment().time_us,
        bytes: store.volume_bytes(),
        // The journal is ahead of it: when it is taken back it is compared.
        image: None,
    };
    let shelf = Directory::new(&replica.files().maps);
    drop((view, replica));
    let noted = shelf.replace(DETACHED, left.text().as_bytes());
    noted.and_then(|()| shelf.remove(RESTORING)).map_err(storage)?;
    Ok(left)
}

fn write_all(
    store: &Store,
    (view, newest): (&View, &Moment),
    tell: &dyn Fn(u64, u64) -> bool,
) -> Result<(), StorageError> {
    let changed = store
        .history()
        .and_then(|history| history.changed(view.moment(), newest));
    let changed = changed.ok_or_else(|| refuse(store, "its history does not say what changed since"))?;
    let total = changed.iter().map(|range| range.end - range.start).sum();
    let (mut done, mut buffer) = (0, Vec::new());
    for range in changed {
        let mut at = range.start;
        while at < range.end {
            let length = STEP_BYTES.min(range.end - at);
            buffer.resize(usize::try_from(length).unwrap_or(0), 0);
            view.read(at, &mut buffer)?;
            if buffer.iter().all(|byte| *byte == 0) {
                store.image().zero_at(at, length, false)?;
            } else {
                store.image().write_at(&mut [IoSlice::new(&buffer)], at)?;
            }
            at += length;
            done += length;
            if !tell(done, total) {
                return Err(refuse(
                    store,
                    "the unit is told to stop; the next start goes on with it",
                ));
            }
        }
    }
    store.image().sync()
}

fn refuse(store: &Store, problem: &str) -> StorageError {
    StorageError::Refused {
        name: store.name().to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_moment_is_read_as_it_was_written_and_nothing_else_is() {
        let goal = Goal {
            serial: 7,
            record: u64::MAX,
        };
        assert_eq!(Goal::parse(&goal.text()), Some(goal));
        for text in [
            "",
            "farside restoring 1\n",
            "farside restoring 2\n1 2\n",
            "farside restoring 1\n1\n",
            "farside restoring 1\n1 2 3\n",
        ] {
            assert_eq!(Goal::parse(text), None, "{text:?}");
        }
    }
}
