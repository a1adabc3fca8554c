//! Target: what a sender decides, whatever the remote says, while its own volume answers truthfully.
//!
//! Promises: no panic; at most one send and one read under way; nothing is sent that is not durable, nor an image read
//! that is behind what was sent; what the remote is believed to hold is a place of our own chain; nothing happens after
//! the end; the window holds; nothing is confirmed but what the remote holds as it was sent.

use crate::draw::Draw;
use crate::points::{copy_state, point_near};
use farside::link::core::SessionCore;
use farside::link::events::{Effect, Input, Outgoing, SessionLimits, Stage};
use farside::link::{ComparedPiece, SourceError};
use farside_protocol::journal::{ChainPoint, ConsumerState, stored_bytes};
use farside_protocol::link::limits::{FEATURE_COMPARE, FEATURE_CONFIRM};
use farside_protocol::link::{
    Ack, Assembler, Confirm, Held, Hello, Message, Refusal, RefuseCode, Signature, Verify, Welcome,
    digest_bytes, same_place,
};
use std::collections::VecDeque;
use uuid::Uuid;

mod volume;

use volume::{Volume, data_bytes};

const VOLUME_BYTES: u64 = 256 << 10;
const WINDOW_BYTES: u64 = 64 << 10;
/// Longest chunk of the volume and longest piece of an image: what the window may be overdrawn by.
const OVERDRAFT_BYTES: u64 = (1 << 20) + 4096;
const CHUNKS: usize = 64;
const SEGMENT_BYTES: u32 = 16 << 10;
/// Twice as much may wait to be confirmed.
const UNCONFIRMED_LOG2: u8 = 15;

struct World {
    core: SessionCore,
    volume: Volume,
    now_ms: u64,
    sending: Option<Outgoing>,
    reading: Option<Effect>,
    closed: bool,
    streamed: bool,
    /// Questions about ranges that are not answered.
    asked: VecDeque<Verify>,
    confirms: bool,
    /// What was sent over the connection, with the signature up to there.
    signed: Vec<(ChainPoint, Signature)>,
    /// What the remote told that it holds, and what was true of it.
    told: Vec<ChainPoint>,
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let volume = Volume::new();
    let how = draw.u8();
    let confirms = how & 0xF0 == 0xF0;
    let limits = SessionLimits {
        window_bytes: WINDOW_BYTES,
        bytes_per_second: (how & 3 == 0).then(|| 1 + draw.u64() % (1 << 24)),
        confirm: confirms,
        segment_bytes: SEGMENT_BYTES,
        compression: farside_protocol::link::Compression::Zstd,
        merge: false,
        volume_bytes: VOLUME_BYTES,
        epoch: 1 + 4,
    };
    let core = SessionCore::new(limits, volume.points(), 0);
    let mut world = World {
        core,
        volume,
        now_ms: 0,
        sending: None,
        reading: None,
        closed: false,
        streamed: false,
        asked: VecDeque::new(),
        confirms,
        signed: Vec::new(),
        told: Vec::new(),
    };
    world.apply(Input::Connected(Box::new(hello(&world.volume))));
    while !draw.is_empty() {
        if let Some(input) = world.next(&mut draw) {
            world.apply(input);
        }
    }
    world.streamed
}

impl World {
    fn next(&mut self, draw: &mut Draw<'_>) -> Option<Input> {
        match draw.u8() % 10 {
            0 | 1 => self
                .reading
                .take()
                .map(|effect| self.volume.answer(&effect, draw)),
            2 | 3 => self.sending.take().map(|_| Input::Written),
            4 => {
                let (which, steps) = (usize::from(draw.u8() % 4), usize::from(draw.u8() % 8));
                self.volume.advance(which, steps);
                Some(Input::Changed(self.volume.points(), self.volume.consumer.0))
            }
            5 | 6 => self.ack(draw),
            7 => self.welcome(draw),
            8 => {
                self.now_ms += u64::from(draw.u8()) * 64;
                Some(Input::Tick)
            }
            _ => match draw.u8() % 16 {
                0 => {
                    self.volume.consumer.0 = ConsumerState::NeedsCopy;
                    Some(Input::Changed(self.volume.points(), ConsumerState::NeedsCopy))
                }
                1 => Some(Input::Refuse(Refusal::new(
                    RefuseCode::from_code(draw.u16()),
                    draw.u64(),
                    "no",
                ))),
                2 if self.reading.take().is_some() => Some(Input::Failed(SourceError::Behind)),
                3..=6 if self.core.takes_ranges() => {
                    let offset = u64::from(draw.u8()) * 1024;
                    Some(Input::Verify(ComparedPiece {
                        offset,
                        length: 1 + u32::from(draw.u16()),
                        still: draw.u8() & 1 == 0,
                    }))
                }
                7..=12 => self.verified(draw),
                13..=15 => self.held(draw),
                _ => None,
            },
        }
    }

