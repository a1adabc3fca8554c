//! The file that `farside up` writes at its first start.

use super::limits;
use std::net::SocketAddr;

/// What the first start of `farside up` decides.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Size of `disk0`, as text.
    pub size: String,
    /// Size of its journals, as text.
    pub journal_size: String,
    /// Where hosts attach.
    pub nbd: SocketAddr,
    /// Where initiators attach; nowhere if there is none.
    pub iscsi: Vec<SocketAddr>,
    /// Where the remote half listens.
    pub link: SocketAddr,
    /// Where the console is.
    pub console: SocketAddr,
}

impl Default for Pair {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            size: limits::VOLUME_SIZE_DEFAULT.to_owned(),
            journal_size: limits::JOURNAL_SIZE_DEFAULT.to_owned(),
            nbd: loopback(10809),
            iscsi: Vec::new(),
            link: loopback(10900),
            console: loopback(8480),
        }
    }
}

/// The text of the file. Paths in it are relative, so that the directory can be moved.
pub fn pair(pair: &Pair) -> String {
    let Pair {
        size,
        journal_size,
        nbd,
        iscsi,
        link,
        console,
    } = pair;
    let portals: Vec<String> = iscsi.iter().map(|address| format!("\"{address}\"")).collect();
    let portals = portals.join(", ");
    format!(
        r#"# Configuration of this Farside directory, written by the first 'farside up'.
# Later starts and 'farside volume create' use it; edit it as you like, comments stay.
# 'farside config check FILE' judges it, SIGHUP makes a running unit read it again.
# Paths are relative to this file. Sizes are binary: 1K is 1024 bytes.

[unit]
name = "farside"
data_dir = "."
volumes_dir = "local/volumes"      # one directory per volume
replicas_dir = "remote/replicas"   # one directory per replica
control_socket = "control.sock"
log = "info"                       # error, warn, info, debug, trace

# Where hosts attach their disks.
[nbd]
listen = ["{nbd}"]
socket = "nbd.sock"

# The same over iSCSI, where an address is given: "127.0.0.1:3260" is the usual one.
[iscsi]
listen = [{portals}]

# Where this unit accepts replicas. Here it is its own remote, over real TCP on loopback.
[link]
listen = ["{link}"]
journal_size = "{journal_size}"           # of each replica

[console]
listen = "{console}"

[[volume]]
name = "disk0"
size = "{size}"
journal_size = "{journal_size}"

[[volume.remote]]
name = "remote"
address = "{link}"
"#
    )
}
