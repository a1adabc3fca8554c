//! What of a configuration concerns addresses to listen on.

use super::check::Checker;
use std::net::SocketAddr;
use toml::Spanned;

impl Checker<'_> {
    pub(super) fn addresses(
        &mut self,
        settings: &[Spanned<String>],
        section: &str,
        trusted: bool,
    ) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for setting in settings {
            let Some(address) = self.address(setting) else {
                continue;
            };
            if !trusted && !address.ip().is_loopback() {
                let message = format!(
                    "{address} is reachable from other machines, and [{section}] does not ask them who they are"
                );
                let other = match section {
                    "nbd" => "give [nbd.tls] with required = true and a client_ca, ",
                    "iscsi" => "give [iscsi.chap], ",
                    _ => "",
                };
                let remedy = format!(
                    "give a loopback address, {other}or set trust_network = true in [{section}] if every machine on that network may be trusted"
                );
                self.refuse(&setting.span(), message, &remedy);
            }
            addresses.push(address);
        }
        addresses
    }

    pub(super) fn address(&mut self, setting: &Spanned<String>) -> Option<SocketAddr> {
        let text = setting.get_ref();
        let Ok(address) = text.parse::<SocketAddr>() else {
            let message = format!("'{}' is not an address to listen on", text.escape_debug());
            self.refuse(
                &setting.span(),
                message,
                "write IP:PORT, as in 127.0.0.1:10809 or [::1]:10809",
            );
            return None;
        };
        // Port 0 is whatever the system gives, so it never collides.
        if address.port() != 0 && !self.taken.insert(address) {
            self.refuse(
                &setting.span(),
                format!("{address} is named twice"),
                "give each listener its own port",
            );
        }
        Some(address)
    }
}
