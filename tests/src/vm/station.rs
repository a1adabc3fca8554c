//! One unit in one virtual machine: its configuration, its start, what it says about itself.

use super::{FileSystem, Machine};
use crate::clock::{Seen, wait_until};
use crate::power::{Fate, Survived};
use crate::status::Status;
use crate::units::{VOLUME, in_service};
use crate::{Random, World, limits};
use anyhow::{Context as _, Result, ensure};
use std::net::SocketAddr;

/// Where the unit keeps everything, on the disk of the machine.
pub(super) const DIRECTORY: &str = "/data/unit";
const CONTROL: &str = "/tmp/control.sock";

/// A unit in a virtual machine. It starts with the machine and ends when the power goes.
#[derive(Debug)]
pub struct Station<'w> {
    /// The machine.
    pub machine: Machine<'w>,
    name: String,
    config: String,
}

impl<'w> Station<'w> {
    /// A station that is not started yet; `config` is what follows the `[unit]` table of its configuration.
    ///
    /// # Errors
    /// As `Machine::new`.
    pub fn new(
        world: &'w World,
        name: &str,
        file_system: FileSystem,
        forwards: &[(SocketAddr, u16)],
        config: &str,
    ) -> Result<Self> {
        let unit = format!(
            "[unit]\nname = \"{name}\"\ndata_dir = \"{DIRECTORY}\"\ncontrol_socket = \"{CONTROL}\"\n"
        );
        Ok(Self {
            machine: Machine::new(world, name, file_system, forwards)?,
            name: name.to_owned(),
            config: format!("{unit}{config}"),
        })
    }

    /// Boots, and waits until the unit answers and everything of it is open.
    ///
    /// # Errors
    /// When the file system or the unit did not survive.
    pub fn start(&self) -> Result<()> {
        self.machine.power_on()?;
        self.serve()
    }

    /// Waits until the machine, whose power is on, has booted, mounts its disk and starts the unit.
    ///
    /// # Errors
    /// When the file system or the unit did not survive.
    pub fn serve(&self) -> Result<()> {
        self.machine.wait_booted()?;
        self.mount_and_serve()
    }

    /// Starts it, and lets its power go off at the `requests`-th write or flush from mounting on, or when the unit is
    /// in service if that comes first.
    ///
    /// # Errors
    /// When the machine does not boot, or nothing of that happens.
    pub fn start_and_lose_power(&self, requests: u64, fate: Fate, random: &mut Random) -> Result<Survived> {
        self.machine.power_on()?;
        self.machine.wait_booted()?;
        let switch = self.machine.switch()?;
        switch.off_after(requests, &[]);
        std::thread::scope(|scope| {
            // Whatever step the cut hits hangs or fails. What that means is judged at the next start.
            let start = scope.spawn(|| self.mount_and_serve());
            let waited = wait_until("a power cut during recovery", limits::GUEST_COMMAND, || {
                Ok(Seen::when(switch.is_off() || start.is_finished(), || {
                    format!("{switch:?}")
                }))
            });
            let survived = self.machine.lose_power(fate, random);
            waited.and(survived)
        })
    }

    fn mount_and_serve(&self) -> Result<()> {
        self.machine.mount()?;
        let lines: Vec<String> = self.config.lines().map(|line| format!("'{line}'")).collect();
        self.machine.run(&format!(
            "cd /tmp && printf '%s\\n' {} >farside.toml && \
             {{ farside unit --config farside.toml >/dev/console 2>&1 </dev/null & }}",
            lines.join(" ")
        ))?;
        let what = format!("unit {} in its machine to serve", self.name);
        wait_until(&what, limits::GUEST_COMMAND, || {
            ensure!(
                !self.machine.switch()?.is_off(),
                "the power of {} went off",
                self.name
            );
            match self.status() {
                Ok(status) => in_service(&status),
                Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
            }
        })
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        let text = self
            .machine
            .run(&format!("farside status --json --socket {CONTROL}"))?;
        Status::parse(&text).with_context(|| format!("unit {} gives no status", self.name))
    }

    /// Waits until everything written so far is applied by the remote, and until the mirror has it too. An emulated
    /// machine on a busy host is slow: as long as the remote gets on, it is waited for.
    ///
    /// # Errors
    /// When nothing more is applied for too long.
    pub fn wait_applied(&self) -> Result<()> {
        let limit = limits::CATCH_UP.as_secs();
        let wait = format!("farside wait --volume {VOLUME} --applied --timeout {limit}s --socket {CONTROL}");
        let written = self.status()?.positions(VOLUME)?.journaled;
        let mut applied = self.applied()?;
        while let Err(error) = self.machine.run(&wait) {
            let before = std::mem::replace(&mut applied, self.applied()?);
            if applied >= written {
                break;
            }
            ensure!(
                applied > before,
                "the remote stands at record {before}: {error:#}"
            );
        }
        wait_until("the mirror to have everything", limits::CATCH_UP, || {
            let positions = self.status()?.positions(VOLUME)?;
            Ok(Seen::when(positions.mirrored >= written, || {
                format!("{positions:?}, written {written}")
            }))
        })
    }

    /// The record up to which the remote has applied everything.
    fn applied(&self) -> Result<u64> {
        let status = self.status()?;
        crate::status::number(status.remote(VOLUME)?, &["applied"])
    }
}
