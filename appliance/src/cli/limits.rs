//! Every limit of the command line, by name.

use std::time::Duration;

/// How long a unit may take to accept a connection on its control socket.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take that waits for no disk.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a command may take; creating a volume reserves the space of its journal.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

/// Largest answer read: the status of some ten thousand volumes.
pub(super) const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Longest line that work which lasts may say.
pub(super) const LINE_BYTES: usize = 1024 * 1024;

/// How long a volume may take to grow: a large device that has to be filled with zeroes.
pub(super) const RESIZE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How often `wait` looks.
pub(super) const WAIT_INTERVAL: Duration = Duration::from_millis(50);

/// How often `status --watch` draws.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Sockets of running units looked at when none is named.
pub(super) const ANNOUNCED_UNITS: usize = 64;

/// How long a unit that was told twice to stop may hold its process up.
pub(super) const FORCED_EXIT: Duration = Duration::from_millis(200);

/// How often `verify` looks.
pub(super) const VERIFY_INTERVAL: Duration = Duration::from_millis(100);
