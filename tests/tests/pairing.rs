//! Two units are paired with the commands an operator uses, on the built binary: links between them are encrypted then, and
//! nobody else gets in.

use anyhow::{Context as _, Result, ensure};
use farside_tests::cable::{Cable, End, THERE};
use farside_tests::clock::Seen;
use farside_tests::nbd::{Endpoint, NbdClient};
use farside_tests::status::text;
use farside_tests::tools::Tool;
use farside_tests::units::{
    Sizes, TwoUnits, Unit, VOLUME, configured, local_unit, remote_unit, unit_toml, volume_toml,
};
use farside_tests::{BlockClient as _, Random, limits, ports, promise, wait_until};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const SIZES: Sizes = Sizes::SMALL;
/// What a host writes, and nobody on the way may see.
const SECRET: &[u8] = b"the quick brown fox jumps over the lazy dog, and nobody saw it";

fn token(unit: &Unit) -> Result<String> {
    let said = unit.command(&["pair", "invite", "--json"])?.success()?;
    let said: Value = serde_json::from_str(&said.stdout)?;
    Ok(text(&said, &["token"])?.to_owned())
}

fn pairing(unit: &Unit) -> Result<Value> {
    let said = unit.command(&["pair", "list", "--json"])?.success()?;
    serde_json::from_str(&said.stdout).context("pair list prints no JSON")
}

/// `two.local` goes to `two.remote`, by the address it has in its configuration.
fn pair(two: &TwoUnits) -> Result<()> {
    let (token, address) = (token(&two.remote)?, two.proxy.address().to_string());
    two.local
        .command(&["pair", "with", &address, &token])?
        .success()?;
    Ok(())
}

/// The link of the volume as the local unit sees it.
fn remote(two: &TwoUnits) -> Result<Value> {
    Ok(two.local.status()?.remote(VOLUME)?.clone())
}

fn wait_paired(two: &TwoUnits, with: Option<&str>) -> Result<()> {
    wait_until("the link to be encrypted or not", limits::CATCH_UP, || {
        let remote = remote(two)?;
        let up = text(&remote, &["state"])? == "streaming";
        Ok(Seen::when(up && remote["paired_with"].as_str() == with, || {
            remote.to_string()
        }))
    })
}

/// Passes one connection on and keeps what it saw.
struct Wiretap {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Wiretap {
    fn before(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, seen) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect(target) else {
                    continue;
                };
                let (Ok(back_from), Ok(back_to)) = (to.try_clone(), from.try_clone()) else {
                    continue;
                };
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || pass_on(from, to, Some(&kept)));
                std::thread::spawn(move || pass_on(back_from, back_to, None));
            }
        });
        Ok(Self { address, seen })
    }

    fn forget(&self) {
        self.seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clear();
    }

    fn saw(&self, what: &[u8]) -> bool {
        let seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.windows(what.len()).any(|window| window == what)
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, keep: Option<&Mutex<Vec<u8>>>) {
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let (passed, _) = bytes.split_at(count);
        if let Some(keep) = keep {
            keep.lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .extend_from_slice(passed);
        }
        if to.write_all(passed).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn what_paired_units_say_to_each_other_nobody_else_reads() {
    promise(|world| {
        let link = ports::free_address()?;
        let far = world.file("far");
        let remote = remote_unit(world, "far", &far, link)?;
        remote.start()?;
        for paired in [false, true] {
            let tap = Wiretap::before(link)?;
            let (name, nbd) = (format!("here-{paired}"), ports::free_address()?);
            let directory = world.file(&name);
            let volumes = volume_toml(SIZES, tap.address).replace(VOLUME, &name);
            let local = local_unit(world, &name, &directory, nbd, &volumes)?;
            if paired {
                // A unit that does not run yet has no key: pair it while its volume goes nowhere.
                local.start()?;
                let (token, address) = (token(&remote)?, tap.address.to_string());
                local.command(&["pair", "with", &address, &token])?.success()?;
                tap.forget();
                local.shut_down()?;
            }
            local.start()?;
            let mut host = NbdClient::connect(&Endpoint::Tcp(nbd), &name)?;
            let mut block = SECRET.to_vec();
            block.resize(4096, b'.');
            host.write(8192, &block)?;
            host.flush()?;
            let wait = ["wait", "--volume", &name, "--applied", "--timeout", "30s"];
            local.command(&wait)?.success()?;
            host.disconnect()?;
            let replica = std::fs::read(far.join("replicas").join(&name).join("replica.img"))?;
            ensure!(
                replica.get(8192..8192 + SECRET.len()) == Some(SECRET),
                "it did not arrive"
            );
            ensure!(tap.saw(SECRET) != paired, "paired: {paired}");
            ensure!(tap.saw(name.as_bytes()) != paired, "the hello, paired: {paired}");
            local.shut_down()?;
        }
        Ok(())
    });
}

#[test]
fn keys_are_renewed_and_pairings_revoked_while_hosts_write() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        ensure!(remote(&two)?["paired_with"].is_null());
        pair(&two)?;
        // A link that was there is connected anew for it.
        wait_paired(&two, Some("remote"))?;
        let mut host = two.connect()?;
        let mut random = Random::new(world.seed());
        let mut write = |count: u64| -> Result<()> {
            for number in 0..count {
                host.write((number << 16) & ((60 << 20) - 1), &random.bytes(65536))?;
            }
            host.flush().map_err(Into::into)
        };
        write(32)?;
        for unit in [&two.remote, &two.local] {
            let before = text(&pairing(unit)?, &["key"])?.to_owned();
            unit.command(&["pair", "renew"])?.success()?;
            write(32)?;
            wait_until("the new key to be in use", limits::CATCH_UP, || {
                let now = pairing(unit)?;
                let done = now["renewal_waits_for"].is_null() && text(&now, &["key"])? != before;
                Ok(Seen::when(done, || now.to_string()))
            })?;
        }
        // Both still know each other, also with the keys of now alone.
        two.local.command(&["journal", "stop-send"])?.success()?;
        two.local.command(&["journal", "start-send"])?.success()?;
        wait_paired(&two, Some("remote"))?;
        write(32)?;
        let revoked = two.remote.command(&["pair", "revoke", "local"])?.success()?;
        ensure!(revoked.stdout.contains("pair revoke"), "{revoked:?}");
        write(32)?;
        wait_until("the link to be refused", limits::CATCH_UP, || {
            let remote = remote(&two)?;
            Ok(Seen::when(text(&remote, &["state"])? == "refused", || {
                remote.to_string()
            }))
        })?;
        pair(&two)?;
        wait_paired(&two, Some("remote"))?;
        write(32)?;
        host.disconnect()?;
        two.expect_same_on_both_sides()
    });
}

