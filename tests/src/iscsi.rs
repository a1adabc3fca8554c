//! Our own small iSCSI initiator, blocking and without any library, for the tests that run over both protocols: requests are
//! told as NBD tells them, on whole blocks. Every other write has its data with the command, the rest waits to be asked for it.

use crate::client::{BlockClient, Reply};
use crate::limits;
use crate::nbd::{Request, ServerError, command, flags};
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

const HEADER_BYTES: usize = 48;
/// The one block size.
pub const BLOCK_BYTES: u32 = 512;
/// The longest data segment in either direction.
const SEGMENT_BYTES: usize = 256 << 10;
const NO_TAG: u32 = u32::MAX;
const LOGIN: u8 = 0x43;
const UNIT_ATTENTION: u8 = 6;

/// A request that is not answered.
#[derive(Debug)]
struct Pending {
    cookie: u64,
    /// What has come, and what the target may ask for.
    read: Vec<u8>,
    payload: Vec<u8>,
    /// Durable before the answer, of what has no flag for that.
    then_flush: bool,
}

/// A session with one target, at its logical unit 1.
#[derive(Debug)]
pub struct IscsiClient {
    stream: TcpStream,
    number: u32,
    tag: u32,
    cookies: u64,
    pending: HashMap<u32, Pending>,
}

/// A message of the target.
#[derive(Debug)]
struct Message {
    header: [u8; HEADER_BYTES],
    data: Vec<u8>,
}

impl Message {
    fn word(&self, at: usize) -> u32 {
        self.header[at..]
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn put(header: &mut [u8; HEADER_BYTES], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Offset and length in blocks.
fn blocks(request: &Request) -> io::Result<(u64, u32)> {
    let (offset, length) = (request.offset, request.length);
    if offset % u64::from(BLOCK_BYTES) != 0 || length % BLOCK_BYTES != 0 {
        return Err(io::Error::other(format!("{offset}+{length} are no whole blocks")));
    }
    Ok((offset / u64::from(BLOCK_BYTES), length / BLOCK_BYTES))
}

/// A command of sixteen bytes.
fn sixteen(opcode: u8, flags: u8, (lba, count): (u64, u32)) -> [u8; 16] {
    let mut block = [0; 16];
    (block[0], block[1]) = (opcode, flags);
    block[2..10].copy_from_slice(&lba.to_be_bytes());
    block[10..14].copy_from_slice(&count.to_be_bytes());
    block
}

/// UNMAP of one range.
fn unmap((lba, count): (u64, u32)) -> ([u8; 16], Vec<u8>) {
    let mut block = [0; 16];
    (block[0], block[8]) = (0x42, 24);
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend_from_slice(&lba.to_be_bytes());
    list.extend_from_slice(&count.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    (block, list)
}

impl IscsiClient {
    /// Logs in to the target of `volume`, as an initiator port of its own.
    ///
    /// # Errors
    /// When nobody listens, or the login is refused.
    pub fn connect(portal: SocketAddr, volume: &str) -> io::Result<Self> {
        static PORTS: AtomicU32 = AtomicU32::new(1);
        let stream = TcpStream::connect_timeout(&portal, limits::NBD_REPLY)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limits::NBD_REPLY))?;
        stream.set_write_timeout(Some(limits::NBD_REPLY))?;
        let mut client = Self {
            stream,
            number: 1,
            tag: 0,
            cookies: 0,
            pending: HashMap::new(),
        };
        let port = PORTS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let text = format!(
            "InitiatorName=iqn.2026-11.test:{}\0TargetName=iqn.2026-11.dev.farside:{volume}\0SessionType=Normal\0\
             InitialR2T=Yes\0ImmediateData=Yes\0FirstBurstLength={SEGMENT_BYTES}\0MaxRecvDataSegmentLength={SEGMENT_BYTES}\0",
            std::process::id()
        );
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1], header[8]) = (LOGIN, 0x87, 0x80);
        put(&mut header, 10, &port);
        put(&mut header, 24, &client.number.to_be_bytes());
        client.send(header, text.as_bytes())?;
        let answer = client.next()?;
        if answer.header[0] != 0x23 || answer.header[36] != 0 {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("the login was refused: {:?}", answer.header),
            ));
        }
        // A new session is told so with its first command.
        let told = client.command([0; 16], 0, Vec::new(), false)?;
        match client.receive() {
            Ok(reply) if reply.cookie == told => Ok(client),
            other => Err(wrong(format!("to the first command {other:?}"))),
        }
    }

    fn send(&mut self, mut header: [u8; HEADER_BYTES], data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
        put(&mut header, 5, &length[1..]);
        let mut message = header.to_vec();
        message.extend_from_slice(data);
        message.resize(HEADER_BYTES + data.len().next_multiple_of(4), 0);
        self.stream.write_all(&message)
    }

    fn next(&mut self) -> io::Result<Message> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let length = (u32::from_be_bytes([0, header[5], header[6], header[7]])) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(length);
        Ok(Message { header, data })
    }

    fn command(
        &mut self,
        block: [u8; 16],
        takes: u32,
        payload: Vec<u8>,
        then_flush: bool,
    ) -> io::Result<u64> {
        self.cookies += 1;
        let cookie = self.cookies;
        self.send_command(block, takes, (cookie, payload, then_flush))?;
        Ok(cookie)
    }

    fn send_command(
        &mut self,
        block: [u8; 16],
        takes: u32,
        (cookie, payload, then_flush): (u64, Vec<u8>, bool),
    ) -> io::Result<()> {
        self.tag += 1;
        let tag = self.tag;
        let mut header = [0; HEADER_BYTES];
        let direction = if takes > 0 { 0x40 } else { 0 } | if payload.is_empty() { 0 } else { 0x20 };
        (header[0], header[1], header[9]) = (0x01, 0x81 | direction, 1);
        put(&mut header, 16, &tag.to_be_bytes());
        let expected = takes.max(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        put(&mut header, 20, &expected.to_be_bytes());
        put(&mut header, 24, &self.number.to_be_bytes());
        put(&mut header, 32, &block);
        self.number = self.number.wrapping_add(1);
        let is_asked = tag.is_multiple_of(2) || payload.len() > SEGMENT_BYTES;
        let immediate = if is_asked { Vec::new() } else { payload.clone() };
        let pending = Pending {
            cookie,
            read: Vec::new(),
            payload,
            then_flush,
        };
        self.pending.insert(tag, pending);
        self.send(header, &immediate)
    }

    /// Sends what the target asks for.
    fn give(&mut self, message: &Message) -> io::Result<()> {
        let (tag, offset, length) = (
            message.word(16),
            message.word(40) as usize,
            message.word(44) as usize,
        );
        let payload = self.pending.get(&tag).map(|pending| pending.payload.clone());
        let wanted = payload
            .as_ref()
            .and_then(|payload| payload.get(offset..offset + length));
        let wanted = wanted.ok_or_else(|| wrong(format!("asked for {offset}+{length} of {tag}")))?;
        let count = wanted.chunks(SEGMENT_BYTES).count();
        for (number, piece) in wanted.chunks(SEGMENT_BYTES).enumerate() {
            let mut header = [0; HEADER_BYTES];
            (header[0], header[9]) = (0x05, 1);
            header[1] = if number + 1 == count { 0x80 } else { 0 };
            let at = offset + number * SEGMENT_BYTES;
            put(&mut header, 16, &tag.to_be_bytes());
            put(&mut header, 20, &message.word(20).to_be_bytes());
            put(&mut header, 36, &u32::try_from(number).unwrap_or(0).to_be_bytes());
            put(&mut header, 40, &u32::try_from(at).unwrap_or(0).to_be_bytes());
            self.send(header, piece)?;
        }
        Ok(())
    }

    /// The answer of a command, if it is the last of it.
    fn finish(&mut self, message: &Message) -> io::Result<Option<Reply>> {
        let (tag, status) = (message.word(16), message.header[3]);
        let pending = self.pending.remove(&tag);
        let pending = pending.ok_or_else(|| wrong(format!("an answer to {tag}, which was not sent")))?;
        let key = message.data.get(4).map_or(0, |key| key & 0xf);
        let outcome = match status {
            0 if pending.then_flush => {
                let flush = sixteen(0x91, 0, (0, 0));
                self.send_command(flush, 0, (pending.cookie, Vec::new(), false))?;
                return Ok(None);
            }
            0 => Ok(pending.read),
            2 if key == UNIT_ATTENTION => Ok(Vec::new()),
            8 => Err(ServerError::SHUTDOWN),
            _ => Err(ServerError(u32::from(status) << 8 | u32::from(key))),
        };
        Ok(Some(Reply {
            cookie: pending.cookie,
            outcome,
        }))
    }
}

