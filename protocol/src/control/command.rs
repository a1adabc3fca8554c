//! What a unit can be told to do, and what it answers.

use serde::{Deserialize, Serialize};

/// An order to a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Create a volume and put it into the configuration file.
    CreateVolume(CreateVolume),
    /// Make a volume larger, also in the configuration file.
    ResizeVolume(ResizeVolume),
    /// Stop or start sending or queuing, also in the configuration file.
    SetFlow(SetFlow),
    /// Give up what is queued for remotes: what it changed is sent as it is by then.
    DiscardQueue(DiscardQueue),
    /// Take a volume out of service and out of the configuration file.
    RemoveVolume(RemoveVolume),
    /// Read the configuration file again, as SIGHUP does.
    Reload,
}

/// A volume to be created. Sizes are text as in the configuration file (`"1G"`), so that one parser judges them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Name of the volume.
    pub name: String,
    /// Size of the disk; that of the mirror if empty and it is adopted.
    #[serde(default)]
    pub size: String,
    /// Size of the journal; the default of the configuration if absent.
    #[serde(default)]
    pub journal_size: Option<String>,
    /// Mirror file or block device; a file below the volumes directory if absent.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Journal file or block device; a file below the volumes directory if absent.
    #[serde(default)]
    pub journal: Option<String>,
    /// Where to send it.
    #[serde(default)]
    pub remotes: Vec<RemoteAddress>,
    /// Take files that hold data which is not Farside's.
    #[serde(default)]
    pub force: bool,
    /// The volume begins with what its mirror holds.
    #[serde(default)]
    pub adopt: bool,
}

/// A remote by name and address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteAddress {
    /// Name used in status and commands.
    pub name: String,
    /// `host:port` of the remote's link.
    pub address: String,
}

/// A volume to be made larger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// Name of the volume.
    pub name: String,
    /// Its new size.
    pub size: String,
}

/// What becomes of the records for a volume's remotes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFlow {
    /// Name of the volume.
    pub volume: String,
    /// Name of the remote; all of them if absent.
    #[serde(default)]
    pub remote: Option<String>,
    /// Whether records are sent; as before if absent.
    #[serde(default)]
    pub send: Option<bool>,
    /// Whether records are kept in the journal until they are sent; as before if absent.
    #[serde(default)]
    pub queue: Option<bool>,
}

/// Whose queue is given up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscardQueue {
    /// Name of the volume.
    pub volume: String,
    /// Name of the remote; all of them if absent.
    #[serde(default)]
    pub remote: Option<String>,
}

/// A volume to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveVolume {
    /// Name of the volume.
    pub name: String,
    /// Delete mirror and journal too.
    #[serde(default)]
    pub delete_data: bool,
    /// Detach hosts that are connected.
    #[serde(default)]
    pub force: bool,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// A sentence for people.
    pub message: String,
    /// Files that the command made, left behind or deleted, as the message says.
    #[serde(default)]
    pub files: Vec<String>,
}

/// Version and copyright.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// `farside`.
    pub name: String,
    /// Version of the software.
    pub version: String,
    /// [`SCHEMA`](super::SCHEMA) of the control types.
    pub schema: u32,
    /// Who holds the copyright.
    pub copyright: String,
    /// Licence, as an SPDX expression.
    pub license: String,
}

impl VersionInfo {
    /// The version of this build.
    pub fn current() -> Self {
        Self {
            name: "farside".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: super::SCHEMA,
            copyright: "Copyright (c) 2026 the Farside authors".to_owned(),
            license: env!("CARGO_PKG_LICENSE").to_owned(),
        }
    }
}

/// What kind of refusal a [`ControlError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The command is malformed.
    BadRequest,
    /// What it names does not exist.
    NotFound,
    /// It would break something: the name exists, hosts are connected, a file holds other data.
    Conflict,
    /// The configuration that would result is wrong.
    InvalidConfiguration,
    /// The unit is shutting down.
    ShuttingDown,
    /// It was tried and failed.
    Failed,
}

/// Why a command was not carried out. Nothing was changed unless the message says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", .remedy.as_ref().map(|text| format!("; {text}")).unwrap_or_default())]
pub struct ControlError {
    /// The kind of refusal.
    pub code: ErrorCode,
    /// What is wrong, and where.
    pub message: String,
    /// What to do next.
    pub remedy: Option<String>,
}

impl ControlError {
    /// An error with a remedy.
    pub fn new(code: ErrorCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// An error whose message already says what to do.
    pub fn plain(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: None,
        }
    }
}
