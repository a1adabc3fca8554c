//! The remote unit.
