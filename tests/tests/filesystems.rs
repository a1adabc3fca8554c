//! The kernel's file systems live on the disk, and the replica mounts with the same files.

use anyhow::{Context as _, Result, ensure};
use farside_tests::mounts::{FuseFile, LoopDevice, Mount, need_root_and};
use farside_tests::tools::{Tool, need};
use farside_tests::units::{Pair, Sizes};
use farside_tests::{Random, World, promise, soak};
use std::path::Path;

/// mkfs.xfs asks for 300 MiB.
const SIZES: Sizes = Sizes {
    disk_mib: 320,
    journal_mib: 64,
};

/// Directories, small and large files, an overwrite in the middle, links, and something deleted.
fn write_files(world: &World, root: &Path) -> Result<()> {
    let mut random = Random::new(world.seed());
    for directory in 0..soak(5, 40) {
        let path = root.join(format!("directory-{directory}"));
        std::fs::create_dir(&path)?;
        for file in 0..20 {
            let length = usize::try_from(random.below(40_000))?;
            std::fs::write(path.join(format!("file-{file}")), random.bytes(length))?;
        }
        std::fs::hard_link(path.join("file-1"), path.join("link"))?;
        std::fs::remove_file(path.join("file-2"))?;
    }
    let large = root.join("large");
    std::fs::write(&large, random.bytes(12 << 20))?;
    use std::os::unix::fs::FileExt as _;
    std::fs::File::options()
        .write(true)
        .open(&large)?
        .write_all_at(&random.bytes(100_000), 5_000_001)?;
    Ok(())
}

/// Name and SHA-256 of every file, sorted.
fn digests(root: &Path) -> Result<String> {
    let script = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
    Ok(Tool::new("sh").args(["-c", script]).directory(root).ok()?.stdout)
}

fn check_file_system(kind: &str, device: &Path) -> Result<()> {
    match kind {
        "ext4" => Tool::new("e2fsck").args(["-fn"]).path(device).ok().map(drop),
        _ => Tool::new("xfs_repair").args(["-n"]).path(device).ok().map(drop),
    }
}

fn file_system_lives_on_both_sides(world: &World, kind: &str, connections: u32) -> Result<()> {
    need_root_and(&["/dev/fuse", "/dev/loop-control"])?;
    let maker = format!("mkfs.{kind}");
    need(&maker)?;
    let pair = Pair::start(world, SIZES)?;
    let shown = FuseFile::show(world, &pair.uri(), connections)?;
    let device = LoopDevice::attach(shown.path(), &["--direct-io=on"])?;
    let force = if kind == "ext4" { "-F" } else { "-f" };
    Tool::new(&maker).args([force, "-q"]).path(device.path()).ok()?;

    let mount = Mount::device(device.path(), &world.file("mounted"), "noatime")?;
    write_files(world, mount.path())?;
    let written = digests(mount.path())?;
    ensure!(written.lines().count() > 50, "too few files: {written}");
    mount.unmount().context("after writing")?;
    check_file_system(kind, device.path()).context("the disk")?;

    // Read again from the disk, not from the kernel's memory.
    let mount = Mount::device(device.path(), &world.file("mounted"), "ro")?;
    ensure!(digests(mount.path())? == written, "files changed over a mount");
    mount.unmount()?;
    drop(device);
    shown.detach()?;

    pair.expect_same_on_both_sides()?;
    pair.unit.shut_down()?;
    let device = LoopDevice::attach(&pair.replica(), &["--read-only"])?;
    check_file_system(kind, device.path()).context("the replica")?;
    let options = if kind == "ext4" {
        "ro,noload"
    } else {
        "ro,norecovery"
    };
    let mount = Mount::device(device.path(), &world.file("replica-mounted"), options)?;
    ensure!(digests(mount.path())? == written, "the replica has other files");
    mount.unmount()
}

#[test]
fn ext4_lives_on_the_disk_and_mounts_from_the_replica() {
    promise(|world| file_system_lives_on_both_sides(world, "ext4", 1));
}

#[test]
fn ext4_on_four_connections_lives_on_the_disk_and_mounts_from_the_replica() {
    promise(|world| file_system_lives_on_both_sides(world, "ext4", 4));
}

#[test]
fn xfs_lives_on_the_disk_and_mounts_from_the_replica() {
    promise(|world| file_system_lives_on_both_sides(world, "xfs", 1));
}
