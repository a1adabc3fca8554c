//! Accepts connections of senders, bounds their number, and keeps count of who is connected.

use super::admission::Admission;
use super::door::{Door, Visitor};
use super::greeting::{Greeting, Places};
use super::session::{Entry, SessionError, Shared, serve};
use crate::limits::{ACCEPT_PAUSE_MS, LOG_INTERVAL_MS};
use crate::sink::Replicas;
use farside_protocol::link::{Refusal, RefuseCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// What a receiver has to know about its unit.
#[derive(Debug, Clone)]
pub struct ReceiverConfig {
    /// Identity of this unit.
    pub unit: Uuid,
    /// Name of this unit, as [`farside_protocol::link::name_is_valid`] wants it.
    pub unit_name: String,
}

/// Who is connected to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaLink {
    /// Name of the replica.
    pub replica: String,
    /// Unit that sends.
    pub source_unit: Uuid,
    /// Its name.
    pub source_name: String,
    /// Where it sends from.
    pub source_address: SocketAddr,
    /// The name under which it is paired here; `None`: the link is not encrypted.
    pub paired_with: Option<String>,
}

/// The receiving end of the links of one unit.
#[derive(Debug)]
pub struct Receiver<P> {
    shared: Arc<Shared<P>>,
    shutdown: watch::Sender<bool>,
}

impl<P: Replicas> Receiver<P> {
    /// A receiver for the replicas of a unit; it does nothing until [`run`](Self::run).
    #[must_use]
    pub fn new(replicas: Arc<P>, config: ReceiverConfig) -> Self {
        let (shutdown, told) = watch::channel(false);
        let shared = Shared {
            replicas,
            admission: Admission::default(),
            unit: config.unit,
            unit_name: config.unit_name,
            shutdown: told,
        };
        Self {
            shared: Arc::new(shared),
            shutdown,
        }
    }

    /// Which replicas have a sender now, by name.
    #[must_use]
    pub fn links(&self) -> Vec<ReplicaLink> {
        let link = |(replica, holder): (String, super::admission::Holder)| ReplicaLink {
            replica,
            source_unit: holder.unit,
            source_name: holder.unit_name,
            source_address: holder.address,
            paired_with: holder.paired_with,
        };
        self.shared.admission.holders().into_iter().map(link).collect()
    }

    /// Serves one connection that somebody else accepted, to its end. The limit on sessions is the caller's.
    pub async fn serve<R, W>(&self, address: SocketAddr, read: R, write: W) -> SessionError
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        serve(&self.shared, address, (read, write), Entry::default()).await
    }

    /// Tells every session to end; [`run`](Self::run) returns when they have.
    pub fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }

    /// Accepts and serves until [`shut_down`](Self::shut_down); returns when no session is left.
    pub async fn run(&self, listener: TcpListener, door: Arc<dyn Door>) {
        let (places, mut sessions) = (Places::new(), JoinSet::new());
        let mut shutdown = self.shared.shutdown.clone();
        let log = Arc::new(LogLimit::default());
        loop {
            let accepted = tokio::select! {
                _ = shutdown.wait_for(|set| *set) => break,
                Some(_) = sessions.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok((socket, address)) = accepted else {
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            };
            let place = places.enter(address.ip());
            let (shared, log, door) = (Arc::clone(&self.shared), Arc::clone(&log), Arc::clone(&door));
            sessions.spawn(async move {
                let error = connection(&shared, (socket, address), place, &*door).await;
                report(&log, address, &error);
            });
        }
        while sessions.join_next().await.is_some() {}
    }
}

async fn connection<P: Replicas>(
    shared: &Shared<P>,
    (socket, address): (TcpStream, SocketAddr),
    (greeting, displaced): (Greeting, oneshot::Receiver<()>),
    door: &dyn Door,
) -> SessionError {
    // Failing to set these costs speed or an earlier notice, nothing else.
    let _ = socket.set_nodelay(true);
    let mut displaced = std::pin::pin!(async {
        if displaced.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let opened = tokio::select! {
        biased;
        opened = door.open(socket, address) => opened,
        () = &mut displaced => return SessionError::Displaced,
    };
    let Visitor {
        read,
        mut write,
        unit,
    } = match opened {
        Ok(visitor) => visitor,
        Err(error) => return error,
    };
    let entry = Entry {
        greeting: Some(greeting),
        door: Some(door),
        unit,
    };
    tokio::select! {
        biased;
        error = serve(shared, address, (read, &mut write), entry) => return error,
        // Only before it has a session's place: nothing of a session is cut short.
        () = &mut displaced => {}
    }
    try_refuse_busy(&mut write).await;
    SessionError::Displaced
}

/// Without waiting: a flood must not cost more than the sockets it opens.
async fn try_refuse_busy<W: AsyncWrite + Unpin>(socket: &mut W) {
    let text = "too many connections here that have not said who they are; the sender should try again";
    let refusal = Refusal::new(RefuseCode::Busy, 0, text);
    let frame = farside_protocol::link::Message::Refuse(refusal).to_frame();
    let say = async {
        if socket.write_all(&frame).await.is_ok() {
            let _ = socket.flush().await;
        }
    };
    tokio::select! {
        biased;
        () = say => {}
        () = std::future::ready(()) => {}
    }
}

fn report(log: &LogLimit, address: SocketAddr, error: &SessionError) {
    match error {
        SessionError::RefusedByPeer(refusal) if refusal.code == RefuseCode::ShuttingDown => {
            tracing::info!(%address, "link ended: the sending unit stopped it");
        }
        SessionError::Closed | SessionError::ShuttingDown | SessionError::Renewed | SessionError::Served => {
            tracing::debug!(%address, "link ended: {error}");
        }
        _ => log.warn(address, &format!("link ended: {error}")),
    }
}

/// Keeps a flood of bad connections from becoming a flood of log lines.
#[derive(Debug, Default)]
struct LogLimit {
    state: parking_lot::Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    fn warn(&self, address: SocketAddr, text: &str) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let interval = Duration::from_millis(LOG_INTERVAL_MS);
        if state.0.is_some_and(|last| now.duration_since(last) < interval) {
            state.1 = state.1.saturating_add(1);
            tracing::debug!(%address, "{text}");
            return;
        }
        let unlogged = std::mem::take(&mut state.1);
        state.0 = Some(now);
        tracing::warn!(%address, unlogged, "{text}");
    }
}
