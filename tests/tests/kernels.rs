//! Hosts with a kernel of their own: file systems live on the disk through crashes and restarts of the unit, whatever the disk
//! is attached with, and the replica is a disk that a kernel mounts.

use anyhow::{Context as _, Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::ports::free_address;
use farside_tests::process::Process;
use farside_tests::tools::need;
use farside_tests::units::{Pair, Sizes, VOLUME};
use farside_tests::vm::Guest;
use farside_tests::{World, limits, promise};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Two partitions; xfs wants 300 MiB.
const SIZES: Sizes = Sizes {
    disk_mib: 400,
    journal_mib: 128,
};
const PARTITIONS: &str = "o\\nn\\np\\n1\\n2048\\n133119\\nn\\np\\n2\\n133120\\n\\nw\\n";
/// The port that attach-help gives to nbdkit.
const EXAMPLE_PORT: &str = "10909";

/// One test at a time: a machine keeps a processor busy.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The commands that `farside attach-help` prints for a client.
fn recipe(pair: &Pair<'_>, client: &str) -> Result<Vec<String>> {
    let text = pair.unit.command(&["attach-help", VOLUME, "--json"])?.stdout;
    let help: serde_json::Value = serde_json::from_str(&text)?;
    let mut recipes = help.as_array().context("a list")?.iter();
    let found = recipes.find(|recipe| {
        recipe["client"]
            .as_str()
            .is_some_and(|name| name.contains(client))
    });
    let commands = found.with_context(|| format!("{client} in {text}"))?["commands"].as_array();
    let words = commands.context("commands")?.iter();
    words
        .map(|command| Ok(command.as_str().context("a command")?.to_owned()))
        .collect()
}

/// Waits for a device of the guest.
fn wait_device(guest: &Guest, device: &str) -> Result<()> {
    wait_until(&format!("{device} in the guest"), limits::TOOL, || {
        let there = guest.run(&format!("test -b {device}"));
        Ok(Seen::when(there.is_ok(), || {
            guest.run("dmesg | tail -n 5").unwrap_or_default()
        }))
    })
}

/// Two file systems on two partitions, mounted.
fn make_file_systems(guest: &Guest, disk: &str, part: &str) -> Result<()> {
    guest.run(&format!("printf '{PARTITIONS}' | fdisk -u {disk}"))?;
    wait_device(guest, &format!("{part}2"))?;
    guest.run(&format!("mkfs.ext4 -q {part}1 && mkfs.xfs -q {part}2"))?;
    mount(guest, part, "")
}

fn mount(guest: &Guest, part: &str, options: &str) -> Result<()> {
    let (one, two) = match options {
        "" => ("", ""),
        _ => ("-o ro,noload", "-o ro,norecovery"),
    };
    guest
        .run(&format!(
            "mkdir -p /tmp/a /tmp/b && mount -t ext4 {one} {part}1 /tmp/a && mount -t xfs {two} {part}2 /tmp/b"
        ))
        .map(drop)
}

/// Unmounts both, looks for damage, and has the kernel forget what it knows of the disk.
fn unmount_and_check(guest: &Guest, part: &str) -> Result<()> {
    guest.run("umount /tmp/a /tmp/b")?;
    guest.run(&format!("e2fsck -fn {part}1 && xfs_repair -n {part}2"))?;
    guest.run("echo 3 >/proc/sys/vm/drop_caches").map(drop)
}

/// Writes files with fsync until it is told to stop, and says how far it is.
fn start_load(guest: &Guest) -> Result<()> {
    guest
        .run(
            "rm -f /tmp/stop /tmp/ended; echo 0 >/tmp/count; { i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); \
             for d in a b; do dd if=/dev/urandom of=/tmp/$d/f$i bs=16k count=$((1+i%5)) conv=fsync 2>/dev/null || \
             echo $d/f$i >>/tmp/failed; done; echo $i >/tmp/count; done; : >/tmp/ended; } >/dev/null 2>&1 </dev/null &",
        )
        .map(drop)
}

fn count(guest: &Guest) -> Result<u64> {
    Ok(guest.run("cat /tmp/count")?.trim().parse().unwrap_or(0))
}

fn wait_progress(guest: &Guest) -> Result<()> {
    let before = count(guest)?;
    wait_until("files to be written", limits::GUEST_COMMAND, || {
        let now = count(guest)?;
        Ok(Seen::when(now > before + 3, || {
            format!("{now} files, {before} before")
        }))
    })
}

/// The unit is killed, and then ended in order, while files are written: the host notices a pause and nothing else.
fn live_through_restarts(guest: &Guest, pair: &Pair<'_>, part: &str) -> Result<()> {
    start_load(guest)?;
    wait_progress(guest)?;
    pair.unit.kill9()?;
    std::thread::sleep(Duration::from_secs(2));
    pair.unit.start()?;
    wait_progress(guest).context("after kill -9")?;
    pair.unit.shut_down()?;
    std::thread::sleep(Duration::from_secs(2));
    pair.unit.start()?;
    wait_progress(guest).context("after a restart in order")?;
    guest.run(": >/tmp/stop")?;
    wait_until("the load to end", limits::GUEST_COMMAND, || {
        Ok(Seen::when(guest.run("test -e /tmp/ended").is_ok(), || {
            "it goes on".to_owned()
        }))
    })?;
    let failed = guest.run("cat /tmp/failed 2>/dev/null; true")?;
    ensure!(failed.trim().is_empty(), "writes failed: {failed}");
    guest.run("cd /tmp && sha256sum a/f* b/f* >/tmp/sums && sync")?;
    unmount_and_check(guest, part)?;
    mount(guest, part, "")?;
    expect_files(guest)
}

fn expect_files(guest: &Guest) -> Result<()> {
    let checked = guest.run("cd /tmp && sha256sum -c /tmp/sums | grep -vc OK; wc -l <sums")?;
    let mut lines = checked.lines();
    let (bad, all) = (
        lines.next(),
        lines.next().and_then(|all| all.trim().parse::<u32>().ok()),
    );
    ensure!(bad == Some("0") && all.is_some_and(|all| all > 10), "{checked}");
    Ok(())
}

fn allocated(image: &Path) -> Result<u64> {
    Ok(std::fs::metadata(image)?.blocks() * 512)
}

/// What files no longer use is given back, here and there.
fn give_space_back(guest: &Guest, pair: &Pair<'_>) -> Result<()> {
    guest.run("cd /tmp && dd if=/dev/urandom of=a/big bs=1M count=24 conv=fsync && sync")?;
    pair.unit.wait_applied()?;
    let before = (allocated(&pair.mirror())?, allocated(&pair.replica())?);
    guest.run("rm /tmp/a/big && sync && fstrim -v /tmp/a && fstrim -v /tmp/b && sync")?;
    pair.unit.wait_applied()?;
    pair.unit.wait_mirrored()?;
    let after = (allocated(&pair.mirror())?, allocated(&pair.replica())?);
    let freed = 20 << 20;
    ensure!(
        after.0 + freed < before.0 && after.1 + freed < before.1,
        "{before:?} bytes before and {after:?} after"
    );
    Ok(())
}

/// The replica has the same files, for a kernel that gets nothing else.
fn mount_replica(world: &World, guest: &Guest, pair: &Pair<'_>) -> Result<()> {
    pair.expect_same_on_both_sides()?;
    let address = free_address()?;
    let mut nbdkit = nbdkit_at(address);
    nbdkit.args(["-r", "file"]).arg(pair.replica());
    world.spawn("nbdkit-replica", &mut nbdkit)?;
    guest.reach(address)?;
    guest.run(&format!(
        "load nbd; nbd-client -N '' 127.0.0.1 {} /dev/nbd8 && blockdev --rereadpt /dev/nbd8",
        address.port()
    ))?;
    wait_device(guest, "/dev/nbd8p2")?;
    mount(guest, "/dev/nbd8p", "ro")?;
    expect_files(guest)?;
    guest
        .run("umount /tmp/a /tmp/b && nbd-client -d /dev/nbd8")
        .map(drop)
}

fn nbdkit_at(address: SocketAddr) -> Command {
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["-f", "-i", "127.0.0.1", "-p", &address.port().to_string()]);
    nbdkit
}

