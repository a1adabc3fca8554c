//! Which parts of the volume hold data, which are zeroes, and which take no space: what the overlay says where something is
//! pending, the image's file elsewhere.
//!
//! Consistent in the same way as a read: the image is asked again if it was being written meanwhile.

use super::Store;
use crate::error::StorageError;
use crate::limits::{ALLOCATION_PIECES, READ_ATTEMPTS};
use crate::overlay::{Piece, Source};
use std::sync::atomic::Ordering;

/// What is known of a range without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// It may hold anything.
    Data,
    /// It reads as zeroes, and its space is reserved.
    Zero,
    /// It reads as zeroes, and takes no space.
    Hole,
}

/// A range of which one thing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes, not zero.
    pub length: u64,
    /// What is known of them.
    pub allocation: Allocation,
}

impl Store {
    /// The first stretches of `offset..end`, which is not empty: without gaps, at least one and at most `most`, so that they
    /// may end before `end`. May wait for a disk.
    ///
    /// # Errors
    /// [`StorageError`] of the image.
    pub fn allocation(&self, offset: u64, end: u64, most: usize) -> Result<Vec<Stretch>, StorageError> {
        for _ in 0..READ_ATTEMPTS {
            let generation = self.image_generation.load(Ordering::Acquire);
            let found = self.look_at_allocation(offset, end, most)?;
            std::sync::atomic::fence(Ordering::Acquire);
            if self.image_generation.load(Ordering::Acquire) == generation {
                return Ok(found);
            }
        }
        // Holding the image consumer keeps the image where it is.
        let _drain = self.drain.lock();
        self.look_at_allocation(offset, end, most)
    }

    fn look_at_allocation(&self, offset: u64, end: u64, most: usize) -> Result<Vec<Stretch>, StorageError> {
        let pieces: Vec<Piece> = {
            let state = self.state.lock();
            state
                .overlay
                .pieces(offset, end)
                .take(ALLOCATION_PIECES)
                .collect()
        };
        // What lies behind the last piece taken is not known.
        let end = match pieces.last() {
            Some(last) if pieces.len() == ALLOCATION_PIECES => last.end,
            _ => end,
        };
        let mut found = Found {
            stretches: Vec::new(),
            most,
        };
        let mut at = offset;
        for piece in &pieces {
            if !self.look_at_image(at, piece.offset, &mut found)? {
                return Ok(found.stretches);
            }
            let allocation = match piece.source {
                Source::Journal(_) => Allocation::Data,
                Source::Zero { allocate: true, .. } => Allocation::Zero,
                Source::Zero { allocate: false, .. } => Allocation::Hole,
            };
            if !found.push(piece.end - piece.offset, allocation) {
                return Ok(found.stretches);
            }
            at = piece.end;
        }
        self.look_at_image(at, end, &mut found)?;
        Ok(found.stretches)
    }

    /// `Ok(false)`: no more fit.
    fn look_at_image(&self, mut at: u64, end: u64, found: &mut Found) -> Result<bool, StorageError> {
        while at < end {
            let extent = self.image.extent_at(at, end)?;
            let allocation = if extent.data {
                Allocation::Data
            } else {
                Allocation::Hole
            };
            // A device that answers with nothing is not asked for ever.
            let length = extent.length.clamp(1, end - at);
            if !found.push(length, allocation) {
                return Ok(false);
            }
            at += length;
        }
        Ok(true)
    }
}

struct Found {
    stretches: Vec<Stretch>,
    most: usize,
}

