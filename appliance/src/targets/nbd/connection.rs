//! The transmission phase of one connection.
//!
//! One loop: gather what was received, journal it, then wait for whatever comes first of
//! durability, a read from the disk, room to send, and new requests. At depth 1 this is one receive, one
//! journal write and one send, without a change of task.

use super::cold::ColdReads;
use super::limits::{ALLOCATION_CONTEXT, MAX_SKIPPED_BYTES};
use super::negotiation::{Fault, Session, Terms};
use super::receiver::Receiver;
use super::validate::{Task, validate};
use crate::targets::batch::{Batch, Owed};
use crate::targets::deferred::Deferred;
use crate::targets::limits::{
    BATCH_UPDATES, DEFERRED_REPLIES, INLINE_READ_BYTES, LINGER, OUTPUT_BYTES, RECEIVE_BYTES,
};
use crate::targets::lone::{LoneHost, Round};
use crate::targets::output::Output;
use crate::targets::{Disk, DiskError, Position, Stream, Update};
use bytes::Bytes;
use farside_protocol::nbd::{
    CommandFlags, Errno, MessageStyle, ReplyTo, Request, put_done, put_failure, put_read_header,
    read_header_bytes,
};
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Why a connection takes no more requests; what it has taken is still answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client sent a disconnect request or closed its side.
    Client,
    /// The unit is being shut down.
    Shutdown,
    /// The disk is being removed.
    DiskGone,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Client => "client disconnected",
            Self::Shutdown => "unit is shutting down",
            Self::DiskGone => "disk was removed",
        })
    }
}

/// Why gathering stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gathered {
    /// The next request is not complete.
    NeedsInput,
    /// A limit is reached; there may be more complete requests.
    Full,
}

/// One attached client.
pub(super) struct Connection<S, D> {
    stream: S,
    receiver: Receiver,
    batch: Batch<ReplyTo>,
    replies: Replies<D>,
    /// Requests that were taken since the last commit.
    taken: u32,
    lone: LoneHost,
}

/// Everything that is answered later than it is received. Apart from [`Connection`] so that it can go on
/// while a batch waits for the journal.
struct Replies<D> {
    disk: Arc<D>,
    terms: Terms,
    output: Output,
    deferred: Deferred<ReplyTo>,
    cold: ColdReads,
    end: Option<End>,
}

impl<S: Stream, D: Disk> Connection<S, D> {
    pub(super) fn new(stream: S, session: Session<D>) -> Self {
        let replies = Replies {
            disk: session.export.disk,
            terms: session.terms,
            output: Output::default(),
            deferred: Deferred::default(),
            cold: ColdReads::default(),
            end: None,
        };
        Self {
            stream,
            receiver: Receiver::new(session.received, session.terms.style),
            batch: Batch::default(),
            replies,
            taken: 0,
            lone: LoneHost::default(),
        }
    }

