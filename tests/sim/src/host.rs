//! Hosts: what they ask of a volume, and what they hold it to.

use crate::checks;
use crate::local::Site;
use crate::process::Process;
use crate::schedule::spawn;
use crate::time::pause_us;
use crate::workers::APPENDING_FREE;
use crate::world::World;
use bytes::{Bytes, BytesMut};
use farside::targets::{Disk, DiskError, Update};
use farside::volume::Volume;
use farside_protocol::journal::RecordKind;
use farside_tests::random::Random;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Starts the hosts of a volume.
pub fn start(world: &Rc<World>, process: &Arc<Process>, site: &Rc<Site>, volume: &Arc<Volume>) {
    for _ in 0..world.hosts {
        let host = Host {
            world: world.clone(),
            process: process.clone(),
            site: site.clone(),
            volume: volume.clone(),
            random: Random::new(world.random.borrow_mut().next_u64()),
        };
        spawn(process, APPENDING_FREE, host.work());
    }
}

struct Host {
    world: Rc<World>,
    process: Arc<Process>,
    site: Rc<Site>,
    volume: Arc<Volume>,
    random: Random,
}

impl Host {
    async fn work(mut self) {
        while self.world.hosts_go_on() {
            let pause = self.random.below(self.world.think_us);
            pause_us(pause).await;
            let begun = Instant::now();
            let result = match self.random.below(100) {
                0..58 => self.change().await,
                58..80 => self.read().await,
                _ => self.flush().await,
            };
            if self.process.is_dead() {
                return;
            }
            checks::waiting::answered(&self.site, begun.elapsed());
            self.world.stats.checked();
            if let Err(error) = result {
                let excused =
                    self.site.faulty.get() || self.site.hurt.get() || error == DiskError::ShuttingDown;
                let failure = self.volume.store().failure();
                assert!(excused, "{} answered {error}: {failure:?}", self.site.name);
                return;
            }
        }
    }

    fn range(&mut self, longest: u64) -> (u64, u64) {
        let size = self.site.volume_bytes;
        let (offset, length) = match self.random.below(10) {
            // A few blocks that everybody fights for.
            0..4 => (4096 * self.random.below(4), 4096),
            4..7 => (
                4096 * self.random.below(size / 4096),
                4096 * self.random.between(1, 4),
            ),
            // Anything at all.
            7..9 => (self.random.below(size), self.random.between(1, 5000)),
            _ => (
                4096 * self.random.below(size / 4096),
                self.random.between(1, longest),
            ),
        };
        (offset, length.min(size - offset).min(longest))
    }

    async fn change(&mut self) -> Result<(), DiskError> {
        let mut batch = Vec::new();
        let mut asked = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            let (update, offset, bytes, kind) = self.update();
            asked.push(self.site.history.lock().ask(offset, bytes, kind));
            batch.push(update);
        }
        let patience = self.random.chance(4).then(|| self.random.below(4_000));
        let update = self.volume.update(&mut batch);
        let answer = match patience {
            None => update.await,
            // A connection that goes away: nobody is told what became of its changes.
            Some(us) => match timeout(Duration::from_micros(us), update).await {
                Ok(answer) => answer,
                Err(_) => return Ok(()),
            },
        };
        if self.process.is_dead() {
            return Err(DiskError::ShuttingDown);
        }
        let position = answer.as_ref().ok().copied();
        for number in asked {
            self.site.history.lock().answered(number, position);
        }
        let position = answer?;
        if self.random.chance(8) {
            self.durable(position, position).await?;
        }
        Ok(())
    }

    fn update(&mut self) -> (Update, u64, Arc<[u8]>, RecordKind) {
        let (offset, length) = self.range(24 << 10);
        let size = usize::try_from(length).unwrap_or(0);
        let short = u32::try_from(length).unwrap_or(0);
        let zeroes: Arc<[u8]> = vec![0; size].into();
        match self.random.below(12) {
            0 => (
                Update::Trim {
                    offset,
                    length: short,
                },
                offset,
                zeroes,
                RecordKind::Trim,
            ),
            1 => {
                let allocate = self.random.chance(50);
                let update = Update::Zero {
                    offset,
                    length: short,
                    allocate,
                };
                (update, offset, zeroes, RecordKind::Zero { allocate })
            }
            _ => {
                let bytes: Arc<[u8]> = self.random.bytes(size).into();
                let data = Bytes::copy_from_slice(&bytes);
                (Update::Write { offset, data }, offset, bytes, RecordKind::Write)
            }
        }
    }

    async fn flush(&mut self) -> Result<(), DiskError> {
        // Everything that any host was told is done by now.
        let promised = self.site.history.lock().acknowledged;
        let position = self.volume.journaled();
        self.durable(position, promised).await
    }

    async fn durable(&mut self, position: u64, promised: u64) -> Result<(), DiskError> {
        self.volume.durable(position).await?;
        if !self.process.is_dead() {
            checks::durability::flushed(&self.site, promised);
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), DiskError> {
        let (offset, length) = self.range(32 << 10);
        let length = u32::try_from(length).unwrap_or(0);
        let from = checks::reads::begun(&self.site, &self.volume);
        let mut found = BytesMut::new();
        let quick = self.random.chance(50) && self.volume.read_cached(offset, length, &mut found)?;
        if !quick {
            found = self.volume.read(offset, length, BytesMut::new()).await?;
        }
        if !self.process.is_dead() {
            checks::reads::ended(&self.site, offset, &found, from);
        }
        Ok(())
    }
}
