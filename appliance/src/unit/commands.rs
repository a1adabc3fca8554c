//! Commands: each a change of the configuration file and of the running unit, made whole or taken back.

use super::applying::{apply, grow, grow_all, keeps_its_size, open_volume, reload};
use super::control::refused;
use super::parts::files_of as files_of_store;
use super::shared::{Shared, Slot};
use crate::config::{ConfigError, VolumeConfig, edit, read_text, write_text};
use farside_protocol::control::{
    Command, ControlError, CreateVolume, DiscardQueue, ErrorCode, RemoveVolume, Reply, ResizeVolume, SetFlow,
    counted, human_bytes,
};
use farside_storage::{OpenMode, remove_maps};
use std::path::Path;

/// Carries out a command, one at a time.
pub(super) async fn execute(shared: &Shared, command: Command) -> Result<Reply, ControlError> {
    let _turn = shared.turn.lock().await;
    shared.refuse_while_stopping()?;
    match command {
        Command::CreateVolume(create) => create_volume(shared, create).await,
        Command::ResizeVolume(resize) => resize_volume(shared, resize).await,
        Command::SetFlow(flow) => set_flow(shared, &flow).await,
        Command::DiscardQueue(discard) => discard_queue(shared, &discard).await,
        Command::RemoveVolume(remove) => remove_volume(shared, remove).await,
        Command::Reload => reload(shared).await,
    }
}

async fn create_volume(shared: &Shared, mut create: CreateVolume) -> Result<Reply, ControlError> {
    if shared.view.read().volumes.contains_key(&create.name) {
        let message = format!("there is a volume '{}' already", create.name.escape_default());
        return Err(ControlError::new(
            ErrorCode::Conflict,
            message,
            "choose another name or remove that one first",
        ));
    }
    let mode = match (create.adopt, create.force) {
        (true, true) => {
            return Err(invalid(
                "either what is there is adopted, or it is overwritten".to_owned(),
            ));
        }
        (true, false) => OpenMode::Adopt,
        (false, true) => OpenMode::Force,
        (false, false) => OpenMode::Careful,
    };
    if create.adopt && create.size.is_empty() {
        create.size = size_to_adopt(shared, &create)?;
    }
    let old = current_text(shared)?;
    let new = edit::add_volume(&old, &create).map_err(invalid)?;
    let wanted = shared
        .judge(&new)
        .map_err(|error| invalid(without_places(&error)))?;
    let volume = wanted
        .volume(&create.name)
        .ok_or_else(|| invalid("the volume did not reach the file".to_owned()))?;
    write_text(&shared.config_path, &new).map_err(|error| failed(&error))?;
    let note = match shared.parts.open_volume(volume, mode).await {
        Ok(open) => {
            let note = if open.was_made() {
                ""
            } else {
                "; its files were there already, and their content was taken up again"
            };
            {
                let mut view = shared.view.write();
                view.config.volumes.push(volume.clone());
                view.volumes.insert(volume.name.clone(), Slot::Open(open));
            }
            // Files that were there may be of a smaller one.
            grow_all(shared, &wanted).await;
            note
        }
        Err(error) => {
            let undone = write_text(&shared.config_path, &old).map_err(|error| failed(&error));
            let message = format!("volume {} was not created: {error}", volume.name);
            undone
                .map_err(|undo| ControlError::plain(ErrorCode::Failed, format!("{message}; and {undo}")))?;
            return Err(ControlError::plain(error.code, message));
        }
    };
    tracing::info!(volume = volume.name, "volume created");
    Ok(Reply {
        message: format!("volume {} is in service{note}", volume.name),
        files: files_of(volume),
    })
}

