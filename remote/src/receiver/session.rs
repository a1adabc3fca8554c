//! One connection from its first byte to its last.
//!
//! Guarantees: what is wrong with one connection ends that one; a refusal is sent before closing wherever
//! the peer may still understand it; when [`serve`] returns, no task of the session is left.

use super::admission::Admission;
use super::agreement::{choose_features, negotiate, unconfirmed_limit, welcome};
use super::confirming::Unanswered;
use super::copy_log::CopyLog;
use super::core::ReceiverCore;
use super::door::{Door, Notice, PairedUnit};
use super::greeting::Greeting;
use super::life::Life;
use super::refusals::{refuse_frame, refuse_sink};
use super::stream::{FrameStream, refuse, send};
use super::{reader, replier};
use crate::limits::LINGER_MS;
use crate::sink::{Replicas, Sink, SinkError, SinkState};
use farside_protocol::link::limits::HELLO_TIMEOUT_MS;
use farside_protocol::link::{Compression, Hello, LinkError, Message, Refusal, RefuseCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer closed it.
    #[error("closed by the sender")]
    Closed,
    /// Nothing arrived, or nothing could be sent, for too long.
    #[error("no sign of life from the sender")]
    Silence,
    /// No complete hello in time.
    #[error("no hello in time")]
    NoHello,
    /// Others that came later wanted its place.
    #[error("had not said who it is when the place was needed for another")]
    Displaced,
    /// The socket failed.
    #[error("connection lost: {0}")]
    Socket(#[source] std::io::Error),
    /// What arrived is no frame, or damaged.
    #[error("{0}")]
    Frame(#[source] LinkError),
    /// This side refused.
    #[error("refused: {0}")]
    Refused(#[source] Refusal),
    /// The sender refused.
    #[error("the sender refused: {0}")]
    RefusedByPeer(#[source] Refusal),
    /// A newer connection of the same unit took over.
    #[error("a newer connection of the same unit took over")]
    TakenOver,
    /// Its unit is not to be let in any more.
    #[error("the unit that sends is not paired with this one any more")]
    Revoked,
    /// It has to come anew, to see another certificate.
    #[error("this unit has another certificate to show")]
    Renewed,
    /// The door did not let it in.
    #[error("{0}")]
    Door(String),
    /// It wanted something else than a link, and has it.
    #[error("served")]
    Served,
    /// The receiver is being stopped.
    #[error("shutting down")]
    ShuttingDown,
}

/// What sessions of one receiver share.
#[derive(Debug)]
pub(super) struct Shared<P> {
    pub(super) replicas: Arc<P>,
    pub(super) admission: Admission,
    pub(super) unit: Uuid,
    pub(super) unit_name: String,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// How a connection was let in.
#[derive(Default)]
pub(super) struct Entry<'a> {
    /// Its place, until it has a session's; without one it needs none.
    pub(super) greeting: Option<Greeting>,
    /// Who guards the way, if anybody does.
    pub(super) door: Option<&'a dyn Door>,
    /// Who proved to be at the other end.
    pub(super) unit: Option<PairedUnit>,
}

/// What a conversation leaves behind.
#[derive(Debug, Default)]
struct Ending {
    /// The last chunk accepted.
    after_sequence: u64,
    /// Given back when nothing of the connection is left.
    place: Option<OwnedSemaphorePermit>,
}

/// Serves a connection to its end. With a greeting, it needs a session's place to go on after its hello, and may be
/// dropped before it has one.
pub(super) async fn serve<P: Replicas, R, W>(
    shared: &Shared<P>,
    address: SocketAddr,
    (read, mut write): (R, W),
    entry: Entry<'_>,
) -> SessionError
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut stream = FrameStream::new(read);
    let mut ending = Ending::default();
    let ends = (&mut stream, &mut write);
    let error = match converse(shared, address, ends, &entry, &mut ending).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if let Some(refusal) = refusal_for(&error, ending.after_sequence) {
        refuse(&mut write, refusal).await;
        stream.drain().await;
    }
    error
}

fn refusal_for(error: &SessionError, after_sequence: u64) -> Option<Refusal> {
    match error {
        SessionError::Refused(refusal) => Some(refusal.clone()),
        // Whatever speaks another protocol would not understand an answer in ours.
        SessionError::Frame(LinkError::Magic) => None,
        SessionError::Frame(error) => Some(refuse_frame(error, after_sequence)),
        SessionError::TakenOver => Some(Refusal::new(
            RefuseCode::SecondSender,
            0,
            "a newer connection of this unit took over; if that was not intended, stop one of the two senders",
        )),
        SessionError::Revoked => Some(Refusal::new(
            RefuseCode::NotAccepted,
            0,
            "the pairing with this unit was revoked at the remote; pair the two units again if that was not intended",
        )),
        SessionError::Renewed => Some(Refusal::new(
            RefuseCode::ShuttingDown,
            0,
            "the remote has a new certificate to show; the link comes back by itself",
        )),
        SessionError::ShuttingDown => Some(Refusal::new(
            RefuseCode::ShuttingDown,
            0,
            "the receiving unit is shutting down; the link comes back with it",
        )),
        _ => None,
    }
}

async fn converse<P: Replicas, R, W>(
    shared: &Shared<P>,
    address: SocketAddr,
    (stream, write): (&mut FrameStream<R>, &mut W),
    entry: &Entry<'_>,
    ending: &mut Ending,
) -> Result<std::convert::Infallible, SessionError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let hello = timeout(Duration::from_millis(HELLO_TIMEOUT_MS), take_hello(stream))
        .await
        .map_err(|_| SessionError::NoHello)??;
    if let Some(door) = entry.door {
        door.check(entry.unit.as_ref(), &hello)
            .map_err(SessionError::Refused)?;
    }
    if let Some(greeting) = &entry.greeting {
        ending.place = Some(greeting.admit().ok_or_else(busy)?);
    }
    let version = negotiate(&hello).map_err(SessionError::Refused)?;
    // The claim is dropped when this function ends: after the last use of the replica.
    let claim = shared
        .admission
        .claim(&hello, address, entry.unit.as_ref())
        .await
        .map_err(SessionError::Refused)?;
    let sink = shared
        .replicas
        .open_or_create(&hello)
        .await
        .map_err(SessionError::Refused)?;
    let state = settle(&*sink).await?;
    let has_content = sink.has_content().await;
    let features = choose_features(&hello, has_content.map_err(refused)?, &state);
    let confirms = unconfirmed_limit(&hello, &state).is_some();
    sink.set_confirms(confirms).await.map_err(refused)?;
    let answer = welcome((version, features), &state, (shared.unit, &shared.unit_name));
    let compression = Compression::choose(answer.features);
    send(write, &Message::Welcome(Box::new(answer))).await?;
    stream.decompress(compression);
    tracing::info!(replica = %hello.volume_name, sender = %hello.unit_name, %address,
        received = state.received.record, "link established");
    let life = claim.life();
    stream.tell(Arc::clone(&life));
    let mut core = ReceiverCore::new(&hello, &state);
    let log = CopyLog::new(&hello.volume_name, &hello.unit_name, hello.volume_bytes);
    let stop = stopped(claim.cancelled(), shared.shutdown.clone(), entry.unit.as_ref());
    let unanswered = confirms.then(Unanswered::default);
    let parts = (&*sink, &*life, &log, unanswered.as_ref());
    let error = exchange((stream, write), &mut core, parts, stop).await;
    ending.after_sequence = core.accepted().sequence;
    if confirms {
        // Nobody waits any more for what has yet to be confirmed.
        let _ = sink.settle().await;
    }
    Err(error)
}

fn busy() -> SessionError {
    let text = "this unit serves as many links as it can; the sender should try again later";
    SessionError::Refused(Refusal::new(RefuseCode::Busy, 0, text))
}

async fn settle<S: Sink>(sink: &S) -> Result<SinkState, SessionError> {
    sink.settle().await.map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn refused(error: SinkError) -> SessionError {
    SessionError::Refused(refuse_sink(&error))
}

async fn take_hello<R: AsyncRead + Unpin>(stream: &mut FrameStream<R>) -> Result<Hello, SessionError> {
    stream.receive().await?;
    match stream.message()?.0 {
        Message::Hello(hello) => Ok(*hello),
        other => Err(SessionError::Refused(Refusal::new(
            RefuseCode::Protocol,
            0,
            &format!("expected Hello, got {:?}; reconnect", other.kind()),
        ))),
    }
}

/// Resolves when the session has to make way.
async fn stopped(
    mut cancelled: watch::Receiver<bool>,
    mut shutdown: watch::Receiver<bool>,
    unit: Option<&PairedUnit>,
) -> SessionError {
    let noticed = async {
        if let Some(mut notices) = unit.map(|unit| unit.notices.clone())
            && let Ok(notice) = notices.wait_for(|notice| *notice != Notice::None).await
        {
            return match *notice {
                Notice::Renewed => SessionError::Renewed,
                _ => SessionError::Revoked,
            };
        }
        // Nobody is there who could give notice.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        _ = cancelled.wait_for(|set| *set) => SessionError::TakenOver,
        error = noticed => error,
        _ = shutdown.wait_for(|set| *set) => SessionError::ShuttingDown,
    }
}

/// Reads and answers at the same time; whichever ends first ends the other, between two operations.
async fn exchange<R, W, S: Sink>(
    (stream, write): (&mut FrameStream<R>, &mut W),
    core: &mut ReceiverCore,
    (sink, life, log, confirming): (&S, &Life, &CopyLog, Option<&Unanswered>),
    stop: impl Future<Output = SessionError>,
) -> SessionError
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let begun = AtomicBool::new(false);
    let (verified, answers) = mpsc::channel(1);
    let none = Unanswered::default();
    let told = reader::Told {
        log,
        begun: &begun,
        verified: &verified,
        unanswered: confirming.unwrap_or(&none),
    };
    let (end_replier, mut replier_told) = watch::channel(false);
    let (end_reader, reader_told) = oneshot::channel();
    let reading = async {
        let stop = async {
            tokio::select! {
                biased;
                error = stop => error,
                error = answering_failed(reader_told) => error,
            }
        };
        let error = reader::run(stream, core, (sink, life), told, stop).await;
        end_replier.send_replace(true);
        error
    };
    let replying = async {
        let stop = async {
            let _ = replier_told.wait_for(|set| *set).await;
        };
        let error = replier::run(write, sink, (log, &begun, confirming), answers, stop).await;
        let _ = end_reader.send(error);
    };
    let (read, ()) = tokio::join!(reading, replying);
    read
}

/// Resolves with why no answer could be sent. When the sender closed, that may be noticed here before the reader
/// comes to the end of what had arrived, which may be the sender's own word why: it gets a moment for that.
async fn answering_failed(told: oneshot::Receiver<SessionError>) -> SessionError {
    let error = told.await.unwrap_or(SessionError::Closed);
    if matches!(error, SessionError::Socket(_)) {
        sleep(Duration::from_millis(LINGER_MS)).await;
    }
    error
}
