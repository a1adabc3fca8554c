//! Every time and size the test helpers use, with a name.

use std::time::Duration;

/// How often a condition is looked at while waiting for it.
pub const POLL: Duration = Duration::from_millis(25);
/// How long a unit may take from its start until it answers a status request.
pub const START: Duration = Duration::from_secs(20);
/// How long a unit may take to end after SIGTERM.
pub const STOP: Duration = Duration::from_secs(20);
/// How long one external tool may run before it is ended.
pub const TOOL: Duration = Duration::from_secs(50);
/// How long a status request may take.
pub const STATUS: Duration = Duration::from_secs(5);
/// How long a remote may take to apply everything, once writing has stopped.
pub const CATCH_UP: Duration = Duration::from_secs(45);
/// How long an NBD reply may take before the client calls the server stuck.
pub const NBD_REPLY: Duration = Duration::from_secs(20);
/// How long a pattern writer tries to reach its server again before it gives up.
pub const RECONNECT: Duration = Duration::from_secs(40);
/// The pause between two attempts to reach a server.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How many lines of a log are shown when a test fails.
pub const LOG_TAIL_LINES: usize = 60;
/// The largest transfer the proxy moves at once, in bytes.
pub const PROXY_BUFFER_BYTES: usize = 64 * 1024;
/// How long a proxy thread sleeps before it looks at its orders again.
pub const PROXY_POLL: Duration = Duration::from_millis(20);
/// The longest option reply the NBD client accepts, in bytes.
pub const NBD_OPTION_REPLY_BYTES: u32 = 1024 * 1024;
/// Loopback ports given to servers: below the range the kernel takes for outgoing connections.
pub const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// The most operations one pattern history may hold.
pub const HISTORY_OPERATIONS: usize = 4_000_000;
/// How much a disk with a volatile cache keeps unflushed before it makes everything durable, in bytes.
pub const DISK_CACHE_BYTES: usize = 64 << 20;
/// The largest request to such a disk, in bytes.
pub const DISK_REQUEST_BYTES: u64 = 32 << 20;
/// How long a virtual machine may take from its start until its agent answers.
pub const BOOT: Duration = Duration::from_secs(60);
/// How long a command in a virtual machine may take.
pub const GUEST_COMMAND: Duration = Duration::from_secs(60);
/// How long fetching and unpacking a kernel may take.
pub const KERNEL: Duration = Duration::from_secs(300);
/// How long a planned power cut may wait for its request.
pub const POWER_CUT: Duration = Duration::from_secs(60);
/// The latest request at which a planned power cut comes.
pub const POWER_CUT_REQUESTS: u64 = 150;
