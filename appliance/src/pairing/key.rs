//! The key of a unit, and the certificate around it.
//!
//! Only the key is kept. The certificate is made of it at every start, signs itself and never expires: what counts is the
//! key, and that ends when a pairing is revoked. While another key is to follow, the certificate says which.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData, SanType};
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The key in use, in the data directory.
pub(super) const FILE: &str = "link.key";
/// The key that follows it.
pub(super) const NEXT_FILE: &str = "link-next.key";
/// What stands before the fingerprint of the next key in a certificate (RFC 5280, 4.2.1.6: a URI among the names).
const NEXT_URI: &str = "farside:next-key:";
/// No well-defined expiration date (RFC 5280, 4.1.2.5).
const NEVER: (i32, u8, u8) = (9999, 12, 31);
/// Neither its group nor others may read a key.
const OTHERS: u32 = 0o077;

/// A key with its certificate.
pub(super) struct UnitKey {
    pair: KeyPair,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for UnitKey {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "UnitKey({})", self.fingerprint())
    }
}

impl UnitKey {
    /// The key of the unit, made if there is none. Its certificate tells of the one that follows.
    pub(super) fn load_or_create(
        directory: &Path,
        unit: Uuid,
        next: Option<&Self>,
    ) -> Result<Self, PairingError> {
        let path = directory.join(FILE);
        match read(&path)? {
            Some(pair) => Self::around(pair, unit, next),
            None => Self::create(&path, unit, next),
        }
    }

    /// The key that follows, if one was made.
    pub(super) fn find_next(directory: &Path, unit: Uuid) -> Result<Option<Self>, PairingError> {
        let found = read(&directory.join(NEXT_FILE))?;
        found.map(|pair| Self::around(pair, unit, None)).transpose()
    }

    /// Makes the key that follows.
    pub(super) fn create_next(directory: &Path, unit: Uuid) -> Result<Self, PairingError> {
        Self::create(&directory.join(NEXT_FILE), unit, None)
    }

    /// The key that follows takes the place of the one in use.
    pub(super) fn install_next(directory: &Path) -> Result<(), PairingError> {
        let (next, path) = (directory.join(NEXT_FILE), directory.join(FILE));
        let moved = std::fs::rename(&next, &path).and_then(|()| sync_directory(&path));
        moved.map_err(|error| PairingError::file(&path, "replaced", &error))
    }

    /// The same key, with a certificate that tells of the next one.
    pub(super) fn telling(&self, unit: Uuid, next: Option<&Self>) -> Result<Self, PairingError> {
        let pair = KeyPair::from_pem(&self.pair.serialize_pem()).map_err(|error| unusable(&error))?;
        Self::around(pair, unit, next)
    }

    fn create(path: &Path, unit: Uuid, next: Option<&Self>) -> Result<Self, PairingError> {
        let pair = KeyPair::generate().map_err(|error| unusable(&error))?;
        write(path, &pair.serialize_pem()).map_err(|error| PairingError::file(path, "written", &error))?;
        Self::around(pair, unit, next)
    }

    fn around(pair: KeyPair, unit: Uuid, next: Option<&Self>) -> Result<Self, PairingError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("farside unit {unit}"));
        let (year, month, day) = NEVER;
        params.not_after = rcgen::date_time_ymd(year, month, day);
        if let Some(next) = next {
            let uri = format!("{NEXT_URI}{}", next.fingerprint());
            let uri = uri.try_into().map_err(|error| unusable(&error))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        let certificate = params.self_signed(&pair).map_err(|error| unusable(&error))?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pair,
        })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_key(&self.pair.subject_public_key_info())
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }
}

/// What a certificate of a peer says: its key, and the one that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Its key.
    pub key: Fingerprint,
    /// The one that will follow, if it says so.
    pub next: Option<Fingerprint>,
}

impl Shown {
    /// Reads a certificate. `None`: it is none.
    ///
    /// The key is read by the parser that TLS checks signatures with: if two parsers saw different keys in one certificate,
    /// somebody could prove to have one and be known by the other.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let proved = ParsedCertificate::try_from(certificate).ok()?;
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let next = names
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(NEXT_URI)?.parse().ok(),
                _ => None,
            })
            .next();
        Some(Self {
            key: Fingerprint::of_key(&proved.subject_public_key_info()),
            next,
        })
    }
}

fn unusable(error: &rcgen::Error) -> PairingError {
    PairingError::Tls(error.to_string())
}

fn read(path: &Path) -> Result<Option<KeyPair>, PairingError> {
    let refuse = |message: String| PairingError::File {
        path: path.display().to_string(),
        message,
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PairingError::file(path, "read", &error)),
    };
    if metadata.permissions().mode() & OTHERS != 0 {
        return Err(refuse(
            "others can read the key of this unit; run chmod 600 on it. If somebody may have read it, remove it, run 'farside pair revoke' \
             for this unit at its peers, and pair them anew"
                .to_owned(),
        ));
    }
    let text = crate::config::read_text(path)?;
    KeyPair::from_pem(&text).map(Some).map_err(|error| {
        refuse(format!(
            "does not hold the key of a unit ({error}); restore it from a backup, or remove it and pair the unit again"
        ))
    })
}

/// Whole or not at all; nobody else can read it at any time.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary: PathBuf = path.with_extension("key.new");
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .clone();
    let mut file = options.open(&temporary)?;
    file.set_permissions(PermissionsExt::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    rustix::fs::fsync(&file)?;
    std::fs::rename(&temporary, path)?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    Ok(rustix::fs::fsync(File::open(directory)?)?)
}
