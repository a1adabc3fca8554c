//! Finds the control socket of a running unit, and lets a running unit be found.
//!
//! A unit puts a symbolic link to its socket into a directory of its user; only sockets that answer count, and
//! links that lead nowhere any more are removed by whoever looks.

use super::exit::{CliError, Exit};
use super::{limits, output};
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const DEFAULTS: [&str; 3] = [
    "control.sock",
    "farside-data/control.sock",
    "/run/farside/control.sock",
];

/// The socket to use: the one named, or the one unit that answers.
pub(super) fn socket(named: Option<PathBuf>) -> Result<PathBuf, CliError> {
    if let Some(named) = named {
        return Ok(named);
    }
    let defaults = DEFAULTS.iter().map(PathBuf::from).collect::<Vec<_>>();
    if let Some(found) = defaults.iter().find(|path| is_there(path)) {
        return Ok(found.clone());
    }
    let mut answering = announced().into_iter();
    match (answering.next(), answering.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => Err(CliError::new(
            Exit::Usage,
            format!(
                "several units are running: choose one with --socket {} or {} or others",
                output::shell_word(&one),
                output::shell_word(&other)
            ),
        )),
        (None, _) => {
            let looked = DEFAULTS.join(", ");
            let message = format!(
                "no unit is running here: nobody answers at {looked}; start one with 'farside up ./farside-data', or \
                 name the control socket of a running one with --socket"
            );
            Err(CliError::new(Exit::Unreachable, message))
        }
    }
}

/// Whether a unit answers, or would if its owner asked: in that case the client says so.
fn is_there(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

/// The sockets of this user's units that answer. What a unit that was killed left behind is cleared away.
fn announced() -> BTreeSet<PathBuf> {
    let entries = directory().and_then(|directory| std::fs::read_dir(directory).ok());
    let links = entries.into_iter().flatten().flatten();
    links
        .filter_map(|entry| {
            let socket = std::fs::read_link(entry.path()).ok()?;
            if is_there(&socket) {
                return Some(socket);
            }
            // Gone already is as good.
            std::fs::remove_file(entry.path()).ok();
            None
        })
        .take(limits::ANNOUNCED_UNITS)
        .collect()
}

/// Where this user's units are listed; only that user can write there.
fn directory() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR") {
        return Some(PathBuf::from(directory).join("farside"));
    }
    let user = rustix::process::getuid();
    if user.is_root() {
        return Some(PathBuf::from("/run/farside/units"));
    }
    let runtime = PathBuf::from(format!("/run/user/{}", user.as_raw()));
    runtime.is_dir().then(|| runtime.join("farside"))
}

/// A running unit's entry, taken away when dropped.
#[derive(Debug)]
pub(super) struct Announcement(Option<PathBuf>);

impl Announcement {
    /// Lists a unit. Failing to do so is no harm: `--socket` still works.
    pub(super) fn new(uuid: &str, socket: &Path) -> Self {
        let made = directory().and_then(|directory| {
            std::fs::create_dir_all(&directory).ok()?;
            let link = directory.join(uuid);
            std::fs::remove_file(&link).ok();
            std::os::unix::fs::symlink(socket, &link).ok()?;
            Some(link)
        });
        Self(made)
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            // Gone already is as good.
            std::fs::remove_file(link).ok();
        }
    }
}
