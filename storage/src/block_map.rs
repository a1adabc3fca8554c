//! The dirty-block map of a consumer that was cut loose: which blocks changed since it last followed.
//!
//! Bits are only ever added until the consumer is a state of the volume again, so the map on disk may lag behind but
//! never lies: it is synced before the journal gives up the records it stands for.

use crate::device::Device;
use crate::error::StorageError;
use crate::limits::{BLOCK_MAP_BITS, BLOCK_MAP_MIN_BYTES};
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use farside_protocol::journal::{
    BLOCK_MAP_HEADER_BYTES, BlockMapHeader, ChainPoint, MAX_TRAIL_BYTES, MAX_TRAIL_POINTS, decode_trail,
    encode_trail,
};
use std::io::IoSlice;
use std::sync::Arc;
use uuid::Uuid;

/// Where the trail stands in the file: after the bits.
fn trail_offset(header: &BlockMapHeader) -> u64 {
    BLOCK_BYTES_U64 + header.bits.div_ceil(8).next_multiple_of(BLOCK_BYTES_U64)
}

/// What one bit stands for, so that the bits of any volume fit into 2 MiB.
pub(crate) fn block_bytes_for(volume_bytes: u64) -> u64 {
    volume_bytes
        .div_ceil(BLOCK_MAP_BITS)
        .next_power_of_two()
        .max(BLOCK_MAP_MIN_BYTES)
}

/// Where the checksums of the bits stand, in the block of the header.
const SUMS_OFFSET: usize = 1024;
const SUM_BYTES: usize = 4;

/// What a file says of its bits: a checksum for each block of them.
fn with_sums(header: &BlockMapHeader, bits: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..BLOCK_MAP_HEADER_BYTES].copy_from_slice(&header.encode());
    let sums = block[SUMS_OFFSET..].chunks_exact_mut(SUM_BYTES);
    let seed = crc32c::crc32c(&header.encode());
    for (sum, part) in sums.zip(bits.chunks(BLOCK_BYTES)) {
        sum.copy_from_slice(&crc32c::crc32c_append(seed, part).to_be_bytes());
    }
    block
}

/// Bits that are not what was written count as marked: that is always right.
fn mark_damaged(bits: &mut [u8], block: &[u8; BLOCK_BYTES]) {
    let sums = block[SUMS_OFFSET..].chunks_exact(SUM_BYTES);
    // Of the header, too: bits of another geometry are others.
    let seed = crc32c::crc32c(&block[..BLOCK_MAP_HEADER_BYTES]);
    for (sum, part) in sums.zip(bits.chunks_mut(BLOCK_BYTES)) {
        if *sum != crc32c::crc32c_append(seed, part).to_be_bytes() {
            part.fill(0xff);
        }
    }
}

const _: () =
    assert!(BLOCK_MAP_BITS / 8 / BLOCK_BYTES_U64 <= (BLOCK_BYTES - SUMS_OFFSET) as u64 / SUM_BYTES as u64);
const _: () = assert!(BLOCK_MAP_HEADER_BYTES <= SUMS_OFFSET);

/// Blocks that are looked at in one go for the end of a run.
const LONGEST_RUN: u64 = 1 << 12;

/// Without a trail nothing is proved by it, which only ever refuses more.
fn read_trail(device: &dyn Device, header: &BlockMapHeader) -> Result<Vec<ChainPoint>, StorageError> {
    let mut bytes = vec![0; MAX_TRAIL_BYTES];
    device.read_at(&mut bytes, trail_offset(header))?;
    Ok(decode_trail(&bytes).unwrap_or_default())
}

/// One bit per block of a volume.
#[derive(Debug)]
pub struct BlockMap {
    device: Arc<dyn Device>,
    header: BlockMapHeader,
    bits: Vec<u8>,
    marked: u64,
    /// Ends of the chunks that may have reached the consumer unconfirmed.
    trail: Vec<ChainPoint>,
    changed: bool,
}

impl BlockMap {
    /// Geometry for a volume: at most 2 MiB of bits, and no finer than 4 KiB a bit.
    #[must_use]
    pub fn header_for(volume: Uuid, volume_bytes: u64) -> BlockMapHeader {
        let block_bytes = block_bytes_for(volume_bytes);
        BlockMapHeader {
            volume,
            block_bytes,
            bits: volume_bytes.div_ceil(block_bytes).max(1),
        }
    }

