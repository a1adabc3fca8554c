//! The file as it is written: types for serde, with the place of every value.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::fmt;
use toml::Spanned;

/// The whole file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) unit: RawUnit,
    #[serde(default)]
    pub(super) nbd: RawNbd,
    #[serde(default)]
    pub(super) iscsi: RawIscsi,
    #[serde(default)]
    pub(super) link: RawLink,
    #[serde(default)]
    pub(super) console: RawConsole,
    #[serde(default)]
    pub(super) volume: Vec<RawVolume>,
    #[serde(default)]
    pub(super) replica: Vec<RawReplica>,
    #[serde(default)]
    pub(super) limits: RawLimits,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUnit {
    pub(super) name: Spanned<String>,
    pub(super) data_dir: Spanned<String>,
    pub(super) volumes_dir: Option<Spanned<String>>,
    pub(super) replicas_dir: Option<Spanned<String>>,
    pub(super) control_socket: Option<Spanned<String>>,
    pub(super) log: Option<Spanned<String>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNbd {
    #[serde(default)]
    pub(super) listen: Vec<Spanned<String>>,
    pub(super) socket: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) trust_network: bool,
    pub(super) tls: Option<RawTls>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) certificate: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) client_ca: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) required: bool,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIscsi {
    #[serde(default)]
    pub(super) listen: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) trust_network: bool,
    pub(super) chap: Option<RawChap>,
    #[serde(default)]
    pub(super) initiators: Vec<Spanned<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChap {
    pub(super) user: Spanned<String>,
    pub(super) secret_file: Spanned<String>,
    pub(super) own_user: Option<Spanned<String>>,
    pub(super) own_secret_file: Option<Spanned<String>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLink {
    #[serde(default)]
    pub(super) listen: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) trust_network: bool,
    pub(super) window: Option<Spanned<RawSize>>,
    pub(super) accept: Option<Vec<Spanned<String>>>,
    pub(super) journal_size: Option<Spanned<RawSize>>,
    pub(super) history_size: Option<Spanned<RawSize>>,
    #[serde(default)]
    pub(super) export_replicas: bool,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConsole {
    pub(super) listen: Option<Spanned<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVolume {
    pub(super) name: Spanned<String>,
    pub(super) size: Spanned<RawSize>,
    pub(super) journal_size: Option<Spanned<RawSize>>,
    pub(super) mirror: Option<Spanned<String>>,
    pub(super) journal: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(default)]
    pub(super) skip_unchanged: bool,
    pub(super) require_tls: Option<Spanned<bool>>,
    pub(super) iscsi: Option<RawScsi>,
    #[serde(default)]
    pub(super) remote: Vec<RawRemote>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScsi {
    pub(super) target: Option<Spanned<String>>,
    pub(super) lun: Option<Spanned<i64>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRemote {
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<String>,
    pub(super) other_addresses: Option<Vec<Spanned<String>>>,
    pub(super) peer: Option<Spanned<String>>,
    pub(super) send: Option<bool>,
    pub(super) queue: Option<bool>,
    pub(super) rate: Option<Spanned<RawSize>>,
    pub(super) compression: Option<Spanned<String>>,
    pub(super) send_windows: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) merge: bool,
    #[serde(default)]
    pub(super) confirm: bool,
    pub(super) verify_every: Option<Spanned<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReplica {
    pub(super) name: Spanned<String>,
    pub(super) image: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) remote: Vec<RawRemote>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) nbd_connections: Option<Spanned<i64>>,
    pub(super) iscsi_connections: Option<Spanned<i64>>,
}

/// A size as text; a bare number of bytes is taken too.
#[derive(Debug)]
pub(super) struct RawSize(pub(super) String);

impl<'de> Deserialize<'de> for RawSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = RawSize;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as \"512M\" or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawSize, E> {
                Ok(RawSize(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<RawSize, E> {
                Ok(RawSize(bytes.to_string()))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}
