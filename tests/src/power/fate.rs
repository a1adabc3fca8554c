//! What becomes of written, unflushed data when the power goes.

use super::disk::Write;
use crate::Random;

/// What survives of the unflushed writes. The units of a disk are never torn; everything larger may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Nothing,
    /// Everything: the disk was quick.
    Everything,
    /// The first writes, in the order of their arrival; the last of them may be torn.
    InOrder,
    /// Each unit of each write with this chance in percent, whatever came before or after it.
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

    /// What reaches the medium, in the order in which it does: byte offset and content.
    pub(super) fn survivors<'w>(
        self,
        writes: &'w [Write],
        unit: usize,
        random: &mut Random,
    ) -> Vec<(u64, &'w [u8])> {
        let parts = writes.iter().flat_map(|write| write.parts(unit));
        match self {
            Self::Nothing => Vec::new(),
            Self::Everything => parts.collect(),
            Self::InOrder => {
                let all: Vec<_> = parts.collect();
                let kept = random.below(all.len() as u64 + 1);
                all.into_iter()
                    .take(usize::try_from(kept).unwrap_or(usize::MAX))
                    .collect()
            }
            Self::Scattered(percent) => parts.filter(|_| random.chance(percent)).collect(),
        }
    }
}
