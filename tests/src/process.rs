//! One child process: its output goes to a file, it is ended when its owner goes, and it is killed by pid only.

use crate::clock::{Seen, now, wait_until};
use crate::limits;
use crate::world::lock;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// A running or ended child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    pid: u32,
    child: Mutex<Child>,
}

impl Process {
    /// Starts a command with its output in `log`. A test program that is killed takes the child with it.
    pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut tied = tied_to_parent(command);
        tied.stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = tied
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            pid: child.id(),
            child: Mutex::new(child),
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its end, if it has ended.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        Ok(lock(&self.child).try_wait()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = lock(&self.child);
        if let Some(status) = child.try_wait()? {
            bail!(
                "{} should be running and has ended: {status}\n{}",
                self.name,
                self.log_tail(limits::LOG_TAIL_LINES)
            );
        }
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id that is none")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// When it had already ended by itself: that is a finding, not a success.
    pub fn kill9(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        lock(&self.child).wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time, or had already ended.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_end(limits::STOP)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_end(&self, limit: Duration) -> Result<ExitStatus> {
        let start = now();
        wait_until(&format!("the end of {}", self.name), limit, || {
            Ok(Seen::when(self.exit_status()?.is_some(), || {
                format!("still running after {:?}", start.elapsed())
            }))
        })?;
        self.exit_status()?.context("it has just ended")
    }

    /// All it has written so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines it has written.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// The number of open file descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS line")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    pub(crate) fn describe(&self) -> String {
        let state = match self.exit_status() {
            Ok(Some(status)) => format!("ended: {status}"),
            _ => "running".to_owned(),
        };
        format!("{} (pid {}, {state}), end of its output:", self.name, self.pid)
    }

    /// Ends it, running or not, before the files below it are taken away.
    pub fn end_for_test(&self) {
        self.end_now();
    }

    pub(crate) fn end_now(&self) {
        let mut child = lock(&self.child);
        if matches!(child.try_wait(), Ok(None)) {
            // Nothing is left to do about a child that cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// The same command under `setpriv --pdeathsig`, which keeps the process id: no child outlives a killed test program.
fn tied_to_parent(command: &Command) -> Command {
    let mut tied = if Path::new("/usr/bin/setpriv").exists() {
        let mut tied = Command::new("/usr/bin/setpriv");
        tied.args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program());
        tied
    } else {
        Command::new(command.get_program())
    };
    tied.args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        tied.current_dir(directory);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(key, value),
            None => tied.env_remove(key),
        };
    }
    tied
}
