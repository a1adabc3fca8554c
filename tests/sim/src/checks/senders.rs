//! One sender per replica: a session gets a replica only when nothing is left of the one that had it before. And in confirmed mode nothing
//! counts at a replica, over all its lives, that the sender did not confirm.
//!
//! What two of them would do to each other is mostly undone by what replica and links check besides, so that nobody
//! would see it in the end.

use crate::stats::happened;
use farside_protocol::journal::ChainPoint;
use farside_protocol::link::limits::SIGNATURE_BYTES;
use farside_remote::{Replica, Sink, SinkError, SinkState};
use farside_storage::ReadBack;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// The sessions that write to the replicas of a process, by volume.
#[derive(Debug, Default)]
pub struct Senders(Mutex<BTreeMap<String, Weak<Sender>>>);

/// A replica as one session has it.
#[derive(Debug)]
pub struct Sender(Arc<Replica>, Arc<Mutex<Confirmed>>);

/// What the sender of a replica may have confirmed at most.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// Whether anything has to be.
    wanted: bool,
    record: u64,
}

impl Confirmed {
    fn check(&self, state: &SinkState) {
        let counts = state.received.record.max(state.applied);
        assert!(
            !self.wanted || counts <= self.record,
            "record {counts} counts at the replica, and {} is confirmed",
            self.record
        );
    }
}

impl Senders {
    /// A session gets this replica.
    ///
    /// # Panics
    /// When another one still has it.
    pub fn admit(
        &self,
        volume: &str,
        replica: Arc<Replica>,
        confirmed: Arc<Mutex<Confirmed>>,
    ) -> Arc<Sender> {
        let sender = Arc::new(Sender(replica, confirmed));
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
        let state = self.0.state();
        self.1.lock().check(&state);
        state
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    async fn settle(&self) -> Result<SinkState, SinkError> {
        let state = self.0.settle().await?;
        self.1.lock().check(&state);
        Ok(state)
    }

    async fn set_confirms(&self, confirms: bool) -> Result<(), SinkError> {
        self.0.set_confirms(confirms).await?;
        *self.1.lock() = Confirmed {
            wanted: confirms,
            record: self.0.state().received.record,
        };
        if confirms {
            happened("links in confirmed mode");
        }
        Ok(())
    }

    async fn read_back(
        &self,
        after: ChainPoint,
    ) -> Result<Option<ReadBack<[u8; SIGNATURE_BYTES]>>, SinkError> {
        self.0.read_back(after).await
    }

    async fn confirm(&self, point: ChainPoint) -> Result<(), SinkError> {
        self.1.lock().record = point.record;
        self.0.confirm(point).await
    }

    async fn begin_copy(&self, base: ChainPoint, copy_id: u32) -> Result<(), SinkError> {
        {
            let mut confirmed = self.1.lock();
            confirmed.record = confirmed.record.max(base.record);
        }
        self.0.begin_copy(base, copy_id).await?;
        self.1.lock().record = base.record;
        Ok(())
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
