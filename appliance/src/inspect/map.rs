//! A dirty-block map: how much is marked.

use super::report::{Body, Damage, MapReport};
use super::{InspectError, Inspection};
use farside_protocol::journal::BlockMapHeader;
use farside_protocol::journal::limits::BLOCK_BYTES_U64;
use farside_storage::Device;

/// Bytes of the map read at once.
const PIECE_BYTES: u64 = 1 << 20;

impl Inspection<'_> {
    pub(super) fn map(&mut self, header: BlockMapHeader) -> Result<(Body, Option<Damage>), InspectError> {
        let end = BLOCK_BYTES_U64 + header.bits.div_ceil(8);
        let readable = end.min(self.size_bytes);
        let (mut at, mut marked_bits) = (BLOCK_BYTES_U64, 0);
        while at < readable {
            let mut piece = vec![0; usize::try_from(PIECE_BYTES.min(readable - at)).unwrap_or(0)];
            self.device
                .read_at(&mut piece, at)
                .map_err(|error| self.failed(&error))?;
            marked_bits += piece.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            at += piece.len() as u64;
        }
        let damage = (readable < end).then(|| Damage {
            offset: self.size_bytes,
            problem: format!("the file ends here, the map at byte {end}; a start makes it anew"),
        });
        let report = MapReport {
            volume: header.volume.to_string(),
            bytes_per_bit: header.block_bytes,
            bits: header.bits,
            marked_bits,
            marked_bytes: marked_bits.saturating_mul(header.block_bytes),
        };
        Ok((Body::DirtyBlockMap(report), damage))
    }
}
