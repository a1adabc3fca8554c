//! Target: one session with the iSCSI target, over a stream in memory, in arbitrary pieces.
//!
//! Promises: no panic; whatever an initiator sends, what it gets is made of whole, well-formed messages with numbers in order; a
//! command is answered once at most, and exactly once if the initiator keeps to the rules; no data is sent or asked for that
//! does not belong to the command; nothing outside the disk is changed; a session with a small disk holds no more than its
//! limits, and ends.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::iscsi_client::{Client, Stage};
use crate::iscsi_script::Script;
use crate::small_disk::{Once, One};
use farside::targets::iscsi::{Policy, Portals, Setup, serve};
use farside::targets::{Counters, Settings};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Receive buffers, commands under way with their data, what waits to be sent, and the runtime.
const MOST_BYTES: usize = 48 << 20;
/// Longest wait for anything to go either way.
const PATIENCE: Duration = Duration::from_secs(10);

/// The initiator's end of the stream.
struct Wire {
    client: Arc<Mutex<Client>>,
    /// Bytes sent at a time, and taken.
    piece_bytes: usize,
    appetite: usize,
    waits: Option<Waker>,
    _ends_the_server: DropGuard,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.piece_bytes.min(into.remaining());
        let next = self.client.lock().next_bytes(most);
        match next {
            Some(bytes) => {
                into.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            None => {
                self.waits = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.appetite);
        self.client.lock().hear(&bytes[..count]);
        if let Some(waker) = self.waits.take() {
            waker.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Lets `client` speak with a target of a small disk; reservations are kept in `directory`.
pub(crate) fn converse(
    client: Client,
    (piece_bytes, appetite): (usize, usize),
    directory: &std::path::Path,
) -> Client {
    let client = Arc::new(Mutex::new(client));
    let ended = CancellationToken::new();
    let wire = Wire {
        client: Arc::clone(&client),
        piece_bytes,
        appetite,
        waits: None,
        _ends_the_server: ended.clone().drop_guard(),
    };
    let portals = Portals::new(Setup {
        exports: Arc::new(One::default()),
        counters: Arc::new(Counters::default()),
        settings: Settings::default(),
        policy: Policy::default(),
        listening: Vec::new(),
        reservations: directory.join("reservations"),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime on this thread needs nothing");
    let (goes_on, held) = measured(|| {
        runtime.block_on(async {
            let mut service = std::pin::pin!(serve(Once::new(wire), portals, ended));
            let mut moved = 0;
            while timeout(PATIENCE, service.as_mut()).await.is_err() {
                let before = std::mem::replace(&mut moved, client.lock().moved);
                if moved == before {
                    return false;
                }
            }
            true
        })
    });
    drop(runtime);
    let client = Arc::try_unwrap(client).unwrap_or_else(|_| panic!("the session is over"));
    let client = client.into_inner();
    assert!(goes_on, "a session that does not go on: {:?}", client.stage);
    assert!(held < MOST_BYTES, "{held} bytes for a session");
    client
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let pace = (
        usize::from(draw.u8()) * 64 + 256,
        usize::from(draw.u8()) * 64 + 256,
    );
    let client = Client::new(Script::from(&mut draw));
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let client = converse(client, pace, directory.path());
    if client.is_in_order() {
        assert_eq!(
            client.stage,
            Stage::Over,
            "a session in order is served to its end"
        );
        assert!(client.has_all(), "an incomplete message");
    }
    client.is_in_order()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Each command: what, place, length, flags, [parameters], manner, fill.
    let commands = [
        [2_u8, 4, 8, 0, 0, 7], // WRITE (10)
        [0, 4, 8, 0, 0, 0],    // READ (10)
        [4, 4, 8, 0, 10, 9],   // WRITE AND VERIFY (10), in pieces
        [8, 0, 0, 0, 0, 0],    // SYNCHRONIZE CACHE (10)
        [10, 4, 8, 0, 0, 0],   // WRITE SAME (10)
        [6, 4, 8, 0, 0, 0],    // VERIFY (10)
        [120, 9, 39, 0, 0, 0], // a command of sixteen bytes
        [122, 9, 39, 0, 11, 3],
        [124, 9, 2, 0, 0x20, 3], // ordered
        [126, 9, 2, 0, 0, 3],
        [128, 9, 2, 0, 0, 3],
        [132, 9, 2, 0, 0, 3],
        [160, 0, 0, 0, 0, 0], // others
        [162, 0, 0, 0, 0, 0],
        [164, 0, 0, 0, 0, 0],
        [166, 0, 0, 0, 0, 0],
        [170, 0, 0, 0, 0, 0],
        [220, 100, 220, 3, 0, 0], // NOP
    ]
    .concat();
    [0_u8, 3, 4, 8, 12, 0x1c, 0x43, 0x88, 0xc4]
        .iter()
        .map(|how| [&[255, 255, *how], commands.as_slice()].concat())
        .chain([[&[3, 1, 8], commands.as_slice()].concat()])
        .chain([[&[255, 200, 0], commands.repeat(12).as_slice()].concat()])
        .collect()
}
