//! Wrong files, wrong configurations, full disks: each refused with its own words, nothing of anybody's overwritten.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::mounts::{Mount, need_root_and};
use farside_tests::nbd::{NbdClient, ServerError};
use farside_tests::ports::free_address;
use farside_tests::units::{Pair, Sizes, TwoUnits, Unit, VOLUME, configured, farside_command, unit_toml};
use farside_tests::{Random, World, images, limits, promise};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The unit must end by itself, not with success, and say these words.
fn refuses_to_start(unit: &Unit<'_>, words: &[&str]) -> Result<String> {
    let process = unit.launch()?;
    let status = process
        .wait_end(limits::START)
        .context("it should have refused to start")?;
    let said = process.log_text();
    ensure!(!status.success(), "it ended with success; it said:\n{said}");
    ensure!(!said.contains("panicked"), "{said}");
    let lower = said.to_lowercase();
    for word in words {
        ensure!(
            lower.contains(&word.to_lowercase()),
            "'{word}' is not in what it said:\n{said}"
        );
    }
    Ok(said)
}

/// Refused as a whole, or running with that volume out of service and the words in its status.
fn refuses_volume(unit: &Unit<'_>, words: &[&str]) -> Result<()> {
    let process = unit.launch()?;
    let mut said = String::new();
    wait_until("a refusal", limits::START, || {
        if process.exit_status()?.is_some() {
            said = process.log_text();
            return Ok(Seen::Yes);
        }
        let Ok(status) = unit.status() else {
            return Ok(Seen::NotYet("no status".into()));
        };
        said = format!("{:#}\n{}", status.0, process.log_text());
        let text = said.to_lowercase();
        Ok(Seen::when(
            text.contains("\"failed\"") || text.contains("\"refused\""),
            || said.clone(),
        ))
    })?;
    ensure!(!said.contains("panicked"), "{said}");
    let lower = said.to_lowercase();
    for word in words {
        ensure!(
            lower.contains(&word.to_lowercase()),
            "'{word}' is not in what it said:\n{said}"
        );
    }
    process.kill9().or_else(|error| {
        if process.exit_status()?.is_some() {
            Ok(())
        } else {
            Err(error)
        }
    })
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    Ok(File::options()
        .write(true)
        .open(path)?
        .write_all_at(bytes, offset)?)
}

/// A pair with some data, shut down cleanly, that can be started again.
fn stopped_pair(world: &World) -> Result<Pair<'_>> {
    let pair = Pair::start(world, Sizes::SMALL)?;
    let mut client = pair.connect()?;
    client.write(4096, &Random::new(world.seed()).bytes(1 << 20))?;
    client.flush()?;
    pair.expect_same_on_both_sides()?;
    pair.unit.shut_down()?;
    Ok(pair)
}

#[test]
fn a_port_in_use_is_named() {
    promise(|world| {
        let pair = Pair::prepare(world, Sizes::SMALL)?;
        for address in [pair.nbd, pair.link, pair.console] {
            let taken = TcpListener::bind(address)?;
            refuses_to_start(&pair.unit, &[&address.port().to_string(), "in use"])?;
            drop(taken);
        }
        pair.unit.start()
    });
}

#[test]
fn a_second_unit_on_one_directory_is_refused_and_the_first_goes_on() {
    promise(|world| {
        let first = Pair::start(world, Sizes::SMALL)?;
        let second = Pair::prepare(world, Sizes::SMALL)?;
        let directory = first.directory.to_string_lossy().into_owned();
        refuses_to_start(&second.unit, &[&directory])?;
        first.connect()?.write_fua(0, b"unharmed")?;
        first.unit.status()?;
        first.expect_same_on_both_sides()
    });
}

#[test]
fn a_foreign_image_is_never_formatted_without_force() {
    promise(|world| {
        let foreign = world.file("somebodys.img");
        let content = Random::new(world.seed()).bytes(64 << 20);
        for kind in ["mirror", "journal"] {
            std::fs::write(&foreign, &content)?;
            let directory = world.file(&format!("unit-{kind}"));
            let nbd = free_address()?;
            let toml = format!(
                "{}[nbd]\nlisten = [\"{nbd}\"]\n\n[[volume]]\nname = \"{VOLUME}\"\nsize = \"64M\"\n\
                 journal_size = \"16M\"\n{kind} = \"{}\"\n",
                unit_toml(kind, &directory),
                foreign.display()
            );
            let unit = configured(world, kind, &directory, &toml)?;
            refuses_volume(&unit, &["somebodys.img", "force"])?;
            ensure!(
                std::fs::read(&foreign)? == content,
                "the {kind} of somebody else was changed"
            );
        }
        Ok(())
    });
}

