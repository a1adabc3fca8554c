//! Reading the file within bounds, and replacing it so that a crash leaves the old or the new one whole.

use super::error::line_and_column;
use super::{Config, ConfigError, Overrides, Problem, limits, parse};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Reads and judges the file at `path`, with `overrides` put over it.
///
/// # Errors
/// [`ConfigError`] with every problem found.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    let mut config = parse(&read_text(path)?, path)?;
    overrides.apply(&mut config)?;
    Ok(config)
}

/// Reads the file as text.
///
/// # Errors
/// It cannot be opened, is no regular file, is larger than a configuration can be, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let refuse = |error: std::io::Error| {
        ConfigError::file(
            path,
            format!("cannot be read: {error}; check the path and its permissions"),
        )
    };
    // Not blocking, so that a pipe in the place of the file cannot hold the unit up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refuse(error.into()))?;
    let file = File::from(opened);
    if !file.metadata().map_err(refuse)?.is_file() {
        return Err(ConfigError::file(
            path,
            "is not a regular file; name the configuration file itself",
        ));
    }
    let mut bytes = Vec::new();
    file.take(limits::FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(refuse)?;
    if bytes.len() as u64 > limits::FILE_BYTES {
        return Err(ConfigError::file(
            path,
            "is larger than 1 MiB and cannot be a configuration; check the path",
        ));
    }
    String::from_utf8(bytes).map_err(|error| not_text(path, &error))
}

fn not_text(path: &Path, error: &std::string::FromUtf8Error) -> ConfigError {
    let valid = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
    let (line, column) = line_and_column(&text, valid);
    let problem = Problem {
        line,
        column,
        message: "this byte is not UTF-8 text".to_owned(),
        remedy: "save the file as UTF-8, and check that it is the configuration".to_owned(),
    };
    ConfigError::Content {
        path: path.to_owned(),
        problems: vec![problem],
    }
}

/// Replaces the file at `path`, keeping its permissions: a temporary file beside it, made durable, renamed.
///
/// # Errors
/// [`ConfigError::File`]; the old file is then still in place.
pub fn write_text(path: &Path, text: &str) -> Result<(), ConfigError> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    replace(&real, text).map_err(|error| {
        ConfigError::file(
            path,
            format!("cannot be written: {error}; {}", crate::unit::remedy(&error)),
        )
    })
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let written = (|| {
        let mut file = File::create(&temporary)?;
        if let Ok(old) = std::fs::metadata(path) {
            file.set_permissions(PermissionsExt::from_mode(old.permissions().mode()))?;
        }
        file.write_all(text.as_bytes())?;
        rustix::fs::fsync(&file)?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // What failed is already being reported; a leftover would only be overwritten by the next attempt.
        std::fs::remove_file(&temporary).ok();
        return written;
    }
    rustix::fs::fsync(File::open(directory)?)?;
    Ok(())
}
