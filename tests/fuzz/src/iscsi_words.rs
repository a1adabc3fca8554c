//! What an initiator may say besides what a login needs.

use crate::draw::Draw;
use crate::iscsi_guest::{HOST, TARGET, USER};
use farside_protocol::iscsi::put_pair;

const KEYS: [&str; 28] = [
    "InitiatorName",
    "TargetName",
    "SessionType",
    "InitiatorAlias",
    "AuthMethod",
    "CHAP_A",
    "CHAP_N",
    "CHAP_R",
    "CHAP_I",
    "CHAP_C",
    "HeaderDigest",
    "DataDigest",
    "InitialR2T",
    "ImmediateData",
    "MaxBurstLength",
    "FirstBurstLength",
    "MaxOutstandingR2T",
    "MaxConnections",
    "ErrorRecoveryLevel",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "MaxRecvDataSegmentLength",
    "TaskReporting",
    "iSCSIProtocolLevel",
    "OFMarker",
    "X-com.example",
];
const VALUES: [&str; 24] = [
    HOST,
    TARGET,
    "Discovery",
    "Normal",
    "CHAP",
    "None",
    "CHAP,None",
    "None,CHAP",
    "5",
    "7",
    "7,5",
    USER,
    "Yes",
    "No",
    "CRC32C",
    "None,CRC32C",
    "0",
    "1",
    "512",
    "8192",
    "0x40000",
    "RFC3720",
    "0b",
    "",
];

/// Any keys with any values, very many that nobody knows, or what is no text.
pub(crate) fn say_more(draw: &mut Draw<'_>, text: &mut Vec<u8>) {
    let count = draw.u8();
    for _ in 0..count & 15 {
        let key = KEYS[usize::from(draw.u8()) % KEYS.len()];
        let value = draw.u8();
        match VALUES.get(usize::from(value)) {
            Some(value) => put_pair(text, key, value),
            None => {
                let bytes = draw.bytes(usize::from(value) - VALUES.len());
                let value = String::from_utf8_lossy(bytes).replace('\0', "");
                put_pair(text, key, &value);
            }
        }
    }
    if count & 16 != 0 {
        for number in 0..u32::from(count) * 8 {
            put_pair(text, &format!("k{number}"), "");
        }
    }
    if count & 32 != 0 {
        text.extend_from_slice(draw.bytes(usize::from(count)));
    }
}
