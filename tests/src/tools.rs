//! Running stock tools: bounded in time, output kept, a missing one is a printed skip.

use crate::limits;
use crate::skip::skip;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a finished tool left.
#[derive(Debug)]
pub struct Done {
    /// The exit code; 124 or 137 when it was ended for taking too long.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    shown: String,
}

impl Done {
    /// Refuses any exit code but 0.
    ///
    /// # Errors
    /// With the command, the code and the output.
    pub fn success(self) -> Result<Self> {
        if self.code != 0 {
            bail!("{}", self.describe());
        }
        Ok(self)
    }

    /// Refuses exit code 0, and a kill by the time limit.
    ///
    /// # Errors
    /// With the command, the code and the output.
    pub fn failure(self) -> Result<Self> {
        if matches!(self.code, 0 | 124 | 137) {
            bail!("should have failed by itself: {}", self.describe());
        }
        Ok(self)
    }

    /// Both outputs together.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    fn describe(&self) -> String {
        let late = if matches!(self.code, 124 | 137) {
            " (ended: it took too long)"
        } else {
            ""
        };
        format!(
            "`{}` ended with {}{late}\n{}{}",
            self.shown, self.code, self.stdout, self.stderr
        )
    }
}

/// A tool to run.
#[derive(Debug)]
pub struct Tool {
    program: String,
    args: Vec<String>,
    limit: Duration,
    directory: Option<PathBuf>,
}

impl Tool {
    /// A tool by name or path.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            limit: limits::TOOL,
            directory: None,
        }
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// One argument that is a path.
    #[must_use]
    pub fn path(mut self, path: &Path) -> Self {
        self.args.push(path.to_string_lossy().into_owned());
        self
    }

    /// Another time limit than the usual one.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The directory to run in.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// The command with its time limit, for running it in the background.
    ///
    /// # Errors
    /// A skip when the tool is not installed.
    pub fn command(&self) -> Result<Command> {
        need(&self.program)?;
        let seconds = self.limit.as_secs().max(1).to_string();
        let mut command = Command::new("timeout");
        command
            .args(["-k", "2", &seconds, &self.program])
            .args(&self.args)
            .env("LC_ALL", "C");
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        Ok(command)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// A skip when the tool is not installed; an error when it cannot be started.
    pub fn run(&self) -> Result<Done> {
        let mut command = self.command()?;
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program))?;
        Ok(Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            shown: format!("{} {}", self.program, self.args.join(" ")),
        })
    }

    /// Runs it and refuses any exit code but 0.
    ///
    /// # Errors
    /// As `run` and `Done::success`.
    pub fn ok(&self) -> Result<Done> {
        self.run()?.success()
    }
}

/// Looks for a tool in the search path.
///
/// # Errors
/// A skip with the name of what is missing.
pub fn need(program: &str) -> Result<()> {
    let direct = program.contains('/') && Path::new(program).exists();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut places =
        std::env::split_paths(&search).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    if direct || places.any(|place| place.join(program).is_file()) {
        return Ok(());
    }
    Err(skip(format!("{program} is not installed")))
}
