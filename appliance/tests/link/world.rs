//! One volume, one replica and the wire between the two cores, moved step by step.

use crate::random::Random;
use crate::replica::Replica;
use crate::volume::{VOLUME_BYTES, Volume};
use farside::link::core::SessionCore;
use farside::link::events::{Effect, Input, Outgoing, SessionLimits, Stage, Verdict};
use farside::link::{CloseReason, ComparedPiece, Digests, Extent, Source};
use farside_protocol::link::limits::{FEATURE_COMPARE, HIGHEST_VERSION, LOWEST_VERSION};
use farside_protocol::link::{
    Assembler, CopyData, CopyHoles, CopySkip, FrameKind, Heartbeat, Hello, Message, Refusal, digests, seal,
};
use farside_remote::receiver::agreement::{choose_features, negotiate, welcome};
use farside_remote::receiver::core::{Action, ReceiverCore};
use farside_remote::receiver::pacing::ack;
use farside_remote::{Sink, SinkError};
use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use uuid::Uuid;

const REMOTE: &str = "far";

/// The fakes never wait, so one look at their futures is enough.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a fake waited"),
    }
}

#[derive(Debug, Default)]
struct Bulk {
    bytes: Vec<u8>,
    spans: Vec<farside::link::ChunkSpan>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) core: SessionCore,
    receiver: Option<(Hello, ReceiverCore)>,
    begun: bool,
    /// Last record journaled when a range began to be read.
    digesting_after: u64,
    reading: Option<Effect>,
    writing: Option<Outgoing>,
    bulk: Bulk,
    pub(crate) to_receiver: VecDeque<Vec<u8>>,
    to_sender: VecDeque<Vec<u8>>,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) refused: Option<Refusal>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) volume: Volume,
    pub(crate) replica: Replica,
    pub(crate) random: Random,
    pub(crate) now_ms: u64,
    pub(crate) session: Option<Session>,
    pub(crate) delivered: u64,
    pub(crate) window_bytes: u64,
    pub(crate) bytes_per_second: Option<u64>,
    /// What came of the ranges that were compared.
    pub(crate) verdicts: Vec<Verdict>,
    /// Copies compare before they send.
    compares: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            volume: Volume::new(),
            replica: Replica::new(VOLUME_BYTES as usize, false),
            random: Random::new(seed),
            now_ms: 0,
            session: None,
            delivered: 0,
            window_bytes: 64 << 10,
            bytes_per_second: None,
            verdicts: Vec::new(),
            compares: seed % 2 == 1,
        }
    }

    pub(crate) fn connect(&mut self) {
        let (identity, points) = (self.volume.identity(), self.volume.points());
        let limits = SessionLimits {
            window_bytes: self.window_bytes,
            bytes_per_second: self.bytes_per_second,
            compression: farside_protocol::link::Compression::None,
            merge: false,
            confirm: false,
            segment_bytes: identity.segment_bytes,
            volume_bytes: identity.volume_bytes,
            epoch: identity.epoch,
        };
        let hello = Hello {
            version_min: LOWEST_VERSION,
            version_max: HIGHEST_VERSION,
            segment_bytes: identity.segment_bytes,
            features: if self.compares { FEATURE_COMPARE } else { 0 },
            unit: identity.unit,
            instance: Uuid::from_u128(7),
            volume: identity.volume,
            volume_bytes: identity.volume_bytes,
            epoch: identity.epoch,
            head: points.durable,
            tail: points.tail,
            unit_name: identity.unit_name,
            volume_name: identity.volume_name,
            remote_name: REMOTE.into(),
        };
        self.session = Some(Session {
            core: SessionCore::new(limits, points, self.now_ms),
            receiver: None,
            begun: false,
            digesting_after: 0,
            reading: None,
            writing: None,
            bulk: Bulk::default(),
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            closed: None,
            refused: None,
        });
        self.input(Input::Connected(Box::new(hello)));
    }

    /// Whether the sender may send for now.
    pub(crate) fn hold(&mut self, held: bool) {
        if let Some(session) = &mut self.session {
            session.core.hold(held);
        }
        self.input(Input::Tick);
    }

    pub(crate) fn input(&mut self, input: Input) {
        let now_ms = self.now_ms;
        let Some(session) = self.session.as_mut().filter(|session| session.closed.is_none()) else {
            return;
        };
        let journaled = self.volume.points().journaled.record;
        for effect in session.core.apply(now_ms, input) {
            if matches!(effect, Effect::Digest(_)) {
                session.digesting_after = journaled;
            }
            match effect {
                Effect::Send(item) => assert!(session.writing.replace(item).is_none(), "two writes"),
                Effect::SetConsumer(state, acked) => self.volume.set_consumer(REMOTE, state, acked),
                Effect::Close(reason, _) => session.closed = Some(reason),
                Effect::Judged(verdict) => self.verdicts.push(verdict),
                read => assert!(session.reading.replace(read).is_none(), "two reads"),
            }
        }
    }

    /// What the sender is writing reaches the wire.
    fn finish_write(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(item) = session.writing.take() else {
            return;
        };
        let bulk = &session.bulk;
        match item {
            Outgoing::Message(message) => session.to_receiver.push_back(message.to_frame()),
            Outgoing::Heartbeat { durable, journaled } => {
                let beat = Heartbeat {
                    durable,
                    journaled,
                    time_us: 1,
                };
                session.to_receiver.push_back(Message::Heartbeat(beat).to_frame());
            }
            Outgoing::Verify(question, digests) => {
                let mut frame = Message::Verify(question).to_frame();
                frame.extend_from_slice(&digests);
                session.to_receiver.push_back(frame);
            }
            Outgoing::Chunks => {
                for span in &bulk.spans {
                    let (what, data) = (&bulk.bytes[span.what.clone()], &bulk.bytes[span.data.clone()]);
                    let mut frame = seal(FrameKind::Chunk, what, data.len() as u32).to_vec();
                    frame.extend_from_slice(what);
                    frame.extend_from_slice(data);
                    session.to_receiver.push_back(frame);
                }
            }
            Outgoing::Extent(Extent::Data { offset, length }) => {
                let checksum = crc32c::crc32c(&bulk.bytes);
                let copy = CopyData {
                    offset,
                    length,
                    checksum,
                };
                let mut frame = Message::CopyData(copy).to_frame();
                frame.extend_from_slice(&bulk.bytes);
                session.to_receiver.push_back(frame);
            }
            Outgoing::Extent(Extent::Hole { offset, length }) => {
                let holes = CopyHoles { offset, length };
                session
                    .to_receiver
                    .push_back(Message::CopyHoles(holes).to_frame());
            }
            Outgoing::Extent(Extent::Same { offset, length }) => {
                let skip = CopySkip { offset, length };
                session.to_receiver.push_back(Message::CopySkip(skip).to_frame());
            }
            Outgoing::Extent(Extent::End) => panic!("the core sends no end"),
        }
        self.input(Input::Written);
    }

    fn finish_read(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(effect) = session.reading.take() else {
            return;
        };
        let (volume, bulk) = (&self.volume, &mut session.bulk);
        let input = match effect {
            Effect::Locate(record) => {
                let located = volume.locate_now(record);
                Input::Located(located, volume.points(), volume.consumer(REMOTE))
            }
            Effect::StartCopy { all } => {
                let begun = volume.start_copy_now(REMOTE, all);
                Input::CopyStarted(begun, volume.points())
            }
            Effect::Digest(piece) => Input::Digested(Some(Digests {
                after: session.digesting_after,
                ..volume.digests_now(piece)
            })),
            Effect::ReadChunks(wanted) => match volume.read_chunks_now(&wanted, &mut bulk.bytes) {
                Ok(spans) => {
                    bulk.spans = spans.clone();
                    Input::ChunksRead(spans, Vec::new())
                }
                Err(error) => Input::Failed(error),
            },
            Effect::ReadImage { offset, max_bytes } => {
                let extent = volume.read_image_now(offset, max_bytes, &mut bulk.bytes);
                Input::ExtentRead(extent, volume.points())
            }
            Effect::CompareImage { offset } => {
                let extent = volume.read_image_now(offset, 12_288, &mut bulk.bytes);
                let told = match extent {
                    Extent::Data { .. } => digests(&bulk.bytes),
                    _ => Vec::new(),
                };
                Input::ImageDigested(extent, told, volume.points())
            }
            other => panic!("{other:?} is no read"),
        };
        self.input(input);
    }

    /// One frame arrives at the receiver.
    pub(crate) fn deliver(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(frame) = session.to_receiver.pop_front() else {
            return;
        };
        self.delivered += 1;
        let mut assembler = Assembler::default();
        if let Err(refusal) = receive(&self.replica, session, &mut assembler, &frame) {
            session.refused = Some(refusal);
        }
    }

    fn answer(&mut self) {
        let Some(session) = &mut self.session else { return };
        if session.receiver.is_some() {
            let answer = ack(&self.replica.state(), session.begun);
            session.to_sender.push_back(Message::Ack(answer).to_frame());
        }
    }

    fn deliver_answer(&mut self) {
        let Some(session) = &mut self.session else { return };
        let Some(frame) = session.to_sender.pop_front() else {
            return;
        };
        let mut assembler = Assembler::default();
        feed(&mut assembler, &frame).expect("answers arrive whole");
        let input = match assembler.message().expect("answers are sound").0 {
            Message::Welcome(welcome) => Input::Welcome(welcome),
            Message::Ack(ack) => Input::Ack(ack),
            Message::Verified(answer) => Input::Verified(answer),
            other => panic!("{other:?} is no answer"),
        };
        self.input(input);
    }

    fn tell_changes(&mut self) {
        let (points, consumer) = (self.volume.points(), self.volume.consumer(REMOTE).0);
        self.input(Input::Changed(points, consumer));
    }

    /// A range is to be compared.
    pub(crate) fn compare(&mut self, offset: u64, length: u64) {
        self.input(Input::Verify(ComparedPiece {
            offset,
            length: length as u32,
            still: false,
        }));
    }

    /// A random range is to be compared, if the session takes one.
    pub(crate) fn want_comparison(&mut self) {
        let takes = self
            .session
            .as_ref()
            .is_some_and(|session| session.closed.is_none() && session.core.takes_ranges());
        if takes {
            let offset = self.random.below(VOLUME_BYTES / 512) * 512;
            let length = 1 + self.random.below((VOLUME_BYTES - offset).min(20_000));
            self.compare(offset, length);
        }
    }

    /// One random step of volume, link or replica.
    pub(crate) fn step(&mut self, writes: bool) {
        let kind = self.random.below(16);
        match kind {
            0 if writes => self.volume.write(&mut self.random),
            0 | 1 => {
                self.volume.sync();
                self.tell_changes();
            }
            2 | 3 => {
                self.volume.mirror(&mut self.random);
                self.tell_changes();
            }
            4 => self.replica.sync_journal(),
            5 => self.replica.apply(),
            6 => self.replica.checkpoint(),
            7 => self.answer(),
            8 => self.deliver_answer(),
            9..=10 => self.finish_read(),
            11..=12 => self.finish_write(),
            13..=14 => self.deliver(),
            _ => {
                self.now_ms += self.random.below(50);
                self.input(Input::Tick);
            }
        }
        // Nothing else touches the replica.
        if matches!(kind, 4..=6 | 13..=14) {
            self.replica.check(&self.volume);
        }
        if let Some(session) = &self.session {
            let allowed = self.window_bytes + 64 * 1024;
            assert!(session.core.in_flight_bytes() <= allowed, "beyond the window");
        }
    }

    pub(crate) fn cut(&mut self) {
        self.session = None;
    }

    /// Steps without writes until the replica has everything; panics when that does not happen.
    pub(crate) fn run_to_the_end(&mut self) {
        for _ in 0..60_000 {
            if self
                .session
                .as_ref()
                .is_none_or(|session| session.closed.is_some() || session.refused.is_some())
            {
                self.connect();
            }
            self.step(false);
            let applied = self.replica.inner().applied.record;
            let streaming = self
                .session
                .as_ref()
                .is_some_and(|s| *s.core.stage() == Stage::Streaming);
            if streaming && applied == self.volume.points().journaled.record {
                assert_eq!(self.replica.inner().image, self.volume.state().content);
                return;
            }
        }
        panic!("no progress: {:?} {:?}", self.session, self.replica.state());
    }
}

