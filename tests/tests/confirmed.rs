//! Confirmed mode: what a remote holds is compared with what was sent before it counts there.

use anyhow::{Result, ensure};
use farside_protocol::link::limits::HEADER_BYTES;
use farside_protocol::link::{FrameKind, seal};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::ports::free_address;
use farside_tests::status::number;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, World, limits, promise};
use rustix::process::Signal;
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 64,
};

/// Stands between two units and makes of what the remote says that it holds something else, well formed.
#[derive(Default)]
struct Forger {
    forges: AtomicBool,
    forged: AtomicU64,
}

impl Forger {
    fn start(address: SocketAddr, target: SocketAddr) -> Result<Arc<Self>> {
        let (forger, listener) = (Arc::new(Self::default()), TcpListener::bind(address)?);
        let shared = Arc::clone(&forger);
        // It ends with the test.
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.between(here, target));
            }
        });
        Ok(forger)
    }

    fn between(&self, here: TcpStream, target: SocketAddr) -> io::Result<()> {
        let there = TcpStream::connect(target)?;
        let (mut from, mut to) = (here.try_clone()?, there.try_clone()?);
        std::thread::spawn(move || {
            let copied = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
            copied
        });
        let passed = self.pass(&there, &here);
        let _ = here.shutdown(std::net::Shutdown::Both);
        passed
    }

    /// Frame by frame.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER_BYTES];
            from.read_exact(&mut header)?;
            let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            let mut head = vec![0; length as usize];
            from.read_exact(&mut head)?;
            if header[4] == FrameKind::Held.code() && self.forges.load(Ordering::SeqCst) {
                *head.last_mut().expect("a signature ends it") ^= 1;
                header = seal(FrameKind::Held, &head, 0);
                self.forged.fetch_add(1, Ordering::SeqCst);
            }
            to.write_all(&header)?;
            to.write_all(&head)?;
        }
    }
}

/// The local unit dials another address, and confirms.
fn confirming(world: &World, two: &TwoUnits<'_>, address: SocketAddr, more: &str) -> Result<()> {
    let file = world.file("local.toml");
    let text = std::fs::read_to_string(&file)?;
    let text = text.replace(&two.proxy.address().to_string(), &address.to_string());
    Ok(std::fs::write(&file, format!("{text}confirm = true\n{more}"))?)
}

#[test]
fn what_the_remote_does_not_hold_as_it_was_sent_never_counts() {
    promise(|world| {
        let two = TwoUnits::prepare(world, SIZES)?;
        let between = free_address()?;
        let forger = Forger::start(between, two.proxy.address())?;
        confirming(world, &two, between, "")?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let mut random = Random::new(world.seed());
        two.write_some(&mut random)?;
        two.local.wait_applied()?;
        let damaged = || number(two.local.status()?.remote(VOLUME)?, &["damaged"]);
        ensure!(damaged()? == 0, "{}", damaged()?);

        // Whatever the remote holds now is taken for something else.
        let before = two.applied()?;
        forger.forges.store(true, Ordering::SeqCst);
        two.write_some(&mut random)?;
        wait_until("it to be refused three times", limits::CATCH_UP, || {
            let times = damaged()?;
            Ok(Seen::when(times >= 3, || format!("{times} times")))
        })?;
        let shown = two.local.command(&["status"])?.success()?.stdout;
        ensure!(shown.contains("as damaged, and sent again"), "{shown}");
        for round in 0..4 {
            ensure!(
                two.applied()? == before,
                "round {round}: what was not confirmed counts"
            );
            let positions = two.local.positions()?;
            ensure!(
                positions.acked < positions.durable,
                "round {round}: {positions:?}"
            );
            match round {
                0 | 1 => two.remote.kill9()?,
                _ => ensure!(two.remote.shut_down()?.success(), "no clean end"),
            }
            two.remote.start()?;
            let seen = forger.forged.load(Ordering::SeqCst);
            wait_until("the next one to be forged", limits::CATCH_UP, || {
                let now = forger.forged.load(Ordering::SeqCst);
                Ok(Seen::when(now > seen, || format!("{now} forged")))
            })?;
        }
        forger.forges.store(false, Ordering::SeqCst);
        two.expect_same_on_both_sides()?;
        let log = two.remote.process()?.log_text();
        ensure!(
            log.contains("does not hold what was sent"),
            "the remote's log does not say why"
        );
        Ok(())
    });
}

#[test]
fn a_remote_in_confirmed_mode_follows_through_kills_merged_backlogs_and_changes_of_mode() {
    promise(|world| {
        let two = TwoUnits::prepare(world, SIZES)?;
        confirming(world, &two, two.proxy.address(), "merge = true\n")?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let mut random = Random::new(world.seed());
        for round in 0..6 {
            let mut host = two.connect()?;
            for _ in 0..200 {
                let at = random.below(60 << 8) << 12;
                let bytes = usize::try_from(random.between(1, 64))? << 12;
                host.write(at, &random.bytes(bytes))?;
            }
            host.flush()?;
            match round {
                0 | 3 => two.remote.kill9()?,
                1 => {
                    two.local.kill9()?;
                    two.local.start()?;
                }
                2 => {
                    let file = world.file("local.toml");
                    let text = std::fs::read_to_string(&file)?;
                    std::fs::write(&file, text.replace("confirm = true\n", ""))?;
                    two.local.process()?.signal(Signal::HUP)?;
                }
                4 => {
                    let file = world.file("local.toml");
                    let text = std::fs::read_to_string(&file)?;
                    std::fs::write(
                        &file,
                        text.replace("merge = true\n", "merge = true\nconfirm = true\n"),
                    )?;
                    two.local.process()?.signal(Signal::HUP)?;
                }
                _ => {}
            }
            if matches!(round, 0 | 3) {
                two.remote.start()?;
            }
        }
        two.expect_same_on_both_sides()?;
        two.local.command(&["verify", "--volume", VOLUME])?.success()?;
        ensure!(
            number(two.local.status()?.remote(VOLUME)?, &["damaged"])? == 0,
            "damaged"
        );
        Ok(())
    });
}

#[test]
fn a_remote_that_cannot_confirm_is_not_followed_unconfirmed() {
    promise(|world| {
        let two = TwoUnits::prepare(world, SIZES)?;
        confirming(world, &two, two.proxy.address(), "")?;
        // As small as the volume's segments allow.
        let file = world.file("remote.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(
            &file,
            text.replace("[link]\n", "[link]\njournal_size = \"16M\"\n"),
        )?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("refused", limits::CATCH_UP)?;
        let status = two.local.status()?;
        let detail = status.remote(VOLUME)?["detail"].to_string();
        ensure!(detail.contains("take 'confirm' away"), "{detail}");
        Ok(())
    });
}
