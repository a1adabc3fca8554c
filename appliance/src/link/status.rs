//! What is shown of a link: one snapshot, replaced as a whole.

use farside_protocol::link::Compression;
use parking_lot::Mutex;
use std::net::SocketAddr;
use tokio::time::Instant;

/// What a link is doing: the same words as in the status of the unit.
pub use farside_protocol::control::RemoteState as LinkState;

/// Progress of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyProgress {
    /// Bytes of the image confirmed.
    pub done_bytes: u64,
    /// Bytes of the image.
    pub total_bytes: u64,
    /// Mean speed of this link connection in bytes per second.
    pub rate_bytes_per_s: u64,
}

/// What compression does for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// How.
    pub algorithm: Compression,
    /// Bytes of the stream, since the connection was made.
    pub before: u64,
    /// Bytes of it on the wire.
    pub after: u64,
}

/// A link at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkStatus {
    /// What it is doing.
    pub state: LinkState,
    /// Why, and what to do, for people.
    pub detail: String,
    /// Name of the unit at the other end, once it said so.
    pub peer_name: Option<String>,
    /// Its address while connected.
    pub peer_address: Option<SocketAddr>,
    /// Which of the configured addresses was dialled last.
    pub dialled: Option<String>,
    /// The name of the paired unit it proved to be, while connected; `None`: the link is not encrypted.
    pub paired_with: Option<String>,
    /// Nothing is sent for now: it is outside of its send windows.
    pub is_held: bool,
    /// What the remote's history can keep of what a copy overwrites, as it said last.
    pub history_room: Option<u64>,
    /// Last record sent, or known to have been; `applied <= received <= sent` at any time.
    pub sent_record: u64,
    /// Last record the remote holds durably.
    pub received_record: u64,
    /// Last record in the remote's image.
    pub applied_record: u64,
    /// Bytes sent since the link was started.
    pub sent_bytes: u64,
    /// What is saved on the way, over the present connection; `None`: nothing is compressed.
    pub compressed: Option<Compressed>,
    /// Blocks of 4 KiB sent in chunks since the link was started.
    pub sent_blocks: u64,
    /// The copy under way.
    pub copy: Option<CopyProgress>,
    /// When the remote last said where it stands, microseconds since 1970.
    pub last_ack_us: Option<u64>,
    /// The replica holds every write up to this time, microseconds since 1970. `None`: it is not complete.
    pub consistent_up_to_us: Option<u64>,
    /// How often what arrived or was held was refused as damaged, and sent again.
    pub damaged: u64,
    /// How often a connection was made.
    pub connections: u64,
}

/// What is remembered from one session to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    /// When the copy under way began, or was found by this process.
    pub(super) copy_began: Option<Instant>,
    /// The journal overflowed, and no copy was complete since.
    pub(super) overflowed: bool,
}

/// Where a sender puts its status and anybody reads it.
#[derive(Debug, Default)]
pub struct StatusCell {
    status: Mutex<LinkStatus>,
    memory: Mutex<Memory>,
}

impl StatusCell {
    /// The status now.
    #[must_use]
    pub fn snapshot(&self) -> LinkStatus {
        self.status.lock().clone()
    }

    /// Changes it, and keeps its positions in their order: what was received was sent, also before this process
    /// began to count, and what a remote claims to have applied beyond that is not believed.
    pub(super) fn update(&self, change: impl FnOnce(&mut LinkStatus)) {
        let mut status = self.status.lock();
        change(&mut status);
        status.sent_record = status.sent_record.max(status.received_record);
        status.applied_record = status.applied_record.min(status.received_record);
    }

    pub(super) fn memory(&self) -> Memory {
        *self.memory.lock()
    }

    /// A copy is under way; `anew` if it was begun just now.
    pub(super) fn copy_goes_on(&self, anew: bool) {
        let mut memory = self.memory.lock();
        if anew || memory.copy_began.is_none() {
            memory.copy_began = Some(Instant::now());
        }
    }

    /// When the copy that is complete now began.
    pub(super) fn copy_is_complete(&self) -> Option<Instant> {
        std::mem::take(&mut *self.memory.lock()).copy_began
    }

    pub(super) fn overflowed(&self) {
        self.memory.lock().overflowed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_in_order_whatever_is_put_in() {
        let cell = StatusCell::default();
        let positions = |sent, received, applied| {
            cell.update(|status| {
                (status.sent_record, status.received_record, status.applied_record) =
                    (sent, received, applied);
            });
            let status = cell.snapshot();
            (status.sent_record, status.received_record, status.applied_record)
        };
        assert_eq!(positions(2602, 2834, 2700), (2834, 2834, 2700));
        assert_eq!(positions(9, 5, u64::MAX), (9, 5, 5));
        assert_eq!(positions(3, 2, 1), (3, 2, 1));
    }
}