impl Found {
    /// `false`: it does not fit.
    fn push(&mut self, length: u64, allocation: Allocation) -> bool {
        let full = self.stretches.len() == self.most;
        match self.stretches.last_mut() {
            Some(last) if last.allocation == allocation => last.length += length,
            _ if full => return false,
            _ => self.stretches.push(Stretch { length, allocation }),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::device::FileDevice;
    use crate::store::{Change, StoreDevices, StoreParameters};
    use crate::test_disk::Random;
    use farside_protocol::journal::{RecordKind, Role};
    use std::sync::Arc;
    use uuid::Uuid;

    const VOLUME_BYTES: u64 = 1 << 20;

    fn store(directory: &tempfile::TempDir) -> Store {
        let file = |name: &str, bytes: u64| {
            let path = directory.path().join(name);
            let file = std::fs::File::create_new(&path).unwrap();
            file.set_len(bytes).unwrap();
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            Arc::new(FileDevice::new(file, &path).unwrap())
        };
        let (journal, image) = (file("journal", 4 << 20), file("image", VOLUME_BYTES));
        let parameters = StoreParameters {
            role: Role::Volume,
            name: "disk0".to_owned(),
            volume: Uuid::from_u128(1),
            journal: Uuid::from_u128(2),
            volume_bytes: VOLUME_BYTES,
            journal_bytes: 4 << 20,
            segment_bytes: None,
            source: Uuid::nil(),
        };
        Store::format(journal.as_ref(), &parameters, 1).unwrap();
        let devices = StoreDevices {
            journal,
            image,
            maps: Vec::new(),
        };
        Store::open(devices, Arc::new(SystemClock::new())).unwrap()
    }

    fn change(kind: RecordKind, offset: u64, length: u64) -> Change {
        let data = match kind {
            RecordKind::Write => vec![7; usize::try_from(length).unwrap()],
            _ => Vec::new(),
        };
        Change {
            offset,
            length: u32::try_from(length).unwrap(),
            kind,
            data: data.into(),
            arrived_us: 0,
        }
    }

    fn pass_on(store: &Store) {
        store.sync().unwrap();
        while store.drain().unwrap() {}
        store.checkpoint().unwrap();
    }

    #[test]
    fn what_waits_for_the_image_is_told_as_it_will_be() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let told = |from, to| -> Vec<(u64, Allocation)> {
            let found = store.allocation(from, to, 100).unwrap();
            found
                .iter()
                .map(|stretch| (stretch.length, stretch.allocation))
                .collect()
        };
        assert_eq!(told(0, VOLUME_BYTES), [(VOLUME_BYTES, Allocation::Hole)]);
        let changes = [
            change(RecordKind::Write, 65536, 65536),
            change(RecordKind::Zero { allocate: true }, 262_144, 65536),
            change(RecordKind::Trim, 90_112, 4096),
        ];
        store.append(&mut changes.into()).unwrap();
        let before = [(65536, Allocation::Hole), (24576, Allocation::Data)];
        let behind = [(36864, Allocation::Data), (131_072, Allocation::Hole)];
        let pending = [
            &before[..],
            &[(4096, Allocation::Hole)],
            &behind[..],
            &[
                (65536, Allocation::Zero),
                (VOLUME_BYTES - 327_680, Allocation::Hole),
            ],
        ];
        assert_eq!(told(0, VOLUME_BYTES), pending.concat());
        assert_eq!(told(65537, 65539), [(2, Allocation::Data)]);
        let few = store.allocation(0, VOLUME_BYTES, 3).unwrap();
        assert_eq!(few.len(), 3);
        pass_on(&store);
        let kept = told(0, 131_072);
        assert_eq!(kept.first(), Some(&(65536, Allocation::Hole)), "{kept:?}");
        assert_eq!(kept.get(1), Some(&(24576, Allocation::Data)), "{kept:?}");
    }

    #[test]
    fn whatever_is_told_to_be_zero_is_zero() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let mut random = Random::new(5);
        let mut draw = |bound| random.below(bound);
        let mut model = vec![0_u8; usize::try_from(VOLUME_BYTES).unwrap()];
        let index = |offset: u64| usize::try_from(offset).unwrap();
        let mut told_zero = 0;
        for _ in 0..600 {
            let align = [1, 4096][index(draw(2))];
            let length = (draw(40_000) / align).max(1) * align;
            let offset = draw((VOLUME_BYTES - length) / align) * align;
            let kind = [
                RecordKind::Write,
                RecordKind::Trim,
                RecordKind::Zero { allocate: true },
                RecordKind::Zero { allocate: false },
            ][index(draw(4))];
            let filled = if kind == RecordKind::Write { 7 } else { 0 };
            model[index(offset)..index(offset + length)].fill(filled);
            store.append(&mut [change(kind, offset, length)].into()).unwrap();
            if draw(5) == 0 {
                pass_on(&store);
            }
            let (from, most) = (draw(VOLUME_BYTES), index(draw(6)) + 1);
            let to = from + 1 + draw(VOLUME_BYTES - from);
            let found = store.allocation(from, to, most).unwrap();
            assert!(!found.is_empty() && found.len() <= most);
            let mut at = from;
            for stretch in &found {
                let range = index(at)..index(at + stretch.length);
                at += stretch.length;
                if stretch.allocation != Allocation::Data {
                    assert!(
                        model[range].iter().all(|byte| *byte == 0),
                        "{stretch:?} before {at}"
                    );
                    told_zero += stretch.length;
                }
            }
            assert!(at > from && at <= to && (at == to || found.len() == most));
        }
        assert!(told_zero > VOLUME_BYTES, "it was hardly ever told");
    }
}
