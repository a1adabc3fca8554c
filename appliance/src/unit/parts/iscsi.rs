//! The iSCSI portals of a unit.

use super::error::PartError;
use super::exports::UnitExports;
use crate::config::Config;
use crate::targets::iscsi::{Account, Policy, Portals, Setup, serve};
use crate::targets::{Counters, Settings};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where persistent reservations are kept, in the data directory.
const RESERVATIONS: &str = "reservations";
/// Shortest CHAP secret (RFC 7143, section 12.1.3: without IPsec 96 bits), and longest, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 12..=255;
/// Of a secret's file: neither its group nor others may read it.
const OTHERS: u32 = 0o077;

/// The portals in service.
#[derive(Debug)]
pub(super) struct IscsiServer {
    counters: Arc<Counters>,
    portals: OnceLock<Arc<Portals<UnitExports>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl IscsiServer {
    /// Nobody listens yet. Hosts are counted together with those of other targets.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            portals: OnceLock::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts initiators on `listeners`.
    pub(super) fn start(
        &self,
        config: &Config,
        exports: Arc<UnitExports>,
        listeners: Vec<TcpListener>,
    ) -> Result<(), PartError> {
        if listeners.is_empty() {
            return Ok(());
        }
        let connections = config.limits.iscsi_connections;
        let portals = Portals::new(Setup {
            exports,
            counters: self.counters.clone(),
            settings: Settings {
                connections: usize::try_from(connections).unwrap_or(usize::MAX),
                ..Settings::default()
            },
            policy: policy(config)?,
            listening: listeners
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect(),
            reservations: config.unit.data_dir.join(RESERVATIONS),
        });
        let portals = self.portals.get_or_init(|| portals);
        for listener in listeners {
            let (portals, stop) = (Arc::clone(portals), self.stop.clone());
            self.tasks.spawn(serve(listener, portals, stop));
        }
        self.tasks.close();
        Ok(())
    }

    /// Reads the secrets again, for new sessions.
    ///
    /// # Errors
    /// When one cannot be used: those of before stay in use.
    pub(super) fn read_secrets(&self, config: &Config) -> Result<(), PartError> {
        if let Some(portals) = self.portals.get() {
            portals.set_policy(policy(config)?);
        }
        Ok(())
    }

    /// Stops accepting, asks initiators to log out and lets commands under way finish.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn policy(config: &Config) -> Result<Policy, PartError> {
    let account = match &config.iscsi.chap {
        None => None,
        Some(chap) => {
            let secret = secret(&chap.secret_file)?;
            let own = match &chap.own {
                None => None,
                Some((name, file)) => Some((name.clone(), self::secret(file)?)),
            };
            if own.as_ref().is_some_and(|(_, own)| *own == secret) {
                let message = "iscsi.chap: the secrets of initiators and of the target itself are the same; give each its own";
                return Err(PartError::failed(message));
            }
            Some(Account {
                user: chap.user.clone(),
                secret,
                own,
            })
        }
    };
    Ok(Policy {
        account,
        initiators: config.iscsi.initiators.clone(),
    })
}

/// Reads a secret: the file's content without the end of its line.
fn secret(file: &Path) -> Result<Vec<u8>, PartError> {
    let failed = |why: String| PartError::failed(format!("iscsi.chap: {}: {why}", file.display()));
    let metadata = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?;
    if metadata.permissions().mode() & OTHERS != 0 {
        let why = "others can read this secret; run chmod 600 on it";
        return Err(failed(why.to_owned()));
    }
    let mut secret = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    while secret.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    if !SECRET_BYTES.contains(&secret.len()) {
        return Err(failed(format!(
            "a secret has 12 to 255 bytes, and this one {}",
            secret.len()
        )));
    }
    Ok(secret)
}
