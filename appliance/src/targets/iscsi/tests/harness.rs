//! Portals on a free port and an initiator that sends what it is told, valid or not.

use crate::targets::iscsi::receiver::wire_digest;
use crate::targets::iscsi::{Account, Policy, Portals, Setup, serve};
use crate::targets::nbd::tests::memory::{MemoryDisk, MemoryExports};
use crate::targets::{Counters, Settings};
use crc32c::crc32c;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing has to happen before we believe that nothing will.
const QUIET: Duration = Duration::from_millis(80);
pub(super) const DISK_BYTES: usize = 8 << 20;
pub(super) const TARGET: &str = "iqn.2026-11.dev.farside:disk0";
pub(super) const INITIATOR: &str = "iqn.2026-11.test:host";
pub(super) const NO_TAG: u32 = u32::MAX;

/// Portals and what is behind them.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) disk: Arc<MemoryDisk>,
    pub(super) exports: Arc<MemoryExports>,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<()>,
    pub(super) directory: tempfile::TempDir,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(Policy::default(), MemoryDisk::new(DISK_BYTES)).await
    }

    pub(super) async fn with(policy: Policy, disk: Arc<MemoryDisk>) -> Self {
        let exports = Arc::new(MemoryExports::default());
        exports.0.lock().insert("disk0".to_owned(), Arc::clone(&disk));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let portals = Portals::new(Setup {
            exports: Arc::clone(&exports),
            counters: Arc::new(Counters::default()),
            settings: Settings::default(),
            policy,
            listening: vec![address],
            reservations: directory.path().join("reservations"),
        });
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, portals, shutdown.clone()));
        Self {
            address,
            disk,
            exports,
            shutdown,
            task,
            directory,
        }
    }

    pub(super) fn secret() -> Policy {
        Policy {
            account: Some(Account {
                user: "host".to_owned(),
                secret: b"secretsecret12".to_vec(),
                own: Some(("farside".to_owned(), b"another-secret".to_vec())),
            }),
            initiators: Vec::new(),
        }
    }

    pub(super) async fn initiator(&self) -> Initiator {
        Initiator::log_in(self.address, 1, &[]).await
    }
}

/// A message of the target.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) header: [u8; 48],
    pub(super) data: Vec<u8>,
}

impl Reply {
    pub(super) fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    pub(super) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().unwrap())
    }

    /// Status of a SCSI response, or of data with one.
    pub(super) fn status(&self) -> u8 {
        assert!(matches!(self.opcode(), 0x21 | 0x25), "{self:?}");
        self.header[3]
    }

    /// Sense key and additional sense code with its qualifier, of a response with sense data in fixed format.
    pub(super) fn sense(&self) -> (u8, u16) {
        assert_eq!(self.status(), 2, "no check condition: {self:?}");
        assert_eq!(self.data[2] & 0x7f, 0x70, "{self:?}");
        (self.data[4], u16::from_be_bytes([self.data[14], self.data[15]]))
    }

    /// The text of a login or text response.
    pub(super) fn text(&self) -> Vec<String> {
        let pairs = self.data.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| String::from_utf8(pair.to_vec()).unwrap())
            .collect()
    }

    pub(super) fn value(&self, key: &str) -> Option<String> {
        let prefix = format!("{key}=");
        self.text()
            .iter()
            .find_map(|pair| pair.strip_prefix(&prefix).map(str::to_owned))
    }
}

/// One connection that speaks raw messages.
pub(super) struct Initiator<S = TcpStream> {
    pub(super) stream: S,
    pub(super) command_number: u32,
    pub(super) tag: u32,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
}

/// A header with what most have in common.
pub(super) fn header(opcode: u8, flags: u8, lun: u8, tag: u32) -> [u8; 48] {
    let mut header = [0; 48];
    (header[0], header[1], header[9]) = (opcode, flags, lun);
    header[16..20].copy_from_slice(&tag.to_be_bytes());
    header
}

