//! The full feature phase of one connection, which is all of its session (RFC 7143, section 4).
//!
//! One loop: gather what was received, send changes on their way to the journal, then wait for whatever comes first of the
//! journal, commands that take their time, room to send, and new messages. Nothing in it waits for one thing only. When a
//! session ends, however it does, its changes have been made or are never made: the next session may rely on that.

use super::fault::Fault;
use super::functions::Function;
use super::lane::{Lane, Settled};
use super::limits::{ANSWER, COMMANDS, IDLE, LAST_WORDS, LOGOUT};
use super::pace::Carried;
use super::parameters::Parameters;
use super::portals::Portals;
use super::progress::{End, Finished, Progress};
use super::queue::{Queue, Turn};
use super::receiver::{Pdu, Receiver};
use super::sender::Sender;
use super::sessions::Session;
use super::task::Task;
use crate::targets::limits::{LINGER, OUTPUT_BYTES, RECEIVE_BYTES};
use crate::targets::lone::{LoneHost, Round};
use crate::targets::scsi::Later;
use crate::targets::{Exports, Stream};
use farside_protocol::iscsi::{AsyncEvent, NO_TAG, RejectReason, RequestKind, async_message, nop_in};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

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
    pub(super) units: BTreeMap<u64, Lane<E::Disk>>,
    pub(super) tasks: HashMap<u32, Progress>,
    /// Messages whose turn has not come.
    pub(super) queue: Queue,
    /// What was carried out since the last look.
    pub(super) carried: Carried,
    pub(super) lone: LoneHost,
    /// Messages were left in the receive buffer because a limit was reached.
    stopped: bool,
    /// A command that all others wait for.
    pub(super) ordered: Option<u32>,
    /// The initiator has asked to log out: nothing more is taken.
    pub(super) is_leaving: bool,
    pub(super) functions: Vec<Function>,
    /// Room to collect in.
    collected: Vec<Settled>,
    pub(super) running: JoinSet<Finished>,
    /// Bytes that commands hold.
    pub(super) held_bytes: u64,
    /// Commands that wait to ask for their data.
    pub(super) to_ask: VecDeque<u32>,
    /// Reads that wait to begin, with their lengths.
    pub(super) to_read: VecDeque<(u32, Task, Later)>,
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
            queue: Queue::default(),
            carried: Carried::default(),
            lone: LoneHost::default(),
            stopped: false,
            ordered: None,
            is_leaving: false,
            functions: Vec::new(),
            collected: Vec::new(),
            running: JoinSet::new(),
            held_bytes: 0,
            to_ask: VecDeque::new(),
            to_read: VecDeque::new(),
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
        let ended = self.serve(shutdown).await;
        self.see_through().await;
        match ended {
            // What is under way is lost with the session; what was answered is still told, if that can be done at once.
            Ok(End::Replaced) => {
                let said = poll_fn(|context| self.sender.output.poll_send(&mut self.stream, context));
                let _ = timeout(LAST_WORDS, said).await;
            }
            Ok(end) => self.close(end).await,
            Err(_) => {}
        }
        ended
    }

    /// Aborts what has not begun to change anything, and waits for what has.
    async fn see_through(&mut self) {
        let lanes = self.units.values();
        let seats: Vec<_> = lanes
            .inspect(|lane| lane.seat.abort())
            .map(|lane| Arc::clone(&lane.seat))
            .collect();
        // All at once: others may wait for any of them.
        let all_through = poll_fn(|context| {
            let waiting = self.units.values_mut().map(|lane| lane.poll_through(context));
            if waiting.filter(Poll::is_pending).count() > 0 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        all_through.await;
        for seat in seats {
            seat.settle().await;
        }
    }

    async fn serve(&mut self, shutdown: &CancellationToken) -> Result<End, Fault> {
        let replaced = self.session.end.clone();
        let mut cancelled = pin!(shutdown.cancelled());
        let mut replaced = pin!(replaced.cancelled());
        loop {
            self.gather()?;
            let round = self.round();
            self.lone.note(round);
            self.commit();
            if round != Round::Nothing && self.lone.may_wait() {
                self.flush_here().await?;
            }
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
            if let Some(end) = finished {
                return Ok(end);
            }
        }
    }

    /// Takes every complete message the limits allow. Behind a command that has to wait, data and what is immediate go on: it
    /// may be just that which it waits for.
    fn gather(&mut self) -> Result<(), Fault> {
        while self.end.is_none() && !self.is_leaving && !self.is_full() {
            let is_blocked = match self.queue.front() {
                Some(next) if self.must_wait(&next.pdu) => true,
                Some(_) => {
                    if let Some(next) = self.queue.pop() {
                        self.accept(next)?;
                    }
                    continue;
                }
                None => false,
            };
            let Some(pdu) = self.receiver.take()? else {
                return Ok(());
            };
            let goes_on = pdu.request.immediate || matches!(pdu.request.kind, RequestKind::DataOut(_));
            if self.must_wait(&pdu) || (is_blocked && !goes_on) {
                self.wait(pdu);
            } else {
                self.accept(Turn::now(pdu))?;
            }
        }
        // There may be more complete messages.
        self.stopped = self.is_full();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.sender.output.len() >= OUTPUT_BYTES
    }

    /// Keeps a message until its turn comes.
    fn wait(&mut self, pdu: Pdu) {
        if !pdu.request.immediate && !self.is_in_window(&pdu) {
            return;
        }
        if self.queue.is_full() {
            // Of those with numbers the window has no more: this one has another's.
            if pdu.request.immediate {
                self.reject(&pdu, RejectReason::TooManyImmediate);
            }
            return;
        }
        let turn = self.turn(pdu);
        self.queue.push(turn);
    }

    fn ahead(&self, pdu: &Pdu) -> u32 {
        pdu.request.command_number.wrapping_sub(self.sender.expected)
    }

    fn is_in_window(&self, pdu: &Pdu) -> bool {
        self.ahead(pdu) < self.sender.command_room()
    }

    /// Whether a message can only be looked at when commands before it are over: an ordered command comes after all older ones
    /// and before all younger ones.
    fn must_wait(&self, pdu: &Pdu) -> bool {
        match &pdu.request.kind {
            RequestKind::Command(command) => {
                self.ordered.is_some() || (command.attribute == ORDERED && !self.tasks.is_empty())
            }
            _ => false,
        }
    }

    /// Messages in the order of their numbers (section 4.2.2.1).
    fn accept(&mut self, turn: Turn) -> Result<(), Fault> {
        let pdu = &turn.pdu;
        if matches!(pdu.request.kind, RequestKind::DataOut(_) | RequestKind::Snack) || pdu.request.immediate {
            return self.handle(turn);
        }
        if !self.is_in_window(pdu) {
            // Or again: silently ignored.
            return Ok(());
        }
        if self.ahead(pdu) > 0 {
            let turn = if turn.has_waited {
                turn
            } else {
                self.turn(turn.pdu)
            };
            self.queue.hold(turn);
            return Ok(());
        }
        self.sender.expected = self.sender.expected.wrapping_add(1);
        self.handle(turn)?;
        self.release();
        Ok(())
    }

    /// What waited for the number that is next now comes next.
    pub(super) fn release(&mut self) {
        while self.queue.release(self.sender.expected) {
            self.sender.expected = self.sender.expected.wrapping_add(1);
        }
    }

    /// Sends what was collected for each unit on its way to the journal.
    fn commit(&mut self) {
        self.units.values_mut().for_each(Lane::commit);
    }

    /// Resolves when there is something to gather (`None`) or all is answered after the end (`Some`).
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<End>, Fault>> {
        self.poll_progress(context)?;
        if self.units.values().any(Lane::is_ready) {
            return Poll::Ready(Ok(None));
        }
        if let Some(end) = self.end {
            return match (self.tasks.is_empty(), self.sender.output.is_sent()) {
                (true, true) => Poll::Ready(Ok(Some(end))),
                // Nobody takes the last answers.
                (true, false) if self.poll_silence(context) => Poll::Ready(Err(Fault::Silent)),
                _ => Poll::Pending,
            };
        }
        if self.poll_alarm(context)? {
            return Poll::Ready(Ok(None));
        }
        if self.is_full() || self.is_leaving {
            return Poll::Pending;
        }
        if std::mem::take(&mut self.stopped) {
            return Poll::Ready(Ok(None));
        }
        if self.queue.front().is_some_and(|next| !self.must_wait(&next.pdu)) {
            return Poll::Ready(Ok(None));
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

    /// Whether nothing has been heard for long.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> bool {
        self.alarm.as_mut().reset(self.heard + IDLE);
        self.alarm.as_mut().poll(context).is_ready()
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
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            self.collect_finished(context)?;
            self.collect_settled(context);
            if let Poll::Ready(Err(lost)) = self.sender.output.poll_send(&mut self.stream, context) {
                return Err(lost.into());
            }
            let waiting = self.to_read.len();
            self.read_next();
            if self.to_read.len() == waiting {
                return Ok(());
            }
            // What has just begun has to be waited for, too.
        }
    }

    fn collect_finished(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        while let Poll::Ready(Some(joined)) = self.running.poll_join_next(context) {
            match joined.map_err(|_| Fault::TaskLost)? {
                Finished::Command(task, answer) => self.settle(*task, answer),
                Finished::Managed { tag } => self.settled(tag),
                Finished::Swept(lun) => {
                    self.watch(lun);
                    self.purge(lun);
                }
                Finished::Gone(lun) => self.close_unit(lun),
            }
        }
        Ok(())
    }

    fn collect_settled(&mut self, context: &mut Context<'_>) {
        let mut settled = std::mem::take(&mut self.collected);
        for lane in self.units.values_mut() {
            lane.poll(context, &mut settled);
        }
        for (task, answer) in settled.drain(..) {
            self.reply(task, answer);
        }
        self.collected = settled;
        self.forget_units();
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
