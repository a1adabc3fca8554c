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

/// How often it looks.
pub(super) const DRAIN_POLL: Duration = Duration::from_millis(10);
