//! Accept loops: bounded connections, bounded waiting, a shutdown that lets answers finish.

use crate::limits;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Serves `router` on a unix socket until `shutdown` resolves, then lets answers under way finish.
pub async fn serve_unix(listener: UnixListener, router: Router, shutdown: impl Future<Output = ()>) {
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    serve(accept, router, None, shutdown).await;
}

/// Serves `router` on a TCP address until `shutdown` resolves, then lets answers under way finish.
pub async fn serve_tcp(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    serve(
        accept,
        router,
        Some(limits::CONSOLE_CONNECTION_LIFETIME),
        shutdown,
    )
    .await;
}

async fn serve<A, F, S>(
    accept: A,
    router: Router,
    lifetime: Option<Duration>,
    shutdown: impl Future<Output = ()>,
) where
    A: Fn() -> F,
    F: Future<Output = std::io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            // The semaphore is never closed, so the error cannot happen; without a place nothing is accepted.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((accept().await, place))
        };
        tokio::select! {
            () = &mut shutdown => break,
            next = next => match next {
                Some((Ok(stream), place)) => spawn(stream, router.clone(), &graceful, (lifetime, place)),
                Some((Err(error), _)) => {
                    tracing::warn!(%error, "console: a connection could not be accepted");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
                None => break,
            },
        }
    }
    if tokio::time::timeout(limits::DRAIN_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("console: connections still open at shutdown were cut");
    }
}

/// How long a connection may live, and the place it takes.
type Bounds = (Option<Duration>, OwnedSemaphorePermit);

fn spawn<S>(stream: S, router: Router, graceful: &GracefulShutdown, bounds: Bounds)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::REQUEST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = graceful.watch(connection);
    let (lifetime, place) = bounds;
    tokio::spawn(async move {
        let ended = match lifetime {
            Some(lifetime) => tokio::time::timeout(lifetime, connection).await,
            None => Ok(connection.await),
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "console: a connection ended early"),
            Err(_) => tracing::debug!("console: a connection was cut at the end of its time"),
        }
        drop(place);
    });
}