    /// A point that the remote may name: one of ours, or near one.
    fn named(&self, draw: &mut Draw<'_>) -> ChainPoint {
        let ours = match draw.u8() % 4 {
            0 => self.core.progress().sent,
            1 => self.core.progress().received,
            _ => self.volume.ends[usize::from(draw.u8()) % CHUNKS],
        };
        let point = if draw.u8() & 3 == 3 {
            point_near(draw, &ours)
        } else {
            ours
        };
        ChainPoint { address: 0, ..point }
    }

    fn ack(&self, draw: &mut Draw<'_>) -> Option<Input> {
        let received = self.named(draw);
        let how = draw.u8();
        let copied = self.core.progress().copied_bytes.unwrap_or(VOLUME_BYTES);
        let ack = Ack {
            received,
            applied: if how & 4 == 0 {
                received.record
            } else {
                draw.near(received.record)
            },
            copy_offset: if how & 8 == 0 { copied } else { draw.near(copied) },
            copy: copy_state(draw),
            begun: how & 1 != 0,
        };
        let frame = Message::Ack(ack).to_frame();
        arrives(&frame, |message| match message {
            Message::Ack(ack) => Some(Input::Ack(ack)),
            _ => None,
        })
    }

    /// An answer to the oldest question, mostly.
    fn verified(&mut self, draw: &mut Draw<'_>) -> Option<Input> {
        let mut question = *self.asked.front()?;
        if draw.u8() & 15 == 0 {
            question.record = draw.near(question.record);
        } else {
            self.asked.pop_front();
        }
        let told = vec![draw.u8(); digest_bytes(question.length as usize)];
        let held = vec![0; question.length as usize];
        let frame = Message::Verified(question.answer(&told, Some(&held))).to_frame();
        arrives(&frame, |message| match message {
            Message::Verified(answer) => Some(Input::Verified(answer)),
            _ => None,
        })
    }

    /// What the remote says that it holds: mostly what was sent.
    fn held(&mut self, draw: &mut Draw<'_>) -> Option<Input> {
        let (point, signature) = *self
            .signed
            .get(usize::from(draw.u8()) % self.signed.len().max(1))?;
        let is_true = draw.u8() & 15 != 0;
        let held = Held {
            point: if draw.u8() & 15 == 0 {
                self.named(draw)
            } else {
                point
            },
            signature: if is_true { signature } else { Signature::default() },
        };
        if is_true && same_place(&held.point, &point) {
            self.told.push(point);
        }
        let frame = Message::Held(held).to_frame();
        arrives(&frame, |message| match message {
            Message::Held(held) => Some(Input::Held(held)),
            _ => None,
        })
    }

    fn welcome(&self, draw: &mut Draw<'_>) -> Option<Input> {
        let received = self.named(draw);
        let how = draw.u8();
        let welcome = Welcome {
            history_mib: 0,
            batch_log2: 0,
            unconfirmed_log2: UNCONFIRMED_LOG2,
            version: if how & 0xE0 == 0xE0 { draw.u16() } else { 2 },
            copy: copy_state(draw),
            copy_id: u32::from(draw.u8() & 1),
            features: match how & 0x1C {
                0x1C => draw.u64(),
                0 | 4 => FEATURE_COMPARE,
                _ => 0,
            } | if self.confirms && how & 2 == 0 {
                FEATURE_CONFIRM
            } else {
                0
            },
            unit: Uuid::from_u128(8),
            received,
            applied: received.record,
            copy_offset: if how & 1 == 0 {
                u64::from(draw.u8()) * 1024
            } else {
                draw.near(VOLUME_BYTES)
            },
            consistent_from: draw.near(received.record),
            unit_name: "far".into(),
        };
        let frame = Message::Welcome(Box::new(welcome)).to_frame();
        arrives(&frame, |message| match message {
            Message::Welcome(welcome) => Some(Input::Welcome(welcome)),
            _ => None,
        })
    }

