//! Farside units under test: a pair in one process (`up`), or local and remote as two processes with a faulty network
//! between them. Both are found by the same names: `mirror`, `replica`, `endpoint`.

mod unit;
mod config;
mod pair;
mod two;

pub use config::{configured, local_unit, remote_unit, unit_toml, volume_toml};
pub use pair::Pair;
pub use two::TwoUnits;
pub(crate) use unit::in_service;
pub use unit::{Unit, farside_command};

/// The volume every test uses unless it is about several.
pub const VOLUME: &str = "disk0";

/// What a disk is attached with: tests that are about the disk run over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// NBD over TCP.
    Nbd,
    /// iSCSI, in blocks of 512 bytes.
    Iscsi,
}

impl Protocol {
    /// Where offsets and lengths have to begin and end.
    #[must_use]
    pub const fn unit_bytes(self) -> u64 {
        match self {
            Self::Nbd => 1,
            Self::Iscsi => 512,
        }
    }
}

/// Sizes of the volume under test.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Size of the disk in MiB.
    pub disk_mib: u64,
    /// Size of the journal in MiB.
    pub journal_mib: u64,
}

impl Sizes {
    /// A disk of 64 MiB with a journal of 16 MiB, so that the journal wraps soon.
    pub const SMALL: Self = Self {
        disk_mib: 64,
        journal_mib: 16,
    };

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn disk_bytes(self) -> u64 {
        self.disk_mib << 20
    }
}
