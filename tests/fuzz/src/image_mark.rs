//! Target: the mark of an image, an extended attribute that anybody can have set to anything.
//!
//! Promises: no panic; an image is taken only with the mark of this volume, in this role, of this start or of the one
//! that was under way; what is taken is marked anew, and what is not stays as it was.
//! Where the kernel keeps no such attributes for files in memory, every image is taken and nothing is compared.

use crate::draw::Draw;
use farside_protocol::journal::{CopyState, Role, Superblock};
use farside_storage::{StoreFiles, StoreParameters, open_files};
use rustix::fs::{MemfdFlags, XattrFlags, fgetxattr, fsetxattr, memfd_create};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use uuid::Uuid;

const ATTRIBUTE: &str = "user.farside.image";
const VOLUME: Uuid = Uuid::from_u128(0x1234_5678_9ABC_4DEF_8123_4567_89AB_CDEF);
const VOLUME_BYTES: u64 = 1 << 20;
const JOURNAL_BYTES: u64 = (64 << 10) + 4 * (16 << 10);

struct Files {
    journal: File,
    image: File,
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let starts = match draw.u8() {
        255 => 1 << 61,
        starts => u64::from(starts),
    };
    let role = if draw.u8() & 1 == 0 {
        Role::Volume
    } else {
        Role::Replica
    };
    let files = files(role, starts);
    let mark = draw.rest();
    let marked = fsetxattr(&files.image, ATTRIBUTE, mark, XattrFlags::empty()).is_ok();
    let paths = StoreFiles {
        journal: path(&files.journal),
        image: path(&files.image),
        maps: PathBuf::from("/nonexistent"),
    };
    let opened = open_files(&paths);
    if marked {
        let now = attribute(&files.image);
        if opened.is_ok() {
            assert!(
                fits(mark, role, starts),
                "{} was taken",
                String::from_utf8_lossy(mark)
            );
            assert_eq!(now, text(role, starts, "+").as_bytes());
        } else {
            assert_eq!(now, mark, "a refusal changes nothing");
        }
    }
    opened.is_ok()
}

fn text(role: Role, starts: u64, end: &str) -> String {
    let word = if role == Role::Volume { "mirror" } else { "replica" };
    format!("{VOLUME}/{word}/{starts}{end}")
}

/// The promise in its simplest form; digits may have zeroes in front.
fn fits(mark: &[u8], role: Role, starts: u64) -> bool {
    let text = String::from_utf8_lossy(mark);
    let parts: Vec<&str> = text.split('/').collect();
    let [volume, word, number] = parts[..] else {
        return false;
    };
    let expected = if role == Role::Volume { "mirror" } else { "replica" };
    let under_way = number.ends_with('+');
    let number = number.trim_end_matches('+').parse::<u64>();
    volume.parse() == Ok(VOLUME)
        && word == expected
        && number.is_ok_and(|number| number == starts || (under_way && number.checked_add(1) == Some(starts)))
}

fn attribute(image: &File) -> Vec<u8> {
    let mut buffer = [0_u8; 1 << 16];
    let length = fgetxattr(image, ATTRIBUTE, &mut buffer).unwrap_or(0);
    buffer[..length].to_vec()
}

fn files(role: Role, starts: u64) -> Files {
    let parameters = StoreParameters {
        role,
        name: "disk0".into(),
        volume: VOLUME,
        journal: Uuid::from_u128(4),
        volume_bytes: VOLUME_BYTES,
        journal_bytes: JOURNAL_BYTES,
        segment_bytes: None,
        source: Uuid::nil(),
    };
    let superblock = Superblock {
        starts,
        copy: CopyState::Complete,
        ..parameters.superblock(1)
    };
    let (journal, image) = (memory_file(JOURNAL_BYTES), memory_file(VOLUME_BYTES));
    journal
        .write_all_at(superblock.encode().as_slice(), 0)
        .expect("memory does not fail");
    Files { journal, image }
}

fn memory_file(bytes: u64) -> File {
    let fd: OwnedFd = memfd_create("farside-fuzz", MemfdFlags::CLOEXEC).expect("memory files are there");
    let file = File::from(fd);
    file.set_len(bytes).expect("memory does not fail");
    file
}

fn path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |starts: u8, role: Role, number: u64, end: &str| {
        let which = u8::from(role == Role::Replica);
        [&[starts, which], text(role, number, end).as_bytes()].concat()
    };
    vec![
        seed(7, Role::Volume, 7, ""),
        seed(7, Role::Volume, 6, "+"),
        seed(0, Role::Replica, 0, ""),
        seed(255, Role::Replica, 1 << 61, "+"),
    ]
}
