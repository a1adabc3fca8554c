//! Target: one connection to the NBD server, over a stream in memory, in arbitrary pieces.
//!
//! Promises: no panic; whatever a client sends, what it gets is made of whole, well-formed messages; every request that
//! was read gets one reply at most, and exactly one if the client ended in order; nothing outside the disk is changed;
//! a connection to a small disk holds no more than its limits.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::nbd_replies::Out;
use crate::small_disk::{DISK_BYTES, Once, One};
use farside::targets::nbd::{Service, serve};
use farside_protocol::nbd::{
    CommandFlags, EXTENDED_REQUEST_MAGIC, MessageStyle, OPTION_MAGIC, REQUEST_MAGIC,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Receive buffers, replies under way, options that are skipped, and the runtime.
const MOST_BYTES: usize = 8 << 20;
/// Longest stream that is put together from requests, and longest payload in it: enough to pass every limit by count.
const MOST_INPUT_BYTES: usize = 64 << 10;
const MOST_PAYLOAD_BYTES: usize = 20 << 10;
/// What a connection may have put out at most, so that an input of many reads does not fill the memory here.
const MOST_OUTPUT_BYTES: usize = 1 << 20;

/// Gives its pieces one after another, then the end; keeps what is written.
struct Wire {
    pieces: VecDeque<Vec<u8>>,
    out: Arc<Mutex<Vec<u8>>>,
    /// Bytes taken by one write.
    appetite: usize,
    _ends_the_server: DropGuard,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(into.remaining()));
            into.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut out = self.out.lock();
        if out.len() > MOST_OUTPUT_BYTES {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.appetite);
        out.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let (appetite, piece_bytes) = (usize::from(draw.u8()) * 8 + 1, usize::from(draw.u8()) + 1);
    let sent = Sent::from(&mut draw);
    let out = Arc::new(Mutex::new(Vec::new()));
    let ended = CancellationToken::new();
    let wire = Wire {
        pieces: sent.bytes.chunks(piece_bytes).map(<[u8]>::to_vec).collect(),
        out: Arc::clone(&out),
        appetite,
        _ends_the_server: ended.clone().drop_guard(),
    };
    let service = Service::new(Arc::new(One::default()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime on this thread needs nothing");
    let ((), held) = measured(|| runtime.block_on(serve(Once::new(wire), service, ended)));
    assert!(
        held < MOST_BYTES + MOST_OUTPUT_BYTES * 2,
        "{held} bytes for a connection"
    );
    let out = std::mem::take(&mut *out.lock());
    let cut = out.len() > MOST_OUTPUT_BYTES;
    sent.check(&out, cut)
}

/// A stream of a client, and what is known about it.
struct Sent {
    bytes: Vec<u8>,
    /// Requests by their cookie: command and length.
    requests: HashMap<u64, (u16, u64)>,
    style: MessageStyle,
    /// Only what a client may send was sent, to its end.
    in_order: bool,
}

impl Sent {
    fn from(draw: &mut Draw<'_>) -> Self {
        let how = draw.u8();
        let mut sent = Self {
            bytes: vec![0, 0, 0, 1 | (how & 2)],
            requests: HashMap::new(),
            style: match how & 0x24 {
                0 => MessageStyle::Simple,
                4 => MessageStyle::Structured,
                _ => MessageStyle::Extended,
            },
            in_order: true,
        };
        if how & 1 != 0 {
            sent.in_order = false;
            sent.bytes = draw.rest().to_vec();
            return sent;
        }
        sent.options(draw, how);
        while !draw.is_empty() && sent.bytes.len() < MOST_INPUT_BYTES {
            sent.request(draw);
        }
        if sent.in_order {
            sent.put_request(0, 2, (0, 0));
        }
        sent
    }

    fn option(&mut self, code: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap_or(0);
        self.bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        self.bytes.extend_from_slice(&code.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(data);
    }

    fn options(&mut self, draw: &mut Draw<'_>, how: u8) {
        for _ in 0..(how >> 3) % 4 {
            let (code, length) = (u32::from(draw.u8() % 16), usize::from(draw.u8()));
            let data = draw.bytes(length);
            // These two end the negotiation, or leave it for the transmission.
            let excluded = matches!(code, 1 | 2 | 7) || (matches!(code, 8 | 11) && data.is_empty());
            if !excluded {
                self.option(code, data);
            }
        }
        match self.style {
            MessageStyle::Simple => {}
            MessageStyle::Structured => self.option(8, &[]),
            MessageStyle::Extended => self.option(11, &[]),
        }
        if how & 0x40 != 0 {
            self.option(10, b"\0\0\0\x05disk0\0\0\0\x01\0\0\0\x0fbase:allocation");
        }
        self.option(7, b"\0\0\0\x05disk0\0\0");
    }

    fn put_request(&mut self, flags: u16, command: u16, (offset, length): (u64, u64)) {
        let cookie = self.requests.len() as u64 + 1;
        let extended = self.style == MessageStyle::Extended;
        let magic = if extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        };
        self.bytes.extend_from_slice(&magic.to_be_bytes());
        self.bytes.extend_from_slice(&flags.to_be_bytes());
        self.bytes.extend_from_slice(&command.to_be_bytes());
        self.bytes.extend_from_slice(&cookie.to_be_bytes());
        self.bytes.extend_from_slice(&offset.to_be_bytes());
        let length_bytes = length.to_be_bytes();
        self.bytes
            .extend_from_slice(&length_bytes[if extended { 0 } else { 4 }..]);
        if command != 2 {
            self.requests.insert(cookie, (command, length));
        }
    }

    fn request(&mut self, draw: &mut Draw<'_>) {
        let how = draw.u8();
        if how == 255 {
            let garbage = usize::from(draw.u8());
            self.bytes.extend_from_slice(draw.bytes(garbage));
            self.in_order = false;
            return;
        }
        let command = [0, 1, 3, 4, 5, 6, 77, 7][usize::from(how & 7)];
        let mut flags = if how & 0x80 == 0 {
            u16::from((how >> 3) & 1)
        } else {
            u16::from(draw.u8())
        };
        let extended = self.style == MessageStyle::Extended;
        if extended && command == 1 && how & 0x80 == 0 {
            flags |= CommandFlags::PAYLOAD_LEN;
        }
        let offset = if how & 0x40 == 0 {
            draw.below(128) * 512
        } else {
            draw.near(DISK_BYTES as u64)
        };
        let length = match how & 0x30 {
            0x30 => u64::from(draw.u32() & 0x07FF_FFFF),
            _ => u64::from(draw.u8()) * 64,
        };
        let range = if command == 3 { (0, 0) } else { (offset, length) };
        self.put_request(flags, command, range);
        let has_payload = if extended {
            flags & CommandFlags::PAYLOAD_LEN != 0
        } else {
            command == 1
        };
        if has_payload {
            let fill = draw.u8();
            let payload = usize::try_from(range.1).unwrap_or(usize::MAX);
            // A payload that is announced and does not come ends the stream in the middle.
            if payload > MOST_PAYLOAD_BYTES {
                self.in_order = false;
            }
            self.bytes
                .resize(self.bytes.len() + payload.min(MOST_PAYLOAD_BYTES), fill);
        }
    }

    /// Takes the output apart. True: the client was attached.
    fn check(&self, out: &[u8], cut: bool) -> bool {
        let mut reader = Out { rest: out };
        assert_eq!(reader.take(18), Some(b"NBDMAGICIHAVEOPT\0\x03".as_slice()));
        if !self.in_order && self.requests.is_empty() {
            // What was sent is anything, so what comes back cannot be told apart without knowing it.
            return false;
        }
        let mut attached = false;
        while !attached && !reader.rest.is_empty() {
            let Some((code, kind)) = reader.option_reply() else {
                assert!(cut, "an incomplete reply");
                return false;
            };
            attached = code == 7 && kind == 1;
        }
        assert!(attached || cut, "a client that asks in order is attached");
        let mut answered = HashMap::new();
        while !reader.rest.is_empty() {
            match reader.reply(&self.requests) {
                Some(cookie) => *answered.entry(cookie).or_insert(0) += 1,
                None => break,
            }
        }
        assert!(
            reader.rest.is_empty() || cut,
            "{} bytes are no reply",
            reader.rest.len()
        );
        assert!(
            answered.values().all(|count| *count == 1),
            "a request answered twice"
        );
        if self.in_order && !cut {
            assert_eq!(answered.len(), self.requests.len(), "every request is answered");
        }
        attached
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // A write of 512 bytes, a read of them, a flush, trim, zero, cache, a cold read, an unknown command.
    let requests = [
        1, 8, 8, 0x5A, 0, 8, 8, 2, 0, 0, 3, 4, 8, 5, 2, 8, 4, 0, 8, 0, 9, 8, 6, 0, 0, 9, 1, 4, 7,
    ];
    let with = |how: u8, rest: &[u8]| [&[200, 99, how], rest].concat();
    vec![
        with(0, &requests),
        with(4, &requests),
        with(
            0x44,
            &[&requests, [7, 0, 200, 0x87, 0, 200, 8].as_slice()].concat(),
        ),
        with(
            0x60,
            &[&requests, [7, 0, 200, 0x87, 0, 200, 8].as_slice()].concat(),
        ),
        with(0x24, &requests),
        with(2, &requests.repeat(8)),
        with(
            8 + 4,
            &[3, 0, 1, 8, 8, 1, 0x70, 0, 9, 9, 9, 0x30, 0, 255, 255, 255, 255],
        ),
        with(
            16,
            &[6, 9, 0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 9, 2, 1, 1, 0, 0, 9],
        ),
        with(0, &[0x40, 5, 200, 0x41, 0, 100, 7, 0x71, 0, 4, 0, 0, 0, 3]),
    ]
}
