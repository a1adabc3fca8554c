//! Writes the pattern through several connections, many requests in flight on each, and goes on after the server died:
//! it connects again and sends what was not answered once more, as a host's block layer does.

use super::cell::fill;
use super::history::{History, Kind, Operation, Time};
use super::shape::Shape;
use crate::client::BlockClient;
use crate::clock::{Seen, now, wait_until};
use crate::limits;
use crate::nbd::{Endpoint, Request, ServerError, command, flags};
use crate::random::Random;
use anyhow::{Result, anyhow, bail};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a writer writes.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Where the server is; it must stay there when it is started again.
    pub endpoint: Endpoint,
    /// The export.
    pub export: String,
    /// Number of connections, each with its own thread.
    pub connections: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// What to write.
    pub shape: Shape,
    /// At most so many operations a second on each connection, so that histories stay checkable; 0 is no limit.
    pub per_second: u32,
    /// Seed of the choices.
    pub seed: u64,
}

impl WriterOptions {
    /// Four connections of depth 8 over the whole disk.
    #[must_use]
    pub fn new(endpoint: Endpoint, export: &str, size_bytes: u64, seed: u64) -> Self {
        let shape = match endpoint {
            Endpoint::Iscsi(_) => Shape::sectors(size_bytes),
            _ => Shape::whole(size_bytes),
        };
        Self {
            endpoint,
            export: export.to_owned(),
            connections: 4,
            depth: 8,
            shape,
            per_second: 1000,
            seed,
        }
    }
}

/// What a writer has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterTotals {
    /// Operations answered.
    pub acknowledged: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Times a connection had to be made again.
    pub reconnects: u64,
}

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const ABANDON: u8 = 2;

#[derive(Debug, Default)]
struct Shared {
    orders: AtomicU8,
    acknowledged: AtomicU64,
    flushes: AtomicU64,
    reconnects: AtomicU64,
    problem: OnceLock<String>,
}

/// A running writer. Dropping it abandons what is in flight.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl Writer {
    /// Starts the connections.
    #[must_use]
    pub fn start(history: &Arc<History>, options: &WriterOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let mut seeds = Random::new(options.seed);
        let start = |_| {
            let worker = Worker {
                history: Arc::clone(history),
                options: options.clone(),
                shared: Arc::clone(&shared),
                random: Random::new(seeds.next_u64()),
                pending: BTreeMap::new(),
                again: Vec::new(),
                started: now(),
                sent: 0,
            };
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let outcome = worker.run();
                if let Err(error) = &outcome {
                    shared.problem.get_or_init(|| format!("{error:#}"));
                }
                outcome
            })
        };
        let workers = (0..options.connections).map(start).collect();
        Self { shared, workers }
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> WriterTotals {
        WriterTotals {
            acknowledged: self.shared.acknowledged.load(Ordering::SeqCst),
            flushes: self.shared.flushes.load(Ordering::SeqCst),
            reconnects: self.shared.reconnects.load(Ordering::SeqCst),
        }
    }

    /// Waits until so many more operations were answered: the host goes on.
    ///
    /// # Errors
    /// When a connection gave up, or nothing goes on for too long.
    pub fn wait_progress(&self, operations: u64) -> Result<()> {
        let goal = self.totals().acknowledged + operations;
        wait_until(
            &format!("{operations} more acknowledged writes"),
            limits::RECONNECT,
            || {
                if let Some(problem) = self.shared.problem.get() {
                    bail!("a writing connection has given up: {problem}");
                }
                let totals = self.totals();
                Ok(Seen::when(totals.acknowledged >= goal, || {
                    format!("{totals:?}, wanted {goal}")
                }))
            },
        )
    }

    /// Ends after everything sent was answered.
    ///
    /// # Errors
    /// The first error any connection met.
    pub fn stop(mut self) -> Result<WriterTotals> {
        self.finish(DRAIN)?;
        Ok(self.totals())
    }

    /// Ends at once; what was not answered keeps its unknown outcome.
    ///
    /// # Errors
    /// The first error any connection met before.
    pub fn abandon(mut self) -> Result<WriterTotals> {
        self.finish(ABANDON)?;
        Ok(self.totals())
    }

    fn finish(&mut self, orders: u8) -> Result<()> {
        self.shared.orders.store(orders, Ordering::SeqCst);
        let mut first = Ok(());
        for worker in self.workers.drain(..) {
            let outcome = worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a writing thread panicked")));
            first = first.and(outcome);
        }
        first
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The outcome was asked for by `stop` or is not wanted.
        let _ = self.finish(ABANDON);
    }
}

/// A request that is in flight.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Operation(Operation),
    Flush(Time),
}

struct Worker {
    history: Arc<History>,
    options: WriterOptions,
    shared: Arc<Shared>,
    random: Random,
    pending: BTreeMap<u64, Pending>,
    again: Vec<Operation>,
    started: Instant,
    sent: u64,
}

impl Worker {
    fn orders(&self) -> u8 {
        self.shared.orders.load(Ordering::SeqCst)
    }

