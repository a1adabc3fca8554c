//! A client that keeps many requests in flight on one connection and says which answer belongs to which request.

use super::{Endpoint, InfoReply, RawNbd, Request, command, flags, option};
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

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which request it answers.
    pub cookie: u64,
    /// The data of a read, nothing for others; or the server's error.
    pub outcome: Result<Vec<u8>, ServerError>,
}

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

    /// Sends a request without waiting; `request.cookie` is filled in and returned.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn submit(&mut self, request: Request, payload: &[u8]) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if request.command == command::READ {
            self.reads.insert(cookie, request.length);
        }
        self.raw.request(Request { cookie, ..request }, payload)?;
        Ok(cookie)
    }

    /// Reads the next answer, whichever request it is for.
    ///
    /// # Errors
    /// When the connection ends, the server is silent for too long, or sends what is no reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
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

    /// Sends one request and waits for its answer; nothing else may be in flight.
    ///
    /// # Errors
    /// When the connection fails, or the server answers with an error (a `ServerError` inside).
    pub fn call(&mut self, request: Request, payload: &[u8]) -> io::Result<Vec<u8>> {
        let cookie = self.submit(request, payload)?;
        let reply = self.receive()?;
        if reply.cookie != cookie {
            return Err(io::Error::other(format!(
                "answer to {} instead of {cookie}",
                reply.cookie
            )));
        }
        reply.outcome.map_err(io::Error::other)
    }

    /// Reads.
    ///
    /// # Errors
    /// As `call`.
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.call(
            Request {
                command: command::READ,
                offset,
                length,
                ..Request::default()
            },
            &[],
        )
    }

    /// Writes.
    ///
    /// # Errors
    /// As `call`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = length_of(data)?;
        self.call(
            Request {
                command: command::WRITE,
                offset,
                length,
                ..Request::default()
            },
            data,
        )
        .map(drop)
    }

    /// Writes, answered only when it is on stable storage.
    ///
    /// # Errors
    /// As `call`.
    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let request = Request {
            command: command::WRITE,
            flags: flags::FUA,
            offset,
            ..Request::default()
        };
        self.call(
            Request {
                length: length_of(data)?,
                ..request
            },
            data,
        )
        .map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    /// As `call`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.call(
            Request {
                command: command::FLUSH,
                ..Request::default()
            },
            &[],
        )
        .map(drop)
    }

    /// Trims.
    ///
    /// # Errors
    /// As `call`.
    pub fn trim(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.call(
            Request {
                command: command::TRIM,
                offset,
                length,
                ..Request::default()
            },
            &[],
        )
        .map(drop)
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// As `call`.
    pub fn zero(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.call(
            Request {
                command: command::WRITE_ZEROES,
                offset,
                length,
                ..Request::default()
            },
            &[],
        )
        .map(drop)
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.raw.request(
            Request {
                command: command::DISC,
                ..Request::default()
            },
            &[],
        )
    }

    /// The connection below, for messages no client would send.
    pub fn raw(&mut self) -> &mut RawNbd {
        &mut self.raw
    }
}

fn length_of(data: &[u8]) -> io::Result<u32> {
    u32::try_from(data.len()).map_err(|_| io::Error::other("more than a request can carry"))
}
