//! Whether what replicas take is part of a volume's history.

use super::History;
use farside_protocol::journal::{ChainPoint, Merged, What};

impl History {
    /// Whether a chunk that ends at this point is part of this history.
    #[must_use]
    pub fn holds(&self, point: &ChainPoint) -> bool {
        let known = self.chunks.get(&(point.epoch, point.sequence));
        point.record == 0 || (point.record <= self.last() && known == Some(&(point.checksum, point.record)))
    }

    /// The same of the point at which a merged batch ends. What is in the batch shows when the image is there.
    fn check_point(&self, end: &ChainPoint) -> bool {
        if self.lost.contains(&(end.epoch, end.sequence, end.checksum)) {
            return false;
        }
        assert!(
            self.holds(end),
            "a merged batch ends where the volume never was: {end:?}"
        );
        assert!(
            end.record <= self.durable || self.lost_its_end,
            "a replica took record {}; the journal is durable up to {} only",
            end.record,
            self.durable
        );
        true
    }

    /// Checks that this is the chunk that the volume's journal had for its epoch and sequence, and durably. False: it
    /// is of a branch that was left.
    ///
    /// # Panics
    /// When it is neither.
    pub fn check_received(&self, what: &What<'_>) -> bool {
        let header = &what.header;
        match &what.merged() {
            None => {}
            // It counts for nothing before the end of its batch comes.
            Some(Merged::More) => return true,
            Some(Merged::End(end)) => return self.check_point(end),
        }
        let known = self.chunks.get(&(header.epoch, header.sequence));
        if self
            .lost
            .contains(&(header.epoch, header.sequence, what.checksum))
        {
            return false;
        }
        let Some((checksum, last)) = known else {
            panic!(
                "a replica took chunk {}/{} that the volume never had",
                header.epoch, header.sequence
            );
        };
        assert_eq!(
            (*checksum, *last),
            (what.checksum, what.last_record()),
            "a replica took another chunk {}/{} than the volume's",
            header.epoch,
            header.sequence
        );
        assert!(
            *last <= self.durable || self.lost_its_end,
            "a replica took record {last}; the journal is durable up to {} only",
            self.durable
        );
        true
    }
}
