//! Target: what a receiver decides about any sequence of messages.
//!
//! Promises, kept by a model that knows nothing but the last point: only the chunk that continues the chain, of this
//! volume, inside it and intact, is appended, and that one always; copied ranges ascend without gaps and stay inside;
//! a complete replica is not reset for a sender that is behind it; a refusal says something.

use crate::draw::Draw;
use crate::points::{copy_state, point_near};
use farside_protocol::journal::limits::MAX_REACHED;
use farside_protocol::journal::{ChainPoint, ChunkHeader, CopyState, Record, RecordKind, What, encode_what};
use farside_protocol::link::limits::FEATURE_CONFIRM;
use farside_protocol::link::{
    Ack, Assembler, BeginCopy, Confirm, CopyData, CopyEnd, CopyHoles, CopySkip, Heartbeat, Hello, Message,
    Refusal, RefuseCode, Verified, Verify, digests,
};
use farside_remote::SinkState;
use farside_remote::receiver::agreement::{negotiate, welcome};
use farside_remote::receiver::core::{Action, ReceiverCore};
use farside_remote::receiver::refusals::refuse_frame;
use std::collections::BTreeSet;
use uuid::Uuid;

const VOLUME_BYTES: u64 = 64 << 10;
const SEGMENT_BYTES: u32 = 16 << 10;
const UNCONFIRMED_BYTES: u64 = 32 << 10;
const VOLUME: Uuid = Uuid::from_u128(3);

struct Model {
    accepted: ChainPoint,
    copy: CopyState,
    copied: u64,
    sender: (u64, u64),
    copy_id: u32,
    may_skip: bool,
    /// Bytes that were found to be the same, and up to where that was looked for.
    same: BTreeSet<u64>,
    compared: u64,
    confirms: bool,
    /// Chunks that are not confirmed, and what they take.
    waiting: Vec<(u64, u64)>,
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let (hello, state) = beginning(&mut draw);
    if let Ok(version) = negotiate(&hello) {
        frame_of(
            &Message::Welcome(Box::new(welcome((version, 0), &state, (VOLUME, "far")))),
            &[],
        );
    }
    let mut core = ReceiverCore::new(&hello, &state);
    let mut model = Model {
        accepted: state.received,
        copy: state.copy,
        copied: state.copy_offset,
        copy_id: state.copy_id,
        may_skip: true,
        same: BTreeSet::new(),
        compared: 0,
        confirms: hello.features & FEATURE_CONFIRM != 0,
        waiting: Vec::new(),
        sender: (hello.head.record, hello.epoch),
    };
    let mut taken = 0;
    while !draw.is_empty() {
        let frame = message(&mut draw, &model);
        let mut assembler = Assembler::default();
        if let Err(error) = receive(&mut assembler, &frame) {
            assert!(!refuse_frame(&error, model.accepted.sequence).text().is_empty());
            break;
        }
        let Ok((message, body)) = assembler.message() else {
            break;
        };
        let expected = model.allows(&message, body);
        match core.message(&message, body) {
            Ok(action) => {
                assert!(expected, "{message:?} was taken as {action:?}");
                model.carry_out(&message, &action);
                if let Action::Confirm(point) = action {
                    core.confirmed(point.sequence);
                }
                if let Action::Compare(question) = action {
                    // The replica holds zeroes.
                    let answer = question.answer(body, Some(&vec![0; question.length as usize]));
                    model.compared(&answer);
                    core.compared(&answer);
                }
                taken += 1;
            }
            Err(refusal) => {
                assert!(!expected, "{message:?} was refused: {refusal}");
                assert!(!refusal.text().is_empty());
                break;
            }
        }
        let (held, known) = (core.accepted(), model.accepted);
        assert_eq!(
            (held.sequence, held.record, held.checksum),
            (known.sequence, known.record, known.checksum)
        );
    }
    taken > 0
}