    /// Serves until the client, the unit or the disk ends it.
    ///
    /// # Errors
    /// [`Fault`] when the stream fails or the client breaks the protocol.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<End, Fault> {
        let closing = self.replies.disk.closing();
        let mut cancelled = pin!(async {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => End::Shutdown,
                () = closing.cancelled() => End::DiskGone,
            }
        });
        loop {
            let was_idle = self.replies.is_settled();
            let gathered = self.gather()?;
            let round = self.round(was_idle);
            self.lone.note(round);
            self.commit().await?;
            if self.lone.may_wait() {
                self.flush_here(round).await?;
            }
            let finished = poll_fn(|context| self.poll_event(gathered, cancelled.as_mut(), context)).await?;
            if let Some(end) = finished {
                self.close(end).await;
                return Ok(end);
            }
        }
    }

    /// What was gathered, by a connection that owed nothing before or did.
    fn round(&self, was_idle: bool) -> Round {
        match (self.taken, self.batch.updates.len(), self.batch.flushes.len()) {
            (0, ..) => Round::Nothing,
            (1, 1, _) if was_idle => Round::Change,
            (1, _, 1) if was_idle => Round::Flush,
            (1, ..) if was_idle => Round::Other,
            _ => Round::Several,
        }
    }

    /// Makes durable what a lone host waits for, or will wait for as soon as it has its reply.
    async fn flush_here(&mut self, round: Round) -> Result<(), Fault> {
        if round == Round::Nothing {
            return Ok(());
        }
        let replies = &mut self.replies;
        if replies.deferred.len() == 0 && self.lone.will_flush() {
            poll_fn(|context| Poll::Ready(replies.poll_progress(&mut self.stream, context))).await?;
        }
        if replies.deferred.len() == 1 || (self.lone.will_flush() && replies.is_settled()) {
            let begun = Instant::now();
            replies.disk.flush_here();
            self.lone.waited(begun.elapsed());
        }
        Ok(())
    }

    /// Takes every complete request the limits allow: reads are answered, changes and flushes collected.
    fn gather(&mut self) -> Result<Gathered, Fault> {
        let geometry = self.replies.disk.geometry();
        self.taken = 0;
        loop {
            if let Some((to, errno)) = self.receiver.skipped() {
                self.replies.fail(to, errno);
            }
            if self.receiver.is_skipping() || self.replies.end == Some(End::Client) {
                return Ok(Gathered::NeedsInput);
            }
            if self.is_full() {
                return Ok(Gathered::Full);
            }
            let Some(request) = self.receiver.peek()? else {
                return Ok(Gathered::NeedsInput);
            };
            match validate(&request, geometry, self.replies.terms) {
                Err(errno) => self.refuse(&request, errno)?,
                Ok(task) if request.has_payload => {
                    let payload_bytes = usize::try_from(request.length).unwrap_or(usize::MAX);
                    match self.receiver.take_payload(payload_bytes) {
                        None => return Ok(Gathered::NeedsInput),
                        Some(payload) => self.accept_payload(&request, task, payload),
                    }
                }
                Ok(task) => {
                    self.receiver.consume_header();
                    self.accept(&request, task);
                }
            }
            self.taken += 1;
        }
    }

    /// A valid request with its payload.
    fn accept_payload(&mut self, request: &Request, task: Task, payload: Bytes) {
        match task {
            Task::Write => {
                let offset = request.offset;
                self.collect(
                    request,
                    Update::Write {
                        offset,
                        data: payload,
                    },
                );
            }
            Task::BlockStatus { .. } => self.filtered_status(request, &payload),
            other => self.accept(request, other),
        }
    }

    /// A query of the block status whose payload is its length and the contexts it is about.
    fn filtered_status(&mut self, request: &Request, payload: &[u8]) {
        let to = request.reply_to();
        let Some((length, contexts)) = payload.split_first_chunk::<8>() else {
            return self.replies.fail(to, Errno::Inval);
        };
        let query = Request {
            flags: request.flags & !CommandFlags::PAYLOAD_LEN,
            length: u64::from_be_bytes(*length),
            has_payload: false,
            ..*request
        };
        match validate(&query, self.replies.disk.geometry(), self.replies.terms) {
            Ok(_) if contexts.is_empty() => self.replies.done(to),
            Ok(task) if contexts == ALLOCATION_CONTEXT.to_be_bytes() => self.accept(&query, task),
            _ => self.replies.fail(to, Errno::Inval),
        }
    }

    /// A valid request without payload.
    fn accept(&mut self, request: &Request, task: Task) {
        let (offset, length) = (request.offset, request.length);
        match task {
            Task::Read => self.replies.read(request),
            Task::Write => {
                let data = Bytes::new();
                self.collect(request, Update::Write { offset, data });
            }
            Task::Trim => self.collect(request, Update::Trim { offset, length }),
            Task::Zero { allocate } => self.collect(
                request,
                Update::Zero {
                    offset,
                    length,
                    allocate,
                },
            ),
            Task::BlockStatus { one } => self.replies.block_status(request, one),
            Task::Flush => self.batch.flushes.push(request.reply_to()),
            Task::Nothing => self.replies.done(request.reply_to()),
            Task::Disconnect => self.replies.end = Some(End::Client),
        }
    }

    fn collect(&mut self, request: &Request, update: Update) {
        self.batch
            .push(update, request.reply_to(), request.has(CommandFlags::FUA));
    }

    /// Answers an invalid request, after its payload if it has one.
    fn refuse(&mut self, request: &Request, errno: Errno) -> Result<(), Fault> {
        let to = request.reply_to();
        if !request.has_payload {
            self.receiver.consume_header();
            self.replies.fail(to, errno);
            return Ok(());
        }
        match usize::try_from(request.length) {
            Ok(payload_bytes) if payload_bytes <= MAX_SKIPPED_BYTES => {
                self.receiver.skip_payload(payload_bytes, to, errno);
                Ok(())
            }
            _ => Err(Fault::PayloadTooLong(request.length)),
        }
    }

    fn is_full(&self) -> bool {
        self.batch.is_full() || self.replies.is_full(self.batch.len())
    }

    /// Journals the collected changes as one batch and settles what they and the flushes are owed. Earlier
    /// replies go on being sent meanwhile; if that fails, the batch is still seen through.
    async fn commit(&mut self) -> Result<(), Fault> {
        let Self {
            stream,
            batch,
            replies,
            ..
        } = self;
        let mut progress = Ok(());
        if !batch.updates.is_empty() {
            let disk = Arc::clone(&replies.disk);
            let mut update = pin!(disk.update(&mut batch.updates));
            let result = poll_fn(|context| {
                let result = update.as_mut().poll(context);
                if result.is_pending() && progress.is_ok() {
                    progress = replies.poll_progress(stream, context);
                }
                result
            });
            let result = result.await;
            batch
                .replies
                .drain(..)
                .for_each(|owed| replies.settle(owed, result));
        }
        batch.forget_updates();
        if !batch.flushes.is_empty() {
            // Covers what every connection has had acknowledged: the promise of CAN_MULTI_CONN.
            let position = replies.disk.journaled();
            batch
                .flushes
                .drain(..)
                .for_each(|to| replies.deferred.push(position, to));
        }
        progress
    }

    /// Resolves when there is something to gather (`None`) or all is answered after the end (`Some`).
    fn poll_event(
        &mut self,
        gathered: Gathered,
        cancelled: Pin<&mut impl Future<Output = End>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<End>, Fault>> {
        self.replies.poll_progress(&mut self.stream, context)?;
        if gathered == Gathered::Full {
            return if self.is_full() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(None))
            };
        }
        if self.replies.end.is_none()
            && let Poll::Ready(end) = cancelled.poll(context)
        {
            self.replies.end = Some(end);
        }
        if self.replies.end.is_none() {
            match ready!(self.receiver.poll_receive(&mut self.stream, context))? {
                0 => self.replies.end = Some(End::Client),
                _ => return Poll::Ready(Ok(None)),
            }
        }
        match self.replies.end {
            Some(end) if self.replies.is_settled() => Poll::Ready(Ok(Some(end))),
            _ => Poll::Pending,
        }
    }

    /// Ends the stream so that a peer that is still sending gets the last replies instead of a reset.
    async fn close(mut self, end: End) {
        if self.stream.shutdown().await.is_err() || end == End::Client {
            return;
        }
        let mut ignored = vec![0; RECEIVE_BYTES];
        let until_closed =
            async { while self.stream.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {} };
        let _ = timeout(LINGER, until_closed).await;
    }
}

