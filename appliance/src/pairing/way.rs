//! Dialling: who is at an address, and how to get there.

use super::Pairing;
use super::error::PairingError;
use super::key::Shown;
use super::peers::{Peer, refuse_key_of_another};
use super::tls::{self, Meant, Who};
use farside_protocol::link::FrameKind;
use farside_remote::Notice;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

/// Where in a frame its kind is said.
const KIND_AT: usize = 4;

/// How a remote is reached.
#[derive(Debug)]
pub enum Way {
    /// Encrypted, and only this unit may answer.
    Paired(PairedWay),
    /// Nobody is paired there.
    Unknown,
}

/// The way to one unit.
#[derive(Debug)]
pub struct PairedWay {
    peer: Peer,
    config: Arc<ClientConfig>,
    meant: Arc<Meant>,
    generation: u64,
    notices: watch::Receiver<Notice>,
}

/// A connection to a paired unit.
pub struct Link {
    /// What it says.
    pub read: Box<dyn AsyncRead + Send + Unpin>,
    /// What it is told.
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its name here.
    pub peer: String,
    /// Whether the connection has to end.
    pub notices: watch::Receiver<Notice>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Link")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Pairing {
    /// How to reach the unit `named`, or else the one that is paired at `address`.
    ///
    /// # Errors
    /// No unit of that name is paired, or this one's key cannot be used.
    pub fn way_to(&self, address: &str, named: Option<&str>) -> Result<Way, PairingError> {
        let (peer, key, generation, notices) = {
            let mut state = self.state.lock();
            let peer = match named {
                Some(name) => {
                    let found = state.peers.iter().find(|peer| peer.name == name);
                    Some(found.ok_or_else(|| PairingError::Unknown(name.to_owned()))?)
                }
                None => state
                    .peers
                    .iter()
                    .find(|peer| peer.address.as_deref() == Some(address)),
            };
            let Some(peer) = peer.cloned() else {
                return Ok(Way::Unknown);
            };
            let notices = state.notices_for(peer.unit);
            (peer, Arc::clone(&state.key), state.generation, notices)
        };
        let keys = [Some(peer.key), peer.next_key].into_iter().flatten().collect();
        let meant = Meant::new(Who::Keys(keys));
        Ok(Way::Paired(PairedWay {
            config: tls::client(&key, tls::LINK, Arc::clone(&meant))?,
            notices,
            peer,
            meant,
            generation,
        }))
    }
}

impl Pairing {
    /// Resolves when a unit is paired that a remote is to be reached as: then a link without encryption has to end.
    pub async fn until_paired(&self, address: &str, named: Option<&str>) {
        let mut paired = self.paired.subscribe();
        while !matches!(self.way_to(address, named), Ok(Way::Paired(_))) {
            if paired.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl PairedWay {
    /// Proves who this unit is over `socket`, and that the other end is the one meant.
    ///
    /// # Errors
    /// A sentence for people.
    pub async fn connect(self, pairing: &Arc<Pairing>, socket: TcpStream) -> Result<Link, String> {
        let name = ServerName::from(socket.peer_addr().map_err(|error| error.to_string())?.ip());
        let peer = &self.peer.name;
        let connected = TlsConnector::from(self.config).connect(name, socket).await;
        let stream = connected.map_err(|error| match self.meant.answered() {
            Some(shown) if !self.meant.is(shown.key) => format!(
                "another unit answered than '{peer}', which is paired with this one (its key is {}); nothing was said to it. \
                 Check the address; if '{peer}' has another key now, pair the two anew",
                shown.key
            ),
            _ => format!("no encrypted link with '{peer}': {error}; is it a Farside unit that listens there?"),
        })?;
        let Some(shown) = self.meant.answered() else {
            return Err(format!("'{peer}' showed no key"));
        };
        pairing
            .note_shown(self.peer.unit, shown)
            .await
            .map_err(|error| format!("the key that '{peer}' announced cannot be noted: {error}"))?;
        let (read, write) = tokio::io::split(stream);
        Ok(Link {
            read: Box::new(Heard {
                inner: read,
                told: Some((Arc::clone(pairing), self.peer.unit, self.generation)),
                before: 0,
            }),
            write: Box::new(write),
            peer: self.peer.name,
            notices: self.notices,
        })
    }
}

/// Tells with the first frame, if it is a welcome, that the other side has taken this unit's certificate, and has noted what it says.
struct Heard<R> {
    inner: R,
    told: Option<(Arc<Pairing>, Uuid, u64)>,
    /// Bytes before those that were read last.
    before: usize,
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = to.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, to))?;
        let new = to.filled().get(filled..).unwrap_or_default();
        if self.told.is_some() && self.before + new.len() > KIND_AT {
            let kind = KIND_AT.checked_sub(self.before).and_then(|at| new.get(at));
            let told = self.told.take();
            if let Some((pairing, unit, generation)) =
                told.filter(|_| kind == Some(&FrameKind::Welcome.code()))
            {
                pairing.told(unit, generation);
            }
        }
        self.before += new.len();
        Poll::Ready(Ok(()))
    }
}

impl Pairing {
    /// What a peer's certificate said: another key is to follow, or has followed.
    pub(super) async fn note_shown(self: &Arc<Self>, unit: Uuid, shown: Shown) -> Result<(), PairingError> {
        let is_news = move |peer: &Peer| {
            peer.unit == unit
                && (peer.key != shown.key || (peer.next_key != shown.next && shown.next.is_some()))
        };
        if !self.state.lock().peers.iter().any(is_news) {
            return Ok(());
        }
        let (pairing, noting) = (Arc::clone(self), Arc::clone(&self.noting).lock_owned().await);
        let noted = tokio::task::spawn_blocking(move || {
            let _noting = noting;
            pairing.change(|peers| {
                if let Some(next) = shown.next {
                    refuse_key_of_another(peers, unit, next)?;
                }
                if let Some(peer) = peers.iter_mut().find(|peer| is_news(peer)) {
                    // It was looked up before, and may have been replaced since.
                    if !peer.has(shown.key) {
                        return Err(PairingError::Changed);
                    }
                    tracing::info!(peer = peer.name, key = %shown.key, next = ?shown.next, "the unit shows another key");
                    // The key before this one is not taken any more.
                    (peer.key, peer.next_key) = (shown.key, shown.next);
                }
                Ok(())
            })
        });
        noted
            .await
            .map_err(|error| PairingError::Unreachable(error.to_string()))?
    }
}
