//! A remote: the real link to a real replica, over a pair of sockets.

use crate::by_hand::ByHand;
use crate::place::{NAME, Place, UNIT};
use anyhow::{Result, ensure};
use farside::link::{SessionSetup, StatusCell, run_session};
use farside::volume::{LinkSource, Volume};
use farside_protocol::journal::Role;
use farside_protocol::link::{Hello, Refusal};
use farside_remote::{Past, Receiver, ReceiverConfig, Replica, Replicas};
use farside_storage::open_map;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use uuid::Uuid;

/// Most bytes sent and not confirmed.
const WINDOW_BYTES: u64 = 16 << 20;
const REMOTE: &str = "far";

struct OneReplica(Arc<Replica>);

impl Replicas for OneReplica {
    type Sink = Replica;

    async fn open_or_create(&self, _hello: &Hello) -> Result<Arc<Replica>, Refusal> {
        Ok(self.0.clone())
    }
}

/// A remote that follows a volume.
pub(crate) struct Remote {
    volume: Arc<Volume>,
    hands: Arc<ByHand>,
    far_hands: Arc<ByHand>,
    stop: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Remote {
    /// Begins to send a volume to a new replica.
    pub(crate) fn follow(place: &Place, volume: &Arc<Volume>, hands: &Arc<ByHand>) -> Result<Self> {
        let far_hands = Arc::new(ByHand::default());
        let store = place.create(Role::Replica)?;
        let replica = Replica::start(
            (store, Past::default()),
            place.files(Role::Replica),
            far_hands.clone(),
        )?;
        let config = ReceiverConfig {
            unit: Uuid::from_u128(0xfa),
            unit_name: REMOTE.to_owned(),
        };
        let receiver = Receiver::new(Arc::new(OneReplica(replica)), config);
        let files = place.files(Role::Volume);
        let unit = (UNIT, "here".to_owned());
        let source = LinkSource::new(volume.clone(), unit, REMOTE, |superblock| {
            open_map(&files, REMOTE, superblock)
        })?;
        let setup = SessionSetup {
            source: Arc::new(source),
            remote_name: REMOTE.to_owned(),
            instance: Uuid::from_u128(1),
            window_bytes: WINDOW_BYTES,
            bytes_per_second: None,
            compression: farside_protocol::link::Compression::None,
            confirm: false,
            merge: false,
            windows: None,
            status: Arc::new(StatusCell::default()),
            verification: Arc::default(),
        };
        let (stop, told) = watch::channel(false);
        let (here, there) = UnixStream::pair()?;
        let sending = tokio::spawn(async move {
            run_session(&setup, here.into_split(), told).await;
        });
        let receiving = tokio::spawn(async move {
            let (read, write) = there.into_split();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            receiver.serve(address, read, write).await;
        });
        Ok(Self {
            volume: volume.clone(),
            hands: hands.clone(),
            far_hands,
            stop,
            tasks: [sending, receiving],
        })
    }

    /// Waits until it has confirmed everything that is journaled.
    pub(crate) async fn caught_up(&self) -> Result<()> {
        let store = self.volume.store();
        loop {
            self.hands.step();
            self.far_hands.step();
            let wanted = store.points().journaled.record;
            let acked = store.consumer(REMOTE).map(|consumer| consumer.acked.record);
            if acked == Some(wanted) {
                return Ok(());
            }
            ensure!(
                !self.tasks.iter().any(JoinHandle::is_finished),
                "the link to {NAME} ended"
            );
            yield_now().await;
        }
    }

    /// Ends the link.
    pub(crate) async fn leave(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await?;
        }
        Ok(())
    }
}
