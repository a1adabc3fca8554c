//! Tests of inspection.
