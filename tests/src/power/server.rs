//! Serves a `PowerDisk` over NBD on a unix socket (NBD specification, `doc/proto.md`: fixed newstyle, simple replies).
//!
//! One connection at a time is what a virtual machine uses; each request is finished before the next is read. When the
//! power is off no answer comes any more, and the connection stays open: the machine never learns of an error.

use super::{PowerDisk, SECTOR_BYTES};
use crate::limits;
use crate::nbd::wire::{GREETING, OPTION_MAGIC, OPTION_REPLY_MAGIC, REPLY_MAGIC, REQUEST_MAGIC};
use crate::nbd::{command, option, reply};
use crate::world::lock;
use anyhow::{Context as _, Result};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Handshake flags: fixed newstyle, no padding.
const HANDSHAKE_FLAGS: u16 = 1 | 2;
/// Transmission flags: flags are there, flush is understood.
const TRANSMISSION_FLAGS: u16 = 1 | 4;
/// Information types: the export, its block sizes.
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// `NBD_EIO` and `NBD_EINVAL`.
const ERROR_IO: u32 = 5;
const ERROR_INVALID: u32 = 22;

/// A disk that is being served. Dropping it ends the service.
#[derive(Debug)]
pub struct DiskServer {
    over: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
    worker: Option<JoinHandle<()>>,
}

impl DiskServer {
    /// Serves the disk on this socket, under any export name.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(disk: &Arc<PowerDisk>, socket: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let open = Arc::<Mutex<Vec<UnixStream>>>::default();
        let worker = std::thread::spawn({
            let (disk, over, open) = (Arc::clone(disk), Arc::clone(&over), Arc::clone(&open));
            move || {
                while !over.load(Ordering::SeqCst) {
                    match listener.accept() {
                        Ok((stream, _)) => accept(&disk, stream, &open),
                        Err(_) => std::thread::sleep(limits::POLL),
                    }
                }
            }
        });
        Ok(Self {
            over,
            open,
            worker: Some(worker),
        })
    }
}

impl Drop for DiskServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(worker) = self.worker.take() {
            // A panic in it has been printed already.
            let _ = worker.join();
        }
        for stream in lock(&self.open).drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(disk: &Arc<PowerDisk>, stream: UnixStream, open: &Mutex<Vec<UnixStream>>) {
    let Ok(clone) = stream.try_clone() else { return };
    lock(open).push(clone);
    let disk = Arc::clone(disk);
    std::thread::spawn(move || {
        // Every end of the connection is an end of the machine, which the test sees from the other side.
        let _ = stream.set_nonblocking(false);
        let _ = Session { disk, stream }.run();
    });
}

struct Session {
    disk: Arc<PowerDisk>,
    stream: UnixStream,
}

impl Session {
    fn run(mut self) -> io::Result<()> {
        if self.negotiate()? {
            while self.serve_one()? {}
        }
        Ok(())
    }

    /// Whether the client wants to go on to requests.
    fn negotiate(&mut self) -> io::Result<bool> {
        let mut hello = GREETING.to_be_bytes().to_vec();
        hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&HANDSHAKE_FLAGS.to_be_bytes());
        self.stream.write_all(&hello)?;
        self.number::<4>()?;
        loop {
            if self.number::<8>()? != OPTION_MAGIC {
                return Err(ErrorKind::InvalidData.into());
            }
            let asked = u32::try_from(self.number::<4>()?).unwrap_or_default();
            let length = self.number::<4>()?;
            if length > u64::from(limits::NBD_OPTION_REPLY_BYTES) {
                return Err(ErrorKind::InvalidData.into());
            }
            self.bytes(usize::try_from(length).unwrap_or_default())?;
            match asked {
                option::GO => {
                    self.describe(asked)?;
                    self.option_reply(asked, reply::ACK, &[])?;
                    return Ok(true);
                }
                option::ABORT => {
                    self.option_reply(asked, reply::ACK, &[])?;
                    return Ok(false);
                }
                _ => self.option_reply(asked, reply::ERR_UNSUP, &[])?,
            }
        }
    }

    fn describe(&mut self, asked: u32) -> io::Result<()> {
        let mut export = INFO_EXPORT.to_be_bytes().to_vec();
        export.extend_from_slice(&self.disk.size_bytes().to_be_bytes());
        export.extend_from_slice(&TRANSMISSION_FLAGS.to_be_bytes());
        self.option_reply(asked, reply::INFO, &export)?;
        let mut blocks = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for bytes in [SECTOR_BYTES as u64, 4096, limits::DISK_REQUEST_BYTES] {
            blocks.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
        }
        self.option_reply(asked, reply::INFO, &blocks)
    }

    fn option_reply(&mut self, asked: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut message = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        for field in [asked, kind, length] {
            message.extend_from_slice(&field.to_be_bytes());
        }
        message.extend_from_slice(data);
        self.stream.write_all(&message)
    }

    /// One request; whether another may follow.
    fn serve_one(&mut self) -> io::Result<bool> {
        if self.number::<4>()? != u64::from(REQUEST_MAGIC) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.number::<2>()?;
        let asked = u16::try_from(self.number::<2>()?).unwrap_or(u16::MAX);
        let (cookie, offset) = (self.number::<8>()?, self.number::<8>()?);
        let length = self.number::<4>()?;
        let sound = self.is_sound(asked, offset, length);
        let bytes = usize::try_from(length).unwrap_or(0);
        let outcome = match asked {
            command::DISC => return Ok(false),
            // The data of a write follows whatever becomes of it, so a limit on it is one on the connection.
            command::WRITE if length > limits::DISK_REQUEST_BYTES => {
                return Err(ErrorKind::InvalidData.into());
            }
            command::WRITE => {
                let data = self.bytes(bytes)?;
                sound.then(|| self.disk.write(offset, data).map(without_data))
            }
            command::READ => sound.then(|| self.disk.read(offset, bytes)),
            command::FLUSH => Some(self.disk.flush().map(without_data)),
            _ => None,
        };
        match outcome {
            None => self.reply(cookie, ERROR_INVALID, &[])?,
            Some(Ok(Some(data))) => self.reply(cookie, 0, &data)?,
            // The power is off: no answer, ever.
            Some(Ok(None)) => {}
            Some(Err(_)) => self.reply(cookie, ERROR_IO, &[])?,
        }
        Ok(true)
    }

    /// Whether a read or write is of whole sectors inside the disk.
    fn is_sound(&self, asked: u16, offset: u64, length: u64) -> bool {
        let sector = SECTOR_BYTES as u64;
        matches!(asked, command::READ | command::WRITE)
            && length <= limits::DISK_REQUEST_BYTES
            && offset.is_multiple_of(sector)
            && length.is_multiple_of(sector)
            && offset
                .checked_add(length)
                .is_some_and(|end| end <= self.disk.size_bytes())
    }

    fn reply(&mut self, cookie: u64, error: u32, data: &[u8]) -> io::Result<()> {
        let mut message = REPLY_MAGIC.to_be_bytes().to_vec();
        message.extend_from_slice(&error.to_be_bytes());
        message.extend_from_slice(&cookie.to_be_bytes());
        message.extend_from_slice(data);
        self.stream.write_all(&message)
    }

    /// A big-endian number of `N` bytes, at most 8.
    fn number<const N: usize>(&mut self) -> io::Result<u64> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn without_data(done: Option<()>) -> Option<Vec<u8>> {
    done.map(|()| Vec::new())
}
