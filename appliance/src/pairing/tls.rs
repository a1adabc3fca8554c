//! TLS 1.3 with certificates on both sides, which are not judged by an authority but by who is known.
//!
//! The handshake proves that the other side has the key of the certificate it shows (RFC 8446, 4.4.3: CertificateVerify
//! signs everything said so far). Whose key that is, is looked up afterwards by whoever accepts, and during the handshake
//! by whoever dials. There is no resumption and no early data: every connection proves anew who it is.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use super::key::{Shown, UnitKey};
use super::token::Token;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// What is wanted of a connection (ALPN, RFC 7301): a link.
pub(super) const LINK: &[u8] = b"farside-link/1";
/// To be paired.
pub(super) const PAIR: &[u8] = b"farside-pair/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What this unit is dialled with.
pub(super) fn server(key: &UnitKey) -> Result<Arc<ServerConfig>, PairingError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyKey(provider)));
    let mut config = builder.with_single_cert(key.chain(), key.private())?;
    config.alpn_protocols = vec![LINK.to_vec(), PAIR.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// What this unit dials with, for one purpose, and only whom it means.
pub(super) fn client(
    key: &UnitKey,
    purpose: &[u8],
    meant: Arc<Meant>,
) -> Result<Arc<ClientConfig>, PairingError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(meant);
    let mut config = builder.with_client_auth_cert(key.chain(), key.private())?;
    config.alpn_protocols = vec![purpose.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn only_tls13() -> Error {
    Error::General("only TLS 1.3 is spoken here".to_owned())
}

/// Whether the other side has the key of the certificate it shows.
fn check(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, algorithms)
}

/// Takes any certificate of a client whose key it has.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match Shown::read(certificate) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check(&self.0, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Who is dialled: the one unit that may answer.
#[derive(Debug)]
pub(super) struct Meant {
    who: Who,
    provider: Arc<CryptoProvider>,
    /// Who did answer.
    answered: Mutex<Option<Shown>>,
}

/// By what a unit is recognised.
#[derive(Debug)]
pub(super) enum Who {
    /// Its key, or the one that follows.
    Keys(Vec<Fingerprint>),
    /// Its invitation.
    Invited(Token),
}

impl Meant {
    pub(super) fn new(who: Who) -> Arc<Self> {
        Arc::new(Self {
            who,
            provider: provider(),
            answered: Mutex::default(),
        })
    }

    /// Who answered, also if it was somebody else.
    pub(super) fn answered(&self) -> Option<Shown> {
        *self.answered.lock()
    }

    pub(super) fn is(&self, key: Fingerprint) -> bool {
        match &self.who {
            Who::Keys(keys) => keys.contains(&key),
            Who::Invited(token) => token.is_by(key),
        }
    }
}

impl ServerCertVerifier for Meant {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Shown::read(certificate).ok_or(CertificateError::BadEncoding)?;
        *self.answered.lock() = Some(shown);
        if self.is(shown.key) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