/// The size of what the mirror of a new volume holds already.
fn size_to_adopt(shared: &Shared, create: &CreateVolume) -> Result<String, ControlError> {
    let volumes = shared.view.read().config.unit.volumes_dir.clone();
    let own = || volumes.join(&create.name).join("mirror.img");
    // As in the file: relative to where that is.
    let base = shared.config_path.parent().unwrap_or(Path::new("/"));
    let mirror = create
        .mirror
        .as_ref()
        .map_or_else(own, |mirror| base.join(mirror));
    let bytes = super::parts::size_to_adopt(&mirror)
        .map_err(|error| ControlError::plain(error.code, error.to_string()))?;
    Ok(bytes.to_string())
}

async fn resize_volume(shared: &Shared, resize: ResizeVolume) -> Result<Reply, ControlError> {
    let name = &resize.name;
    let old = current_text(shared)?;
    let new = edit::set_size(&old, name, &resize.size).map_err(invalid)?;
    let new = new.ok_or_else(|| no_such_volume(name))?;
    let wanted = shared
        .judge(&new)
        .map_err(|error| invalid(without_places(&error)))?;
    let wanted = wanted.volume(name).map_or(0, |volume| volume.size_bytes);
    let open = open_volume(shared, name);
    let size = open.as_ref().map(|volume| volume.size_bytes());
    if let Some(now) = size.filter(|now| *now > wanted) {
        let message = format!(
            "volume {name} has {}; it cannot become smaller, because hosts may have written to all of it",
            human_bytes(now)
        );
        return Err(ControlError::new(
            ErrorCode::Conflict,
            message,
            "give a larger size",
        ));
    }
    write_text(&shared.config_path, &new).map_err(|error| failed(&error))?;
    if let Err(error) = grow(shared, name, wanted).await {
        if open.is_some_and(|volume| volume.may_have_grown()) {
            let message = format!("volume {name} failed while it grew, and may have either size: {error}");
            let remedy = "restart the unit: it goes on with the new size";
            return Err(ControlError::new(error.code, message, remedy));
        }
        let message = format!("{}{error}", keeps_its_size(name));
        write_text(&shared.config_path, &old)
            .map_err(|undo| ControlError::plain(ErrorCode::Failed, format!("{message}; and {undo}")))?;
        return Err(ControlError::plain(error.code, message));
    }
    {
        let mut view = shared.view.write();
        view.config_error
            .take_if(|error| error.starts_with(&keeps_its_size(name)));
    }
    let when = if open.is_some() {
        "now"
    } else {
        "when it is in service again"
    };
    Ok(Reply {
        message: format!("volume {name} has {} {when}", human_bytes(wanted)),
        files: Vec::new(),
    })
}

/// Stops or starts sending or queuing: a change of the configuration, of which all that can change live does.
async fn set_flow(shared: &Shared, flow: &SetFlow) -> Result<Reply, ControlError> {
    let SetFlow { volume, remote, .. } = flow;
    let mut text = current_text(shared)?;
    let mut said = Vec::new();
    for (key, setting) in [("send", flow.send), ("queue", flow.queue)] {
        let Some(setting) = setting else { continue };
        let of = (volume.as_str(), remote.as_deref());
        let changed = edit::set_for_remotes(&text, of, key, setting).map_err(invalid)?;
        text = changed.ok_or_else(|| no_such_remote(volume, remote.as_deref()))?;
        let word = if setting { "started" } else { "stopped" };
        said.push(format!(
            "{} {word}",
            if key == "send" { "sending" } else { "queuing" }
        ));
    }
    let wanted = shared
        .judge(&text)
        .map_err(|error| invalid(without_places(&error)))?;
    write_text(&shared.config_path, &text).map_err(|error| failed(&error))?;
    apply(shared, &wanted).await;
    let whom = remote
        .as_ref()
        .map_or_else(|| "all its remotes".to_owned(), |name| format!("remote {name}"));
    let mut message = format!("volume {volume}, {whom}: {}", said.join(", "));
    if let Some(problem) = &shared.view.read().config_error {
        message += &format!("; not everything could be done: {problem}");
    }
    tracing::info!("{message}");
    Ok(Reply {
        message,
        files: Vec::new(),
    })
}

