//! What a sending session decides: events in, effects out, in the order of one stream.
//!
//! Guarantees: chunks are sent in journal order, each once, none before it is durable here and, during a full
//! copy, none before the image that is being copied holds it; the image is read only while it holds all that
//! was sent; no more than the window is unconfirmed; `acked <= sent <= durable` after every event.
//! Never here: sockets, clocks, files. Times are milliseconds of any clock that only rises.

use super::comparing::Comparing;
use super::copying::Copying;
use super::decide::{Decision, LocalView, decide};
use super::error::CloseReason;
use super::events::{ChunkDigest, Effect, Input, Outgoing, Progress, SessionLimits, Stage, Verdict};
use super::limits::{BATCH_CHUNKS, COPY_PIECE_BYTES};
use super::pace::Pace;
use super::session::offered;
use super::source::{ChunkSpan, Extent, InBatch, Located, Points, SourceError};
use super::verifying::Verifying;
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState};
use farside_protocol::link::limits::{
    COPY_DATA_BYTES, FEATURE_COMPARE, HEADER_BYTES, HEARTBEAT_INTERVAL_MS, HELLO_TIMEOUT_MS, SILENCE_LIMIT_MS,
};
use farside_protocol::link::{BeginCopy, Compression, Message, Refusal, RefuseCode, Verify, Welcome};
use std::collections::VecDeque;

mod acknowledged;
mod confirming;
mod pump;
mod reasons;

use confirming::{Confirming, Unacked};
use reasons::{diverged, protocol, storage, wire_bytes};

/// One session.
#[derive(Debug)]
pub struct SessionCore {
    limits: SessionLimits,
    stage: Stage,
    now_ms: u64,
    last_heard_ms: u64,
    last_written_ms: u64,
    points: Points,
    welcome: Option<Box<Welcome>>,
    sent: ChainPoint,
    acked: ChainPoint,
    unacked: VecDeque<Unacked>,
    in_flight_bytes: u64,
    confirming: Confirming,
    copying: Option<Copying>,
    /// Goes ahead of it, if the remote's image may hold something already.
    comparing: Option<Comparing>,
    /// Acknowledgements count only when they speak of the copy begun here.
    expect_begun: bool,
    chunks_next: bool,
    verifying: Verifying,
    pace: Pace,
    held: bool,
    /// A copy is needed, and is not begun while nothing may be sent: the replica would be no state of the volume meanwhile.
    copy_waits: bool,
    /// So much a batch takes that comes next and has to wait for room.
    batch_waits: Option<u64>,
    /// Of a merged batch a part was sent: nothing but the rest of it may follow.
    in_batch: bool,
    reading: bool,
    writing: bool,
    outbox: VecDeque<Outgoing>,
    progress: Progress,
}

impl SessionCore {
    /// A session that is not connected yet.
    #[must_use]
    pub fn new(limits: SessionLimits, points: Points, now_ms: u64) -> Self {
        Self {
            limits,
            stage: Stage::Greeting,
            now_ms,
            last_heard_ms: now_ms,
            last_written_ms: now_ms,
            points,
            welcome: None,
            sent: ChainPoint::default(),
            acked: ChainPoint::default(),
            unacked: VecDeque::new(),
            in_flight_bytes: 0,
            confirming: Confirming::default(),
            copying: None,
            comparing: None,
            expect_begun: false,
            chunks_next: true,
            verifying: Verifying::Idle,
            pace: Pace::new(limits.bytes_per_second, now_ms),
            held: false,
            copy_waits: false,
            batch_waits: None,
            in_batch: false,
            reading: false,
            writing: false,
            outbox: VecDeque::new(),
            progress: Progress::default(),
        }
    }

    /// Where the session is.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Whom the remote says it is, once it did.
    #[must_use]
    pub fn peer(&self) -> Option<&Welcome> {
        self.welcome.as_deref()
    }

