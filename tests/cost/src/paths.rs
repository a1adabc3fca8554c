//! The paths: what a request goes through, from a host's socket to the places where its bytes end up.

use crate::by_hand::ByHand;
use crate::host::{Ask, Host};
use crate::place::{Place, VOLUME_BYTES};
use crate::remote::Remote;
use anyhow::{Context, Result};
use bytes::Bytes;
use farside::volume::Volume;
use farside_protocol::journal::{RecordKind, Role};
use farside_storage::Change;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes after which everything is made durable and brought into the mirror, as the product's threads do.
const STEP_BYTES: usize = 4 << 20;
/// Bytes that are only in the journal where reads are to find them there.
const PENDING_BYTES: u64 = 12 << 20;
/// Chunks of a journal that is recovered.
const LEFT_CHUNKS: u64 = 1000;

const SMALL: usize = 4 << 10;
const LARGE: usize = 128 << 10;

/// Something whose cost is counted.
pub(crate) struct Path {
    /// What it is called.
    pub(crate) name: &'static str,
    /// What a request does.
    pub(crate) what: &'static str,
    /// Requests of the shorter of two runs.
    pub(crate) requests: u64,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Writes { length: usize, depth: usize },
    Flushes,
    Reads { length: usize, depth: usize },
    PendingReads,
    Replicated { length: usize, depth: usize },
    Recovery,
}

/// All paths.
pub(crate) const ALL: &[Path] = &[
    Path {
        name: "write-4k-depth-1",
        what: "a write, journaled and brought into the mirror",
        requests: 1024,
        kind: Kind::Writes {
            length: SMALL,
            depth: 1,
        },
    },
    Path {
        name: "write-4k-depth-32",
        what: "the same, 32 at a time",
        requests: 2048,
        kind: Kind::Writes {
            length: SMALL,
            depth: 32,
        },
    },
    Path {
        name: "write-128k-depth-8",
        what: "a large write, 8 at a time",
        requests: 128,
        kind: Kind::Writes {
            length: LARGE,
            depth: 8,
        },
    },
    Path {
        name: "write-flush-4k",
        what: "a write and a flush",
        requests: 512,
        kind: Kind::Flushes,
    },
    Path {
        name: "read-4k-depth-1",
        what: "a read from the mirror",
        requests: 2048,
        kind: Kind::Reads {
            length: SMALL,
            depth: 1,
        },
    },
    Path {
        name: "read-4k-depth-32",
        what: "the same, 32 at a time",
        requests: 4096,
        kind: Kind::Reads {
            length: SMALL,
            depth: 32,
        },
    },
    Path {
        name: "read-128k-depth-8",
        what: "a large read, 8 at a time",
        requests: 256,
        kind: Kind::Reads {
            length: LARGE,
            depth: 8,
        },
    },
    Path {
        name: "read-4k-pending",
        what: "a read of what is only in the journal, 32 at a time",
        requests: 4096,
        kind: Kind::PendingReads,
    },
    Path {
        name: "replicate-4k-depth-32",
        what: "a write, 32 at a time, up to the remote's confirmation and into its image",
        requests: 2048,
        kind: Kind::Replicated {
            length: SMALL,
            depth: 32,
        },
    },
    Path {
        name: "replicate-128k-depth-8",
        what: "the same with large writes, 8 at a time",
        requests: 128,
        kind: Kind::Replicated {
            length: LARGE,
            depth: 8,
        },
    },
    Path {
        name: "recover-1000-chunks",
        what: "the start after a crash that left 1000 chunks to be applied",
        requests: 4,
        kind: Kind::Recovery,
    },
];

/// The path of this name.
pub(crate) fn find(name: &str) -> Result<&'static Path> {
    let found = ALL.iter().find(|path| path.name == name);
    found.with_context(|| format!("there is no path '{name}'; see farside-cost list"))
}