/// Gives up what is queued, and says how much that was.
async fn discard_queue(shared: &Shared, discard: &DiscardQueue) -> Result<Reply, ControlError> {
    let DiscardQueue { volume: name, remote } = discard;
    let volume = open_volume(shared, name).ok_or_else(|| no_such_volume(name))?;
    let remotes: Vec<String> = match remote {
        Some(remote) => vec![remote.clone()],
        None => volume.remotes(),
    };
    let mut said = Vec::new();
    for remote in &remotes {
        let given_up = volume.discard_queue(remote).await;
        let given_up = given_up.map_err(refused)?;
        said.push(match given_up {
            None => return Err(no_such_remote(name, Some(remote))),
            Some(0) => format!("nothing was queued for {remote}"),
            Some(records) => format!(
                "{} for {remote} given up; it gets what they changed as that is by then",
                counted(records, "record")
            ),
        });
    }
    if said.is_empty() {
        return Err(no_such_remote(name, None));
    }
    let message = format!("volume {name}: {}", said.join("; "));
    tracing::info!("{message}");
    Ok(Reply {
        message,
        files: Vec::new(),
    })
}

fn no_such_remote(volume: &str, remote: Option<&str>) -> ControlError {
    let what = remote.map_or_else(
        || "no remote".to_owned(),
        |name| format!("no remote '{}'", name.escape_default()),
    );
    let message = format!(
        "there is no volume '{}' here, or {what} of it",
        volume.escape_default()
    );
    let remedy = "see 'farside status' for volumes and their remotes";
    ControlError::new(ErrorCode::NotFound, message, remedy)
}

pub(super) fn no_such_volume(name: &str) -> ControlError {
    let message = format!("there is no volume '{}' here", name.escape_default());
    ControlError::new(
        ErrorCode::NotFound,
        message,
        "list the volumes with 'farside volume list'",
    )
}

async fn remove_volume(shared: &Shared, remove: RemoveVolume) -> Result<Reply, ControlError> {
    let (slot, config) = {
        let view = shared.view.read();
        (
            view.volumes.get(&remove.name).cloned(),
            view.config.volume(&remove.name).cloned(),
        )
    };
    let (Some(slot), Some(config)) = (slot, config) else {
        return Err(no_such_volume(&remove.name));
    };
    refuse_attached(&slot, &remove)?;
    let old = current_text(shared)?;
    if let Some(new) = edit::remove_volume(&old, &remove.name).map_err(invalid)? {
        shared.judge(&new).map_err(|error| invalid(error.to_string()))?;
        write_text(&shared.config_path, &new).map_err(|error| failed(&error))?;
    }
    take_out(shared, &remove.name).await;
    let forgotten = shared.parts.forget_volume(&remove.name);
    forgotten.map_err(|error| ControlError::plain(error.code, error.message))?;
    let files = files_of(&config);
    let message = if remove.delete_data {
        delete_files(shared, &config)?
    } else {
        left_behind(&config)
    };
    Ok(Reply { message, files })
}

fn refuse_attached(slot: &Slot, remove: &RemoveVolume) -> Result<(), ControlError> {
    let connections = if let Slot::Open(volume) = slot {
        volume.connections()
    } else {
        0
    };
    if connections == 0 || remove.force {
        return Ok(());
    }
    let message = format!(
        "hosts have {} to volume {} open",
        counted(connections.into(), "connection"),
        remove.name
    );
    Err(ControlError::new(
        ErrorCode::Conflict,
        message,
        "detach the hosts first, or give --force",
    ))
}

