//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong at one place of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// A problem at a span of bytes of `text`.
    pub(super) fn at(text: &str, span: &Range<usize>, message: String, remedy: &str) -> Self {
        let (line, column) = line_and_column(text, span.start);
        Self {
            line,
            column,
            message,
            remedy: remedy.to_owned(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read or written.
    File {
        /// The file.
        path: PathBuf,
        /// What failed and what to do.
        message: String,
    },
    /// The file says something wrong.
    Content {
        /// The file.
        path: PathBuf,
        /// Everything found, in the order of the file; never empty.
        problems: Vec<Problem>,
    },
    /// An address or size given on the command line is wrong.
    Flag(String),
}

impl ConfigError {
    pub(super) fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, message } => write!(formatter, "{}: {message}", path.display()),
            Self::Flag(message) => formatter.write_str(message),
            Self::Content { path, problems } => {
                for (index, problem) in problems.iter().enumerate() {
                    let Problem {
                        line,
                        column,
                        message,
                        remedy,
                    } = problem;
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(
                        formatter,
                        "{separator}{}:{line}:{column}: {message}; {remedy}",
                        path.display()
                    )?;
                }
                Ok(())
            }
        }
    }
}

/// Line and column of a byte offset, both from 1; an offset beyond the end is the end.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let end = (0..=offset.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    let before = text.get(..end).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (
        line,
        before.get(line_start..).unwrap_or_default().chars().count() + 1,
    )
}
