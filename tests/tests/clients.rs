//! Stock clients work, on TCP and unix sockets, on one and on four connections, and leave both sides equal.

use anyhow::{Context as _, Result, ensure};
use farside_tests::tools::Tool;
use farside_tests::units::{Pair, Sizes, VOLUME};
use farside_tests::{Random, World, images, promise, soak};
use std::path::{Path, PathBuf};

fn pair(world: &World) -> Result<Pair<'_>> {
    Pair::start(world, Sizes::SMALL)
}

/// A file with random content in some places and holes in others.
fn sample(world: &World, size_bytes: u64) -> Result<PathBuf> {
    use std::os::unix::fs::FileExt as _;
    let path = world.file("sample.img");
    let file = std::fs::File::create(&path)?;
    file.set_len(size_bytes)?;
    let mut random = Random::new(world.seed());
    for _ in 0..40 {
        let at = random.below(size_bytes - (1 << 20));
        let length = usize::try_from(random.between(1, 1 << 20))?;
        file.write_all_at(&random.bytes(length), at)?;
    }
    Ok(path)
}

fn qemu_io(uri: &str, commands: &[&str]) -> Result<String> {
    let args = commands.iter().flat_map(|command| ["-c", command]);
    let done = Tool::new("qemu-io")
        .args(["-f", "raw", "-t", "none"])
        .args(args)
        .args([uri])
        .ok()?;
    let output = done.output();
    // qemu-io reports a failed pattern in words.
    ensure!(
        !output.contains("verification failed") && !output.contains("failed:"),
        "{output}"
    );
    Ok(output)
}

#[test]
fn nbdinfo_describes_the_disk() {
    promise(|world| {
        let pair = pair(world)?;
        for uri in [
            pair.uri(),
            pair.unix_endpoint().uri(VOLUME),
            pair.endpoint().uri(""),
        ] {
            let text = Tool::new("nbdinfo").args(["--json", &uri]).ok()?.stdout;
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let export = json
                .get("exports")
                .and_then(|exports| exports.get(0))
                .context("no exports")?;
            ensure!(export["export-size"] == Sizes::SMALL.disk_bytes(), "{text}");
            for promise in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
                ensure!(export[promise] == true, "{promise} in {text}");
            }
            ensure!(export["is_read_only"] == false, "{text}");
        }
        Ok(())
    });
}

#[test]
fn exports_are_listed_to_nbdinfo_and_nbd_client() {
    promise(|world| {
        let pair = pair(world)?;
        let listed = Tool::new("nbdinfo")
            .args(["--list", &pair.endpoint().uri("")])
            .ok()?;
        ensure!(listed.stdout.contains(VOLUME), "{}", listed.stdout);
        let port = pair.nbd.port().to_string();
        let listed = Tool::new("/usr/sbin/nbd-client")
            .args(["-l", "127.0.0.1", "-p", &port])
            .ok()?;
        ensure!(listed.output().contains(VOLUME), "{}", listed.output());
        Ok(())
    });
}

#[test]
fn an_unknown_export_is_refused_and_the_server_goes_on() {
    promise(|world| {
        let pair = pair(world)?;
        Tool::new("nbdinfo")
            .args(["--size", &pair.endpoint().uri("no-such-disk")])
            .run()?
            .failure()?;
        Tool::new("nbdinfo").args(["--size", &pair.uri()]).ok()?;
        Ok(())
    });
}

#[test]
fn nbdcopy_moves_an_image_in_and_out_unchanged() {
    promise(|world| {
        let pair = pair(world)?;
        let sample = sample(world, Sizes::SMALL.disk_bytes())?;
        for (uri, connections) in [
            (pair.uri(), "1"),
            (pair.uri(), "4"),
            (pair.unix_endpoint().uri(VOLUME), "4"),
        ] {
            let connections = format!("--connections={connections}");
            Tool::new("nbdcopy")
                .args([&connections, "--flush"])
                .path(&sample)
                .args([&uri])
                .ok()?;
            let back = world.file("back.img");
            Tool::new("nbdcopy").args([&connections, &uri]).path(&back).ok()?;
            images::expect_equal(&sample, &back)?;
        }
        pair.expect_same_on_both_sides()?;
        images::expect_equal(&sample, &pair.replica())
    });
}

