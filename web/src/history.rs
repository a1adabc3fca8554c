//! The addresses of a replica's past: its moments, bookmarks, views and copies.
//!
//! Views and copies last: their answer is a line of JSON for each thing there is to say, and closing the connection ends
//! them.

use crate::control::{Answer, Lasting};
use crate::routers::{Refusal, Shared, malformed, run};
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use farside_protocol::control::{
    AddBookmark, AskChanges, AskHistory, ChangesStatus, HistoryStatus, OpenView, Reply, RestoreFile,
};
use hyper::body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What only shows.
pub(crate) fn views() -> Router<Shared> {
    Router::new()
        .route("/api/v1/replicas/{name}/history", get(history))
        .route("/api/v1/replicas/{name}/history/changes", get(changes))
}

/// What changes something.
pub(crate) fn commands() -> Router<Shared> {
    Router::new()
        .route("/api/v1/replicas/{name}/bookmarks", post(add_bookmark))
        .route(
            "/api/v1/replicas/{name}/bookmarks/{bookmark}",
            delete(remove_bookmark),
        )
        .route("/api/v1/replicas/{name}/views", post(open_view))
        .route("/api/v1/replicas/{name}/restore", post(restore))
}

async fn history(
    State(control): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<AskHistory>, QueryRejection>,
) -> Result<Json<HistoryStatus>, Refusal> {
    let Query(ask) = query.map_err(|error| malformed(error.body_text()))?;
    control.history(name, ask).await.map(Json).map_err(Refusal)
}

async fn changes(
    State(control): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<AskChanges>, QueryRejection>,
) -> Result<Json<ChangesStatus>, Refusal> {
    let Query(ask) = query.map_err(|error| malformed(error.body_text()))?;
    control.changes(name, ask).await.map(Json).map_err(Refusal)
}

async fn add_bookmark(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<AddBookmark>, JsonRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Json(add) = body.map_err(|error| malformed(error.body_text()))?;
    run(control.add_bookmark(name, add)).await
}

async fn remove_bookmark(
    State(control): State<Shared>,
    Path((name, bookmark)): Path<(String, String)>,
) -> Result<Json<Reply>, Refusal> {
    run(control.remove_bookmark(name, bookmark)).await
}

async fn open_view(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<OpenView>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(open) = body.map_err(|error| malformed(error.body_text()))?;
    lines(control.open_view(name, open)).await
}

async fn restore(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<RestoreFile>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(restore) = body.map_err(|error| malformed(error.body_text()))?;
    lines(control.restore(name, restore)).await
}

/// Work that lasts, a line of JSON for each thing it says.
pub(crate) async fn lines(begun: Answer<Lasting>) -> Result<Response, Refusal> {
    let lasting = begun.await.map_err(Refusal)?;
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::new(Lines(lasting))).into_response())
}

/// A body that grows as long as there is something to say.
struct Lines(Lasting);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|said| {
            // Plain data; it can always be written.
            let mut line = serde_json::to_vec(&said?).unwrap_or_default();
            line.push(b'\n');
            Some(Ok(Frame::data(line.into())))
        })
    }
}
