//! What listeners serve, and the way of one connection from its greeting to its end.

use super::connection::Connection;
use super::negotiation::{Fault, Outcome, Session, greet, negotiate};
use super::options::{Agreed, Channel};
use crate::targets::accept::{House, accept_all};
use crate::targets::{Counters, Exports, Listener, Settings, Stream};
use crate::tls::TlsSlot;
use std::sync::Arc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// What a listener demands of connections.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// What connections can be encrypted with.
    pub tls: Arc<TlsSlot>,
    /// They have to be, if they can.
    pub required: bool,
    /// They cannot leave the machine, and nobody but its owner can open them: nothing has to be encrypted.
    pub local: bool,
}

/// What one or more listeners serve.
#[derive(Debug)]
pub struct Service<E> {
    /// The disks.
    pub exports: Arc<E>,
    /// Where connections are counted.
    pub counters: Arc<Counters>,
    /// Limits.
    pub settings: Settings,
    /// Encryption.
    pub security: Security,
}

impl<E> Clone for Service<E> {
    fn clone(&self) -> Self {
        let (exports, counters) = (Arc::clone(&self.exports), Arc::clone(&self.counters));
        Self {
            exports,
            counters,
            settings: self.settings,
            security: self.security.clone(),
        }
    }
}

impl<E> Service<E> {
    /// Serves `exports` with the default limits.
    #[must_use]
    pub fn new(exports: Arc<E>) -> Self {
        Self {
            exports,
            counters: Arc::default(),
            settings: Settings::default(),
            security: Security::default(),
        }
    }
}

/// Serves until `shutdown` is cancelled; then stops accepting, lets every connection answer what it has received,
/// and returns, after [`Settings::drain`] at the latest.
pub async fn serve<L: Listener, E: Exports>(listener: L, service: Service<E>, shutdown: CancellationToken) {
    let house = House {
        protocol: "NBD",
        settings: service.settings,
        counters: Arc::clone(&service.counters),
    };
    let guests = shutdown.clone();
    accept_all(listener, house, shutdown, move |stream, peer| {
        attend(stream, peer, service.clone(), guests.clone())
    })
    .await;
}

/// One connection from greeting to end.
async fn attend<E: Exports, S: Stream>(
    stream: S,
    peer: String,
    service: Service<E>,
    shutdown: CancellationToken,
) {
    let _open = service.counters.connection();
    let introduction = timeout(service.settings.negotiation, introduce(stream, &service));
    let introduced = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        outcome = introduction => match outcome {
            Ok(Ok(introduced)) => introduced,
            Ok(Err(fault)) => return debug!(peer, %fault, "NBD negotiation ended"),
            Err(_) => return debug!(peer, "NBD negotiation took too long"),
        },
    };
    match introduced {
        Introduced::Nobody => {}
        Introduced::Plain(stream, session) => converse(stream, session, peer, &service, &shutdown).await,
        Introduced::Tls(stream, session) => converse(*stream, session, peer, &service, &shutdown).await,
    }
}

/// A connection of which it is known what it is for.
enum Introduced<S, D> {
    Nobody,
    Plain(S, Session<D>),
    Tls(Box<TlsStream<S>>, Session<D>),
}

/// The negotiation, with TLS in the middle if the client wants it.
async fn introduce<E: Exports, S: Stream>(
    mut stream: S,
    service: &Service<E>,
) -> Result<Introduced<S, E::Disk>, Fault> {
    let client = greet(&mut stream).await?;
    let acceptor = service.security.tls.acceptor();
    let channel = match &acceptor {
        None => Channel::Plain,
        Some(_) => Channel::Upgradable {
            forced: service.security.required,
        },
    };
    let agreed = Agreed::new(client, channel, service.security.local);
    let acceptor = match (negotiate(&mut stream, agreed, &*service.exports).await?, acceptor) {
        (Outcome::Session(session), _) => return Ok(Introduced::Plain(stream, session)),
        (Outcome::Tls, Some(acceptor)) => acceptor,
        (Outcome::Tls, None) | (Outcome::Ended, _) => return Ok(Introduced::Nobody),
    };
    let mut stream = Box::new(acceptor.accept(stream).await.map_err(Fault::Tls)?);
    let agreed = Agreed::new(client, Channel::Tls, service.security.local);
    match negotiate(&mut *stream, agreed, &*service.exports).await? {
        Outcome::Session(session) => Ok(Introduced::Tls(stream, session)),
        Outcome::Tls | Outcome::Ended => Ok(Introduced::Nobody),
    }
}

/// An attached client.
async fn converse<E: Exports, S: Stream>(
    stream: S,
    session: Session<E::Disk>,
    peer: String,
    service: &Service<E>,
    shutdown: &CancellationToken,
) {
    let name = session.export.name.clone();
    let _attached = service.counters.attach(&name);
    let logged = service.counters.may_log();
    if logged {
        info!(peer, export = name, "NBD client attached");
    } else {
        debug!(peer, export = name, "NBD client attached");
    }
    let ended = Connection::new(stream, session).run(shutdown).await;
    let reason = ended.map_or_else(|fault| fault.to_string(), |end| end.to_string());
    if logged {
        info!(peer, export = name, reason, "NBD client detached");
    } else {
        debug!(peer, export = name, reason, "NBD client detached");
    }
}
