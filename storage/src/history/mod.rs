//! The past of an image: what it held before it was overwritten, in a ring of the journal's format.
//!
//! Contract: whoever overwrites the image first says what stood there ([`History::before`], [`History::zeroes_before`]),
//! then [`History::commit`]s, and only then writes. So the image and what the ring holds after a moment together are the
//! image at that moment, whatever was overwritten since, at any time and after any crash. The oldest goes when there is no
//! room. A history that fails ends, and what it belongs to goes on without: it is told once and made anew at the next start.
//!
//! Everything in the ring is a record of a chunk. *Marks* are the moments, and the records after a mark are what was
//! overwritten between that moment and the next. Chunks are of the format of a journal's, so that the search for the head,
//! the tail and `farside inspect` are those of a journal.

mod files;
mod index;
mod opening;
mod ring;
mod view;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod hardship_tests;

pub use files::keep_history;
pub use index::Moment;
pub use view::View;

use crate::device::Device;
use crate::error::StorageError;
use crate::journal::Journal;
use farside_protocol::journal::{ChainPoint, Superblock};
use index::Index;
use parking_lot::Mutex;
use ring::Writer;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use opening::format_history;

/// The ring of one image.
#[derive(Debug)]
pub struct History {
    journal: Journal,
    /// Before `index`.
    writer: Mutex<Writer>,
    index: Mutex<Index>,
    failure: Mutex<Option<String>>,
    /// Address in the owning journal up to which nothing is told: see [`covered`](Self::covered).
    covered: AtomicU64,
}

/// Where the image is when a mark is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The last record in the image, its sealing time, and the address behind it.
    pub point: ChainPoint,
    /// Whether that is a state that the volume had.
    pub settled: bool,
}

/// What a history can say of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryState {
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Bytes of it in use.
    pub used_bytes: u64,
    /// The oldest moment that can be viewed.
    pub oldest: Option<Moment>,
    /// The newest.
    pub newest: Option<Moment>,
    /// Why it has ended, if it has.
    pub failure: Option<String>,
}

/// A moment that is kept for as long as the ring has room for what came after it.
#[derive(Debug)]
pub struct Pin {
    history: Arc<History>,
    pin: u64,
    moment: Moment,
}

impl Pin {
    /// The moment.
    #[must_use]
    pub fn moment(&self) -> &Moment {
        &self.moment
    }

    /// Whether the moment is still there.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.history.index.lock().is_pinned(self.pin)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.history.index.lock().unpin(self.pin);
    }
}

impl History {
    /// What it says of itself. Never waits for a disk.
    #[must_use]
    pub fn state(&self) -> HistoryState {
        let failure = self.failure.lock().clone();
        let index = self.index.lock();
        let tail = index.segments.front().map(|segment| segment.number);
        let (tail, head) = (
            tail.map_or(0, |number| self.journal.layout.segment_start(number)),
            index.segments.back().map_or(0, |last| last.number + 1),
        );
        HistoryState {
            ring_bytes: self.journal.layout.ring_bytes(),
            used_bytes: self.journal.layout.segment_start(head).saturating_sub(tail),
            oldest: index.moments().next().copied(),
            newest: index.moments().next_back().copied(),
            failure,
        }
    }

    /// The newest moment for which `wanted` holds.
    fn newest_that(&self, wanted: impl Fn(&Moment) -> bool) -> Option<Moment> {
        self.index
            .lock()
            .moments()
            .rev()
            .find(|moment| wanted(moment))
            .copied()
    }

    /// The newest moments, newest first, `count` at most; with `until`, this one and those before it.
    #[must_use]
    pub fn newest(&self, until: Option<&Moment>, count: usize) -> Vec<Moment> {
        let index = self.index.lock();
        let last = until.map_or(u64::MAX, |moment| moment.serial);
        let moments = index.moments().rev().filter(|moment| moment.serial <= last);
        moments.take(count).copied().collect()
    }

    /// The newest moment not after this record.
    #[must_use]
    pub fn at_record(&self, record: u64) -> Option<Moment> {
        self.newest_that(|moment| moment.record <= record)
    }

    /// The newest moment not after this time, in microseconds since 1970.
    #[must_use]
    pub fn at_time(&self, time_us: u64) -> Option<Moment> {
        self.newest_that(|moment| moment.time_us <= time_us)
    }

    /// The moment that was given before, also one that the image has not been brought to again yet.
    #[must_use]
    pub fn again(&self, serial: u64, record: u64) -> Option<Moment> {
        self.index
            .lock()
            .known(serial)
            .filter(|moment| moment.record == record)
    }

    /// Keeps a moment; `None` if it is gone.
    #[must_use]
    pub fn pin(self: &Arc<Self>, moment: &Moment) -> Option<Pin> {
        let pin = self.index.lock().pin(moment)?;
        Some(Pin {
            history: self.clone(),
            pin,
            moment: *moment,
        })
    }

    /// The ranges that were overwritten between two moments, whether with the same content or not. `None`: one of them is
    /// gone.
    #[must_use]
    pub fn changed(&self, from: &Moment, to: &Moment) -> Option<Vec<Range<u64>>> {
        let index = self.index.lock();
        index.known(from.serial)?;
        index.known(to.serial)?;
        Some(index.changed(from.serial, to.serial))
    }

    /// The image is where the newest mark says: what was marked can be viewed.
    pub(crate) fn reveal(&self) {
        let last = self.writer.lock().head.record;
        self.index.lock().visible = last;
    }

    /// Whether there is anything to keep.
    pub(crate) fn has_moments(&self) -> bool {
        self.index.lock().has_settled()
    }

    /// Bytes of its ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.journal.layout.ring_bytes()
    }

    /// Address in the owning journal: what lies before it has been told of already, or may have been in the image before
    /// this history began.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.covered.load(Ordering::Acquire)
    }

    /// How often the image was found to be older than this history. Whoever overwrites the image says so first.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.writer.lock().superblock.history_line
    }

    /// Whether something is being put into the ring at this moment.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.writer.is_locked()
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.failure.lock().is_none()
    }

    /// Ends it: nothing of it can be relied on any more, because something was overwritten without it.
    pub fn fail(&self, error: &StorageError) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(
                "the history ends, mirroring goes on without it: {error}; a restart begins a new one"
            );
            *failure = Some(error.to_string());
            drop(failure);
            self.index.lock().clear();
        }
    }

    /// Where the ring is.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.journal.device
    }

    /// Geometry and identity of the ring.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.writer.lock().superblock.clone()
    }
}
