//! Kernel helpers of the file system tests: small file systems, loop devices, nbdfuse. Each guard undoes itself.
//!
//! Everything here needs root; without it the test is skipped with that reason.

use crate::World;
use crate::clock::{Seen, wait_until};
use crate::limits;
use crate::process::Process;
use crate::skip::skip;
use crate::tools::{Tool, need};
use anyhow::Result;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Refuses to go on without root and these devices.
///
/// # Errors
/// A skip that says what is missing.
pub fn need_root_and(devices: &[&str]) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(skip("mounting needs root"));
    }
    match devices.iter().find(|device| !Path::new(device).exists()) {
        Some(missing) => Err(skip(format!("this kernel has no {missing}"))),
        None => Ok(()),
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Mounts `source` (a device) at `path`, which is made.
    ///
    /// # Errors
    /// When the kernel refuses, with what `mount` said.
    pub fn device(source: &Path, path: &Path, options: &str) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        Tool::new("mount")
            .args(["-o", options])
            .path(source)
            .path(path)
            .ok()?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// A file system in memory that can hold `size_bytes`.
    ///
    /// # Errors
    /// When the kernel refuses, with what `mount` said.
    pub fn memory(path: &Path, size_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let options = format!("size={size_bytes}");
        Tool::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .path(path)
            .ok()?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it, and says if that fails.
    ///
    /// # Errors
    /// With what `umount` said.
    pub fn unmount(self) -> Result<()> {
        // A program that another test is just starting holds what this process has open until it runs.
        wait_until("the file system to be free", limits::STOP, || {
            let done = Tool::new("umount").path(&self.path).run()?;
            Ok(Seen::when(done.code == 0, || done.output()))
        })?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, so that a failed test leaves nothing behind even if a file is still open.
        let _ = Tool::new("umount").args(["-l"]).path(&self.path).run();
    }
}

/// A loop device over a file.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a file; `options` as `losetup` takes them.
    ///
    /// # Errors
    /// When the kernel refuses, with what `losetup` said.
    pub fn attach(file: &Path, options: &[&str]) -> Result<Self> {
        let done = Tool::new("losetup")
            .args(["-f", "--show"])
            .args(options)
            .path(file)
            .ok()?;
        Ok(Self {
            path: PathBuf::from(done.stdout.trim()),
        })
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Tool::new("losetup").args(["-d"]).path(&self.path).run();
    }
}

/// An NBD export shown as a file by nbdfuse.
#[derive(Debug)]
pub struct FuseFile {
    path: PathBuf,
    process: Arc<Process>,
}

impl FuseFile {
    /// Shows the export at a file of the world's directory.
    ///
    /// # Errors
    /// A skip without nbdfuse; an error when it does not come up.
    pub fn show(world: &World, uri: &str, connections: u32) -> Result<Self> {
        Self::show_as(world, "attached", uri, connections)
    }

    /// The same at a file of that name.
    ///
    /// # Errors
    /// As `show`.
    pub fn show_as(world: &World, name: &str, uri: &str, connections: u32) -> Result<Self> {
        need("nbdfuse")?;
        let path = world.file(name);
        File::create(&path)?;
        let mut command = std::process::Command::new("nbdfuse");
        command.arg("-C").arg(connections.to_string()).arg(&path).arg(uri);
        let process = world.spawn("nbdfuse", &mut command)?;
        wait_until("nbdfuse to show the export", limits::START, || {
            if let Some(status) = process.exit_status()? {
                anyhow::bail!("nbdfuse ended with {status}");
            }
            Ok(Seen::when(std::fs::metadata(&path)?.len() > 0, || {
                "an empty file".to_owned()
            }))
        })?;
        Ok(Self { path, process })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away and waits until the server was told.
    ///
    /// # Errors
    /// When it is still in use.
    pub fn detach(self) -> Result<()> {
        wait_until("nbdfuse to be free", limits::STOP, || {
            let done = Tool::new("umount").path(&self.path).run()?;
            Ok(Seen::when(done.code == 0, || done.output()))
        })?;
        self.process.wait_end(limits::STOP)?;
        Ok(())
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        if matches!(self.process.exit_status(), Ok(None)) {
            let _ = Tool::new("umount").args(["-l"]).path(&self.path).run();
        }
    }
}
