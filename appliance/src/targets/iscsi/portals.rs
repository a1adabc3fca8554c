//! What the portals of a unit have in common: targets, sessions, limits, who may log in.

use super::directory::Directory;
use super::login::Policy;
use super::sessions::Sessions;
use crate::targets::{Counters, Exports, Settings};
use parking_lot::RwLock;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// All portals of a unit: they are one portal group, so that it does not matter which one an initiator uses.
pub struct Portals<E: Exports> {
    pub(super) directory: Directory<E>,
    pub(super) sessions: Arc<Sessions>,
    /// Where connections are counted.
    pub(super) counters: Arc<Counters>,
    pub(super) settings: Settings,
    policy: RwLock<Arc<Policy>>,
    listening: Vec<SocketAddr>,
}

impl<E: Exports> fmt::Debug for Portals<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Portals")
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}

/// What portals are made of.
#[derive(Debug)]
pub struct Setup<E> {
    /// The disks.
    pub exports: Arc<E>,
    /// Where connections are counted.
    pub counters: Arc<Counters>,
    /// Limits.
    pub settings: Settings,
    /// Who may log in.
    pub policy: Policy,
    /// Addresses of the portals.
    pub listening: Vec<SocketAddr>,
    /// Where persistent reservations are kept.
    pub reservations: PathBuf,
}

impl<E: Exports> Portals<E> {
    /// Portals that nobody listens at yet.
    #[must_use]
    pub fn new(setup: Setup<E>) -> Arc<Self> {
        Arc::new(Self {
            directory: Directory::new(setup.exports, setup.reservations),
            sessions: Arc::default(),
            counters: setup.counters,
            settings: setup.settings,
            policy: RwLock::new(Arc::new(setup.policy)),
            listening: setup.listening,
        })
    }

    /// Who may log in from now on; sessions that exist stay.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write() = Arc::new(policy);
    }

    /// Who may log in.
    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// Where the portals are, for an initiator that came by way of `local`: an address for all interfaces is that one.
    pub(super) fn addresses(&self, local: Option<SocketAddr>) -> Vec<SocketAddr> {
        let concrete = |address: &SocketAddr| match local {
            Some(local) if address.ip().is_unspecified() => SocketAddr::new(local.ip(), address.port()),
            _ => *address,
        };
        self.listening.iter().map(concrete).collect()
    }
}
