//! TLS: who may do what before and after it, and that it carries everything.

use super::harness::{
    BLOCK_STATUS, Client, DISK_BYTES, FLUSH, FUA, READ, Server, contexts, go, option, request, write,
};
use super::memory::MemoryDisk;
use crate::targets::Settings;
use crate::targets::nbd::Security;
use crate::tls::{TlsFiles, TlsSlot, load};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ACK: u32 = 1;
const UNSUPPORTED: u32 = (1 << 31) + 1;
const INVALID: u32 = (1 << 31) + 3;
const TLS_REQUIRED: u32 = (1 << 31) + 5;
const UNKNOWN: u32 = (1 << 31) + 6;

/// An authority with certificates of a server and a client, as files.
struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self, of_clients: bool) -> TlsFiles {
        TlsFiles {
            certificate: self.file("server.pem"),
            key: self.file("server.key"),
            client_ca: of_clients.then(|| self.file("ca.pem")),
        }
    }

    fn slot(&self, of_clients: bool) -> Arc<TlsSlot> {
        let slot = TlsSlot::default();
        slot.set(Some(load(&self.files(of_clients)).unwrap()));
        Arc::new(slot)
    }

    fn connector(&self, certified: bool) -> TlsConnector {
        let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
            let found = CertificateDer::pem_file_iter(path).unwrap();
            found.collect::<Result<_, _>>().unwrap()
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.file("ca.pem")));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if certified {
            let key = PrivateKeyDer::from_pem_file(self.file("client.key")).unwrap();
            builder
                .with_client_auth_cert(certificates(&self.file("client.pem")), key)
                .unwrap()
        } else {
            builder.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }
}

async fn upgraded(
    server: &Server,
    connector: &TlsConnector,
) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let mut client = server.greeted().await;
    client.send(&option(5, &[])).await;
    assert_eq!(client.option_reply().await, (5, ACK, vec![]));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, client.stream).await?;
    Ok(Client { stream })
}

async fn secured(tls: &Arc<TlsSlot>, required: bool, local: bool) -> Server {
    let security = Security {
        tls: Arc::clone(tls),
        required,
        local,
    };
    let disk = MemoryDisk::new(DISK_BYTES);
    let server = Server::secured(&disk, Settings::default(), security).await;
    server
        .exports
        .0
        .lock()
        .insert("secret".to_owned(), MemoryDisk::new(4096));
    server
}

#[tokio::test]
async fn an_export_that_requires_tls_is_hidden_before_and_there_after_it() {
    let authority = Authority::new();
    let server = secured(&authority.slot(false), false, false).await;
    let mut client = server.greeted().await;
    for code in [6, 7] {
        client.send(&option(code, &go("secret", &[]))).await;
        assert_eq!(client.option_reply().await.1, TLS_REQUIRED);
    }
    client.send(&option(9, &contexts("secret", &[]))).await;
    assert_eq!(client.option_reply().await.1, UNKNOWN);
    client.send(&option(3, &[])).await;
    assert_eq!(client.option_reply().await, (3, 2, b"\0\0\0\x05disk0".to_vec()));
    assert_eq!(client.option_reply().await.1, ACK);
    client.send(&option(7, &go("disk0", &[]))).await;
    client.info_until_ack(7).await;
    let mut client = server.greeted().await;
    client.send(&option(1, b"secret")).await;
    client.expect_closed().await;

    let mut client = upgraded(&server, &authority.connector(false)).await.unwrap();
    client.send(&option(5, &[])).await;
    assert_eq!(client.option_reply().await.1, INVALID, "TLS in TLS");
    client.send(&option(3, &[])).await;
    assert_eq!(client.option_reply().await.2, b"\0\0\0\x05disk0");
    assert_eq!(client.option_reply().await.2, b"\0\0\0\x06secret");
    assert_eq!(client.option_reply().await.1, ACK);
    client.send(&option(7, &go("secret", &[]))).await;
    client.info_until_ack(7).await;
    assert_eq!(client.write(FUA, 0, b"hidden").await, 0);
    assert_eq!(client.read(0, 6).await, b"hidden");
}

#[tokio::test]
async fn where_all_exports_require_it_nothing_else_is_answered() {
    let authority = Authority::new();
    let server = secured(&authority.slot(false), true, false).await;
    let mut client = server.greeted().await;
    let info = go("disk0", &[]);
    for (code, data) in [
        (3, &[][..]),
        (6, &info),
        (7, &info),
        (8, &[]),
        (11, &[]),
        (99, b"x"),
    ] {
        client.send(&option(code, data)).await;
        assert_eq!(client.option_reply().await.1, TLS_REQUIRED, "option {code}");
    }
    client.send(&option(2, &[])).await;
    assert_eq!(client.option_reply().await.1, ACK);
    let mut client = server.greeted().await;
    client.send(&option(1, b"disk0")).await;
    client.expect_closed().await;
    let mut client = upgraded(&server, &authority.connector(false)).await.unwrap();
    client.send(&option(1, b"disk0")).await;
    client.take(10).await;
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);

    // Nobody else reads along on a socket of one's own.
    let server = secured(&authority.slot(false), true, true).await;
    let mut client = server.greeted().await;
    client.send(&option(7, &go("secret", &[]))).await;
    client.info_until_ack(7).await;
}

