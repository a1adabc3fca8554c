//! The volume in memory as its sender sees it.

use super::{BLOCKS, VOLUME_BYTES, Volume};
use farside::link::source::WantedChunks;
use farside::link::{
    ChunkSpan, ComparedPiece, Digests, Extent, Identity, Located, Points, Source, SourceError,
};
use farside_protocol::journal::{ChainPoint, ConsumerState};
use tokio::sync::watch;

impl Source for Volume {
    fn identity(&self) -> Identity {
        Identity {
            epoch: self.state().epoch,
            ..self.identity.clone()
        }
    }

    fn points(&self) -> Points {
        self.state().points
    }

    fn now_us(&self) -> u64 {
        1_000_000
    }

    fn consumer(&self, remote: &str) -> (ConsumerState, ChainPoint) {
        let none = (ConsumerState::NeedsCopy, ChainPoint::default());
        self.state().consumers.get(remote).copied().unwrap_or(none)
    }

    fn set_consumer(&self, remote: &str, state: ConsumerState, acked: ChainPoint) {
        let mut inner = self.state();
        if let Some(consumer) = inner.consumers.get_mut(remote)
            && consumer.0 != ConsumerState::NeedsCopy
        {
            let was = std::mem::replace(consumer, (state, acked));
            if was.0 == ConsumerState::Copying && was.1 != acked {
                inner.trail.clear();
            }
            if was.0 == ConsumerState::Copying && state == ConsumerState::Attached {
                inner.dirty = [false; BLOCKS];
                inner.copy_id = 0;
                inner.trail.clear();
            }
        }
        inner.trim();
    }

    async fn start_copy(&self, remote: &str, all: bool) -> Result<(ChainPoint, u32), SourceError> {
        Ok(self.start_copy_now(remote, all))
    }

    async fn locate(&self, record: u64) -> Result<Located, SourceError> {
        Ok(self.locate_now(record))
    }

    async fn read_chunks(
        &self,
        wanted: &WantedChunks,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, SourceError> {
        self.read_chunks_now(wanted, buffer)
    }

    fn copy_bytes(&self, from: u64) -> u64 {
        VOLUME_BYTES - from
    }

    async fn digests(&self, piece: ComparedPiece) -> Result<Option<Digests>, SourceError> {
        Ok(Some(self.digests_now(piece)))
    }

    async fn read_image(
        &self,
        offset: u64,
        max_bytes: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Extent, SourceError> {
        if offset >= VOLUME_BYTES / 2 && self.state().too_small {
            // What was copied is confirmed meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            self.overflow();
            return Err(SourceError::Behind);
        }
        Ok(self.read_image_now(offset, max_bytes, buffer))
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
