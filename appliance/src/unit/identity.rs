//! Who the unit is: a UUID made at the first start and kept in `unit.toml`.

use super::UnitError;
use crate::config::{read_text, write_text};
use std::path::Path;
use uuid::Uuid;

/// The file in the data directory that says who the unit is.
pub const FILE: &str = "unit.toml";

#[derive(serde::Deserialize)]
struct Stored {
    uuid: Uuid,
}

/// Reads the identity from `data_dir`, or makes one there. A file that cannot be read is never replaced:
/// peers know the unit by it.
pub(super) fn load_or_create(data_dir: &Path) -> Result<Uuid, UnitError> {
    let path = data_dir.join(FILE);
    if !path.exists() {
        let uuid = Uuid::new_v4();
        let text = format!(
            "# Identity of this unit. Peers know it by this; never copy it to another unit.\nuuid = \"{uuid}\"\n"
        );
        write_text(&path, &text)?;
        return Ok(uuid);
    }
    let text = read_text(&path)?;
    let stored: Stored = toml::from_str(&text).map_err(|error| UnitError::File {
        path: path.clone(),
        message: format!(
            "does not hold the identity of a unit ({}); restore it from a backup, or remove it to become a new unit",
            error.message()
        ),
    })?;
    Ok(stored.uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_made_once_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_create(directory.path()).unwrap();
        assert_eq!(load_or_create(directory.path()).unwrap(), first);
        let path = directory.path().join(FILE);
        std::fs::write(&path, "uuid = \"no\"").unwrap();
        let refusal = load_or_create(directory.path()).unwrap_err().to_string();
        assert!(
            refusal.contains("unit.toml") && refusal.contains("restore"),
            "{refusal}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "uuid = \"no\"");
    }
}
