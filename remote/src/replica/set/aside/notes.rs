//! The two files that say that a replica is set aside, and what they say.

use super::shelf::{Image, Shelf, Stamp};
use farside_protocol::link::Hello;
use farside_storage::StorageError;
use std::fmt::Write as _;
use uuid::Uuid;

pub(in crate::replica::set) const DETACHED: &str = "detached";
pub(in crate::replica::set) const SEED: &str = "seed";
/// Beside a seed that somebody else made, which is not cut to the size of its volume.
pub(in crate::replica::set) const ADOPTED: &str = "adopted";
/// A replica is being brought back to a moment before it is handed over: its image is no state until that is done.
pub(in crate::replica::set) const RESTORING: &str = "restoring";
/// First lines of the two files.
const DETACHED_HEADING: &str = "farside detached 1";
const SEED_HEADING: &str = "farside seed 1";
/// What a replica that is made anew has no use for.
const LEFT_OVERS: [&str; 3] = ["journal", "history", "bookmarks"];

/// Whose replica a seed is, if it was one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The volume.
    pub volume: Uuid,
    /// The unit that sends it.
    pub unit: Uuid,
    /// Its size.
    pub bytes: u64,
}

/// How a replica was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The record after which the image is the volume.
    pub record: u64,
    /// When that was sealed, in microseconds since 1970.
    pub time_us: u64,
    /// Size of the volume.
    pub bytes: u64,
    /// Of a block device nobody can say whether it was written.
    pub image: Option<Stamp>,
}

/// Why a replica is set aside.
#[derive(Debug, Clone, Copy)]
pub enum Aside {
    /// It was handed over.
    Detached(Left),
    /// Its content waits for a volume, whichever, if nobody owns it.
    Seeded(Option<Owner>),
}

impl Owner {
    /// Whether this sender's volume may have the content.
    #[must_use]
    pub fn admits(&self, hello: &Hello) -> bool {
        (self.volume, self.unit) == (hello.volume, hello.unit) && self.bytes <= hello.volume_bytes
    }
}

/// What is set aside there, or why nobody can say; a change of that which was interrupted is finished. `None`: nothing is.
pub fn found(shelf: &impl Shelf) -> Option<Result<Aside, String>> {
    // A word that comes back with a loss of power, or goes with it, would no longer be true of the image.
    let is_ours = [DETACHED, SEED, "journal"].iter().any(|file| shelf.has(file));
    if is_ours && let Err(error) = shelf.settle() {
        return Some(Err(error.to_string()));
    }
    if shelf.has(DETACHED) {
        // It was restored first, and that is done.
        if shelf.has(RESTORING)
            && let Err(error) = shelf.remove(RESTORING)
        {
            return Some(Err(error.to_string()));
        }
        return Some(read(shelf, DETACHED, Left::parse).map(Aside::Detached));
    }
    if !shelf.has(SEED) {
        return None;
    }
    match shelf.image() {
        Image::There => {}
        Image::Missing => {
            // The word of an import that did not come to its image.
            let _ = shelf.remove(SEED);
            return None;
        }
        Image::Elsewhere(problem) => return Some(Err(problem)),
    }
    let owner = match read(shelf, SEED, Owner::parse) {
        Ok(owner) => owner,
        Err(problem) => return Some(Err(problem)),
    };
    Some(match clear(shelf) {
        Ok(()) => Ok(Aside::Seeded(owner)),
        Err(error) => Err(error.to_string()),
    })
}

/// The content of a seed has a journal now.
///
/// # Errors
/// The shelf's; it is a seed still.
pub fn taken_up(shelf: &impl Shelf) -> Result<(), StorageError> {
    shelf.remove(SEED)
}

/// No journal, and nothing that relies on one.
pub(in crate::replica::set) fn clear(shelf: &impl Shelf) -> Result<(), StorageError> {
    LEFT_OVERS.iter().try_for_each(|name| shelf.remove(name))
}

pub(in crate::replica::set) fn lay_down(
    shelf: &impl Shelf,
    owner: Option<Owner>,
) -> Result<(), StorageError> {
    let mut text = format!("{SEED_HEADING}\n");
    if let Some(Owner { volume, unit, bytes }) = owner {
        writeln!(text, "{volume} {unit} {bytes}").expect("a String takes everything");
    }
    shelf.replace(SEED, text.as_bytes())
}

/// What one of the two files says.
fn read<T>(shelf: &impl Shelf, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
    let bytes = shelf.read(name).map_err(|error| error.to_string())?;
    let parsed = bytes.and_then(|bytes| parse(std::str::from_utf8(&bytes).ok()?));
    parsed.ok_or_else(|| {
        format!(
            "{} does not say how the replica was left; put the right file back, or move the replica's directory away: it \
             then gets a full copy",
            shelf.name_of(name)
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

#[cfg(test)]
mod tests {
    use super::super::shelf::Directory;
    use super::*;
    use crate::replica::set::IMAGE;

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
        let shelf = Directory::new(place.path());
        assert!(found(&shelf).is_none());
        // An import that did not come to its image.
        lay_down(&shelf, None).unwrap();
        put("replica.img.new");
        shelf.tidy_up();
        assert!(found(&shelf).is_none());
        assert!(!path("replica.img.new").exists() && !path(SEED).exists());
        let owner = Owner {
            volume: Uuid::from_u128(1),
            unit: Uuid::from_u128(2),
            bytes: 3,
        };
        lay_down(&shelf, Some(owner)).unwrap();
        // One that did; and a replica taken back whose journal was still to be removed.
        for name in [IMAGE, "journal", "history", "bookmarks"] {
            put(name);
        }
        let seeded = found(&shelf);
        assert!(matches!(seeded, Some(Ok(Aside::Seeded(Some(known)))) if known == owner));
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
        assert!(matches!(found(&shelf), Some(Ok(Aside::Detached(_)))));
        assert!(path("journal").exists());
        std::fs::write(path(DETACHED), "?").unwrap();
        assert!(matches!(found(&shelf), Some(Err(_))));
    }
}
