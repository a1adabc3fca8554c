//! The way of one connection from its login to its end.

use super::connection::{Agreed, Connection};
use super::fault::Fault;
use super::login::{Login, Step};
use super::portals::Portals;
use super::receiver::Receiver;
use super::sender::Sender;
use super::sessions::Session;
use crate::targets::accept::{House, accept_all};
use crate::targets::{Exports, Listener, Stream};
use farside_protocol::iscsi::{
    Login as LoginRequest, LoginStatus, RequestKind, Serial, Stage, login_response,
};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Serves a portal until `shutdown` is cancelled; then stops accepting, asks every initiator to log out, and returns, after
/// [`Settings::drain`] at the latest.
pub async fn serve<L: Listener, E: Exports>(
    listener: L,
    portals: Arc<Portals<E>>,
    shutdown: CancellationToken,
) {
    let house = House {
        protocol: "iSCSI",
        settings: portals.settings,
        counters: Arc::clone(&portals.counters),
    };
    let guests = shutdown.clone();
    accept_all(listener, house, shutdown, move |stream, peer| {
        let reached = L::reached(&stream);
        attend((stream, peer, reached), Arc::clone(&portals), guests.clone())
    })
    .await;
}

/// One connection.
async fn attend<S: Stream, E: Exports>(
    (mut stream, peer, local): (S, String, Option<SocketAddr>),
    portals: Arc<Portals<E>>,
    shutdown: CancellationToken,
) {
    let _open = portals.counters.connection();
    let introduction = timeout(portals.settings.negotiation, log_in(&mut stream, &portals, local));
    let agreed = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        outcome = introduction => match outcome {
            Ok(Ok(agreed)) => agreed,
            Ok(Err(fault @ Fault::Refused(_))) if portals.counters.may_log() => {
                return info!(peer, %fault, "iSCSI login");
            }
            Ok(Err(fault)) => return debug!(peer, %fault, "iSCSI login ended"),
            Err(_) => return debug!(peer, "iSCSI login took too long"),
        },
    };
    let nexus = agreed.session.nexus.clone();
    let target = nexus.target.clone().unwrap_or_else(|| "discovery".to_owned());
    let logged = nexus.target.is_some() && portals.counters.may_log();
    let initiator = nexus.initiator;
    if logged {
        info!(peer, initiator, target, "iSCSI initiator logged in");
    } else {
        debug!(peer, initiator, target, "iSCSI initiator logged in");
    }
    let ended = Connection::new(stream, portals, agreed).run(&shutdown).await;
    let reason = ended.map_or_else(|fault| fault.to_string(), |end| end.to_string());
    if logged {
        info!(peer, initiator, target, reason, "iSCSI session ended");
    } else {
        debug!(peer, initiator, target, reason, "iSCSI session ended");
    }
}

/// The login phase.
async fn log_in<S: Stream, E: Exports>(
    stream: &mut S,
    portals: &Arc<Portals<E>>,
    local: Option<SocketAddr>,
) -> Result<Agreed, Fault> {
    let mut receiver = Receiver::new();
    let policy = portals.policy();
    let mut login = Login::new(&policy);
    let mut sender: Option<Sender> = None;
    loop {
        let pdu = receiver.next(stream).await?.ok_or(Fault::Left)?;
        let RequestKind::Login(request) = pdu.request.kind else {
            return Err(Fault::Protocol("something else before the login was over"));
        };
        let sender = sender.get_or_insert_with(|| Sender::new(pdu.request.command_number));
        let tag = pdu.request.task_tag;
        let exists = |name: &str| portals.directory.targets().iter().any(|known| known == name);
        let step = match check_number(&request, portals) {
            Ok(()) => login.step(&request, &pdu.data, exists),
            Err((status, why)) => Step::Refuse(status, why),
        };
        let (text, next) = match step {
            Step::Answer { text, next } => (text, next),
            Step::Refuse(status, why) => return refuse(stream, sender, (tag, &request), status, why).await,
        };
        let identity = (request.isid, 0);
        if next != Some(Stage::FullFeature) {
            let stages = (request.current, next);
            let serial = sender.status();
            sender.put(
                login_response(tag, identity, stages, LoginStatus::Success, serial),
                &text,
            );
            send(stream, sender).await?;
            continue;
        }
        let Some(session) = portals.sessions.begin(login.nexus()).await else {
            let why = "the old session does not end, or there are too many".to_owned();
            return refuse(stream, sender, (tag, &request), LoginStatus::OutOfResources, why).await;
        };
        let serial = sender.status();
        let stages = (request.current, next);
        let identity = (request.isid, session.number);
        sender.put(
            login_response(tag, identity, stages, LoginStatus::Success, serial),
            &text,
        );
        send(stream, sender).await?;
        let mut sender = std::mem::replace(sender, Sender::new(0));
        sender.agree(&login.parameters);
        receiver.agree(login.parameters.header_digest, login.parameters.data_digest);
        return Ok(agreed(
            receiver,
            sender,
            session,
            login,
            (request.connection, local),
        ));
    }
}

fn agreed(
    receiver: Receiver,
    sender: Sender,
    session: Session,
    login: Login<'_>,
    (connection, local): (u16, Option<SocketAddr>),
) -> Agreed {
    Agreed {
        receiver,
        sender,
        session,
        parameters: login.parameters,
        connection,
        local,
    }
}

/// A session has one connection: there is nothing to add one to (section 6.3.1).
fn check_number<E: Exports>(
    request: &LoginRequest,
    portals: &Portals<E>,
) -> Result<(), (LoginStatus, String)> {
    match request.tsih {
        0 => Ok(()),
        number if portals.sessions.has(number) => Err((
            LoginStatus::TooManyConnections,
            "a second connection of a session".to_owned(),
        )),
        number => Err((LoginStatus::NoSession, format!("there is no session {number}"))),
    }
}

async fn refuse<S: Stream, T>(
    stream: &mut S,
    sender: &mut Sender,
    (tag, request): (u32, &LoginRequest),
    status: LoginStatus,
    why: String,
) -> Result<T, Fault> {
    let identity = (request.isid, request.tsih);
    let serial: Serial = sender.status();
    sender.put(
        login_response(tag, identity, (request.current, None), status, serial),
        &[],
    );
    send(stream, sender).await?;
    Err(Fault::Refused(why))
}

async fn send<S: Stream>(stream: &mut S, sender: &mut Sender) -> Result<(), Fault> {
    poll_fn(|context| sender.output.poll_send(stream, context)).await?;
    Ok(())
}
