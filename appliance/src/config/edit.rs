//! Changes to the text of a configuration that leave everything else, comments included, as it was.

use farside_protocol::control::CreateVolume;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

/// The text with a `[[volume]]` added at its end. Whether the result is valid is for
/// [`parse`](super::parse) to say.
///
/// # Errors
/// A sentence: the text is no TOML, or writes its volumes in a way this cannot extend.
pub fn add_volume(text: &str, create: &CreateVolume) -> Result<String, String> {
    let mut document = document(text)?;
    let item = document
        .entry("volume")
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let volumes = item.as_array_of_tables_mut().ok_or_else(inline_volumes)?;
    volumes.push(volume_table(create));
    Ok(document.to_string())
}

/// The text without the `[[volume]]` of this name and the comments right above it. `None` if there is none.
///
/// # Errors
/// As [`add_volume`].
pub fn remove_volume(text: &str, name: &str) -> Result<Option<String>, String> {
    let mut document = document(text)?;
    let Some(item) = document.get_mut("volume") else {
        return Ok(None);
    };
    let volumes = item.as_array_of_tables_mut().ok_or_else(inline_volumes)?;
    let named = |table: &Table| table.get("name").and_then(Item::as_str) == Some(name);
    let Some(index) = volumes.iter().position(named) else {
        return Ok(None);
    };
    volumes.remove(index);
    if volumes.is_empty() {
        document.remove("volume");
    }
    Ok(Some(document.to_string()))
}

/// The text with another size for the `[[volume]]` of this name. `None` if there is none.
///
/// # Errors
/// As [`add_volume`].
pub fn set_size(text: &str, name: &str, size: &str) -> Result<Option<String>, String> {
    let mut document = document(text)?;
    let Some(item) = document.get_mut("volume") else {
        return Ok(None);
    };
    let volumes = item.as_array_of_tables_mut().ok_or_else(inline_volumes)?;
    let named = |table: &&mut Table| table.get("name").and_then(Item::as_str) == Some(name);
    let Some(volume) = volumes.iter_mut().find(named) else {
        return Ok(None);
    };
    let mut new = value(size);
    // What stands beside the old one, a comment above all, stays.
    if let (Some(old), Some(new)) = (volume.get("size").and_then(Item::as_value), new.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    // An insertion would take the comment above it away.
    match volume.get_mut("size") {
        Some(old) => *old = new,
        None => drop(volume.insert("size", new)),
    }
    Ok(Some(document.to_string()))
}

/// The text with `key` set for the remotes of a volume, or for the one of this name. `None` if there are none such.
///
/// # Errors
/// As [`add_volume`].
pub fn set_for_remotes(
    text: &str,
    (volume, remote): (&str, Option<&str>),
    key: &str,
    setting: bool,
) -> Result<Option<String>, String> {
    let mut document = document(text)?;
    let Some(item) = document.get_mut("volume") else {
        return Ok(None);
    };
    let volumes = item.as_array_of_tables_mut().ok_or_else(inline_volumes)?;
    let name = |table: &Table| table.get("name").and_then(Item::as_str).map(str::to_owned);
    let Some(volume) = volumes
        .iter_mut()
        .find(|table| name(table).as_deref() == Some(volume))
    else {
        return Ok(None);
    };
    let Some(item) = volume.get_mut("remote") else {
        return Ok(None);
    };
    let remotes = item.as_array_of_tables_mut().ok_or_else(|| {
        "the configuration file writes the remotes of the volume as one line; write each as a [[volume.remote]] table"
            .to_owned()
    })?;
    let mut found = false;
    for table in remotes.iter_mut() {
        if remote.is_some() && name(table).as_deref() != remote {
            continue;
        }
        found = true;
        // What is so by itself is not said.
        if setting {
            table.remove(key);
        } else {
            table.insert(key, value(false));
        }
    }
    Ok(found.then(|| document.to_string()))
}

fn document(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        format!(
            "the configuration file is not TOML any more: {}; run 'farside config check' on it",
            error.message()
        )
    })
}

fn inline_volumes() -> String {
    "the configuration file writes its volumes as one line; write each as a [[volume]] table".to_owned()
}

fn volume_table(create: &CreateVolume) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("name", value(&create.name));
    table.insert("size", value(&create.size));
    let rest = [
        ("journal_size", &create.journal_size),
        ("mirror", &create.mirror),
        ("journal", &create.journal),
    ];
    for (key, setting) in rest {
        if let Some(setting) = setting {
            table.insert(key, value(setting));
        }
    }
    if !create.remotes.is_empty() {
        let mut remotes = ArrayOfTables::new();
        for remote in &create.remotes {
            let mut entry = Table::new();
            entry.decor_mut().set_prefix("\n");
            entry.insert("name", value(&remote.name));
            entry.insert("address", value(&remote.address));
            remotes.push(entry);
        }
        table.insert("remote", Item::ArrayOfTables(remotes));
    }
    table
}
