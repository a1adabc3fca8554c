//! A disk that takes writes and loses them later, as thin ones do that run out: what it reports is reported once, and only to
//! whoever asks it to write. The mirror lies on a loop device over a file that has no room to grow.

use anyhow::{Context as _, Result, ensure};
use farside_storage::{Device as _, FileDevice};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::mounts::{LoopDevice, Mount, need_root_and};
use farside_tests::nbd::{Endpoint, NbdClient, ServerError};
use farside_tests::ports::free_address;
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, Unit, VOLUME, local_unit};
use farside_tests::{Random, World, limits, promise};
use std::fs::File;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 16,
};
const WRITE_BYTES: usize = 65536;

/// Which write each place of the disk holds: the last that was flushed, and the one that failed.
struct Expected {
    flushed: Vec<u64>,
    in_doubt: Option<(usize, u64)>,
}

impl Expected {
    fn new() -> Result<Self> {
        let places = usize::try_from(SIZES.disk_bytes())? / WRITE_BYTES;
        Ok(Self {
            flushed: vec![0; places],
            in_doubt: None,
        })
    }

    fn content(write: u64) -> Vec<u8> {
        match write {
            0 => vec![0; WRITE_BYTES],
            seed => Random::new(seed).bytes(WRITE_BYTES),
        }
    }

    fn check(&self, place: usize, found: &[u8]) -> Result<()> {
        let wanted = *self.flushed.get(place).context("inside the disk")?;
        let in_doubt = self.in_doubt.filter(|(at, _)| *at == place);
        ensure!(
            found == Self::content(wanted)
                || in_doubt.is_some_and(|(_, write)| found == Self::content(write)),
            "place {place} does not hold write {wanted}, which was flushed (in doubt: {in_doubt:?})"
        );
        Ok(())
    }
}

/// Writes and flushes until the disk fails, which it must.
fn write_until_it_fails(client: &mut NbdClient, random: &mut Random) -> Result<Expected> {
    let mut expected = Expected::new()?;
    for write in 1..20_000 {
        let place = usize::try_from(random.below(expected.flushed.len() as u64))?;
        let offset = (place * WRITE_BYTES) as u64;
        let done = client.write(offset, &Expected::content(write));
        if let Err(error) = done.and_then(|()| client.flush()) {
            let code = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<ServerError>());
            ensure!(
                matches!(code, Some(&(ServerError::IO | ServerError::NO_SPACE))),
                "{error:?}"
            );
            expected.in_doubt = Some((place, write));
            return Ok(expected);
        }
        if let Some(flushed) = expected.flushed.get_mut(place) {
            *flushed = write;
        }
    }
    anyhow::bail!("no host was told that the mirror's disk loses writes")
}

fn unit_on<'w>(world: &'w World, mirror: &Path, nbd: SocketAddr) -> Result<Unit<'w>> {
    let volume = format!(
        "[[volume]]\nname = \"{VOLUME}\"\nsize = \"{}M\"\njournal_size = \"{}M\"\nmirror = \"{}\"\n",
        SIZES.disk_mib,
        SIZES.journal_mib,
        mirror.display()
    );
    local_unit(world, "local", &world.file("local"), nbd, &volume)
}

#[test]
fn what_the_mirrors_disk_lost_is_in_the_journal() {
    promise(|world| {
        need_root_and(&["/dev/loop-control"])?;
        let small = Mount::memory(&world.file("small"), 24 << 20)?;
        let backing = small.path().join("backing");
        File::create(&backing)?.set_len(SIZES.disk_bytes())?;
        let device = LoopDevice::attach(&backing, &[])?;
        let nbd = free_address()?;
        let unit = unit_on(world, device.path(), nbd)?;
        unit.start()?;
        let attach = || NbdClient::connect(&Endpoint::Tcp(nbd), VOLUME);
        let mut random = Random::new(world.seed());
        let expected = write_until_it_fails(&mut attach()?, &mut random)?;

        wait_until("the status to say it", limits::START, || {
            let status = unit.status()?;
            let problem = status.volume(VOLUME)?.get("problem").cloned().unwrap_or_default();
            let named = problem.to_string().contains(&device.path().display().to_string());
            Ok(Seen::when(named, || status.0.to_string()))
        })?;
        let said = unit.process()?.log_text();
        ensure!(!said.contains("panicked"), "{said}");

        // The operator gives the disk room; what the kernel still remembers of it is forgotten, as over a restart.
        unit.kill9()?;
        Tool::new("mount")
            .args(["-o", &format!("remount,size={}", 2 * SIZES.disk_bytes())])
            .path(small.path())
            .ok()?;
        Tool::new("blockdev")
            .args(["--flushbufs"])
            .path(device.path())
            .ok()?;
        unit.start()?;
        let mut client = attach()?;
        for place in 0..expected.flushed.len() {
            let found = client.read((place * WRITE_BYTES) as u64, u32::try_from(WRITE_BYTES)?)?;
            expected.check(place, &found).context("read by a host")?;
        }
        drop(client);
        unit.shut_down()?;
        Tool::new("blockdev")
            .args(["--flushbufs"])
            .path(device.path())
            .ok()?;
        let image = std::fs::read(&backing)?;
        for (place, found) in image.chunks(WRITE_BYTES).enumerate() {
            expected.check(place, found).context("on the mirror")?;
        }
        Ok(())
    });
}

#[test]
fn a_part_that_is_brought_to_the_disk_is_there() {
    promise(|world| {
        need_root_and(&["/dev/loop-control"])?;
        let backing = world.file("backing");
        let options = || File::options().read(true).write(true).clone();
        let file = options().create_new(true).open(&backing)?;
        file.set_len(SIZES.disk_bytes())?;
        let loop_device = LoopDevice::attach(&backing, &[])?;
        let device = FileDevice::new(options().open(loop_device.path())?, loop_device.path())?;
        // Far apart, because the kernel may write what lies beside a part with it.
        let parts = [0, 16 << 20, 48 << 20];
        let content = Random::new(world.seed()).bytes(WRITE_BYTES);
        for part in parts {
            device.write_at(&mut [IoSlice::new(&content)], part)?;
        }
        let expect = |there: [bool; 3]| -> Result<()> {
            let mut found = vec![0; content.len()];
            for (part, there) in parts.into_iter().zip(there) {
                file.read_exact_at(&mut found, part)?;
                ensure!(
                    (found == content) == there,
                    "at {part}: on the disk should be {there}"
                );
            }
            Ok(())
        };
        expect([false; 3]).context("before anything was asked for")?;
        device.write_back(parts[1]..parts[1] + content.len() as u64)?;
        expect([false, true, false]).context("one part")?;
        device.sync()?;
        expect([true; 3]).context("everything")
    });
}