    fn apply(&mut self, input: Input) {
        let shown = format!("{input:?}");
        if let Input::ChunksRead(spans, digests) = &input {
            let mut signature = self.signed.last().map_or_else(Signature::default, |last| last.1);
            for (span, digest) in spans.iter().zip(digests) {
                signature.take(digest);
                self.signed.push((span.after, signature));
            }
        }
        let before = self.core.progress().received;
        let named = if let Input::Ack(ack) = &input {
            Some(ack.received)
        } else {
            None
        };
        for effect in self.core.apply(self.now_ms, input) {
            assert!(!self.closed, "{effect:?} after the end, by {shown}");
            self.take(effect);
        }
        let progress = self.core.progress();
        assert!(progress.received.record <= progress.sent.record);
        if let Some(named) = named.filter(|_| !self.closed && progress.received != before) {
            assert!(
                same_place(&progress.received, &named),
                "another place than was acknowledged"
            );
        }
        assert!(self.core.in_flight_bytes() <= WINDOW_BYTES + OVERDRAFT_BYTES);
        if self.confirms && !self.closed {
            let (sent, received) = (progress.sent, progress.received);
            let waiting =
                |end: &&ChainPoint| end.sequence > received.sequence && end.sequence <= sent.sequence;
            let stored = |end: &ChainPoint| stored_bytes(data_bytes(end));
            let waiting: u64 = self.volume.ends.iter().filter(waiting).map(stored).sum();
            assert!(
                waiting <= 1 << UNCONFIRMED_LOG2,
                "more is sent than may wait to be confirmed"
            );
        }
        assert_eq!(self.closed, *self.core.stage() == Stage::Closed);
        self.streamed |= *self.core.stage() == Stage::Streaming;
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Send(item) => {
                assert!(self.sending.is_none(), "two sends: {item:?}");
                if let Outgoing::Message(Message::Confirm(Confirm { point })) = &item {
                    let was_told = self.told.iter().any(|told| same_place(told, point));
                    assert!(was_told, "confirmed what the remote does not hold");
                }
                if let Outgoing::Verify(question, digests) = &item {
                    assert_eq!(question.record, self.core.progress().sent.record);
                    assert_eq!(digests.len(), digest_bytes(question.length as usize));
                    self.asked.push_back(*question);
                }
                self.sending = Some(item);
            }
            Effect::SetConsumer(state, point) => {
                assert!(self.volume.is_ours(&point), "{point:?} is no place of the chain");
                assert!(state != ConsumerState::NeedsCopy);
                if self.volume.consumer.0 != ConsumerState::NeedsCopy {
                    self.volume.consumer = (state, point);
                }
            }
            Effect::Judged(_) => {}
            Effect::Close(..) => self.closed = true,
            read => {
                assert!(self.reading.is_none(), "two reads: {read:?}");
                let from = match &read {
                    Effect::ReadImage { offset, max_bytes } if *max_bytes > 0 => Some(*offset),
                    Effect::CompareImage { offset } => Some(*offset),
                    _ => None,
                };
                if let Some(offset) = from {
                    assert!(offset < VOLUME_BYTES);
                    let (held, sent) = (self.volume.points().image, self.core.progress().sent);
                    assert!(
                        held.record >= sent.record,
                        "an image that is behind what was sent"
                    );
                }
                self.reading = Some(read);
            }
        }
    }
}

/// What a frame of the remote becomes, if it is one.
fn arrives(frame: &[u8], take: impl FnOnce(Message<'_>) -> Option<Input>) -> Option<Input> {
    let mut assembler = Assembler::default();
    let mut rest = frame;
    while !rest.is_empty() {
        let space = assembler.space();
        let count = space.len().min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        if assembler.advance(count).ok()? {
            return take(assembler.message().ok()?.0);
        }
    }
    None
}

fn hello(volume: &Volume) -> Hello {
    let points = volume.points();
    Hello {
        version_min: 1,
        version_max: 2,
        segment_bytes: SEGMENT_BYTES,
        features: 0,
        unit: Uuid::from_u128(1),
        instance: Uuid::from_u128(2),
        volume: Uuid::from_u128(3),
        volume_bytes: VOLUME_BYTES,
        epoch: 5,
        head: points.durable,
        tail: points.tail,
        unit_name: "local".into(),
        volume_name: "disk0".into(),
        remote_name: "far".into(),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let written = [2];
    let answered = [0];
    // A welcome that names our chunk 8: `named` (one of ours, the ninth, as it is), no tricks, complete.
    let welcome = |copy: u8| vec![7, 2, 8, 0, 0, copy, 0, 0];
    let ack = |copy: u8, begun: u8| vec![5, 0, 0, begun, copy];
    let resume = [written.to_vec(), welcome(0), answered.to_vec()].concat();
    let round = [answered.to_vec(), written.to_vec(), ack(0, 0)].concat();
    let copied = [written.to_vec(), welcome(2), answered.repeat(2), written.to_vec()].concat();
    let piece = [vec![0, 1], written.to_vec(), ack(1, 1)].concat();
    let held = [
        answered.to_vec(),
        written.to_vec(),
        vec![9, 13, 0, 1, 1],
        written.to_vec(),
        ack(0, 0),
    ]
    .concat();
    vec![
        [vec![0xF1], resume.clone(), held.repeat(3)].concat(),
        [resume.clone(), round.repeat(3)].concat(),
        [resume, vec![4, 3, 7, 4, 2, 7], round, vec![8, 40, 8, 40]].concat(),
        [copied, piece.repeat(4), written.to_vec(), ack(0, 1), vec![8, 20]].concat(),
    ]
}
