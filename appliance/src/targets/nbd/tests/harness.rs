//! A server on a free port and a client that sends what it is told, valid or not.

use super::memory::{MemoryDisk, MemoryExports};
use crate::targets::nbd::{Security, Service, serve};
use crate::targets::{Counters, Settings, Stream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing has to happen before we believe that nothing will.
pub(super) const QUIET: Duration = Duration::from_millis(60);
pub(super) const DISK_BYTES: usize = 8 << 20;
pub(super) const FUA: u16 = 1;
pub(super) const NO_HOLE: u16 = 2;
pub(super) const DF: u16 = 4;
pub(super) const REQ_ONE: u16 = 8;
pub(super) const FAST_ZERO: u16 = 16;
pub(super) const PAYLOAD_LEN: u16 = 32;
pub(super) const READ: u16 = 0;
pub(super) const WRITE: u16 = 1;
pub(super) const DISC: u16 = 2;
pub(super) const FLUSH: u16 = 3;
pub(super) const TRIM: u16 = 4;
pub(super) const CACHE: u16 = 5;
pub(super) const ZEROES: u16 = 6;
pub(super) const BLOCK_STATUS: u16 = 7;

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) exports: Arc<MemoryExports>,
    pub(super) counters: Arc<Counters>,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn with(disk: &Arc<MemoryDisk>, settings: Settings) -> Self {
        Self::secured(disk, settings, Security::default()).await
    }

    pub(super) async fn secured(disk: &Arc<MemoryDisk>, settings: Settings, security: Security) -> Self {
        let exports = Arc::new(MemoryExports::default());
        exports.0.lock().insert("disk0".to_owned(), Arc::clone(disk));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut service = Service::new(Arc::clone(&exports));
        service.settings = settings;
        service.security = security;
        let (counters, shutdown) = (Arc::clone(&service.counters), CancellationToken::new());
        let task = tokio::spawn(serve(listener, service, shutdown.clone()));
        Self {
            address,
            exports,
            counters,
            shutdown,
            task,
        }
    }

    pub(super) async fn new() -> (Self, Arc<MemoryDisk>) {
        let disk = MemoryDisk::new(DISK_BYTES);
        (Self::with(&disk, Settings::default()).await, disk)
    }

    pub(super) async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.unwrap(),
        }
    }

    /// A client behind the greeting.
    pub(super) async fn greeted(&self) -> Client {
        let mut client = self.connect().await;
        assert_eq!(
            client.take(18).await,
            [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat()
        );
        client.send(&[0, 0, 0, 3]).await;
        client
    }

    /// A client in transmission, with simple replies.
    pub(super) async fn attached(&self) -> Client {
        let mut client = self.greeted().await;
        client.send(&option(7, &go("disk0", &[]))).await;
        client.info_until_ack(7).await;
        client
    }

    /// A client in transmission, with structured replies.
    pub(super) async fn attached_structured(&self) -> Client {
        let mut client = self.greeted().await;
        client.send(&option(8, &[])).await;
        assert_eq!(client.option_reply().await, (8, 1, vec![]));
        client.send(&option(7, &go("disk0", &[]))).await;
        client.info_until_ack(7).await;
        client
    }

    /// A client in transmission, behind these options, each of which is acknowledged.
    pub(super) async fn attached_with(&self, options: &[(u32, &[u8])]) -> (Client, u16) {
        let mut client = self.greeted().await;
        for (code, data) in options {
            client.send(&option(*code, data)).await;
            loop {
                match client.option_reply().await {
                    (replied, 1, _) if replied == *code => break,
                    (replied, 4, context) if replied == *code => {
                        assert_eq!(&context[4..], b"base:allocation");
                    }
                    other => panic!("unexpected option reply {other:?}"),
                }
            }
        }
        client.send(&option(7, &go("disk0", &[]))).await;
        let info = client.info_until_ack(7).await;
        let flags = u16::from_be_bytes(info[0][10..12].try_into().unwrap());
        (client, flags)
    }

    /// Waits until the server has let go of every connection.
    pub(super) async fn until_idle(&self) {
        let idle = async {
            while self.counters.open() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, idle).await.expect("connections are let go of");
        assert_eq!(self.counters.attached("disk0"), 0);
    }
}

pub(super) struct Client<S = TcpStream> {
    pub(super) stream: S,
}