#[test]
fn a_damaged_truncated_or_newer_journal_is_refused_and_not_touched() {
    promise(|world| {
        let pair = stopped_pair(world)?;
        let journal = pair.journal();
        let good = std::fs::read(&journal)?;
        let mut random = Random::new(world.seed());
        let garbage = random.bytes(good.len().min(16 << 20));
        let truncated = good.get(..good.len() / 3).context("a journal")?.to_vec();
        let empty = Vec::new();
        // Every version field of both superblock copies lies in the first blocks; without knowing the layout,
        // a superblock in which everything is turned over stands for a newer one.
        let mut newer = good.clone();
        newer.iter_mut().take(64 << 10).for_each(|byte| *byte ^= 0x5a);
        for (what, content) in [
            ("garbage", garbage),
            ("truncated", truncated),
            ("empty", empty),
            ("turned over", newer),
        ] {
            std::fs::write(&journal, &content)?;
            let mirror = std::fs::read(pair.mirror())?;
            refuses_volume(&pair.unit, &["journal"]).with_context(|| format!("a journal that is {what}"))?;
            ensure!(
                std::fs::read(&journal)? == content,
                "the journal that is {what} was changed"
            );
            ensure!(
                std::fs::read(pair.mirror())? == mirror,
                "the mirror was changed beside a journal that is {what}"
            );
        }
        std::fs::write(&journal, &good)?;
        pair.unit.start()?;
        pair.expect_same_on_both_sides()
    });
}

#[test]
fn inspect_names_the_first_damage() {
    promise(|world| {
        let pair = stopped_pair(world)?;
        let journal = pair.journal();
        let path = journal.to_string_lossy().into_owned();
        farside_command(&["inspect", &path])?.success()?;
        let garbage = world.file("garbage");
        std::fs::write(&garbage, Random::new(world.seed()).bytes(1 << 20))?;
        let refused = farside_command(&["inspect", &garbage.to_string_lossy()])?.failure()?;
        ensure!(refused.output().contains("garbage"), "{}", refused.output());
        // The first MiB of chunks, whatever their layout, holds the write of the pair.
        let clean = farside_command(&["inspect", &path])?.success()?.output();
        let good = std::fs::read(&journal)?;
        let spot = good
            .iter()
            .skip(1 << 16)
            .position(|byte| *byte != 0)
            .context("an empty journal")?
            + (1 << 16);
        overwrite(
            &journal,
            spot as u64,
            &[good.get(spot).copied().unwrap_or(0) ^ 0xff],
        )?;
        let damaged = farside_command(&["inspect", &path])?;
        ensure!(
            damaged.output() != clean,
            "a flipped byte at {spot} changed nothing: {clean}"
        );
        Ok(())
    });
}

/// What is wrong, the file, and the line that must be named.
fn wrong_configurations(head: &str) -> Vec<(&'static str, String, usize)> {
    let volume = "[[volume]]\nname = \"disk0\"\nsize = \"64M\"\n";
    let size = |size: &str| volume.replace("64M", size);
    let listen = |section: &str, address: &str| format!("[{section}]\nlisten = [\"{address}\"]\n");
    let cases = [
        ("no TOML", "this is not toml\n".to_owned(), 1),
        ("an unknown setting", "[nbd]\nlissten = []\n".to_owned(), 2),
        ("a size that is none", size("much"), 3),
        ("a size of nothing", size("0"), 3),
        ("a huge size", size("99999999999T"), 3),
        ("an address that is none", listen("nbd", "nowhere"), 2),
        ("an open address", listen("nbd", "0.0.0.0:10809"), 2),
        ("an open portal", listen("iscsi", "0.0.0.0:3260"), 2),
        ("two volumes of one name", format!("{volume}{volume}"), 5),
        ("a name that is a path", volume.replace("disk0", "../x"), 2),
    ];
    let above = head.lines().count();
    cases
        .into_iter()
        .map(|(what, body, line)| (what, format!("{head}{body}"), above + line))
        .collect()
}

