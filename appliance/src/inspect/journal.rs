//! A journal: both superblocks, then the chain from the tail on, judged as a start would judge it.

use super::report::{
    Body, ChainReport, ChunkLine, ChunkReport, CopyReport, Damage, EndReport, JournalReport, RecordReport,
    RingReport, time,
};
use super::{InspectError, Inspection, Options, text};
use farside_protocol::journal::limits::SUPERBLOCK_OFFSETS;
use farside_protocol::journal::{FormatError, Superblock};
use farside_storage::{RingSurvey, Scan, ScannedChunk, StorageError, recover};
use std::sync::Arc;

/// How often a journal that moves on under the scan is followed to its new tail.
const MOVES: usize = 8;
/// Nothing is shown the second time.
const QUIET: Options = Options {
    json: false,
    chunks: false,
    records: false,
};
/// How often damage is looked at again before it counts.
const CONFIRMATIONS: usize = 4;

impl Inspection<'_> {
    pub(super) fn journal(&mut self) -> Result<(Body, Option<Damage>), InspectError> {
        let (superblocks, found) = self.superblocks()?;
        let mut report = JournalReport {
            superblock: found.as_ref().map(Into::into),
            superblocks,
            chain: ChainReport::default(),
            ring: RingReport::default(),
            changed_meanwhile: false,
        };
        let damage = match found {
            Some(found) => self.check(&found, &mut report)?,
            None => Some(Damage {
                offset: 0,
                problem: "both copies of the superblock are unreadable; restore the file, or remove the volume and \
                          create it again from the remote's copy"
                    .to_owned(),
            }),
        };
        Ok((Body::Journal(Box::new(report)), damage))
    }

    /// Both copies, and the one in force.
    fn superblocks(&mut self) -> Result<(Vec<CopyReport>, Option<Superblock>), InspectError> {
        let mut found: Option<Superblock> = None;
        let mut copies = Vec::new();
        for offset in SUPERBLOCK_OFFSETS {
            let (generation, problem) = match Superblock::decode(&self.block(offset)?) {
                Ok(superblock) => {
                    let generation = superblock.generation;
                    if found.as_ref().is_none_or(|other| other.generation < generation) {
                        found = Some(superblock);
                    }
                    (Some(generation), None)
                }
                Err(version @ FormatError::Version(..)) => return Err(self.unrecognised(version.to_string())),
                Err(error) => (None, Some(error.to_string())),
            };
            copies.push(CopyReport {
                offset,
                generation,
                problem,
                in_force: false,
            });
        }
        let newest = found.as_ref().map(|superblock| superblock.generation);
        for copy in &mut copies {
            copy.in_force = newest.is_some() && copy.generation == newest;
        }
        Ok((copies, found))
    }

    fn check(
        &mut self,
        found: &Superblock,
        report: &mut JournalReport,
    ) -> Result<Option<Damage>, InspectError> {
        let needed = found.journal_bytes();
        if self.size_bytes < needed {
            return Ok(Some(Damage {
                offset: self.size_bytes,
                problem: format!("the file ends here, the journal at byte {needed}; restore it"),
            }));
        }
        let mut damage = self.judge(found.generation, report)?;
        // A unit that writes meanwhile can make a chunk look damaged once, but hardly the same one twice.
        let options = std::mem::replace(&mut self.options, QUIET);
        let mut confirmed = false;
        for _ in 0..CONFIRMATIONS {
            let Some(offset) = damage.as_ref().filter(|_| !confirmed).map(|damage| damage.offset) else {
                break;
            };
            report.chain = ChainReport::default();
            damage = self.judge(found.generation, report)?;
            confirmed = damage.as_ref().is_some_and(|damage| damage.offset == offset);
        }
        self.options = options;
        report.changed_meanwhile |= damage.is_some() && !confirmed;
        Ok(damage.filter(|_| confirmed))
    }

    /// Walks the chain and judges it as a start would.
    fn judge(&mut self, generation: u64, report: &mut JournalReport) -> Result<Option<Damage>, InspectError> {
        let mut scan = Scan::new(self.device.clone()).map_err(|error| self.failed(&error))?;
        let survey = scan.survey().map_err(|error| self.failed(&error))?;
        report.ring = ring(&survey);
        let broken = self.walk(&mut scan, generation, report)?;
        let device = Arc::clone(&self.device);
        // What was never durable may be torn: only damage at or before the recovered head is damage.
        match recover(device.as_ref(), scan.superblock()) {
            Ok(recovered) => {
                report.chain.recovered_record = Some(recovered.head.record);
                Ok(broken.and_then(|(last, damage)| (last <= recovered.head.record).then_some(damage)))
            }
            Err(StorageError::Damaged { offset, problem, .. }) => {
                let here = Damage { offset, problem };
                Ok(Some(broken.map_or(here, |(_, damage)| damage)))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Walks the chain to its end; the first chunk with a bad payload, by its last record.
    fn walk(
        &mut self,
        scan: &mut Scan,
        generation: u64,
        report: &mut JournalReport,
    ) -> Result<Option<(u64, Damage)>, InspectError> {
        let mut broken = None;
        for _ in 0..MOVES {
            while let Some(chunk) = scan.next_chunk().map_err(|error| self.failed(&error))? {
                count(&mut report.chain, &chunk);
                if !chunk.intact && broken.is_none() {
                    let problem = format!(
                        "payload checksum mismatch in chunk {}",
                        chunk.what.header.sequence
                    );
                    let offset = chunk.file_offset;
                    broken = Some((chunk.what.last_record(), Damage { offset, problem }));
                }
                self.show(&chunk)?;
            }
            let moved = scan.catch_up().map_err(|error| self.failed(&error))?;
            report.changed_meanwhile |= moved || scan.superblock().generation != generation;
            if !moved {
                break;
            }
            // What was read last may have been overwritten while it was read.
            broken = None;
        }
        let ends = scan.end().map_err(|error| self.failed(&error))?;
        let ends = ends
            .into_iter()
            .map(|(offset, found)| EndReport { offset, found });
        report.chain.end = ends.collect();
        Ok(broken)
    }

    fn show(&mut self, chunk: &ScannedChunk<'_>) -> Result<(), InspectError> {
        if !self.options.chunks {
            return Ok(());
        }
        let header = &chunk.what.header;
        let table = self.options.records.then(|| {
            let numbered = (header.first_record..).zip(chunk.what.records());
            numbered
                .map(|(number, record)| RecordReport::new(number, &record))
                .collect()
        });
        let chunk = ChunkReport {
            sequence: header.sequence,
            epoch: header.epoch,
            records: chunk.what.record_count(),
            first_record: header.first_record,
            last_record: chunk.what.last_record(),
            sealed_at: time(header.sealed_at_us),
            offset: chunk.file_offset,
            bytes: chunk.what.stored_bytes(),
            data_bytes: chunk.what.data_bytes,
            intact: chunk.intact,
            table,
        };
        if self.options.json {
            return self.line(&ChunkLine { chunk });
        }
        Ok(text::chunk(&chunk, self.out)?)
    }
}

fn count(chain: &mut ChainReport, chunk: &ScannedChunk<'_>) {
    chain.chunks += 1;
    chain.records += chunk.what.record_count() as u64;
    chain.bytes += chunk.what.stored_bytes();
    chain.first_record.get_or_insert(chunk.what.header.first_record);
    chain.last_record = Some(chunk.what.last_record());
}

fn ring(survey: &RingSurvey) -> RingReport {
    RingReport {
        segments_with_chunks: survey.with_chunks,
        segments_empty: survey.empty,
        segments_unknown: survey.unknown,
        oldest_sequence: survey.oldest,
        newest_sequence: survey.newest,
    }
}
