//! The harness itself, proved on a server that is trusted: nbdkit. What it says of Farside is worth what it says here.

use anyhow::{Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::fio::{expect_fio_success, reconnecting_fio};
use farside_tests::mounts::{FuseFile, LoopDevice, Mount, need_root_and};
use farside_tests::nbd::{Endpoint, NbdClient, RawNbd, Request, command, option, reply};
use farside_tests::pattern::{Demand, History, Writer, WriterOptions};
use farside_tests::ports::free_address;
use farside_tests::process::Process;
use farside_tests::tools::{Tool, need};
use farside_tests::{World, images, limits, promise};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const SIZE: u64 = 32 << 20;

/// nbdkit serving a file, on a port that stays the same over restarts.
fn serve(world: &World, endpoint: &Endpoint, image: &Path, filters: &[&str]) -> Result<Arc<Process>> {
    need("nbdkit")?;
    let Endpoint::Tcp(address) = endpoint else {
        anyhow::bail!("TCP only")
    };
    let mut command = Command::new("nbdkit");
    command
        .args([
            "-f",
            "-i",
            "127.0.0.1",
            "-p",
            &address.port().to_string(),
            "-e",
            "disk0",
        ])
        .args(filters);
    let process = world.spawn("nbdkit", command.arg("file").arg(image))?;
    wait_until("nbdkit to listen", limits::START, || {
        Ok(Seen::when(NbdClient::connect(endpoint, "disk0").is_ok(), || {
            "refused".to_owned()
        }))
    })?;
    Ok(process)
}

fn image(world: &World) -> Result<std::path::PathBuf> {
    let path = world.file("disk.img");
    File::create(&path)?.set_len(SIZE)?;
    Ok(path)
}

fn endpoint() -> Result<Endpoint> {
    Ok(Endpoint::Tcp(free_address()?))
}

#[test]
fn the_client_reads_back_what_it_wrote() {
    promise(|world| {
        let (image, endpoint) = (image(world)?, endpoint()?);
        serve(world, &endpoint, &image, &[])?;
        let mut client = NbdClient::connect(&endpoint, "disk0")?;
        ensure!(client.info().size_bytes == SIZE, "{:?}", client.info());
        client.write(5, b"odd place")?;
        client.write_fua(4096, &[7; 8192])?;
        client.zero(4096, 4096)?;
        client.flush()?;
        ensure!(client.read(5, 9)? == b"odd place");
        ensure!(client.read(4096, 8192)? == [vec![0; 4096], vec![7; 4096]].concat());
        let past_end = client.read(SIZE, 512);
        ensure!(past_end.is_err() && client.read(0, 512).is_ok(), "{past_end:?}");
        for number in 0..32_u32 {
            client.submit(
                Request {
                    command: command::READ,
                    length: 512 * (number + 1),
                    ..Request::default()
                },
                &[],
            )?;
        }
        for _ in 0..32 {
            ensure!(client.receive()?.outcome.is_ok());
        }
        Ok(client.disconnect()?)
    });
}

#[test]
fn the_raw_connection_reports_refused_options() {
    promise(|world| {
        let (image, endpoint) = (image(world)?, endpoint()?);
        serve(world, &endpoint, &image, &[])?;
        let mut raw = RawNbd::greeted(&endpoint)?;
        raw.send_option(0x7777, b"what")?;
        ensure!(raw.option_reply()?.kind == reply::ERR_UNSUP);
        ensure!(raw.ask(option::INFO, "disk0")?.size_bytes == SIZE);
        raw.send_option(option::ABORT, &[])?;
        ensure!(raw.option_reply()?.kind == reply::ACK);
        Ok(raw.expect_closed()?)
    });
}

#[test]
fn the_writer_goes_on_after_kills_and_nothing_acknowledged_is_lost() {
    promise(|world| {
        let (image, endpoint) = (image(world)?, endpoint()?);
        let mut server = serve(world, &endpoint, &image, &[])?;
        let history = Arc::new(History::new(world.seed()));
        let options = WriterOptions::new(endpoint.clone(), "disk0", SIZE, world.seed());
        let writer = Writer::start(&history, &options);
        for _ in 0..5 {
            writer.wait_progress(200)?;
            server.kill9()?;
            server = serve(world, &endpoint, &image, &[])?;
        }
        let totals = writer.stop()?;
        ensure!(totals.reconnects >= 5, "{totals:?}");
        images::expect_state("the image", &image, &history, Demand::Acknowledged)?;
        Ok(())
    });
}

#[test]
fn a_copy_of_a_live_disk_is_caught_and_a_frozen_one_passes() {
    promise(|world| {
        let (image, endpoint) = (image(world)?, endpoint()?);
        let server = serve(world, &endpoint, &image, &[])?;
        let history = Arc::new(History::new(world.seed()));
        let mut options = WriterOptions::new(endpoint, "disk0", SIZE, world.seed());
        options.per_second = 0;
        let writer = Writer::start(&history, &options);
        let mut caught = 0;
        for _ in 0..5 {
            writer.wait_progress(500)?;
            let copy = slow_copy(world, &image)?;
            caught +=
                u32::from(images::expect_state("a live copy", &copy, &history, Demand::AnyPrefix).is_err());
        }
        ensure!(
            caught >= 4,
            "only {caught} of 5 copies of the live disk were caught"
        );
        writer.stop()?;
        server.kill9()?;
        let copy = slow_copy(world, &image)?;
        images::expect_state("the frozen image", &copy, &history, Demand::Acknowledged)?;
        Ok(())
    });
}

/// Copies from the end to the start, a MiB at a time, as a backup of a live disk might.
fn slow_copy(world: &World, image: &Path) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::FileExt as _;
    let (from, path) = (File::open(image)?, world.file("copy.img"));
    let into = File::create(&path)?;
    let mut piece = vec![0; 1 << 20];
    for at in (0..SIZE).step_by(1 << 20) {
        from.read_exact_at(&mut piece, at)?;
        into.write_all_at(&piece, at)?;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(path)
}

#[test]
fn a_server_that_drops_writes_is_caught() {
    promise(|world| {
        need("nbdkit")?;
        // The cow filter keeps writes in memory; they are gone when it is killed.
        let (image, endpoint) = (image(world)?, endpoint()?);
        let server = serve(world, &endpoint, &image, &["--filter=cow"])?;
        let history = Arc::new(History::new(world.seed()));
        let mut options = WriterOptions::new(endpoint, "disk0", SIZE, world.seed());
        options.shape.zero_percent = 0; // nbdkit's filter knows no zeroing
        let writer = Writer::start(&history, &options);
        writer.wait_progress(300)?;
        writer.abandon()?;
        server.kill9()?;
        let lost = images::expect_state("the image", &image, &history, Demand::Acknowledged);
        ensure!(
            lost.is_err(),
            "everything was lost and the checker did not notice"
        );
        images::expect_state("the image", &image, &history, Demand::AnyPrefix)?;
        Ok(())
    });
}

/// The way of the file system tests, on a server that is trusted.
#[test]
fn a_file_system_lives_on_a_disk_shown_by_nbdfuse() {
    promise(|world| {
        need_root_and(&["/dev/fuse", "/dev/loop-control"])?;
        let endpoint = endpoint()?;
        serve(world, &endpoint, &image(world)?, &[])?;
        let shown = FuseFile::show(world, &endpoint.uri("disk0"), 4)?;
        let device = LoopDevice::attach(shown.path(), &["--direct-io=on"])?;
        Tool::new("mkfs.ext4")
            .args(["-F", "-q"])
            .path(device.path())
            .ok()?;
        let mount = Mount::device(device.path(), &world.file("mounted"), "noatime")?;
        std::fs::write(mount.path().join("hello"), "from a file system")?;
        mount.unmount()?;
        Tool::new("e2fsck").args(["-fn"]).path(device.path()).ok()?;
        drop(device);
        shown.detach()?;
        let device = LoopDevice::attach(&world.file("disk.img"), &["--read-only"])?;
        let mount = Mount::device(device.path(), &world.file("mounted-again"), "ro,noload")?;
        ensure!(std::fs::read_to_string(mount.path().join("hello"))? == "from a file system");
        mount.unmount()
    });
}

/// The reconnecting client of the kill tests, on a server that is trusted.
#[test]
fn fio_verifies_through_a_killed_server_by_nbdkit_retry() {
    promise(|world| {
        need("fio")?;
        let (image, endpoint, front) = (image(world)?, endpoint()?, endpoint()?);
        let mut server = serve(world, &endpoint, &image, &[])?;
        let fio = reconnecting_fio(world, &endpoint, &front, 4)?;
        for _ in 0..2 {
            std::thread::sleep(std::time::Duration::from_millis(800));
            server.kill9()?;
            server = serve(world, &endpoint, &image, &[])?;
        }
        expect_fio_success(&fio, limits::TOOL)
    });
}

/// A proof about a missing tool is a printed skip, not a pass and not a failure.
#[test]
fn a_missing_tool_is_a_skip() {
    let error = need("no-such-tool-anywhere").err().map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some("skipped: no-such-tool-anywhere is not installed")
    );
}