#[test]
fn configuration_errors_name_file_and_line() {
    promise(|world| {
        let directory = world.file("broken");
        for (what, toml, line) in wrong_configurations(&unit_toml("broken", &directory)) {
            let unit = configured(world, "broken", &directory, &toml)?;
            let place = format!("broken.toml:{line}");
            refuses_to_start(&unit, &[&place]).with_context(|| what.to_owned())?;
            let file = world.file("broken.toml").to_string_lossy().into_owned();
            let checked = farside_command(&["config", "check", &file])?
                .failure()
                .with_context(|| what.to_owned())?;
            ensure!(
                checked.output().contains(&place),
                "{what}: no {place} in {}",
                checked.output()
            );
        }
        ensure!(
            !directory.join("volumes").exists(),
            "a refused configuration made files"
        );
        farside_command(&["config", "check", "/nonexistent.toml"])?.failure()?;
        Ok(())
    });
}

#[test]
fn a_binary_file_as_configuration_is_refused() {
    promise(|world| {
        let file = world.file("binary.toml");
        std::fs::write(&file, Random::new(world.seed()).bytes(5000))?;
        let file = file.to_string_lossy().into_owned();
        let refused = farside_command(&["config", "check", &file])?.failure()?;
        ensure!(refused.output().contains("binary.toml"), "{}", refused.output());
        farside_command(&["unit", "--config", &file])?.failure()?;
        Ok(())
    });
}

#[test]
fn a_smaller_volume_is_refused_and_nothing_is_lost() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        units.connect()?.write_fua(0, b"keep me")?;
        units.expect_same_on_both_sides()?;
        units.local.shut_down()?;
        let file = world.file("local.toml");
        let good = std::fs::read_to_string(&file)?;
        std::fs::write(&file, good.replace("\"64M\"", "\"32M\""))?;
        refuses_volume(&units.local, &["size", "cannot become smaller"])?;
        std::fs::write(&file, good)?;
        units.local.start()?;
        ensure!(units.connect()?.read(0, 7)? == b"keep me");
        units.expect_same_on_both_sides()
    });
}

#[test]
fn a_mirror_of_another_volume_is_refused() {
    promise(|world| {
        let pair = stopped_pair(world)?;
        let other_directory = world.file("other-pair");
        let other = Pair::prepare_at(world, Sizes::SMALL, &other_directory)?;
        other.unit.start()?;
        other.connect()?.write_fua(0, &[9; 8192])?;
        other.expect_same_on_both_sides()?;
        other.unit.shut_down()?;
        let mine = std::fs::read(pair.journal())?;
        std::fs::copy(other.journal(), pair.journal())?;
        let mirror = std::fs::read(pair.mirror())?;
        refuses_volume(&pair.unit, &["volume"])?;
        ensure!(
            std::fs::read(pair.mirror())? == mirror,
            "another volume's journal was replayed into the mirror"
        );
        std::fs::write(pair.journal(), mine)?;
        pair.unit.start()?;
        pair.expect_same_on_both_sides()
    });
}

/// Writes until something fails or the whole disk is written; the error if there was one.
fn write_all(client: &mut NbdClient, random: &mut Random, bytes: u64) -> Result<Option<io::Error>> {
    for at in (0..bytes).step_by(1 << 20) {
        if let Err(error) = client
            .write(at, &random.bytes(1 << 20))
            .and_then(|()| client.flush())
        {
            return Ok(Some(error));
        }
    }
    Ok(None)
}

