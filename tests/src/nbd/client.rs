//! A client that keeps many requests in flight on one connection and says which answer belongs to which request.

use super::{Endpoint, InfoReply, RawNbd, Request, command, option};
use crate::client::{BlockClient, Reply};
use std::collections::HashMap;
use std::io;

/// The server answered with an error: the request failed and the connection lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerError(pub u32);

impl ServerError {
    /// `NBD_EIO`.
    pub const IO: Self = Self(5);
    /// `NBD_EINVAL`.
    pub const INVALID: Self = Self(22);
    /// `NBD_ENOSPC`.
    pub const NO_SPACE: Self = Self(28);
    /// `NBD_ENOTSUP`.
    pub const UNSUPPORTED: Self = Self(95);
    /// `NBD_ESHUTDOWN`.
    pub const SHUTDOWN: Self = Self(108);
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "the NBD server answered with error {}", self.0)
    }
}

impl std::error::Error for ServerError {}

/// A connection to one export.
#[derive(Debug)]
pub struct NbdClient {
    raw: RawNbd,
    info: InfoReply,
    next_cookie: u64,
    reads: HashMap<u64, u32>,
}

impl NbdClient {
    /// Connects and negotiates with `GO`.
    ///
    /// # Errors
    /// When nobody listens or the export is refused.
    pub fn connect(endpoint: &Endpoint, export: &str) -> io::Result<Self> {
        let mut raw = RawNbd::greeted(endpoint)?;
        let info = raw.ask(option::GO, export)?;
        Ok(Self {
            raw,
            info,
            next_cookie: 1,
            reads: HashMap::new(),
        })
    }

    /// What the server said about the export.
    #[must_use]
    pub fn info(&self) -> InfoReply {
        self.info
    }

    /// The connection below, for messages no client would send.
    pub fn raw(&mut self) -> &mut RawNbd {
        &mut self.raw
    }
}

impl BlockClient for NbdClient {
    fn submit(&mut self, request: Request, payload: &[u8]) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if request.command == command::READ {
            self.reads.insert(cookie, request.length);
        }
        self.raw.request(Request { cookie, ..request }, payload)?;
        Ok(cookie)
    }

    fn receive(&mut self) -> io::Result<Reply> {
        let header = self.raw.reply_header()?;
        let length = self.reads.remove(&header.cookie);
        let outcome = match (header.error, length) {
            (0, Some(length)) => Ok(self.raw.read_bytes(length)?),
            (0, None) => Ok(Vec::new()),
            (error, _) => Err(ServerError(error)),
        };
        Ok(Reply {
            cookie: header.cookie,
            outcome,
        })
    }

    fn disconnect(&mut self) -> io::Result<()> {
        self.raw.request(
            Request {
                command: command::DISC,
                ..Request::default()
            },
            &[],
        )
    }
}
