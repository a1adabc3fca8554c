//! The disk against a plain array of bytes: every read returns the newest acknowledged write, wherever it is just now
//! (journal, overlay, mirror), through laps of the journal and over kills.

use anyhow::{Context as _, Result, ensure};
use farside_tests::nbd::NbdClient;
use farside_tests::units::{Pair, Sizes};
use farside_tests::{Random, promise, soak};

/// What the disk must hold.
struct Model {
    bytes: Vec<u8>,
    random: Random,
}

impl Model {
    fn new(seed: u64) -> Result<Self> {
        let size = usize::try_from(Sizes::SMALL.disk_bytes())?;
        Ok(Self {
            bytes: vec![0; size],
            random: Random::new(seed),
        })
    }

    /// A random range: often small and crowded, of any alignment.
    fn range(&mut self, largest: u64) -> std::ops::Range<usize> {
        let size = self.bytes.len() as u64;
        let span = if self.random.chance(60) { 1 << 20 } else { size };
        let length = self.random.between(1, largest);
        let offset = self.random.below(span - length + 1);
        let offset = if self.random.chance(50) {
            offset / 4096 * 4096
        } else {
            offset
        };
        let start = usize::try_from(offset).unwrap_or(0);
        start..start + usize::try_from(length).unwrap_or(1)
    }

    fn change(&mut self, client: &mut NbdClient) -> Result<()> {
        let range = self.range(100_000);
        let (offset, length) = (range.start as u64, u32::try_from(range.len())?);
        let content = self.bytes.get_mut(range).context("inside the disk")?;
        match self.random.below(10) {
            0 => {
                content.fill(0);
                client.zero(offset, length)?;
            }
            1 => {
                content.fill(0);
                client.trim(offset, length)?;
            }
            kind => {
                content.copy_from_slice(&self.random.bytes(content.len()));
                if kind == 2 {
                    client.write_fua(offset, content)?
                } else {
                    client.write(offset, content)?
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, client: &mut NbdClient) -> Result<()> {
        let range = self.range(200_000);
        let found = client.read(range.start as u64, u32::try_from(range.len())?)?;
        let wanted = self.bytes.get(range.clone()).context("inside the disk")?;
        let differs = found
            .iter()
            .zip(wanted)
            .position(|(found, wanted)| found != wanted);
        ensure!(
            differs.is_none(),
            "reading {range:?}: byte {differs:?} of it is not what was last written"
        );
        Ok(())
    }

    fn compare_all(&self, client: &mut NbdClient) -> Result<()> {
        for (index, wanted) in self.bytes.chunks(1 << 20).enumerate() {
            let found = client.read((index as u64) << 20, 1 << 20)?;
            ensure!(found == wanted, "the MiB at {index} is not what was written");
        }
        Ok(())
    }
}

#[test]
fn every_read_returns_the_newest_write() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        let mut model = Model::new(world.seed())?;
        // Two connections: what one was told is there, the other sees.
        let (mut writer, mut reader) = (pair.connect()?, pair.connect()?);
        for step in 0..soak(1500, 60_000) {
            model
                .change(&mut writer)
                .with_context(|| format!("step {step}"))?;
            model
                .compare(&mut reader)
                .with_context(|| format!("step {step}"))?;
        }
        model.compare_all(&mut reader)?;
        pair.expect_same_on_both_sides()?;
        ensure!(
            std::fs::read(pair.mirror())? == model.bytes,
            "the mirror is not what was written"
        );
        ensure!(
            std::fs::read(pair.replica())? == model.bytes,
            "the replica is not what was written"
        );
        Ok(())
    });
}

#[test]
fn every_read_returns_the_newest_write_over_kills() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        let mut model = Model::new(world.seed())?;
        for round in 0..soak(4, 60) {
            let mut client = pair.connect()?;
            for _ in 0..100 + world.seed() % 100 {
                model.change(&mut client)?;
            }
            pair.unit.kill9()?;
            pair.unit.start()?;
            let mut client = pair.connect()?;
            model
                .compare_all(&mut client)
                .with_context(|| format!("after kill {round}"))?;
        }
        pair.expect_same_on_both_sides()?;
        ensure!(
            std::fs::read(pair.replica())? == model.bytes,
            "the replica is not what was written"
        );
        Ok(())
    });
}
