//! Target: what pairing reads: invitations as people type them, certificates of strangers, the list of paired units.
//!
//! Promises: no panic; an invitation that is accepted is written as it was, but for its case; a certificate tells the same key
//! however often it is read; a list that is accepted is the same after it was written and read.

use farside::pairing::{Shown, Token, format_peers, parse_peers};
use rustls_pki_types::CertificateDer;

/// The list with everything in it that can be.
const LIST: &str = "[[unit]]\nname = \"far\"\nunit = \"00000000-0000-4000-8000-000000000001\"\n\
key = \"0000000000000000000000000000000000000000000000000000000000000001\"\n\
next_key = \"0000000000000000000000000000000000000000000000000000000000000002\"\n\
address = \"192.0.2.20:10900\"\npaired_at = \"2026-01-02T03:04:05Z\"\n";

pub(crate) fn run(input: &[u8]) -> bool {
    match input.split_first() {
        Some((0, rest)) => std::str::from_utf8(rest).is_ok_and(token),
        Some((1, rest)) => certificate(rest),
        Some((2, rest)) => std::str::from_utf8(rest).is_ok_and(list),
        _ => false,
    }
}

fn token(text: &str) -> bool {
    let Ok(token) = text.parse::<Token>() else {
        return false;
    };
    assert_eq!(token.to_string(), text.trim().to_ascii_lowercase());
    true
}

fn certificate(bytes: &[u8]) -> bool {
    let certificate = CertificateDer::from(bytes);
    let Some(shown) = Shown::read(&certificate) else {
        return false;
    };
    assert_eq!(Shown::read(&certificate), Some(shown));
    true
}

fn list(text: &str) -> bool {
    let Ok(peers) = parse_peers(text) else {
        return false;
    };
    assert_eq!(parse_peers(&format_peers(&peers)), Ok(peers));
    true
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, content: &[u8]| [&[kind], content].concat();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let plain = params.self_signed(&key).expect("a certificate");
    let uri = "farside:next-key:00000000000000000000000000000000000000000000000000000000000000ff";
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(uri.try_into().expect("a URI")));
    let telling = params.self_signed(&key).expect("a certificate");
    let shown = Shown::read(telling.der()).expect("it is one");
    assert!(shown.next.is_some_and(|next| next.to_string().ends_with("ff")));
    let token = Token::new(shown.key, [7; 16]).to_string();
    vec![
        of(0, token.as_bytes()),
        of(0, token.to_uppercase().as_bytes()),
        of(1, plain.der()),
        of(1, telling.der()),
        of(2, LIST.as_bytes()),
        of(2, b""),
    ]
}
