//! The handshake.

use super::{encoded, join};
use crate::nbd::{
    BlockSizes, ClientFlags, ClientOption, InfoRequest, OptionHeader, OptionReply, ProtocolError,
    option_code, put_export_name_reply, put_greeting, put_info_block_size, put_info_description,
    put_info_export, put_info_name, put_meta_context, put_option_reply, put_server,
};

#[test]
fn greeting_has_its_golden_bytes() {
    let golden = join(&[
        b"NBDMAGIC",   // magic
        b"IHAVEOPT",   // newstyle magic
        &[0x00, 0x03], // handshake flags: fixed newstyle, no zeroes
    ]);
    assert_eq!(encoded(put_greeting), golden);
}

#[test]
fn client_flags_accept_only_what_was_offered() {
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 0]),
        Ok(ClientFlags { no_zeroes: false })
    );
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 3]),
        Ok(ClientFlags { no_zeroes: true })
    );
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 7]),
        Err(ProtocolError::ClientFlags(7))
    );
    assert_eq!(
        ClientFlags::decode([0x80, 0, 0, 1]),
        Err(ProtocolError::ClientFlags(0x8000_0001))
    );
}

#[test]
fn option_header_is_read_from_its_golden_bytes() {
    let golden = join(&[
        b"IHAVEOPT",   // magic
        &[0, 0, 0, 7], // option: go
        &[0, 0, 1, 2], // length
    ]);
    let header: [u8; 16] = golden.try_into().unwrap();
    assert_eq!(
        OptionHeader::decode(&header),
        Ok(OptionHeader { code: 7, length: 258 })
    );
    let mut wrong = header;
    wrong[7] = b'U';
    assert_eq!(
        OptionHeader::decode(&wrong),
        Err(ProtocolError::OptionMagic(0x4948_4156_454f_5055))
    );
}

pub(super) fn golden_go() -> Vec<u8> {
    join(&[
        &[0, 0, 0, 5], // length of the name
        b"disk0",      // name
        &[0, 3],       // information requests
        &[0, 3],       // block size
        &[0, 1],       // name
        &[0x12, 0x34], // one that does not exist and is ignored
    ])
}

#[test]
fn go_is_read_from_its_golden_bytes() {
    let golden = golden_go();
    let wanted = InfoRequest {
        name: "disk0",
        wants_name: true,
        wants_description: false,
        wants_block_size: true,
    };
    assert_eq!(
        ClientOption::decode(option_code::GO, &golden),
        Ok(ClientOption::Go(wanted))
    );
    assert_eq!(
        ClientOption::decode(option_code::INFO, &golden),
        Ok(ClientOption::Info(wanted))
    );
}

#[test]
fn go_that_lies_about_its_lengths_is_malformed() {
    let golden = golden_go();
    for end in 0..golden.len() {
        assert!(
            ClientOption::decode(option_code::GO, &golden[..end]).is_err(),
            "cut at {end}"
        );
    }
    assert!(ClientOption::decode(option_code::GO, &[golden.as_slice(), &[0]].concat()).is_err());
    let mut huge_name = golden;
    huge_name[..4].copy_from_slice(&[0xff; 4]);
    assert!(ClientOption::decode(option_code::GO, &huge_name).is_err());
}

#[test]
fn options_without_data_refuse_data() {
    for code in [
        option_code::LIST,
        option_code::STARTTLS,
        option_code::STRUCTURED_REPLY,
        option_code::EXTENDED_HEADERS,
    ] {
        assert!(ClientOption::decode(code, &[]).is_ok());
        assert!(ClientOption::decode(code, &[1]).is_err());
    }
    assert_eq!(
        ClientOption::decode(option_code::ABORT, &[1]),
        Ok(ClientOption::Abort)
    );
    assert_eq!(ClientOption::decode(77, &[1]), Ok(ClientOption::Unsupported));
    assert_eq!(
        ClientOption::decode(option_code::EXPORT_NAME, b"a"),
        Ok(ClientOption::ExportName("a"))
    );
    assert!(ClientOption::decode(option_code::EXPORT_NAME, &[0xff]).is_err());
    assert!(ClientOption::decode(option_code::EXPORT_NAME, &[b'a'; 4097]).is_err());
}

/// Magic of option replies.
const REPLY: [u8; 8] = [0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9];

#[test]
fn option_replies_have_their_golden_bytes() {
    let ack = join(&[&REPLY, &[0, 0, 0, 8], &[0, 0, 0, 1], &[0, 0, 0, 0]]);
    assert_eq!(encoded(|out| put_option_reply(out, 8, OptionReply::Ack, "")), ack);
    let unsupported = join(&[&REPLY, &[0, 0, 0, 5], &[0x80, 0, 0, 1], &[0, 0, 0, 2], b"no"]);
    assert_eq!(
        encoded(|out| put_option_reply(out, 5, OptionReply::Unsupported, "no")),
        unsupported
    );
    for (reply, code) in [
        (OptionReply::Invalid, 3),
        (OptionReply::Unknown, 6),
        (OptionReply::TooBig, 9),
        (OptionReply::ExtendedHeadersRequired, 10),
    ] {
        assert_eq!(
            encoded(|out| put_option_reply(out, 7, reply, ""))[12..16],
            [0x80, 0, 0, code]
        );
    }
    let server = join(&[
        &REPLY,
        &[0, 0, 0, 3], // option: list
        &[0, 0, 0, 2], // type: server
        &[0, 0, 0, 9], // length
        &[0, 0, 0, 5], // length of the name
        b"disk0",
    ]);
    assert_eq!(encoded(|out| put_server(out, "disk0")), server);
}