impl Path {
    /// Goes along it for so many requests.
    pub(crate) fn run(&self, requests: u64) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let requests = usize::try_from(requests)?;
        runtime.block_on(async {
            match self.kind {
                Kind::Writes { length, depth } => Local::new().await?.write(length, depth, requests).await,
                Kind::Flushes => Local::new().await?.flush(requests).await,
                Kind::Reads { length, depth } => {
                    let local = Local::new().await?;
                    local.read((length, depth), requests, VOLUME_BYTES).await
                }
                Kind::PendingReads => pending_reads(requests).await,
                Kind::Replicated { length, depth } => replicate(length, depth, requests).await,
                Kind::Recovery => recover(requests),
            }
        })
    }
}

/// A unit with one volume and one host.
struct Local {
    place: Place,
    hands: Arc<ByHand>,
    volume: Arc<Volume>,
    host: Host,
}

impl Local {
    async fn new() -> Result<Self> {
        let place = Place::new()?;
        let hands = Arc::new(ByHand::default());
        let volume = Volume::start(place.create(Role::Volume)?, hands.clone())?;
        let host = Host::attach(&volume, &hands).await?;
        Ok(Self {
            place,
            hands,
            volume,
            host,
        })
    }

    async fn end(self) -> Result<()> {
        self.host.detach().await?;
        self.volume.shut_down()?;
        drop(self.place);
        Ok(())
    }

    async fn write(mut self, length: usize, depth: usize, requests: usize) -> Result<()> {
        let mut written = 0;
        for _ in 0..requests / depth {
            self.host.ask(Ask::Write, length, depth, VOLUME_BYTES).await?;
            written += length * depth;
            if written >= STEP_BYTES {
                self.hands.step();
                written = 0;
            }
        }
        self.end().await
    }

    async fn flush(mut self, requests: usize) -> Result<()> {
        for _ in 0..requests {
            self.host.ask(Ask::Write, SMALL, 1, VOLUME_BYTES).await?;
            self.host.flush().await?;
        }
        self.end().await
    }

    async fn read(mut self, (length, depth): (usize, usize), requests: usize, below: u64) -> Result<()> {
        for _ in 0..requests / depth {
            self.host.ask(Ask::Read, length, depth, below).await?;
        }
        self.end().await
    }
}

async fn pending_reads(requests: usize) -> Result<()> {
    let mut local = Local::new().await?;
    let mut left = PENDING_BYTES;
    while left > 0 {
        local.host.ask(Ask::Write, SMALL, 32, PENDING_BYTES).await?;
        local.hands.sync();
        left = left.saturating_sub(32 * SMALL as u64);
    }
    local.read((SMALL, 32), requests, PENDING_BYTES).await
}

async fn replicate(length: usize, depth: usize, requests: usize) -> Result<()> {
    let mut local = Local::new().await?;
    let remote = Remote::follow(&local.place, &local.volume, &local.hands)?;
    remote.caught_up().await?;
    let mut written = 0;
    for _ in 0..requests / depth {
        local.host.ask(Ask::Write, length, depth, VOLUME_BYTES).await?;
        written += length * depth;
        if written >= STEP_BYTES {
            remote.caught_up().await?;
            written = 0;
        }
    }
    remote.caught_up().await?;
    remote.leave().await?;
    local.end().await
}

fn recover(times: usize) -> Result<()> {
    let place = Place::new()?;
    let store = place.create(Role::Volume)?;
    for number in 0..LEFT_CHUNKS {
        let mut pending = VecDeque::from([Change {
            offset: number * SMALL as u64,
            length: u32::try_from(SMALL)?,
            kind: RecordKind::Write,
            data: Bytes::from_static(&[7; SMALL]),
            arrived_us: store.clock().wall_us(),
        }]);
        store.append(&mut pending)?;
    }
    store.sync()?;
    drop(store);
    for _ in 0..times {
        // Never shut down: each start finds what a crash leaves.
        drop(place.open(Role::Volume)?);
    }
    Ok(())
}