fn beginning(draw: &mut Draw<'_>) -> (Hello, SinkState) {
    let base = ChainPoint {
        sequence: 4,
        record: 10,
        epoch: 2,
        checksum: 77,
        ..ChainPoint::default()
    };
    let head = point_near(draw, &base);
    let how = draw.u8();
    let hello = Hello {
        version_min: 1 + u16::from(how & 1),
        version_max: 2,
        segment_bytes: SEGMENT_BYTES,
        features: if how & 2 == 0 { 0 } else { FEATURE_CONFIRM },
        unit: Uuid::from_u128(1),
        instance: Uuid::from_u128(2),
        volume: VOLUME,
        volume_bytes: VOLUME_BYTES,
        epoch: head.epoch.max(1),
        head,
        tail: ChainPoint::default(),
        unit_name: "local".into(),
        volume_name: "disk0".into(),
        remote_name: "far".into(),
    };
    let received = point_near(draw, &base);
    let state = SinkState {
        copy: copy_state(draw),
        copy_id: u32::from(draw.u8() & 1),
        received,
        applied: received.record.min(draw.near(10)),
        copy_offset: draw.below(17) * 4096,
        consistent_from: 0,
        history_bytes: 0,
        batch_bytes: 0,
        synced: received,
        unconfirmed_bytes: UNCONFIRMED_BYTES,
    };
    (hello, state)
}

fn frame_of(message: &Message<'_>, body: &[u8]) -> Vec<u8> {
    [message.to_frame().as_slice(), body].concat()
}

fn receive(assembler: &mut Assembler, mut bytes: &[u8]) -> Result<(), farside_protocol::link::LinkError> {
    while !bytes.is_empty() {
        let space = assembler.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        assembler.advance(count)?;
        if count == 0 {
            break;
        }
    }
    Ok(())
}

fn message(draw: &mut Draw<'_>, model: &Model) -> Vec<u8> {
    let volume_bytes = if draw.u8() & 15 == 15 {
        draw.near(VOLUME_BYTES)
    } else {
        VOLUME_BYTES
    };
    match draw.u8() % 8 {
        0..=2 => chunk(draw, model),
        3 => {
            let length = usize::from(draw.u8()) * 16 + 1;
            let body = vec![draw.u8(); length];
            let copy = CopyData {
                offset: draw.near(model.copied) & ((1 << 62) - 1),
                length: u32::try_from(length).unwrap_or(0),
                checksum: crc32c::crc32c(&body),
            };
            frame_of(&Message::CopyData(copy), &body)
        }
        4 => {
            let (offset, length) = (
                draw.near(model.copied),
                draw.near(VOLUME_BYTES.saturating_sub(model.copied)),
            );
            frame_of(&Message::CopyHoles(CopyHoles { offset, length }), &[])
        }
        5 => {
            let base = point_near(draw, &model.accepted);
            frame_of(
                &Message::BeginCopy(BeginCopy {
                    base,
                    volume_bytes,
                    copy_id: 1 + u32::from(draw.u8() & 1),
                }),
                &[],
            )
        }
        6 => {
            let consistent_from = draw.near(model.accepted.record);
            frame_of(
                &Message::CopyEnd(CopyEnd {
                    consistent_from,
                    volume_bytes,
                }),
                &[],
            )
        }
        _ => other(draw, model),
    }
}

fn other(draw: &mut Draw<'_>, model: &Model) -> Vec<u8> {
    let received = model.accepted;
    let message = match draw.u8() % 6 {
        5 => Message::Confirm(Confirm {
            point: point_near(draw, &received),
        }),
        3 => {
            let (offset, length) = (
                draw.near(model.copied),
                draw.near(VOLUME_BYTES.saturating_sub(model.copied)),
            );
            Message::CopySkip(CopySkip { offset, length })
        }
        4 => {
            let length = 1 + u32::from(draw.u16());
            let mut told = digests(&vec![0; length as usize]);
            let other = usize::from(draw.u8());
            if let Some(digest) = told.get_mut(other) {
                *digest ^= 1;
            }
            let record = draw.near(model.accepted.record);
            let question = Verify::new(
                record,
                (draw.near(model.compared) & ((1 << 62) - 1), length),
                &told,
            );
            return frame_of(&Message::Verify(question), &told);
        }
        0 => Message::Heartbeat(Heartbeat {
            durable: draw.u64(),
            journaled: draw.u64(),
            time_us: draw.u64(),
        }),
        1 => Message::Refuse(Refusal::new(RefuseCode::from_code(draw.u16()), draw.u64(), "no")),
        _ => Message::Ack(Ack {
            received,
            applied: 0,
            copy_offset: 0,
            copy: CopyState::Complete,
            begun: false,
        }),
    };
    frame_of(&message, &[])
}