impl BlockClient for IscsiClient {
    fn submit(&mut self, request: Request, payload: &[u8]) -> io::Result<u64> {
        let extent = blocks(&request)?;
        let is_forced = request.flags & flags::FUA != 0;
        let force = if is_forced { 8 } else { 0 };
        match request.command {
            command::READ => self.command(sixteen(0x88, force, extent), request.length, Vec::new(), false),
            command::WRITE => self.command(sixteen(0x8a, force, extent), 0, payload.to_vec(), false),
            command::FLUSH => self.command(sixteen(0x91, 0, (0, 0)), 0, Vec::new(), false),
            command::TRIM => {
                let (block, list) = unmap(extent);
                self.command(block, 0, list, is_forced)
            }
            // WRITE SAME without a block.
            command::WRITE_ZEROES => self.command(sixteen(0x93, 1, extent), 0, Vec::new(), is_forced),
            other => Err(io::Error::other(format!("no SCSI command is like {other}"))),
        }
    }

    fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let message = self.next()?;
            match message.header[0] & 0x3f {
                0x20 if message.word(20) != NO_TAG => {
                    let mut header = [0; HEADER_BYTES];
                    (header[0], header[1]) = (0x40, 0x80);
                    put(&mut header, 16, &NO_TAG.to_be_bytes());
                    put(&mut header, 20, &message.word(20).to_be_bytes());
                    put(&mut header, 24, &self.number.to_be_bytes());
                    self.send(header, &[])?;
                }
                0x21 => {
                    if let Some(reply) = self.finish(&message)? {
                        return Ok(reply);
                    }
                }
                0x25 => {
                    let tag = message.word(16);
                    let pending = self.pending.get_mut(&tag);
                    let pending = pending.ok_or_else(|| wrong("data that nobody wants"))?;
                    if message.word(40) as usize != pending.read.len() {
                        return Err(wrong("data out of order"));
                    }
                    pending.read.extend_from_slice(&message.data);
                    if message.header[1] & 1 != 0
                        && let Some(reply) = self.finish(&message)?
                    {
                        return Ok(reply);
                    }
                }
                0x31 => self.give(&message)?,
                // The unit ends.
                0x32 => return Err(io::ErrorKind::ConnectionAborted.into()),
                other => return Err(wrong(format!("message {other:#x}"))),
            }
        }
    }

    fn disconnect(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (0x46, 0x80);
        put(&mut header, 24, &self.number.to_be_bytes());
        self.send(header, &[])?;
        let answer = self.next()?;
        if answer.header[0] == 0x26 {
            Ok(())
        } else {
            Err(wrong(format!("to the logout {:?}", answer.header)))
        }
    }
}
