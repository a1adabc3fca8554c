//! Bytes that no client should send.

use super::messages::golden_request;
use super::negotiation::golden_go;
use crate::nbd::{
    ClientFlags, ClientOption, MessageStyle, OptionHeader, REQUEST_HEADER_BYTES, Request, option_code,
};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

/// A golden message with one byte changed, cut anywhere.
fn mutated(golden: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = golden.len();
    (Just(golden), 0..length, any::<u8>(), 0..=length).prop_map(|(mut bytes, at, value, end)| {
        bytes[at] = value;
        bytes.truncate(end);
        bytes
    })
}

proptest! {
    #[test]
    fn random_options_never_panic(code in any::<u32>(), low in 0u32..12, data: Vec<u8>) {
        let _ = ClientOption::decode(code, &data);
        let _ = ClientOption::decode(low, &data);
    }

    #[test]
    fn mutated_go_is_refused_or_names_what_was_sent(data in mutated(golden_go())) {
        if let Ok(ClientOption::Go(request)) = ClientOption::decode(option_code::GO, &data) {
            let sent = data.windows(request.name.len().max(1)).any(|part| part == request.name.as_bytes());
            prop_assert!(sent || request.name.is_empty());
        }
    }

    #[test]
    fn random_requests_are_refused_by_their_magic(data: Vec<u8>) {
        match Request::decode(&data, MessageStyle::Simple) {
            Ok(None) => prop_assert!(data.len() < REQUEST_HEADER_BYTES),
            Ok(Some(_)) => prop_assert_eq!(&data[..4], &[0x25, 0x60, 0x95, 0x13]),
            Err(_) => prop_assert!(data[..4] != [0x25, 0x60, 0x95, 0x13]),
        }
    }

    #[test]
    fn mutated_requests_never_panic(data in mutated(golden_request(1)), header: [u8; 16], flags: [u8; 4]) {
        let _ = Request::decode(&data, MessageStyle::Simple);
        let _ = Request::decode(&data, MessageStyle::Extended);
        let _ = OptionHeader::decode(&header);
        let _ = ClientFlags::decode(flags);
    }
}
