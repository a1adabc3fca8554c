//! Asks a running unit over its control socket. One connection per question.

use super::exit::{CliError, Exit};
use super::limits;
use crate::config::size;
use farside_protocol::control::{ControlError, CreateVolume, RemoveVolume, Reply, Status};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// A unit, by its control socket.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn status(&self) -> Result<Status, CliError> {
        self.ask(
            Method::GET,
            "/api/v1/status",
            String::new(),
            limits::ANSWER_TIMEOUT,
        )
        .await
    }

    pub(super) async fn create(&self, create: &CreateVolume) -> Result<Reply, CliError> {
        let body = serde_json::to_string(create).map_err(|error| CliError::failure(error.to_string()))?;
        self.ask(Method::POST, "/api/v1/volumes", body, limits::COMMAND_TIMEOUT)
            .await
    }

    /// `name` must be a valid name: it becomes part of the address as it is.
    pub(super) async fn resize(&self, name: &str, size: u64) -> Result<Reply, CliError> {
        let body = serde_json::json!({ "size": size::format_size(size) }).to_string();
        let path = format!("/api/v1/volumes/{name}/size");
        self.ask(Method::PUT, &path, body, limits::RESIZE_TIMEOUT).await
    }

    /// `remove.name` must be a valid name: it becomes part of the address as it is.
    pub(super) async fn remove(&self, remove: &RemoveVolume) -> Result<Reply, CliError> {
        let RemoveVolume {
            name,
            delete_data,
            force,
        } = remove;
        let path = format!("/api/v1/volumes/{name}?delete_data={delete_data}&force={force}");
        self.ask(Method::DELETE, &path, String::new(), limits::COMMAND_TIMEOUT)
            .await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<T, CliError> {
        let stream = self.within(limits::CONNECT_TIMEOUT, self.connect()).await?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = self.broken(hyper::client::conn::http1::handshake(io).await)?;
        // Ends with the last use of `sender`; its errors reach the request too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "farside")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| CliError::failure(error.to_string()))?;
        self.within(patience, async {
            let response = self.broken(sender.send_request(request).await)?;
            self.read(response).await
        })
        .await
    }

    async fn connect(&self) -> Result<UnixStream, CliError> {
        UnixStream::connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.display();
            CliError::new(
                Exit::Unreachable,
                match error.kind() {
                    ErrorKind::PermissionDenied => {
                        format!("{socket} may not be opened: run this as the user the unit runs as")
                    }
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
                        "no unit is running here: nobody answers at {socket}; start one with 'farside up DIR' or \
                         'farside unit --config FILE'"
                    ),
                    _ => format!("{socket}: {error}; name the control socket of a running unit with --socket"),
                },
            )
        })
    }

    async fn read<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, CliError> {
        let good = response.status().is_success();
        let body = Limited::new(response.into_body(), limits::ANSWER_BYTES)
            .collect()
            .await;
        let bytes = body.map_err(|error| self.lost(error.as_ref()))?.to_bytes();
        let unreadable = |error: serde_json::Error| {
            let socket = self.socket.display();
            CliError::failure(format!(
                "the answer at {socket} is not Farside's: {error}; check --socket and versions"
            ))
        };
        if good {
            return serde_json::from_slice(&bytes).map_err(unreadable);
        }
        Err(serde_json::from_slice::<ControlError>(&bytes)
            .map_err(unreadable)?
            .into())
    }

    async fn within<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
            let (socket, seconds) = (self.socket.display(), patience.as_secs());
            let message = format!("the unit at {socket} has not answered for {seconds} s; look at its log");
            Err(CliError::new(Exit::Unreachable, message))
        })
    }

    fn broken<T>(&self, result: hyper::Result<T>) -> Result<T, CliError> {
        result.map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &dyn std::error::Error) -> CliError {
        let message = format!(
            "the unit at {} broke off: {error}; look at its log",
            self.socket.display()
        );
        CliError::new(Exit::Unreachable, message)
    }
}
