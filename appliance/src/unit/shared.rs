//! What the unit knows of itself, and the status made of it.

use super::listeners::{Listeners, addresses};
use super::parts::{Parts, Volume};
use crate::config::{Config, ConfigError, Overrides, VolumeConfig, parse};
use crate::pairing::Pairing;
use farside_protocol::control::{
    ControlError, ErrorCode, ImageStatus, JournalStatus, SCHEMA, Status, UnitStatus, VolumeStatus,
};
use farside_storage::OpenMode;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// State that the console, the control socket, signals and the life cycle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config_path: PathBuf,
    pub(super) overrides: Overrides,
    pub(super) uuid: Uuid,
    pub(super) pairing: Arc<Pairing>,
    pub(super) started_at: String,
    pub(super) listening: Listening,
    pub(super) parts: Parts,
    /// Held by whoever changes the configuration, from the first check to the last effect.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) view: RwLock<View>,
}

/// Addresses really bound.
#[derive(Debug, Default)]
pub(super) struct Listening {
    pub(super) nbd: Vec<String>,
    pub(super) iscsi: Vec<String>,
    pub(super) link: Vec<String>,
    pub(super) console: Option<String>,
    /// The link address the system chose, if the configuration left it to the system.
    pub(super) chosen_link: Option<SocketAddr>,
}

/// What changes while the unit runs. Locked for moments only, never across waiting.
#[derive(Debug)]
pub(super) struct View {
    pub(super) config: Config,
    pub(super) config_error: Option<String>,
    pub(super) pending_restart: Vec<String>,
    pub(super) volumes: BTreeMap<String, Slot>,
    pub(super) stopping: bool,
    /// A volume is smaller than wanted since it was opened.
    pub(super) has_to_grow: bool,
}

/// A volume of the configuration.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    /// Being opened.
    Starting,
    /// In service.
    Open(Arc<Volume>),
    /// Could not be opened, and why.
    Failed(String),
}

impl Listening {
    pub(super) fn of(listeners: &Listeners) -> Self {
        let console = listeners
            .console
            .as_ref()
            .and_then(|console| console.local_addr().ok());
        let single = listeners.link.first().filter(|_| listeners.link.len() == 1);
        Self {
            nbd: listeners.nbd.addresses(),
            iscsi: addresses(&listeners.iscsi),
            link: addresses(&listeners.link),
            console: console.map(|address| address.to_string()),
            chosen_link: single.and_then(|listener| listener.local_addr().ok()),
        }
    }

    /// Puts the port that the system chose where the configuration says 0.
    pub(super) fn settle(&self, config: &mut Config) {
        let open = matches!(config.link.listen.as_slice(), [address] if address.port() == 0);
        if let Some(address) = self.chosen_link.filter(|_| open) {
            config.redirect_own_link(address);
        }
    }
}

impl Shared {
    /// Judges `text` as this unit's configuration, with everything that is put over the file.
    pub(super) fn judge(&self, text: &str) -> Result<Config, ConfigError> {
        let mut config = parse(text, &self.config_path)?;
        self.overrides.apply(&mut config)?;
        self.listening.settle(&mut config);
        Ok(config)
    }

    pub(super) fn refuse_while_stopping(&self) -> Result<(), ControlError> {
        if self.view.read().stopping {
            let remedy = "start the unit again and repeat the command";
            return Err(ControlError::new(
                ErrorCode::ShuttingDown,
                "the unit is shutting down",
                remedy,
            ));
        }
        Ok(())
    }

    /// Opens a volume of the configuration, and keeps the reason if that fails.
    pub(super) async fn open(&self, volume: &VolumeConfig) {
        self.view
            .write()
            .volumes
            .insert(volume.name.clone(), Slot::Starting);
        let slot = match self.parts.open_volume(volume, OpenMode::Careful).await {
            Ok(open) => {
                tracing::info!(volume = volume.name, "volume in service");
                self.note_size(&volume.name, open.size_bytes());
                Slot::Open(open)
            }
            Err(error) => {
                tracing::error!(volume = volume.name, "volume not in service: {error}");
                Slot::Failed(error.to_string())
            }
        };
        self.view.write().volumes.insert(volume.name.clone(), slot);
    }

    /// In force is the size that a volume has, whatever is wanted.
    pub(super) fn note_size(&self, name: &str, bytes: u64) {
        let mut view = self.view.write();
        let config = view.config.volumes.iter_mut().find(|volume| volume.name == name);
        if let Some(config) = config.filter(|config| config.size_bytes > bytes) {
            config.size_bytes = bytes;
            view.has_to_grow = true;
        }
    }

    /// Whether a volume was smaller than the configuration says when it was opened.
    pub(super) fn has_to_grow(&self) -> bool {
        self.view.read().has_to_grow
    }

    pub(super) fn status(&self) -> Status {
        let view = self.view.read();
        let volumes = view
            .volumes
            .iter()
            .map(|(name, slot)| volume_status(name, slot, &view.config))
            .collect();
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unit: UnitStatus {
                name: view.config.unit.name.clone(),
                uuid: self.uuid.to_string(),
                started_at: self.started_at.clone(),
                config_file: Some(self.config_path.display().to_string()),
                config_error: view.config_error.clone(),
                pending_restart: view.pending_restart.clone(),
                nbd_listen: self.listening.nbd.clone(),
                iscsi_listen: self.listening.iscsi.clone(),
                link_listen: self.listening.link.clone(),
                console_listen: self.listening.console.clone(),
            },
            volumes,
            replicas: self.parts.replicas(),
        }
    }
}

/// Where initiators find the volume; one that needs TLS is not offered to them.
fn with_address(status: VolumeStatus, config: Option<&VolumeConfig>) -> VolumeStatus {
    match config.map(|volume| &volume.access) {
        Some(access) if !access.require_tls => VolumeStatus {
            iscsi_target: access.scsi.target.clone(),
            iscsi_lun: access.scsi.lun,
            ..status
        },
        _ => status,
    }
}

fn volume_status(name: &str, slot: &Slot, config: &Config) -> VolumeStatus {
    let problem = match slot {
        Slot::Open(volume) => return with_address(volume.status(), config.volume(name)),
        Slot::Starting => None,
        Slot::Failed(why) => Some(why.clone()),
    };
    let Some(volume) = config.volume(name) else {
        return VolumeStatus::out_of_service(name, 0, problem);
    };
    VolumeStatus {
        journal: JournalStatus {
            path: volume.journal.display().to_string(),
            size_bytes: volume.journal_size_bytes,
            ..JournalStatus::default()
        },
        mirror: ImageStatus {
            path: volume.mirror.display().to_string(),
        },
        ..VolumeStatus::out_of_service(name, volume.size_bytes, problem)
    }
}
