//! What a machine boots: a kernel that is fetched once, and an archive with what it is to run.

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
    /// The files of a machine that runs units, made at the first call of a test program.
    ///
    /// # Errors
    /// A skip when there is no qemu for this processor, or no kernel can be fetched; an error when packing fails.
    pub fn ready() -> Result<&'static Self> {
        static READY: OnceLock<Result<Kit, Missing>> = OnceLock::new();
        Self::in_place(&READY, &UNITS, || Ok(vec![farside()?.to_path_buf()]))
    }

    /// The same of a machine that is a host: a kernel's own initiators and file systems.
    ///
    /// # Errors
    /// As [`ready`](Self::ready), and a skip when one of its programs is not installed.
    pub fn of_a_host() -> Result<&'static Self> {
        static READY: OnceLock<Result<Kit, Missing>> = OnceLock::new();
        HOST_PROGRAMS.into_iter().try_for_each(need)?;
        Self::in_place(&READY, &HOSTS, || {
            HOST_PROGRAMS.into_iter().map(find_program).collect()
        })
    }

    fn in_place(
        place: &'static OnceLock<Result<Self, Missing>>,
        content: &Content,
        programs: impl FnOnce() -> Result<Vec<PathBuf>>,
    ) -> Result<&'static Self> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(skip("virtual machines are for x86-64 only here"));
        }
        for program in ["qemu-system-x86_64", "busybox", "cpio", "modprobe"] {
            need(program)?;
        }
        match place.get_or_init(|| prepare(content, programs)) {
            Ok(kit) => Ok(kit),
            Err(Missing::Kernel(reason)) => Err(skip(format!("no kernel for a virtual machine: {reason}"))),
            Err(Missing::Archive(reason)) => bail!("the archive cannot be packed: {reason}"),
        }
    }
}

/// What is in an archive beside busybox.
struct Content {
    name: &'static str,
    modules: &'static str,
}

const UNITS: Content = Content {
    name: "units",
    modules: "virtio_pci virtio_net virtio_blk ext4 xfs",
};
const HOSTS: Content = Content {
    name: "hosts",
    modules: "virtio_pci virtio_net ext4 xfs nbd iscsi_tcp sd_mod crc32c_generic",
};
const HOST_PROGRAMS: [&str; 10] = [
    "iscsid",
    "iscsiadm",
    "nbd-client",
    "mkfs.ext4",
    "e2fsck",
    "resize2fs",
    "mkfs.xfs",
    "xfs_repair",
    "xfs_growfs",
    "fstrim",
];

fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let mut candidates = directories.map(|directory| Path::new(directory).join(name));
    let found = candidates.find(|candidate| candidate.is_file());
    found.with_context(|| format!("{name} is nowhere in {path}"))
}

/// Why there are no files to boot from.
enum Missing {
    Kernel(String),
    Archive(String),
}

fn prepare(content: &Content, programs: impl FnOnce() -> Result<Vec<PathBuf>>) -> Result<Kit, Missing> {
    let failed = |error: anyhow::Error| Missing::Archive(format!("{error:#}"));
    let directory = directory().map_err(failed)?;
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
    let name = format!("initramfs-{}.{}.cpio", std::process::id(), content.name);
    let archive = directory.join(name);
    let pack = Tool::new(&script("initramfs.sh")).path(&tree).path(&archive);
    let pack = pack.args([content.modules]);
    let programs = programs().map_err(failed)?;
    let packed = programs.iter().fold(pack, |pack, program| pack.path(program));
    packed.ok().map_err(failed)?;
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
