//! A connection in memory between an initiator of a fuzz target and the iSCSI target with a small disk.

use crate::allocation::measured;
use crate::small_disk::{Once, One};
use farside::targets::iscsi::{Policy, Portals, Setup, serve};
use farside::targets::{Counters, Settings};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for anything to go either way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever speaks with the target.
pub(crate) trait Initiator {
    /// Up to `most` bytes to be sent now; `None`: the target has to say something first. Nothing: that was all.
    fn next_bytes(&mut self, most: usize) -> Option<Vec<u8>>;
    /// What the target sends.
    fn hear(&mut self, bytes: &[u8]);
    /// Bytes that went either way.
    fn moved(&self) -> usize;
}

/// How a connection is.
pub(crate) struct Terms {
    /// Bytes sent at a time, and taken.
    pub(crate) pace: (usize, usize),
    /// Who may log in.
    pub(crate) policy: Policy,
    /// Most memory that it may take.
    pub(crate) most_bytes: usize,
}

/// The initiator's end of the stream.
struct Wire<I> {
    initiator: Arc<Mutex<I>>,
    piece_bytes: usize,
    appetite: usize,
    waits: Option<Waker>,
    _ends_the_server: DropGuard,
}

impl<I: Initiator> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.piece_bytes.min(into.remaining());
        let next = self.initiator.lock().next_bytes(most);
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

impl<I: Initiator> AsyncWrite for Wire<I> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.appetite);
        self.initiator.lock().hear(&bytes[..count]);
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

/// Lets `initiator` speak with a target of a small disk; reservations are kept in `directory`.
///
/// # Panics
/// When nothing goes on any more, or more memory is taken than the terms allow.
pub(crate) fn converse<I: Initiator + Send + 'static>(initiator: I, terms: Terms, directory: &Path) -> I {
    let initiator = Arc::new(Mutex::new(initiator));
    let ended = CancellationToken::new();
    let wire = Wire {
        initiator: Arc::clone(&initiator),
        piece_bytes: terms.pace.0,
        appetite: terms.pace.1,
        waits: None,
        _ends_the_server: ended.clone().drop_guard(),
    };
    let portals = Portals::new(Setup {
        exports: Arc::new(One::default()),
        counters: Arc::new(Counters::default()),
        settings: Settings::default(),
        policy: terms.policy,
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
                let before = std::mem::replace(&mut moved, initiator.lock().moved());
                if moved == before {
                    return false;
                }
            }
            true
        })
    });
    drop(runtime);
    let initiator = Arc::try_unwrap(initiator).unwrap_or_else(|_| panic!("the session is over"));
    assert!(goes_on, "a session that does not go on");
    assert!(held < terms.most_bytes, "{held} bytes for a session");
    initiator.into_inner()
}
