//! Writes to a volume that leaves out what changes nothing: some of what a host asks for never reaches the journal, because
//! it is there already. Whoever is told that it is done is promised no less.

use super::{Asked, History};
use crate::host::Question;
use crate::stats::happened;
use farside_protocol::journal::{Record, RecordKind};
use farside_tests::random::Random;

/// Writes that say what is there already, in percent.
const REPEATED: u64 = 60;
/// Of what such a write covers, what is new all the same, block by block.
const NEW: u64 = 25;
const BLOCK: usize = 4096;

impl History {
    /// Makes most writes of a volume that leaves out what changes nothing repeat what is there.
    pub fn repeat(&self, random: &mut Random, question: &mut Question) {
        let Question::Change {
            offset,
            bytes,
            kind: RecordKind::Write,
            ..
        } = question
        else {
            return;
        };
        if !self.leaves_out || !random.chance(REPEATED) {
            return;
        }
        let start = usize::try_from(*offset).unwrap_or(usize::MAX);
        let mut repeated = self.range_after(self.last(), start..start + bytes.len());
        for (block, new) in repeated.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK)) {
            if random.chance(NEW) {
                block.copy_from_slice(new);
            }
        }
        *bytes = repeated.into();
    }

    /// Whether the record is a part of a write that somebody waits for.
    pub(super) fn is_part_of_what_is_asked(&self, record: &Record, bytes: &[u8]) -> bool {
        self.asked.iter().any(|asked| {
            let Some(at) = record.offset.checked_sub(asked.offset) else {
                return false;
            };
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let part = asked.bytes.get(at..at.saturating_add(bytes.len()));
            asked.kind == record.kind && part == Some(bytes)
        })
    }

    /// The record with which the volume held what was asked for: at some moment between question and answer all of it did,
    /// whoever brought it there.
    ///
    /// # Panics
    /// When there was no such moment.
    pub(super) fn took_effect(&self, asked: &Asked, covered: u64) -> u64 {
        let start = usize::try_from(asked.offset).unwrap_or(usize::MAX);
        let range = start..start + asked.bytes.len();
        let mut state = self.range_after(asked.since, range.clone());
        if *state == *asked.bytes {
            happened("writes that changed nothing");
            let touches = |record: &u64| {
                let entry = self.between(record - 1, *record).next();
                entry.is_some_and(|entry| {
                    entry.offset < range.end && range.start < entry.offset + entry.bytes.len()
                })
            };
            return (1..=asked.since).rev().find(touches).unwrap_or(0);
        }
        let covered = covered.min(self.last());
        for (record, entry) in (asked.since + 1..).zip(self.between(asked.since, covered)) {
            if entry.apply(&mut state, start) && *state == *asked.bytes {
                return record;
            }
        }
        panic!(
            "acknowledged, and after none of the records {}..={covered} the volume held the {} bytes at {}",
            asked.since,
            asked.bytes.len(),
            asked.offset
        );
    }
}