    fn run(mut self) -> Result<()> {
        loop {
            let Some(mut client) = self.connect()? else {
                return Ok(());
            };
            match self.serve(client.as_mut()) {
                Ok(()) => {
                    // The server may be gone already; everything was answered.
                    let _ = client.disconnect();
                    return Ok(());
                }
                Err(error) => self.lost(error)?,
            }
        }
    }

    /// Connects, as often as it takes; nothing when the writer is told to abandon its work.
    fn connect(&self) -> Result<Option<Box<dyn BlockClient>>> {
        let start = now();
        loop {
            if self.orders() == ABANDON || (self.orders() == DRAIN && self.again.is_empty()) {
                return Ok(None);
            }
            match self.options.endpoint.attach(&self.options.export) {
                Ok(client) => return Ok(Some(client)),
                Err(error) if start.elapsed() > limits::RECONNECT => {
                    bail!(
                        "no server at {:?} for {:?}: {error}",
                        self.options.endpoint,
                        start.elapsed()
                    );
                }
                Err(_) => std::thread::sleep(limits::RECONNECT_PAUSE),
            }
        }
    }

    /// Everything in flight has an unknown outcome and will be sent again; an error reply is a failed test.
    fn lost(&mut self, error: anyhow::Error) -> Result<()> {
        if self.orders() == ABANDON {
            return Ok(());
        }
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            None => return Err(error.context("the disk failed a request")),
            Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(error.context(format!("the disk did not answer for {:?}", limits::NBD_REPLY)));
            }
            Some(io::ErrorKind::InvalidData) => {
                return Err(error.context("the disk's answer breaks its protocol"));
            }
            Some(_) => {}
        }
        self.shared.reconnects.fetch_add(1, Ordering::SeqCst);
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Pending::Operation(operation) = pending {
                self.again.push(operation);
            }
        }
        // Taken from the end: the oldest goes first.
        self.again
            .sort_by_key(|operation| std::cmp::Reverse(operation.id));
        Ok(())
    }

    fn serve(&mut self, client: &mut dyn BlockClient) -> Result<()> {
        // One at a time off the list, so that a failing connection forgets nothing.
        while let Some(operation) = self.again.pop() {
            self.send(client, operation)?;
        }
        loop {
            while self.orders() == RUN && self.pending.len() < self.options.depth {
                self.pace();
                self.send_next(client)?;
            }
            if self.orders() == ABANDON || (self.orders() == DRAIN && self.pending.is_empty()) {
                return Ok(());
            }
            self.receive(client)?;
        }
    }

    fn pace(&mut self) {
        let Some(due) = (self.sent * 1000).checked_div(u64::from(self.options.per_second)) else {
            return;
        };
        let due = Duration::from_millis(due);
        // Pauses are short, so that answers are taken in time.
        let early = due.saturating_sub(self.started.elapsed());
        std::thread::sleep(early.min(Duration::from_millis(20)));
    }

    fn send_next(&mut self, client: &mut dyn BlockClient) -> Result<()> {
        self.sent += 1;
        if self.options.shape.flush_due(&mut self.random) {
            let time = self.history.flush_submitted();
            let cookie = client.submit(
                Request {
                    command: command::FLUSH,
                    ..Request::default()
                },
                &[],
            )?;
            self.pending.insert(cookie, Pending::Flush(time));
            return Ok(());
        }
        let (kind, offset, length, fua) = self.options.shape.next(&mut self.random);
        let operation = self.history.submit(kind, offset, length, fua)?;
        self.send(client, operation)
    }

    fn send(&mut self, client: &mut dyn BlockClient, operation: Operation) -> Result<()> {
        let Operation {
            id,
            kind,
            offset,
            length,
            fua,
            ..
        } = operation;
        let (command, payload) = match kind {
            Kind::Write => (command::WRITE, fill(self.history.seed(), id, offset, length)),
            Kind::Zero => (command::WRITE_ZEROES, Vec::new()),
            Kind::Trim => (command::TRIM, Vec::new()),
        };
        let flags = if fua { flags::FUA } else { 0 };
        match client.submit(
            Request {
                flags,
                command,
                offset,
                length,
                cookie: 0,
            },
            &payload,
        ) {
            Ok(cookie) => {
                self.pending.insert(cookie, Pending::Operation(operation));
                Ok(())
            }
            Err(error) => {
                self.again.push(operation);
                Err(error.into())
            }
        }
    }

    fn receive(&mut self, client: &mut dyn BlockClient) -> Result<()> {
        let reply = client.receive()?;
        let pending = self.pending.get(&reply.cookie).copied();
        let Some(pending) = pending else {
            bail!("an answer to a request that was never sent: {reply:?}")
        };
        match reply.outcome {
            Ok(_) => {}
            Err(ServerError::SHUTDOWN) => {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            Err(error) => return Err(anyhow!("{error}, to {pending:?}")),
        }
        self.pending.remove(&reply.cookie);
        match pending {
            Pending::Operation(operation) => {
                self.history.acknowledge(operation.id);
                self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Pending::Flush(time) => {
                self.history.flush_acknowledged(time);
                self.shared.flushes.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}
