//! The full feature phase of one connection, which is all of its session (RFC 7143, section 4).
//!
//! One loop, as that of the NBD target: gather what was received, journal it, then wait for whatever comes first of durability,
//! commands that take their time, room to send, and new messages.

use super::fault::Fault;
use super::limits::{ANSWER, COMMANDS, HELD_BYTES, IDLE, LAST_WORDS, LOGOUT};
use super::parameters::Parameters;
use super::receiver::{Pdu, Receiver};
use super::sender::Sender;
use super::server::Portals;
use super::sessions::Session;
use super::task::{Attached, Task};
use super::transfer::Transfer;
use crate::targets::batch::Batch;
use crate::targets::deferred::Deferred;
use crate::targets::limits::{LINGER, OUTPUT_BYTES, RECEIVE_BYTES};
use crate::targets::scsi::Answer;
use crate::targets::{Exports, Stream};
use farside_protocol::iscsi::{AsyncEvent, NO_TAG, RequestKind, TaskResponse, async_message, nop_in};
use farside_protocol::scsi::Cdb;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Why a connection takes no more messages; what it has taken is still answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The initiator logged out, or closed its side.
    Initiator,
    /// The unit is being shut down.
    Shutdown,
    /// Another session takes its place, or the target was reset.
    Replaced,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Initiator => "initiator logged out",
            Self::Shutdown => "unit is shutting down",
            Self::Replaced => "session was replaced or reset",
        })
    }
}

/// Something that took its time.
pub(super) enum Finished {
    /// A command.
    Command(Box<Task>, Answer),
    /// A task management function.
    Managed { tag: u32, answer: TaskResponse },
    /// A cold reset of the target: its sessions end.
    Reset { tag: u32 },
    /// The disk behind a logical unit goes away.
    Gone(u64),
}

/// A command that is not answered yet.
pub(super) enum Progress {
    /// Its data arrives. With an answer it was refused already, and what was sent unasked is thrown away.
    Receiving {
        task: Box<Task>,
        cdb: Option<Cdb>,
        transfer: Box<Transfer>,
        refused: Option<Answer>,
    },
    /// It is being carried out; whoever aborted it is told when it is over.
    Running { abort: Option<u32> },
}

/// A logged-in initiator.
pub(super) struct Connection<S, E: Exports> {
    pub(super) stream: S,
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
    pub(super) portals: Arc<Portals<E>>,
    pub(super) session: Session,
    pub(super) parameters: Parameters,
    pub(super) connection: u16,
    /// The address that the initiator reached.
    pub(super) local: Option<std::net::SocketAddr>,
    /// The name of its port, as SCSI has it.
    pub(super) port: String,
    pub(super) units: BTreeMap<u64, Attached<E::Disk>>,
    pub(super) tasks: HashMap<u32, Progress>,
    /// Commands that wait for those before them, by number.
    pub(super) held: BTreeMap<u32, Pdu>,
    /// A message that waits for what is under way.
    pub(super) waiting: VecDeque<Pdu>,
    /// Messages were left in the receive buffer because a limit was reached.
    stopped: bool,
    /// A command that all others wait for.
    pub(super) ordered: Option<u32>,
    pub(super) batch: Batch<Task>,
    /// The unit that the batch is for.
    pub(super) batch_lun: Option<u64>,
    pub(super) deferred: BTreeMap<u64, Deferred<(Task, Answer)>>,
    pub(super) running: JoinSet<Finished>,
    /// Bytes that commands hold, and commands that wait to ask for theirs.
    pub(super) held_bytes: u64,
    pub(super) to_ask: VecDeque<u32>,
    pub(super) next_tag: u32,
    /// The rest of a text that is too long for one message.
    pub(super) text: Vec<u8>,
    pub(super) end: Option<End>,
    heard: Instant,
    asked: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
    /// The initiator was asked to log out, and has until then.
    leave_by: Option<Instant>,
}

/// What a login leads to.
pub(super) struct Agreed {
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
    pub(super) session: Session,
    pub(super) parameters: Parameters,
    pub(super) connection: u16,
    pub(super) local: Option<std::net::SocketAddr>,
}

impl<S: Stream, E: Exports> Connection<S, E> {
    pub(super) fn new(stream: S, portals: Arc<Portals<E>>, agreed: Agreed) -> Self {
        let now = Instant::now();
        Self {
            stream,
            receiver: agreed.receiver,
            sender: agreed.sender,
            portals,
            port: agreed.session.nexus.port(),
            session: agreed.session,
            parameters: agreed.parameters,
            connection: agreed.connection,
            local: agreed.local,
            units: BTreeMap::new(),
            tasks: HashMap::new(),
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            stopped: false,
            ordered: None,
            batch: Batch::default(),
            batch_lun: None,
            deferred: BTreeMap::new(),
            running: JoinSet::new(),
            held_bytes: 0,
            to_ask: VecDeque::new(),
            next_tag: 0,
            text: Vec::new(),
            end: None,
            heard: now,
            asked: None,
            alarm: Box::pin(sleep_until(now + IDLE)),
            leave_by: None,
        }
    }

