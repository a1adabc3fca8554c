//! A volume becomes larger while hosts use it, at a start, and behind the back of its remote.

use anyhow::{Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::mounts::{LoopDevice, need_root_and};
use farside_tests::nbd::Endpoint;
use farside_tests::ports::free_address;
use farside_tests::status::number;
use farside_tests::tools::Tool;
use farside_tests::units::{Protocol, Sizes, TwoUnits, VOLUME, local_unit};
use farside_tests::{BlockClient as _, Random, World, images, limits, promise};
use std::path::Path;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};
const OLD: u64 = 64 << 20;
/// So much that a bit of a dirty-block map stands for the same, and there are more of them.
const NEW: u64 = 96 << 20;

fn length(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

fn size_told(uri: &str) -> Result<u64> {
    let told = Tool::new("nbdinfo").args(["--size", uri]).ok()?.stdout;
    Ok(told.trim().parse()?)
}

/// A unit grows a volume beside serving it.
fn wait_size(endpoint: &Endpoint, bytes: u64) -> Result<()> {
    wait_until("the volume to grow", limits::STATUS, || {
        let told = size_told(&endpoint.uri(VOLUME))?;
        Ok(Seen::when(told == bytes, || told.to_string()))
    })
}

/// The file of a unit with another size of its volume.
fn set_size(world: &World, unit: &str, from: &str, to: &str) -> Result<()> {
    let file = world.file(&format!("{unit}.toml"));
    let old = std::fs::read_to_string(&file)?;
    let new = old.replace(
        &format!("size = \"{from}\"\njournal"),
        &format!("size = \"{to}\" # grown\njournal"),
    );
    ensure!(new != old, "{old}");
    Ok(std::fs::write(&file, new)?)
}

fn grows_under_its_host(world: &World, protocol: Protocol) -> Result<()> {
    let two = TwoUnits::start(world, SIZES)?;
    let mut random = Random::new(world.seed());
    let (first, second) = (random.bytes(1 << 20), random.bytes(1 << 20));
    let mut host = two.endpoint_over(protocol).attach(VOLUME)?;
    host.write(OLD - (1 << 20), &first)?;
    ensure!(host.write(OLD, &second).is_err(), "a write beyond the end");
    let done = two
        .local
        .command(&["volume", "resize", VOLUME, "--size", "96M"])?
        .success()?;
    ensure!(done.stdout.contains("has 96.0 MiB now"), "{}", done.stdout);
    // The host is not interrupted; over iSCSI its next command tells it of the new size instead of being carried out.
    ensure!(host.read(0, 512).is_ok() && host.read(OLD - (1 << 20), 1 << 20)? == first);
    let mut anew = two.endpoint_over(protocol).attach(VOLUME)?;
    if protocol == Protocol::Iscsi {
        drop(anew.read(0, 512));
    }
    ensure!(anew.read(OLD, 512)? == [0; 512], "what is new reads as zeroes");
    anew.write(NEW - (1 << 20), &second)?;
    anew.flush()?;
    ensure!(size_told(&two.endpoint().uri(VOLUME))? == NEW);
    two.expect_same_on_both_sides()?;
    ensure!(length(&two.mirror())? == NEW && length(&two.replica())? == NEW);
    let status = two.local.status()?;
    ensure!(number(status.volume(VOLUME)?, &["size_bytes"])? == NEW);
    for (args, code, words) in [
        (
            ["volume", "resize", VOLUME, "--size", "32M"],
            5,
            "cannot become smaller",
        ),
        (
            ["volume", "resize", "absent", "--size", "1G"],
            1,
            "there is no volume 'absent'",
        ),
        (["volume", "resize", VOLUME, "--size", "1000"], 5, "512"),
    ] {
        let refused = two.local.command(&args)?.failure()?;
        ensure!(
            refused.code == code && refused.stderr.contains(words),
            "{} instead of {code}",
            refused.output()
        );
    }
    for unit in [&two.local, &two.remote] {
        unit.kill9()?;
        unit.start()?;
    }
    let mut after = two.endpoint_over(protocol).attach(VOLUME)?;
    if protocol == Protocol::Iscsi {
        drop(after.read(0, 512));
    }
    ensure!(after.read(NEW - (1 << 20), 1 << 20)? == second);
    two.expect_same_on_both_sides()
}

#[test]
fn a_volume_grows_under_its_nbd_host_and_at_its_remote() {
    promise(|world| grows_under_its_host(world, Protocol::Nbd));
}

#[test]
fn a_volume_grows_under_its_iscsi_host_and_at_its_remote() {
    promise(|world| grows_under_its_host(world, Protocol::Iscsi));
}

#[test]
fn a_remote_that_was_away_grows_when_it_is_back_and_gets_only_what_it_lacks() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut host = two.connect()?;
        let data = Random::new(world.seed()).bytes(1 << 20);
        host.write(0, &data)?;
        host.flush()?;
        two.expect_same_on_both_sides()?;
        two.remote.shut_down()?;
        set_size(world, "local", "64M", "96M")?;
        Tool::new("kill")
            .args(["-HUP", &two.local.process()?.pid().to_string()])
            .ok()?;
        wait_size(&two.endpoint(), NEW)?;
        let mut anew = two.connect()?;
        anew.write(NEW - (1 << 20), &data)?;
        anew.flush()?;
        ensure!(length(&two.replica())? == OLD);
        two.remote.start()?;
        two.expect_same_on_both_sides()?;
        ensure!(length(&two.replica())? == NEW);
        let log = two.remote.process()?.log_text();
        ensure!(log.contains("the replica grew") && !log.contains("copy"), "{log}");

        // And at a start.
        two.local.shut_down()?;
        let file = world.file("local.toml");
        let text = std::fs::read_to_string(&file)?.replace("\"96M\"", "\"128M\"");
        std::fs::write(&file, text)?;
        two.local.start()?;
        wait_size(&two.endpoint(), 128 << 20)?;
        two.expect_same_on_both_sides()?;
        ensure!(length(&two.replica())? == 128 << 20);
        images::expect_equal(&two.mirror(), &two.replica())
    });
}

