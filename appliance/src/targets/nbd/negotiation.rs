//! The handshake over a stream: receives options, sends the answers that [`options`](super::options) decides.
//!
//! Bounded in memory and number of options here, and in time by its caller.

use super::limits::{OPTION_BYTES, OPTIONS, SKIPPED_OPTION_BYTES};
use super::options::{Agreed, Next, answer};
use crate::targets::{Export, Exports, Stream};
use bytes::{Buf, BytesMut};
use farside_protocol::nbd::{
    CLIENT_FLAGS_BYTES, ClientFlags, MessageStyle, OPTION_HEADER_BYTES, OptionHeader, OptionReply,
    ProtocolError, option_code, put_greeting, put_option_reply,
};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) style: MessageStyle,
    /// The client may ask which parts are allocated.
    pub(super) block_status: bool,
}

/// A finished negotiation.
#[derive(Debug)]
pub(super) struct Session<D> {
    pub(super) export: Export<D>,
    pub(super) terms: Terms,
    /// What the client sent behind its last option.
    pub(super) received: BytesMut,
}

/// Why a connection ended otherwise than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("connection lost: {0}")]
    Stream(#[from] io::Error),
    #[error("client breaks the NBD protocol: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("client sent {0} bytes of option data, too many to skip")]
    OptionTooLong(u32),
    #[error("client sent data between its wish for TLS and the handshake")]
    DataBeforeTls,
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("client sent too many options")]
    TooManyOptions,
    #[error("client announced a payload of {0} bytes, too many to skip")]
    PayloadTooLong(u64),
    #[error("a read of the disk ended by a defect")]
    ReadLost,
}

/// How a negotiation goes on.
#[derive(Debug)]
pub(super) enum Outcome<D> {
    /// With requests.
    Session(Session<D>),
    /// With a TLS handshake, and from the beginning.
    Tls,
    /// Not at all: the client ended it, or cannot be served.
    Ended,
}

/// Greets a client.
///
/// # Errors
/// As [`negotiate`].
pub(super) async fn greet<S: Stream>(stream: &mut S) -> Result<ClientFlags, Fault> {
    let mut out = BytesMut::new();
    put_greeting(&mut out);
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut flags = [0; CLIENT_FLAGS_BYTES];
    stream.read_exact(&mut flags).await?;
    Ok(ClientFlags::decode(flags)?)
}

/// Negotiates with a greeted client until an export or TLS is chosen.
///
/// # Errors
/// [`Fault`] when the stream fails or the client breaks the protocol; the connection is to be dropped.
pub(super) async fn negotiate<S: Stream, E: Exports>(
    stream: &mut S,
    mut agreed: Agreed,
    exports: &E,
) -> Result<Outcome<E::Disk>, Fault> {
    let mut input = Input {
        stream,
        buffer: BytesMut::new(),
    };
    let mut out = BytesMut::new();
    for _ in 0..OPTIONS {
        let header = OptionHeader::decode(&input.take::<OPTION_HEADER_BYTES>().await?)?;
        let next = if header.length > OPTION_BYTES {
            input.refuse(header, &mut out).await?
        } else {
            let data = input.data(header.length).await?;
            answer(&mut agreed, (header.code, &data), exports, &mut out)
        };
        input.send(&mut out).await?;
        match next {
            Next::Option => {}
            Next::Close => return Ok(Outcome::Ended),
            // What came before the handshake must not be taken for what comes after it.
            Next::Tls if !input.buffer.is_empty() => return Err(Fault::DataBeforeTls),
            Next::Tls => return Ok(Outcome::Tls),
            Next::Transmission(export) => {
                return Ok(Outcome::Session(Session {
                    terms: agreed.terms(&export.name),
                    export,
                    received: input.buffer,
                }));
            }
        }
    }
    Err(Fault::TooManyOptions)
}

struct Input<'a, S> {
    stream: &'a mut S,
    buffer: BytesMut,
}

impl<S: Stream> Input<'_, S> {
    async fn receive(&mut self) -> io::Result<()> {
        self.buffer.reserve(1024);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    async fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        loop {
            if let Some(bytes) = self.buffer.first_chunk::<N>() {
                let bytes = *bytes;
                self.buffer.advance(N);
                return Ok(bytes);
            }
            self.receive().await?;
        }
    }

    /// The data of an option; `length` has been checked.
    async fn data(&mut self, length: u32) -> io::Result<BytesMut> {
        let length = length as usize;
        while self.buffer.len() < length {
            self.receive().await?;
        }
        Ok(self.buffer.split_to(length))
    }

    /// An option too long to look at is skipped and answered, or, longer still, ends the connection: a server
    /// that waits for 4 GiB of data can be held for ever.
    async fn refuse<D>(&mut self, header: OptionHeader, out: &mut BytesMut) -> Result<Next<D>, Fault> {
        if header.length > SKIPPED_OPTION_BYTES || header.code == option_code::EXPORT_NAME {
            return Err(Fault::OptionTooLong(header.length));
        }
        let mut left = header.length as usize;
        while left > 0 {
            if self.buffer.is_empty() {
                self.receive().await?;
            }
            let skipped = left.min(self.buffer.len());
            self.buffer.advance(skipped);
            left -= skipped;
        }
        put_option_reply(out, header.code, OptionReply::TooBig, "option data is too long");
        Ok(Next::Option)
    }

    async fn send(&mut self, out: &mut BytesMut) -> io::Result<()> {
        self.stream.write_all(out).await?;
        out.clear();
        self.stream.flush().await
    }
}
