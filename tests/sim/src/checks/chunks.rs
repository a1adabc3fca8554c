//! What is known of each chunk of a volume besides its records: what it takes on a link, and when it was sealed.

use farside_protocol::journal::What;
use farside_protocol::link::limits::HEADER_BYTES;
use std::collections::BTreeMap;

/// The chunks of a volume, by their last record.
#[derive(Debug, Default)]
pub struct Chunks(BTreeMap<u64, Chunk>);

#[derive(Debug)]
struct Chunk {
    checksum: u32,
    wire_bytes: u64,
    sealed_at_us: u64,
}

impl Chunks {
    /// A chunk was written to the volume's journal.
    ///
    /// # Panics
    /// When it calls itself older than the one before it: a remote that took both would go back in time.
    pub fn journaled(&mut self, what: &What<'_>) {
        let (header, last) = (&what.header, what.last_record());
        // Recovery writes some of them once more.
        if self
            .0
            .get(&last)
            .is_some_and(|known| known.checksum == what.checksum)
        {
            return;
        }
        self.0.split_off(&header.first_record);
        let before = self
            .0
            .last_key_value()
            .map_or(0, |(_, before)| before.sealed_at_us);
        assert!(
            header.sealed_at_us >= before,
            "chunk {}/{} was sealed at {}, the one before it at {before}",
            header.epoch,
            header.sequence,
            header.sealed_at_us
        );
        let wire_bytes = (HEADER_BYTES + what.as_bytes().len()) as u64 + u64::from(what.data_bytes);
        let chunk = Chunk {
            checksum: what.checksum,
            wire_bytes,
            sealed_at_us: header.sealed_at_us,
        };
        self.0.insert(last, chunk);
    }

    /// What the chunks after one record and up to another take on a link.
    #[must_use]
    pub fn wire_bytes(&self, after: u64, to: u64) -> u64 {
        let between = self.0.range(after + 1..).take_while(|(last, _)| **last <= to);
        between.map(|(_, chunk)| chunk.wire_bytes).sum()
    }
}
