//! Target: everything an NBD client may send, decoded alone; and every reply, taken apart again.
//!
//! Promises: no panic; a request means exactly its bytes; the name of an option is a part of its data and within the
//! limit; what an option means survives being said anew; a reply is as long as it says.

use crate::allocation::measured;
use crate::draw::Draw;
use farside_protocol::nbd::{
    BASE_ALLOCATION, BlockSizes, BlockStatus, ClientFlags, ClientOption, Command, CommandFlags,
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, Errno, InfoRequest, MAX_STRING_BYTES, MessageStyle,
    MetaContextRequest, OPTION_HEADER_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader, OptionReply,
    REQUEST_MAGIC, ReplyTo, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, block_status_bytes,
    chunk_bytes, option_code, put_block_status, put_data_header, put_done, put_export_name_reply,
    put_failure, put_hole, put_info_block_size, put_info_description, put_info_export, put_info_name,
    put_option_reply, put_read_header, put_server, read_header_bytes,
};

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    match draw.u8() % 5 {
        0 => request(MessageStyle::Simple, draw.rest()),
        4 => request(MessageStyle::Extended, draw.rest()),
        1 => option_header(draw.rest()),
        2 => {
            let code = u32::from(draw.u8());
            option(code, draw.rest())
        }
        _ => replies(&mut draw),
    }
}

fn request(style: MessageStyle, bytes: &[u8]) -> bool {
    let (decoded, held) = measured(|| Request::decode(bytes, style));
    assert_eq!(held, 0, "decoding a request takes no memory");
    let Ok(request) = decoded else { return false };
    let Some(request) = request else {
        assert!(bytes.len() < style.request_bytes(), "a whole header is decoded");
        return false;
    };
    assert_eq!(encode_request(style, &request), bytes[..style.request_bytes()]);
    let has_payload = if style == MessageStyle::Extended {
        request.has(CommandFlags::PAYLOAD_LEN)
    } else {
        request.command == Command::Write
    };
    assert_eq!(
        request.payload_bytes(),
        if has_payload { request.length } else { 0 }
    );
    assert!(request.has(request.flags) && request.has(0));
    true
}

fn encode_request(style: MessageStyle, request: &Request) -> Vec<u8> {
    let command = match request.command {
        Command::Read => 0,
        Command::Write => 1,
        Command::Disconnect => 2,
        Command::Flush => 3,
        Command::Trim => 4,
        Command::Cache => 5,
        Command::WriteZeroes => 6,
        Command::BlockStatus => 7,
        Command::Unknown(code) => code,
    };
    let length = request.length.to_be_bytes();
    let (magic, length) = match style {
        MessageStyle::Extended => (EXTENDED_REQUEST_MAGIC, &length[..]),
        MessageStyle::Simple | MessageStyle::Structured => (REQUEST_MAGIC, &length[4..]),
    };
    [
        magic.to_be_bytes().as_slice(),
        &request.flags.to_be_bytes(),
        &u16::to_be_bytes(command),
        &request.cookie.to_be_bytes(),
        &request.offset.to_be_bytes(),
        length,
    ]
    .concat()
}

fn option_header(bytes: &[u8]) -> bool {
    if let Some(flags) = bytes.first_chunk::<4>()
        && let Ok(flags) = ClientFlags::decode(*flags)
    {
        assert_eq!(flags.no_zeroes, bytes[3] & 2 != 0);
        assert_eq!((&bytes[..3], bytes[3] & !3), (&[0; 3][..], 0));
    }
    let Some(header) = bytes.first_chunk::<OPTION_HEADER_BYTES>() else {
        return false;
    };
    let Ok(decoded) = OptionHeader::decode(header) else {
        return false;
    };
    let again = [
        OPTION_MAGIC.to_be_bytes().as_slice(),
        &decoded.code.to_be_bytes(),
        &decoded.length.to_be_bytes(),
    ]
    .concat();
    assert_eq!(again, header);
    option(decoded.code, &bytes[OPTION_HEADER_BYTES..])
}

