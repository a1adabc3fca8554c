//! One sender per replica: a session gets a replica only when nothing is left of the one that had it before.
//!
//! What two of them would do to each other is mostly undone by what replica and links check besides, so that nobody
//! would see it in the end.

use farside_protocol::journal::ChainPoint;
use farside_remote::{Replica, Sink, SinkError, SinkState};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// The sessions that write to the replicas of a process, by volume.
#[derive(Debug, Default)]
pub struct Senders(Mutex<BTreeMap<String, Weak<Sender>>>);

/// A replica as one session has it.
#[derive(Debug)]
pub struct Sender(Arc<Replica>);

impl Senders {
    /// A session gets this replica.
    ///
    /// # Panics
    /// When another one still has it.
    pub fn admit(&self, volume: &str, replica: Arc<Replica>) -> Arc<Sender> {
        let sender = Arc::new(Sender(replica));
        let before = self.0.lock().insert(volume.to_owned(), Arc::downgrade(&sender));
        assert!(
            before.is_none_or(|before| before.strong_count() == 0),
            "two sessions have the replica of {volume} at once"
        );
        sender
    }
}

impl Sink for Sender {
    fn state(&self) -> SinkState {
        self.0.state()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    async fn settle(&self) -> Result<SinkState, SinkError> {
        self.0.settle().await
    }

    async fn begin_copy(&self, base: ChainPoint, copy_id: u32) -> Result<(), SinkError> {
        self.0.begin_copy(base, copy_id).await
    }

    async fn append(&self, what: &[u8], data: &[u8]) -> Result<(), SinkError> {
        self.0.append(what, data).await
    }

    async fn write_copy(&self, offset: u64, data: &[u8]) -> Result<(), SinkError> {
        self.0.write_copy(offset, data).await
    }

    async fn zero_copy(&self, offset: u64, length: u64) -> Result<(), SinkError> {
        self.0.zero_copy(offset, length).await
    }

    async fn skip_copy(&self, offset: u64, length: u64) -> Result<(), SinkError> {
        self.0.skip_copy(offset, length).await
    }

    async fn has_content(&self) -> Result<bool, SinkError> {
        self.0.has_content().await
    }

    async fn read(&self, offset: u64, length: u32, as_it_lies: bool) -> Result<Option<Vec<u8>>, SinkError> {
        self.0.read(offset, length, as_it_lies).await
    }

    async fn end_copy(&self, consistent_from: u64) -> Result<(), SinkError> {
        self.0.end_copy(consistent_from).await
    }
}