impl<D: Disk> Replies<D> {
    /// Whether no more may be taken; `collected` requests are not owed here yet.
    fn is_full(&self, collected: usize) -> bool {
        self.output.len() >= OUTPUT_BYTES
            || self.deferred.len() + collected.min(BATCH_UPDATES) >= DEFERRED_REPLIES
            || !self.cold.has_room()
    }

    fn is_settled(&self) -> bool {
        self.output.is_sent() && self.deferred.len() == 0 && self.cold.len() == 0
    }

    /// Answers a valid read from the cache, or starts it beside the connection.
    fn read(&mut self, request: &Request) {
        let style = self.terms.style;
        let length = match u32::try_from(request.length) {
            Ok(length) if length <= INLINE_READ_BYTES => length,
            _ => return self.cold.read(&self.disk, *request, style),
        };
        let header_bytes = read_header_bytes(style, length);
        let reply_bytes = header_bytes + length as usize;
        let (mut header, data) = self.output.room(reply_bytes).split_at_mut(header_bytes);
        put_read_header(&mut header, style, request.reply_to(), length);
        if data.is_empty() {
            return;
        }
        let cached = self.disk.read_cached(request.offset, data);
        if cached != Ok(true) {
            self.output.give_back(reply_bytes);
        }
        match cached {
            Ok(true) => {}
            Ok(false) => self.cold.read(&self.disk, *request, style),
            Err(error) => self.fail_disk(request.reply_to(), error),
        }
    }

