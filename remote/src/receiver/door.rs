//! The door: what stands between the network and the sessions, and says who a connection is of.
//!
//! Encryption and pairing are the business of the unit, so this crate knows only the two questions it has to ask.

use super::session::SessionError;
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use uuid::Uuid;

/// A unit whose identity was proved.
#[derive(Debug, Clone)]
pub struct PairedUnit {
    /// Its UUID.
    pub unit: Uuid,
    /// The name under which it is known here.
    pub name: String,
    /// Which certificate of this unit it saw; the door's own counting.
    pub certificate: u64,
    /// Whether its connections have to end.
    pub notices: watch::Receiver<Notice>,
}

/// Why connections of a unit have to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notice {
    /// They do not.
    #[default]
    None,
    /// It is not to be let in any more.
    Revoked,
    /// This unit shows another certificate from now on.
    Renewed,
}

/// A connection that was let in.
pub struct Visitor {
    /// What it says.
    pub read: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// What it is told.
    pub write: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    /// Who it is of, if that was proved.
    pub unit: Option<PairedUnit>,
}

impl fmt::Debug for Visitor {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Visitor")
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}

/// What becomes of a connection that knocks: it is let in, or why not, after it was told.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Visitor, SessionError>> + Send + 'a>>;

/// Decides who is let in.
pub trait Door: Send + Sync + 'static {
    /// A new connection. Bounded in time; safe to drop.
    fn open(&self, socket: TcpStream, address: SocketAddr) -> Answer<'_>;

    /// Whether a connection of `unit`, or of somebody unknown, may say this hello.
    ///
    /// # Errors
    /// The refusal it is sent.
    fn check(&self, unit: Option<&PairedUnit>, hello: &Hello) -> Result<(), Refusal>;
}

/// A door without encryption.
#[derive(Debug, Clone, Copy)]
pub struct PlainDoor {
    /// Senders that are not on this machine are let in too.
    pub beyond_loopback: bool,
}

impl Door for PlainDoor {
    fn open(&self, socket: TcpStream, address: SocketAddr) -> Answer<'_> {
        let allowed = self.beyond_loopback || address.ip().to_canonical().is_loopback();
        Box::pin(async move {
            let visitor = Visitor::unknown(socket);
            if allowed {
                return Ok(visitor);
            }
            let text = "this unit accepts links from its own machine only";
            Err(visitor
                .turn_away(Refusal::new(RefuseCode::NotAccepted, 0, text))
                .await)
        })
    }

    fn check(&self, _: Option<&PairedUnit>, _: &Hello) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Visitor {
    /// Somebody who proved nothing, over a bare socket.
    #[must_use]
    pub fn unknown(socket: TcpStream) -> Self {
        let (read, write) = socket.into_split();
        Self {
            read: Box::new(read),
            write: Box::new(write),
            unit: None,
        }
    }

    /// Says why, as far as the other side listens; then it is over.
    pub async fn turn_away(mut self, refusal: Refusal) -> SessionError {
        super::stream::refuse(&mut self.write, refusal.clone()).await;
        super::stream::FrameStream::new(self.read).drain().await;
        SessionError::Refused(refusal)
    }
}
