//! The iSCSI target in front of initiators that others wrote: libiscsi's test suite, its tools, and qemu.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::limits;
use farside_tests::ports::free_address;
use farside_tests::skip::skip;
use farside_tests::tools::Tool;
use farside_tests::units::{Pair, Sizes};
use farside_tests::{Random, images, promise};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

const TARGET: &str = "iqn.2026-11.dev.farside:disk0";
/// The suite waits for answers that must not come, three seconds each.
const SUITE: Duration = Duration::from_secs(420);
/// Tests of the suite that pass: fewer mean that something was unlearned.
const PASSES: usize = 185;
/// What the suite leaves out, and what of a disk it is that Farside's do not have.
const LEFT_OUT: [&str; 12] = [
    // Erasing a disk so that nobody can ever read it again: with journals and replicas that would be a lie.
    "--allow-sanitize flag is not set",
    // A disk that can be taken out.
    "Logical unit is not removable",
    "Media is not removable",
    // Writes that are told to be atomic.
    "WRITEATOMIC16 is not implemented",
    // Tests of blocks that are shorter than the disk's physical ones.
    "LBPPB < 2",
    // Copies made by the disk itself.
    "EXTENDEDCOPY is not implemented",
    "RECEIVECOPYRESULT is not implemented",
    // Lists of broken places.
    "READDEFECTDATA10 is not implemented",
    "READDEFECTDATA12 is not implemented",
    // Of a disk that nothing can be written to.
    "Logical unit is not write-protected",
    // To the end of the disk by a length of 0, which no one should ask for by accident.
    "WRITESAME10 does not support 0-blocks",
    "WRITESAME16 does not support 0-blocks",
];

fn url(portal: SocketAddr, account: &str) -> String {
    format!("iscsi://{account}{portal}/{TARGET}/1")
}

/// What became of each test, by suite and name: the suite's own summary counts one that is left out as passed.
fn outcomes(text: &str) -> BTreeMap<String, String> {
    let mut outcomes = BTreeMap::new();
    let mut suite = "";
    let mut name = String::new();
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("Suite: ") {
            suite = next.trim();
        } else if let Some(test) = line.strip_prefix("  Test: ") {
            let test = test.split_whitespace().next().unwrap_or_default();
            name = format!("{suite}.{test}");
            outcomes.insert(name.clone(), String::new());
        } else if line.starts_with("Run Summary") {
            break;
        }
        if let Some(outcome) = outcomes.get_mut(&name) {
            outcome.push_str(line);
            outcome.push('\n');
        }
    }
    outcomes
}

#[test]
fn the_conformance_suite_finds_nothing_wrong() {
    promise(|world| {
        let portals = [free_address()?, free_address()?];
        let sizes = Sizes {
            disk_mib: 256,
            ..Sizes::SMALL
        };
        let pair = Pair::start_with_portals(world, sizes, &portals)?;
        let done = Tool::new("iscsi-test-cu")
            .args(["--dataloss", "-v", "-t", "ALL"])
            .args(portals.map(|portal| url(portal, "")))
            .limit(SUITE)
            .ok()?;
        let outcomes = outcomes(&done.output());
        ensure!(outcomes.len() >= 230, "only {} tests ran", outcomes.len());
        let failed: Vec<_> = outcomes
            .iter()
            .filter(|(_, text)| text.lines().any(|line| line.ends_with("FAILED")))
            .collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        let skipped: Vec<_> = outcomes
            .iter()
            .filter(|(_, text)| text.contains("[SKIPPED]"))
            .collect();
        for (name, text) in &skipped {
            let known = LEFT_OUT.iter().any(|reason| text.contains(reason));
            // With the cold reset a session ends, and the suite does not count on that.
            ensure!(known || text.contains("ColdReset"), "{name} was left out: {text}");
        }
        let passed = outcomes.len() - skipped.len();
        ensure!(passed >= PASSES, "{passed} passed");
        pair.expect_same_on_both_sides()
    });
}

/// qemu-io with commands on an iSCSI disk; a skip where qemu does not have iSCSI.
fn qemu_io(url: &str, commands: &[&str]) -> Result<String> {
    let args = commands.iter().flat_map(|command| ["-c", command]);
    let done = Tool::new("qemu-io")
        .args(["-f", "raw"])
        .args(args)
        .args([url])
        .run()?;
    let output = done.output();
    if output.contains("Unknown protocol 'iscsi'") {
        return Err(skip("qemu has no iSCSI here (package qemu-block-extra)"));
    }
    done.success()?;
    ensure!(
        !output.contains("verification failed") && !output.contains("failed:"),
        "{output}"
    );
    Ok(output)
}

