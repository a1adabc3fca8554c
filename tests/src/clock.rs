//! The tests' one door to time, and the switch between short and long runs.

use crate::limits;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// The current time of the monotonic clock.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "tests drive real processes, so they need real time; this is their one door"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// A number that differs from run to run, for seeds.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "a fresh seed is wanted here; it is printed, so the run can be repeated"
)]
pub fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or(0, |passed| {
        u64::from(passed.subsec_nanos()) ^ (passed.as_secs() << 30)
    });
    nanos ^ u64::from(std::process::id())
}

/// Whether the long lengths are asked for (`FARSIDE_SOAK=1`).
#[must_use]
pub fn long_run() -> bool {
    std::env::var("FARSIDE_SOAK").is_ok_and(|value| value != "0" && !value.is_empty())
}

/// `short`, or `long` when the soak lengths are asked for.
#[must_use]
pub fn soak<T>(short: T, long: T) -> T {
    if long_run() { long } else { short }
}

/// Waits until `condition` says yes.
///
/// # Errors
/// When the time is over, with what was waited for and what was last seen; or the condition's own error.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Seen>) -> Result<()> {
    let start = now();
    loop {
        let seen = match condition()? {
            Seen::Yes => return Ok(()),
            Seen::NotYet(seen) => seen,
        };
        if start.elapsed() > limit {
            bail!("waited {} s for {what}; last seen: {seen}", limit.as_secs());
        }
        std::thread::sleep(limits::POLL);
    }
}

/// What a look at a condition found.
#[derive(Debug)]
pub enum Seen {
    /// It holds.
    Yes,
    /// It does not hold yet, and this is what there is instead.
    NotYet(String),
}

impl Seen {
    /// `Yes` if `holds`, else the description of what is there.
    pub fn when(holds: bool, otherwise: impl FnOnce() -> String) -> Self {
        if holds {
            Self::Yes
        } else {
            Self::NotYet(otherwise())
        }
    }
}
