//! The two files that say that a replica is set aside, and what they say.

use crate::replica::set::{IMAGE, Slot};
use farside_protocol::link::Hello;
use farside_storage::{StorageError, read_small_file, remove_file_durably, replace_file};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use uuid::Uuid;

pub(in crate::replica::set) const DETACHED: &str = "detached";
pub(in crate::replica::set) const SEED: &str = "seed";
/// First lines of the two files.
const DETACHED_HEADING: &str = "farside detached 1";
const SEED_HEADING: &str = "farside seed 1";
/// Another one each time the machine is started (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// What a replica that is made anew has no use for.
const LEFT_OVERS: [&str; 3] = ["journal", "history", "bookmarks"];

/// What a file system knows of a file that is left alone. Its times may be lost with power, what was written need not be: so they
/// tell something only until the machine is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::replica::set) struct Stamp {
    modified_ns: i128,
    changed_ns: i128,
    boot: Uuid,
}

/// Whose replica a seed is, if it was one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::replica::set) struct Owner {
    pub(in crate::replica::set) volume: Uuid,
    pub(in crate::replica::set) unit: Uuid,
    pub(in crate::replica::set) bytes: u64,
}

/// How a replica was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::replica::set) struct Left {
    pub(in crate::replica::set) record: u64,
    pub(in crate::replica::set) time_us: u64,
    pub(in crate::replica::set) bytes: u64,
    /// Of a block device nobody can say whether it was written.
    pub(in crate::replica::set) image: Option<Stamp>,
}

/// Why a replica is set aside.
#[derive(Debug, Clone, Copy)]
pub(in crate::replica::set) enum Aside {
    Detached(Left),
    Seeded(Option<Owner>),
}

impl Owner {
    /// Whether this sender's volume may have the content.
    pub(in crate::replica::set) fn admits(&self, hello: &Hello) -> bool {
        (self.volume, self.unit) == (hello.volume, hello.unit) && self.bytes <= hello.volume_bytes
    }
}

/// What of a directory is set aside; a change of that which was interrupted is finished.
pub(in crate::replica::set) fn found(directory: &Path) -> Option<Slot> {
    // Of an import that was interrupted.
    let _ = std::fs::remove_file(directory.join(format!("{IMAGE}.new")));
    if is_there(&directory.join(DETACHED)) {
        return Some(
            read(&directory.join(DETACHED), Left::parse)
                .map_or_else(Slot::Failed, |left| Slot::Aside(Aside::Detached(left))),
        );
    }
    if !is_seeded(directory) {
        return None;
    }
    let image = directory.join(IMAGE);
    if !image.exists() {
        // A link to what is not mounted, or the word of an import that did not come to its image.
        if image.is_symlink() {
            return Some(Slot::Failed(format!(
                "its image {} is not there; mount what holds it, and start the unit again",
                image.display()
            )));
        }
        let _ = remove_file_durably(&directory.join(SEED));
        return None;
    }
    let owner = match read(&directory.join(SEED), Owner::parse) {
        Ok(owner) => owner,
        Err(problem) => return Some(Slot::Failed(problem)),
    };
    Some(match clear(directory) {
        Ok(()) => Slot::Aside(Aside::Seeded(owner)),
        Err(error) => Slot::Failed(error.to_string()),
    })
}

/// What cannot be looked at is none of ours.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}

pub(in crate::replica::set) fn is_seeded(directory: &Path) -> bool {
    is_there(&directory.join(SEED))
}

/// The content has a journal now.
pub(in crate::replica::set) fn taken_up(directory: &Path) -> Result<(), StorageError> {
    remove_file_durably(&directory.join(SEED))
}

/// No journal, and nothing that relies on one.
pub(in crate::replica::set) fn clear(directory: &Path) -> Result<(), StorageError> {
    for name in LEFT_OVERS {
        remove_file_durably(&directory.join(name))?;
    }
    Ok(())
}

pub(in crate::replica::set) fn lay_down(directory: &Path, owner: Option<Owner>) -> Result<(), StorageError> {
    let mut text = format!("{SEED_HEADING}\n");
    if let Some(Owner { volume, unit, bytes }) = owner {
        writeln!(text, "{volume} {unit} {bytes}").expect("a String takes everything");
    }
    replace_file(&directory.join(SEED), text.as_bytes())
}

/// What one of the two files says.
fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
    let bytes = read_small_file(path).map_err(|error| error.to_string())?;
    let parsed = bytes.and_then(|bytes| parse(std::str::from_utf8(&bytes).ok()?));
    parsed.ok_or_else(|| {
        format!(
            "{} does not say how the replica was left; put the right file back, or move the replica's directory away: it \
             then gets a full copy",
            path.display()
        )
    })
}