/// Closes a volume and forgets it; the file says so already.
pub(super) async fn take_out(shared: &Shared, name: &str) {
    let slot = {
        let mut view = shared.view.write();
        view.config.volumes.retain(|volume| volume.name != name);
        view.volumes.remove(name)
    };
    if let Some(Slot::Open(volume)) = slot {
        let connections = volume.connections();
        if connections > 0 {
            tracing::warn!(
                volume = name,
                connections,
                "hosts are detached from a volume that is being removed"
            );
        }
        volume.close().await;
    }
    tracing::info!(volume = name, "volume removed");
}

fn files_of(volume: &VolumeConfig) -> Vec<String> {
    [&volume.mirror, &volume.journal]
        .map(|path| path.display().to_string())
        .to_vec()
}

fn left_behind(volume: &VolumeConfig) -> String {
    let (mirror, journal) = (volume.mirror.display(), volume.journal.display());
    format!(
        "volume {} is removed; its data stays in {mirror} and {journal}",
        volume.name
    )
}

/// Two volumes cannot be configured with one file, but one that never opened may name what another one still has in use.
fn refuse_shared_files(shared: &Shared, volume: &VolumeConfig) -> Result<(), ControlError> {
    let view = shared.view.read();
    let mine = [&volume.mirror, &volume.journal];
    let mut others = view.config.volumes.iter();
    let user = others.find(|other| {
        [&other.mirror, &other.journal]
            .iter()
            .any(|path| mine.contains(path))
    });
    let Some(user) = user else { return Ok(()) };
    let message = format!(
        "volume {} is removed; its data stays, because volume {} has it in use",
        volume.name, user.name
    );
    Err(ControlError::plain(ErrorCode::Conflict, message))
}

fn delete_files(shared: &Shared, volume: &VolumeConfig) -> Result<String, ControlError> {
    let mut kept = Vec::new();
    refuse_shared_files(shared, volume)?;
    for path in [&volume.mirror, &volume.journal] {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_file() => std::fs::remove_file(path).map_err(|error| {
                let message = format!(
                    "volume {} is removed, but {} is not: {error}",
                    volume.name,
                    path.display()
                );
                ControlError::new(ErrorCode::Failed, message, "delete what is left of it by hand")
            })?,
            Ok(_) => kept.push(path.display().to_string()),
            // Never made, or gone already.
            Err(_) => {}
        }
    }
    let store = files_of_store(volume, &shared.view.read().config.unit.data_dir);
    remove_maps(&store, &volume.name)
        .map_err(|error| ControlError::plain(ErrorCode::Failed, error.to_string()))?;
    if let Some(directory) = volume
        .mirror
        .parent()
        .filter(|directory| directory.ends_with(&volume.name))
    {
        // Only if nothing else is in it.
        std::fs::remove_dir(directory).ok();
    }
    let note = if kept.is_empty() {
        String::new()
    } else {
        format!("; no regular file, left as it is: {}", kept.join(", "))
    };
    Ok(format!("volume {} and its data are deleted{note}", volume.name))
}

/// The text of the file, which has to be valid before a command may add to it.
fn current_text(shared: &Shared) -> Result<String, ControlError> {
    let judged = read_text(&shared.config_path).and_then(|text| shared.judge(&text).map(|_| text));
    judged.map_err(|error| {
        let message = format!("the configuration file has to be corrected first: {error}");
        ControlError::plain(ErrorCode::InvalidConfiguration, message)
    })
}

/// Problems of what a command adds, without lines of a file that was never written.
fn without_places(error: &ConfigError) -> String {
    match error {
        ConfigError::Content { problems, .. } => {
            let texts = problems
                .iter()
                .map(|problem| format!("{}; {}", problem.message, problem.remedy));
            texts.collect::<Vec<_>>().join("\n")
        }
        other => other.to_string(),
    }
}

pub(super) fn invalid(message: String) -> ControlError {
    ControlError::plain(ErrorCode::InvalidConfiguration, message)
}

fn failed(error: &ConfigError) -> ControlError {
    ControlError::plain(ErrorCode::Failed, error.to_string())
}
