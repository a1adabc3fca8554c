//! The addresses at which a replica is handed over and taken back, and the seed it may begin with.

use crate::control::{ReplicaOrder, SeedOrder};
use crate::history::lines;
use crate::routers::{Refusal, Shared, malformed, run};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use farside_protocol::control::{DetachAt, Reply, SeedFile};

/// What changes something; there is nothing to show besides the status.
pub(crate) fn commands() -> Router<Shared> {
    Router::new()
        .route("/api/v1/replicas/{name}/detach", post(detach))
        .route("/api/v1/replicas/{name}/detach-at", post(detach_at))
        .route("/api/v1/replicas/{name}/attach", post(attach))
        .route("/api/v1/replicas/{name}/adopt", post(adopt))
        .route("/api/v1/replicas/{name}/seed", post(import))
        .route("/api/v1/volumes/{name}/seed", post(export))
}

type Seed = Result<Json<SeedFile>, JsonRejection>;

async fn detach(State(control): State<Shared>, Path(name): Path<String>) -> Result<Json<Reply>, Refusal> {
    run(control.replica(name, ReplicaOrder::Detach)).await
}

async fn attach(State(control): State<Shared>, Path(name): Path<String>) -> Result<Json<Reply>, Refusal> {
    run(control.replica(name, ReplicaOrder::Attach)).await
}

async fn adopt(State(control): State<Shared>, Path(name): Path<String>) -> Result<Json<Reply>, Refusal> {
    run(control.replica(name, ReplicaOrder::Adopt)).await
}

async fn detach_at(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<DetachAt>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(moment) = body.map_err(|error| malformed(error.body_text()))?;
    lines(control.seed(SeedOrder::DetachAt(name, moment))).await
}

async fn import(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Seed,
) -> Result<Response, Refusal> {
    seed(&control, body, |file| SeedOrder::Import(name, file)).await
}

async fn export(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Seed,
) -> Result<Response, Refusal> {
    seed(&control, body, |file| SeedOrder::Export(name, file)).await
}

async fn seed(
    control: &Shared,
    body: Seed,
    order: impl FnOnce(SeedFile) -> SeedOrder,
) -> Result<Response, Refusal> {
    let Json(file) = body.map_err(|error| malformed(error.body_text()))?;
    lines(control.seed(order(file))).await
}
