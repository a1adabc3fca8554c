//! A disk for tests: what was not synced may be lost, per sector, when it crashes.

use crate::device::Device;
use crate::error::StorageError;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::IoSlice;

const SECTOR: usize = 512;

/// Small, repeatable random numbers (xorshift).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

pub(crate) struct TestDisk {
    content: Mutex<Content>,
}

impl std::fmt::Debug for TestDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TestDisk")
    }
}

impl TestDisk {
    pub(crate) fn new(bytes: u64) -> Self {
        let zeroes = vec![0; usize::try_from(bytes).unwrap()];
        Self {
            content: Mutex::new(Content {
                current: zeroes.clone(),
                durable: zeroes,
                dirty: BTreeSet::new(),
            }),
        }
    }

    /// Loses power: a random part of what was not synced survives. `keep` of 0 loses all, 100 keeps all.
    pub(crate) fn crash(&self, random: &mut Random, keep: u64) -> Self {
        let content = self.content.lock();
        let mut after = content.durable.clone();
        for sector in &content.dirty {
            if random.below(100) < keep {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                after[range.clone()].copy_from_slice(&content.current[range]);
            }
        }
        Self {
            content: Mutex::new(Content {
                current: after.clone(),
                durable: after,
                dirty: BTreeSet::new(),
            }),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.content.lock().current.clone()
    }

    /// Writes behind the back of whoever uses the disk, durably.
    pub(crate) fn plant(&self, offset: usize, bytes: &[u8]) {
        let mut content = self.content.lock();
        content.current[offset..offset + bytes.len()].copy_from_slice(bytes);
        content.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn flip(&self, offset: usize) {
        let mut content = self.content.lock();
        content.current[offset] ^= 0x10;
        content.durable[offset] ^= 0x10;
    }

    /// What a failed sync may leave: the cache has what was written, the medium something else, and no later sync
    /// writes it.
    pub(crate) fn tear_below(&self, offset: usize) {
        self.content.lock().durable[offset] ^= 0x10;
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let mut content = self.content.lock();
        let from = usize::try_from(offset).unwrap();
        content.current[from..from + bytes.len()].copy_from_slice(bytes);
        content
            .dirty
            .extend(from / SECTOR..(from + bytes.len()).div_ceil(SECTOR));
    }
}

impl Device for TestDisk {
    fn name(&self) -> &'static str {
        "test disk"
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        let from = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.content.lock().current[from..from + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
        self.put(offset, &bytes);
        Ok(())
    }

    fn make_room(&self, volume_bytes: u64) -> Result<bool, StorageError> {
        let bytes = self.content.lock().current.len() as u64;
        assert!(volume_bytes <= bytes, "the disk has {bytes} bytes");
        Ok(false)
    }

    fn zero_at(&self, offset: u64, length: u64, _allocate: bool) -> Result<(), StorageError> {
        self.put(offset, &vec![0; usize::try_from(length).unwrap()]);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut content = self.content.lock();
        let Content {
            current,
            durable,
            dirty,
        } = &mut *content;
        for sector in std::mem::take(dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(current.len());
            durable[range.clone()].copy_from_slice(&current[range]);
        }
        Ok(())
    }
}
