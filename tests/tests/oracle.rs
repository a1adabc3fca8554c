//! The disk against a plain array of bytes: every read returns the newest acknowledged write, wherever it is just now
//! (journal, overlay, mirror), through laps of the journal and over kills.

use anyhow::{Context as _, Result, ensure};
use farside_tests::units::{Pair, Protocol, Sizes, VOLUME};
use farside_tests::{BlockClient, Random, promise, soak};

/// What the disk must hold.
struct Model {
    bytes: Vec<u8>,
    /// Where changes begin and end.
    unit_bytes: u64,
    random: Random,
}

impl Model {
    fn new(seed: u64, protocol: Protocol) -> Result<Self> {
        let size = usize::try_from(Sizes::SMALL.disk_bytes())?;
        Ok(Self {
            bytes: vec![0; size],
            unit_bytes: protocol.unit_bytes(),
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
        let unit = self.unit_bytes;
        let (offset, end) = (
            offset / unit * unit,
            (offset + length).next_multiple_of(unit).min(size),
        );
        usize::try_from(offset).unwrap_or(0)..usize::try_from(end).unwrap_or(1)
    }

    fn change(&mut self, client: &mut dyn BlockClient) -> Result<()> {
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

    fn compare(&mut self, client: &mut dyn BlockClient) -> Result<()> {
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

    fn compare_all(&self, client: &mut dyn BlockClient) -> Result<()> {
        for (index, wanted) in self.bytes.chunks(1 << 20).enumerate() {
            let found = client.read((index as u64) << 20, 1 << 20)?;
            ensure!(found == wanted, "the MiB at {index} is not what was written");
        }
        Ok(())
    }
}

/// Reads and writes against the model, through two connections.
fn every_read_returns_the_newest_write(protocol: Protocol) {
    promise(|world| {
        let (pair, endpoint) = Pair::start_over(world, Sizes::SMALL, protocol)?;
        let mut model = Model::new(world.seed(), protocol)?;
        // Two connections: what one was told is there, the other sees.
        let (mut writer, mut reader) = (endpoint.attach(VOLUME)?, endpoint.attach(VOLUME)?);
        for step in 0..soak(1500, 60_000) {
            model
                .change(writer.as_mut())
                .with_context(|| format!("step {step}"))?;
            model
                .compare(reader.as_mut())
                .with_context(|| format!("step {step}"))?;
        }
        model.compare_all(reader.as_mut())?;
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

/// The same with kills of the unit between.
fn every_read_returns_the_newest_write_over_kills(protocol: Protocol) {
    promise(|world| {
        let (pair, endpoint) = Pair::start_over(world, Sizes::SMALL, protocol)?;
        let mut model = Model::new(world.seed(), protocol)?;
        for round in 0..soak(4, 60) {
            let mut client = endpoint.attach(VOLUME)?;
            for _ in 0..100 + world.seed() % 100 {
                model.change(client.as_mut())?;
            }
            pair.unit.kill9()?;
            pair.unit.start()?;
            let mut client = endpoint.attach(VOLUME)?;
            model
                .compare_all(client.as_mut())
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

#[test]
fn every_read_over_nbd_returns_the_newest_write() {
    every_read_returns_the_newest_write(Protocol::Nbd);
}

#[test]
fn every_read_over_iscsi_returns_the_newest_write() {
    every_read_returns_the_newest_write(Protocol::Iscsi);
}

#[test]
fn kills_under_nbd_lose_nothing_that_was_answered() {
    every_read_returns_the_newest_write_over_kills(Protocol::Nbd);
}

#[test]
fn kills_under_iscsi_lose_nothing_that_was_answered() {
    every_read_returns_the_newest_write_over_kills(Protocol::Iscsi);
}
