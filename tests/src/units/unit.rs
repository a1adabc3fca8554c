//! One unit: how to start, ask, and end it.

use super::VOLUME;
use crate::binary::farside;
use crate::clock::{Seen, wait_until};
use crate::process::Process;
use crate::status::{Positions, Status};
use crate::tools::{Done, Tool};
use crate::world::lock;
use crate::{World, limits};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Runs the `farside` command line.
///
/// # Errors
/// When there is no binary; a failing command is no error here.
pub fn farside_command(args: &[&str]) -> Result<Done> {
    Tool::new(&farside()?.to_string_lossy()).args(args).run()
}

/// One unit: how to start it, and its process while it runs.
#[derive(Debug)]
pub struct Unit<'w> {
    world: &'w World,
    name: String,
    args: Vec<String>,
    control_socket: PathBuf,
    /// The network namespace it runs in, if not in everybody's.
    namespace: Option<String>,
    process: Mutex<Option<Arc<Process>>>,
}

impl<'w> Unit<'w> {
    /// A unit that is not started yet.
    #[must_use]
    pub fn new(world: &'w World, name: &str, args: Vec<String>, control_socket: PathBuf) -> Self {
        world.watch_socket(&control_socket);
        Self {
            world,
            name: name.to_owned(),
            args,
            control_socket,
            namespace: None,
            process: Mutex::default(),
        }
    }

    /// The same in a network namespace of its own.
    #[must_use]
    pub fn in_namespace(self, name: &str) -> Self {
        Self {
            namespace: Some(name.to_owned()),
            ..self
        }
    }

    /// The socket it is controlled by.
    #[must_use]
    pub fn control_socket(&self) -> &Path {
        &self.control_socket
    }

    /// Starts it and returns at once.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn launch(&self) -> Result<Arc<Process>> {
        let mut command = match &self.namespace {
            None => Command::new(farside()?),
            Some(name) => {
                // It becomes what it runs, so the process is the unit's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(farside()?);
                command
            }
        };
        command
            .args(&self.args)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1");
        let process = self.world.spawn(&self.name, &mut command)?;
        *lock(&self.process) = Some(Arc::clone(&process));
        Ok(process)
    }

    /// Starts it and waits until it answers and all its volumes and replicas are open.
    ///
    /// # Errors
    /// When it ends instead, a volume fails, or it takes too long.
    pub fn start(&self) -> Result<()> {
        let process = self.launch()?;
        wait_until(&format!("unit {} to answer", self.name), limits::START, || {
            if let Some(status) = process.exit_status()? {
                bail!(
                    "unit {} ended with {status} instead of serving:\n{}",
                    self.name,
                    process.log_tail(20)
                );
            }
            match self.try_status() {
                Ok(status) => in_service(&status),
                Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
            }
        })
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was never started.
    pub fn process(&self) -> Result<Arc<Process>> {
        lock(&self.process)
            .clone()
            .with_context(|| format!("unit {} was not started", self.name))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill9(&self) -> Result<()> {
        self.process()?.kill9()
    }

    /// SIGTERM; a clean end is exit code 0.
    ///
    /// # Errors
    /// When it does not end in time or says it failed.
    pub fn shut_down(&self) -> Result<ExitStatus> {
        let status = self.process()?.terminate()?;
        if !status.success() {
            bail!("unit {} ended with {status} after SIGTERM", self.name);
        }
        Ok(status)
    }

    /// A command to this unit.
    ///
    /// # Errors
    /// When there is no binary; a failing command is no error here.
    pub fn command(&self, args: &[&str]) -> Result<Done> {
        let socket = self.control_socket.to_string_lossy();
        let tool = Tool::new(&farside()?.to_string_lossy())
            .args(args)
            .args(["--socket", &socket]);
        tool.limit(limits::CATCH_UP + limits::STATUS).run()
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.try_status()
            .with_context(|| format!("unit {} gives no status", self.name))
    }

    fn try_status(&self) -> Result<Status> {
        Status::parse(&self.command(&["status", "--json"])?.success()?.stdout)
    }

    /// The positions of the volume.
    ///
    /// # Errors
    /// When it does not answer, or the positions are out of their order.
    pub fn positions(&self) -> Result<Positions> {
        let positions = self.status()?.positions(VOLUME)?;
        if !positions.ordered() {
            bail!("the positions are out of order: {positions:?}");
        }
        Ok(positions)
    }

    /// Waits until the remote of the volume is in this state.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_remote_state(&self, state: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("the remote to be {state}"), limit, || {
            let status = self.status()?;
            let remote = status.remote(VOLUME)?;
            let found = crate::status::text(remote, &["state"])?;
            Ok(Seen::when(found == state, || format!("{remote}")))
        })
    }

    /// Waits until everything written is applied by the remote, and until the mirror has it too.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_applied(&self) -> Result<()> {
        let limit = format!("{}s", limits::CATCH_UP.as_secs());
        self.command(&["wait", "--volume", VOLUME, "--applied", "--timeout", &limit])?
            .success()?;
        self.wait_mirrored()
    }

    /// Waits until the mirror has everything written.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_mirrored(&self) -> Result<()> {
        wait_until("the mirror to have everything", limits::CATCH_UP, || {
            let positions = self.positions()?;
            Ok(Seen::when(positions.mirrored == positions.journaled, || {
                format!("{positions:?}")
            }))
        })
    }
}

/// Whether everything of the unit is open; a volume that failed is an error.
pub(crate) fn in_service(status: &Status) -> Result<Seen> {
    for kind in ["volumes", "replicas"] {
        for entry in status
            .0
            .get(kind)
            .and_then(|list| list.as_array())
            .into_iter()
            .flatten()
        {
            match entry.get("state").and_then(|state| state.as_str()) {
                Some("starting") => return Ok(Seen::NotYet(entry.to_string())),
                Some("failed") => bail!("one of its {kind} failed: {entry:#}"),
                _ => {}
            }
        }
    }
    Ok(Seen::Yes)
}
