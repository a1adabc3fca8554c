//! What the checker found.

use super::history::{Operation, OperationId, Time};

/// One way in which an image is no state the disk ever had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Bytes that no operation of the history can have left there.
    Foreign {
        /// First byte.
        offset: u64,
        /// The first bytes found.
        found: Vec<u8>,
    },
    /// An operation that must be in the image, and a range where something older is.
    Missing {
        /// The operation that must be there.
        operation: Operation,
        /// First byte where it is not.
        offset: u64,
        /// What is there: an operation, or 0 for what was there before the first.
        instead: OperationId,
        /// Why it must be there.
        because: Because,
    },
    /// Two overlapping operations, each on top of the other somewhere: no order explains it.
    Interleaved {
        /// One operation.
        one: OperationId,
        /// The other.
        other: OperationId,
        /// A byte where `one` is on top.
        offset: u64,
    },
}

/// Why an operation must be in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A part of it is there.
    PartIsVisible,
    /// It was acknowledged before this operation, which is visible, was submitted.
    OlderThanVisible(OperationId),
    /// It was acknowledged before a moment that the image must cover.
    Demanded,
}

/// The result of one check.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is wrong; empty for a state the disk once had.
    pub violations: Vec<Violation>,
    /// How many more there were than are listed.
    pub more: u64,
    /// The image surely contains everything acknowledged before this moment.
    pub horizon: Time,
    /// Operations of which something is visible.
    pub visible: u64,
    /// Operations that had to be there.
    pub required: u64,
}

impl Report {
    /// Whether the image is a state the disk once had.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        self.violations.is_empty()
    }

    /// Refuses an image that is not.
    ///
    /// # Errors
    /// With `what` and the first violations.
    pub fn expect_prefix(self, what: &str) -> anyhow::Result<Self> {
        if self.is_prefix() {
            return Ok(self);
        }
        let total = self.violations.len() as u64 + self.more;
        let shown: Vec<String> = self
            .violations
            .iter()
            .take(8)
            .map(|found| format!("  {found}"))
            .collect();
        anyhow::bail!(
            "{what} is no state the disk ever had, {total} violations:\n{}",
            shown.join("\n")
        )
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign { offset, found } => write!(out, "byte {offset}: nobody wrote {found:02x?}"),
            Self::Missing {
                operation,
                offset,
                instead,
                because,
            } => {
                let id = operation.id;
                let (kind, start, length) = (operation.kind, operation.offset, operation.length);
                write!(
                    out,
                    "byte {offset}: operation {id} ({kind:?} {start}+{length}, submitted {}, ",
                    operation.submitted
                )?;
                write!(
                    out,
                    "acknowledged {:?}) is missing, there is {instead} instead; ",
                    operation.acknowledged
                )?;
                match because {
                    Because::PartIsVisible => write!(out, "another part of it is there"),
                    Because::OlderThanVisible(newer) => write!(out, "{newer} is there, which came later"),
                    Because::Demanded => write!(out, "it was acknowledged before the image was taken"),
                }
            }
            Self::Interleaved { one, other, offset } => {
                write!(
                    out,
                    "byte {offset}: {one} lies over {other} here, and under it elsewhere"
                )
            }
        }
    }
}
