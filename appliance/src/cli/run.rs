//! `farside unit` and what it shares with `farside up`: a unit in this process, from start to exit.

use super::exit::{CliError, Exit};
use super::find::Announcement;
use super::limits;
use crate::config::{Overrides, load};
use crate::unit::{Start, Unit, UnitError, logging};
use farside_protocol::control::{Status, VolumeState};
use std::path::{Path, PathBuf};

/// Runs the unit of a configuration file as a service would.
pub(super) fn unit(path: &Path) -> Result<(), CliError> {
    let start = prepare(path, Overrides::default())?;
    let config = start.config_path.display().to_string();
    serve(start, CliError::from, move |status| {
        tracing::info!(config, name = status.unit.name, nbd = ?status.unit.nbd_listen, "unit is running");
        for volume in &status.volumes {
            if volume.state == VolumeState::Failed {
                let problem = volume.problem.as_deref().unwrap_or_default();
                tracing::error!("the unit runs without volume {}: {problem}", volume.name);
            }
        }
    })
}

/// Reads the configuration and starts the log.
pub(super) fn prepare(path: &Path, overrides: Overrides) -> Result<Start, CliError> {
    let config_path = absolute(path)?;
    let config = load(&config_path, &overrides)?;
    logging::start(&config.unit.log);
    Ok(Start {
        config,
        config_path,
        overrides,
    })
}

/// Resolves when this process is told to stop.
pub(super) async fn told_to_stop() -> Result<(), CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| CliError::failure(format!("no signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path)
        .map_err(|error| CliError::new(Exit::Usage, format!("'{}': {error}", path.display())))
}

/// Starts the unit, calls `started` once it runs, and stays until it is told to stop. Why it does not start is put
/// into words by `refused`.
pub(super) fn serve(
    start: Start,
    refused: impl FnOnce(UnitError) -> CliError,
    started: impl FnOnce(&Status),
) -> Result<(), CliError> {
    // Images, journals and sockets hold the content of somebody's disk: nobody else may read them.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failure(format!("no threads for the unit: {error}")))?;
    let socket = start.config.unit.control_socket.clone();
    let clean = runtime.block_on(async {
        let unit = match Unit::start(start).await {
            Err(UnitError::Stopped { clean }) => return Ok(clean),
            other => other.map_err(refused)?,
        };
        let status = unit.status();
        let _announcement = Announcement::new(&status.unit.uuid, &socket);
        started(&status);
        Ok::<bool, CliError>(unit.run().await)
    });
    runtime.shutdown_timeout(limits::FORCED_EXIT);
    if clean? {
        Ok(())
    } else {
        Err(CliError::failure(
            "the shutdown was not clean; see the log. The next start recovers from the journal",
        ))
    }
}
