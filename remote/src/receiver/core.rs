//! What a receiver decides: whether a message continues what it holds, and what is to be done with it.
//!
//! Guarantees: a gap, a repeat with other content, a foreign chunk, a record outside the volume, a lower epoch and
//! a copied range out of order are refused before anything of them reaches the replica. A damaged frame never comes
//! here: its body was checked when it was put together, and once is enough.
//! Never here: sockets, clocks, files.

use super::agreement::unconfirmed_limit;
use super::confirming::Waiting;
use super::refusals::{check_reach, gap, unfinished};
use crate::limits::{REMEMBERED_CHUNKS, REMEMBERED_RANGES};
use crate::sink::SinkState;
use farside_protocol::journal::{ChainPoint, CopyState, Record, What};
use farside_protocol::link::limits::FEATURE_MERGE;
use farside_protocol::link::{
    BeginCopy, CopyData, CopyEnd, CopyHoles, CopySkip, Hello, Message, Refusal, RefuseCode, Verified, Verify,
};
use std::collections::VecDeque;
use std::ops::Range;
use uuid::Uuid;

/// What has to be done with the replica because of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Nothing: a heartbeat or a repeat.
    None,
    /// Start the replica afresh, after this point, with a copy of this id.
    BeginCopy(ChainPoint, u32),
    /// Journal this chunk.
    Append {
        /// Its *what* part.
        what: &'a [u8],
        /// Its payload.
        data: &'a [u8],
    },
    /// Write this into the image.
    WriteCopy {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Make this range of the image read as zeroes.
    ZeroCopy {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Leave this range of the image as it is.
    SkipCopy {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The copy is all there.
    EndCopy(u64),
    /// Everything up to this point is confirmed; to be followed by [`ReceiverCore::confirmed`].
    Confirm(ChainPoint),
    /// Compare this range with the digests, which are the body.
    Verify(Verify),
    /// The same while it is being copied: what lies there now.
    Compare(Verify),
    /// The sender refuses to go on.
    RefusedByPeer,
}

/// One session's knowledge of the chain. Assumes that every action it returns is carried out; when one fails
/// the session has to end.
#[derive(Debug)]
pub struct ReceiverCore {
    volume: Uuid,
    volume_bytes: u64,
    /// Those of the replica are no shorter.
    segment_bytes: u32,
    /// What the sender said it has: its newest durable record and its epoch.
    sender_record: u64,
    sender_epoch: u64,
    accepted: ChainPoint,
    copy: CopyState,
    copy_id: u32,
    /// Ranges may be left as they are: the replica is one that the sender knows.
    may_skip: bool,
    /// Ranges that were compared and are the same, in order: those may be left as they are, too.
    same: VecDeque<Range<u64>>,
    /// Up to here ranges were compared.
    compared: u64,
    copy_offset: u64,
    remembered: VecDeque<(u64, u32)>,
    /// Largest merged batch; 0: there must be none.
    batch_limit: u64,
    /// What has come of one whose end has not, if there is such.
    batch: Option<u64>,
    /// In confirmed mode, what has yet to be confirmed.
    waiting: Option<Waiting>,
}

impl ReceiverCore {
    /// A session for the volume of `hello`, continuing `state` as it was settled.
    #[must_use]
    pub fn new(hello: &Hello, state: &SinkState) -> Self {
        let mut core = Self {
            volume: hello.volume,
            volume_bytes: hello.volume_bytes,
            segment_bytes: hello.segment_bytes,
            sender_record: hello.head.record,
            sender_epoch: hello.epoch,
            accepted: state.received,
            copy: state.copy,
            copy_id: state.copy_id,
            may_skip: true,
            same: VecDeque::new(),
            compared: 0,
            copy_offset: state.copy_offset,
            remembered: VecDeque::new(),
            batch_limit: match hello.features & FEATURE_MERGE {
                0 => 0,
                _ => state.batch_bytes,
            },
            batch: None,
            waiting: unconfirmed_limit(hello, state).map(Waiting::new),
        };
        core.remember(state.received.sequence, state.received.checksum);
        core
    }

    /// The last chunk that was accepted.
    #[must_use]
    pub fn accepted(&self) -> ChainPoint {
        self.accepted
    }

    /// Decides about one message whose checksums were already verified by the assembler.
    ///
    /// # Errors
    /// The refusal to send before closing.
    pub fn message<'a>(&mut self, message: &Message<'a>, body: &'a [u8]) -> Result<Action<'a>, Refusal> {
        let goes_on = matches!(
            message,
            Message::Chunk(_) | Message::Confirm(_) | Message::Heartbeat(_) | Message::Refuse(_)
        );
        if self.batch.is_some() && !goes_on {
            return Err(unfinished(self.accepted.sequence));
        }
        match message {
            Message::Chunk(what) => self.chunk(what, body),
            Message::BeginCopy(begin) => self.begin_copy(begin),
            Message::CopyData(copy) => self.copy_data(copy, body),
            Message::CopyHoles(holes) => self.copy_holes(holes),
            Message::CopySkip(skip) => self.copy_skip(skip),
            Message::CopyEnd(end) => self.copy_end(end),
            Message::Verify(verify) => self.verify(verify),
            Message::Confirm(confirm) if self.waiting.is_some() => Ok(Action::Confirm(confirm.point)),
            Message::Heartbeat(_) => Ok(Action::None),
            Message::Refuse(_) => Ok(Action::RefusedByPeer),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Pair(_)
            | Message::Paired(_)
            | Message::Confirm(_)
            | Message::Ack(_)
            | Message::Held(_)
            | Message::Verified(_) => Err(Refusal::new(
                RefuseCode::Protocol,
                0,
                &format!("{:?} does not belong here; reconnect", message.kind()),
            )),
        }
    }

    fn chunk<'a>(&mut self, what: &What<'a>, data: &'a [u8]) -> Result<Action<'a>, Refusal> {
        let sequence = what.header.sequence;
        if self.copy == CopyState::Empty {
            return Err(gap(sequence, "came before a copy was begun"));
        }
        if what.header.volume != self.volume {
            let text = format!(
                "chunk {sequence} belongs to volume {}; nothing applied",
                what.header.volume
            );
            return Err(Refusal::new(RefuseCode::ForeignVolume, sequence, &text));
        }
        if sequence <= self.accepted.sequence {
            return self.repeat(sequence, what.checksum).map(|()| Action::None);
        }
        self.check_chain(what)?;
        self.check_records(what)?;
        if !what.has_more() {
            check_reach(&what.place_after())?;
        }
        self.check_batch(what)?;
        if let Some(waiting) = &mut self.waiting {
            waiting.add(what)?;
        }
        self.accepted = what.place_after();
        self.remember(self.accepted.sequence, self.accepted.checksum);
        Ok(Action::Append {
            what: what.as_bytes(),
            data,
        })
    }

    fn repeat(&self, sequence: u64, checksum: u32) -> Result<(), Refusal> {
        match self.remembered.iter().find(|(known, _)| *known == sequence) {
            Some((_, known)) if *known == checksum => Ok(()),
            Some(_) => Err(Refusal::new(
                RefuseCode::Diverged,
                sequence,
                &format!(
                    "chunk {sequence} was already received with other content; nothing was applied: find out \
                     which unit holds the newer data before going on"
                ),
            )),
            None => Err(gap(sequence, "is older than what this connection can compare")),
        }
    }

    fn check_chain(&self, what: &What<'_>) -> Result<(), Refusal> {
        let (header, before) = (&what.header, &self.accepted);
        let sequence = header.sequence;
        if Some(sequence) != before.sequence.checked_add(1) {
            return Err(gap(
                sequence,
                &format!("does not follow chunk {}", before.sequence),
            ));
        }
        if Some(header.first_record) != before.record.checked_add(1) {
            return Err(gap(
                sequence,
                &format!("does not continue record {}", before.record),
            ));
        }
        if header.previous_checksum != before.checksum {
            return Err(gap(sequence, "continues another history than this replica holds"));
        }
        if header.epoch < before.epoch {
            return Err(gap(sequence, "is of an older epoch than the chunk before it"));
        }
        Ok(())
    }

    fn check_records(&self, what: &What<'_>) -> Result<(), Refusal> {
        let sequence = what.header.sequence;
        if what.stored_bytes() > u64::from(self.segment_bytes) {
            let text = format!(
                "chunk {sequence} is longer than the segments of {} bytes that the sender has",
                self.segment_bytes
            );
            return Err(Refusal::new(RefuseCode::Protocol, sequence, &text));
        }
        let outside = |record: &Record| record.end() > self.volume_bytes;
        let Some(record) = what.records().find(outside) else {
            return Ok(());
        };
        let text = format!(
            "chunk {sequence} changes bytes up to {} of a volume of {}; nothing was applied",
            record.end(),
            self.volume_bytes
        );
        Err(Refusal::new(RefuseCode::Damaged, sequence, &text))
    }

    /// What was begun as a batch has to come to its end as one, and must not be longer than was agreed.
    fn check_batch(&mut self, what: &What<'_>) -> Result<(), Refusal> {
        let sequence = what.header.sequence;
        if what.merged().is_none() {
            return match self.batch {
                Some(_) => Err(unfinished(sequence)),
                None => Ok(()),
            };
        }
        // What is trimmed and zeroed costs the history as much as what is written.
        let erased = what.records().filter(|record| record.payload_bytes() == 0);
        let erased: u64 = erased.map(|record| u64::from(record.length)).sum();
        let bytes = what.stored_bytes().saturating_add(erased);
        let bytes = self.batch.unwrap_or(0).saturating_add(bytes);
        if bytes > self.batch_limit {
            let text = format!(
                "a merged batch is longer than the {} bytes that this unit takes; reconnect, or give the journal of the replica here more \
                 room",
                self.batch_limit
            );
            return Err(Refusal::new(RefuseCode::Protocol, sequence, &text));
        }
        self.batch = what.has_more().then_some(bytes);
        Ok(())
    }

    fn remember(&mut self, sequence: u64, checksum: u32) {
        if self.remembered.len() >= REMEMBERED_CHUNKS {
            self.remembered.pop_front();
        }
        self.remembered.push_back((sequence, checksum));
    }

    fn begin_copy<'a>(&mut self, begin: &BeginCopy) -> Result<Action<'a>, Refusal> {
        self.check_size(begin.volume_bytes)?;
        self.check_confirmed()?;
        self.check_reset()?;
        check_reach(&begin.base)?;
        self.may_skip = match self.copy {
            CopyState::Empty => false,
            CopyState::Copying => self.copy_id == begin.copy_id,
            CopyState::Complete => true,
        };
        self.accepted = begin.base;
        self.copy_id = begin.copy_id;
        self.copy = CopyState::Copying;
        self.copy_offset = 0;
        self.same.clear();
        self.compared = 0;
        self.remembered.clear();
        self.remember(begin.base.sequence, begin.base.checksum);
        Ok(Action::BeginCopy(begin.base, begin.copy_id))
    }

    /// A sender decides about a reset itself; this is the second lock on the same door.
    fn check_reset(&self) -> Result<(), Refusal> {
        let ahead = self.accepted.record > self.sender_record || self.accepted.epoch > self.sender_epoch;
        if self.copy != CopyState::Complete || !ahead {
            return Ok(());
        }
        let text = format!(
            "this replica is complete at record {} of epoch {}, newer than the sender's record {} of epoch {}; it was \
             not reset. Decide which side is right; to give the replica up, stop the unit that keeps it, move the \
             replica's directory away and start that unit again",
            self.accepted.record, self.accepted.epoch, self.sender_record, self.sender_epoch
        );
        Err(Refusal::new(RefuseCode::Diverged, self.accepted.record, &text))
    }

    fn copy_data<'a>(&mut self, copy: &CopyData, data: &'a [u8]) -> Result<Action<'a>, Refusal> {
        self.check_range(copy.offset, u64::from(copy.length))?;
        Ok(Action::WriteCopy {
            offset: copy.offset,
            data,
        })
    }

    fn copy_holes<'a>(&mut self, holes: &CopyHoles) -> Result<Action<'a>, Refusal> {
        self.check_range(holes.offset, holes.length)?;
        Ok(Action::ZeroCopy {
            offset: holes.offset,
            length: holes.length,
        })
    }

    fn copy_skip<'a>(&mut self, skip: &CopySkip) -> Result<Action<'a>, Refusal> {
        if !self.may_skip && !self.is_same(skip) {
            let text = "a range of the copy was left out that this replica never had; reconnect";
            return Err(Refusal::new(RefuseCode::Protocol, skip.offset, text));
        }
        self.check_range(skip.offset, skip.length)?;
        Ok(Action::SkipCopy {
            offset: skip.offset,
            length: skip.length,
        })
    }

    /// Everything up to this chunk counts as received.
    pub fn confirmed(&mut self, sequence: u64) {
        if let Some(waiting) = &mut self.waiting {
            waiting.confirmed(sequence);
        }
    }

    /// What has to be in the image first never would be.
    fn check_confirmed(&self) -> Result<(), Refusal> {
        if self.waiting.as_ref().is_none_or(Waiting::is_empty) {
            return Ok(());
        }
        let text = "asked for what needs everything before it, and that is not confirmed; reconnect";
        Err(Refusal::new(RefuseCode::Protocol, self.accepted.sequence, text))
    }

    /// What came of a range that was to be compared during a copy; counts only in ascending order, like the copy itself.
    pub fn compared(&mut self, answer: &Verified) {
        let whole = answer.offset..answer.offset.saturating_add(u64::from(answer.length));
        if whole.start < self.compared {
            return;
        }
        self.compared = whole.end;
        let mut at = whole.start;
        for differing in answer.differing() {
            self.found_same(at..differing.start);
            at = differing.end;
        }
        self.found_same(at..whole.end);
    }

    fn found_same(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.same.back_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => self.same.push_back(range),
        }
        if self.same.len() > REMEMBERED_RANGES {
            self.same.pop_front();
        }
    }

    fn is_same(&mut self, skip: &CopySkip) -> bool {
        while self.same.pop_front_if(|range| range.end <= skip.offset).is_some() {}
        let end = skip.offset.saturating_add(skip.length);
        self.same
            .front()
            .is_some_and(|range| range.start <= skip.offset && end <= range.end)
    }

    /// Only what is after the last chunk can be compared: nothing else is in the image for sure.
    fn verify<'a>(&self, verify: &Verify) -> Result<Action<'a>, Refusal> {
        let end = verify.offset.checked_add(u64::from(verify.length));
        let inside = end.is_some_and(|end| end <= self.volume_bytes);
        if inside && verify.record == self.accepted.record {
            // Whether a copy that is all here is complete meanwhile is not known here.
            let is_copying = self.copy == CopyState::Copying && self.copy_offset < self.volume_bytes;
            if is_copying {
                return Ok(Action::Compare(*verify));
            }
            self.check_confirmed()?;
            return Ok(Action::Verify(*verify));
        }
        let text = format!(
            "asked to compare {} bytes at {} after record {}, but this replica of {} bytes is at record {}; reconnect",
            verify.length, verify.offset, verify.record, self.volume_bytes, self.accepted.record
        );
        Err(Refusal::new(RefuseCode::Protocol, verify.record, &text))
    }

    /// A copied range has to begin where the last one ended; then it counts.
    fn check_range(&mut self, offset: u64, length: u64) -> Result<(), Refusal> {
        let end = offset.checked_add(length).filter(|end| *end <= self.volume_bytes);
        let (CopyState::Copying, true, Some(end)) = (self.copy, offset == self.copy_offset, end) else {
            let text = format!(
                "copied range of {length} bytes at {offset} does not continue the copy at {} of {}; reconnect",
                self.copy_offset, self.volume_bytes
            );
            return Err(Refusal::new(RefuseCode::Gap, offset, &text));
        };
        self.copy_offset = end;
        Ok(())
    }

    fn copy_end<'a>(&mut self, end: &CopyEnd) -> Result<Action<'a>, Refusal> {
        self.check_size(end.volume_bytes)?;
        if self.copy != CopyState::Copying || self.copy_offset != self.volume_bytes {
            let text = format!(
                "end of copy at {} of {} bytes; the sender should reconnect",
                self.copy_offset, self.volume_bytes
            );
            return Err(Refusal::new(RefuseCode::Gap, self.copy_offset, &text));
        }
        Ok(Action::EndCopy(end.consistent_from))
    }

    fn check_size(&self, volume_bytes: u64) -> Result<(), Refusal> {
        if volume_bytes == self.volume_bytes {
            return Ok(());
        }
        let text = format!(
            "copy of a volume of {volume_bytes} bytes, but hello said {}; reconnect",
            self.volume_bytes
        );
        Err(Refusal::new(RefuseCode::SizeDiffers, 0, &text))
    }
}