#[tokio::test]
async fn what_was_negotiated_before_tls_is_forgotten() {
    let authority = Authority::new();
    let server = secured(&authority.slot(false), false, false).await;
    let mut client = server.greeted().await;
    client.send(&option(8, &[])).await;
    assert_eq!(client.option_reply().await.1, ACK);
    client
        .send(&option(10, &contexts("disk0", &["base:allocation"])))
        .await;
    assert_eq!(
        (client.option_reply().await.1, client.option_reply().await.1),
        (4, ACK)
    );
    client.send(&option(5, &[])).await;
    assert_eq!(client.option_reply().await.1, ACK);
    let name = ServerName::try_from("localhost").unwrap();
    let stream = authority
        .connector(false)
        .connect(name, client.stream)
        .await
        .unwrap();
    let mut client = Client { stream };
    client.send(&option(7, &go("disk0", &[]))).await;
    client.info_until_ack(7).await;
    assert_ne!(
        client.ask(BLOCK_STATUS, 0, 0, 512).await,
        0,
        "a simple reply, and an error"
    );
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
    let authority = Authority::new();
    let server = secured(&authority.slot(true), false, false).await;
    // With TLS 1.3 the client learns of it when it reads.
    if let Ok(mut client) = upgraded(&server, &authority.connector(false)).await {
        let mut byte = [0; 1];
        let heard = client.stream.read(&mut byte).await;
        assert!(!matches!(heard, Ok(1..)), "{heard:?}");
    }
    let other = Authority::new();
    let strange = other.connector(true);
    assert!(upgraded(&server, &strange).await.is_err(), "another authority");
    let mut client = upgraded(&server, &authority.connector(true)).await.unwrap();
    client.send(&option(7, &go("secret", &[]))).await;
    client.info_until_ack(7).await;
}

#[tokio::test]
async fn plain_data_before_the_handshake_ends_the_connection() {
    let authority = Authority::new();
    let server = secured(&authority.slot(false), false, false).await;
    let mut client = server.greeted().await;
    client.send(&[option(5, &[]), option(3, &[])].concat()).await;
    let mut rest = Vec::new();
    // Perhaps the acknowledgement, and then the end; never an answer to the second option.
    let _ = client.stream.read_to_end(&mut rest).await;
    assert!(rest.len() <= 20, "{rest:?}");
    let mut client = server.greeted().await;
    client.send(&option(5, &[])).await;
    client.option_reply().await;
    client.send(b"no handshake at all, whatever it is").await;
    let _ = client.stream.read_to_end(&mut rest).await;
    drop(client);
    server.until_idle().await;
}

#[tokio::test]
async fn without_certificates_there_is_no_tls() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    client.send(&option(5, &[])).await;
    assert_eq!(client.option_reply().await.1, UNSUPPORTED);
}

#[tokio::test]
async fn much_data_comes_through_whole_though_the_client_is_slow() {
    let authority = Authority::new();
    let server = secured(&authority.slot(false), false, false).await;
    let mut client = upgraded(&server, &authority.connector(false)).await.unwrap();
    client.send(&option(7, &go("disk0", &[]))).await;
    client.info_until_ack(7).await;
    let data: Vec<u8> = (0..DISK_BYTES)
        .map(|at| u8::try_from(at / 251 % 256).unwrap())
        .collect();
    for (index, part) in data.chunks(1 << 20).enumerate() {
        client
            .send(&write(0, index as u64, (index << 20) as u64, part))
            .await;
        assert_eq!(client.reply().await.0, 0);
    }
    for index in 0..8_u32 {
        let range = (u64::from(index) << 20, 1 << 20);
        client.send(&request(READ, 0, u64::from(index), range)).await;
    }
    tokio::time::sleep(super::harness::QUIET).await;
    for part in data.chunks(1 << 20) {
        assert_eq!(client.reply().await.0, 0);
        assert!(client.take(1 << 20).await == part);
    }
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
}

/// A good private key of nobody, on a curve that is not supported.
const KEY_ON_P521: &str = "-----BEGIN PRIVATE KEY-----\n\
MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIA+nPej9Yu5pm/TL7b\n\
eLRBWqkvbm63Grj9Mwlb9RF3asZVaP7+Ab6BmMibSXex0IPQDOW4vpj8GDz3DS8w\n\
oI1G2VWhgYkDgYYABAFsmo4Z1O74qF5EfD4GKzDcjW8wEwee9TgzWd4i8cBI+gfO\n\
hDI/UpejgS/l3Q4LmnzkKtft9BahPYz+GGnr1chAeQADj7r8PVOwctj4V4pEP8y5\n\
pc57FPS/5ztW9QlHkrD0O/qMydO3yGI0yj2D+JknFvMETC/SthSkmFNLVwIzUMP3\n\
FQ==\n\
-----END PRIVATE KEY-----";

#[test]
fn wrong_files_are_named() {
    let authority = Authority::new();
    let said = |files: &TlsFiles| load(files).unwrap_err().to_string();
    let good = authority.files(true);
    let missing = authority.file("missing.pem");
    let text = said(&TlsFiles {
        certificate: missing.clone(),
        ..good.clone()
    });
    assert!(text.contains("missing.pem"), "{text}");
    let text = said(&TlsFiles {
        key: authority.file("server.pem"),
        ..good.clone()
    });
    assert!(text.contains("server.pem") && text.contains("key"), "{text}");
    let text = said(&TlsFiles {
        key: authority.file("client.key"),
        ..good.clone()
    });
    assert!(text.contains("belong together"), "{text}");
    std::fs::write(authority.file("p521.key"), KEY_ON_P521).unwrap();
    let text = said(&TlsFiles {
        key: authority.file("p521.key"),
        ..good.clone()
    });
    assert!(
        text.contains("p521.key") && text.contains("RSA key of 2048"),
        "{text}"
    );
    std::fs::write(authority.file("empty"), "nothing").unwrap();
    let text = said(&TlsFiles {
        client_ca: Some(authority.file("empty")),
        ..good
    });
    assert!(
        text.contains("empty") && text.contains("no certificate"),
        "{text}"
    );
}
