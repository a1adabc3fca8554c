//! A host's end of a disk, whatever protocol it speaks: requests in flight, and answers in any order.

use crate::nbd::{Request, ServerError, command, flags};
use std::fmt;
use std::io;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which request it answers.
    pub cookie: u64,
    /// The data of a read, nothing for others; or the server's error.
    pub outcome: Result<Vec<u8>, ServerError>,
}

/// A connection to one disk. Requests are told as NBD tells them.
pub trait BlockClient: fmt::Debug + Send {
    /// Sends a request without waiting; gives its cookie, whatever it had.
    ///
    /// # Errors
    /// When the connection is gone.
    fn submit(&mut self, request: Request, payload: &[u8]) -> io::Result<u64>;

    /// Reads the next answer, whichever request it is for.
    ///
    /// # Errors
    /// When the connection ends, the server is silent for too long, or sends what is no reply.
    fn receive(&mut self) -> io::Result<Reply>;

    /// Says goodbye.
    ///
    /// # Errors
    /// When the connection is gone already.
    fn disconnect(&mut self) -> io::Result<()>;

    /// Sends one request and waits for its answer; nothing else may be in flight.
    ///
    /// # Errors
    /// When the connection fails, or the server answers with an error (a `ServerError` inside).
    fn call(&mut self, request: Request, payload: &[u8]) -> io::Result<Vec<u8>> {
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
    fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.call(request(command::READ, offset, length), &[])
    }

    /// Writes.
    ///
    /// # Errors
    /// As `call`.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(request(command::WRITE, offset, length_of(data)?), data)
            .map(drop)
    }

    /// Writes, answered only when it is on stable storage.
    ///
    /// # Errors
    /// As `call`.
    fn write_fua(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let forced = Request {
            flags: flags::FUA,
            ..request(command::WRITE, offset, length_of(data)?)
        };
        self.call(forced, data).map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    /// As `call`.
    fn flush(&mut self) -> io::Result<()> {
        self.call(request(command::FLUSH, 0, 0), &[]).map(drop)
    }

    /// Trims.
    ///
    /// # Errors
    /// As `call`.
    fn trim(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.call(request(command::TRIM, offset, length), &[]).map(drop)
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// As `call`.
    fn zero(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.call(request(command::WRITE_ZEROES, offset, length), &[])
            .map(drop)
    }
}

fn request(command: u16, offset: u64, length: u32) -> Request {
    Request {
        command,
        offset,
        length,
        ..Request::default()
    }
}

fn length_of(data: &[u8]) -> io::Result<u32> {
    u32::try_from(data.len()).map_err(|_| io::Error::other("more than a request can carry"))
}
