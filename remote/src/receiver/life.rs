//! Whether the sender of a session showed life lately.
//!
//! A sender says something every second. While the session itself is busy with the replica it reads nothing, so
//! that time counts as life: the silence would not be the sender's.

use crate::limits::HOLDER_SILENT_MS;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Written by the session, read by whoever wants its place.
#[derive(Debug)]
pub(super) struct Life {
    /// When something was last heard; `None` while the session does not listen.
    heard: Mutex<Option<Instant>>,
}

impl Life {
    /// Of a session that does not listen yet.
    pub(super) fn new() -> Self {
        Self {
            heard: Mutex::new(None),
        }
    }

    /// The session listens, or just heard something.
    pub(super) fn heard(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// The session does something else for a while.
    pub(super) fn busy(&self) {
        *self.heard.lock() = None;
    }

    /// Whether it may be alive, as far as anybody can know.
    pub(super) fn is_recent(&self) -> bool {
        let limit = Duration::from_millis(HOLDER_SILENT_MS);
        self.heard.lock().is_none_or(|heard| heard.elapsed() < limit)
    }
}
