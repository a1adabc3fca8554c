//! Every limit of the unit itself, by name.

use std::time::Duration;

/// How long an answer of whoever holds a socket is waited for, to tell a live unit from a stale file.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// TCP connections that may wait to be accepted on one listener.
pub(super) const LISTEN_BACKLOG: u32 = 1024;

/// Most characters of a lock file that are read for the process number in it.
pub(super) const LOCK_TEXT_BYTES: u64 = 32;

/// Access to sockets and identity: the owner only.
pub(super) const OWNER_ONLY: u32 = 0o600;

/// How long a shutdown waits for connected remotes to receive the rest.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long hosts have to read their last answers when a volume is removed.
pub(super) const DETACH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether everything queued is sent.
pub(super) const QUEUE_POLL: Duration = Duration::from_millis(50);

/// How long a bookmark waits until what has been received is in the image.
pub(super) const MOMENT_PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks.
pub(super) const MOMENT_POLL: Duration = Duration::from_millis(5);

/// Moments in one answer if no number is given.
pub(super) const MOMENTS_DEFAULT: u32 = 20;

/// Moments in one answer at most.
pub(super) const MOMENTS_MAX: u32 = 100_000;

/// Bytes of a moment that are copied at a time.
pub(super) const COPY_STEP_BYTES: usize = 1 << 20;

/// How often it looks.
pub(super) const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Written at once of what a remote has differently.
pub(super) const REPAIR_BYTES: u64 = 1 << 20;

/// How often it is looked how far comparing in the background may go.
pub(super) const ROUND_TICK: Duration = Duration::from_secs(1);
/// How fast it goes, in percent of what would do, so that there is time left for when nothing can be compared.
pub(super) const ROUND_SPARE_PERCENT: u128 = 125;
/// How often it is kept how far it is.
pub(super) const ROUND_NOTE_INTERVAL: Duration = Duration::from_secs(30);

/// How often positions are noted for a forecast.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Seconds after which a rate counts only a third.
pub(super) const TREND_SECONDS: f64 = 120.0;

/// How often it is looked which replicas there are to be sent on.
pub(super) const RELAY_LOOK: Duration = Duration::from_millis(200);

/// When it is tried again to send one on that could not be.
pub(super) const RELAY_AGAIN: Duration = Duration::from_secs(5);
