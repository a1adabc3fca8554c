//! Everything the unit listens on, bound before any data file is opened.

use super::{UnitError, limits};
use crate::config::Config;
use rustix::fs::FileType;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

/// A unix socket that takes its file away with it.
#[derive(Debug)]
pub(crate) struct OwnedUnixListener {
    /// The socket.
    pub(crate) listener: UnixListener,
    /// Removes the file when dropped.
    pub(crate) file: SocketFile,
}

/// The file of a unix socket; removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(pub(crate) PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        std::fs::remove_file(&self.0).ok();
    }
}

/// Listeners by their purpose.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) control: OwnedUnixListener,
    pub(crate) nbd: NbdListeners,
    pub(crate) iscsi: Vec<TcpListener>,
    pub(crate) link: Vec<TcpListener>,
    pub(crate) console: Option<TcpListener>,
}

/// Where hosts attach.
#[derive(Debug)]
pub(crate) struct NbdListeners {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) unix: Option<OwnedUnixListener>,
}

impl NbdListeners {
    /// The addresses really bound, for status.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let unix = self
            .unix
            .iter()
            .map(|unix| format!("unix:{}", unix.file.0.display()));
        addresses(&self.tcp).into_iter().chain(unix).collect()
    }
}

impl Listeners {
    /// Binds everything that `config` names.
    pub(crate) async fn bind(config: &Config) -> Result<Self, UnitError> {
        let control = bind_unix(&config.unit.control_socket, "unit.control_socket").await?;
        let unix = match &config.nbd.socket {
            Some(path) => Some(bind_unix(path, "nbd.socket").await?),
            None => None,
        };
        let nbd = NbdListeners {
            tcp: bind_all(&config.nbd.listen, "nbd.listen")?,
            unix,
        };
        let iscsi = bind_all(&config.iscsi.listen, "iscsi.listen")?;
        let link = bind_all(&config.link.listen, "link.listen")?;
        let console = config
            .console_listen
            .map(|address| bind_tcp(address, "console.listen"))
            .transpose()?;
        Ok(Self {
            control,
            nbd,
            iscsi,
            link,
            console,
        })
    }
}

/// The addresses really bound.
pub(crate) fn addresses(listeners: &[TcpListener]) -> Vec<String> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .map(|address| address.to_string())
        .collect()
}

fn bind_all(wanted: &[SocketAddr], key: &'static str) -> Result<Vec<TcpListener>, UnitError> {
    wanted.iter().map(|address| bind_tcp(*address, key)).collect()
}

fn bind_tcp(address: SocketAddr, key: &'static str) -> Result<TcpListener, UnitError> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // So that a restart need not wait for old connections to be forgotten; it takes no port in use.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(limits::LISTEN_BACKLOG)
    };
    bind().map_err(|error: std::io::Error| refused(address.to_string(), &error, key))
}

fn refused(address: String, error: &std::io::Error, key: &'static str) -> UnitError {
    let reason = match error.kind() {
        ErrorKind::AddrInUse => "the address is in use by another program".to_owned(),
        _ => error.to_string(),
    };
    UnitError::Listen { address, reason, key }
}

pub(super) async fn bind_unix(path: &Path, key: &'static str) -> Result<OwnedUnixListener, UnitError> {
    clear_stale(path, key).await?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| UnitError::file(parent, "made", error))?;
    }
    let failed = |error: std::io::Error| refused(path.display().to_string(), &error, key);
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, PermissionsExt::from_mode(limits::OWNER_ONLY)).map_err(failed)?;
    Ok(OwnedUnixListener { listener, file })
}

/// Removes a socket on which nobody answers; refuses to touch a live one or anything else.
async fn clear_stale(path: &Path, key: &'static str) -> Result<(), UnitError> {
    let refuse = |reason: &str| UnitError::Listen {
        address: path.display().to_string(),
        reason: reason.to_owned(),
        key,
    };
    match rustix::fs::lstat(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(UnitError::file(path, "examined", error)),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => {
            return Err(refuse("there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(limits::PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| UnitError::file(path, "removed", error))
        }
        Ok(Err(error)) => Err(refuse(&format!("there is a socket already ({error})"))),
        Ok(Ok(_)) | Err(_) => Err(refuse("another unit is running there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_socket_is_replaced_live_one_and_other_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = bind_unix(&path, "unit.control_socket").await.unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let refusal = bind_unix(&path, "unit.control_socket")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("another unit is running") && refusal.contains("unit.control_socket"),
            "{refusal}"
        );
        drop(live);
        std::fs::write(&path, "somebody's").unwrap();
        assert!(
            bind_unix(&path, "k")
                .await
                .unwrap_err()
                .to_string()
                .contains("no socket")
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
    }

    #[tokio::test]
    async fn port_in_use_names_address_and_setting() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let refusal = bind_tcp(address, "nbd.listen").unwrap_err().to_string();
        assert_eq!(
            refusal,
            format!(
                "cannot listen on {address}: the address is in use by another program; change nbd.listen"
            )
        );
    }
}
