//! Serves two disks in memory over NBD, to try the target alone with real clients and to measure it.
//!
//! `nbd_memory SIZE_MIB unix:PATH|HOST:PORT`; ends on Ctrl-C.

use farside::targets;
use farside::targets::nbd::{Service, serve};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

#[path = "../src/targets/nbd/tests/memory.rs"]
mod memory;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let usage = || anyhow::anyhow!("usage: nbd_memory SIZE_MIB unix:PATH|HOST:PORT");
    let size_mib: usize = arguments.next().ok_or_else(usage)?.parse()?;
    let address = arguments.next().ok_or_else(usage)?;
    let exports = memory::MemoryExports::default();
    for name in ["disk0", "disk1"] {
        exports
            .0
            .lock()
            .insert(name.to_owned(), memory::MemoryDisk::new(size_mib << 20));
    }
    let (service, shutdown) = (Service::new(Arc::new(exports)), CancellationToken::new());
    let server = match address.strip_prefix("unix:") {
        Some(path) => tokio::spawn(serve(UnixListener::bind(path)?, service, shutdown.clone())),
        None => tokio::spawn(serve(
            TcpListener::bind(&address).await?,
            service,
            shutdown.clone(),
        )),
    };
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    Ok(server.await?)
}
