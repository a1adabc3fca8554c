//! fio with verification, through a client that connects again when its server dies (nbdkit's retry filter).

use crate::World;
use crate::clock::{Seen, wait_until};
use crate::limits;
use crate::nbd::Endpoint;
use crate::process::Process;
use crate::tools::{Tool, need};
use anyhow::{Result, bail};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Starts fio for so many seconds of verified writes to `server`, by way of nbdkit at `front`, and waits for the first of them.
///
/// # Errors
/// A skip without fio or nbdkit; an error when nbdkit does not come up or fio writes nothing.
pub fn reconnecting_fio(
    world: &World,
    server: &Endpoint,
    front: &Endpoint,
    seconds: u32,
) -> Result<Arc<Process>> {
    need("nbdkit")?;
    let Endpoint::Tcp(address) = front else {
        bail!("the client in between listens on TCP")
    };
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args([
        "-f",
        "-i",
        "127.0.0.1",
        "-p",
        &address.port().to_string(),
        "--filter=log",
        "--filter=retry",
        "nbd",
    ]);
    nbdkit.args([
        &format!("uri={}", server.uri("disk0")),
        "retries=60",
        "retry-delay=1",
        "retry-exponential=no",
    ]);
    let log = world.file("nbdkit-requests.log");
    nbdkit.arg(format!("logfile={}", log.display()));
    let nbdkit = world.spawn("nbdkit-retry", &mut nbdkit)?;
    wait_until("nbdkit to listen", limits::START, || {
        Ok(Seen::when(front.connect(limits::STATUS).is_ok(), || {
            nbdkit.log_tail(5)
        }))
    })?;
    let fio = Tool::new("fio").limit(limits::TOOL + Duration::from_secs(u64::from(2 * seconds)));
    let fio = fio.directory(world.path()).args([
        "--name=verify",
        "--ioengine=nbd",
        &format!("--uri={}", front.uri("")),
        "--rw=randwrite",
        "--bs=4k",
        "--size=16M",
        "--iodepth=16",
        "--time_based",
        &format!("--runtime={seconds}"),
        "--rate_iops=800",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
    ]);
    let fio = world.spawn("fio", &mut fio.command()?)?;
    // The filter tries again for whoever is attached; a server that is killed while fio attaches is an error to it.
    wait_until("fio to write", limits::TOOL, || {
        let written = std::fs::read_to_string(&log).is_ok_and(|log| log.contains(" Write "));
        Ok(Seen::when(written || fio.exit_status()?.is_some(), || {
            fio.log_tail(5)
        }))
    })?;
    Ok(fio)
}

/// Waits for fio's end; it must have verified without an error, in its exit code and in its words.
///
/// # Errors
/// When it failed, with its output.
pub fn expect_fio_success(fio: &Process, limit: Duration) -> Result<()> {
    let status = fio.wait_end(limit)?;
    // fio has been seen to hide errors behind exit code 0.
    if !status.success() || !fio.log_text().contains("err= 0") {
        bail!("fio ended with {status}:\n{}", fio.log_tail(40));
    }
    Ok(())
}