#[test]
fn between_machines_nothing_is_sent_or_taken_before_the_units_are_paired() {
    promise(|world| {
        let cable = Cable::lay()?;
        let (here, there) = (world.file("here"), world.file("there"));
        let listen = format!("[link]\nlisten = [\"{THERE}:10900\"]\n");
        let far = configured(world, "there", &there, &(unit_toml("there", &there) + &listen))?;
        let volume = volume_toml(SIZES, format!("{THERE}:10900").parse()?);
        let near = configured(world, "here", &here, &(unit_toml("here", &here) + &volume))?;
        let (far, near) = (
            far.in_namespace(&cable.end(End::There)),
            near.in_namespace(&cable.end(End::Here)),
        );
        far.start()?;
        near.start()?;
        let wait_detail = |word: &str| {
            wait_until("the operator to be told", limits::CATCH_UP, || {
                let status = near.status()?;
                let remote = status.remote(VOLUME)?;
                let told = remote["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(word));
                Ok(Seen::when(told, || remote.to_string()))
            })
        };
        wait_detail("farside pair invite")?;
        ensure!(
            !there.join("replicas").join(VOLUME).exists(),
            "something was sent"
        );
        // Whoever comes unencrypted is turned away, whatever it says.
        let knock = format!("exec 3<>/dev/tcp/{THERE}/10900; printf FSLK >&3; timeout 5 cat <&3");
        let said = Tool::new("ip")
            .args(["netns", "exec", &cable.end(End::Here), "bash", "-c", &knock])
            .run()?;
        ensure!(said.stdout.contains("farside pair invite"), "{said:?}");
        let (token, address) = (token(&far)?, format!("{THERE}:10900"));
        let wrong: String = token.chars().rev().collect();
        let refused = near.command(&["pair", "with", &address, &wrong])?;
        ensure!(
            refused.code == 1 && refused.stderr.contains("60 letters"),
            "{refused:?}"
        );
        near.command(&["pair", "with", &address, &token])?.success()?;
        near.wait_remote_state("streaming", limits::CATCH_UP)?;
        let status = near.status()?;
        ensure!(status.remote(VOLUME)?["paired_with"] == "there", "{status:?}");
        // A unit that was given another identity is not taken for the one that was paired.
        far.shut_down()?;
        std::fs::rename(there.join("link.key"), there.join("kept"))?;
        far.start()?;
        wait_detail("another unit answered than 'there'")?;
        far.shut_down()?;
        std::fs::rename(there.join("kept"), there.join("link.key"))?;
        far.start()?;
        near.wait_remote_state("streaming", limits::CATCH_UP)
    });
}
