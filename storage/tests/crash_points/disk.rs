//! The content of a disk, in pages that copies share: thousands of crash states cost little memory.
//!
//! A page of zeroes that was zeroed whole is a hole. Knows nothing of what is durable; that is `machine.rs`.

use std::sync::{Arc, LazyLock};

/// Bytes of a page; also the larger of the two sector sizes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The content of one page.
pub(crate) type Page = [u8; PAGE_BYTES];

static ZEROES: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE_BYTES]));

/// A disk's content. Cloning copies no bytes.
#[derive(Clone)]
pub(crate) struct Disk {
    pages: Vec<Arc<Page>>,
}

/// An offset or length as an index; disks here are small.
pub(crate) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("test disks fit into memory")
}

impl Disk {
    /// A disk of zeroes; the size is rounded up to pages.
    pub(crate) fn new(bytes: u64) -> Self {
        let pages = index(bytes).div_ceil(PAGE_BYTES);
        Self {
            pages: vec![ZEROES.clone(); pages],
        }
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read(&self, offset: usize, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let (page, at) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
            let count = (PAGE_BYTES - at).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&self.pages[page][at..at + count]);
            done += count;
        }
    }

    /// Stores `data` at `offset`.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (page, at) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
            let count = (PAGE_BYTES - at).min(data.len() - done);
            let page = Arc::make_mut(&mut self.pages[page]);
            page[at..at + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
    }

    /// Zeroes a range; pages that are covered whole become holes.
    pub(crate) fn zero(&mut self, offset: usize, length: usize) {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let count = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
            if count == PAGE_BYTES {
                self.pages[at / PAGE_BYTES] = ZEROES.clone();
            } else {
                self.write(at, &[0; PAGE_BYTES][..count]);
            }
            at += count;
        }
    }

    /// The page with this number.
    pub(crate) fn page(&self, number: usize) -> &Arc<Page> {
        &self.pages[number]
    }

    /// Whether the page that holds `offset` is a hole.
    pub(crate) fn is_hole(&self, offset: usize) -> bool {
        Arc::ptr_eq(&self.pages[offset / PAGE_BYTES], &ZEROES)
    }

    /// Takes one sector over from a page that was captured earlier.
    pub(crate) fn patch(&mut self, sector: usize, sector_bytes: usize, from: &Arc<Page>) {
        let offset = sector * sector_bytes;
        if sector_bytes == PAGE_BYTES {
            self.pages[sector] = from.clone();
            return;
        }
        let at = offset % PAGE_BYTES;
        self.write(offset, &from[at..at + sector_bytes]);
    }

    /// The first byte at which the content is not `bytes`.
    pub(crate) fn difference(&self, bytes: &[u8]) -> Option<usize> {
        for (number, part) in bytes.chunks(PAGE_BYTES).enumerate() {
            let page = &self.pages[number][..part.len()];
            if page != part {
                let at = page.iter().zip(part).position(|(a, b)| a != b)?;
                return Some(number * PAGE_BYTES + at);
            }
        }
        None
    }

    /// The first byte at which the content of two disks of one size differs.
    pub(crate) fn differs_from(&self, other: &Self) -> Option<usize> {
        let mut pages = self.pages.iter().zip(&other.pages).enumerate();
        let (number, (page, other)) = pages.find(|(_, (a, b))| !Arc::ptr_eq(a, b) && a != b)?;
        let at = page.iter().zip(other.iter()).position(|(a, b)| a != b)?;
        Some(number * PAGE_BYTES + at)
    }
}
