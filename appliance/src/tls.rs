//! TLS of a server: certificate, key and the authority of its clients, read from PEM files.
//!
//! One provider (ring), named explicitly. Versions 1.2 and 1.3, because GnuTLS of older clients is limited to
//! the first.

use parking_lot::RwLock;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Where the certificates of a server lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those up to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who has to have signed the clients' certificates; without it clients need none.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{path}: {reason}; {remedy}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Certificate and key do not belong together.
    #[error("certificate {certificate} with key {key}: {reason}; make the two belong together")]
    Pair {
        /// The certificate.
        certificate: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// What new connections are encrypted with; can be exchanged while connections last.
#[derive(Debug, Default)]
pub struct TlsSlot(RwLock<Option<Arc<ServerConfig>>>);

impl TlsSlot {
    /// From now on new connections use this.
    pub fn set(&self, config: Option<Arc<ServerConfig>>) {
        *self.0.write() = config;
    }

    /// What a new connection uses; `None`: there is no TLS.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.read().clone().map(TlsAcceptor::from)
    }
}

/// Reads and checks everything.
///
/// # Errors
/// [`TlsError`] that names the file.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::File {
        path: files.key.display().to_string(),
        reason: format!("no private key can be read from it ({error})"),
        remedy: "give a PEM file with one private key without passphrase",
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let usable = provider.key_provider.load_private_key(key.clone_key());
    usable.map_err(|error| TlsError::File {
        path: files.key.display().to_string(),
        reason: format!("this private key cannot be used ({error})"),
        remedy: "give an RSA key of 2048, 3072 or 4096 bits, or an ECDSA key on P-256 or P-384, or an Ed25519 key",
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let refuse = |reason: String| TlsError::File {
                path: path.display().to_string(),
                reason,
                remedy: "give a PEM file with the certificate of the authority that signs the clients' certificates",
            };
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| refuse(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| refuse(error.to_string()))?)
        }
    };
    let config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Pair {
            certificate: files.certificate.display().to_string(),
            key: files.key.display().to_string(),
            reason: error.to_string(),
        })?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |reason: String| TlsError::File {
        path: path.display().to_string(),
        reason,
        remedy: "give a PEM file with certificates",
    };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))?;
    let found: Result<Vec<_>, _> = read.collect();
    match found {
        Ok(found) if found.is_empty() => Err(refuse("there is no certificate in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(refuse(error.to_string())),
    }
}
