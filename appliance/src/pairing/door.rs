//! Being dialled: what comes in is told apart by its first byte, proves who it is, and is let in or turned away.

use super::fingerprint::Fingerprint;
use super::frames::{self, PATIENCE};
use super::key::Shown;
use super::{Pairing, tls};
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_remote::{Answer, Door, Notice, PairedUnit, SessionError, Visitor};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// First byte of a TLS connection: the type of a record with a handshake (RFC 8446, 5.1). A link without TLS begins with `F`.
const TLS_HANDSHAKE: u8 = 22;

/// The door of the link listeners.
#[derive(Debug)]
pub(crate) struct LinkDoor {
    pub(crate) pairing: Arc<Pairing>,
    /// Units on other machines may come unencrypted.
    pub(crate) trust_network: bool,
}

impl Door for LinkDoor {
    fn open(&self, socket: TcpStream, address: SocketAddr) -> Answer<'_> {
        Box::pin(self.answer(socket, address))
    }

    fn check(&self, unit: Option<&PairedUnit>, hello: &Hello) -> Result<(), Refusal> {
        let refuse = |text: &str| Err(Refusal::new(RefuseCode::NotAccepted, 0, text));
        match unit {
            Some(unit) if unit.unit != hello.unit => refuse(&format!(
                "the key of this connection is that of unit '{}', and it says it is unit {}; a unit's directory must not be \
                 copied to another unit",
                unit.name, hello.unit
            )),
            Some(unit) if *unit.notices.borrow() == Notice::Revoked || !self.pairing.is_paired(unit.unit) => {
                refuse("the pairing with this unit was revoked while it came")
            }
            Some(unit) => {
                self.pairing.told(unit.unit, unit.certificate);
                Ok(())
            }
            None if self.pairing.is_paired(hello.unit) => refuse(
                "your unit is paired with this one, and has to come encrypted: dial the address it was paired at, or name \
                 the unit as the 'peer' of the remote in its configuration",
            ),
            None => Ok(()),
        }
    }
}

impl LinkDoor {
    async fn answer(&self, socket: TcpStream, address: SocketAddr) -> Result<Visitor, SessionError> {
        let mut first = [0];
        let peeked = timeout(PATIENCE, socket.peek(&mut first)).await;
        let count = peeked
            .map_err(|_| SessionError::NoHello)?
            .map_err(SessionError::Socket)?;
        if count == 0 {
            return Err(SessionError::Closed);
        }
        if first == [TLS_HANDSHAKE] {
            return self.encrypted(socket).await;
        }
        let visitor = Visitor::unknown(socket);
        if self.trust_network || address.ip().to_canonical().is_loopback() {
            return Ok(visitor);
        }
        let text = "links between machines are encrypted, and the units know each other: run 'farside pair invite' at this \
                    unit, and 'farside pair with' at yours";
        Err(visitor
            .turn_away(Refusal::new(RefuseCode::NotAccepted, 0, text))
            .await)
    }

    async fn encrypted(&self, socket: TcpStream) -> Result<Visitor, SessionError> {
        let (server, certificate) = self.pairing.server();
        let accepted = timeout(PATIENCE, TlsAcceptor::from(server).accept(socket)).await;
        let mut stream = accepted
            .map_err(|_| SessionError::NoHello)?
            .map_err(|error| SessionError::Door(format!("no encrypted link: {error}")))?;
        let Some(shown) = shown(&stream) else {
            return Err(SessionError::Door("it showed no certificate".to_owned()));
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(tls::LINK) => self.link(stream, shown, certificate).await,
            Some(tls::PAIR) => Err(self.greet(&mut stream, (shown.key, certificate)).await),
            _ => Err(SessionError::Door(
                "it did not say what it wants (ALPN)".to_owned(),
            )),
        }
    }

    async fn greet(
        &self,
        stream: &mut TlsStream<TcpStream>,
        (key, certificate): (Fingerprint, u64),
    ) -> SessionError {
        match self.pairing.receive(stream, key, certificate).await {
            Ok(_) => SessionError::Served,
            Err(refusal) => {
                frames::refuse(stream, refusal.clone()).await;
                SessionError::Refused(refusal)
            }
        }
    }

    async fn link(
        &self,
        mut stream: TlsStream<TcpStream>,
        shown: Shown,
        certificate: u64,
    ) -> Result<Visitor, SessionError> {
        let Some((peer, notices)) = self.pairing.recognise(shown.key, certificate) else {
            let text = "this unit is not paired with yours (any more): run 'farside pair invite' at this unit, and 'farside \
                        pair with' at yours";
            let refusal = Refusal::new(RefuseCode::NotAccepted, 0, text);
            frames::refuse(&mut stream, refusal.clone()).await;
            return Err(SessionError::Refused(refusal));
        };
        // Before anything is said, so that the other side can rely on it.
        let noted = self.pairing.note_shown(peer.unit, shown).await;
        noted.map_err(|error| SessionError::Door(error.to_string()))?;
        let (read, write) = tokio::io::split(stream);
        Ok(Visitor {
            read: Box::new(read),
            write: Box::new(write),
            unit: Some(PairedUnit {
                unit: peer.unit,
                name: peer.name,
                certificate,
                notices,
            }),
        })
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Option<Shown> {
    Shown::read(stream.get_ref().1.peer_certificates()?.first()?)
}
