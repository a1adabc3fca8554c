//! Which address does what.

use crate::control::{Control, Execution};
use crate::{history, host, limits, page, pairing, replica, verify};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use farside_protocol::control::{
    Command, ControlError, CreateVolume, DiscardQueue, ErrorCode, RemoveVolume, Reply, ResizeVolume, SetFlow,
    Status, VersionInfo, VolumeStatus,
};
use serde::Deserialize;
use std::sync::Arc;

pub(crate) type Shared = Arc<dyn Control>;

/// The whole interface: everything the console shows, and the commands. For the control socket.
pub fn control_router(control: Arc<dyn Control>) -> Router {
    let commands = Router::new()
        .route("/api/v1/volumes", post(create_volume))
        .route("/api/v1/volumes/{name}", axum::routing::delete(remove_volume))
        .route("/api/v1/volumes/{name}/size", axum::routing::put(resize_volume))
        .route("/api/v1/volumes/{name}/flow", axum::routing::put(set_flow))
        .route(
            "/api/v1/volumes/{name}/queue",
            axum::routing::delete(discard_queue),
        )
        .route("/api/v1/reload", post(reload))
        .merge(history::commands())
        .merge(replica::commands())
        .merge(verify::commands())
        .merge(pairing::commands());
    finish(views().merge(commands), control)
}

/// Pages and figures only. For the console's TCP address, where nobody is asked who they are; requests that name
/// another host are refused, see [`host`].
pub fn console_router(control: Arc<dyn Control>) -> Router {
    let guarded = axum::middleware::from_fn_with_state(Arc::clone(&control), host::guard);
    finish(views(), control).layer(guarded)
}

fn views() -> Router<Shared> {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/api/v1/status", get(status))
        .route("/api/v1/volumes", get(volumes))
        .route("/api/v1/volumes/{name}", get(volume))
        .route("/api/v1/version", get(version))
        .merge(history::views())
        .merge(verify::views())
        .merge(pairing::views())
}

fn finish(router: Router<Shared>, control: Shared) -> Router {
    router
        .fallback(no_such_address)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(limits::REQUEST_BODY_BYTES))
        .layer(axum::middleware::map_response(harden))
        .with_state(control)
}

/// Nothing here may be cached, framed, or run a script.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    );
    response
}

async fn index(State(control): State<Shared>) -> Html<String> {
    Html(page::render(&control.status()))
}

async fn health(State(control): State<Shared>) -> Response {
    let health = control.status().health();
    let code = if health.healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(health)).into_response()
}

async fn status(State(control): State<Shared>) -> Json<Status> {
    Json(control.status())
}

async fn volumes(State(control): State<Shared>) -> Json<Vec<VolumeStatus>> {
    Json(control.status().volumes)
}

async fn volume(
    State(control): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<VolumeStatus>, Refusal> {
    let mut volumes = control.status().volumes;
    match volumes.iter().position(|volume| volume.name == name) {
        Some(index) => Ok(Json(volumes.swap_remove(index))),
        None => Err(Refusal(ControlError::new(
            ErrorCode::NotFound,
            format!("there is no volume '{}' here", name.escape_default()),
            "list the volumes with 'farside volume list'",
        ))),
    }
}

async fn version() -> Json<VersionInfo> {
    Json(VersionInfo::current())
}

async fn create_volume(
    State(control): State<Shared>,
    body: Result<Json<CreateVolume>, JsonRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Json(create) = body.map_err(|error| malformed(error.body_text()))?;
    if create.size.is_empty() && !create.adopt {
        return Err(malformed(
            "missing field `size`, which only what is adopted has by itself".to_owned(),
        ));
    }
    run(control.execute(Command::CreateVolume(create))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSize {
    size: String,
}

async fn resize_volume(
    State(control): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<NewSize>, JsonRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Json(NewSize { size }) = body.map_err(|error| malformed(error.body_text()))?;
    run(control.execute(Command::ResizeVolume(ResizeVolume { name, size }))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFlow {
    remote: Option<String>,
    send: Option<bool>,
    queue: Option<bool>,
}

async fn set_flow(
    State(control): State<Shared>,
    Path(volume): Path<String>,
    body: Result<Json<NewFlow>, JsonRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Json(NewFlow { remote, send, queue }) = body.map_err(|error| malformed(error.body_text()))?;
    let flow = SetFlow {
        volume,
        remote,
        send,
        queue,
    };
    run(control.execute(Command::SetFlow(flow))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueQuery {
    remote: Option<String>,
}

async fn discard_queue(
    State(control): State<Shared>,
    Path(volume): Path<String>,
    query: Result<Query<QueueQuery>, QueryRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Query(QueueQuery { remote }) = query.map_err(|error| malformed(error.body_text()))?;
    run(control.execute(Command::DiscardQueue(DiscardQueue { volume, remote }))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    #[serde(default)]
    delete_data: bool,
    #[serde(default)]
    force: bool,
}

async fn remove_volume(
    State(control): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Json<Reply>, Refusal> {
    let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
    let remove = RemoveVolume {
        name,
        delete_data: query.delete_data,
        force: query.force,
    };
    run(control.execute(Command::RemoveVolume(remove))).await
}

async fn reload(State(control): State<Shared>) -> Result<Json<Reply>, Refusal> {
    run(control.execute(Command::Reload)).await
}

/// Runs a command to its end even if the client goes away: a change is made whole or not at all.
pub(crate) async fn run(execution: Execution) -> Result<Json<Reply>, Refusal> {
    match tokio::spawn(execution).await {
        Ok(Ok(reply)) => Ok(Json(reply)),
        Ok(Err(error)) => Err(Refusal(error)),
        Err(error) => Err(Refusal(ControlError::new(
            ErrorCode::Failed,
            format!("the command ended unexpectedly: {error}"),
            "read the log of the unit and check 'farside status'",
        ))),
    }
}

pub(crate) fn malformed(text: String) -> Refusal {
    Refusal(ControlError::plain(ErrorCode::BadRequest, text))
}

async fn no_such_address() -> Refusal {
    Refusal(ControlError::plain(
        ErrorCode::NotFound,
        "there is nothing at this address",
    ))
}

async fn method_not_allowed() -> Response {
    let error = ControlError::new(
        ErrorCode::BadRequest,
        "this address does not take that method",
        "commands are taken on the control socket only",
    );
    (StatusCode::METHOD_NOT_ALLOWED, Json(error)).into_response()
}

/// A [`ControlError`] as an HTTP answer.
pub(crate) struct Refusal(pub(crate) ControlError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match self.0.code {
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::InvalidConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(self.0)).into_response()
    }
}