/// A range that was discarded reads as zeroes.
fn discard(guest: &Guest, part: &str) -> Result<()> {
    guest.run(&format!("blkdiscard {part}2 && echo 3 >/proc/sys/vm/drop_caches"))?;
    let found = guest.run(&format!(
        "dd if={part}2 bs=1M count=32 2>/dev/null | tr -d '\\000' | wc -c"
    ))?;
    ensure!(found.trim() == "0", "{found} bytes are left");
    let errors = guest.run("dmesg | grep -ci 'i/o error'; true")?;
    ensure!(
        errors.trim() == "0",
        "{}",
        guest.run("dmesg | grep -i 'i/o error'")?
    );
    Ok(())
}

/// A mounted file system is made larger after its disk was; `find_out` has the kernel look at the size again.
fn grow(guest: &Guest, pair: &Pair<'_>, disk: &str, find_out: &str) -> Result<()> {
    for (kind, enlarge, mib) in [("ext4", "resize2fs", 440), ("xfs", "xfs_growfs", 480)] {
        let force = if kind == "ext4" { "-F" } else { "-f" };
        let target = if kind == "ext4" { disk } else { "/tmp/a" };
        guest.run(&format!(
            "mkfs.{kind} -q {force} {disk} && mount -t {kind} {disk} /tmp/a && dd if=/dev/urandom of=/tmp/a/kept bs=1M count=8 \
             conv=fsync && sha256sum /tmp/a/kept >/tmp/sum"
        ))?;
        let blocks = "df -k /tmp/a | awk 'END { print $2 }'";
        let before: u64 = guest.run(blocks)?.trim().parse()?;
        let size = format!("{mib}M");
        pair.unit
            .command(&["volume", "resize", VOLUME, "--size", &size])?
            .success()?;
        guest.run(find_out)?;
        let bytes = guest.run(&format!("blockdev --getsize64 {disk}"))?;
        ensure!(bytes.trim().parse() == Ok(mib << 20), "the kernel sees {bytes}");
        guest.run(&format!("{enlarge} {target}"))?;
        let after: u64 = guest.run(blocks)?.trim().parse()?;
        ensure!(after > before + 30 * 1024, "{before} KiB before, {after} after");
        guest.run("dd if=/dev/urandom of=/tmp/a/more bs=1M count=32 conv=fsync && sha256sum -c /tmp/sum && umount /tmp/a")?;
        let check = if kind == "ext4" {
            "e2fsck -fn"
        } else {
            "xfs_repair -n"
        };
        guest.run(&format!("{check} {disk}"))?;
        pair.expect_same_on_both_sides()?;
    }
    Ok(())
}

