//! The addresses of pairing.

use crate::control::PairingOrder;
use crate::routers::{Refusal, Shared, malformed, run};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use farside_protocol::control::{AcceptInvitation, Invitation, PairingStatus, Reply};

const PEERS: &str = "/api/v1/peers";

/// What only shows.
pub(crate) fn views() -> Router<Shared> {
    Router::new().route(PEERS, get(show))
}

/// What changes something, or tells a secret.
pub(crate) fn commands() -> Router<Shared> {
    Router::new()
        .route(PEERS, post(accept))
        .route("/api/v1/peers/{name}", delete(revoke))
        .route("/api/v1/invitations", post(invite))
        .route("/api/v1/key/renew", post(renew))
}

async fn show(State(control): State<Shared>) -> Json<PairingStatus> {
    Json(control.pairing())
}

async fn invite(State(control): State<Shared>) -> Result<Json<Invitation>, Refusal> {
    control.invite().map(Json).map_err(Refusal)
}

async fn accept(
    State(control): State<Shared>,
    body: Result<Json<AcceptInvitation>, JsonRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Json(accept) = body.map_err(|error| malformed(error.body_text()))?;
    run(control.pair(PairingOrder::Accept(accept))).await
}

async fn revoke(State(control): State<Shared>, Path(name): Path<String>) -> Result<Json<Reply>, Refusal> {
    run(control.pair(PairingOrder::Revoke(name))).await
}

async fn renew(State(control): State<Shared>) -> Result<Json<Reply>, Refusal> {
    run(control.pair(PairingOrder::Renew)).await
}
