//! A virtual machine that is a host: its kernel attaches disks that are served outside of it.

use super::Kit;
use super::agent::{AGENT_PORT, Agent, qemu};
use crate::World;
use crate::process::Process;
use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;

/// Memory in MiB.
const MEMORY_MIB: u32 = 640;

/// A host with a kernel of its own.
#[derive(Debug)]
pub struct Guest {
    agent: Agent,
    process: Arc<Process>,
}

impl Guest {
    /// Boots it. It ends with the thread that calls this.
    ///
    /// # Errors
    /// A skip when there is nothing to boot; an error when it does not boot.
    pub fn boot(world: &World, name: &str) -> Result<Self> {
        let kit = Kit::of_a_host()?;
        let agent = Agent::new(name)?;
        let forwards = [(agent.address, AGENT_PORT)];
        let process = world.spawn(name, &mut qemu(kit, MEMORY_MIB, &forwards))?;
        agent.wait_booted(&process)?;
        Ok(Self { agent, process })
    }

    /// Leads its own loopback at the port of `server` there, so that commands are the same in it and outside.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn reach(&self, server: SocketAddr) -> Result<()> {
        let port = server.port();
        self.run(&format!(
            "nc -ll -p {port} -e nc 10.0.2.2 {port} >/dev/null 2>&1 </dev/null & sleep 1"
        ))
        .map(drop)
    }

    /// Runs a line of shell and returns what it printed.
    ///
    /// # Errors
    /// When the agent does not answer in time, or the exit code is not 0.
    pub fn run(&self, command: &str) -> Result<String> {
        self.agent.run(command)
    }

    /// What its kernel has printed.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }
}