fn option(code: u32, data: &[u8]) -> bool {
    let (decoded, held) = measured(|| ClientOption::decode(code, data));
    assert_eq!(held, 0, "decoding an option takes no memory");
    let Ok(decoded) = decoded else { return false };
    let known = !matches!(code, 1 | 2 | 3 | 5..=11);
    assert_eq!(known, decoded == ClientOption::Unsupported);
    match &decoded {
        ClientOption::ExportName(name) => assert_eq!(name.as_bytes(), data),
        ClientOption::Info(request) | ClientOption::Go(request) => {
            let again = info_data(request);
            assert_eq!(ClientOption::decode(code, &again).as_ref(), Ok(&decoded));
        }
        ClientOption::ListMetaContext(request) | ClientOption::SetMetaContext(request) => {
            let again = meta_context_data(request);
            assert_eq!(ClientOption::decode(code, &again).as_ref(), Ok(&decoded));
        }
        ClientOption::List
        | ClientOption::StructuredReply
        | ClientOption::ExtendedHeaders
        | ClientOption::StartTls => {
            assert!(data.is_empty());
        }
        ClientOption::Abort | ClientOption::Unsupported => {}
    }
    if let ClientOption::ExportName(name)
    | ClientOption::Info(InfoRequest { name, .. })
    | ClientOption::Go(InfoRequest { name, .. })
    | ClientOption::ListMetaContext(MetaContextRequest { name, .. })
    | ClientOption::SetMetaContext(MetaContextRequest { name, .. }) = decoded
    {
        assert!(name.len() <= MAX_STRING_BYTES);
    }
    true
}

fn meta_context_data(request: &MetaContextRequest<'_>) -> Vec<u8> {
    let query = if request.allocation {
        BASE_ALLOCATION
    } else {
        "other:"
    };
    let bytes = |text: &str| {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        [length.to_be_bytes().as_slice(), text.as_bytes()].concat()
    };
    [bytes(request.name), vec![0, 0, 0, 1], bytes(query)].concat()
}

fn info_data(request: &InfoRequest<'_>) -> Vec<u8> {
    let wanted = [
        request.wants_name,
        request.wants_description,
        request.wants_block_size,
    ];
    let kinds = (1_u16..).zip(wanted).filter(|(_, wanted)| *wanted);
    let kinds: Vec<u8> = kinds.flat_map(|(kind, _)| kind.to_be_bytes()).collect();
    let name_bytes = u32::try_from(request.name.len()).unwrap_or(u32::MAX);
    let count = u16::try_from(kinds.len() / 2).unwrap_or(u16::MAX);
    let parts = [
        &name_bytes.to_be_bytes(),
        request.name.as_bytes(),
        &count.to_be_bytes(),
        &kinds,
    ];
    parts.concat()
}

