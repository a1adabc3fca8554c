//! What a session is negotiated to be, RFC 7143 section 13: one key after another, no sockets.
//!
//! Error recovery level 0 and one connection for each session. What the target wants itself is in `limits`.

use super::limits::{FIRST_BURST_BYTES, MAX_BURST_BYTES, OUTSTANDING_R2T};

/// Numbers may be written in decimal or hexadecimal (section 6.1).
fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        None if !value.starts_with('+') => value.parse().ok(),
        _ => None,
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn word(value: bool) -> String {
    if value { "Yes" } else { "No" }.to_owned()
}

/// What both sides agreed on, and at the beginning what holds without agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Headers are followed by a digest.
    pub(super) header_digest: bool,
    /// Data is followed by a digest.
    pub(super) data_digest: bool,
    /// The longest data segment that the initiator takes.
    pub(super) initiator_segment_bytes: u32,
    /// Data beyond the first burst has to be asked for; with `true` all but immediate data.
    pub(super) initial_r2t: bool,
    /// Data may come with the command.
    pub(super) immediate_data: bool,
    /// Longest sequence of data-ins, or of data-outs that were asked for.
    pub(super) max_burst_bytes: u32,
    /// Most data that comes unasked for, immediate data included.
    pub(super) first_burst_bytes: u32,
    /// How many R2Ts of one command may be unanswered.
    pub(super) outstanding_r2t: u32,
    /// Keys that were negotiated: each may be once.
    seen: Vec<String>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initiator_segment_bytes: 8192,
            initial_r2t: true,
            immediate_data: true,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            outstanding_r2t: 1,
            seen: Vec::new(),
        }
    }
}

/// The answer to a key that nobody knows (section 6.2).
const NOT_UNDERSTOOD: &str = "NotUnderstood";

/// What is said to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: it was a declaration.
    Nothing,
    /// This value.
    Value(String),
    /// It was negotiated before, which breaks the protocol.
    Again,
}

impl Parameters {
    /// Answers a key of the operational stage.
    pub(super) fn negotiate(&mut self, key: &str, value: &str) -> Answer {
        if self.seen.iter().any(|seen| seen == key) {
            return Answer::Again;
        }
        let said = self.answer(key, value);
        // What nobody knows may be said as often as one likes; remembering it would cost time and memory.
        if said != Answer::Value(NOT_UNDERSTOOD.to_owned()) {
            self.seen.push(key.to_owned());
        }
        said
    }

    fn answer(&mut self, key: &str, value: &str) -> Answer {
        let reject = || Answer::Value("Reject".to_owned());
        let outcome = match key {
            "HeaderDigest" => digest(value, &mut self.header_digest),
            "DataDigest" => digest(value, &mut self.data_digest),
            "InitialR2T" => either(value, &mut self.initial_r2t),
            "ImmediateData" => both(value, &mut self.immediate_data),
            "MaxBurstLength" => least(
                value,
                (512, (1 << 24) - 1),
                MAX_BURST_BYTES,
                &mut self.max_burst_bytes,
            ),
            "FirstBurstLength" => least(
                value,
                (512, (1 << 24) - 1),
                FIRST_BURST_BYTES,
                &mut self.first_burst_bytes,
            ),
            "MaxOutstandingR2T" => least(value, (1, 65_535), OUTSTANDING_R2T, &mut self.outstanding_r2t),
            "MaxConnections" => least(value, (1, 65_535), 1, &mut 0),
            "ErrorRecoveryLevel" => least(value, (0, 2), 0, &mut 0),
            "DefaultTime2Retain" => least(value, (0, 3600), 0, &mut 0),
            "DefaultTime2Wait" => number(value)
                .filter(|wait| *wait <= 3600)
                .map(|wait| wait.max(2).to_string()),
            // Whoever wants another order gets this one.
            "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value).map(|_| word(true)),
            "IFMarker" | "OFMarker" => boolean(value).map(|_| word(false)),
            "TaskReporting" => {
                Some("RFC3720".to_owned()).filter(|_| value.split(',').any(|one| one == "RFC3720"))
            }
            "iSCSIProtocolLevel" => number(value)
                .filter(|level| *level <= 31)
                .map(|level| level.min(1).to_string()),
            "MaxRecvDataSegmentLength" => {
                return match number(value).filter(|bytes| (512..1 << 24).contains(bytes)) {
                    Some(bytes) => {
                        self.initiator_segment_bytes = bytes;
                        Answer::Nothing
                    }
                    None => reject(),
                };
            }
            _ => return Answer::Value(NOT_UNDERSTOOD.to_owned()),
        };
        outcome.map_or_else(reject, Answer::Value)
    }

