//! What was asked of a disk and what it answered, on one logical clock that all connections share.
//!
//! An operation whose answer never came has an unknown outcome: it may be in effect or not. A client that sends it
//! again keeps its number: submitted is the first sending, acknowledged the answer to the last.

use crate::limits;
use crate::world::lock;
use anyhow::{Result, bail};
use std::io::Write as _;
use std::sync::Mutex;

/// The number of an operation, from 1.
pub type OperationId = u64;
/// A moment on the logical clock; every event has its own.
pub type Time = u64;

/// What an operation leaves in its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cells with its number.
    Write,
    /// Zeroes.
    Zero,
    /// Zeroes, by trim.
    Trim,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub id: OperationId,
    /// What it does.
    pub kind: Kind,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
    /// Answered only when durable.
    pub fua: bool,
    /// When it was first sent: taken before the sending.
    pub submitted: Time,
    /// When its answer had come: taken after the receiving.
    pub acknowledged: Option<Time>,
}

impl Operation {
    /// One byte past its end.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Whether its own answer said that it is on stable storage.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.fua && self.acknowledged.is_some()
    }

    /// Whether this one was over before `other` began: then no history can have them the other way round.
    #[must_use]
    pub fn surely_before(&self, other: &Self) -> bool {
        self.acknowledged.is_some_and(|over| over < other.submitted)
    }
}

#[derive(Debug, Default)]
struct Inner {
    clock: Time,
    operations: Vec<Operation>,
    flushed: Time,
    flushes: u64,
    log: Option<std::fs::File>,
}

impl Inner {
    fn tick(&mut self) -> Time {
        self.clock += 1;
        self.clock
    }

    fn note(&mut self, line: &str) {
        if let Some(log) = &mut self.log {
            // The log helps people; a full disk under it must not change the test.
            let _ = writeln!(log, "{line}");
        }
    }
}

/// The history of one disk. Shared by all its writers.
#[derive(Debug)]
pub struct History {
    seed: u64,
    inner: Mutex<Inner>,
}

/// A history as it was at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The seed in every cell.
    pub seed: u64,
    /// The operations by number: number `n` is at `n - 1`.
    pub operations: Vec<Operation>,
    /// Everything acknowledged before this moment was covered by an acknowledged flush.
    pub flushed: Time,
    /// The moment of the snapshot.
    pub now: Time,
}

impl History {
    /// An empty history; `seed` goes into every cell.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            inner: Mutex::default(),
        }
    }

    /// The same, and every event also goes to a file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn logged(seed: u64, path: &std::path::Path) -> Result<Self> {
        let history = Self::new(seed);
        lock(&history.inner).log = Some(std::fs::File::create(path)?);
        Ok(history)
    }

    /// The seed in every cell.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Notes that an operation is about to be sent.
    ///
    /// # Errors
    /// When the history is full.
    pub fn submit(&self, kind: Kind, offset: u64, length: u32, fua: bool) -> Result<Operation> {
        let mut inner = lock(&self.inner);
        if inner.operations.len() >= limits::HISTORY_OPERATIONS {
            bail!("the history is full: {} operations", limits::HISTORY_OPERATIONS);
        }
        let submitted = inner.tick();
        let id = inner.operations.len() as OperationId + 1;
        let operation = Operation {
            id,
            kind,
            offset,
            length,
            fua,
            submitted,
            acknowledged: None,
        };
        inner.operations.push(operation);
        inner.note(&format!(
            "{submitted} submit {id} {kind:?} {offset} {length} fua={fua}"
        ));
        Ok(operation)
    }

    /// Notes that the answer to an operation has come.
    pub fn acknowledge(&self, id: OperationId) {
        let mut inner = lock(&self.inner);
        let time = inner.tick();
        let at = usize::try_from(id.wrapping_sub(1)).unwrap_or(usize::MAX);
        if let Some(operation) = inner.operations.get_mut(at) {
            operation.acknowledged = Some(time);
        }
        inner.note(&format!("{time} acknowledge {id}"));
    }

    /// Notes that a flush is about to be sent; the moment goes to `flush_acknowledged`.
    pub fn flush_submitted(&self) -> Time {
        lock(&self.inner).tick()
    }

    /// Notes that the flush submitted at that moment was answered.
    pub fn flush_acknowledged(&self, submitted: Time) {
        let mut inner = lock(&self.inner);
        inner.flushed = inner.flushed.max(submitted);
        inner.flushes += 1;
        inner.note(&format!("flush of everything acknowledged before {submitted}"));
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        lock(&self.inner).tick()
    }

    /// Number of operations, of those acknowledged, and of flushes.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let inner = lock(&self.inner);
        let acknowledged = inner
            .operations
            .iter()
            .filter(|operation| operation.acknowledged.is_some())
            .count();
        (inner.operations.len() as u64, acknowledged as u64, inner.flushes)
    }

    /// The history so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut inner = lock(&self.inner);
        let now = inner.tick();
        Snapshot {
            seed: self.seed,
            operations: inner.operations.clone(),
            flushed: inner.flushed,
            now,
        }
    }
}

impl Snapshot {
    /// Everything acknowledged before this moment was said to be on stable storage, by a flush or a FUA write.
    #[must_use]
    pub fn durable(&self) -> Time {
        let writes = self.operations.iter().filter(|operation| operation.is_durable());
        let newest = writes.map(|operation| operation.submitted).max();
        self.flushed.max(newest.unwrap_or(0))
    }

    /// An operation by its number.
    #[must_use]
    pub fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.operations.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }
}
