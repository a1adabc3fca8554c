//! What damage excuses.

use super::{History, SECTOR};
use std::collections::{BTreeMap, BTreeSet};

impl History {
    /// Whether a range shows the volume after at least `from` and at most `to`, but for up to `bits` bits of each sector.
    #[must_use]
    pub fn explains_nearly(&self, offset: usize, found: &[u8], (from, to): (u64, u64), bits: u32) -> bool {
        let mut state = self.range_after(from, offset..offset + found.len());
        let differ = |state: &[u8]| {
            let pairs = state.iter().zip(found).enumerate();
            let mut sectors = BTreeMap::<usize, u32>::new();
            for (at, (ours, theirs)) in pairs.filter(|(_, (ours, theirs))| ours != theirs) {
                *sectors.entry((offset + at) / SECTOR).or_default() += (ours ^ theirs).count_ones();
            }
            let differ = sectors.into_iter().filter(|(_, differ)| *differ > bits);
            differ.map(|(sector, _)| sector).collect::<BTreeSet<_>>()
        };
        let mut open = differ(&state);
        for entry in self.between(from, to) {
            if entry.apply(&mut state, offset) {
                open = open.intersection(&differ(&state)).copied().collect();
            }
        }
        open.is_empty()
    }
}