    /// Sets the rest right once nothing more is negotiated: the first burst is a part of a burst (section 13.14).
    pub(super) fn finish(&mut self) {
        self.first_burst_bytes = self.first_burst_bytes.min(self.max_burst_bytes);
    }
}

/// The first of the initiator's wishes that is known.
fn digest(value: &str, used: &mut bool) -> Option<String> {
    let chosen = value.split(',').find(|one| matches!(*one, "None" | "CRC32C"))?;
    *used = chosen == "CRC32C";
    Some(chosen.to_owned())
}

/// Yes if one side wants it; this one does not.
fn either(value: &str, agreed: &mut bool) -> Option<String> {
    *agreed = boolean(value)?;
    Some(word(*agreed))
}

/// Yes if both sides want it; this one does.
fn both(value: &str, agreed: &mut bool) -> Option<String> {
    either(value, agreed)
}

/// The smaller of two numbers.
fn least(value: &str, (low, high): (u32, u32), own: u32, agreed: &mut u32) -> Option<String> {
    let wanted = number(value).filter(|wanted| (low..=high).contains(wanted))?;
    *agreed = wanted.min(own);
    Some(agreed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(parameters: &mut Parameters, key: &str, value: &str) -> String {
        match parameters.negotiate(key, value) {
            Answer::Value(value) => value,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn each_key_has_its_rule() {
        let mut parameters = Parameters::default();
        let own_burst = MAX_BURST_BYTES.to_string();
        for (key, value, answer) in [
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("DataDigest", "X-other,None,CRC32C", "None"),
            ("InitialR2T", "No", "No"),
            ("ImmediateData", "Yes", "Yes"),
            ("MaxBurstLength", "16776192", &own_burst),
            ("FirstBurstLength", "0x1000", "4096"),
            ("MaxOutstandingR2T", "1", "1"),
            ("MaxConnections", "8", "1"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("DefaultTime2Wait", "0", "2"),
            ("DefaultTime2Retain", "20", "0"),
            ("DataPDUInOrder", "No", "Yes"),
            ("DataSequenceInOrder", "Yes", "Yes"),
            ("IFMarker", "No", "No"),
            ("MaxRecvDataSegmentLength", "262144", "Nothing"),
            ("X-com.example", "1", "NotUnderstood"),
            ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
            ("iSCSIProtocolLevel", "2", "1"),
        ] {
            assert_eq!(said(&mut parameters, key, value), answer, "{key}");
        }
        parameters.finish();
        assert!(parameters.header_digest && !parameters.data_digest && !parameters.initial_r2t);
        assert_eq!(parameters.initiator_segment_bytes, 262_144);
        assert_eq!(parameters.first_burst_bytes, 4096);
        assert_eq!(parameters.negotiate("InitialR2T", "No"), Answer::Again);
    }

    #[test]
    fn nonsense_is_rejected_and_changes_nothing() {
        for (key, value) in [
            ("HeaderDigest", "MD5"),
            ("InitialR2T", "yes"),
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("FirstBurstLength", "0x"),
            ("MaxOutstandingR2T", "0"),
            ("ErrorRecoveryLevel", "3"),
            ("MaxRecvDataSegmentLength", "+8192"),
            ("MaxRecvDataSegmentLength", "511"),
            ("DefaultTime2Wait", "3601"),
        ] {
            let mut parameters = Parameters::default();
            assert_eq!(said(&mut parameters, key, value), "Reject", "{key}={value}");
            let unchanged = Parameters {
                seen: parameters.seen.clone(),
                ..Parameters::default()
            };
            assert_eq!(parameters, unchanged, "{key}={value}");
        }
    }

    #[test]
    fn the_first_burst_is_no_longer_than_a_burst() {
        let mut parameters = Parameters::default();
        said(&mut parameters, "MaxBurstLength", "512");
        parameters.finish();
        assert_eq!(parameters.first_burst_bytes, 512);
    }
}
