//! Two units get to know each other: one invites, the other comes with the invitation.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use super::frames::{self, PATIENCE};
use super::peers::{Peer, admit};
use super::tls::{self, Meant, Who};
use super::token::Token;
use super::{Pairing, invitation};
use farside_protocol::link::{Assembler, Message, Pair, Paired, Refusal, RefuseCode};
use jiff::Timestamp;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use uuid::Uuid;

/// An invitation given out.
#[derive(Debug, Clone)]
pub struct Invited {
    /// To be handed to the other unit.
    pub token: Token,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

impl Pairing {
    /// Invites one unit, for ten minutes.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn invite(&self) -> Result<Invited, PairingError> {
        let mut secret = [0; farside_protocol::link::limits::PAIR_SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|error| {
            PairingError::Unreachable(format!("the system gives no random numbers: {error}"))
        })?;
        let mut state = self.state.lock();
        state.invitations.add(secret, Instant::now());
        Ok(Invited {
            token: Token::new(state.key.fingerprint(), secret),
            expires_at: Timestamp::now() + invitation::LIFETIME,
        })
    }

    /// Accepts the invitation of the unit at `address`: both know each other from then on.
    ///
    /// # Errors
    /// The unit is not there, is another one, or refuses.
    pub async fn accept(self: &Arc<Self>, address: &str, token: &Token) -> Result<Peer, PairingError> {
        if token.is_by(self.state.lock().key.fingerprint()) {
            return Err(PairingError::Itself);
        }
        let unreachable = |text: String| PairingError::Unreachable(format!("{address}: {text}"));
        let generation = self.state.lock().generation;
        let greeted = timeout(PATIENCE, self.greet(address, token)).await;
        let (paired, key) = greeted.map_err(|_| unreachable("did not answer in time".to_owned()))??;
        let (pairing, address) = (Arc::clone(self), address.to_owned());
        let noted = tokio::task::spawn_blocking(move || {
            pairing.note((paired.unit, paired.unit_name), (key, generation), Some(address))
        });
        noted
            .await
            .map_err(|error| PairingError::Unreachable(error.to_string()))?
    }

    async fn greet(&self, address: &str, token: &Token) -> Result<(Paired, Fingerprint), PairingError> {
        let unreachable = |text: String| PairingError::Unreachable(format!("{address}: {text}"));
        let meant = Meant::new(Who::Invited(token.clone()));
        let config = tls::client(&self.key(), tls::PAIR, Arc::clone(&meant))?;
        let socket = TcpStream::connect(address).await.map_err(|error| {
            unreachable(format!(
                "{error}; give HOST:PORT of the link of the unit that invited"
            ))
        })?;
        let name = ServerName::from(
            socket
                .peer_addr()
                .map_err(|error| unreachable(error.to_string()))?
                .ip(),
        );
        let connected = TlsConnector::from(config).connect(name, socket).await;
        let mut stream = connected.map_err(|error| match meant.answered() {
            Some(shown) if !meant.is(shown.key) => unreachable(
                "another unit answered than the one that invited, or its key was renewed since; check the address, and invite again"
                    .to_owned(),
            ),
            _ => unreachable(format!("{error}; is that the link of a unit that knows pairing?")),
        })?;
        let key = meant
            .answered()
            .ok_or_else(|| unreachable("showed no key".to_owned()))?
            .key;
        let pair = Pair {
            secret: token.secret(),
            unit: self.unit,
            unit_name: self.unit_name.clone(),
        };
        let mut frame = Assembler::default();
        let exchanged = async {
            frames::send(&mut stream, &Message::Pair(pair)).await?;
            frames::receive(&mut stream, &mut frame).await
        };
        exchanged.await.map_err(|error| unreachable(error.to_string()))?;
        match frame.message().map_err(|error| unreachable(error.to_string()))?.0 {
            Message::Paired(paired) => Ok((paired, key)),
            Message::Refuse(refusal) => Err(PairingError::Refused(refusal.text().to_owned())),
            other => Err(unreachable(format!("sent {:?}", other.kind()))),
        }
    }

    /// The other side of it: whoever is at the other end comes with an invitation, or goes.
    pub(super) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: &mut S,
        key: Fingerprint,
        generation: u64,
    ) -> Result<Peer, Refusal> {
        let refuse = |text: &str| Refusal::new(RefuseCode::NotAccepted, 0, text);
        let mut frame = Assembler::default();
        let received = timeout(PATIENCE, frames::receive(stream, &mut frame)).await;
        let pair = match received {
            Ok(Ok(())) => match frame.message().map(|(message, _)| message) {
                Ok(Message::Pair(pair)) => pair,
                _ => return Err(refuse("that was no word of a unit that wants to be paired")),
            },
            _ => return Err(refuse("nothing came in time")),
        };
        let now = Instant::now();
        if !self
            .state
            .lock()
            .invitations
            .accept(pair.secret, (pair.unit, key), now)
        {
            return Err(refuse(
                "this invitation is not good any more: it works once, for ten minutes, and while the unit that gave it runs; \
                 run 'farside pair invite' there again",
            ));
        }
        let pairing = Arc::clone(self);
        let noted = tokio::task::spawn_blocking(move || {
            pairing.note((pair.unit, pair.unit_name), (key, generation), None)
        })
        .await;
        let peer = match noted {
            Ok(Ok(peer)) => peer,
            Ok(Err(error)) => return Err(refuse(&error.to_string())),
            Err(error) => return Err(refuse(&error.to_string())),
        };
        let answer = Paired {
            unit: self.unit,
            unit_name: self.unit_name.clone(),
        };
        // If it is lost the other unit says so, and comes again.
        let _ = timeout(PATIENCE, frames::send(stream, &Message::Paired(answer))).await;
        Ok(peer)
    }

    fn note(
        &self,
        (unit, name): (Uuid, String),
        (key, generation): (Fingerprint, u64),
        address: Option<String>,
    ) -> Result<Peer, PairingError> {
        if unit == self.unit {
            return Err(PairingError::Itself);
        }
        let peer = Peer {
            name,
            unit,
            key,
            next_key: None,
            address,
            paired_at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let noted = self.change(|peers| {
            // The other side notes the key that it was shown, which must not have been replaced since.
            if self.state.lock().generation != generation {
                return Err(PairingError::Changed);
            }
            admit(peers, peer)
        });
        let peer = noted?;
        self.paired.send_replace(());
        tracing::info!(peer = peer.name, unit = %peer.unit, key = %peer.key, "paired");
        Ok(peer)
    }
}
