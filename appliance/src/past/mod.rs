//! A moment of a replica as a disk that hosts can attach: read-only, or with a scratch over it that is forgotten.

mod scratch;
mod snapshot;
#[cfg(test)]
mod tests;

pub use snapshot::{OneExport, Snapshot};
