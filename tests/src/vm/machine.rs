//! A virtual machine that runs units: its disk, its power, its forwarded ports.

use super::Kit;
use super::agent::{AGENT_PORT, Agent, qemu};
use crate::clock::{Seen, wait_until};
use crate::power::{DiskServer, Fate, PowerDisk, SECTOR_BYTES, Survived, Switch};
use crate::process::Process;
use crate::tools::Tool;
use crate::world::lock;
use crate::{Random, World, limits};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Size of the disk in bytes: the smallest that xfs accepts, and some.
const DISK_BYTES: u64 = 320 << 20;
/// Memory of a machine in MiB.
const MEMORY_MIB: u32 = 384;

/// The file system on a machine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Bytes that its disk has to write whole. XFS leaves a block of its tables alone in recovery if the front of it is as new as
    /// the log, whatever became of the rest (`xlog_recover_buf_commit_pass2` compares sequence numbers, not checksums); a disk that tears
    /// blocks of 4 KiB makes it unmountable now and then, with or without Farside on it.
    fn needs_whole(self) -> usize {
        match self {
            Self::Ext4 => SECTOR_BYTES,
            Self::Xfs => 4096,
        }
    }
}

#[derive(Debug)]
struct Running {
    process: Arc<Process>,
    switch: Arc<Switch>,
    _server: DiskServer,
}

/// A virtual machine, running or not. Its disk outlives every run.
#[derive(Debug)]
pub struct Machine<'w> {
    world: &'w World,
    kit: &'static Kit,
    name: String,
    file_system: FileSystem,
    disk: Arc<PowerDisk>,
    agent: Agent,
    forwards: Vec<(SocketAddr, u16)>,
    starts: AtomicU32,
    running: Mutex<Option<Running>>,
}

impl<'w> Machine<'w> {
    /// A machine with an empty file system on its disk, not started. `forwards` leads from addresses of the host to
    /// ports of the machine.
    ///
    /// # Errors
    /// A skip when there is nothing to boot or no `mkfs`; an error when the disk cannot be made.
    pub fn new(
        world: &'w World,
        name: &str,
        file_system: FileSystem,
        forwards: &[(SocketAddr, u16)],
    ) -> Result<Self> {
        let kit = Kit::ready()?;
        let medium = world.file(&format!("{name}.medium"));
        File::create(&medium)?.set_len(DISK_BYTES)?;
        let mkfs = Tool::new(&format!("mkfs.{}", file_system.name()));
        mkfs.args(["-q"]).path(&medium).ok()?;
        let agent = Agent::new(name)?;
        let mut forwards = forwards.to_vec();
        forwards.push((agent.address, AGENT_PORT));
        Ok(Self {
            world,
            kit,
            name: name.to_owned(),
            file_system,
            disk: Arc::new(PowerDisk::open(&medium, file_system.needs_whole())?),
            agent,
            forwards,
            starts: AtomicU32::new(0),
            running: Mutex::default(),
        })
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &Arc<PowerDisk> {
        &self.disk
    }

    /// The power of the present run.
    ///
    /// # Errors
    /// When it does not run.
    pub fn switch(&self) -> Result<Arc<Switch>> {
        let running = lock(&self.running);
        let running = running.as_ref();
        Ok(Arc::clone(
            &running
                .with_context(|| format!("{} does not run", self.name))?
                .switch,
        ))
    }

    /// Starts it and returns at once. The machine ends with the thread that calls this, if not before.
    ///
    /// # Errors
    /// When qemu cannot be started.
    pub fn power_on(&self) -> Result<()> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let socket = self.world.file(&format!("{}-{start}.disk", self.name));
        let server = DiskServer::start(&self.disk, &socket)?;
        let switch = Switch::on();
        self.disk.plug_in(&switch);
        let process = self.world.spawn(&self.name, &mut self.command(&socket))?;
        *lock(&self.running) = Some(Running {
            process,
            switch,
            _server: server,
        });
        Ok(())
    }

    /// Waits until the agent answers. The disk is not mounted yet.
    ///
    /// # Errors
    /// When the machine ends or hangs instead.
    pub fn wait_booted(&self) -> Result<()> {
        let process = {
            let running = lock(&self.running);
            let running = running.as_ref().context("its power is on")?;
            Arc::clone(&running.process)
        };
        self.agent.wait_booted(&process)
    }

    /// Mounts the disk at `/data`.
    ///
    /// # Errors
    /// When the kernel refuses: the file system did not survive.
    pub fn mount(&self) -> Result<()> {
        let name = self.file_system.name();
        self.run(&format!("load {name} && mount -t {name} /dev/vda /data"))
            .map(drop)
    }

    /// What this run has printed so far: the kernel's errors and the unit's log.
    #[must_use]
    pub fn log_text(&self) -> String {
        let running = lock(&self.running);
        running
            .as_ref()
            .map(|running| running.process.log_text())
            .unwrap_or_default()
    }

    /// Waits until the power is off, as planned with its switch.
    ///
    /// # Errors
    /// When it stays on for too long.
    pub fn wait_power_off(&self) -> Result<()> {
        let switch = self.switch()?;
        wait_until(
            &format!("the power of {} to go off", self.name),
            limits::POWER_CUT,
            || Ok(Seen::when(switch.is_off(), || format!("{switch:?}"))),
        )
    }

    /// Ends the machine, whose power goes off now if it is not off yet, and decides what is left on its disk.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn lose_power(&self, fate: Fate, random: &mut Random) -> Result<Survived> {
        self.switch()?.off_now();
        let ended = lock(&self.running).take();
        ended.context("it runs")?.process.kill9()?;
        self.disk.settle(fate, random)
    }

    /// Runs a line of shell in the machine and returns what it printed.
    ///
    /// # Errors
    /// When the agent does not answer, or the exit code is not 0.
    pub fn run(&self, command: &str) -> Result<String> {
        self.agent.run(command)
    }

    /// Copies a file of the machine to the host.
    ///
    /// # Errors
    /// When it is not there or has another size.
    pub fn copy_out(&self, path: &str, size_bytes: u64, to: &str) -> Result<PathBuf> {
        let bytes = self
            .agent
            .ask(&format!("exec dd if={path} bs=256k status=none"))?;
        if bytes.len() as u64 != size_bytes {
            let shown = String::from_utf8_lossy(bytes.get(..bytes.len().min(200)).unwrap_or_default());
            bail!(
                "{path} has {} bytes instead of {size_bytes}: {shown}",
                bytes.len()
            );
        }
        let copy = self.world.file(to);
        std::fs::write(&copy, bytes)?;
        Ok(copy)
    }

    fn command(&self, socket: &std::path::Path) -> Command {
        let disk = format!(
            "driver=nbd,node-name=disk,server.type=unix,server.path={},export=disk",
            socket.display()
        );
        let mut command = qemu(self.kit, MEMORY_MIB, &self.forwards);
        command.args([
            "-blockdev",
            &disk,
            "-device",
            "virtio-blk-pci,drive=disk,write-cache=on",
        ]);
        command
    }
}
