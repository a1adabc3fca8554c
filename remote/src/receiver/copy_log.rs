//! Says in the log when a copy of a replica begins, goes on, and is complete.

use parking_lot::Mutex;
use tokio::time::Instant;

/// One session's copy, if there is one.
#[derive(Debug)]
pub(super) struct CopyLog {
    replica: String,
    sender: String,
    bytes: u64,
    under_way: Mutex<Option<Instant>>,
}

impl CopyLog {
    pub(super) fn new(replica: &str, sender: &str, bytes: u64) -> Self {
        Self {
            replica: replica.to_owned(),
            sender: sender.to_owned(),
            bytes,
            under_way: Mutex::new(None),
        }
    }

    /// The replica was reset.
    pub(super) fn began(&self) {
        *self.under_way.lock() = Some(Instant::now());
        let (replica, sender, bytes) = (&self.replica, &self.sender, self.bytes);
        tracing::info!(
            replica,
            sender,
            bytes,
            "copy begins; until it is complete the replica itself is no state of the volume"
        );
    }

    /// A part of the image, or its end, came: an earlier copy goes on if none was begun here.
    pub(super) fn goes_on(&self, continued_at: u64) {
        let mut under_way = self.under_way.lock();
        if under_way.is_none() {
            *under_way = Some(Instant::now());
            let (replica, sender, bytes) = (&self.replica, &self.sender, self.bytes);
            tracing::info!(replica, sender, bytes, continued_at, "interrupted copy goes on");
        }
    }

    /// Whether [`complete`](Self::complete) is to be called. Asked before the state of the replica is read.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.lock().is_some()
    }

    /// The replica is complete.
    pub(super) fn complete(&self) {
        if let Some(began) = self.under_way.lock().take() {
            let (replica, sender, bytes) = (&self.replica, &self.sender, self.bytes);
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(replica, sender, bytes, seconds, "copy is complete");
        }
    }
}
