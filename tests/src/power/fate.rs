//! What becomes of written, unflushed data when the power goes.

use super::SECTOR_BYTES;
use super::disk::Write;
use crate::Random;

/// What survives of the unflushed writes. Sectors are never torn; everything larger may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Nothing,
    /// Everything: the disk was quick.
    Everything,
    /// The first writes, in the order of their arrival; the last of them may be torn.
    InOrder,
    /// Each sector of each write with this chance in percent, whatever came before or after it.
    Scattered(u64),
}

impl Fate {
    /// Any of them; the scattered ones most of the time, because they are the hardest.
    #[must_use]
    pub fn any(random: &mut Random) -> Self {
        match random.below(10) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::InOrder,
            _ => Self::Scattered([5, 30, 50, 70, 95][usize::try_from(random.below(5)).unwrap_or(0)]),
        }
    }

    /// The sectors that reach the medium, in the order in which they do: byte offset and content.
    pub(super) fn survivors<'w>(self, writes: &'w [Write], random: &mut Random) -> Vec<(u64, &'w [u8])> {
        let sectors = writes.iter().flat_map(Write::sectors);
        match self {
            Self::Nothing => Vec::new(),
            Self::Everything => sectors.collect(),
            Self::InOrder => {
                let total: usize = writes.iter().map(|write| write.data.len() / SECTOR_BYTES).sum();
                let kept = random.below(total as u64 + 1);
                sectors.take(usize::try_from(kept).unwrap_or(total)).collect()
            }
            Self::Scattered(percent) => sectors.filter(|_| random.chance(percent)).collect(),
        }
    }
}
