//! Which host names the console answers to.
//!
//! A page from anywhere may point a name of its own at this machine and have a browser here fetch what the console
//! shows (DNS rebinding). Such a request carries that name, so only addresses, `localhost` and the unit's own name
//! are answered. A request that names no host comes from no browser.

use crate::control::Control;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use farside_protocol::control::{ControlError, ErrorCode};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Lets a request pass whose every host is one of ours.
pub(crate) async fn guard(State(control): State<Arc<dyn Control>>, request: Request, next: Next) -> Response {
    let lines = request.headers().get_all(header::HOST);
    let in_line = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut named = lines.iter().map(header::HeaderValue::as_bytes).chain(in_line);
    if named.all(|host| is_ours(host, || control.status().unit.name)) {
        return next.run(request).await;
    }
    let error = ControlError::new(
        ErrorCode::BadRequest,
        "the console does not answer to this host name",
        "open it by its address, by localhost, or by the name of the unit",
    );
    (StatusCode::FORBIDDEN, Json(error)).into_response()
}

/// Whether `host`, which may end in a port, is an address, `localhost` or the name of the unit.
fn is_ours(host: &[u8], unit_name: impl FnOnce() -> String) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split_once(']');
        return address.is_some_and(|(address, port)| address.parse::<Ipv6Addr>().is_ok() && is_port(port));
    }
    let (name, port) = host.find(':').map_or((host, ""), |at| host.split_at(at));
    is_port(port)
        && (name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || name.eq_ignore_ascii_case(&unit_name()))
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_the_unit_are_ours_and_nothing_else() {
        for (host, ours) in [
            ("127.0.0.1:8480", true),
            ("192.168.1.2", true),
            ("[::1]:8480", true),
            ("LocalHost:8480", true),
            ("cellar:8480", true),
            ("evil.example:8480", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1:80@evil.example", false),
            ("[::1", false),
            ("[evil.example]", false),
            ("", false),
        ] {
            assert_eq!(is_ours(host.as_bytes(), || "cellar".to_owned()), ours, "{host}");
        }
        assert!(!is_ours(b"\xff", || "cellar".to_owned()));
    }
}
