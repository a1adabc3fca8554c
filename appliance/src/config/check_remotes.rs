//! What of a configuration concerns the remotes of a volume.

use super::check::Checker;
use super::names::is_host;
use super::raw::{RawRemote, RawSize};
use super::{LinkConfig, RemoteConfig, limits};
use crate::link::SendWindows;
use farside_protocol::link::Compression;
use std::collections::HashSet;
use std::time::Duration;
use toml::Spanned;

impl RawRemote {
    /// All addresses, in the order in which they are tried.
    fn addresses(&self) -> impl Iterator<Item = &Spanned<String>> {
        std::iter::once(&self.address).chain(self.other_addresses.iter().flatten())
    }
}

impl Checker<'_> {
    pub(super) fn remotes(&mut self, raw: &[RawRemote], link: &LinkConfig) -> Vec<RemoteConfig> {
        let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
        for remote in raw {
            self.name("remote", &remote.name);
            if !names.insert(remote.name.get_ref()) {
                let message = format!(
                    "there are two remotes named '{}'",
                    remote.name.get_ref().escape_debug()
                );
                self.refuse(
                    &remote.name.span(),
                    message,
                    "give each remote of a volume or replica its own name",
                );
            }
            for address in remote.addresses() {
                if !addresses.insert(address.get_ref()) {
                    let message = format!("the address {} is named twice", address.get_ref().escape_debug());
                    self.refuse(
                        &address.span(),
                        message,
                        "a unit keeps one replica of a volume; remove one of the two",
                    );
                }
                self.remote_address(address, link);
            }
            self.refuse_many(remote.other_addresses.as_deref());
            if let Some(peer) = &remote.peer {
                self.name("unit", peer);
            }
        }
        let copy = |remote: &RawRemote| RemoteConfig {
            name: remote.name.get_ref().clone(),
            address: remote.address.get_ref().clone(),
            other_addresses: remote
                .addresses()
                .skip(1)
                .map(|address| address.get_ref().clone())
                .collect(),
            send: remote.send.unwrap_or(true),
            peer: remote.peer.as_ref().map(|peer| peer.get_ref().clone()),
            queue: remote.queue.unwrap_or(true),
            rate_bytes: self.rate(remote.rate.as_ref()),
            compression: self.compression(remote.compression.as_ref()),
            send_windows: self.send_windows(remote.send_windows.as_ref()),
            merge: remote.merge,
            confirm: remote.confirm,
            verify_every: self.verify_every(remote.verify_every.as_ref()),
        };
        raw.iter().map(copy).collect()
    }

    /// Remotes of a replica that is sent on; what only the unit with the volume can do is refused.
    pub(super) fn remotes_of_replica(&mut self, raw: &[RawRemote], link: &LinkConfig) -> Vec<RemoteConfig> {
        for remote in raw {
            let settings = [
                ("merge", remote.merge),
                ("verify_every", remote.verify_every.is_some()),
                ("queue", remote.queue.is_some()),
            ];
            for (setting, _) in settings.into_iter().filter(|(_, is_set)| *is_set) {
                let message = format!("'{setting}' is not for a remote that a replica is sent on to");
                let remedy = "take it out; it can be set where the volume is";
                self.refuse(&remote.name.span(), message, remedy);
            }
        }
        self.remotes(raw, link)
    }

    fn compression(&mut self, setting: Option<&Spanned<String>>) -> Compression {
        let Some(setting) = setting else {
            return Compression::None;
        };
        Compression::from_name(setting.get_ref()).unwrap_or_else(|| {
            let message = format!("there is no compression '{}'", setting.get_ref().escape_debug());
            let remedy = "write \"lz4\" (little processor time), \"zstd\" (fewer bytes) or \"none\"";
            self.refuse(&setting.span(), message, remedy);
            Compression::None
        })
    }

    fn send_windows(&mut self, settings: Option<&Vec<Spanned<String>>>) -> Option<SendWindows> {
        let settings = settings?;
        if settings.is_empty() {
            return None;
        }
        for setting in settings {
            if let Err(message) = SendWindows::new([setting.get_ref().as_str()]) {
                let remedy = "write days, times or both, as in \"Mon-Fri 19:00-07:00\", \"Sat,Sun\" or \"22:00-06:00\"";
                self.refuse(&setting.span(), message, remedy);
            }
        }
        SendWindows::new(settings.iter().map(|setting| setting.get_ref().as_str())).ok()
    }

    fn verify_every(&mut self, setting: Option<&Spanned<String>>) -> Option<Duration> {
        let setting = setting?;
        let days_are_equal = jiff::SpanRelativeTo::days_are_24_hours();
        let every = setting.get_ref().parse::<jiff::Span>().ok();
        let every = every.and_then(|span| span.to_duration(days_are_equal).ok());
        let every = every.and_then(|every| Duration::try_from(every).ok());
        let fits = every.filter(|every| limits::VERIFY_EVERY.contains(every));
        if fits.is_none() {
            let message = format!(
                "'{}' is no time in which a volume could be compared",
                setting.get_ref().escape_debug()
            );
            let remedy = "write a time such as \"7d\", \"36h\" or \"30m\", of 10 seconds at least";
            self.refuse(&setting.span(), message, remedy);
        }
        fits
    }

    fn rate(&mut self, setting: Option<&Spanned<RawSize>>) -> Option<u64> {
        let setting = setting?;
        let bytes = self.size(setting)?;
        if bytes < limits::RATE_BYTES_MIN {
            let message = format!("{bytes} bytes in a second are too few for a link");
            let remedy =
                "give at least 1K, or leave the line away; 'farside journal stop-send' holds the link";
            self.refuse(&setting.span(), message, remedy);
        }
        Some(bytes)
    }

    fn refuse_many(&mut self, others: Option<&[Spanned<String>]>) {
        let Some(first_too_many) = others.and_then(|others| others.get(limits::OTHER_ADDRESSES_MAX)) else {
            return;
        };
        self.refuse(
            &first_too_many.span(),
            format!(
                "more than {} other addresses of one remote",
                limits::OTHER_ADDRESSES_MAX
            ),
            "leave those away that are least likely to be of use",
        );
    }

    fn remote_address(&mut self, address: &Spanned<String>, link: &LinkConfig) {
        let (text, span) = (address.get_ref(), address.span());
        let parts = text
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let Some((_, port)) = parts.filter(|(host, _)| is_host(host)) else {
            let message = format!("'{}' is not the address of a remote", text.escape_debug());
            self.refuse(
                &span,
                message,
                "write HOST:PORT, as in 127.0.0.1:10900 or [::1]:10900",
            );
            return;
        };
        // With port 0 the unit listens wherever the system lets it, and only the unit itself can know where.
        if port == 0 && !link.listen.iter().any(|own| own.to_string() == *text) {
            self.refuse(
                &span,
                format!("{text} has no port"),
                "give the port on which the remote listens",
            );
        }
    }
}
