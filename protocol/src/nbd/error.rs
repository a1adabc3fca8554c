//! The error values of the protocol, and what makes bytes impossible to understand.

/// Error value of a reply, section "Error values".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// Operation not permitted: a change to a read-only export.
    Perm = 1,
    /// Input/output error.
    Io = 5,
    /// Invalid argument: unknown command or flag, a range outside the export.
    Inval = 22,
    /// No space left, also for a write beyond the end of the export.
    NoSpc = 28,
    /// Value too large: a read that cannot be sent unfragmented.
    Overflow = 75,
    /// The server is being shut down, or the export is being removed.
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// A sentence for the human at the other end, carried by structured error chunks.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Perm => "the export is read-only",
            Self::Io => "the disk failed or is degraded; see the unit's status",
            Self::Inval => "unknown command or flag, or a range outside the export",
            Self::NoSpc => "no space left, or a write beyond the end of the export",
            Self::Overflow => "the read is longer than the maximum payload size",
            Self::Shutdown => "the export is being shut down; connect again later",
        }
    }
}

/// Bytes after which the two sides no longer agree where a message starts; the connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An option does not start with [`OPTION_MAGIC`](super::OPTION_MAGIC).
    #[error("option starts with {0:#018x} instead of IHAVEOPT; is the peer an NBD client?")]
    OptionMagic(u64),
    /// A request does not start with [`REQUEST_MAGIC`](super::REQUEST_MAGIC).
    #[error("request starts with {0:#010x} instead of the NBD request magic")]
    RequestMagic(u32),
    /// The client set flags that were not offered ("Client flags": the server must drop the connection).
    #[error("client flags {0:#010x} contain bits that were not offered")]
    ClientFlags(u32),
}
