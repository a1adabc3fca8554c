//! What disks do wrong.

use crate::platter::{PAGE, SECTOR};
use crate::stats::happened;
use farside_tests::random::Random;

/// A fault that the next matching call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A read fails; the next one succeeds.
    Read,
    /// A write fails, of which a part was done.
    Write,
    /// There is no space for a write.
    NoSpace,
    /// A sync fails, and what it should have written may be lost.
    Sync,
}

impl Fault {
    /// What it is counted as when a call meets it.
    fn met(self) -> &'static str {
        match self {
            Self::Read => "reads that failed",
            Self::Write => "writes that failed",
            Self::NoSpace => "writes without space",
            Self::Sync => "syncs that failed",
        }
    }
}

/// One in so many faults stays until the disk is healed.
const LASTING: u64 = 4;

/// A fault that is going to be met.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Calls of its kind that still succeed.
    calls: u64,
    pub(crate) fault: Fault,
    /// All further calls meet it, too.
    pub(crate) lasts: bool,
}

impl Planned {
    pub(crate) fn new(fault: Fault, calls: u64) -> Self {
        let lasts = calls % LASTING == LASTING - 1;
        Self { calls, fault, lasts }
    }

    /// A call of its kind is made; whether it fails.
    pub(crate) fn is_met(&mut self) -> bool {
        let waits = self.calls > 0;
        self.calls = self.calls.saturating_sub(1);
        if !waits {
            happened(self.fault.met());
            if self.lasts {
                happened("calls that met a fault that lasts");
            }
        }
        !waits
    }
}

/// What a failed sync did not write, and nobody ever will.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lost {
    /// It wrote everything all the same.
    Nothing,
    /// It wrote nothing.
    Everything,
    /// It wrote some pages, others not.
    Pages(u64),
    /// It wrote some sectors, others not.
    Sectors(u64),
}

impl Lost {
    /// One of them, by two random numbers.
    pub(crate) fn draw(which: u64, seed: u64) -> Self {
        match which % 6 {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Pages(seed),
            _ => Self::Sectors(seed),
        }
    }

    /// Whether it is this sector.
    pub(crate) fn has(self, sector: usize, whole_pages: bool) -> bool {
        let page = sector * SECTOR / PAGE;
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Sectors(seed) if !whole_pages => coin(seed, sector),
            Self::Pages(seed) | Self::Sectors(seed) => coin(seed, page),
        }
    }
}

/// The same for the same place.
fn coin(seed: u64, place: usize) -> bool {
    Random::new(seed ^ (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).chance(50)
}
