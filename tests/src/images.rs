//! Looking at image files: same bytes, which state of the history.

use crate::pattern::{Checker, Demand, History, Report};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// How much of two images is compared at once, in bytes.
const STEP_BYTES: usize = 1 << 20;

/// Compares two images byte for byte.
///
/// # Errors
/// When one cannot be read, their sizes differ, or with the first byte at which they differ and how many 4 KiB
/// blocks do.
pub fn expect_equal(one: &Path, other: &Path) -> Result<()> {
    let mut first = open(one)?;
    let mut second = open(other)?;
    // Also of block devices.
    let (one_size, other_size) = (first.seek(SeekFrom::End(0))?, second.seek(SeekFrom::End(0))?);
    first.rewind()?;
    second.rewind()?;
    let names = format!("{} and {}", one.display(), other.display());
    if one_size != other_size {
        bail!("{names} have {one_size} and {other_size} bytes");
    }
    let mut at: u64 = 0;
    let mut difference: Option<(u64, u64)> = None;
    let (mut left, mut right) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    while at < one_size {
        let step = usize::try_from((one_size - at).min(STEP_BYTES as u64))?;
        let (left, right) = (
            left.get_mut(..step).unwrap_or_default(),
            right.get_mut(..step).unwrap_or_default(),
        );
        first.read_exact(left)?;
        second.read_exact(right)?;
        for (index, (a, b)) in left.chunks(4096).zip(right.chunks(4096)).enumerate() {
            if a != b {
                let (_, blocks) = difference.get_or_insert((at + index as u64 * 4096, 0));
                *blocks += 1;
            }
        }
        at += step as u64;
    }
    match difference {
        None => Ok(()),
        Some((offset, blocks)) => {
            bail!("{names} differ in {blocks} blocks of 4 KiB, the first at byte {offset}")
        }
    }
}

/// Checks an image file against the history so far.
///
/// # Errors
/// When it cannot be read, or is no state the disk ever had; `what` names it in the message.
pub fn expect_state(what: &str, image: &Path, history: &History, demand: Demand) -> Result<Report> {
    let bytes = std::fs::read(image).with_context(|| format!("cannot read {what} {}", image.display()))?;
    let snapshot = history.snapshot();
    Checker::new(&snapshot, &bytes)
        .check(demand)
        .expect_prefix(&format!("{what} ({})", image.display()))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}
