//! Putting a configuration into force: what of it can change while the unit runs does, the rest is named.

use super::commands::{invalid, take_out};
use super::parts::PartError;
use super::reload::{changes, in_force_after};
use super::shared::{Shared, Slot, View};
use crate::config::{Config, VolumeConfig, read_text};
use farside_protocol::control::{ControlError, Reply};
use std::sync::Arc;

/// Reads the file again and makes the changes that can be made live. A wrong file changes nothing.
pub(super) async fn reload(shared: &Shared) -> Result<Reply, ControlError> {
    let wanted = read_text(&shared.config_path).and_then(|text| shared.judge(&text));
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            tracing::error!("configuration not reread, the one before stays in force: {error}");
            shared.view.write().config_error = Some(error.to_string());
            return Err(invalid(error.to_string()));
        }
    };
    let pending = apply(shared, &wanted).await;
    let mut message = "configuration reread".to_owned();
    if !pending.is_empty() {
        message += &format!("; these changes wait for a restart: {}", pending.join(", "));
    }
    if let Some(problem) = &shared.view.read().config_error {
        message += &format!("; not everything could be done: {problem}");
    }
    tracing::info!("{message}");
    Ok(Reply {
        message,
        files: vec![shared.config_path.display().to_string()],
    })
}

/// Opens new volumes, and those that could not be opened before: whatever was in the way may be gone.
async fn open_idle(shared: &Shared) {
    let idle: Vec<VolumeConfig> = {
        let view = shared.view.read();
        let is_open = |volume: &&VolumeConfig| matches!(view.volumes.get(&volume.name), Some(Slot::Open(_)));
        let volumes = view.config.volumes.iter();
        volumes.filter(|volume| !is_open(volume)).cloned().collect()
    };
    for volume in &idle {
        if shared.refuse_while_stopping().is_ok() {
            shared.open(volume).await;
        }
    }
}

/// Of a volume that is not open nothing is in force but what is wanted.
fn forget_idle(view: &mut View, wanted: &Config) {
    let View { config, volumes, .. } = view;
    for known in &mut config.volumes {
        let is_open = matches!(volumes.get(&known.name), Some(Slot::Open(_)));
        if let Some(wanted) = wanted.volume(&known.name).filter(|_| !is_open) {
            known.clone_from(wanted);
        }
    }
}

pub(super) async fn apply(shared: &Shared, wanted: &Config) -> Vec<String> {
    let steps = {
        let mut view = shared.view.write();
        forget_idle(&mut view, wanted);
        let steps = changes(&view.config, wanted);
        view.config_error = None;
        view.pending_restart.clone_from(&steps.pending_restart);
        steps
    };
    for name in &steps.remove_volumes {
        take_out(shared, name).await;
    }
    for (volume, remote) in &steps.remove_remotes {
        let returns = steps
            .add_remotes
            .iter()
            .any(|(of, to)| of == volume && to.name == *remote);
        match open_volume(shared, volume) {
            // At another address; what it has confirmed still counts.
            Some(volume) if returns => volume.pause_remote(remote).await,
            Some(volume) => volume.remove_remote(remote).await,
            None => {}
        }
    }
    for (name, access) in &steps.set_access {
        shared.parts.set_access(name, access.clone());
    }
    if let Some(open) = steps.export_replicas {
        shared.parts.open_replicas(open);
    }
    if let Some(replicas) = &steps.replicas {
        shared.parts.place_replicas(replicas);
    }
    let credentials = shared.parts.read_credentials();
    let mut failed = Vec::new();
    for (name, remote) in &steps.add_remotes {
        if let Some(volume) = open_volume(shared, name)
            && let Err(error) = volume.add_remote(remote).await
        {
            tracing::error!(volume = name, remote = remote.name, "remote not started: {error}");
            failed.push((name, remote, error));
        }
    }
    {
        let mut view = shared.view.write();
        view.config = in_force_after(&view.config, wanted);
        if let Err(error) = credentials {
            let text = format!("the certificates or secrets of before stay in use: {error}");
            tracing::error!("{text}");
            view.config_error.get_or_insert(text);
        }
        // Not in force, so that the next reload tries again.
        for (name, remote, error) in failed {
            let volume = view.config.volumes.iter_mut().find(|volume| volume.name == *name);
            if let Some(volume) = volume {
                volume.remotes.retain(|known| known.name != remote.name);
            }
            let text = format!(
                "remote {} of volume {name} was not started: {error}; reload to try again",
                remote.name
            );
            view.config_error.get_or_insert(text);
        }
    }
    open_idle(shared).await;
    shared.parts.open_failed_replicas().await;
    grow_all(shared, wanted).await;
    steps.pending_restart
}

pub(super) fn open_volume(shared: &Shared, name: &str) -> Option<Arc<super::parts::Volume>> {
    match shared.view.read().volumes.get(name) {
        Some(Slot::Open(volume)) => Some(Arc::clone(volume)),
        _ => None,
    }
}

/// Volumes in service that are smaller than wanted become larger.
pub(super) async fn grow_all(shared: &Shared, wanted: &Config) {
    for VolumeConfig { name, size_bytes, .. } in &wanted.volumes {
        let is_smaller = open_volume(shared, name).is_some_and(|volume| volume.size_bytes() < *size_bytes);
        if !is_smaller || shared.refuse_while_stopping().is_err() {
            continue;
        }
        if let Err(error) = grow(shared, name, *size_bytes).await {
            let text = format!("{}{error}", keeps_its_size(name));
            tracing::error!("{text}");
            shared.view.write().config_error.get_or_insert(text);
        }
    }
}

pub(super) fn keeps_its_size(name: &str) -> String {
    format!("volume {name} keeps its size: ")
}

/// Makes a volume larger, now if it is in service, else when it is opened next.
pub(super) async fn grow(shared: &Shared, name: &str, bytes: u64) -> Result<(), PartError> {
    if let Some(volume) = open_volume(shared, name) {
        volume.grow(bytes).await?;
    }
    let mut view = shared.view.write();
    let config = view.config.volumes.iter_mut().find(|volume| volume.name == name);
    if let Some(config) = config {
        config.size_bytes = bytes;
    }
    Ok(())
}
