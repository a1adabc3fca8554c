//! Why a part could not do what was asked.

use farside_protocol::control::ErrorCode;
use farside_storage::StorageError;

/// A refusal as the control interface reports it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct PartError {
    /// Its kind.
    pub(crate) code: ErrorCode,
    /// What failed, where, and what to do.
    pub(crate) message: String,
}

impl PartError {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::Failed,
            message: message.into(),
        }
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::Conflict,
            message: message.into(),
        }
    }
}

impl From<StorageError> for PartError {
    fn from(error: StorageError) -> Self {
        let code = match error {
            StorageError::Refused { .. } | StorageError::Lost { .. } => ErrorCode::Conflict,
            _ => ErrorCode::Failed,
        };
        let remedy = if error.is_no_space() {
            "; free space there, or give a smaller size"
        } else if error.is_too_large() {
            "; the file system there has no room for a file of that size: give a smaller one, or use xfs or a block device"
        } else {
            ""
        };
        Self {
            code,
            message: format!("{error}{remedy}"),
        }
    }
}
