//! Where a server listens, and the stream to it.

use super::NbdClient;
use crate::client::BlockClient;
use crate::iscsi::IscsiClient;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP on loopback.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
    /// An iSCSI portal; the others speak NBD.
    Iscsi(SocketAddr),
}

impl Endpoint {
    /// The address as the stock clients want it, for one export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
            Self::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Self::Iscsi(portal) => format!("iscsi://{portal}/iqn.2026-11.dev.farside:{export}/1"),
        }
    }

    /// Attaches a disk.
    ///
    /// # Errors
    /// When nobody listens, or it is refused.
    pub fn attach(&self, export: &str) -> io::Result<Box<dyn BlockClient>> {
        match self {
            Self::Iscsi(portal) => Ok(Box::new(IscsiClient::connect(*portal, export)?)),
            _ => Ok(Box::new(NbdClient::connect(self, export)?)),
        }
    }

    /// Connects, with `limit` on every later read and write.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(&self, limit: Duration) -> io::Result<Stream> {
        let stream = match self {
            Self::Tcp(address) | Self::Iscsi(address) => {
                let stream = TcpStream::connect_timeout(address, limit)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        stream.set_limit(Some(limit))?;
        Ok(stream)
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Sets the time limit of reads and writes.
    ///
    /// # Errors
    /// When the socket refuses it.
    pub fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream
                .set_read_timeout(limit)
                .and_then(|()| stream.set_write_timeout(limit)),
            Self::Unix(stream) => stream
                .set_read_timeout(limit)
                .and_then(|()| stream.set_write_timeout(limit)),
        }
    }

    /// Makes the close that follows a reset (TCP RST), as a dying host leaves it. Unix sockets have none.
    ///
    /// # Errors
    /// When the socket refuses it.
    pub fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => Ok(rustix::net::sockopt::set_socket_linger(
                stream,
                Some(Duration::ZERO),
            )?),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Says that nothing more will be sent; reading goes on.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn end_sending(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
