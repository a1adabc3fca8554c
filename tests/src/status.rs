//! Reading `farside status --json`: every look-up that fails shows the whole document.

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

/// One status document of a unit.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

/// The five positions of a volume and how far its mirror is; each is a record number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// First record the journal still needs.
    pub tail: u64,
    /// What every remote has confirmed.
    pub acked: u64,
    /// What was sent.
    pub sent: u64,
    /// What is on stable storage.
    pub durable: u64,
    /// What is in the journal.
    pub journaled: u64,
    /// What is in the mirror.
    pub mirrored: u64,
}

impl Positions {
    /// The order that always holds: `tail <= acked <= sent <= durable <= journaled`, and the mirror behind durable.
    #[must_use]
    pub fn ordered(&self) -> bool {
        let rising = [self.tail, self.acked, self.sent, self.durable, self.journaled];
        rising.is_sorted() && self.mirrored <= self.durable
    }
}

impl Status {
    /// Parses what `farside status --json` printed.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map(Self)
            .with_context(|| format!("status --json printed no JSON: {text}"))
    }

    fn named<'a>(list: &'a Value, kind: &str, name: &str) -> Result<&'a Value> {
        let entries = list.get(kind).and_then(Value::as_array);
        let found = entries.and_then(|entries| {
            entries
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
        });
        found.with_context(|| format!("no {kind} entry named {name} in {list:#}"))
    }

    /// One volume of the unit.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn volume(&self, name: &str) -> Result<&Value> {
        Self::named(&self.0, "volumes", name)
    }

    /// One replica of the unit.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn replica(&self, name: &str) -> Result<&Value> {
        Self::named(&self.0, "replicas", name)
    }

    /// The first remote of a volume.
    ///
    /// # Errors
    /// When the volume has none.
    pub fn remote(&self, volume: &str) -> Result<&Value> {
        let entry = self.volume(volume)?;
        let remote = entry
            .get("remotes")
            .and_then(Value::as_array)
            .and_then(|remotes| remotes.first());
        remote.with_context(|| format!("volume {volume} has no remotes in {entry:#}"))
    }

    /// The positions of a volume.
    ///
    /// # Errors
    /// When one is missing.
    pub fn positions(&self, volume: &str) -> Result<Positions> {
        let entry = self.volume(volume)?;
        let read = |name: &str| number(entry, &["positions", name]);
        Ok(Positions {
            tail: read("tail")?,
            acked: read("acked")?,
            sent: read("sent")?,
            durable: read("durable")?,
            journaled: read("journaled")?,
            mirrored: read("mirrored")?,
        })
    }
}

fn field<'a>(value: &'a Value, path: &[&str]) -> Result<&'a Value> {
    let mut at = value;
    for step in path {
        at = at
            .get(step)
            .ok_or_else(|| anyhow!("no field {} in {value:#}", path.join(".")))?;
    }
    Ok(at)
}

/// The number at a path of field names.
///
/// # Errors
/// When it is missing or no number; the message shows the document.
pub fn number(value: &Value, path: &[&str]) -> Result<u64> {
    let found = field(value, path)?;
    found
        .as_u64()
        .with_context(|| format!("{} is no number but {found} in {value:#}", path.join(".")))
}

/// The text at a path of field names.
///
/// # Errors
/// When it is missing or no text; the message shows the document.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> Result<&'a str> {
    let found = field(value, path)?;
    found
        .as_str()
        .with_context(|| format!("{} is no text but {found} in {value:#}", path.join(".")))
}

/// The truth value at a path of field names.
///
/// # Errors
/// When it is missing or neither true nor false; the message shows the document.
pub fn flag(value: &Value, path: &[&str]) -> Result<bool> {
    let found = field(value, path)?;
    found.as_bool().with_context(|| {
        format!(
            "{} is neither true nor false but {found} in {value:#}",
            path.join(".")
        )
    })
}