impl<S: Stream> Client<S> {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("server reads")
            .unwrap();
    }

    pub(super) async fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        timeout(PATIENCE, self.stream.read_exact(&mut bytes))
            .await
            .expect("server answers")
            .unwrap();
        bytes
    }

    /// Code, type and data of a reply to an option.
    pub(super) async fn option_reply(&mut self) -> (u32, u32, Vec<u8>) {
        let head = self.take(20).await;
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let data = self.take(be32(&head[16..]) as usize).await;
        (be32(&head[8..]), be32(&head[12..]), data)
    }

    /// The information before the acknowledgement.
    pub(super) async fn info_until_ack(&mut self, code: u32) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.option_reply().await {
                (replied, 3, data) if replied == code => all.push(data),
                (replied, 1, _) if replied == code => return all,
                other => panic!("unexpected option reply {other:?}"),
            }
        }
    }

    /// Error and cookie of a simple reply.
    pub(super) async fn reply(&mut self) -> (u32, u64) {
        let bytes = self.take(16).await;
        assert_eq!(bytes[..4], 0x6744_6698_u32.to_be_bytes());
        (
            be32(&bytes[4..]),
            u64::from_be_bytes(bytes[8..].try_into().unwrap()),
        )
    }

    /// Type, cookie and payload of a structured chunk that is the last of its reply.
    pub(super) async fn chunk(&mut self) -> (u16, u64, Vec<u8>) {
        let (last, chunk) = self.piece().await;
        assert!(last, "one chunk is the whole reply");
        chunk
    }

    /// Whether a structured chunk is the last of its reply; its type, cookie and payload.
    pub(super) async fn piece(&mut self) -> (bool, (u16, u64, Vec<u8>)) {
        let head = self.take(20).await;
        assert_eq!(head[..5], [0x66, 0x8e, 0x33, 0xef, 0]);
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let cookie = be64(&head[8..]);
        let payload = self.take(be32(&head[16..]) as usize).await;
        (head[5] == 1, (kind, cookie, payload))
    }

    /// Type, cookie, offset and payload of an extended chunk that is the last of its reply.
    pub(super) async fn extended(&mut self) -> (u16, u64, u64, Vec<u8>) {
        let head = self.take(32).await;
        assert_eq!(head[..6], [0x6e, 0x8a, 0x27, 0x8c, 0, 1]);
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let payload = self.take(usize::try_from(be64(&head[24..])).unwrap()).await;
        (kind, be64(&head[8..]), be64(&head[16..]), payload)
    }

    /// Sends one request and gives the error of its reply.
    pub(super) async fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> u32 {
        self.send(&request(command, flags, 77, (offset, length))).await;
        let (error, cookie) = self.reply().await;
        assert_eq!(cookie, 77);
        error
    }

    /// Writes, and gives the error of the reply.
    pub(super) async fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.send(&write(flags, 78, offset, data)).await;
        let (error, cookie) = self.reply().await;
        assert_eq!(cookie, 78);
        error
    }

    pub(super) async fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        assert_eq!(self.ask(READ, 0, offset, length).await, 0);
        self.take(length as usize).await
    }

    pub(super) async fn expect_silence(&mut self) {
        let mut byte = [0; 1];
        let heard = timeout(QUIET, self.stream.read(&mut byte)).await;
        assert!(heard.is_err(), "nothing is due yet, got {heard:?}");
    }

    /// The server has nothing more to say: end of stream or reset.
    pub(super) async fn expect_closed(&mut self) {
        let mut byte = [0; 1];
        let end = timeout(PATIENCE, self.stream.read(&mut byte))
            .await
            .expect("connection is closed");
        assert!(matches!(end, Ok(0) | Err(_)), "expected the end, got {byte:?}");
    }
}

pub(super) fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [
        b"IHAVEOPT".as_slice(),
        &code.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

pub(super) fn go(name: &str, kinds: &[u16]) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap();
    let count = u16::try_from(kinds.len()).unwrap();
    let kinds: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    [
        &length.to_be_bytes(),
        name.as_bytes(),
        &count.to_be_bytes(),
        &kinds,
    ]
    .concat()
}

pub(super) fn request(command: u16, flags: u16, cookie: u64, (offset, length): (u64, u32)) -> Vec<u8> {
    [
        0x2560_9513_u32.to_be_bytes().as_slice(),
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

pub(super) fn write(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [request(WRITE, flags, cookie, (offset, length)), data.to_vec()].concat()
}

pub(super) fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

pub(super) fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

/// Data of the options about metadata contexts.
pub(super) fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let string = |text: &str| {
        let length = u32::try_from(text.len()).unwrap();
        [&length.to_be_bytes(), text.as_bytes()].concat()
    };
    let count = u32::try_from(queries.len()).unwrap();
    let queries: Vec<u8> = queries.iter().flat_map(|query| string(query)).collect();
    [string(name), count.to_be_bytes().to_vec(), queries].concat()
}

pub(super) fn extended_request(
    command: u16,
    flags: u16,
    cookie: u64,
    (offset, length): (u64, u64),
) -> Vec<u8> {
    [
        0x21e4_1c71_u32.to_be_bytes().as_slice(),
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}
