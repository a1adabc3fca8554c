//! The world one test lives in: a directory that goes away, processes that end, a seed, and what to show on failure.

use crate::{binary, clock, limits, process::Process, skip, skip::Skipped, tools};
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one test owns. Everything in it is ended and removed when the test is over.
#[derive(Debug)]
pub struct World {
    name: String,
    seed: u64,
    processes: Mutex<Vec<Arc<Process>>>,
    control_sockets: Mutex<Vec<PathBuf>>,
    // Last, so that processes are gone before their files are.
    directory: tempfile::TempDir,
}

/// Locks, also after a panic elsewhere: the helpers keep no invariant across a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test in its own world; a skip is printed, a failure is shown with logs, status and how to repeat it.
///
/// # Panics
/// When the body fails, which is how a test fails.
pub fn promise(body: impl FnOnce(&World) -> Result<()>) {
    let world = World::new().expect("a temporary directory can be made, or no test can run");
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&world)));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => match error.downcast_ref::<Skipped>() {
            Some(Skipped(reason)) => skip::record(&world.name, reason),
            None => panic!("{}\n{}", render(&error), world.evidence()),
        },
        Err(payload) => {
            let evidence = world.evidence();
            #[allow(
                clippy::print_stderr,
                reason = "the panic's own message is already out; this belongs below it"
            )]
            {
                eprintln!("{evidence}");
            }
            resume_unwind(payload)
        }
    }
}

fn render(error: &anyhow::Error) -> String {
    format!("the promise was broken: {error:#}")
}

impl World {
    fn new() -> Result<Self> {
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let seed = match std::env::var("FARSIDE_SEED") {
            Ok(text) => text.parse().context("FARSIDE_SEED is no number")?,
            Err(_) => clock::fresh_seed(),
        };
        let parent = std::env::var_os("FARSIDE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = tempfile::Builder::new()
            .prefix("farside-test.")
            .tempdir_in(parent)?;
        Ok(Self {
            name,
            seed,
            processes: Mutex::default(),
            control_sockets: Mutex::default(),
            directory,
        })
    }

    /// The directory of this test.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the directory of this test.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The seed of this run; print it nowhere, a failure does.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts a process whose output goes to a file that is shown if the test fails.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Arc<Process>> {
        let mut processes = lock(&self.processes);
        let log = self.file(&format!("{:03}-{name}.log", processes.len()));
        let process = Arc::new(Process::spawn(name, command, &log)?);
        processes.push(Arc::clone(&process));
        Ok(process)
    }

    /// A control socket to ask for a status if the test fails.
    pub(crate) fn watch_socket(&self, socket: &Path) {
        lock(&self.control_sockets).push(socket.to_owned());
    }

    fn replay_command(&self) -> String {
        let program = std::env::current_exe().unwrap_or_default();
        let stem = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let test = stem.rsplit_once('-').map_or(stem.as_str(), |(test, _)| test);
        let long = if clock::long_run() { "FARSIDE_SOAK=1 " } else { "" };
        let target = if test == "farside_tests" {
            "--lib".to_owned()
        } else {
            format!("--test {test}")
        };
        let seed = self.seed;
        format!(
            "{long}FARSIDE_SEED={seed} cargo test -p farside-tests {target} -- --exact {} --nocapture",
            self.name
        )
    }

    fn evidence(&self) -> String {
        let mut text = format!("run it again: {}\n", self.replay_command());
        for socket in lock(&self.control_sockets)
            .iter()
            .filter(|socket| socket.exists())
        {
            let seen = last_status(socket);
            let _ = writeln!(text, "--- status at {}\n{seen}", socket.display());
        }
        for process in lock(&self.processes).iter() {
            let _ = writeln!(
                text,
                "--- {}\n{}",
                process.describe(),
                process.log_tail(limits::LOG_TAIL_LINES)
            );
        }
        text
    }
}

fn last_status(socket: &Path) -> String {
    let Ok(farside) = binary::farside() else {
        return "the binary is missing".to_owned();
    };
    let farside = farside.to_string_lossy();
    let socket = socket.to_string_lossy();
    let run = tools::Tool::new(&farside)
        .args(["status", "--json", "--socket", &socket])
        .limit(limits::STATUS)
        .run();
    match run {
        Ok(done) => format!("{}{}", done.stdout, done.stderr),
        Err(error) => format!("no status: {error:#}"),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in lock(&self.processes).iter() {
            process.end_now();
        }
        if std::env::var_os("FARSIDE_KEEP").is_some() {
            self.directory.disable_cleanup(true);
        }
    }
}
