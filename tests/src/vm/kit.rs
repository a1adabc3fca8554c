//! What a machine boots: a kernel that is fetched once, and an archive with the binary under test.

use crate::binary::farside;
use crate::limits;
use crate::skip::skip;
use crate::tools::{Tool, need};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Files a machine boots from.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The kernel.
    pub kernel: PathBuf,
    /// The archive with everything the machine runs.
    pub archive: PathBuf,
}

impl Kit {
    /// The files, made at the first call of a test program.
    ///
    /// # Errors
    /// A skip when there is no qemu for this processor, or no kernel can be fetched; an error when packing fails.
    pub fn ready() -> Result<&'static Self> {
        static READY: OnceLock<Result<Kit, Missing>> = OnceLock::new();
        if std::env::consts::ARCH != "x86_64" {
            return Err(skip("virtual machines are for x86-64 only here"));
        }
        for program in ["qemu-system-x86_64", "busybox", "cpio", "modprobe"] {
            need(program)?;
        }
        match READY.get_or_init(prepare) {
            Ok(kit) => Ok(kit),
            Err(Missing::Kernel(reason)) => Err(skip(format!("no kernel for a virtual machine: {reason}"))),
            Err(Missing::Archive(reason)) => bail!("the archive cannot be packed: {reason}"),
        }
    }
}

/// Why there are no files to boot from.
enum Missing {
    Kernel(String),
    Archive(String),
}

fn prepare() -> Result<Kit, Missing> {
    let archive_failed = |error: anyhow::Error| Missing::Archive(format!("{error:#}"));
    let directory = directory().map_err(archive_failed)?;
    let tree = directory.join("kernel");
    let fetched = Tool::new(&script("kernel.sh"))
        .path(&tree)
        .limit(limits::KERNEL)
        .run();
    let fetched = fetched.map_err(|error| Missing::Kernel(format!("{error:#}")))?;
    if fetched.code != 0 {
        let reason = fetched.stderr.trim().lines().last().unwrap_or("no reason given");
        return Err(Missing::Kernel(reason.to_owned()));
    }
    let archive = directory.join(format!("initramfs-{}.cpio", std::process::id()));
    let packed = farside().and_then(|binary| {
        let tool = Tool::new(&script("initramfs.sh")).path(&tree);
        tool.path(binary).path(&archive).ok()
    });
    packed.map_err(archive_failed)?;
    Ok(Kit {
        kernel: tree.join("vmlinuz"),
        archive,
    })
}

fn script(name: &str) -> String {
    format!("{}/vm/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// `target/vm`, which lasts from run to run.
fn directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(3)
        .context("a test program lies in target/PROFILE/deps")?;
    let directory = target.join("vm");
    std::fs::create_dir_all(&directory)?;
    remove_old_archives(&directory);
    Ok(directory)
}

/// Archives of test programs that have ended.
fn remove_old_archives(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name
            .strip_prefix("initramfs-")
            .and_then(|rest| rest.split('.').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            // What another program removes at the same time is gone all the same.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
