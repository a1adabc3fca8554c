//! Runs the real binary in a directory of its own.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A directory with nothing in it, and the binary in an environment where no other unit is found.
pub(crate) struct World {
    directory: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A unit that dies with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// The exit code, waited for.
    pub(crate) fn end(&mut self) -> Option<i32> {
        for _ in 0..400 {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("still running after 20 s");
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farside"));
        command
            .current_dir(self.directory.path())
            .env("XDG_RUNTIME_DIR", self.path("run"));
        command
            .env_remove("FARSIDE_SOCKET")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command().args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said {
            code: status.code(),
            out: text(stdout),
            err: text(stderr),
        }
    }

    /// `farside up data` on ports of the system's choice, ready to be asked.
    pub(crate) fn up(&self) -> Running {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let args = [
            "--size",
            "8M",
            "--journal",
            "16M",
            "--nbd",
            "127.0.0.1:0",
            "--link",
            "127.0.0.1:0",
        ];
        let mut command = self.command();
        command
            .args(["up", "data"])
            .args(args)
            .args(["--console", "127.0.0.1:0"]);
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut running = Running(child);
        for _ in 0..400 {
            let said = self.run(&["--socket", "data/control.sock", "volume", "list"]);
            if said.code == Some(0) && !said.out.contains("starting") {
                return running;
            }
            assert!(running.0.try_wait().unwrap().is_none(), "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the unit does not answer: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let said = self.run(&["--socket", "data/control.sock", "status", "--json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// Asks until `accept` likes the status.
    pub(crate) fn status_when(&self, accept: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        for _ in 0..400 {
            let status = self.status();
            if accept(&status) {
                return status;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("never so: {:#}", self.status());
    }
}

pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