/// Every reply to an option says how long it is.
fn replies(draw: &mut Draw<'_>) -> bool {
    let (size_bytes, flags, cookie, length) = (draw.u64(), draw.u16(), draw.u64(), draw.u32());
    let (code, offset) = (u32::from(draw.u8()), draw.u64());
    let text = String::from_utf8_lossy(draw.rest());
    let sizes = BlockSizes {
        minimum: length,
        preferred: code,
        maximum: length,
    };
    let mut all = Vec::new();
    put_option_reply(&mut all, code, OptionReply::Invalid, &text);
    put_server(&mut all, &text);
    put_info_export(&mut all, code, size_bytes, flags);
    put_info_name(&mut all, code, &text);
    put_info_description(&mut all, code, &text);
    put_info_block_size(&mut all, code, sizes);
    let mut rest = all.as_slice();
    for about in [code, option_code::LIST, code, code, code, code] {
        let header = rest.first_chunk::<20>().expect("six replies were put");
        assert_eq!(header[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        assert_eq!(header[8..12], about.to_be_bytes());
        let data = u32::from_be_bytes([header[16], header[17], header[18], header[19]]) as usize;
        rest = rest.get(20 + data..).expect("a reply is as long as it says");
    }
    assert!(rest.is_empty());
    let to = ReplyTo { cookie, offset };
    for style in [
        MessageStyle::Simple,
        MessageStyle::Structured,
        MessageStyle::Extended,
    ] {
        let mut out = Vec::new();
        put_read_header(&mut out, style, to, length);
        assert_eq!(out.len(), read_header_bytes(style, length));
        out.clear();
        put_failure(&mut out, style, to, Errno::Overflow);
        let magic = match style {
            MessageStyle::Simple => SIMPLE_REPLY_MAGIC,
            MessageStyle::Structured => STRUCTURED_REPLY_MAGIC,
            MessageStyle::Extended => EXTENDED_REPLY_MAGIC,
        };
        assert_eq!(out[..4], magic.to_be_bytes());
        assert!(out[8..16] == cookie.to_be_bytes());
        out.clear();
        put_done(&mut out, style, to);
        assert_eq!(out.len(), style.done_bytes());
        if style.has_chunks() {
            chunks(style, to, length);
        }
    }
    let mut out = Vec::new();
    put_export_name_reply(&mut out, size_bytes, flags, length.is_multiple_of(2));
    assert_eq!(out.len(), if length.is_multiple_of(2) { 10 } else { 134 });
    true
}

/// Pieces of a read and the block status are as long as they say.
fn chunks(style: MessageStyle, to: ReplyTo, length: u32) {
    let mut out = Vec::new();
    put_data_header(&mut out, style, to, (to.offset, 5), false);
    assert_eq!(out.len() + 5, chunk_bytes(style, 8 + 5));
    out.clear();
    put_hole(&mut out, style, to, (to.offset, length), true);
    assert_eq!(out.len(), chunk_bytes(style, 12));
    out.clear();
    let extent = BlockStatus {
        length: u64::from(length) + 1,
        hole: true,
        zero: length.is_multiple_of(2),
    };
    put_block_status(&mut out, style, to, 7, &[extent; 3]);
    assert_eq!(out.len(), block_status_bytes(style, 3));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let request = |command, offset, length| {
        let request = Request {
            flags: 1,
            command,
            cookie: 0x0102_0304_0506_0708,
            offset,
            length,
            has_payload: false,
        };
        [&[0], encode_request(MessageStyle::Simple, &request).as_slice()].concat()
    };
    let extended = Request {
        flags: CommandFlags::PAYLOAD_LEN,
        command: Command::Write,
        cookie: 5,
        offset: 1 << 40,
        length: 1 << 33,
        has_payload: true,
    };
    let allocation = MetaContextRequest {
        name: "disk0",
        allocation: true,
    };
    let info = InfoRequest {
        name: "disk0",
        wants_name: true,
        wants_description: false,
        wants_block_size: true,
    };
    let data = info_data(&info);
    let length = u32::try_from(data.len()).unwrap_or(0).to_be_bytes();
    let header = [
        OPTION_MAGIC.to_be_bytes().as_slice(),
        &7_u32.to_be_bytes(),
        &length,
    ]
    .concat();
    vec![
        request(Command::Read, 4096, 512),
        request(Command::Write, 1 << 40, 1 << 20),
        request(Command::Unknown(77), u64::MAX, 0),
        [&[1], header.as_slice(), &data].concat(),
        [&[2, 6], data.as_slice()].concat(),
        [&[2, 7], data.as_slice()].concat(),
        [&[2, 1], b"disk0".as_slice()].concat(),
        [&[4], encode_request(MessageStyle::Extended, &extended).as_slice()].concat(),
        [&[2, 9], meta_context_data(&allocation).as_slice()].concat(),
        [&[2, 10], meta_context_data(&allocation).as_slice()].concat(),
        vec![2, 3],
        vec![2, 8],
        [&[3], [5; 27].as_slice(), b"disk0"].concat(),
    ]
}