    /// Serves until the initiator, the unit or another session ends it.
    ///
    /// # Errors
    /// [`Fault`] when the stream fails or the initiator breaks the protocol beyond repair.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<End, Fault> {
        let replaced = self.session.end.clone();
        let mut cancelled = pin!(shutdown.cancelled());
        let mut replaced = pin!(replaced.cancelled());
        loop {
            self.gather()?;
            self.commit().await?;
            let finished = poll_fn(|context| {
                if replaced.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Ok(Some(End::Replaced)));
                }
                if self.leave_by.is_none() && cancelled.as_mut().poll(context).is_ready() {
                    self.ask_to_leave();
                }
                self.poll_event(context)
            })
            .await?;
            match finished {
                None => {}
                // What is under way is lost with the session; what was answered is still told, if that can be done at once.
                Some(End::Replaced) => {
                    let said = poll_fn(|context| self.sender.output.poll_send(&mut self.stream, context));
                    let _ = timeout(LAST_WORDS, said).await;
                    return Ok(End::Replaced);
                }
                Some(end) => {
                    self.close(end).await;
                    return Ok(end);
                }
            }
        }
    }

    /// Takes every complete message the limits allow. Behind a command that has to wait, data and what is immediate go on: it
    /// may be just that which it waits for.
    fn gather(&mut self) -> Result<(), Fault> {
        while self.end.is_none() && !self.is_full() {
            let is_blocked = match self.waiting.pop_front() {
                Some(next) if self.must_wait(&next) => {
                    self.waiting.push_front(next);
                    true
                }
                Some(next) => {
                    self.accept(next)?;
                    continue;
                }
                None => false,
            };
            if self.waiting.len() > COMMANDS as usize {
                return Ok(());
            }
            let Some(pdu) = self.receiver.take()? else {
                return Ok(());
            };
            let is_data = matches!(pdu.request.kind, RequestKind::DataOut(_));
            let goes_on = (is_data && !self.waits(pdu.request.task_tag)) || pdu.request.immediate;
            if self.must_wait(&pdu) {
                // What is journaled first is all that keeps a function that manages tasks.
                let is_command = matches!(pdu.request.kind, RequestKind::Command(_));
                if is_blocked && is_command {
                    self.waiting.push_back(pdu);
                } else {
                    self.waiting.push_front(pdu);
                }
                if !is_command || self.batch.len() > 0 {
                    return Ok(());
                }
            } else if is_blocked && !goes_on {
                self.waiting.push_back(pdu);
            } else {
                self.accept(pdu)?;
            }
        }
        // There may be more complete messages.
        self.stopped = self.is_full();
        Ok(())
    }

    /// Whether the command of this tag waits itself: data that comes unasked follows it.
    fn waits(&self, tag: u32) -> bool {
        self.waiting
            .iter()
            .any(|pdu| pdu.request.task_tag == tag && matches!(pdu.request.kind, RequestKind::Command(_)))
    }

    fn is_full(&self) -> bool {
        self.batch.is_full() || self.sender.output.len() >= OUTPUT_BYTES
    }

    /// Whether a message can only be looked at when what came before it is done: functions that manage tasks see those that
    /// were to be journaled, and commands keep the order that they or others ask for.
    fn must_wait(&self, pdu: &Pdu) -> bool {
        match &pdu.request.kind {
            RequestKind::Task(_) | RequestKind::Logout { .. } => self.batch.len() > 0,
            RequestKind::Command(command) => {
                let other_unit = self.batch_lun.is_some_and(|lun| lun != pdu.request.lun);
                let is_ordered = command.attribute == ORDERED && !self.tasks.is_empty();
                let is_full = self.held_bytes >= HELD_BYTES;
                other_unit || is_ordered || is_full || self.ordered.is_some()
            }
            // It may complete a command of another unit than the batch is for.
            RequestKind::DataOut(_) => match self.tasks.get(&pdu.request.task_tag) {
                Some(Progress::Receiving { task, .. }) => self.batch_lun.is_some_and(|lun| lun != task.lun),
                _ => false,
            },
            _ => false,
        }
    }

    /// Messages in the order of their numbers (section 4.2.2.1).
    fn accept(&mut self, pdu: Pdu) -> Result<(), Fault> {
        if matches!(pdu.request.kind, RequestKind::DataOut(_) | RequestKind::Snack) || pdu.request.immediate {
            return self.handle(pdu);
        }
        let ahead = pdu.request.command_number.wrapping_sub(self.sender.expected);
        if ahead >= self.sender.command_room() {
            // Outside the window, or again: silently ignored.
            return Ok(());
        }
        if ahead > 0 {
            self.held.insert(pdu.request.command_number, pdu);
            return Ok(());
        }
        self.sender.expected = self.sender.expected.wrapping_add(1);
        self.handle(pdu)?;
        if let Some(next) = self.held.remove(&self.sender.expected) {
            self.waiting.push_front(next);
        }
        Ok(())
    }

    /// Resolves when there is something to gather (`None`) or all is answered after the end (`Some`).
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<End>, Fault>> {
        self.poll_progress(context)?;
        if let Some(end) = self.end {
            let settled = self.tasks.is_empty() && self.sender.output.is_sent();
            return if settled {
                Poll::Ready(Ok(Some(end)))
            } else {
                Poll::Pending
            };
        }
        if self.poll_alarm(context)? {
            return Poll::Ready(Ok(None));
        }
        if self.is_full() {
            return Poll::Pending;
        }
        if std::mem::take(&mut self.stopped) {
            return Poll::Ready(Ok(None));
        }
        if self.waiting.front().is_some_and(|pdu| !self.must_wait(pdu)) {
            return Poll::Ready(Ok(None));
        }
        if self.waiting.len() > COMMANDS as usize {
            return Poll::Pending;
        }
        match self.receiver.poll_receive(&mut self.stream, context)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(bytes) => {
                if bytes == 0 {
                    self.end = Some(End::Initiator);
                    // Nobody is there to send the rest of it.
                    self.drop_transfers();
                }
                (self.heard, self.asked) = (Instant::now(), None);
                Poll::Ready(Ok(None))
            }
        }
    }

    /// Asks an initiator that is silent whether it is there, and lets one go that was asked to leave.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Result<bool, Fault> {
        let due = match (self.leave_by, self.asked) {
            (Some(by), _) => by,
            (None, Some(asked)) => asked + ANSWER,
            (None, None) => self.heard + IDLE,
        };
        if self.alarm.deadline() != due {
            self.alarm.as_mut().reset(due);
        }
        if self.alarm.as_mut().poll(context).is_pending() {
            return Ok(false);
        }
        if self.leave_by.is_some() {
            self.end = Some(End::Shutdown);
            self.drop_transfers();
            return Ok(true);
        }
        if self.asked.is_some() {
            return Err(Fault::Silent);
        }
        self.asked = Some(Instant::now());
        let tag = self.new_tag();
        let serial = self.sender.serial();
        self.sender.put(nop_in(NO_TAG, 0, tag, serial), &[]);
        Ok(true)
    }

    /// The unit ends: the initiator can come back to the next one as soon as it has logged out (section 11.9.1).
    fn ask_to_leave(&mut self) {
        self.leave_by = Some(Instant::now() + LOGOUT);
        let within = u16::try_from(LOGOUT.as_secs()).unwrap_or(u16::MAX);
        let serial = self.sender.status();
        let message = async_message(0, AsyncEvent::LogoutRequest { within }, serial);
        self.sender.put(message, &[]);
    }

    /// Collects what has become durable or was finished, and sends what can be sent.
    pub(super) fn poll_progress(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        while let Poll::Ready(Some(joined)) = self.running.poll_join_next(context) {
            match joined.map_err(|_| Fault::TaskLost)? {
                Finished::Command(task, answer) => self.settle(*task, answer),
                Finished::Managed { tag, answer } => self.manage_done(tag, answer),
                Finished::Reset { tag } => {
                    self.manage_done(tag, TaskResponse::Complete);
                    let target = self.session.nexus.target.clone().unwrap_or_default();
                    self.portals.sessions.end_all(&target);
                }
                Finished::Gone(lun) => self.forget_unit(lun),
            }
        }
        let mut durable = Vec::new();
        for (lun, deferred) in &mut self.deferred {
            if deferred.len() > 0
                && let Some(attached) = self.units.get(lun)
            {
                deferred.poll(attached.unit.disk(), context, |(task, answer), result| {
                    let answer = match result {
                        Ok(()) => answer,
                        Err(error) => Answer::failed(error, true),
                    };
                    durable.push((task, answer));
                });
            }
        }
        for (task, answer) in durable {
            self.reply(task, answer);
        }
        match self.sender.output.poll_send(&mut self.stream, context) {
            Poll::Ready(Err(lost)) => Err(lost.into()),
            _ => Ok(()),
        }
    }

    /// A tag that no transfer has.
    pub(super) fn new_tag(&mut self) -> u32 {
        self.next_tag = if self.next_tag >= NO_TAG - 1 {
            0
        } else {
            self.next_tag + 1
        };
        self.next_tag
    }

    /// Ends the stream so that an initiator that is still sending gets the last answers instead of a reset.
    async fn close(mut self, end: End) {
        if self.stream.shutdown().await.is_err() || end == End::Initiator {
            return;
        }
        let mut ignored = vec![0; RECEIVE_BYTES];
        let until_closed =
            async { while self.stream.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {} };
        let _ = timeout(LINGER, until_closed).await;
    }
}

/// The task attribute of commands that all older ones come before, and all younger ones after.
pub(super) const ORDERED: u8 = 2;

const _: () = assert!(COMMANDS < 1 << 31, "numbers are compared in half their range");