fn everything(world: &World, guest: &Guest, pair: &Pair<'_>, disk: &str, part: &str) -> Result<()> {
    make_file_systems(guest, disk, part)?;
    live_through_restarts(guest, pair, part)?;
    give_space_back(guest, pair)?;
    unmount_and_check(guest, part)?;
    mount_replica(world, guest, pair)?;
    discard(guest, part)
}

#[test]
fn a_kernel_lives_on_an_iscsi_disk() {
    let _turn = turn();
    promise(|world| {
        need("nbdkit")?;
        let guest = Guest::boot(world, "guest")?;
        let portal = free_address()?;
        let pair = Pair::start_with_portals(world, SIZES, &[portal])?;
        guest.reach(portal)?;
        guest.run(
            "for m in iscsi_tcp sd_mod crc32c_generic ext4 xfs; do load $m; done; mkdir -p /etc/iscsi /run/lock/iscsi \
             /var/lib/iscsi; : >/etc/iscsi/iscsid.conf; echo InitiatorName=iqn.2026-11.test:guest \
             >/etc/iscsi/initiatorname.iscsi; echo root:x:0:0::/:/bin/sh >/etc/passwd; hostname guest; \
             iscsid -f >/tmp/iscsid.log 2>&1 </dev/null & sleep 2",
        )?;
        for command in recipe(&pair, "open-iscsi")? {
            guest.run(&command)?;
        }
        wait_device(&guest, "/dev/sda")?;
        everything(world, &guest, &pair, "/dev/sda", "/dev/sda")?;
        grow(&guest, &pair, "/dev/sda", "iscsiadm -m session --rescan")?;
        guest.run("iscsiadm -m node --logout").map(drop)
    });
}

#[test]
fn a_kernel_lives_on_an_nbd_disk() {
    let _turn = turn();
    promise(|world| {
        need("nbdkit")?;
        let guest = Guest::boot(world, "guest")?;
        let pair = Pair::start(world, SIZES)?;
        guest.run("for m in nbd crc32c_generic ext4 xfs; do load $m; done")?;
        let commands = recipe(&pair, "nbd-client")?;
        let [nbdkit, attach] = commands.as_slice() else {
            anyhow::bail!("two commands: {commands:?}")
        };
        let front = free_address()?;
        let _retries = spawn_line(world, nbdkit, front)?;
        guest.reach(front)?;
        guest.run(&attach.replace(EXAMPLE_PORT, &front.port().to_string()))?;
        wait_device(&guest, "/dev/nbd0")?;
        everything(world, &guest, &pair, "/dev/nbd0", "/dev/nbd0p")?;
        guest.run("nbd-client -d /dev/nbd0")?;
        // The kernel learns of another size when it attaches.
        pair.unit
            .command(&["volume", "resize", VOLUME, "--size", "440M"])?
            .success()?;
        guest.reach(pair.nbd)?;
        let port = pair.nbd.port();
        guest.run(&format!("nbd-client -N {VOLUME} 127.0.0.1 {port} /dev/nbd5"))?;
        let bytes = guest.run("blockdev --getsize64 /dev/nbd5")?;
        ensure!(
            bytes.trim().parse() == Ok(440_u64 << 20),
            "the kernel sees {bytes}"
        );
        guest.run("nbd-client -d /dev/nbd5").map(drop)
    });
}

/// A command of attach-help, in the foreground and at a port that is free.
fn spawn_line(world: &World, line: &str, front: SocketAddr) -> Result<Arc<Process>> {
    let words = line.replace(EXAMPLE_PORT, &front.port().to_string());
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().context("a program")?);
    command.arg("-f").args(words);
    let process = world.spawn("nbdkit-retry", &mut command)?;
    wait_until("nbdkit to listen", limits::START, || {
        let reached = std::net::TcpStream::connect_timeout(&front, limits::STATUS);
        Ok(Seen::when(reached.is_ok(), || process.log_tail(5)))
    })?;
    Ok(process)
}
