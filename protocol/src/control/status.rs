//! The status of a whole unit: one immutable picture, taken at one moment.

use super::{ReplicaStatus, VolumeStatus};
use serde::{Deserialize, Serialize};

/// Everything a unit says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`](super::SCHEMA) of these types.
    pub schema: u32,
    /// Version of the software that answered.
    pub version: String,
    /// The unit itself.
    pub unit: UnitStatus,
    /// Volumes it serves, by name.
    pub volumes: Vec<VolumeStatus>,
    /// Replicas it keeps for other units, by name.
    pub replicas: Vec<ReplicaStatus>,
}

/// Identity and life cycle of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Name from the configuration.
    pub name: String,
    /// Identity, made at the first start and kept for ever.
    pub uuid: String,
    /// When this process started (RFC 3339).
    pub started_at: String,
    /// The configuration file in force.
    pub config_file: Option<String>,
    /// Why the file as it is now was refused; the one read before stays in force.
    pub config_error: Option<String>,
    /// Settings that differ in the file but need a restart, by their key.
    pub pending_restart: Vec<String>,
    /// Addresses on which hosts attach: `host:port` or `unix:/path`.
    pub nbd_listen: Vec<String>,
    /// Addresses of the iSCSI portals: `host:port`.
    #[serde(default)]
    pub iscsi_listen: Vec<String>,
    /// Addresses on which other units send replicas.
    pub link_listen: Vec<String>,
    /// Address of the console.
    pub console_listen: Option<String>,
}

/// The health page: one word, and the reasons if it is not `healthy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether nothing needs an operator.
    pub healthy: bool,
    /// What needs one, a sentence each.
    pub problems: Vec<String>,
}

impl Status {
    /// What an operator should look at. A remote that is merely behind or away is no fault of this unit
    /// and is not listed; data at risk and a refused configuration are.
    pub fn health(&self) -> Health {
        let mut problems = Vec::new();
        if let Some(error) = &self.unit.config_error {
            problems.push(format!("configuration: {error}"));
        }
        for volume in self.volumes.iter().filter(|volume| volume.state.is_faulty()) {
            problems.push(sentence("volume", &volume.name, volume.problem.as_deref()));
        }
        for replica in self.replicas.iter().filter(|replica| replica.state.is_faulty()) {
            problems.push(sentence("replica", &replica.name, replica.problem.as_deref()));
        }
        for volume in &self.volumes {
            for remote in volume.remotes.iter().filter(|remote| remote.state.is_faulty()) {
                let name = format!("{} of volume {}", remote.name, volume.name);
                problems.push(sentence("remote", &name, remote.detail.as_deref()));
            }
        }
        Health {
            healthy: problems.is_empty(),
            problems,
        }
    }
}

fn sentence(kind: &str, name: &str, problem: Option<&str>) -> String {
    format!("{kind} {name}: {}", problem.unwrap_or("not in order"))
}
