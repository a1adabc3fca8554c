//! The mark of an image: which journal it belongs to, kept in an extended attribute where the file system has them.
//!
//! An image is a plain disk without room for a header. Its mark names the volume, whether it is the volume's mirror or
//! a replica, and the number of the start that uses it. While a start is under way the mark says so, and is settled
//! once the superblock of that start is durable: so neither an older image nor an older journal, put back in place of
//! the one that was there, fits the other. Block devices and file systems without attributes carry no mark.

use crate::device::{Device, FileDevice, Kind};
use crate::error::{Operation, StorageError};
use farside_protocol::journal::{Role, Superblock};
use rustix::fs::XattrFlags;
use std::sync::Arc;
use uuid::Uuid;

const ATTRIBUTE: &str = "user.farside.image";
const LONGEST: usize = 128;

/// What the attribute says: `VOLUME/ROLE/STARTS`, with a `+` while the start after that one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    volume: Uuid,
    role: Role,
    starts: u64,
    opening: bool,
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Volume => "mirror",
        Role::Replica => "replica",
        Role::History => "history",
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let opening = if self.opening { "+" } else { "" };
        write!(
            formatter,
            "{}/{}/{}{opening}",
            self.volume,
            role_word(self.role),
            self.starts
        )
    }
}

impl Mark {
    fn of(superblock: &Superblock, opening: bool) -> Self {
        Self {
            volume: superblock.volume,
            role: superblock.role,
            starts: superblock.starts,
            opening,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let volume = parts.next()?.parse().ok()?;
        let role = [Role::Volume, Role::Replica].into_iter();
        let word = parts.next()?;
        let role = role.into_iter().find(|role| role_word(*role) == word)?;
        let starts = parts.next()?;
        let opening = starts.ends_with('+');
        let starts = starts.trim_end_matches('+').parse().ok()?;
        Some(Self {
            volume,
            role,
            starts,
            opening,
        })
    }

    /// What is wrong with this mark on the image of the journal with `superblock`.
    fn misfit(&self, superblock: &Superblock) -> Option<String> {
        if self.volume != superblock.volume {
            return Some(format!(
                "is the {} of another volume ({})",
                role_word(self.role),
                self.volume
            ));
        }
        if self.role != superblock.role {
            let (is, wanted) = (role_word(self.role), role_word(superblock.role));
            return Some(format!("is the {is} of this volume, not its {wanted}"));
        }
        // A start that was cut short may or may not have reached its superblock.
        // Anybody can have set the attribute, to any number.
        let newest = self.starts.saturating_add(u64::from(self.opening));
        let starts = superblock.starts;
        if newest < starts {
            Some(format!(
                "is an older copy of the image (start {newest}, its journal is at {starts})"
            ))
        } else if self.starts > starts {
            Some(format!(
                "belongs to a newer journal (start {}, this journal is at {starts})",
                self.starts
            ))
        } else {
            None
        }
    }
}

/// An image whose mark says that a start is under way.
#[derive(Debug)]
pub struct OpeningImage {
    image: Arc<FileDevice>,
    superblock: Superblock,
}

impl OpeningImage {
    /// Says that the start has reached its superblock.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn settle(self) -> Result<(), StorageError> {
        let mark = Mark::of(&self.superblock, false);
        write(
            &self.image,
            &Mark {
                starts: mark.starts + 1,
                ..mark
            },
        )
    }
}

/// Marks a new image.
pub(crate) fn mark_new(image: &FileDevice, volume: Uuid, role: Role) -> Result<(), StorageError> {
    write(
        image,
        &Mark {
            volume,
            role,
            starts: 0,
            opening: false,
        },
    )
}

/// Checks that an image belongs to a journal and marks that a start is under way.
pub(crate) fn mark_opening(
    image: &Arc<FileDevice>,
    superblock: &Superblock,
) -> Result<OpeningImage, StorageError> {
    check(image, superblock)?;
    write(image, &Mark::of(superblock, true))?;
    Ok(OpeningImage {
        image: image.clone(),
        superblock: superblock.clone(),
    })
}

/// The mark of an image as it stands; `None` without one.
pub(crate) fn read(image: &FileDevice) -> Result<Option<String>, StorageError> {
    let mut buffer = [0_u8; LONGEST];
    match rustix::fs::fgetxattr(image.file(), ATTRIBUTE, &mut buffer) {
        Ok(length) => Ok(Some(
            String::from_utf8_lossy(&buffer[..length.min(LONGEST)]).into_owned(),
        )),
        Err(rustix::io::Errno::NODATA) => Ok(Some(String::new())),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(StorageError::io(Operation::Read, image.name(), 0, error.into())),
    }
}

fn check(image: &FileDevice, superblock: &Superblock) -> Result<(), StorageError> {
    if image.kind() == Kind::BlockDevice {
        return Ok(());
    }
    let Some(text) = read(image)? else {
        return Ok(());
    };
    let problem = match Mark::parse(&text) {
        Some(mark) => mark.misfit(superblock),
        None => Some(format!(
            "is not marked as the {} of this volume",
            role_word(superblock.role)
        )),
    };
    let Some(problem) = problem else { return Ok(()) };
    let expected = Mark::of(superblock, false);
    Err(StorageError::refused(
        image.name(),
        format!(
            "{problem}; nothing was changed. Put the right file back. If you are sure that it holds what the journal \
             expects, mark it (setfattr is in the package attr): setfattr -n {ATTRIBUTE} -v {expected} FILE"
        ),
    ))
}

fn write(image: &FileDevice, mark: &Mark) -> Result<(), StorageError> {
    if image.kind() == Kind::BlockDevice {
        return Ok(());
    }
    match rustix::fs::fsetxattr(
        image.file(),
        ATTRIBUTE,
        mark.to_string().as_bytes(),
        XattrFlags::empty(),
    ) {
        // Durable before whatever follows: otherwise a power loss could leave an older mark with a newer superblock.
        Ok(()) => image.sync_with_attributes(),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(StorageError::io(Operation::Write, image.name(), 0, error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_with_the_highest_number_is_refused_like_any_other() {
        let parameters = crate::store::StoreParameters {
            role: Role::Volume,
            name: "disk".to_owned(),
            volume: Uuid::from_u128(7),
            journal: Uuid::from_u128(8),
            volume_bytes: 1 << 20,
            journal_bytes: 2 << 20,
            segment_bytes: None,
            source: Uuid::nil(),
        };
        let mark = Mark::parse(&format!("{}/mirror/{}+", Uuid::from_u128(7), u64::MAX)).unwrap();
        assert!(mark.misfit(&parameters.superblock(1)).is_some());
    }

    #[test]
    fn a_mark_reads_back_as_written() {
        for opening in [false, true] {
            let mark = Mark {
                volume: Uuid::from_u128(7),
                role: Role::Replica,
                starts: 12,
                opening,
            };
            assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        for text in [
            "",
            "x",
            "a/b/c",
            "00000000-0000-0000-0000-000000000007/mirror/",
            "7/mirror/1/2",
        ] {
            assert_eq!(Mark::parse(text), None, "{text}");
        }
    }
}