#[test]
fn one_volume_over_both_protocols_is_one_disk_and_a_kill_loses_nothing() {
    promise(|world| {
        let portal = free_address()?;
        let pair = Pair::start_with_portals(world, Sizes::SMALL, &[portal])?;
        let disk = url(portal, "");
        let data = Random::new(world.seed()).bytes(1 << 16);
        pair.connect()?.write_fua(1 << 20, &data)?;
        let commands = [
            "write -P 0x5a 0 1M",
            "flush",
            "read -P 0x5a 0 1M",
            "discard 512k 64k",
        ];
        qemu_io(&disk, &commands)?;
        let mut client = pair.connect()?;
        ensure!(client.read(0, 4096)? == [0x5a; 4096]);
        ensure!(client.read(512 << 10, 4096)? == [0; 4096]);
        drop(client);
        pair.unit.kill9()?;
        pair.unit.start()?;
        qemu_io(
            &disk,
            &["read -P 0x5a 0 512k", "read -P 0 512k 64k", "write -P 7 4M 64k"],
        )?;
        ensure!(pair.connect()?.read(1 << 20, 1 << 16)? == data);
        let copy = world.file("copy.img");
        Tool::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "raw", &disk])
            .path(&copy)
            .ok()?;
        pair.expect_same_on_both_sides()?;
        images::expect_equal(&copy, &pair.mirror())
    });
}

#[test]
fn discovery_names_every_portal_and_the_status_too() {
    promise(|world| {
        let portals = [free_address()?, free_address()?];
        let pair = Pair::start_with_portals(world, Sizes::SMALL, &portals)?;
        let listed = Tool::new("iscsi-ls")
            .args(["-s", &format!("iscsi://{}", portals[0])])
            .ok()?
            .output();
        for portal in portals {
            ensure!(
                listed.contains(&format!("Target:{TARGET} Portal:{portal},1")),
                "{listed}"
            );
        }
        ensure!(listed.contains("Lun:1    Type:DIRECT_ACCESS"), "{listed}");
        let status = pair.unit.command(&["status", "--json"])?.success()?.stdout;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let wanted: Vec<String> = portals.iter().map(ToString::to_string).collect();
        ensure!(
            status["unit"]["iscsi_listen"] == serde_json::json!(wanted),
            "{status}"
        );
        ensure!(status["volumes"][0]["iscsi_target"] == TARGET, "{status}");
        let help = pair.unit.command(&["attach-help"])?.success()?.stdout;
        for words in [TARGET, "replacement_timeout", "reconnect-delay", "--filter=retry"] {
            ensure!(help.contains(words), "{words} is not in {help}");
        }
        let listed = pair
            .unit
            .command(&["attach-help", "disk0", "--json"])?
            .success()?
            .stdout;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
        ensure!(listed.len() == 5, "{listed:?}");
        pair.unit.command(&["attach-help", "other"])?.failure()?;
        Ok(())
    });
}

#[test]
fn without_the_secret_nobody_gets_in_and_nobody_is_told_anything() {
    promise(|world| {
        let portal = free_address()?;
        let pair = Pair::prepare(world, Sizes::SMALL)?;
        pair.unit.start()?;
        pair.unit.shut_down()?;
        let secret = pair.directory.join("chap.secret");
        std::fs::write(&secret, "secretsecret12\n")?;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
        let path = pair.directory.join("farside.toml");
        let text = std::fs::read_to_string(&path)?;
        let chap = format!(
            "[iscsi]\nlisten = [\"{portal}\"]\n[iscsi.chap]\nuser = \"host\"\nsecret_file = \"chap.secret\""
        );
        let changed = text.replacen("[iscsi]\nlisten = []", &chap, 1);
        ensure!(changed != text, "{text}");
        std::fs::write(&path, changed)?;
        pair.unit.start()?;
        let ask = |account: &str| Tool::new("iscsi-inq").args([url(portal, account)]).run();
        ask("host%secretsecret12@")?.success()?;
        for account in ["", "host%secretsecret13@", "guest%secretsecret12@"] {
            ask(account)?.failure()?;
        }
        let listed = Tool::new("iscsi-ls").args([format!("iscsi://{portal}")]).run()?;
        ensure!(!listed.output().contains(TARGET), "{}", listed.output());

        // SIGHUP reads it again; one that cannot be used leaves that of before in use.
        std::fs::write(&secret, "anothersecret\n")?;
        pair.unit.process()?.signal(Signal::HUP)?;
        wait_until("the new secret to be known", limits::START, || {
            let known = ask("host%anothersecret@")?.code == 0;
            Ok(Seen::when(known, || "it is refused".to_owned()))
        })?;
        ask("host%secretsecret12@")?.failure()?;
        std::fs::write(&secret, "short\n")?;
        pair.unit.process()?.signal(Signal::HUP)?;
        wait_until("the short secret to be refused", limits::START, || {
            let status = pair.unit.command(&["status", "--json"])?.success()?.stdout;
            let said = status.contains("12 to 255 bytes") && status.contains("chap.secret");
            Ok(Seen::when(said, || status))
        })?;
        ask("host%anothersecret@")?.success()?;
        pair.unit.shut_down()?;

        // A secret that others can read is refused, by name.
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644))?;
        let refused = pair.unit.start().err().context("the unit started")?.to_string();
        ensure!(
            refused.contains("chap.secret") && refused.contains("chmod 600"),
            "{refused}"
        );
        Ok(())
    });
}
