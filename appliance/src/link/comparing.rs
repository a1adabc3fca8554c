//! A copy by comparison: what the image of the remote holds already is found ahead of what is sent, and left out of it.
//!
//! A piece that was compared is one that could have been sent when the question was: the image held everything that was
//! sent, and what is written later follows as chunks. So a block with the same digest counts as copied there and then.

use super::limits::{COMPARE_GAP_BYTES, MAX_COMPARED};
use super::source::Extent;
use farside_protocol::link::{Verified, Verify};
use std::collections::VecDeque;
use std::ops::Range;

/// A range between what was sent and what was read to be compared.
#[derive(Debug, Clone)]
struct Piece {
    range: Range<u64>,
    /// Where the sides differ; not known while the question is open.
    differing: Option<VecDeque<Range<u64>>>,
}

/// What to do where the copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before it was compared.
    Wait,
    /// So many bytes are the same on both sides.
    Same(u64),
    /// At most so many are to be read and sent.
    Differs(u64),
}

/// The comparison that goes ahead of a copy.
#[derive(Debug, Clone)]
pub(super) struct Comparing {
    /// Up to here the image was read to be compared.
    at: u64,
    pieces: VecDeque<Piece>,
    /// Questions that are not answered, also of pieces that were passed meanwhile.
    asked: VecDeque<Verify>,
}

impl Comparing {
    pub(super) fn new(offset: u64) -> Self {
        Self {
            at: offset,
            pieces: VecDeque::new(),
            asked: VecDeque::new(),
        }
    }

    /// Where the image is to be read next, if more is to be compared now.
    pub(super) fn wants(&mut self, sent_offset: u64, volume_bytes: u64) -> Option<u64> {
        self.at = self.at.max(sent_offset);
        let has_room = self.pieces.len() < MAX_COMPARED && self.asked.len() < MAX_COMPARED;
        (has_room && self.at < volume_bytes).then_some(self.at)
    }

    /// What was read there. False: it is not what was asked for.
    pub(super) fn read(&mut self, extent: Extent, question: Option<Verify>) -> bool {
        let (offset, length) = match extent {
            Extent::Data { offset, length } => (offset, u64::from(length)),
            Extent::Hole { offset, length } | Extent::Same { offset, length } => (offset, length),
            Extent::End => return false,
        };
        let Some(end) = offset
            .checked_add(length)
            .filter(|end| offset == self.at && *end > offset)
        else {
            return false;
        };
        let range = offset..end;
        // What has no data costs nothing to be sent.
        let differing = question.is_none().then(|| VecDeque::from([range.clone()]));
        self.asked.extend(question);
        self.at = end;
        self.pieces.push_back(Piece { range, differing });
        true
    }

    /// Takes an answer; false if it is none to the oldest question.
    pub(super) fn answered(&mut self, answer: &Verified) -> bool {
        let told = (answer.record, answer.offset, answer.length);
        let is_it = |asked: &&Verify| (asked.record, asked.offset, asked.length) == told;
        if self.asked.front().filter(is_it).is_none() {
            return false;
        }
        self.asked.pop_front();
        let of = |piece: &&mut Piece| piece.range.start == answer.offset && piece.differing.is_none();
        if let Some(piece) = self.pieces.iter_mut().find(of) {
            piece.differing = Some(joined(answer.differing()));
        }
        true
    }

    /// What to do at `sent_offset`.
    pub(super) fn next(&mut self, sent_offset: u64) -> Next {
        while self
            .pieces
            .pop_front_if(|piece| piece.range.end <= sent_offset)
            .is_some()
        {}
        let front = self
            .pieces
            .front_mut()
            .filter(|piece| piece.range.start <= sent_offset);
        let Some((range, differing)) =
            front.and_then(|piece| Some((piece.range.clone(), piece.differing.as_mut()?)))
        else {
            return Next::Wait;
        };
        while differing.pop_front_if(|part| part.end <= sent_offset).is_some() {}
        match differing.front() {
            Some(part) if part.start <= sent_offset => Next::Differs(part.end.saturating_sub(sent_offset)),
            Some(part) => Next::Same(part.start.saturating_sub(sent_offset)),
            None => Next::Same(range.end.saturating_sub(sent_offset)),
        }
    }
}

/// Parts with little between them are one: a frame costs more than that.
fn joined(parts: Vec<Range<u64>>) -> VecDeque<Range<u64>> {
    let mut all: VecDeque<Range<u64>> = VecDeque::new();
    for part in parts {
        let near = |last: &&mut Range<u64>| part.start.saturating_sub(last.end) <= COMPARE_GAP_BYTES;
        match all.back_mut().filter(near) {
            Some(last) => last.end = part.end,
            None => all.push_back(part),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_protocol::link::digests;

    fn ask(comparing: &mut Comparing, offset: u64, data: &[u8]) -> (Verify, Vec<u8>) {
        let length = u32::try_from(data.len()).unwrap();
        let told = digests(data);
        let question = Verify::new(7, (offset, length), &told);
        assert!(comparing.read(Extent::Data { offset, length }, Some(question)));
        (question, told)
    }

    #[test]
    fn what_is_the_same_is_left_out_and_neighbours_that_differ_go_together() {
        let mut comparing = Comparing::new(0);
        let ours = vec![7; 64 << 10];
        let mut theirs = ours.clone();
        (theirs[4096], theirs[20480], theirs[61440]) = (1, 1, 1);
        assert_eq!(comparing.wants(0, 1 << 20), Some(0));
        let (question, told) = ask(&mut comparing, 0, &ours);
        assert_eq!(comparing.next(0), Next::Wait);
        assert!(comparing.answered(&question.answer(&told, Some(&theirs))));
        assert_eq!(comparing.next(0), Next::Same(4096));
        assert_eq!(comparing.next(4096), Next::Differs(20480));
        assert_eq!(comparing.next(8192), Next::Differs(16384));
        assert_eq!(comparing.next(24576), Next::Same(36864));
        assert_eq!(comparing.next(61440), Next::Differs(4096));
        assert_eq!(comparing.next(65536), Next::Wait);
    }

    #[test]
    fn what_was_not_asked_is_no_answer_and_one_that_comes_late_harms_nothing() {
        let mut comparing = Comparing::new(0);
        let (first, told) = ask(&mut comparing, 0, &[1; 4096]);
        let (second, _) = ask(&mut comparing, 4096, &[1; 4096]);
        let same = first.answer(&told, Some(&[1; 4096]));
        assert!(!comparing.answered(&second.answer(&told, Some(&[1; 4096]))));
        // The copy went on over both, by a hole that was longer.
        assert_eq!(comparing.next(1 << 20), Next::Wait);
        assert_eq!(comparing.wants(1 << 20, 2 << 20), Some(1 << 20));
        assert!(comparing.answered(&same) && !comparing.answered(&same));
        assert!(comparing.answered(&second.answer(&told, Some(&[1; 4096]))));
        assert!(!comparing.read(Extent::Hole { offset: 5, length: 1 }, None));
    }

    #[test]
    fn no_more_than_so_many_pieces_are_ahead() {
        let mut comparing = Comparing::new(0);
        let mut count = 0;
        while let Some(offset) = comparing.wants(0, u64::MAX) {
            assert!(comparing.read(Extent::Hole { offset, length: 1 }, None));
            count += 1;
        }
        assert_eq!(count, MAX_COMPARED);
    }
}