pub(super) fn put(header: &mut [u8; 48], at: usize, word: u32) {
    header[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

pub(super) fn text(pairs: &[&str]) -> Vec<u8> {
    pairs
        .iter()
        .flat_map(|pair| [pair.as_bytes(), &[0]].concat())
        .collect()
}

/// READ (10), WRITE (10) and others of their form.
pub(super) fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend_from_slice(&lba.to_be_bytes());
    cdb.push(0);
    cdb.extend_from_slice(&blocks.to_be_bytes());
    cdb.push(0);
    cdb
}

impl Initiator {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// A normal session without authentication; `keys` are negotiated.
    pub(super) async fn log_in(address: SocketAddr, isid: u8, keys: &[&str]) -> Self {
        let mut initiator = Self::log_in_only(address, isid, keys).await;
        initiator.take_attention().await;
        initiator
    }

    /// The same, without a command to any unit.
    pub(super) async fn log_in_only(address: SocketAddr, isid: u8, keys: &[&str]) -> Self {
        let mut initiator = Self::connect(address).await;
        initiator.begin(isid, keys).await;
        initiator
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Initiator<S> {
    pub(super) fn over(stream: S) -> Self {
        Self {
            stream,
            command_number: 1,
            tag: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    /// Begins a normal session.
    pub(super) async fn begin(&mut self, isid: u8, keys: &[&str]) {
        let own = [
            format!("InitiatorName={INITIATOR}"),
            format!("TargetName={TARGET}"),
            "SessionType=Normal".to_owned(),
        ];
        let mut pairs: Vec<&str> = own.iter().map(String::as_str).collect();
        pairs.extend_from_slice(keys);
        let reply = self.login((1, Some(3)), isid, 0, &pairs).await;
        assert_eq!(reply.word(36) >> 16, 0, "the login failed: {reply:?}");
        self.header_digest = keys.contains(&"HeaderDigest=CRC32C");
        self.data_digest = keys.contains(&"DataDigest=CRC32C");
    }

    /// What every new session is told first.
    pub(super) async fn take_attention(&mut self) {
        self.command(&[0; 6], (0, 0), &[]).await;
        let attention = self.reply().await;
        assert_eq!(attention.sense(), (6, 0x2900));
    }

    /// One login request with its response.
    pub(super) async fn login(
        &mut self,
        (stage, next): (u8, Option<u8>),
        isid: u8,
        tsih: u16,
        pairs: &[&str],
    ) -> Reply {
        let flags = (stage << 2) | next.map_or(0, |next| 0x80 | next);
        let mut header = header(0x43, flags, 0, 7);
        header[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, isid]);
        header[14..16].copy_from_slice(&tsih.to_be_bytes());
        put(&mut header, 24, self.command_number);
        self.send(header, &text(pairs)).await;
        let reply = self.reply().await;
        assert_eq!(reply.opcode(), 0x23, "{reply:?}");
        reply
    }

    /// Sends a message; its length is put in.
    pub(super) async fn send(&mut self, mut header: [u8; 48], data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        header[5..8].copy_from_slice(&length[1..]);
        let mut message = header.to_vec();
        if self.header_digest {
            message.extend(wire_digest(crc32c(&header)));
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        message.extend_from_slice(&padded);
        if self.data_digest && !padded.is_empty() {
            message.extend(wire_digest(crc32c(&padded)));
        }
        self.stream.write_all(&message).await.unwrap();
    }

    /// The next message of the target; its digests are those of its bytes.
    pub(super) async fn reply(&mut self) -> Reply {
        timeout(PATIENCE, self.next())
            .await
            .expect("a reply in time")
            .expect("a reply")
    }

    /// The same, or `None` if the target closed the connection.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).await.ok()?;
        if self.header_digest {
            self.check_digest(&header).await?;
        }
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data).await.ok()?;
        if self.data_digest && length > 0 {
            self.check_digest(&data).await?;
        }
        assert!(data[length..].iter().all(|byte| *byte == 0), "padding is zeroes");
        data.truncate(length);
        Some(Reply { header, data })
    }

    async fn check_digest(&mut self, bytes: &[u8]) -> Option<()> {
        let mut digest = [0; 4];
        self.stream.read_exact(&mut digest).await.ok()?;
        assert_eq!(wire_digest(crc32c(bytes)), digest);
        Some(())
    }

    /// Whether nothing comes for a while.
    pub(super) async fn is_quiet(&mut self) -> bool {
        timeout(QUIET, self.next()).await.is_err()
    }

    /// Whether the target has closed the connection.
    pub(super) async fn is_closed(&mut self) -> bool {
        timeout(PATIENCE, async { while self.next().await.is_some() {} })
            .await
            .is_ok()
    }

    /// Sends a SCSI command to logical unit 1, with the bytes expected to come and to go; gives its tag.
    pub(super) async fn command(&mut self, cdb: &[u8], expected: (u32, u32), immediate: &[u8]) -> u32 {
        self.command_to(1, cdb, expected, immediate).await
    }

    pub(super) async fn command_to(
        &mut self,
        lun: u8,
        cdb: &[u8],
        (takes, gives): (u32, u32),
        immediate: &[u8],
    ) -> u32 {
        self.tag += 1;
        let direction = if takes > 0 { 0x40 } else { 0 } | if gives > 0 { 0x20 } else { 0 };
        let mut header = header(0x01, 0x80 | direction | 1, lun, self.tag);
        put(&mut header, 20, takes.max(gives));
        put(&mut header, 24, self.command_number);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.command_number = self.command_number.wrapping_add(1);
        self.send(header, immediate).await;
        self.tag
    }

    /// A command without data from here, and what comes of it: the data, and the last message.
    pub(super) async fn ask(&mut self, cdb: &[u8], takes: u32) -> (Vec<u8>, Reply) {
        let tag = self.command(cdb, (takes, 0), &[]).await;
        let mut data = Vec::new();
        loop {
            let reply = self.reply().await;
            assert_eq!(reply.word(16), tag, "{reply:?}");
            if reply.opcode() != 0x25 {
                return (data, reply);
            }
            assert_eq!(reply.word(40) as usize, data.len(), "data in order");
            data.extend_from_slice(&reply.data);
            if reply.header[1] & 1 != 0 {
                return (data, reply);
            }
        }
    }

    /// A write with all its data behind the command.
    pub(super) async fn write(&mut self, lba: u32, data: &[u8]) -> Reply {
        let blocks = u16::try_from(data.len() / 512).unwrap();
        let length = u32::try_from(data.len()).unwrap();
        self.command(&cdb10(0x2a, 0, lba, blocks), (0, length), data)
            .await;
        self.reply().await
    }

    /// Sends data of a command.
    #[allow(clippy::too_many_arguments, reason = "each is a field of the message")]
    pub(super) async fn data_out(
        &mut self,
        tags: (u32, u32),
        number: u32,
        offset: u32,
        data: &[u8],
        last: bool,
    ) {
        let mut header = header(0x05, if last { 0x80 } else { 0 }, 1, tags.0);
        put(&mut header, 20, tags.1);
        put(&mut header, 36, number);
        put(&mut header, 40, offset);
        self.send(header, data).await;
    }

    /// A task management function and the answer to it.
    pub(super) async fn manage(&mut self, function: u8, lun: u8, referenced: u32) -> u8 {
        self.begin_manage(function, lun, (referenced, 0)).await;
        self.managed().await
    }

    /// Sends a task management function; the task that it is about is told by its tag and its number.
    pub(super) async fn begin_manage(&mut self, function: u8, lun: u8, (tag, number): (u32, u32)) {
        let mut header = header(0x42, 0x80 | function, lun, 0x7000 + u32::from(function));
        put(&mut header, 20, tag);
        put(&mut header, 24, self.command_number);
        put(&mut header, 32, number);
        self.send(header, &[]).await;
    }

    /// The answer to one.
    pub(super) async fn managed(&mut self) -> u8 {
        let reply = self.reply().await;
        assert_eq!(reply.opcode(), 0x22, "{reply:?}");
        reply.header[2]
    }

    /// PERSISTENT RESERVE OUT with its parameters.
    pub(super) async fn reserve_out(&mut self, (action, kind): (u8, u8), key: u64, action_key: u64) {
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        let mut parameters = [key.to_be_bytes(), action_key.to_be_bytes()].concat();
        parameters.extend_from_slice(&[0; 8]);
        self.command(&cdb, (0, 24), &parameters).await;
    }

    pub(super) async fn log_out(&mut self) -> Reply {
        let mut header = header(0x46, 0x80, 0, 0x99);
        put(&mut header, 24, self.command_number);
        self.send(header, &[]).await;
        self.reply().await
    }
}
