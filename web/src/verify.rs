//! The address of a volume's comparison with its remotes.

use crate::control::VerifyOrder;
use crate::routers::{Refusal, Shared, malformed};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use farside_protocol::control::{StartVerify, VerifyStatus};
use serde::Deserialize;

const ADDRESS: &str = "/api/v1/volumes/{name}/verify";

/// What only shows.
pub(crate) fn views() -> Router<Shared> {
    Router::new().route(ADDRESS, get(show))
}

/// What changes something.
pub(crate) fn commands() -> Router<Shared> {
    Router::new().route(ADDRESS, post(start).delete(stop))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    remote: Option<String>,
}

type Told = Result<Json<VerifyStatus>, Refusal>;

async fn show(
    State(control): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<Which>, QueryRejection>,
) -> Told {
    let Query(Which { remote }) = query.map_err(|error| malformed(error.body_text()))?;
    tell(&control, name, VerifyOrder::Show(remote)).await
}

async fn start(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<StartVerify>, JsonRejection>,
) -> Told {
    let Json(start) = body.map_err(|error| malformed(error.body_text()))?;
    tell(&control, name, VerifyOrder::Start(start)).await
}

async fn stop(
    State(control): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<Which>, QueryRejection>,
) -> Told {
    let Query(Which { remote }) = query.map_err(|error| malformed(error.body_text()))?;
    tell(&control, name, VerifyOrder::Stop(remote)).await
}

async fn tell(control: &Shared, name: String, order: VerifyOrder) -> Told {
    control.verify(name, order).await.map(Json).map_err(Refusal)
}