fn chunk(draw: &mut Draw<'_>, model: &Model) -> Vec<u8> {
    let before = point_near(draw, &model.accepted);
    let header = ChunkHeader {
        volume: if draw.u8() == 255 {
            Uuid::from_u128(9)
        } else {
            VOLUME
        },
        epoch: before.epoch,
        sequence: before.sequence.wrapping_add(1),
        first_record: before.record.wrapping_add(1),
        sealed_at_us: 6,
        previous_checksum: before.checksum,
        blocks_before: 0,
        bytes_before: 0,
    };
    let (mut records, mut data) = (Vec::new(), Vec::new());
    for _ in 0..=draw.u8() % 4 {
        let payload = vec![draw.u8(); usize::from(draw.u8()) + 1];
        let length = u32::try_from(payload.len()).unwrap_or(0);
        let offset = draw.near(0) & ((1 << 62) - 1);
        let kind = if draw.u8() & 1 == 0 {
            RecordKind::Write
        } else {
            RecordKind::Trim
        };
        let is_write = kind == RecordKind::Write;
        let checksum = if is_write { crc32c::crc32c(&payload) } else { 0 };
        records.push(Record {
            offset,
            length,
            checksum,
            age_us: 0,
            kind,
        });
        if is_write {
            data.extend_from_slice(&payload);
        }
    }
    let mut block = vec![0; 4096];
    let (length, _) = encode_what(&mut block, &header, &records);
    // A header that no journal can have does not decode: it is sent as bytes of no meaning.
    let Ok(what) = What::decode(&block[..length]) else {
        return block;
    };
    frame_of(&Message::Chunk(what), &data)
}

/// Whether a journal can have come so far.
fn can_be(point: &ChainPoint) -> bool {
    let most = point.sequence.max(point.record).max(point.epoch);
    point.sequence <= point.record && most <= MAX_REACHED
}

impl Model {
    /// Whether a receiver that holds what the model holds has to take the message.
    fn allows(&self, message: &Message<'_>, body: &[u8]) -> bool {
        let copies = |offset: u64, length: u64| {
            let end = offset.checked_add(length);
            self.copy == CopyState::Copying
                && offset == self.copied
                && end.is_some_and(|end| end <= VOLUME_BYTES)
        };
        match message {
            Message::Heartbeat(_) | Message::Refuse(_) => true,
            Message::Confirm(_) => self.confirms,
            Message::Chunk(what) => self.continues(what, body) && self.has_room(what) || self.is_last(what),
            Message::CopyData(copy) => copies(copy.offset, u64::from(copy.length)),
            Message::CopyHoles(holes) => copies(holes.offset, holes.length),
            Message::CopySkip(skip) => {
                let same = || {
                    let mut bytes = skip.offset..skip.offset + skip.length;
                    !bytes.is_empty() && bytes.all(|byte| self.same.contains(&byte))
                };
                copies(skip.offset, skip.length) && (self.may_skip || same())
            }
            Message::Verify(question) => {
                let end = question.offset + u64::from(question.length);
                let copying = self.copy == CopyState::Copying && self.copied < VOLUME_BYTES;
                let answerable = copying || self.waiting.is_empty();
                question.record == self.accepted.record && end <= VOLUME_BYTES && answerable
            }
            Message::BeginCopy(begin) => {
                let ahead = self.accepted.record > self.sender.0 || self.accepted.epoch > self.sender.1;
                self.waiting.is_empty()
                    && begin.volume_bytes == VOLUME_BYTES
                    && !(self.copy == CopyState::Complete && ahead)
                    && can_be(&begin.base)
            }
            Message::CopyEnd(end) => {
                let whole = self.copy == CopyState::Copying && self.copied == VOLUME_BYTES;
                whole && end.volume_bytes == VOLUME_BYTES
            }
            _ => false,
        }
    }

    /// Ranges count in ascending order only.
    fn compared(&mut self, answer: &Verified) {
        if answer.offset < self.compared {
            return;
        }
        self.compared = answer.offset + u64::from(answer.length);
        let differing = answer.differing();
        let same = |byte: &u64| !differing.iter().any(|range| range.contains(byte));
        self.same.extend((answer.offset..self.compared).filter(same));
    }

    fn continues(&self, what: &What<'_>, body: &[u8]) -> bool {
        let header = &what.header;
        let next = |number: u64| number.checked_add(1);
        self.copy != CopyState::Empty
            && header.volume == VOLUME
            && Some(header.sequence) == next(self.accepted.sequence)
            && Some(header.first_record) == next(self.accepted.record)
            && header.previous_checksum == self.accepted.checksum
            && header.epoch >= self.accepted.epoch
            && what.records().all(|record| record.end() <= VOLUME_BYTES)
            && what.merged().is_none()
            && what.stored_bytes() <= u64::from(SEGMENT_BYTES)
            && can_be(&what.point_after())
            && what.data_is_intact(body)
    }

