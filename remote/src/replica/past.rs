//! The past of a replica: its history, and the moments in it that have a name.
//!
//! Bookmarks are kept in a file of their own, a line each, replaced whole: name, place in the history, record, time. A
//! history that is gone or full takes its bookmarks along; they are shown as lost until they are removed.

use farside_storage::{Moment, Pin, StorageError, Store, keep_history, read_small_file, replace_file};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Bookmarks of one replica at most.
const MAX_BOOKMARKS: usize = 1000;
/// First line of the file.
const HEADING: &str = "farside bookmarks 1";

/// A moment with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Its name.
    pub name: String,
    /// The state after this record.
    pub record: u64,
    /// When that record was sealed, in microseconds since 1970.
    pub time_us: u64,
    /// The moment, unless it is lost.
    pub moment: Option<Moment>,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    record: u64,
    time_us: u64,
    pin: Option<Pin>,
}

/// What a replica knows of its past; by default nothing.
#[derive(Debug, Default)]
pub struct Past {
    bookmarks: Mutex<BTreeMap<String, Entry>>,
    file: PathBuf,
    problem: Option<String>,
    /// Why the bookmarks could not be read.
    unreadable: Option<String>,
}

impl Past {
    /// Opens the history of a replica in its directory; what cannot be opened is said, and the replica goes on without.
    pub(super) fn open(store: &Store, directory: &Path, bytes: u64) -> Self {
        let mut past = Self {
            bookmarks: Mutex::default(),
            file: directory.join("bookmarks"),
            problem: None,
            unreadable: None,
        };
        if bytes == 0 {
            return past;
        }
        if let Err(error) = keep_history(store, &directory.join("history"), bytes) {
            tracing::error!(replica = %store.name(), "no history is kept: {error}");
            past.problem = Some(error.to_string());
        } else if let Err(error) = past.read_bookmarks(store) {
            tracing::error!(replica = %store.name(), "no bookmarks: {error}");
            past.unreadable = Some(error.to_string());
        }
        past
    }

    /// Why no history is kept although one should be, or no bookmarks.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref().or(self.unreadable.as_deref())
    }

    /// A list that could not be read is not written over.
    fn refuse_unread(&self, store: &str) -> Result<(), StorageError> {
        self.unreadable.as_ref().map_or(Ok(()), |problem| {
            Err(StorageError::Refused {
                name: store.to_owned(),
                problem: format!("its bookmarks cannot be read: {problem}"),
            })
        })
    }

    fn read_bookmarks(&mut self, store: &Store) -> Result<(), StorageError> {
        let Some(bytes) = read_small_file(&self.file)? else {
            return Ok(());
        };
        let damaged = || StorageError::Refused {
            name: self.file.display().to_string(),
            problem: "is no list of bookmarks of this version; put the right file back, or remove it"
                .to_owned(),
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged())?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADING) {
            return Err(damaged());
        }
        for line in lines {
            let (name, mut entry) = parse(line).ok_or_else(damaged)?;
            let moment = store
                .history()
                .and_then(|history| history.again(entry.serial, entry.record));
            entry.pin = moment.and_then(|moment| store.history()?.pin(&moment));
            if entry.pin.is_none() {
                tracing::warn!(replica = %store.name(), bookmark = name, "the moment of a bookmark is lost");
            }
            self.bookmarks.get_mut().insert(name, entry);
        }
        Ok(())
    }

    /// Gives a moment a name and keeps it for as long as the history has room for what comes after it.
    ///
    /// # Errors
    /// [`StorageError`] when the name is taken, the moment gone, or the file cannot be written.
    pub fn add_bookmark(&self, store: &Store, name: &str, moment: &Moment) -> Result<(), StorageError> {
        let refuse = |problem: String| {
            let name = store.name().to_owned();
            Err(StorageError::Refused { name, problem })
        };
        self.refuse_unread(store.name())?;
        let mut bookmarks = self.bookmarks.lock();
        if bookmarks.contains_key(name) {
            return refuse(format!(
                "has a bookmark {name} already; remove that one or choose another name"
            ));
        }
        if bookmarks.len() >= MAX_BOOKMARKS {
            return refuse(format!(
                "has {MAX_BOOKMARKS} bookmarks, which is the most; remove some"
            ));
        }
        let Some(pin) = store.history().and_then(|history| history.pin(moment)) else {
            return refuse(format!("no longer has the state after record {}", moment.record));
        };
        let entry = Entry {
            serial: moment.serial(),
            record: moment.record,
            time_us: moment.time_us,
            pin: Some(pin),
        };
        bookmarks.insert(name.to_owned(), entry);
        self.write(&bookmarks)
            .inspect_err(|_| drop(bookmarks.remove(name)))
    }

    /// Forgets a bookmark. False: there is none of this name.
    ///
    /// # Errors
    /// [`StorageError`] when the file cannot be written: the bookmark stays.
    pub fn remove_bookmark(&self, name: &str) -> Result<bool, StorageError> {
        self.refuse_unread(name)?;
        let mut bookmarks = self.bookmarks.lock();
        let Some(entry) = bookmarks.remove(name) else {
            return Ok(false);
        };
        if let Err(error) = self.write(&bookmarks) {
            bookmarks.insert(name.to_owned(), entry);
            return Err(error);
        }
        Ok(true)
    }

    /// All bookmarks, by time.
    #[must_use]
    pub fn bookmarks(&self) -> Vec<Bookmark> {
        let known = self.bookmarks.lock();
        let mut bookmarks: Vec<_> = known.iter().map(|(name, entry)| show(name, entry)).collect();
        bookmarks.sort_by_key(|bookmark| (bookmark.time_us, bookmark.record));
        bookmarks
    }

    /// The bookmark of this name.
    #[must_use]
    pub fn bookmark(&self, name: &str) -> Option<Bookmark> {
        self.bookmarks.lock().get(name).map(|entry| show(name, entry))
    }

    fn write(&self, bookmarks: &BTreeMap<String, Entry>) -> Result<(), StorageError> {
        let mut text = format!("{HEADING}\n");
        for (name, entry) in bookmarks {
            let Entry {
                serial,
                record,
                time_us,
                ..
            } = entry;
            writeln!(text, "{name} {serial} {record} {time_us}").expect("a String takes everything");
        }
        replace_file(&self.file, text.as_bytes())
    }
}

fn show(name: &str, entry: &Entry) -> Bookmark {
    let pin = entry.pin.as_ref().filter(|pin| pin.holds());
    Bookmark {
        name: name.to_owned(),
        record: entry.record,
        time_us: entry.time_us,
        moment: pin.map(|pin| *pin.moment()),
    }
}

fn parse(line: &str) -> Option<(String, Entry)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let mut number = || words.next()?.parse().ok();
    let entry = Entry {
        serial: number()?,
        record: number()?,
        time_us: number()?,
        pin: None,
    };
    (farside_protocol::link::name_is_valid(name) && words.next().is_none()).then(|| (name.to_owned(), entry))
}
