//! Hosts: what they ask of a volume, and what they hold it to. These ask the volume itself; those of `nbd_host.rs` go
//! through the NBD target.

use crate::checks;
use crate::local::Site;
use crate::process::Process;
use crate::schedule::{Needs, rest, spawn};
use crate::world::World;
use bytes::Bytes;
use farside::targets::{Disk, DiskError, Update};
use farside::volume::Volume;
use farside_protocol::journal::RecordKind;
use farside_storage::Allocation;
use farside_tests::random::Random;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longest range of one request in bytes: larger than a segment's room, so that some are split.
const LONGEST: u64 = 24 << 10;

/// What a host asks for.
#[derive(Debug, Clone)]
pub enum Question {
    /// A change of this kind, after which these bytes stand at `offset`.
    Change {
        /// First byte changed.
        offset: u64,
        /// What stands there then.
        bytes: Arc<[u8]>,
        /// Write, trim or zeroes.
        kind: RecordKind,
        /// It is answered only when it is durable.
        durable: bool,
    },
    /// The bytes of a range.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// Everything acknowledged so far becomes durable.
    Flush,
}

impl std::fmt::Display for Question {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Change {
                offset,
                bytes,
                kind,
                durable,
            } => {
                let durable = if *durable { ", durable" } else { "" };
                write!(formatter, "{kind:?} {}+{}{durable}", offset, bytes.len())
            }
            Self::Read { offset, length } => write!(formatter, "read {offset}+{length}"),
            Self::Flush => write!(formatter, "flush"),
        }
    }
}

/// The next question of a host of a volume of this size.
pub fn ask(random: &mut Random, volume_bytes: u64) -> Question {
    match random.below(100) {
        0..58 => change(random, volume_bytes),
        58..80 => {
            let (offset, length) = range(random, volume_bytes);
            let length = u32::try_from(length).unwrap_or(0);
            Question::Read { offset, length }
        }
        _ => Question::Flush,
    }
}

fn range(random: &mut Random, size: u64) -> (u64, u64) {
    let (offset, length) = match random.below(10) {
        // A few blocks that everybody fights for.
        0..4 => (4096 * random.below(4), 4096),
        4..7 => (4096 * random.below(size / 4096), 4096 * random.between(1, 4)),
        // Anything at all.
        7..9 => (random.below(size), random.between(1, 5000)),
        _ => (4096 * random.below(size / 4096), random.between(1, LONGEST)),
    };
    (offset, length.min(size - offset))
}

/// The next change of a host that asks for nothing else.
pub fn change(random: &mut Random, size: u64) -> Question {
    let (offset, length) = range(random, size);
    let length = usize::try_from(length).unwrap_or(0);
    let (bytes, kind): (Arc<[u8]>, _) = match random.below(12) {
        0 => (vec![0; length].into(), RecordKind::Trim),
        1 => {
            let allocate = random.chance(50);
            (vec![0; length].into(), RecordKind::Zero { allocate })
        }
        _ => (random.bytes(length).into(), RecordKind::Write),
    };
    let durable = random.chance(8);
    Question::Change {
        offset,
        bytes,
        kind,
        durable,
    }
}

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
        spawn(process, Needs::Queue, host.work());
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
            rest(Duration::from_micros(pause)).await;
            let begun = Instant::now();
            let waiting = checks::waiting::Waiting::new(&self.site);
            let mut question = ask(&mut self.random, self.site.volume_bytes());
            self.site.history.lock().repeat(&mut self.random, &mut question);
            let result = match question {
                Question::Read { offset, length } => self.read(offset, length).await,
                Question::Flush => self.flush().await,
                first @ Question::Change { .. } => self.change(first).await,
            };
            if self.process.is_dead() {
                return;
            }
            drop(waiting);
            checks::waiting::answered(&self.site, begun.elapsed());
            self.world.stats.checked();
            if let Err(error) = result {
                let excused =
                    self.site.faulty.get() || self.site.is_hurt() || self.volume.closing().is_cancelled();
                let failure = self.volume.store().failure();
                assert!(excused, "{} answered {error}: {failure:?}", self.site.name);
                return;
            }
        }
    }

    /// Asks for a batch of changes.
    async fn change(&mut self, first: Question) -> Result<(), DiskError> {
        let (mut batch, mut asked) = (Vec::new(), Vec::new());
        let mut is_durable = false;
        let more = self.random.below(3);
        let rest: Vec<_> = (0..more)
            .map(|_| {
                let mut next = change(&mut self.random, self.site.volume_bytes());
                self.site.history.lock().repeat(&mut self.random, &mut next);
                next
            })
            .collect();
        for question in std::iter::once(first).chain(rest) {
            if let Question::Change {
                offset,
                bytes,
                kind,
                durable,
            } = question
            {
                is_durable |= durable;
                batch.push(update(offset, &bytes, kind));
                asked.push(self.site.history.lock().ask(offset, bytes, kind));
            }
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
        for number in asked {
            let (done, position) = (answer.is_ok(), answer.unwrap_or(u64::MAX));
            let last = self.site.history.lock().answered(number, done, position);
            assert!(
                position >= last,
                "{}: acknowledged at {position} what is record {last}",
                self.site.name
            );
        }
        let position = answer?;
        if is_durable {
            self.durable(position, position).await?;
        }
        Ok(())
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

    /// Asks what is zero, which has to read as such.
    async fn allocation(&mut self, offset: u64, length: u32) -> Result<(), DiskError> {
        let from = checks::reads::begun(&self.site, &self.volume);
        let found = self.volume.allocation(offset, u64::from(length), 4).await?;
        if self.process.is_dead() {
            return Ok(());
        }
        let mut at = offset;
        for stretch in &found {
            if stretch.allocation != Allocation::Data {
                let zeroes = vec![0; usize::try_from(stretch.length).unwrap_or(usize::MAX)];
                checks::reads::ended(&self.site, at, &zeroes, from);
            }
            at += stretch.length;
        }
        let whole = offset + u64::from(length);
        assert!(
            at > offset && at <= whole && (at == whole || found.len() <= 4),
            "{} said {found:?} about {length} bytes",
            self.site.name
        );
        Ok(())
    }

    async fn read(&mut self, offset: u64, length: u32) -> Result<(), DiskError> {
        if self.random.chance(10) {
            return self.allocation(offset, length).await;
        }
        let from = checks::reads::begun(&self.site, &self.volume);
        let mut found = vec![0; length as usize];
        let quick = self.random.chance(50) && self.volume.read_cached(offset, &mut found)?;
        if !quick {
            found = self.volume.read(offset, length, Vec::new()).await?;
        }
        if !self.process.is_dead() {
            checks::reads::ended(&self.site, offset, &found, from);
        }
        Ok(())
    }
}

fn update(offset: u64, bytes: &Arc<[u8]>, kind: RecordKind) -> Update {
    let length = bytes.len() as u64;
    match kind {
        RecordKind::Trim => Update::Trim { offset, length },
        RecordKind::Zero { allocate } => Update::Zero {
            offset,
            length,
            allocate,
        },
        RecordKind::Write | RecordKind::Mark(_) => Update::Write {
            offset,
            data: Bytes::copy_from_slice(bytes),
        },
    }
}