    /// Bytes of the file for a volume.
    #[must_use]
    pub fn file_bytes(header: &BlockMapHeader) -> u64 {
        trail_offset(header) + (MAX_TRAIL_BYTES as u64).next_multiple_of(BLOCK_BYTES_U64)
    }

    /// Reads the map from its file; an empty or unreadable one starts with every block marked, which is always
    /// right and costs no more than a full copy.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn open(device: Arc<dyn Device>, volume: Uuid, volume_bytes: u64) -> Result<Self, StorageError> {
        let wanted = Self::header_for(volume, volume_bytes);
        let mut block = [0_u8; BLOCK_BYTES];
        device.read_at(&mut block, 0)?;
        let found = BlockMapHeader::decode(&block[..BLOCK_MAP_HEADER_BYTES]).ok();
        let found = found.filter(|found| found.volume == volume && found.block_bytes >= BLOCK_MAP_MIN_BYTES);
        // One of a larger volume is left of a growth that a loss of power took back: of its bits nothing is used.
        let known = found.filter(|found| found.bits <= wanted.bits);
        // One of another geometry was made by another version.
        let header = known.unwrap_or(wanted);
        let mut bits = vec![0xff_u8; usize::try_from(header.bits.div_ceil(8)).unwrap_or(usize::MAX)];
        if known.is_some() {
            device.read_at(&mut bits, BLOCK_BYTES_U64)?;
            mark_damaged(&mut bits, &block);
        }
        let trail = match (found, known) {
            (Some(_), Some(known)) => read_trail(&*device, &known)?,
            // Its file may be shorter than it.
            (Some(found), None) => read_trail(&*device, &found).unwrap_or_default(),
            (None, _) => Vec::new(),
        };
        let mut map = Self {
            device,
            header,
            bits,
            marked: 0,
            trail,
            // What was read may be in the page cache only, left there by a process that was killed while it wrote it,
            // or after a sync that failed. The first checkpoint writes it once more, before the tail leaves any record
            // that it stands for.
            changed: true,
        };
        if header != wanted {
            map = map.grown(map.device.clone(), volume_bytes);
            // What it does not cover it says nothing of.
            map.mark(header.bits * header.block_bytes, volume_bytes);
        }
        map.clear_beyond_end();
        map.marked = map.bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
        Ok(map)
    }

    /// The map of a volume that has become larger, on a device for its new size. Nothing was ever written to what is new, which
    /// reads as zeroes on all sides.
    pub(crate) fn grown(&self, device: Arc<dyn Device>, volume_bytes: u64) -> Self {
        let header = Self::header_for(self.header.volume, volume_bytes);
        let length = usize::try_from(header.bits.div_ceil(8)).unwrap_or(usize::MAX);
        let mut larger = Self {
            device,
            header,
            bits: vec![0; length],
            marked: 0,
            trail: self.trail.clone(),
            changed: true,
        };
        let block = self.header.block_bytes;
        let some = self.bits.iter().enumerate().filter(|(_, byte)| **byte != 0);
        for (index, byte) in some {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                let at = (index as u64 * 8 + bit) * block;
                larger.mark(at, at + block);
            }
        }
        larger
    }

    fn clear_beyond_end(&mut self) {
        let beyond = self.header.bits % 8;
        if beyond != 0
            && let Some(last) = self.bits.last_mut()
        {
            *last &= (1_u8 << beyond) - 1;
        }
    }

    /// Sets the trail: the ends of the chunks that may have reached the consumer unconfirmed. With `keep_older` it
    /// follows what the trail held before: a consumer that never heard of the copy begun for it still holds that.
    pub fn set_trail(&mut self, mut trail: Vec<ChainPoint>, keep_older: bool) {
        if keep_older {
            let first = trail.first().map_or(u64::MAX, |point| point.record);
            self.trail.retain(|point| point.record < first);
            let excess = (self.trail.len() + trail.len()).saturating_sub(MAX_TRAIL_POINTS);
            self.trail.drain(..excess.min(self.trail.len()));
            self.trail.append(&mut trail);
        } else {
            self.trail = trail;
        }
        self.changed = true;
    }

    /// The end of a chunk at this record, if the trail holds it.
    #[must_use]
    pub fn trail_point(&self, record: u64) -> Option<ChainPoint> {
        self.trail.iter().find(|point| point.record == record).copied()
    }

    /// Marks every block that `offset..end` touches.
    pub fn mark(&mut self, offset: u64, end: u64) {
        let block = self.header.block_bytes;
        let (first, last) = (offset / block, end.div_ceil(block).min(self.header.bits));
        if first >= last {
            return;
        }
        // A trim may be as long as the volume: whole bytes at a time.
        for index in first / 8..=(last - 1) / 8 {
            let from = first.saturating_sub(index * 8).min(8);
            let until = (last - index * 8).min(8);
            let mask = (0xff_u8 << from) & (0xff_u8 >> (8 - until));
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            if let Some(byte) = self.bits.get_mut(at)
                && *byte & mask != mask
            {
                self.marked += u64::from((mask & !*byte).count_ones());
                *byte |= mask;
                self.changed = true;
            }
        }
    }

    /// Forgets what may have reached the consumer unconfirmed.
    pub fn forget_trail(&mut self) {
        if !self.trail.is_empty() {
            self.trail.clear();
            self.changed = true;
        }
    }

    /// Forgets all marks: the consumer has everything.
    pub fn clear(&mut self) {
        self.bits.fill(0);
        self.marked = 0;
        self.trail.clear();
        self.changed = true;
    }

    /// Whether the block that holds `offset` is marked.
    #[must_use]
    pub fn is_marked(&self, offset: u64) -> bool {
        let bit = offset / self.header.block_bytes;
        let byte = usize::try_from(bit / 8)
            .ok()
            .and_then(|index| self.bits.get(index));
        byte.is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    /// Where the run of blocks ends that are like the one at `offset`, and whether they are marked. Long runs are told in
    /// parts.
    #[must_use]
    pub fn run(&self, offset: u64) -> (u64, bool) {
        let block = self.header.block_bytes;
        let first = offset / block;
        let marked = self.is_marked(offset);
        let last = self.header.bits.min(first.saturating_add(LONGEST_RUN));
        let other = (first..last).find(|bit| self.is_marked(bit * block) != marked);
        (other.unwrap_or(last) * block, marked)
    }

    /// Bytes of `offset..end` that are marked.
    #[must_use]
    pub fn marked_from(&self, offset: u64, end: u64) -> u64 {
        let block = self.header.block_bytes;
        let first = offset / block;
        let whole = usize::try_from(first.div_ceil(8)).unwrap_or(usize::MAX);
        let rest = self.bits.get(whole..).unwrap_or_default();
        let mut marked: u64 = rest.iter().map(|byte| u64::from(byte.count_ones())).sum();
        marked += (first..first.next_multiple_of(8))
            .filter(|bit| self.is_marked(bit * block))
            .count() as u64;
        let mut bytes = marked * block;
        // Of the first block only what is left, of the last only what is there.
        if self.is_marked(offset) {
            bytes -= offset % block;
        }
        let beyond = self.header.bits * block - end.min(self.header.bits * block);
        if beyond > 0 && offset < end && self.is_marked(end - 1) {
            bytes -= beyond;
        }
        bytes
    }

    /// Bytes of the volume that are marked, rounded up to blocks.
    #[must_use]
    pub fn marked_bytes(&self) -> u64 {
        self.marked * self.header.block_bytes
    }

    /// What has to be written to make the map as it is now durable; `None` if nothing changed since the last time.
    /// Taken under the lock that guards the map, written outside it.
    pub fn take_changes(&mut self) -> Option<MapImage> {
        std::mem::take(&mut self.changed).then(|| MapImage {
            device: self.device.clone(),
            header: self.header,
            bits: self.bits.clone(),
            trail: encode_trail(&self.trail),
        })
    }
}