impl Owner {
    /// What a seed says; nobody, if it was brought.
    fn parse(text: &str) -> Option<Option<Self>> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == SEED_HEADING)?;
        let Some(line) = lines.next() else {
            return Some(None);
        };
        let mut fields = line.split(' ');
        let owner = Self {
            volume: fields.next()?.parse().ok()?,
            unit: fields.next()?.parse().ok()?,
            bytes: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(Some(owner))
    }
}

impl Left {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == DETACHED_HEADING)?;
        let mut fields = lines.next()?.split(' ');
        let left = Self {
            record: fields.next()?.parse().ok()?,
            time_us: fields.next()?.parse().ok()?,
            bytes: fields.next()?.parse().ok()?,
            image: None,
        };
        let Some(modified) = fields.next() else {
            return Some(left);
        };
        let image = Stamp {
            modified_ns: modified.parse().ok()?,
            changed_ns: fields.next()?.parse().ok()?,
            boot: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(Self {
            image: Some(image),
            ..left
        })
    }

    pub(in crate::replica::set) fn text(&self) -> String {
        let image = self.image.map_or_else(String::new, |image| {
            format!(" {} {} {}", image.modified_ns, image.changed_ns, image.boot)
        });
        let (record, time_us, bytes) = (self.record, self.time_us, self.bytes);
        format!("{DETACHED_HEADING}\n{record} {time_us} {bytes}{image}\n")
    }
}

/// What the file system says of an image now; `None` for a block device, or if nobody knows when the machine was started.
pub(in crate::replica::set) fn stamp(image: &Path) -> Result<Option<Stamp>, std::io::Error> {
    let found = std::fs::metadata(image)?;
    let boot = std::fs::read_to_string(BOOT_ID)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let Some(boot) = boot.filter(|_| found.is_file()) else {
        return Ok(None);
    };
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok(Some(Stamp {
        modified_ns: nanos(found.mtime(), found.mtime_nsec()),
        changed_ns: nanos(found.ctime(), found.ctime_nsec()),
        boot,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_replica_was_left_is_read_as_it_was_written_and_nothing_else_is() {
        let left = Left {
            record: 17,
            time_us: 5,
            bytes: 1 << 20,
            image: Some(Stamp {
                modified_ns: -3,
                changed_ns: i128::MAX,
                boot: Uuid::from_u128(9),
            }),
        };
        let device = Left { image: None, ..left };
        for left in [left, device] {
            assert_eq!(Left::parse(&left.text()), Some(left));
        }
        for text in [
            "",
            "farside detached 1\n",
            "farside detached 2\n1 2 3\n",
            "farside detached 1\n1\n",
            "farside detached 1\n1 2\n",
            "farside detached 1\n1 2 3 4 5\n",
            "farside detached 1\n1 2 3 4 5 6 7\n",
            "farside detached 1\n1 -2 3\n",
        ] {
            assert_eq!(Left::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_was_interrupted_is_finished_or_was_never_begun() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let put = |name: &str| std::fs::write(path(name), "x").unwrap();
        assert!(found(place.path()).is_none());
        // An import that did not come to its image.
        lay_down(place.path(), None).unwrap();
        put("replica.img.new");
        assert!(found(place.path()).is_none());
        assert!(!path("replica.img.new").exists() && !path(SEED).exists());
        let owner = Owner {
            volume: Uuid::from_u128(1),
            unit: Uuid::from_u128(2),
            bytes: 3,
        };
        lay_down(place.path(), Some(owner)).unwrap();
        // One that did; and a replica taken back whose journal was still to be removed.
        for name in [IMAGE, "journal", "history", "bookmarks"] {
            put(name);
        }
        let seeded = found(place.path());
        assert!(matches!(seeded, Some(Slot::Aside(Aside::Seeded(Some(known)))) if known == owner));
        assert!(path(IMAGE).exists() && !path("journal").exists() && !path("history").exists());
        // Taken back only as far as the word for a seed: still detached.
        put("journal");
        let left = Left {
            record: 1,
            time_us: 2,
            bytes: 3,
            image: None,
        };
        std::fs::write(path(DETACHED), left.text()).unwrap();
        assert!(matches!(
            found(place.path()),
            Some(Slot::Aside(Aside::Detached(_)))
        ));
        assert!(path("journal").exists());
        std::fs::write(path(DETACHED), "?").unwrap();
        assert!(matches!(found(place.path()), Some(Slot::Failed(_))));
    }
}
