//! Writes that can be told apart for ever, the history of their writing, and the checker that reads an image and says
//! which state of the disk it is.
//!
//! Every 32-byte cell of a write says who wrote it, as which operation, and where it belongs. The history knows when
//! each operation was submitted and acknowledged, on one logical clock. From both the checker decides, without
//! knowing how the disk works, whether an image can be a state the disk once had (see `checker`).

mod cell;
mod history;
mod shape;
mod writer;
mod checker;
mod report;

pub use cell::{CELL_BYTES, fill, read_cell};
pub use checker::{Checker, Demand};
pub use history::{History, Kind, Operation, OperationId, Snapshot, Time};
pub use report::{Report, Violation};
pub use shape::Shape;
pub use writer::{Writer, WriterOptions, WriterTotals};

#[cfg(test)]
mod tests;