#[test]
fn a_mirror_on_a_device_that_is_too_small_keeps_its_size_and_its_hosts() {
    promise(|world| {
        need_root_and(&["/dev/loop-control"])?;
        let backing = world.file("device.img");
        std::fs::File::create(&backing)?.set_len(OLD)?;
        let device = LoopDevice::attach(&backing, &[])?;
        let nbd = free_address()?;
        let volume = format!(
            "[[volume]]\nname = \"{VOLUME}\"\n# as agreed\nsize = \"32M\" # in March\njournal_size = \"32M\"\nmirror = \"{}\"\n",
            device.path().display()
        );
        let unit = local_unit(world, "local", &world.file("local"), nbd, &volume)?;
        unit.start()?;
        let mut host = Endpoint::Tcp(nbd).attach(VOLUME)?;
        let refused = unit
            .command(&["volume", "resize", VOLUME, "--size", "96M"])?
            .failure()?;
        ensure!(
            refused.stderr.contains("keeps its size") && refused.stderr.contains("give a larger device"),
            "{}",
            refused.output()
        );
        host.write(0, &[1; 4096])?;
        let text = std::fs::read_to_string(world.file("local.toml"))?;
        ensure!(text.contains("\"32M\""), "the file says what is so: {text}");
        // What somebody left on the device does not show.
        std::fs::File::options()
            .write(true)
            .open(device.path())
            .and_then(|file| {
                use std::os::unix::fs::FileExt as _;
                file.write_all_at(&[7; 4096], 40 << 20)
            })?;
        unit.command(&["volume", "resize", VOLUME, "--size", "64M"])?
            .success()?;
        let mut anew = Endpoint::Tcp(nbd).attach(VOLUME)?;
        ensure!(anew.read(40 << 20, 4096)? == [0; 4096]);
        ensure!(anew.read(0, 4096)? == [1; 4096]);
        let text = std::fs::read_to_string(world.file("local.toml"))?;
        ensure!(
            text.contains("# as agreed\nsize = \"64M\" # in March\n"),
            "{text}"
        );

        // A size that cannot be keeps nobody from the disk, and is told.
        unit.shut_down()?;
        std::fs::write(world.file("local.toml"), text.replace("64M", "96M"))?;
        unit.start()?;
        let problem = || -> Result<String> { Ok(unit.command(&["status", "--json"])?.success()?.stdout) };
        wait_until("the problem to be told", limits::STATUS, || {
            let said = problem()?;
            let told = said.contains("keeps its size") && said.contains("give a larger device");
            Ok(Seen::when(told, || said))
        })?;
        ensure!(size_told(&Endpoint::Tcp(nbd).uri(VOLUME))? == 64 << 20);
        let done = unit
            .command(&["volume", "resize", VOLUME, "--size", "64M"])?
            .success()?;
        ensure!(done.stdout.contains("has 64.0 MiB now"), "{}", done.stdout);
        ensure!(!problem()?.contains("keeps its size"), "{}", problem()?);
        let mut back = Endpoint::Tcp(nbd).attach(VOLUME)?;
        ensure!(back.read(0, 4096)? == [1; 4096]);
        Ok(())
    });
}

