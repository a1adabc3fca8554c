//! One sender per replica: who holds which, and when a newer connection of the same unit takes over.
//!
//! Guarantees: between two claims of one replica the first is dropped, which its session does only when no
//! task of it is left. Two running copies of one unit never take a replica from each other while the one that
//! has it is alive.

use super::door::PairedUnit;
use super::life::Life;
use crate::limits::TAKE_OVER_WAIT_MS;
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Who sends to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) unit: Uuid,
    /// One start of the unit's process.
    pub(super) instance: Uuid,
    pub(super) unit_name: String,
    pub(super) volume: Uuid,
    pub(super) address: SocketAddr,
    /// The name under which it is paired here; `None`: it proved nothing.
    pub(super) paired_with: Option<String>,
}

#[derive(Debug)]
struct Entry {
    holder: Holder,
    life: Arc<Life>,
    cancel: watch::Sender<bool>,
    /// Closed when the claim is dropped.
    ended: watch::Receiver<()>,
    number: u64,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<String, Entry>,
    next: u64,
}

/// The claims of one receiver.
#[derive(Debug, Clone, Default)]
pub(super) struct Admission {
    table: Arc<Mutex<Table>>,
}

/// The right to write to a replica, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    table: Arc<Mutex<Table>>,
    name: String,
    number: u64,
    life: Arc<Life>,
    cancelled: watch::Receiver<bool>,
    _ended: watch::Sender<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table
            .entries
            .get(&self.name)
            .is_some_and(|entry| entry.number == self.number)
        {
            table.entries.remove(&self.name);
        }
    }
}

impl Claim {
    /// True once a newer connection wants this replica.
    pub(super) fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancelled.clone()
    }

    /// Where the session notes that its sender is alive.
    pub(super) fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life)
    }
}

impl Admission {
    /// Claims the replica of `hello`; ends an older session of the same unit first, if it is of the same process
    /// or its sender is silent.
    pub(super) async fn claim(
        &self,
        hello: &Hello,
        address: SocketAddr,
        unit: Option<&PairedUnit>,
    ) -> Result<Claim, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(TAKE_OVER_WAIT_MS);
        loop {
            let mut ended = match self.try_claim(hello, address, unit)? {
                Ok(claim) => return Ok(claim),
                Err(ended) => ended,
            };
            let over = timeout_at(deadline, async { while ended.changed().await.is_ok() {} });
            if over.await.is_err() {
                let text = format!(
                    "an older session of this unit for '{}' is still ending; the sender should try again",
                    hello.volume_name
                );
                return Err(Refusal::new(RefuseCode::Busy, 0, &text));
            }
        }
    }

    /// The claim, or what to wait for after the older session was told to end.
    fn try_claim(
        &self,
        hello: &Hello,
        address: SocketAddr,
        unit: Option<&PairedUnit>,
    ) -> Result<Result<Claim, watch::Receiver<()>>, Refusal> {
        let mut table = self.table.lock();
        if let Some(entry) = table.entries.get(&hello.volume_name) {
            if entry.holder.unit != hello.unit || entry.holder.volume != hello.volume {
                return Err(second_sender(hello, &entry.holder));
            }
            // Another process may be the unit started again, whose old connection nobody closed, or a copy of
            // its directory that runs beside it. Only the second leaves the holder alive.
            if entry.holder.instance != hello.instance && entry.life.is_recent() {
                return Err(second_copy(hello, &entry.holder));
            }
            entry.cancel.send_replace(true);
            return Ok(Err(entry.ended.clone()));
        }
        table.next = table.next.saturating_add(1);
        let number = table.next;
        let (cancel, cancelled) = watch::channel(false);
        let (ended_sender, ended) = watch::channel(());
        let holder = Holder {
            unit: hello.unit,
            instance: hello.instance,
            unit_name: hello.unit_name.clone(),
            volume: hello.volume,
            address,
            paired_with: unit.map(|unit| unit.name.clone()),
        };
        let life = Arc::new(Life::new());
        let entry = Entry {
            holder,
            life: Arc::clone(&life),
            cancel,
            ended,
            number,
        };
        table.entries.insert(hello.volume_name.clone(), entry);
        Ok(Ok(Claim {
            table: Arc::clone(&self.table),
            name: hello.volume_name.clone(),
            number,
            life,
            cancelled,
            _ended: ended_sender,
        }))
    }

    /// Who sends to which replica now.
    pub(super) fn holders(&self) -> Vec<(String, Holder)> {
        let table = self.table.lock();
        let mut all: Vec<_> = table
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.holder.clone()))
            .collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

fn second_sender(hello: &Hello, holder: &Holder) -> Refusal {
    let text = format!(
        "replica '{}' is being sent to by unit '{}' at {}; stop that one first, or give this volume another name",
        hello.volume_name, holder.unit_name, holder.address
    );
    Refusal::new(RefuseCode::SecondSender, 0, &text)
}

fn second_copy(hello: &Hello, holder: &Holder) -> Refusal {
    let text = format!(
        "replica '{}' is being sent to by another running copy of the same unit '{}' at {}; two units must not share \
         one identity: stop one of them. A unit that was only restarted gets in by itself within seconds",
        hello.volume_name, holder.unit_name, holder.address
    );
    Refusal::new(RefuseCode::SecondSender, 0, &text)
}
