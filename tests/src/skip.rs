//! Skipping with a printed reason, and counting how often.
//!
//! The line goes to standard error itself, past the test runner's capture, so that a skip never looks like a pass.
//! With `FARSIDE_SKIP_LOG=FILE` each skip is appended there too, for a count over all test programs.

use std::io::Write as _;

/// A reason why a test cannot run on this machine.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skipped {}

/// An error that `promise` turns into a printed skip.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skipped(reason.into()))
}

/// Prints and counts one skip.
pub fn record(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    // A closed standard error is no reason to fail a test.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Ok(path) = std::env::var("FARSIDE_SKIP_LOG") else {
        return;
    };
    if let Ok(mut log) = std::fs::File::options().create(true).append(true).open(path) {
        let _ = log.write_all(line.as_bytes());
    }
}
