//! Every limit of this crate, by name.

use std::time::Duration;

/// Largest request body; commands are a few hundred bytes.
pub(crate) const REQUEST_BODY_BYTES: usize = 64 * 1024;

/// Largest request head with all its header lines.
pub(crate) const REQUEST_HEAD_BYTES: usize = 16 * 1024;

/// How long a client may take to send the head of a request, and how long a connection may be idle.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections served at the same time on one listener; the next one waits in the backlog.
pub(crate) const CONNECTIONS: usize = 256;

/// How long a connection to the console lives: no client, however slow it sends or reads, keeps its place for
/// longer. Browsers just connect again. The control socket has no such bound: commands may take their time.
pub(crate) const CONSOLE_CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// How long a shutdown waits for answers under way.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the page of the console loads itself again, in seconds.
pub(crate) const PAGE_REFRESH_SECONDS: u32 = 2;