/// A full disk under the local unit: an honest error to the host, the process stays up and says what is wrong.
#[test]
fn a_full_disk_under_the_mirror_is_an_error_and_no_crash() {
    promise(|world| {
        need_root_and(&[])?;
        let disk = Mount::memory(&world.file("small"), 48 << 20)?;
        let units = TwoUnits::prepare(world, Sizes::SMALL)?;
        let volumes = units.local_directory.join("volumes");
        std::fs::create_dir_all(&volumes)?;
        std::os::unix::fs::symlink(disk.path(), volumes.join(VOLUME))?;
        units.remote.start()?;
        let process = units.local.launch()?;
        let mut refused = false;
        wait_until("the unit to refuse or to serve", limits::START, || {
            refused = process.exit_status()?.is_some();
            Ok(Seen::when(refused || units.connect().is_ok(), || {
                process.log_tail(3)
            }))
        })?;
        if !refused {
            let mut client = units.connect()?;
            let failed = write_all(
                &mut client,
                &mut Random::new(world.seed()),
                Sizes::SMALL.disk_bytes(),
            )?;
            let code = failed
                .as_ref()
                .and_then(|error| error.get_ref()?.downcast_ref::<ServerError>().copied());
            if failed.is_some() {
                ensure!(
                    matches!(code, Some(ServerError::IO | ServerError::NO_SPACE)),
                    "{failed:?}"
                );
            }
            ensure!(process.exit_status()?.is_none(), "the unit ended");
            wait_until("the status to say it", limits::START, || {
                let status = units.local.status()?;
                let problem = status.volume(VOLUME)?.get("problem").cloned().unwrap_or_default();
                Ok(Seen::when(!problem.is_null(), || status.0.to_string()))
            })?;
        }
        let said = format!(
            "{}{}",
            process.log_text(),
            if refused {
                String::new()
            } else {
                units.local.status()?.0.to_string()
            }
        );
        ensure!(!said.contains("panicked"), "{said}");
        ensure!(
            said.to_lowercase().contains("space"),
            "no word about space: {said}"
        );
        process.end_for_test();
        Ok(())
    });
}

#[test]
fn a_disk_too_small_for_the_journal_is_refused() {
    promise(|world| {
        need_root_and(&[])?;
        let disk = Mount::memory(&world.file("small"), 8 << 20)?;
        let journal = disk.path().join("journal");
        let directory = world.file("unit");
        let toml = format!(
            "{}[nbd]\nlisten = [\"{}\"]\n\n[[volume]]\nname = \"{VOLUME}\"\nsize = \"64M\"\n\
             journal_size = \"16M\"\njournal = \"{}\"\n",
            unit_toml("unit", &directory),
            free_address()?,
            journal.display()
        );
        let unit = configured(world, "unit", &directory, &toml)?;
        refuses_volume(&unit, &["journal", "space"])
    });
}

#[test]
fn a_full_disk_under_the_replica_never_reaches_the_host() {
    promise(|world| {
        need_root_and(&[])?;
        let disk = Mount::memory(&world.file("small"), 40 << 20)?;
        let units = TwoUnits::prepare(world, Sizes::SMALL)?;
        std::fs::create_dir_all(&units.remote_directory)?;
        std::os::unix::fs::symlink(disk.path(), units.remote_directory.join("replicas"))?;
        units.remote.start()?;
        units.local.start()?;
        let mut client = units.connect()?;
        let failed = write_all(
            &mut client,
            &mut Random::new(world.seed()),
            Sizes::SMALL.disk_bytes(),
        )?;
        ensure!(
            failed.is_none(),
            "the host got {failed:?} because the remote's disk is full"
        );
        let remote = units.remote.process()?;
        wait_until("somebody to say it", limits::CATCH_UP, || {
            let said = format!(
                "{}{}{}",
                remote.log_text(),
                units.remote.status()?.0,
                units.local.status()?.0
            );
            Ok(Seen::when(said.to_lowercase().contains("space"), || said))
        })?;
        ensure!(remote.exit_status()?.is_none(), "the remote ended");
        ensure!(!remote.log_text().contains("panicked"));
        units.local.wait_mirrored()?;
        client.read(0, 512)?;
        remote.end_for_test();
        Ok(())
    });
}

#[test]
fn a_damaged_replica_journal_is_refused_and_hosts_go_on() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        units.connect()?.write_fua(0, &[5; 65536])?;
        units.expect_same_on_both_sides()?;
        units.remote.shut_down()?;
        let journal = units.replica().with_file_name("journal");
        let replica = std::fs::read(units.replica())?;
        std::fs::write(&journal, Random::new(world.seed()).bytes(1 << 20))?;
        refuses_volume(&units.remote, &["journal"])?;
        ensure!(
            std::fs::read(units.replica())? == replica,
            "the replica was changed"
        );
        units.connect()?.write_fua(8192, &[6; 4096])?;
        units.local.wait_mirrored()?;
        let before = world.file("before.img");
        std::fs::copy(units.mirror(), &before)?;
        images::expect_equal(&units.mirror(), &before)
    });
}
