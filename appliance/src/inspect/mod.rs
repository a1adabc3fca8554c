//! Looks into a file of Farside without a running unit, and changes nothing in it.
//!
//! Guarantees: the file is opened for reading only and no lock is taken, so a file in use can be looked at; it may
//! move meanwhile, and what is shown is what was read. Never here: repair.

mod report;
mod journal;
mod map;
mod text;
#[cfg(test)]
mod tests;

use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, SUPERBLOCK_OFFSETS};
use farside_protocol::journal::{BlockMapHeader, FormatError, Superblock};
use farside_storage::{Device, FileDevice, StorageError, image_mark};
use report::{Body, Damage, Report, SCHEMA};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to show.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// JSON instead of text.
    pub json: bool,
    /// Each chunk.
    pub chunks: bool,
    /// Each record of each chunk.
    pub records: bool,
}

/// Why a file is not shown as intact.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {problem}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// It is no file of Farside that this version knows.
    #[error("{}: not recognised: {problem}", path.display())]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// What it is not, and what helps.
        problem: String,
    },
    /// It is damaged; what could be read was shown.
    #[error("{}: damaged at byte {offset}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first damage is.
        offset: u64,
        /// What is there instead.
        problem: String,
    },
    /// The answer could not be written.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// The file being looked at, and where the answer goes.
struct Inspection<'a> {
    path: &'a Path,
    device: Arc<FileDevice>,
    size_bytes: u64,
    options: Options,
    out: &'a mut dyn Write,
}

/// Writes what the file at `path` holds to `out`.
///
/// # Errors
/// [`InspectError`]; a damaged file is an error after everything that could be read was written.
pub fn run(path: &Path, options: Options, out: &mut dyn Write) -> Result<(), InspectError> {
    let unreadable = |error: &dyn std::fmt::Display| InspectError::Read {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    let device = FileDevice::new(file, path).map_err(|error| InspectError::Unrecognised {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    let size_bytes = device.size_bytes().map_err(|error| unreadable(&error))?;
    let mut inspection = Inspection {
        path,
        device: Arc::new(device),
        size_bytes,
        options,
        out,
    };
    let (body, damage) = inspection.look()?;
    inspection.finish(body, damage)
}

impl Inspection<'_> {
    fn look(&mut self) -> Result<(Body, Option<Damage>), InspectError> {
        let block = self.block(0)?;
        let second = self.block(SUPERBLOCK_OFFSETS[1])?;
        if [&block, &second]
            .into_iter()
            .any(|copy| Superblock::claimed_version(copy).is_some())
        {
            return self.journal();
        }
        match BlockMapHeader::decode(&block) {
            Ok(header) => self.map(header),
            Err(FormatError::Magic | FormatError::Truncated) => Err(self.unknown(&block)),
            Err(version @ FormatError::Version(..)) => Err(self.unrecognised(version.to_string())),
            Err(error) => Err(self.damaged(0, format!("the header of a dirty-block map: {error}"))),
        }
    }

    /// The block at `offset`, shorter where the file ends.
    fn block(&self, offset: u64) -> Result<Vec<u8>, InspectError> {
        let length = self.size_bytes.saturating_sub(offset).min(BLOCK_BYTES_U64);
        let mut block = vec![0; usize::try_from(length).unwrap_or(BLOCK_BYTES)];
        self.device
            .read_at(&mut block, offset)
            .map_err(|error| self.failed(&error))?;
        Ok(block)
    }

    fn unknown(&self, block: &[u8]) -> InspectError {
        let empty = block.iter().all(|byte| *byte == 0);
        let what = match image_mark(self.path) {
            Ok(Some(mark)) => format!(
                "it is a plain disk without a format of its own, marked {mark} (volume, role, start); inspect \
                 the journal beside it"
            ),
            _ if self.size_bytes == 0 => "it is empty".to_owned(),
            _ if empty => "it begins with zeroes: neither a journal nor a dirty-block map".to_owned(),
            _ => "neither a journal nor a dirty-block map of Farside; name one of these".to_owned(),
        };
        self.unrecognised(what)
    }

    fn unrecognised(&self, problem: String) -> InspectError {
        InspectError::Unrecognised {
            path: self.path.to_owned(),
            problem,
        }
    }

    fn damaged(&self, offset: u64, problem: String) -> InspectError {
        InspectError::Damaged {
            path: self.path.to_owned(),
            offset,
            problem,
        }
    }

    fn failed(&self, error: &StorageError) -> InspectError {
        InspectError::Read {
            path: self.path.to_owned(),
            problem: error.to_string(),
        }
    }

    fn finish(&mut self, body: Body, damage: Option<Damage>) -> Result<(), InspectError> {
        let report = Report {
            schema: SCHEMA,
            file: self.path.display().to_string(),
            size_bytes: self.size_bytes,
            verdict: if damage.is_some() { "damaged" } else { "intact" },
            first_damage: damage.clone(),
            body,
        };
        if self.options.json && self.options.chunks {
            self.line(&report)?;
        } else if self.options.json {
            let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)?;
            writeln!(self.out, "{text}")?;
        } else {
            text::report(&report, self.out)?;
        }
        self.out.flush()?;
        damage.map_or(Ok(()), |damage| Err(self.damaged(damage.offset, damage.problem)))
    }

    /// One line of JSON.
    fn line(&mut self, value: &impl serde::Serialize) -> Result<(), InspectError> {
        let text = serde_json::to_string(value).map_err(std::io::Error::from)?;
        writeln!(self.out, "{text}")?;
        Ok(())
    }
}