/// Puts a frame through the real assembler.
pub(crate) fn feed(
    assembler: &mut Assembler,
    frame: &[u8],
) -> Result<bool, farside_protocol::link::LinkError> {
    let mut rest = frame;
    while !rest.is_empty() {
        let space = assembler.space();
        let count = space.len().min(rest.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        if assembler.advance(count)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn receive(
    replica: &Replica,
    session: &mut Session,
    assembler: &mut Assembler,
    frame: &[u8],
) -> Result<(), Refusal> {
    let refuse = |error| farside_remote::receiver::refusals::refuse_frame(&error, 0);
    feed(assembler, frame).map_err(refuse)?;
    let (message, body) = assembler.message().map_err(refuse)?;
    if let Message::Hello(hello) = message {
        let version = negotiate(&hello)?;
        let state = now(replica.settle()).expect("the fake does not fail");
        let features = choose_features(&hello, true, &state);
        let answer = welcome((version, features), &state, (Uuid::from_u128(0xB), "remote"));
        session
            .to_sender
            .push_back(Message::Welcome(Box::new(answer)).to_frame());
        let core = ReceiverCore::new(&hello, &state);
        session.receiver = Some((*hello, core));
        return Ok(());
    }
    let (_, core) = session.receiver.as_mut().expect("hello comes first");
    let done: Result<(), SinkError> = match core.message(&message, body)? {
        Action::None | Action::Confirm(_) | Action::RefusedByPeer => Ok(()),
        Action::Append { what, data } => now(replica.append(what, data)),
        Action::WriteCopy { offset, data } => now(replica.write_copy(offset, data)),
        Action::ZeroCopy { offset, length } => now(replica.zero_copy(offset, length)),
        Action::SkipCopy { offset, length } => now(replica.skip_copy(offset, length)),
        Action::EndCopy(from) => now(replica.end_copy(from)),
        action @ (Action::Verify(question) | Action::Compare(question)) => {
            let as_it_lies = matches!(action, Action::Compare(_));
            let data = now(replica.read(question.offset, question.length, as_it_lies));
            let answer = question.answer(body, data.expect("the fake does not fail").as_deref());
            if as_it_lies {
                core.compared(&answer);
            }
            session.to_sender.push_back(Message::Verified(answer).to_frame());
            Ok(())
        }
        Action::BeginCopy(base, copy_id) => {
            let done = now(replica.begin_copy(base, copy_id));
            session.begun = true;
            done
        }
    };
    done.expect("the fake does not fail");
    Ok(())
}

impl World {
    /// Moves the link without looking at the replica.
    pub(crate) fn exchange(&mut self) {
        self.exchange_sender();
        self.deliver();
        self.answer();
        self.deliver_answer();
    }

    /// Moves the sender only.
    pub(crate) fn exchange_sender(&mut self) {
        self.finish_read();
        self.finish_write();
    }
}
