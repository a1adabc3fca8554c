//! Target: `farside inspect` on a journal, a dirty-block map, or any bytes.
//!
//! Promises: no panic, no endless walk; the file is not changed; with `--json` every line, or the whole, is JSON whose
//! verdict is the one of the exit code; a journal that is called intact is one that recovery takes, and one that was
//! not damaged is called intact.

use crate::draw::Draw;
use crate::history::{History, seed};
use crate::journal_file::{Damage, tamper};
use crate::memory::Memory;
use crate::{golden, seal};
use farside::inspect::{InspectError, Options, run as inspect};
use farside_storage::{load_superblock, recover};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let how = draw.u8();
    let options = Options {
        json: how & 1 != 0,
        chunks: how & 2 != 0,
        records: how & 4 != 0,
    };
    let (bytes, damage) = content(how >> 3, &mut draw);
    let (outcome, out) = look(&bytes, options);
    let verdict = match &outcome {
        Ok(()) => Some("intact"),
        Err(InspectError::Damaged { .. }) => Some("damaged"),
        Err(error) => {
            assert!(
                matches!(
                    error,
                    InspectError::Unrecognised { .. } | InspectError::Read { .. }
                ),
                "{error}"
            );
            None
        }
    };
    if options.json {
        check_json(&out, options, verdict);
    } else if verdict.is_some() {
        std::str::from_utf8(&out).expect("text is text");
    }
    if let Some(damage) = damage {
        check_journal(bytes, damage, verdict);
    }
    verdict.is_some()
}

/// The bytes to look at; for a journal with a past, what was done to it.
fn content(how: u8, draw: &mut Draw<'_>) -> (Vec<u8>, Option<Damage>) {
    match how & 3 {
        0 | 1 => {
            let mut history = History::of(draw);
            history.kill();
            let damage = tamper(draw, &history.journal);
            (history.journal.bytes(), Some(damage))
        }
        2 => {
            let mut history = History::of(draw);
            history.kill();
            let map = history
                .map()
                .map_or_else(golden::block_map, |map| map.bytes()[..8192].to_vec());
            let map = Memory::new(map);
            map.change(|bytes| {
                let at = usize::from(draw.u8()) % 52;
                bytes[at] ^= draw.u8();
                if draw.u8() & 1 == 0 {
                    seal::block_map(bytes);
                }
            });
            (map.bytes(), None)
        }
        _ => (draw.rest().to_vec(), None),
    }
}

fn look(bytes: &[u8], options: Options) -> (Result<(), InspectError>, Vec<u8>) {
    let fd = memfd_create("farside-fuzz", MemfdFlags::CLOEXEC).expect("memory files are there");
    let mut file = File::from(fd);
    file.write_all(bytes).expect("memory does not fail");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut out = Vec::new();
    let outcome = inspect(&path, options, &mut out);
    let mut after = vec![0; bytes.len()];
    file.read_exact_at(&mut after, 0).expect("memory does not fail");
    assert!(after == bytes, "looking changes nothing");
    (outcome, out)
}

fn check_json(out: &[u8], options: Options, verdict: Option<&str>) {
    let text = std::str::from_utf8(out).expect("JSON is text");
    let parts: Vec<Value> = if options.chunks {
        text.lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    } else {
        let whole = Some(text).filter(|text| !text.is_empty());
        whole
            .map(|text| serde_json::from_str(text).expect("the whole is JSON"))
            .into_iter()
            .collect()
    };
    if let Some(verdict) = verdict
        && let Some(last) = parts.last()
    {
        assert_eq!(last["verdict"], verdict);
        assert_eq!(last["first_damage"].is_null(), verdict == "intact");
    }
}

fn check_journal(bytes: Vec<u8>, damage: Damage, verdict: Option<&str>) {
    let journal = Memory::new(bytes);
    if damage == Damage::None {
        assert_eq!(verdict, Some("intact"));
    }
    if verdict == Some("intact") {
        let superblock = load_superblock(journal.as_ref()).expect("it was called intact");
        recover(journal.as_ref(), &superblock).expect("it was called intact");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let past = seed();
    let with = |how: u8, tail: &[u8]| [&[how], past.as_slice(), tail].concat();
    vec![
        with(0, &[]),
        with(3, &[]),
        with(7, &[1, 0, 40, 0, 0, 1]),
        with(1, &[1, 1, 0, 0, 90, 1]),
        with(17, &[20, 0, 1]),
        with(16, &[30, 1, 0]),
        [&[25], golden::block_map().as_slice()].concat(),
        [&[25], golden::superblock().as_slice()].concat(),
    ]
}
