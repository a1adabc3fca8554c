//! Decides the answer to each option; no sockets here.

use super::limits::{ALLOCATION_CONTEXT, ERROR_TEXT_BYTES, MAX_PAYLOAD_BYTES, PREFERRED_BLOCK_BYTES};
use super::negotiation::Terms;
use crate::targets::exports::resolve;
use crate::targets::{Disk, DiskGeometry, Export, Exports, InCommon};
use bytes::BytesMut;
use farside_protocol::nbd::{
    BASE_ALLOCATION, BlockSizes, ClientFlags, ClientOption, InfoRequest, MessageStyle, MetaContextRequest,
    OptionReply, TransmissionFlags as Flags, option_code, put_export_name_reply, put_info_block_size,
    put_info_description, put_info_export, put_info_name, put_meta_context, put_option_reply, put_server,
};

const TLS_REQUIRED: &str = "this export is only for connections with TLS";

/// How far a connection can be trusted, section "TLS support".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// Encrypted.
    Tls,
    /// It cannot be encrypted.
    Plain,
    /// It can be, and has to be for some exports (`SELECTIVETLS`) or for all (`FORCEDTLS`).
    Upgradable {
        /// For all.
        forced: bool,
    },
}

/// What the client has negotiated so far.
#[derive(Debug, Clone)]
pub(super) struct Agreed {
    client: ClientFlags,
    channel: Channel,
    /// No other machine can see what is sent.
    private: bool,
    style: MessageStyle,
    /// The export for which the client chose the one metadata context.
    allocation_of: Option<String>,
}

impl Agreed {
    pub(super) fn new(client: ClientFlags, channel: Channel, local: bool) -> Self {
        Self {
            client,
            channel,
            private: local || channel == Channel::Tls,
            style: MessageStyle::Simple,
            allocation_of: None,
        }
    }

    fn may_use<D>(&self, export: &Export<D>) -> bool {
        self.private || !export.requires_tls
    }

    /// What holds for a client that attaches to the export of this name.
    pub(super) fn terms(&self, export: &str) -> Terms {
        Terms {
            style: self.style,
            block_status: self.allocation_of.as_deref() == Some(export),
        }
    }
}

/// What follows an option.
#[derive(Debug)]
pub(super) enum Next<D> {
    /// The next option.
    Option,
    /// The TLS handshake.
    Tls,
    /// The transmission phase.
    Transmission(Export<D>),
    /// The end of the connection, after what was appended is sent.
    Close,
}

/// Appends the answer to the option `code` with its `data` and says what follows.
pub(super) fn answer<E: Exports>(
    agreed: &mut Agreed,
    (code, data): (u32, &[u8]),
    exports: &E,
    out: &mut BytesMut,
) -> Next<E::Disk> {
    if !agreed.private
        && agreed.channel == (Channel::Upgradable { forced: true })
        && ![option_code::STARTTLS, option_code::ABORT].contains(&code)
    {
        if code == option_code::EXPORT_NAME {
            return Next::Close;
        }
        put_option_reply(out, code, OptionReply::TlsRequired, TLS_REQUIRED);
        return Next::Option;
    }
    let option = match ClientOption::decode(code, data) {
        Ok(option) => option,
        Err(_) if code == option_code::EXPORT_NAME => return Next::Close,
        Err(malformed) => {
            put_option_reply(out, code, OptionReply::Invalid, malformed.0);
            return Next::Option;
        }
    };
    match option {
        ClientOption::ExportName(name) => return attach_by_name(agreed, name, exports, out),
        ClientOption::Go(request) => {
            return describe(agreed, (code, request), exports, out).map_or(Next::Option, Next::Transmission);
        }
        ClientOption::Info(request) => drop(describe(agreed, (code, request), exports, out)),
        ClientOption::Abort => {
            put_option_reply(out, code, OptionReply::Ack, "");
            return Next::Close;
        }
        ClientOption::List => {
            let names = exports.names().into_iter();
            names
                .filter(|name| exports.find(name).is_some_and(|export| agreed.may_use(&export)))
                .for_each(|name| put_server(out, &name));
            put_option_reply(out, code, OptionReply::Ack, "");
        }
        ClientOption::StructuredReply if agreed.style == MessageStyle::Extended => {
            let text = "extended headers are in use already";
            put_option_reply(out, code, OptionReply::ExtendedHeadersRequired, text);
        }
        ClientOption::StructuredReply => {
            agreed.style = MessageStyle::Structured;
            put_option_reply(out, code, OptionReply::Ack, "");
        }
        ClientOption::ExtendedHeaders => {
            agreed.style = MessageStyle::Extended;
            put_option_reply(out, code, OptionReply::Ack, "");
        }
        ClientOption::ListMetaContext(request) | ClientOption::SetMetaContext(request) => {
            meta_context(agreed, (code, request), exports, out);
        }
        ClientOption::StartTls => match agreed.channel {
            Channel::Upgradable { .. } => {
                put_option_reply(out, code, OptionReply::Ack, "");
                return Next::Tls;
            }
            Channel::Tls => put_option_reply(out, code, OptionReply::Invalid, "TLS is in use already"),
            Channel::Plain => {
                let text = "TLS is not available on this listener";
                put_option_reply(out, code, OptionReply::Unsupported, text);
            }
        },
        ClientOption::Unsupported => {
            put_option_reply(out, code, OptionReply::Unsupported, "option not supported");
        }
    }
    Next::Option
}

/// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`, of which the second replaces what was chosen before,
/// also when it fails.
fn meta_context<E: Exports>(
    agreed: &mut Agreed,
    (code, request): (u32, MetaContextRequest<'_>),
    exports: &E,
    out: &mut BytesMut,
) {
    let sets = code == option_code::SET_META_CONTEXT;
    if sets {
        agreed.allocation_of = None;
    }
    if sets && !agreed.style.has_chunks() {
        let text = "negotiate structured replies or extended headers first";
        return put_option_reply(out, code, OptionReply::Invalid, text);
    }
    let export = resolve(exports, request.name).filter(|export| agreed.may_use(export));
    let Some(export) = export else {
        return unknown(out, code, exports, request.name);
    };
    if request.allocation {
        let id = if sets { ALLOCATION_CONTEXT } else { 0 };
        put_meta_context(out, code, id, BASE_ALLOCATION);
        if sets {
            agreed.allocation_of = Some(export.name);
        }
    }
    put_option_reply(out, code, OptionReply::Ack, "");
}

fn unknown<E: Exports>(out: &mut BytesMut, code: u32, exports: &E, name: &str) {
    let why = exports.why_not(name);
    let text = why.as_deref().unwrap_or("no export of this name");
    // Section "Values": a string has at most 4096 bytes, and the name that is told may have as many by itself.
    let end = text.floor_char_boundary(ERROR_TEXT_BYTES);
    put_option_reply(out, code, OptionReply::Unknown, &text[..end]);
}

/// `NBD_OPT_EXPORT_NAME` has no way to refuse but to close. It is not for clients with extended headers.
fn attach_by_name<E: Exports>(agreed: &Agreed, name: &str, exports: &E, out: &mut BytesMut) -> Next<E::Disk> {
    let export = match resolve(exports, name) {
        Some(export) if agreed.style != MessageStyle::Extended && agreed.may_use(&export) => export,
        _ => return Next::Close,
    };
    let geometry = export.disk.geometry();
    let flags = transmission_flags(&*export.disk, agreed.terms(&export.name));
    put_export_name_reply(out, geometry.size_bytes, flags, agreed.client.no_zeroes);
    Next::Transmission(export)
}

/// `NBD_OPT_INFO` and `NBD_OPT_GO`: the two have the same answer.
fn describe<E: Exports>(
    agreed: &Agreed,
    (code, request): (u32, InfoRequest<'_>),
    exports: &E,
    out: &mut BytesMut,
) -> Option<Export<E::Disk>> {
    let Some(export) = resolve(exports, request.name) else {
        unknown(out, code, exports, request.name);
        return None;
    };
    if !agreed.may_use(&export) {
        put_option_reply(out, code, OptionReply::TlsRequired, TLS_REQUIRED);
        return None;
    }
    let geometry = export.disk.geometry();
    put_info_export(
        out,
        code,
        geometry.size_bytes,
        transmission_flags(&*export.disk, agreed.terms(&export.name)),
    );
    if request.wants_name {
        put_info_name(out, code, &export.name);
    }
    if request.wants_description && !export.description.is_empty() {
        put_info_description(out, code, &export.description);
    }
    if request.wants_block_size {
        put_info_block_size(out, code, block_sizes(geometry));
    }
    put_option_reply(out, code, OptionReply::Ack, "");
    Some(export)
}

/// Section "Transmission flags". Multiple connections are safe because durability is a position of the disk's
/// one journal, not of a connection; but they have to find the same.
fn transmission_flags(disk: &impl Disk, terms: Terms) -> u16 {
    let always = Flags::HAS_FLAGS
        | Flags::SEND_FLUSH
        | Flags::SEND_FUA
        | Flags::SEND_TRIM
        | Flags::SEND_WRITE_ZEROES
        | Flags::SEND_CACHE
        | Flags::SEND_FAST_ZERO;
    let multiple = match disk.in_common() {
        InCommon::Disk | InCommon::Content => Flags::CAN_MULTI_CONN,
        InCommon::Nothing => 0,
    };
    let is_read_only = disk.geometry().read_only;
    let read_only = if is_read_only { Flags::READ_ONLY } else { 0 };
    let unfragmented = if terms.style.has_chunks() {
        Flags::SEND_DF
    } else {
        0
    };
    let filtered = if terms.style == MessageStyle::Extended && terms.block_status {
        Flags::BLOCK_STATUS_PAYLOAD
    } else {
        0
    };
    always | multiple | read_only | unfragmented | filtered
}

fn block_sizes(geometry: DiskGeometry) -> BlockSizes {
    let (least, most) = PREFERRED_BLOCK_BYTES;
    let preferred = geometry.preferred_block_bytes.clamp(least, most);
    let preferred = preferred.checked_next_power_of_two().unwrap_or(most);
    BlockSizes {
        minimum: 1,
        preferred,
        maximum: MAX_PAYLOAD_BYTES,
    }
}
