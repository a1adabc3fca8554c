//! A host: one connection through the NBD target to a volume, over a pair of sockets.

use crate::by_hand::ByHand;
use crate::place::{NAME, VOLUME_BYTES};
use anyhow::{Result, ensure};
use farside::targets::nbd::{Service, serve};
use farside::targets::{Export, Exports, Listener, ScsiAddress};
use farside::volume::Volume;
use farside_protocol::nbd::{OPTION_MAGIC, REQUEST_HEADER_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_BYTES};
use farside_tests::Random;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, yield_now};
use tokio_util::sync::CancellationToken;

/// The option `GO` and the reply that ends the negotiation (NBD specification, "Option types", "Option reply types").
const GO: u32 = 7;
const ACK: u32 = 1;
/// What a flush is (NBD specification, "Request types").
const FLUSH: u16 = 3;

/// What a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// `NBD_CMD_READ`
    Read,
    /// `NBD_CMD_WRITE`
    Write,
}

struct OneClient(Mutex<mpsc::Receiver<UnixStream>>);

impl Listener for OneClient {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, String)> {
        match self.0.lock().await.recv().await {
            Some(stream) => Ok((stream, "host".to_owned())),
            None => std::future::pending().await,
        }
    }
}

struct OneExport(Arc<Volume>);

impl Exports for OneExport {
    type Disk = Volume;

    fn find(&self, name: &str) -> Option<Export<Volume>> {
        (name == NAME).then(|| Export {
            name: name.to_owned(),
            description: String::new(),
            requires_tls: false,
            uuid: [1; 16],
            scsi: ScsiAddress::of_its_own("disk"),
            disk: self.0.clone(),
        })
    }

    fn names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }
}

/// An attached host.
pub(crate) struct Host {
    stream: UnixStream,
    hands: Arc<ByHand>,
    random: Random,
    out: Vec<u8>,
    back: Vec<u8>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Host {
    /// Attaches to a volume.
    pub(crate) async fn attach(volume: &Arc<Volume>, hands: &Arc<ByHand>) -> Result<Self> {
        let (here, there) = UnixStream::pair()?;
        let (dial, accept) = mpsc::channel(1);
        dial.send(there).await?;
        let stop = CancellationToken::new();
        let listener = OneClient(Mutex::new(accept));
        let service = Service::new(Arc::new(OneExport(volume.clone())));
        let serving = tokio::spawn(serve(listener, service, stop.clone()));
        let mut host = Self {
            stream: here,
            hands: hands.clone(),
            random: Random::new(1),
            out: Vec::new(),
            back: Vec::new(),
            stop,
            serving,
        };
        host.negotiate().await?;
        Ok(host)
    }

    async fn negotiate(&mut self) -> Result<()> {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting).await?;
        let length = u32::try_from(NAME.len())?;
        let mut go = 3_u32.to_be_bytes().to_vec();
        go.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        go.extend_from_slice(&GO.to_be_bytes());
        go.extend_from_slice(&(4 + length + 2).to_be_bytes());
        go.extend_from_slice(&length.to_be_bytes());
        go.extend_from_slice(NAME.as_bytes());
        go.extend_from_slice(&0_u16.to_be_bytes());
        self.stream.write_all(&go).await?;
        loop {
            let mut header = [0; 20];
            self.stream.read_exact(&mut header).await?;
            let field =
                |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let mut data = vec![0; field(16) as usize];
            self.stream.read_exact(&mut data).await?;
            match field(12) {
                ACK => return Ok(()),
                kind => ensure!(kind & (1 << 31) == 0, "the export was refused: {kind:#x}"),
            }
        }
    }

    /// Asks for `count` things of `length` bytes at random places below `below`, all at once, and waits for the answers.
    pub(crate) async fn ask(&mut self, ask: Ask, length: usize, count: usize, below: u64) -> Result<()> {
        let (command, payload, answer) = match ask {
            Ask::Read => (0, 0, length),
            Ask::Write => (1, length, 0),
        };
        let stride = REQUEST_HEADER_BYTES + payload;
        // Payloads stay as they are: filling them is not the product's work.
        self.out.resize(count * stride, 7);
        for (cookie, request) in (0..).zip(self.out.chunks_mut(stride)) {
            let place = self.random.below(below.min(VOLUME_BYTES) / length as u64);
            let header = header(command, cookie, place * length as u64, u32::try_from(length)?);
            request[..REQUEST_HEADER_BYTES].copy_from_slice(&header);
        }
        self.stream.write_all(&self.out).await?;
        self.answers(count, answer).await
    }

    /// Asks for a flush, and has the journal synced while it waits.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&header(FLUSH, 0, 0, 0)).await?;
        let hands = self.hands.clone();
        let mut answered = std::pin::pin!(self.answers(1, 0));
        loop {
            tokio::select! {
                biased;
                result = &mut answered => return result,
                () = yield_now() => hands.sync(),
            }
        }
    }

    async fn answers(&mut self, count: usize, payload: usize) -> Result<()> {
        self.back.resize(count * (SIMPLE_REPLY_BYTES + payload), 0);
        self.stream.read_exact(&mut self.back).await?;
        for reply in self.back.chunks(SIMPLE_REPLY_BYTES + payload) {
            ensure!(
                reply[4..8] == [0; 4],
                "a request was answered with an error: {:?}",
                &reply[..16]
            );
        }
        Ok(())
    }

    /// Goes away, and sees the target end.
    pub(crate) async fn detach(self) -> Result<()> {
        drop(self.stream);
        self.stop.cancel();
        Ok(self.serving.await?)
    }
}

/// A request's header (NBD specification, "Request message").
fn header(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_HEADER_BYTES] {
    let mut header = [0; REQUEST_HEADER_BYTES];
    header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[6..8].copy_from_slice(&command.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..28].copy_from_slice(&length.to_be_bytes());
    header
}
