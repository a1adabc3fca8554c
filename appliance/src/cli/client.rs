//! Asks a running unit over its control socket. One connection per question.

use super::exit::{CliError, Exit};
use super::limits;
use crate::config::size;
use farside_protocol::control::{
    AcceptInvitation, AddBookmark, AskChanges, AskHistory, ChangesStatus, ControlError, CreateVolume,
    DetachAt, HistoryStatus, Invitation, OpenView, PairingStatus, Progress, RemoveVolume, Reply, RestoreFile,
    SeedFile, SetFlow, StartVerify, Status, VerifyStatus,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
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

    /// `flow.volume` must be a valid name.
    pub(super) async fn set_flow(&self, flow: &SetFlow) -> Result<Reply, CliError> {
        let SetFlow {
            volume,
            remote,
            send,
            queue,
        } = flow;
        let body = serde_json::json!({ "remote": remote, "send": send, "queue": queue }).to_string();
        let path = format!("/api/v1/volumes/{volume}/flow");
        self.ask(Method::PUT, &path, body, limits::COMMAND_TIMEOUT).await
    }

    /// Both must be valid names.
    pub(super) async fn discard_queue(&self, volume: &str, remote: Option<&str>) -> Result<Reply, CliError> {
        let which = remote.map_or_else(String::new, |remote| format!("?remote={remote}"));
        let path = format!("/api/v1/volumes/{volume}/queue{which}");
        self.ask(Method::DELETE, &path, String::new(), limits::COMMAND_TIMEOUT)
            .await
    }

    /// Both must be valid names.
    pub(super) async fn verify_status(
        &self,
        volume: &str,
        remote: Option<&str>,
    ) -> Result<VerifyStatus, CliError> {
        self.ask(
            Method::GET,
            &verify_path(volume, remote),
            String::new(),
            limits::ANSWER_TIMEOUT,
        )
        .await
    }

    /// `volume` must be a valid name.
    pub(super) async fn start_verify(
        &self,
        volume: &str,
        start: &StartVerify,
    ) -> Result<VerifyStatus, CliError> {
        let path = verify_path(volume, None);
        self.ask(Method::POST, &path, json(start)?, limits::ANSWER_TIMEOUT)
            .await
    }

    /// Both must be valid names.
    pub(super) async fn stop_verify(
        &self,
        volume: &str,
        remote: Option<&str>,
    ) -> Result<VerifyStatus, CliError> {
        self.ask(
            Method::DELETE,
            &verify_path(volume, remote),
            String::new(),
            limits::ANSWER_TIMEOUT,
        )
        .await
    }

    pub(super) async fn pairing(&self) -> Result<PairingStatus, CliError> {
        let patience = limits::ANSWER_TIMEOUT;
        self.ask(Method::GET, "/api/v1/peers", String::new(), patience)
            .await
    }

    pub(super) async fn invite(&self) -> Result<Invitation, CliError> {
        let patience = limits::ANSWER_TIMEOUT;
        self.ask(Method::POST, "/api/v1/invitations", String::new(), patience)
            .await
    }

    pub(super) async fn accept_invitation(&self, accept: &AcceptInvitation) -> Result<Reply, CliError> {
        let patience = limits::COMMAND_TIMEOUT;
        self.ask(Method::POST, "/api/v1/peers", json(accept)?, patience)
            .await
    }

    /// It must be a valid name.
    pub(super) async fn revoke_peer(&self, name: &str) -> Result<Reply, CliError> {
        let path = format!("/api/v1/peers/{name}");
        self.ask(Method::DELETE, &path, String::new(), limits::COMMAND_TIMEOUT)
            .await
    }

    pub(super) async fn renew_key(&self) -> Result<Reply, CliError> {
        let patience = limits::COMMAND_TIMEOUT;
        self.ask(Method::POST, "/api/v1/key/renew", String::new(), patience)
            .await
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

    pub(super) async fn history(&self, replica: &str, ask: &AskHistory) -> Result<HistoryStatus, CliError> {
        let limit = ask.limit.map(|limit| limit.to_string());
        let path = below(
            replica,
            "history",
            &[("limit", limit.as_deref()), ("until", ask.until.as_deref())],
        );
        self.ask(Method::GET, &path, String::new(), limits::ANSWER_TIMEOUT)
            .await
    }

    pub(super) async fn changes(&self, replica: &str, ask: &AskChanges) -> Result<ChangesStatus, CliError> {
        let query = [("from", Some(ask.from.as_str())), ("to", ask.to.as_deref())];
        let path = below(replica, "history/changes", &query);
        self.ask(Method::GET, &path, String::new(), limits::COMMAND_TIMEOUT)
            .await
    }

    pub(super) async fn add_bookmark(&self, replica: &str, add: &AddBookmark) -> Result<Reply, CliError> {
        let path = below(replica, "bookmarks", &[]);
        self.ask(Method::POST, &path, json(add)?, limits::COMMAND_TIMEOUT)
            .await
    }

    /// Both must be valid names.
    pub(super) async fn remove_bookmark(&self, replica: &str, name: &str) -> Result<Reply, CliError> {
        let path = below(replica, &format!("bookmarks/{name}"), &[]);
        self.ask(Method::DELETE, &path, String::new(), limits::COMMAND_TIMEOUT)
            .await
    }

    pub(super) async fn open_view(&self, replica: &str, open: &OpenView) -> Result<Said, CliError> {
        self.begin(&below(replica, "views", &[]), json(open)?).await
    }

    pub(super) async fn restore(&self, replica: &str, restore: &RestoreFile) -> Result<Said, CliError> {
        self.begin(&below(replica, "restore", &[]), json(restore)?).await
    }

    /// Both must be valid: a name, and a word of the interface.
    pub(super) async fn replica(&self, replica: &str, order: &str) -> Result<Reply, CliError> {
        let path = below(replica, order, &[]);
        self.ask(Method::POST, &path, String::new(), limits::COMMAND_TIMEOUT)
            .await
    }

    /// `replica` must be a valid name.
    pub(super) async fn detach_at(&self, replica: &str, moment: &DetachAt) -> Result<Said, CliError> {
        self.begin(&below(replica, "detach-at", &[]), json(moment)?).await
    }

    pub(super) async fn import_seed(&self, replica: &str, seed: &SeedFile) -> Result<Said, CliError> {
        self.begin(&below(replica, "seed", &[]), json(seed)?).await
    }

    /// `volume` must be a valid name.
    pub(super) async fn export_seed(&self, volume: &str, seed: &SeedFile) -> Result<Said, CliError> {
        let path = format!("/api/v1/volumes/{volume}/seed");
        self.begin(&path, json(seed)?).await
    }

    /// Begins work that lasts as long as what is returned.
    async fn begin(&self, path: &str, body: String) -> Result<Said, CliError> {
        let response = self
            .respond(Method::POST, path, body, limits::COMMAND_TIMEOUT)
            .await?;
        if !response.status().is_success() {
            return Err(self.read::<Reply>(response).await.err().unwrap_or_else(|| {
                CliError::failure("the unit refused and did not say why; look at its log")
            }));
        }
        Ok(Said {
            client: self.clone(),
            body: response.into_body(),
            rest: Vec::new(),
        })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<T, CliError> {
        self.within(patience, async {
            let response = self.respond(method, path, body, patience).await?;
            self.read(response).await
        })
        .await
    }

    async fn respond(
        &self,
        method: Method,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<Response<Incoming>, CliError> {
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
            self.broken(sender.send_request(request).await)
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

/// What work that lasts says, as it says it. The work ends when this is dropped.
#[derive(Debug)]
pub(super) struct Said {
    client: Client,
    body: Incoming,
    rest: Vec<u8>,
}

impl Said {
    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Progress>, CliError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let said = serde_json::from_slice(&line);
                return said.map(Some).map_err(|error| {
                    CliError::failure(format!(
                        "the unit said something unknown: {error}; check versions"
                    ))
                });
            }
            if self.rest.len() > limits::LINE_BYTES {
                return Err(CliError::failure(
                    "the unit says too much at once; check versions",
                ));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = self.client.broken(frame)?;
                    self.rest
                        .extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                }
            }
        }
    }
}

fn verify_path(volume: &str, remote: Option<&str>) -> String {
    let query = remote.map_or_else(String::new, |remote| format!("?remote={remote}"));
    format!("/api/v1/volumes/{volume}/verify{query}")
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string(value).map_err(|error| CliError::failure(error.to_string()))
}

/// An address below a replica, whose name is a valid one, with what is asked for.
fn below(replica: &str, what: &str, query: &[(&str, Option<&str>)]) -> String {
    let mut path = format!("/api/v1/replicas/{replica}/{what}");
    let given = query.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    for (number, (key, value)) in given.enumerate() {
        path.push(if number == 0 { '?' } else { '&' });
        path.push_str(key);
        path.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn what_is_asked_survives_the_address() {
        let query = [("from", Some("10m ago&x=1")), ("to", None), ("limit", Some("5"))];
        assert_eq!(
            below("disk0", "history", &query),
            "/api/v1/replicas/disk0/history?from=10m%20ago%26x%3D1&limit=5"
        );
    }
}