    /// What the status shows.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            sent: self.sent,
            received: self.acked,
            copied_bytes: self.copying.as_ref().map(|copying| copying.acked_offset),
            copied_now: self.copying.as_ref().map_or(0, |copying| copying.copied),
            complete: self.stage == Stage::Streaming,
            ..self.progress.clone()
        }
    }

    /// Bytes sent and not confirmed.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// What follows the handshake is compressed like this.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.peer()
            .map_or(Compression::None, |welcome| Compression::choose(welcome.features))
    }

    /// What was sent took so many bytes less on the wire than it was counted for.
    pub fn saved(&mut self, bytes: u64) {
        self.pace.not_sent(bytes);
    }

    /// Whether nothing but heartbeats is sent for now. To be followed by an event.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether a range to be compared would be taken.
    #[must_use]
    pub fn takes_ranges(&self) -> bool {
        self.stage == Stage::Streaming && self.verifying.is_idle()
    }

    /// Takes one event; gives what has to be done because of it.
    pub fn apply(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.stage == Stage::Closed {
            return effects;
        }
        self.now_ms = now_ms.max(self.now_ms);
        match self.handle(input, &mut effects) {
            Ok(()) => self.pump(&mut effects),
            Err(reason) => self.close(reason, &mut effects),
        }
        assert!(
            self.acked.record <= self.sent.record && self.sent.record <= self.points.durable.record,
            "positions out of order: acked {} sent {} durable {}",
            self.acked.record,
            self.sent.record,
            self.points.durable.record
        );
        effects
    }

    fn close(&mut self, reason: CloseReason, effects: &mut Vec<Effect>) {
        self.stage = Stage::Closed;
        let say = match &reason {
            CloseReason::Diverged(refusal) => Some(refusal.clone()),
            CloseReason::Rejected(refusal) => Some(refusal.clone()),
            CloseReason::Protocol(text) => Some(Refusal::new(RefuseCode::Protocol, 0, text)),
            _ => None,
        };
        effects.push(Effect::Close(reason, say));
    }

    fn handle(&mut self, input: Input, effects: &mut Vec<Effect>) -> Result<(), CloseReason> {
        if matches!(
            input,
            Input::Welcome(_) | Input::Ack(_) | Input::Held(_) | Input::Verified(_)
        ) {
            self.last_heard_ms = self.now_ms;
        }
        match input {
            Input::Connected(hello) => self.outbox.push_back(Outgoing::Message(Message::Hello(hello))),
            Input::Welcome(welcome) => self.welcomed(welcome, effects)?,
            Input::Ack(ack) => self.acknowledged(&ack, effects)?,
            Input::Held(held) => self.held(&held)?,
            Input::Refuse(refusal) => return Err(CloseReason::Refused(refusal)),
            Input::Changed(points, consumer) => self.changed(points, consumer)?,
            Input::Located(located, points, consumer) => self.located(located, points, consumer, effects)?,
            Input::CopyStarted(begun, points) => self.copy_started(begun, points)?,
            Input::ChunksRead(spans, digests) => self.chunks_read(&spans, &digests)?,
            Input::ExtentRead(extent, points) => {
                self.reading = false;
                self.advance(points);
                // What was not asked for is no part of the copy.
                let copied = match extent {
                    Extent::Data { length, .. } => u64::from(length),
                    Extent::Hole { length, .. } => length,
                    Extent::Same { .. } | Extent::End => 0,
                };
                let extent = self.send_extent(extent, copied)?;
                self.outbox.push_back(extent);
            }
            Input::ImageDigested(extent, digests, points) => {
                self.reading = false;
                self.advance(points);
                self.compare(extent, digests)?;
            }
            Input::Verify(piece) => self.verifying.want(piece, self.now_ms),
            Input::Digested(found) => {
                self.reading = false;
                if !self.verifying.read(found) {
                    effects.push(Effect::Judged(Verdict::Changed));
                }
            }
            Input::Verified(answer) => {
                let ahead = self.comparing.as_mut();
                if !ahead.is_some_and(|comparing| comparing.answered(&answer)) {
                    let verdict = self.verifying.answered(&answer);
                    let verdict =
                        verdict.ok_or_else(|| protocol("the remote compared what it was not asked"))?;
                    effects.push(Effect::Judged(verdict));
                }
            }
            Input::Failed(SourceError::LongBatch(bytes)) if bytes <= self.longest_batch() => {
                self.reading = false;
                self.batch_waits = Some(bytes);
            }
            Input::Failed(SourceError::LongBatch(bytes)) => {
                let limit = self.longest_batch();
                return Err(CloseReason::LongBatch { bytes, limit });
            }
            Input::Failed(error) => return Err(CloseReason::Source(error)),
            Input::Written => {
                self.writing = false;
                self.last_written_ms = self.now_ms;
            }
            Input::Tick => self.tick()?,
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), CloseReason> {
        let limit = match self.stage {
            Stage::Greeting => HELLO_TIMEOUT_MS,
            _ => SILENCE_LIMIT_MS,
        };
        if self.now_ms.saturating_sub(self.last_heard_ms) >= limit {
            return Err(CloseReason::Silence);
        }
        let idle = self.now_ms.saturating_sub(self.last_written_ms) >= HEARTBEAT_INTERVAL_MS;
        if idle && !self.writing && self.outbox.is_empty() && self.stage != Stage::Greeting {
            self.outbox.push_back(Outgoing::Heartbeat {
                durable: self.points.durable.record,
                journaled: self.points.journaled.record,
            });
        }
        Ok(())
    }

    fn welcomed(&mut self, welcome: Box<Welcome>, effects: &mut Vec<Effect>) -> Result<(), CloseReason> {
        use farside_protocol::link::limits::{HIGHEST_VERSION, LOWEST_VERSION};
        let offered = offered(&self.limits);
        if self.stage != Stage::Greeting {
            return Err(protocol("a second Welcome"));
        }
        if !(LOWEST_VERSION..=HIGHEST_VERSION).contains(&welcome.version) || welcome.features & !offered != 0
        {
            return Err(protocol(
                "the remote chose a version or feature that was not offered",
            ));
        }
        self.confirming = Confirming::agreed(&self.limits, &welcome)?;
        self.stage = Stage::Preparing;
        self.reading = true;
        effects.push(Effect::Locate(welcome.received.record));
        self.welcome = Some(welcome);
        Ok(())
    }

    fn located(
        &mut self,
        located: Located,
        points: Points,
        (consumer, confirmed): (ConsumerState, ChainPoint),
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        self.reading = false;
        self.advance(points);
        let Some(welcome) = self.welcome.as_deref() else {
            return Ok(());
        };
        let local = LocalView {
            consumer,
            epoch: self.limits.epoch,
            volume_bytes: self.limits.volume_bytes,
            tail_record: points.tail.record,
            durable_record: points.durable.record,
            confirmed_record: confirmed.record,
            located,
        };
        self.progress.applied = welcome.applied;
        match decide(welcome, &local) {
            Decision::Copy { .. } if self.held => self.copy_waits = true,
            Decision::Copy { why, all } => {
                self.progress.copy_reason = Some(why);
                self.progress.resync = !all;
                self.reading = true;
                effects.push(Effect::StartCopy { all });
            }
            Decision::Continue { from, offset } => {
                self.start_at(from);
                self.begin_at(offset);
                self.stage = Stage::Copying;
                effects.push(Effect::SetConsumer(ConsumerState::Copying, from));
            }
            Decision::Resume { from } => {
                self.start_at(from);
                self.stage = Stage::Streaming;
                effects.push(Effect::SetConsumer(ConsumerState::Attached, from));
            }
            Decision::Diverged(how) => return Err(CloseReason::Diverged(diverged(how, welcome, &local))),
        }
        Ok(())
    }

    /// Points only rise; whichever was read later counts.
    fn advance(&mut self, points: Points) {
        if points.durable.sequence >= self.points.durable.sequence {
            self.points = points;
        }
    }

    fn start_at(&mut self, point: ChainPoint) {
        self.sent = point;
        self.acked = point;
    }

    fn copy_started(
        &mut self,
        (base, copy_id): (ChainPoint, u32),
        points: Points,
    ) -> Result<(), CloseReason> {
        self.reading = false;
        self.advance(points);
        if base.record > points.durable.record {
            return Err(storage("a copy was based on records that are not durable"));
        }
        self.start_at(base);
        self.progress.applied = base.record;
        self.begin_at(0);
        self.expect_begun = true;
        self.stage = Stage::Copying;
        self.outbox
            .push_back(Outgoing::Message(Message::BeginCopy(BeginCopy {
                base,
                volume_bytes: self.limits.volume_bytes,
                copy_id,
            })));
        Ok(())
    }

    fn changed(&mut self, points: Points, consumer: ConsumerState) -> Result<(), CloseReason> {
        self.advance(points);
        let relies_on_it = matches!(self.stage, Stage::Copying | Stage::Streaming);
        if relies_on_it && consumer == ConsumerState::NeedsCopy {
            return Err(CloseReason::CutLoose);
        }
        Ok(())
    }

    fn chunks_read(&mut self, spans: &[ChunkSpan], digests: &[ChunkDigest]) -> Result<(), CloseReason> {
        self.reading = false;
        self.batch_waits = None;
        if spans.is_empty() || spans.len() > BATCH_CHUNKS {
            return Err(storage("the journal gave no chunk, or more than were asked for"));
        }
        let limit = self.chunk_limit();
        let mut digests = digests.iter();
        for span in spans {
            let follows = Some(span.after.sequence) == self.sent.sequence.checked_add(1);
            let follows = match span.batch {
                // It was begun before the limit, and stays below it.
                InBatch::More => follows && span.after.record == self.sent.record,
                InBatch::Last => {
                    span.after.sequence > self.sent.sequence && span.after.record > self.sent.record
                }
                InBatch::No => follows && span.after.record > self.sent.record && !self.in_batch,
            };
            if !follows || span.after.record > limit.record {
                return Err(storage(
                    "the journal gave chunks that do not follow what was sent",
                ));
            }
            let wire_bytes = wire_bytes(span.what.len(), span.data.len());
            self.sent = span.after;
            self.in_batch = span.batch == InBatch::More;
            self.verifying.sending(span.reaches, span.touches);
            self.unacked
                .push_back(self.confirming.sent(span, wire_bytes, digests.next()));
            self.count_sent(wire_bytes);
            self.progress.sent_blocks = self.progress.sent_blocks.saturating_add(span.blocks);
        }
        self.outbox.push_back(Outgoing::Chunks);
        Ok(())
    }

    fn begin_at(&mut self, offset: u64) {
        self.copying = Some(Copying::new(offset));
        // What changed since the remote had all of it is not looked for there; in a copy that was interrupted, all is marked.
        let has_content = self.peer().is_some_and(|welcome| {
            let had_all = self.progress.resync && welcome.copy == CopyState::Complete;
            welcome.features & FEATURE_COMPARE != 0 && !had_all
        });
        self.comparing = has_content.then(|| Comparing::new(offset));
    }

    fn compare(&mut self, extent: Extent, digests: Vec<u8>) -> Result<(), CloseReason> {
        let question = match extent {
            Extent::Data { offset, length } => {
                Some(Verify::new(self.sent.record, (offset, length), &digests))
            }
            _ => None,
        };
        let taken = self
            .comparing
            .as_mut()
            .is_some_and(|comparing| comparing.read(extent, question));
        if !taken {
            return Err(storage("the image gave another range than was asked for"));
        }
        if let Some(question) = question {
            self.pace.sent(u64::try_from(digests.len()).unwrap_or(u64::MAX));
            self.outbox.push_back(Outgoing::Verify(question, digests));
        }
        Ok(())
    }

    /// Accounts for an extent that is to be sent, of which so many bytes are part of the copy.
    fn send_extent(&mut self, extent: Extent, copied: u64) -> Result<Outgoing, CloseReason> {
        let Some(copying) = self.copying.as_mut() else {
            return Err(storage("a piece of the image was read, but no copy is under way"));
        };
        let (offset, length, payload) = match extent {
            Extent::Data { offset, length } => (offset, u64::from(length), u64::from(length)),
            Extent::Hole { offset, length } | Extent::Same { offset, length } => (offset, length, 0),
            Extent::End => return Err(storage("the image ends before the volume does")),
        };
        let end = offset.checked_add(length);
        let fits = payload <= u64::from(COPY_PIECE_BYTES) && length > 0 && offset == copying.sent_offset;
        let Some(end) = end.filter(|end| fits && *end <= self.limits.volume_bytes) else {
            return Err(storage("the image gave another range than was asked for"));
        };
        let frame = u64::try_from(HEADER_BYTES.saturating_add(COPY_DATA_BYTES)).unwrap_or(0);
        let wire_bytes = frame.saturating_add(payload);
        copying.sent(end, wire_bytes, copied);
        self.count_sent(wire_bytes);
        Ok(Outgoing::Extent(extent))
    }

    fn count_sent(&mut self, wire_bytes: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(wire_bytes);
        self.progress.sent_bytes = self.progress.sent_bytes.saturating_add(wire_bytes);
        self.pace.sent(wire_bytes);
    }

    /// Up to where chunks may be sent: while the image is read, not beyond what it holds.
    fn chunk_limit(&self) -> ChainPoint {
        match &self.copying {
            Some(copying) if !copying.end_sent => self.points.image,
            _ => self.points.durable,
        }
    }
}
