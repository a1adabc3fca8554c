//! The accept loop: one task per connection, a bounded number of them, and an orderly end.
//!
//! No client and no failed accept ends the loop; only the shutdown token does.

use super::connection::Connection;
use super::counters::Counters;
use super::exports::Exports;
use super::limits::{ACCEPT_PAUSE, Settings};
use super::listener::{Listener, Stream};
use super::negotiation::{Fault, Outcome, Session, greet, negotiate};
use super::options::{Agreed, Channel};
use crate::tls::TlsSlot;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

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
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => report_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = ACCEPT_PAUSE.0;
                    admit(&mut connections, &service, (stream, peer), &shutdown);
                }
                Err(failure) => pause = pause_after(&failure, pause, &shutdown).await,
            },
        }
    }
    drop(listener);
    drain(connections, service.settings.drain).await;
}

fn admit<E: Exports, S: Stream>(
    connections: &mut JoinSet<()>,
    service: &Service<E>,
    (stream, peer): (S, String),
    shutdown: &CancellationToken,
) {
    while let Some(ended) = connections.try_join_next() {
        report_panic(ended);
    }
    if connections.len() >= service.settings.connections {
        service.counters.count_refused();
        debug!(
            peer,
            "connection closed: there are already as many as the limit allows"
        );
        return;
    }
    connections.spawn(attend(stream, peer, service.clone(), shutdown.clone()));
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

/// Waits after a failed accept; too many open files pass only when something is closed.
async fn pause_after(failure: &io::Error, pause: Duration, shutdown: &CancellationToken) -> Duration {
    if failure.kind() == io::ErrorKind::ConnectionAborted {
        return pause;
    }
    warn!(%failure, pause_ms = pause.as_millis(), "accepting an NBD connection failed; trying again");
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sleep(pause) => {}
    }
    pause.saturating_mul(2).min(ACCEPT_PAUSE.1)
}

async fn drain(mut connections: JoinSet<()>, limit: Duration) {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    };
    if timeout(limit, all).await.is_err() {
        warn!(
            open = connections.len(),
            "NBD connections did not finish in time and are cut"
        );
        // Not waited for: one may be inside a call to a disk that does not return.
        connections.abort_all();
        connections.detach_all();
    }
}

/// A panic is our own mistake; it ends its connection alone, and is said aloud.
fn report_panic(ended: Result<(), JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(%failure, "an NBD connection ended by a defect; its client has to connect again");
    }
}