    fn has_room(&self, what: &What<'_>) -> bool {
        let waiting: u64 = self.waiting.iter().map(|(_, bytes)| bytes).sum();
        !self.confirms || waiting + what.stored_bytes() <= UNCONFIRMED_BYTES
    }

    /// The model remembers the last chunk only, so repeats of older ones are not tried.
    fn is_last(&self, what: &What<'_>) -> bool {
        let same = (what.header.sequence, what.checksum) == (self.accepted.sequence, self.accepted.checksum);
        same && self.copy != CopyState::Empty && what.header.volume == VOLUME
    }

    fn carry_out(&mut self, message: &Message<'_>, action: &Action<'_>) {
        match (message, action) {
            (Message::Chunk(what), Action::Append { what: bytes, .. }) => {
                assert_eq!(what.as_bytes(), *bytes);
                if self.confirms {
                    self.waiting.push((what.header.sequence, what.stored_bytes()));
                }
                self.accepted = ChainPoint {
                    sequence: what.header.sequence,
                    record: what.last_record(),
                    epoch: what.header.epoch,
                    checksum: what.checksum,
                    ..ChainPoint::default()
                };
            }
            (Message::BeginCopy(begin), Action::BeginCopy(base, copy_id)) => {
                assert_eq!((begin.base, begin.copy_id), (*base, *copy_id));
                self.may_skip = match self.copy {
                    CopyState::Empty => false,
                    CopyState::Copying => self.copy_id == *copy_id,
                    CopyState::Complete => true,
                };
                self.copy_id = *copy_id;
                (self.same, self.compared) = (BTreeSet::new(), 0);
                (self.accepted, self.copy, self.copied) = (*base, CopyState::Copying, 0);
            }
            (Message::CopyData(copy), Action::WriteCopy { offset, data }) => {
                assert_eq!((copy.offset, copy.length as usize), (*offset, data.len()));
                self.copied += u64::from(copy.length);
            }
            (Message::CopyHoles(holes), Action::ZeroCopy { offset, length }) => {
                assert_eq!((holes.offset, holes.length), (*offset, *length));
                self.copied += length;
            }
            (Message::CopySkip(skip), Action::SkipCopy { offset, length }) => {
                assert_eq!((skip.offset, skip.length), (*offset, *length));
                self.copied += length;
            }
            (Message::Verify(question), Action::Verify(asked)) => {
                assert!(self.copy != CopyState::Copying || self.copied == VOLUME_BYTES);
                assert_eq!(question, asked);
            }
            (Message::Verify(question), Action::Compare(asked)) => {
                assert!(self.copy == CopyState::Copying && self.copied < VOLUME_BYTES);
                assert_eq!(question, asked);
            }
            (Message::Confirm(confirm), Action::Confirm(point)) => {
                assert_eq!(confirm.point, *point);
                self.waiting.retain(|(sequence, _)| *sequence > point.sequence);
            }
            (Message::CopyEnd(end), Action::EndCopy(record)) => assert_eq!(end.consistent_from, *record),
            (Message::Chunk(_) | Message::Heartbeat(_), Action::None)
            | (Message::Refuse(_), Action::RefusedByPeer) => {}
            other => panic!("a message was taken for something else: {other:?}"),
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // The decisions before the messages: hello and state as they are, then the copy state.
    let start = |copy: u8, offset: u8| vec![0, 0, 0, copy, 0, 0, offset];
    let chunk = [0, 0, 0, 0, 1, 9, 100, 8, 0, 7, 50, 16, 1];
    let begin = [0, 5, 0, 0];
    let data = [0, 3, 255, 5, 0];
    let holes = [0, 4, 0, 0];
    let end = [0, 6, 0];
    vec![
        [start(0, 0), chunk.repeat(5)].concat(),
        [
            start(2, 0),
            begin.to_vec(),
            holes.to_vec(),
            end.to_vec(),
            chunk.to_vec(),
        ]
        .concat(),
        [
            start(1, 4),
            data.to_vec(),
            data.to_vec(),
            chunk.to_vec(),
            holes.to_vec(),
            end.to_vec(),
        ]
        .concat(),
        [start(0, 0), vec![0, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]].concat(),
    ]
}