#[test]
fn information_has_its_golden_bytes() {
    let export = join(&[
        &REPLY,
        &[0, 0, 0, 7],             // option: go
        &[0, 0, 0, 3],             // type: info
        &[0, 0, 0, 12],            // length
        &[0, 0],                   // kind: export
        &[0, 0, 0, 1, 0, 0, 0, 2], // size
        &[0x05, 0x6d],             // flags
    ]);
    assert_eq!(
        encoded(|out| put_info_export(out, 7, 0x1_0000_0002, 0x056d)),
        export
    );
    let name = join(&[&REPLY, &[0, 0, 0, 6], &[0, 0, 0, 3], &[0, 0, 0, 3], &[0, 1], b"d"]);
    assert_eq!(encoded(|out| put_info_name(out, 6, "d")), name);
    let description = join(&[
        &REPLY,
        &[0, 0, 0, 6],
        &[0, 0, 0, 3],
        &[0, 0, 0, 4],
        &[0, 2],
        b"ab",
    ]);
    assert_eq!(encoded(|out| put_info_description(out, 6, "ab")), description);
    let sizes = BlockSizes {
        minimum: 1,
        preferred: 4096,
        maximum: 64 << 20,
    };
    let block_size = join(&[
        &REPLY,
        &[0, 0, 0, 7],
        &[0, 0, 0, 3],
        &[0, 0, 0, 14],
        &[0, 3],          // kind: block size
        &[0, 0, 0, 1],    // minimum
        &[0, 0, 0x10, 0], // preferred
        &[0x04, 0, 0, 0], // maximum
    ]);
    assert_eq!(encoded(|out| put_info_block_size(out, 7, sizes)), block_size);
}

#[test]
fn export_name_reply_has_its_golden_bytes() {
    let short = join(&[&[0, 0, 0, 0, 0, 0, 0x10, 0], &[0x00, 0x01]]);
    assert_eq!(encoded(|out| put_export_name_reply(out, 4096, 1, true)), short);
    let padded = join(&[&short, &[0; 124]]);
    assert_eq!(encoded(|out| put_export_name_reply(out, 4096, 1, false)), padded);
}

fn golden_queries(queries: &[&str]) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 1, b'd'];
    data.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend_from_slice(&u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

#[test]
fn metadata_contexts_are_chosen_by_their_name_and_listed_by_a_wildcard_too() {
    let asks = |code, queries: &[&str]| match ClientOption::decode(code, &golden_queries(queries)) {
        Ok(ClientOption::ListMetaContext(request)) => {
            assert_eq!((code, request.name), (9, "d"));
            Ok(request.allocation)
        }
        Ok(ClientOption::SetMetaContext(request)) => {
            assert_eq!((code, request.name), (10, "d"));
            Ok(request.allocation)
        }
        Ok(other) => panic!("{other:?}"),
        Err(malformed) => Err(malformed),
    };
    let (list, set) = (option_code::LIST_META_CONTEXT, option_code::SET_META_CONTEXT);
    assert_eq!((asks(list, &[]), asks(set, &[])), (Ok(true), Ok(false)));
    assert_eq!(
        (asks(list, &["base:"]), asks(set, &["base:"])),
        (Ok(true), Ok(false))
    );
    for code in [list, set] {
        assert_eq!(asks(code, &["x:", "base:allocation", "base:other"]), Ok(true));
        assert_eq!(asks(code, &["base:allocatio", "qemu:dirty-bitmap:x"]), Ok(false));
        assert!(asks(code, &["base"]).is_err(), "no namespace");
        let golden = golden_queries(&["base:allocation"]);
        for end in 0..golden.len() {
            assert!(
                ClientOption::decode(code, &golden[..end]).is_err(),
                "cut at {end}"
            );
        }
        assert!(ClientOption::decode(code, &[&golden[..], &[0]].concat()).is_err());
        let mut many = golden_queries(&[]);
        many[5..9].copy_from_slice(&[0xff; 4]);
        assert!(
            ClientOption::decode(code, &many).is_err(),
            "more queries than there are"
        );
    }
    let golden = join(&[
        &REPLY,
        &[0, 0, 0, 10],
        &[0, 0, 0, 4],
        &[0, 0, 0, 6],
        &[0, 0, 0, 1],
        b"a:",
    ]);
    assert_eq!(encoded(|out| put_meta_context(out, 10, 1, "a:")), golden);
}
