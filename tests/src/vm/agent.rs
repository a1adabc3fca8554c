//! What all machines have: an emulated processor, a network, and an agent inside that runs commands.

use super::Kit;
use crate::clock::{Seen, wait_until};
use crate::limits;
use crate::ports::free_address;
use crate::process::Process;
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// The port of the agent in every machine.
pub(super) const AGENT_PORT: u16 = 7000;
/// What `tests/vm/init.sh` prints when the network is up.
const UP: &str = "up after ";
/// Half of a start is what these leave out: an emulated processor is slow, and nobody attacks the machine.
const KERNEL_OPTIONS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check lsm= audit=0 nokaslr";

/// The command that starts a machine. `forwards` leads from addresses of the host to ports of the machine.
pub(super) fn qemu(kit: &Kit, memory_mib: u32, forwards: &[(SocketAddr, u16)]) -> Command {
    let mut network = "user,id=net".to_owned();
    for (address, port) in forwards {
        network.push_str(&format!(",hostfwd=tcp:{address}-:{port}"));
    }
    let memory = memory_mib.to_string();
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", &memory])
        .args(["-nodefaults", "-no-reboot", "-display", "none"])
        .args(["-serial", "stdio", "-append", KERNEL_OPTIONS])
        .args(["-netdev", &network])
        .args(["-device", "virtio-net-pci,netdev=net,romfile="])
        .arg("-kernel")
        .arg(&kit.kernel)
        .arg("-initrd")
        .arg(&kit.archive);
    command
}

/// The agent of one machine.
#[derive(Debug)]
pub(super) struct Agent {
    name: String,
    /// Where it is reached.
    pub(super) address: SocketAddr,
}

impl Agent {
    pub(super) fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            address: free_address()?,
        })
    }

    /// Waits until it answers.
    pub(super) fn wait_booted(&self, process: &Process) -> Result<()> {
        wait_until(&format!("machine {} to boot", self.name), limits::BOOT, || {
            if let Some(status) = process.exit_status()? {
                bail!(
                    "machine {} ended with {status}:\n{}",
                    self.name,
                    process.log_tail(20)
                );
            }
            // A connection to a machine whose network is not up yet would wait for seconds, so it comes last.
            if !process.log_text().contains(UP) {
                return Ok(Seen::NotYet(process.log_tail(1)));
            }
            Ok(match self.run("true") {
                Ok(_) => Seen::Yes,
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Runs a line of shell in the machine and returns what it printed.
    ///
    /// # Errors
    /// When the agent does not answer, or the exit code is not 0.
    pub(super) fn run(&self, command: &str) -> Result<String> {
        let answer = self.ask(&format!("( {command} ); printf '\\nexit %s' $?"))?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        match answer.rsplit_once("\nexit ") {
            Some((output, "0")) => Ok(output.to_owned()),
            Some((output, code)) => bail!("{}: `{command}` ended with {code}: {output}", self.name),
            None => bail!("{} gave no answer to `{command}`: {answer}", self.name),
        }
    }

    /// The bytes that a line of shell prints.
    pub(super) fn ask(&self, line: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, limits::STATUS)?;
        stream.set_read_timeout(Some(limits::GUEST_COMMAND))?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        read.with_context(|| format!("no answer to `{line}`"))?;
        Ok(answer)
    }
}
