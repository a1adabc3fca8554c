//! The configuration of a unit: one TOML file, read and judged in one place.
//!
//! Guarantees: what [`parse`] returns is valid as a whole; every refusal says file, line, column and what to
//! do; changes by [`edit`] keep the operator's comments and are written whole or not at all.
//! Never here: opening data files, sockets, reading the time. Whether a mirror holds somebody else's data is
//! for the volume to judge when it opens it.

pub mod limits;
pub mod size;
pub mod edit;
pub mod template;
mod raw;
mod names;
mod check;
mod check_addresses;
mod check_remotes;
mod check_iscsi;
mod places;
mod overrides;
mod file;
mod error;

pub use check::parse;
pub use error::{ConfigError, Problem};
pub use file::{load, read_text, write_text};
pub use names::is_name;
pub use overrides::Overrides;

use crate::link::SendWindows;
use crate::targets::ScsiAddress;
use crate::tls::TlsFiles;
use farside_protocol::link::Compression;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A valid configuration. Paths are absolute; sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The unit as a whole.
    pub unit: UnitConfig,
    /// Where hosts attach.
    pub nbd: NbdConfig,
    /// Where initiators attach.
    pub iscsi: IscsiConfig,
    /// Where other units send replicas, and how this one sends.
    pub link: LinkConfig,
    /// Address of the console, if there is to be one; always loopback.
    pub console_listen: Option<SocketAddr>,
    /// Volumes, in the order of the file.
    pub volumes: Vec<VolumeConfig>,
    /// Replicas whose images lie elsewhere, in the order of the file.
    pub replicas: Vec<ReplicaConfig>,
    /// Bounds an operator may set.
    pub limits: LimitsConfig,
}

/// `[unit]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitConfig {
    /// Name of the unit, sent to its peers.
    pub name: String,
    /// Where the unit keeps its identity and its lock.
    pub data_dir: PathBuf,
    /// Where volumes get a directory each unless they name their files.
    pub volumes_dir: PathBuf,
    /// Where replicas get a directory each.
    pub replicas_dir: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Log filter: a level, or directives as `RUST_LOG` takes them.
    pub log: String,
}

/// `[nbd]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NbdConfig {
    /// TCP addresses.
    pub listen: Vec<SocketAddr>,
    /// Unix socket.
    pub socket: Option<PathBuf>,
    /// Encryption, if there is any.
    pub tls: Option<NbdTls>,
}

/// `[nbd.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdTls {
    /// Certificates.
    pub files: TlsFiles,
    /// No volume can be attached over TCP without TLS.
    pub required: bool,
}

/// `[iscsi]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IscsiConfig {
    /// Addresses of the portals.
    pub listen: Vec<SocketAddr>,
    /// What initiators have to know.
    pub chap: Option<ChapFiles>,
    /// Names of the initiators that may log in; all if there are none.
    pub initiators: Vec<String>,
}

/// `[iscsi.chap]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapFiles {
    /// What initiators call themselves.
    pub user: String,
    /// Where what they know lies.
    pub secret_file: PathBuf,
    /// The same of the target, for initiators that ask.
    pub own: Option<(String, PathBuf)>,
}

/// `[link]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// TCP addresses; replicas are accepted if there is one.
    pub listen: Vec<SocketAddr>,
    /// Links to and from other machines need neither pairing nor encryption.
    pub trust_network: bool,
    /// Bytes that may be under way to a remote unconfirmed.
    pub window_bytes: u64,
    /// Names of volumes accepted as replicas; all if absent.
    pub accept: Option<Vec<String>>,
    /// Size of the journal of a new replica.
    pub journal_size_bytes: u64,
    /// Size of the history of a new replica; 0 for none.
    pub history_size_bytes: u64,
    /// Hosts may attach moments of the replicas.
    pub export_replicas: bool,
}

/// `[[volume]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    /// Name, and name of the export.
    pub name: String,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Size of the journal.
    pub journal_size_bytes: u64,
    /// The local image: a file or a block device.
    pub mirror: PathBuf,
    /// The journal: a file or a block device.
    pub journal: PathBuf,
    /// What hosts may do.
    pub access: Access,
    /// Where the volume is sent.
    pub remotes: Vec<RemoteConfig>,
}

/// Of `[[volume]]`: what hosts may do with it, and what becomes of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// They can read only.
    pub read_only: bool,
    /// What they write and is there already is not journaled.
    pub skip_unchanged: bool,
    /// They can attach it over TCP only with TLS.
    pub require_tls: bool,
    /// Where initiators find it.
    pub scsi: ScsiAddress,
}

/// `[[volume.remote]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Name used in status and commands.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Where else it can be reached, in the order in which that is tried.
    pub other_addresses: Vec<String>,
    /// The paired unit that has to be there; the one that was paired at the address if absent.
    pub peer: Option<String>,
    /// Records are sent to it.
    pub send: bool,
    /// Records are kept in the journal until it has them.
    pub queue: bool,
    /// Most bytes sent to it in a second; as fast as the line is if absent.
    pub rate_bytes: Option<u64>,
    /// How what is sent is compressed.
    pub compression: Compression,
    /// When it is sent; always if absent.
    pub send_windows: Option<SendWindows>,
    /// Backlogs are merged before they are sent.
    pub merge: bool,
    /// What it holds counts only when it was compared with what was sent.
    pub confirm: bool,
    /// In how much time all of it is compared in the background; never if absent.
    pub verify_every: Option<Duration>,
}

/// `[[replica]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Name of its volume.
    pub name: String,
    /// Its image: a file or a block device; absent: a file in its directory.
    pub image: Option<PathBuf>,
    /// Whom it is sent on to.
    pub remotes: Vec<RemoteConfig>,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// NBD connections open at the same time.
    pub nbd_connections: u32,
    /// iSCSI connections open at the same time, on each portal.
    pub iscsi_connections: u32,
}

impl Config {
    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Option<&VolumeConfig> {
        self.volumes.iter().find(|volume| volume.name == name)
    }
}