/// The content of a dirty-block map at one moment.
#[derive(Debug)]
pub struct MapImage {
    device: Arc<dyn Device>,
    header: BlockMapHeader,
    bits: Vec<u8>,
    trail: Vec<u8>,
}

impl MapImage {
    /// Writes the map and makes it durable.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn persist(&self) -> Result<(), StorageError> {
        self.device
            .write_at(&mut [IoSlice::new(&self.bits)], BLOCK_BYTES_U64)?;
        self.device
            .write_at(&mut [IoSlice::new(&with_sums(&self.header, &self.bits))], 0)?;
        self.device
            .write_at(&mut [IoSlice::new(&self.trail)], trail_offset(&self.header))?;
        self.device.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_disk::{Random, TestDisk};

    const VOLUME: Uuid = Uuid::from_u128(1);

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "a volume of 400 KiB")]
    fn marks_and_runs_are_those_of_every_block_touched() {
        let (bytes, mut random) = (100 * 4096 + 700, Random::new(5));
        for _ in 0..200 {
            let disk = Arc::new(TestDisk::new(1 << 20));
            let mut map = BlockMap::open(disk, VOLUME, bytes).unwrap();
            map.clear();
            let mut model = [false; 101];
            for _ in 0..random.below(6) {
                let from = random.below(bytes);
                let end = from + 1 + random.below(bytes - from);
                map.mark(from, end);
                model[from as usize / 4096..=(end as usize - 1) / 4096].fill(true);
            }
            let marked = model.iter().filter(|marked| **marked).count() as u64;
            assert_eq!(map.marked_bytes(), marked * 4096);
            let at = random.below(bytes);
            let expected: u64 = (at..bytes).filter(|byte| model[*byte as usize / 4096]).count() as u64;
            assert_eq!(map.marked_from(at, bytes), expected, "from {at} of {model:?}");
            let mut at = 0;
            while at < 101 * 4096 {
                let (end, marked) = map.run(at);
                assert!(end > at && end % 4096 == 0);
                let blocks = &model[at as usize / 4096..end as usize / 4096];
                assert!(blocks.iter().all(|block| *block == marked), "{at}..{end}");
                at = end;
            }
        }
    }

    #[test]
    fn bits_that_rotted_count_as_marked() {
        let disk = Arc::new(TestDisk::new(1 << 20));
        let volume_bytes = 3 << 27;
        let mut map = BlockMap::open(disk.clone(), VOLUME, volume_bytes).unwrap();
        map.clear();
        map.mark(5 << 12, 6 << 12);
        map.take_changes().unwrap().persist().unwrap();
        // Of the second block of bits.
        disk.write_at(&mut [IoSlice::new(&[1])], BLOCK_BYTES_U64 + 5000)
            .unwrap();
        let map = BlockMap::open(disk, VOLUME, volume_bytes).unwrap();
        assert!(map.is_marked(5 << 12) && !map.is_marked(6 << 12));
        assert_eq!(map.marked_bytes(), (1 << 27) + 4096);
    }

    #[test]
    fn the_map_of_another_version_keeps_its_marks_and_its_trail() {
        let disk = Arc::new(TestDisk::new(1 << 20));
        let coarse = BlockMapHeader {
            volume: VOLUME,
            block_bytes: 65536,
            bits: 16,
        };
        let point = ChainPoint {
            sequence: 4,
            record: 9,
            ..ChainPoint::default()
        };
        let image = MapImage {
            device: disk.clone(),
            header: coarse,
            bits: vec![0b10, 0],
            trail: encode_trail(&[point]),
        };
        image.persist().unwrap();
        let map = BlockMap::open(disk, VOLUME, 1 << 20).unwrap();
        assert_eq!(map.marked_bytes(), 65536);
        assert!(map.is_marked(65536) && map.is_marked(131_071) && !map.is_marked(131_072));
        assert_eq!(map.trail_point(9).map(|point| point.sequence), Some(4));
    }

    #[test]
    fn marks_that_a_killed_process_left_in_memory_only_are_written_by_the_next() {
        let disk = Arc::new(TestDisk::new(1 << 20));
        let open = |disk: &Arc<TestDisk>| BlockMap::open(disk.clone(), VOLUME, 1 << 20).unwrap();
        let mut map = open(&disk);
        map.clear();
        map.take_changes().unwrap().persist().unwrap();
        map.mark(0, 1);
        let begun = map.take_changes().unwrap();
        // Killed between the first write of `persist` and its sync.
        disk.write_at(&mut [IoSlice::new(&begun.bits)], BLOCK_BYTES_U64)
            .unwrap();
        let mut next = open(&disk);
        assert!(next.is_marked(0), "the page cache survives a process");
        next.take_changes().unwrap().persist().unwrap();
        let after = Arc::new(disk.crash(&mut Random::new(1), 0));
        assert!(open(&after).is_marked(0), "the next process said it was durable");
    }
}
