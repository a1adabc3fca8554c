//! Addresses given on the command line, which count more than those in the file.

use super::{Config, ConfigError};
use std::net::SocketAddr;

/// Addresses that replace those of the file at every reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Instead of `nbd.listen`.
    pub nbd: Option<SocketAddr>,
    /// Instead of `iscsi.listen`, if there is one.
    pub iscsi: Vec<SocketAddr>,
    /// Instead of `link.listen`; remotes that are this unit itself follow.
    pub link: Option<SocketAddr>,
    /// Instead of `console.listen`.
    pub console: Option<SocketAddr>,
}

impl Overrides {
    /// Puts the addresses into `config`.
    ///
    /// # Errors
    /// An address beyond loopback: the command line cannot say that a network is trusted.
    pub fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        let single = [
            ("--nbd", self.nbd),
            ("--link", self.link),
            ("--console", self.console),
        ];
        let single = single
            .into_iter()
            .filter_map(|(flag, address)| Some((flag, address?)));
        let portals = self.iscsi.iter().map(|address| ("--iscsi", *address));
        for (flag, address) in single.chain(portals) {
            if !address.ip().is_loopback() {
                return Err(ConfigError::Flag(format!(
                    "{flag} {address} is reachable from other machines; give a loopback address such as \
                     127.0.0.1:{port}, or put it into the configuration file",
                    port = address.port()
                )));
            }
        }
        if let Some(address) = self.nbd {
            config.nbd.listen = vec![address];
        }
        if !self.iscsi.is_empty() {
            config.iscsi.listen.clone_from(&self.iscsi);
        }
        if let Some(address) = self.link {
            config.redirect_own_link(address);
        }
        if let Some(address) = self.console {
            config.console_listen = Some(address);
        }
        Ok(())
    }
}

impl Config {
    /// Makes `address` the only link address, and lets remotes that named an old one name the new one.
    pub fn redirect_own_link(&mut self, address: SocketAddr) {
        let old: Vec<String> = self.link.listen.iter().map(ToString::to_string).collect();
        for remote in self.volumes.iter_mut().flat_map(|volume| &mut volume.remotes) {
            for own in std::iter::once(&mut remote.address).chain(&mut remote.other_addresses) {
                if old.contains(own) {
                    *own = address.to_string();
                }
            }
        }
        self.link.listen = vec![address];
    }
}