#[test]
fn qemu_img_converts_and_compares() {
    promise(|world| {
        let pair = pair(world)?;
        let sample = sample(world, Sizes::SMALL.disk_bytes())?;
        let into = ["convert", "-n", "-f", "raw", "-O", "raw"];
        Tool::new("qemu-img")
            .args(into)
            .path(&sample)
            .args([pair.uri()])
            .ok()?;
        let compare = ["compare", "-f", "raw", "-F", "raw"];
        Tool::new("qemu-img")
            .args(compare)
            .path(&sample)
            .args([pair.uri()])
            .ok()?;
        let out = world.file("out.qcow2");
        Tool::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2", &pair.uri()])
            .path(&out)
            .ok()?;
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .path(&sample)
            .path(&out)
            .ok()?;
        pair.expect_same_on_both_sides()
    });
}

#[test]
fn qemu_io_patterns_read_back() {
    promise(|world| {
        let pair = pair(world)?;
        qemu_io(
            &pair.uri(),
            &[
                "write -P 0x5a 0 1M",
                "read -P 0x5a 0 1M",
                "write -P 0xa5 4k 8k",
                "write -P 0x11 513 700",
                "read -P 0x5a 512 1",
                "read -P 0x11 513 700",
                "read -P 0xa5 4k 8k",
                "write -z 64k 64k",
                "read -P 0 64k 64k",
                "write -z -u 256k 64k",
                "read -P 0 256k 64k",
                "discard 512k 128k",
                "read -P 0 512k 128k",
                "write -f -P 0x77 2M 64k",
                "aio_write -f -P 0x33 3M 64k",
                "aio_write -P 0x34 4M 64k",
                "aio_flush",
                "flush",
                "read -P 0x33 3M 64k",
                "read -P 0x34 4M 64k",
                "write -P 0xee 63M 1M",
                "read -P 0xee 63M 1M",
            ],
        )?;
        pair.expect_same_on_both_sides()?;
        // What the replica says by itself, without Farside.
        let replica = pair.replica().to_string_lossy().into_owned();
        qemu_io(
            &replica,
            &[
                "read -P 0x33 3M 64k",
                "read -P 0 512k 128k",
                "read -P 0xee 63M 1M",
            ],
        )
        .map(drop)
    });
}

fn fio_verify(pair: &Pair<'_>, directory: &Path, jobs: u64, uri: &str) -> Result<()> {
    let size = format!("{}M", soak(12, 14));
    let loops = soak(1, 10).to_string();
    let mut tool = Tool::new("fio").directory(directory).args([
        "--name=verify",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        "--rw=randwrite",
        "--bsrange=4k-64k",
        "--iodepth=32",
        &format!("--size={size}"),
        &format!("--loops={loops}"),
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--fsync=64",
    ]);
    if jobs > 1 {
        tool = tool.args([
            &format!("--numjobs={jobs}"),
            &format!("--offset_increment={size}"),
            "--group_reporting",
        ]);
    }
    let done = tool.ok()?;
    // fio has been seen to hide errors behind exit code 0.
    ensure!(done.stdout.contains("err= 0"), "{}", done.output());
    pair.expect_same_on_both_sides()
}

#[test]
fn fio_verifies_on_one_connection() {
    promise(|world| {
        let pair = pair(world)?;
        fio_verify(&pair, world.path(), 1, &pair.uri())
    });
}

#[test]
fn fio_verifies_on_four_connections() {
    promise(|world| {
        let pair = pair(world)?;
        fio_verify(&pair, world.path(), 4, &pair.unix_endpoint().uri(VOLUME))
    });
}
