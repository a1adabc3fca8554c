//! Pairing, as the control interface asks for it.

use super::shared::Shared;
use crate::config::is_name;
use crate::pairing::{PairingError, Peer, Token};
use farside_protocol::control::{
    AcceptInvitation, ControlError, ErrorCode, Invitation, PairingStatus, PeerStatus, Reply,
};

/// What is known.
pub(super) fn status(shared: &Shared) -> PairingStatus {
    let known = shared.pairing.known();
    PairingStatus {
        unit_uuid: shared.uuid.to_string(),
        key: known.key.to_string(),
        renewal_waits_for: known.renewal,
        peers: known.peers.iter().map(peer_status).collect(),
    }
}

fn peer_status(peer: &Peer) -> PeerStatus {
    PeerStatus {
        name: peer.name.clone(),
        unit_uuid: peer.unit.to_string(),
        key: peer.key.to_string(),
        next_key: peer.next_key.map(|key| key.to_string()),
        address: peer.address.clone(),
        paired_at: peer.paired_at.clone(),
    }
}

/// Invites one unit.
pub(super) fn invite(shared: &Shared) -> Result<Invitation, ControlError> {
    if shared.listening.link.is_empty() {
        return Err(ControlError::new(
            ErrorCode::Conflict,
            "this unit listens for no links, so nobody can come with an invitation",
            "set link.listen in its configuration, or invite on the other unit",
        ));
    }
    let invited = shared.pairing.invite().map_err(control_error)?;
    tracing::info!("a unit is invited to be paired");
    Ok(Invitation {
        token: invited.token.to_string(),
        expires_at: invited.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        link_listen: shared.listening.link.clone(),
    })
}

/// Accepts an invitation of another unit.
pub(super) async fn accept(shared: &Shared, accept: &AcceptInvitation) -> Result<Reply, ControlError> {
    let token: Token = accept.token.parse().map_err(control_error)?;
    let peer = shared
        .pairing
        .accept(accept.address.trim(), &token)
        .await
        .map_err(control_error)?;
    Ok(Reply {
        message: format!(
            "paired with unit {} ({}, key {}); links to {} are encrypted, and for it alone",
            peer.name,
            peer.unit,
            peer.key,
            peer.address.as_deref().unwrap_or("it")
        ),
        files: Vec::new(),
    })
}

/// Ends a pairing.
pub(super) async fn revoke(shared: &Shared, name: String) -> Result<Reply, ControlError> {
    if !is_name(&name) {
        return Err(control_error(PairingError::Unknown(name)));
    }
    let pairing = shared.pairing.clone();
    let gone = blocking(move || pairing.revoke(&name)).await?;
    tracing::warn!(peer = gone.name, unit = %gone.unit, "the pairing was revoked");
    Ok(Reply {
        message: format!(
            "unit {} is not paired with this one any more, and its links have ended; run 'farside pair revoke' there too",
            gone.name
        ),
        files: Vec::new(),
    })
}

/// Gives this unit another key.
pub(super) async fn renew(shared: &Shared) -> Result<Reply, ControlError> {
    let pairing = shared.pairing.clone();
    let (key, waits_for) = blocking(move || pairing.renew()).await?;
    let message = if waits_for.is_empty() {
        format!("this unit has a new key, {key}")
    } else {
        format!(
            "this unit gets a new key, {key}, as soon as these units have heard of it: {}; their links are connected anew for \
             that",
            waits_for.join(", ")
        )
    };
    Ok(Reply {
        message,
        files: Vec::new(),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PairingError> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(control_error),
        Err(error) => Err(ControlError::plain(ErrorCode::Failed, error.to_string())),
    }
}

fn control_error(error: PairingError) -> ControlError {
    let code = match &error {
        PairingError::Unknown(_) => ErrorCode::NotFound,
        PairingError::Token(_) => ErrorCode::BadRequest,
        PairingError::OtherKey { .. }
        | PairingError::KeyOfAnother(_)
        | PairingError::Changed
        | PairingError::Itself
        | PairingError::Refused(_)
        | PairingError::Renewing(_) => ErrorCode::Conflict,
        PairingError::File { .. }
        | PairingError::Config(_)
        | PairingError::Unreachable(_)
        | PairingError::Tls(_) => ErrorCode::Failed,
    };
    ControlError::plain(code, error.to_string())
}