    /// Starts a valid query of the block status.
    fn block_status(&mut self, request: &Request, one: bool) {
        self.cold
            .block_status(&self.disk, *request, one, self.terms.style);
    }

    /// Answers a change that was journaled or refused, or defers the answer until it is durable.
    fn settle(&mut self, owed: Owed<ReplyTo>, result: Result<Position, DiskError>) {
        match result {
            Ok(position) if owed.forced => self.deferred.push(position, owed.to),
            Ok(_) => self.done(owed.to),
            Err(error) => self.fail_disk(owed.to, error),
        }
    }

    fn done(&mut self, to: ReplyTo) {
        let style = self.terms.style;
        put_done(&mut self.output.room(style.done_bytes()), style, to);
    }

    fn fail(&mut self, to: ReplyTo, errno: Errno) {
        failed(&mut self.output, self.terms.style, to, errno);
    }

    fn fail_disk(&mut self, to: ReplyTo, error: DiskError) {
        fail_disk(&mut self.output, &mut self.end, self.terms.style, (to, error));
    }

    /// Collects what has become durable or was read, and sends what can be sent.
    fn poll_progress<S: Stream>(&mut self, stream: &mut S, context: &mut Context<'_>) -> Result<(), Fault> {
        let Self {
            disk,
            terms,
            output,
            deferred,
            cold,
            end,
        } = self;
        let style = terms.style;
        deferred.poll(disk, context, |to, result| match result {
            Ok(()) => put_done(&mut output.room(style.done_bytes()), style, to),
            Err(error) => fail_disk(output, end, style, (to, error)),
        });
        cold.poll(context, output, |output, to, error| {
            fail_disk(output, end, style, (to, error))
        })?;
        match output.poll_send(stream, context) {
            Poll::Ready(Err(lost)) => Err(lost.into()),
            _ => Ok(()),
        }
    }
}

/// Answers with the disk's error; a disk that is going away also ends the connection.
fn fail_disk(
    output: &mut Output,
    end: &mut Option<End>,
    style: MessageStyle,
    (to, error): (ReplyTo, DiskError),
) {
    let errno = match error {
        DiskError::Io => Errno::Io,
        DiskError::NoSpace => Errno::NoSpc,
        DiskError::ReadOnly => Errno::Perm,
        DiskError::ShuttingDown => {
            end.get_or_insert(End::DiskGone);
            Errno::Shutdown
        }
    };
    failed(output, style, to, errno);
}

/// Appends the failure of a command.
fn failed(output: &mut Output, style: MessageStyle, to: ReplyTo, errno: Errno) {
    let mut reply = Vec::new();
    put_failure(&mut reply, style, to, errno);
    output.room(reply.len()).copy_from_slice(&reply);
}