#[test]
fn a_journal_gets_another_size_at_a_start_and_loses_nothing_of_what_it_holds() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::start(world, SIZES)?, Random::new(world.seed()));
        let set = |from: &str, to: &str| -> Result<()> {
            let file = world.file("local.toml");
            let old = std::fs::read_to_string(&file)?;
            let new = old.replace(
                &format!("journal_size = \"{from}\""),
                &format!("journal_size = \"{to}\""),
            );
            ensure!(new != old, "{old}");
            Ok(std::fs::write(&file, new)?)
        };
        let journal = two.mirror().with_file_name("journal");
        let mut write = |mib: std::ops::Range<u64>| -> Result<()> {
            let mut host = two.connect()?;
            for at in mib {
                host.write(at << 20, &random.bytes(1 << 20))?;
            }
            host.flush()?;
            Ok(host.disconnect()?)
        };
        write(0..40)?;
        two.local.wait_applied()?;
        two.local.command(&["journal", "stop-send"])?.success()?;
        two.local.wait_remote_state("held", limits::STATUS)?;
        write(20..40)?;
        two.local.kill9()?;
        set("32M", "128M")?;
        two.local.start()?;
        ensure!(
            two.local
                .process()?
                .log_text()
                .contains("the journal has its new size")
        );
        let told = length(&journal)?;
        ensure!((127 << 20..=128 << 20).contains(&told), "{told}");
        // More than the old one had room for.
        write(0..60)?;
        let lag = number(two.local.status()?.remote(VOLUME)?, &["lag", "bytes"])?;
        ensure!(lag == 80 << 20, "{lag}");
        // It does not become smaller than what it holds.
        two.local.shut_down()?;
        set("128M", "64M")?;
        two.local.start()?;
        let log = two.local.process()?.log_text();
        ensure!(log.contains("keeps its size: it holds"), "{log}");
        ensure!(length(&journal)? == told);
        two.local.command(&["journal", "start-send"])?.success()?;
        two.expect_same_on_both_sides()?;
        let log = two.local.process()?.log_text();
        ensure!(!log.contains("copy begins") && !log.contains("resync"), "{log}");
        two.local.shut_down()?;
        two.local.start()?;
        let told = length(&journal)?;
        ensure!((63 << 20..=64 << 20).contains(&told), "{told}");
        write(50..64)?;
        two.expect_same_on_both_sides()
    });
}
