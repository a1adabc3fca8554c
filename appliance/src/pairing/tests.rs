//! The promises of pairing, between two units over real sockets.

use super::frames::PATIENCE;
use super::key::{FILE, NEXT_FILE};
use super::*;
use farside_protocol::journal::ChainPoint;
use farside_protocol::link::Hello;
use farside_remote::{Door, PairedUnit, SessionError, Visitor};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

mod hardship;

struct Unit {
    directory: TempDir,
    pairing: Arc<Pairing>,
    uuid: Uuid,
    name: &'static str,
}

impl Unit {
    fn new(number: u128, name: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        let uuid = Uuid::from_u128(number);
        let pairing = Arc::new(Pairing::open(directory.path(), uuid, name).unwrap());
        Self {
            directory,
            pairing,
            uuid,
            name,
        }
    }

    fn restart(&mut self) {
        let opened = Pairing::open(self.directory.path(), self.uuid, self.name);
        self.pairing = Arc::new(opened.unwrap());
    }

    fn key(&self) -> Fingerprint {
        self.pairing.known().key
    }

    fn door(&self) -> LinkDoor {
        LinkDoor {
            pairing: self.pairing.clone(),
            trust_network: false,
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version_min: 2,
            version_max: 2,
            segment_bytes: 1 << 20,
            features: 0,
            unit: self.uuid,
            instance: Uuid::from_u128(1),
            volume: Uuid::from_u128(2),
            volume_bytes: 4096,
            epoch: 1,
            head: ChainPoint::default(),
            tail: ChainPoint::default(),
            unit_name: self.name.to_owned(),
            volume_name: "disk0".to_owned(),
            remote_name: "far".to_owned(),
        }
    }
}

struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    async fn new() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    async fn open(&self, unit: &Unit) -> Result<Visitor, SessionError> {
        let (socket, address) = self.socket.accept().await.unwrap();
        unit.door().open(socket, address).await
    }
}

/// `guest` accepts the invitation `token` of `host`.
async fn accept(guest: &Unit, host: &Unit, at: &Listener, token: &Token) -> Result<Peer, PairingError> {
    let address = at.address.to_string();
    let (paired, opened) = tokio::join!(guest.pairing.accept(&address, token), at.open(host));
    assert!(opened.is_err(), "a greeting is no link");
    paired
}

async fn pair(guest: &Unit, host: &Unit, at: &Listener) {
    let token = host.pairing.invite().unwrap().token;
    accept(guest, host, at, &token).await.unwrap();
}

/// What becomes of a link from `guest` to `host`.
async fn link(
    guest: &Unit,
    host: &Unit,
    at: &Listener,
) -> (Result<Link, String>, Result<Visitor, SessionError>) {
    let address = at.address.to_string();
    let Way::Paired(way) = guest.pairing.way_to(&address, None).unwrap() else {
        panic!("nobody is paired there");
    };
    let dial = async {
        let socket = TcpStream::connect(at.address).await.unwrap();
        way.connect(&guest.pairing, socket).await
    };
    tokio::join!(dial, at.open(host))
}

/// A word each way; back comes the beginning of a welcome.
async fn talk(here: &mut Link, there: &mut Visitor) {
    here.write.write_all(b"1").await.unwrap();
    here.write.flush().await.unwrap();
    assert_eq!(there.read.read_u8().await.unwrap(), b'1');
    let welcome = b"FSLK\x02 and so on";
    there.write.write_all(welcome).await.unwrap();
    there.write.flush().await.unwrap();
    for byte in welcome {
        assert_eq!(here.read.read_u8().await.unwrap(), *byte);
    }
}

fn refused(result: Result<Visitor, SessionError>) -> String {
    match result {
        Ok(visitor) => panic!("let in: {visitor:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn two_units_that_were_paired_know_each_other_also_after_a_restart() {
    let (mut guest, mut host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    guest.restart();
    host.restart();
    let (known, back) = (guest.pairing.known().peers, host.pairing.known().peers);
    assert_eq!((known[0].name.as_str(), known[0].key), ("far", host.key()));
    assert_eq!((back[0].name.as_str(), back[0].key), ("here", guest.key()));
    assert_eq!(known[0].address, Some(at.address.to_string()));
    assert_eq!(back[0].address, None, "nobody is dialled because it came once");
    let (here, there) = link(&guest, &host, &at).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    talk(&mut here, &mut there).await;
    let unit = there.unit.clone().unwrap();
    assert_eq!(
        (unit.unit, unit.name.as_str(), here.peer.as_str()),
        (guest.uuid, "here", "far")
    );
    for file in [FILE, "paired-units.toml"] {
        let mode = std::fs::metadata(host.directory.path().join(file)).unwrap();
        assert!(file != FILE || mode.permissions().mode() & 0o077 == 0, "{file}");
    }
}

#[tokio::test]
async fn an_invitation_lets_one_unit_in_and_nobody_else() {
    let (guest, other, host) = (Unit::new(1, "here"), Unit::new(3, "other"), Unit::new(2, "far"));
    let at = Listener::new().await;
    let token = host.pairing.invite().unwrap().token;
    accept(&guest, &host, &at, &token).await.unwrap();
    // It may not have heard the answer.
    accept(&guest, &host, &at, &token).await.unwrap();
    let error = accept(&other, &host, &at, &token).await.unwrap_err().to_string();
    assert!(error.contains("not good any more"), "{error}");
    // An invitation by somebody else, at this address.
    let wrong = other.pairing.invite().unwrap().token;
    let error = accept(&guest, &host, &at, &wrong).await.unwrap_err().to_string();
    assert!(error.contains("another unit answered"), "{error}");
    // By the right unit, but never given out.
    let guessed = Token::new(host.key(), [7; 16]);
    let error = accept(&other, &host, &at, &guessed)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("not good any more"), "{error}");
    assert_eq!(host.pairing.known().peers.len(), 1);
    assert!(other.pairing.known().peers.is_empty());
    let own = host.pairing.invite().unwrap().token;
    let error = host.pairing.accept(&at.address.to_string(), &own).await;
    assert!(matches!(error, Err(PairingError::Itself)));
}

#[tokio::test]
async fn nobody_passes_as_another_unit() {
    let (guest, host, other) = (Unit::new(1, "here"), Unit::new(2, "far"), Unit::new(3, "other"));
    let at = Listener::new().await;
    pair(&guest, &host, &at).await;
    pair(&other, &host, &at).await;
    let door = host.door();
    let (_here, there) = link(&other, &host, &at).await;
    let unit = there.unwrap().unit.unwrap();
    door.check(Some(&unit), &other.hello()).unwrap();
    let refusal = door.check(Some(&unit), &guest.hello()).unwrap_err();
    assert!(refusal.text().contains("unit 'other'"), "{refusal}");
    // Nor unencrypted, from this machine, where strangers may come so.
    let refusal = door.check(None, &guest.hello()).unwrap_err();
    assert!(refusal.text().contains("has to come encrypted"), "{refusal}");
    door.check(None, &Unit::new(4, "stranger").hello()).unwrap();
    // Another unit at the address that was paired: nothing is said to it.
    let impostor = Unit::new(2, "far");
    let (here, there) = link(&guest, &impostor, &at).await;
    let text = here.unwrap_err();
    assert!(text.contains("another unit answered than 'far'"), "{text}");
    refused(there);
    // One that was invited with somebody's UUID.
    let thief = Unit::new(1, "here");
    let token = host.pairing.invite().unwrap().token;
    let error = accept(&thief, &host, &at, &token).await.unwrap_err().to_string();
    assert!(error.contains("farside pair revoke here"), "{error}");
}

#[tokio::test]
async fn a_unit_that_is_not_paired_any_more_loses_its_links_and_gets_none() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let (here, there) = link(&guest, &host, &at).await;
    let (mut here, there) = (here.unwrap(), there.unwrap());
    host.pairing.revoke("here").unwrap();
    assert_eq!(*there.unit.unwrap().notices.borrow(), Notice::Revoked);
    assert_eq!(*here.notices.borrow_and_update(), Notice::None);
    let (_, there) = link(&guest, &host, &at).await;
    let text = refused(there);
    assert!(text.contains("farside pair invite"), "{text}");
    guest.pairing.revoke("far").unwrap();
    assert_eq!(*here.notices.borrow(), Notice::Revoked);
    let way = guest.pairing.way_to(&at.address.to_string(), None).unwrap();
    assert!(matches!(way, Way::Unknown));
    assert!(matches!(
        guest.pairing.way_to("x:1", Some("far")),
        Err(PairingError::Unknown(_))
    ));
    assert!(matches!(
        guest.pairing.revoke("far"),
        Err(PairingError::Unknown(_))
    ));
}

#[tokio::test]
async fn a_new_key_is_known_to_all_before_it_is_used_and_the_old_one_is_not_taken_after() {
    let (mut guest, mut host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let (before, next) = (host.key(), host.pairing.renew().unwrap());
    assert_eq!(next.1, ["here"]);
    assert!(matches!(host.pairing.renew(), Err(PairingError::Renewing(_))));
    host.restart();
    assert_eq!(
        host.pairing.known().renewal.unwrap(),
        ["here"],
        "it is not forgotten"
    );
    assert_eq!(host.key(), before);
    let stolen = std::fs::read(host.directory.path().join(FILE)).unwrap();
    // One link, and both know.
    let (_here, there) = link(&guest, &host, &at).await;
    let unit: PairedUnit = there.unwrap().unit.unwrap();
    host.door().check(Some(&unit), &guest.hello()).unwrap();
    settled(&host).await;
    assert_eq!(host.key(), next.0);
    assert!(!host.directory.path().join(NEXT_FILE).exists());
    guest.restart();
    let (here, there) = link(&guest, &host, &at).await;
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    assert_eq!(guest.pairing.known().peers[0].key, next.0);
    // Whoever has the old key is nobody now.
    let thief = Unit::new(2, "far");
    std::fs::write(thief.directory.path().join(FILE), stolen).unwrap();
    let opened = Pairing::open(thief.directory.path(), thief.uuid, "far").unwrap();
    let thief = Unit {
        pairing: Arc::new(opened),
        ..thief
    };
    assert_eq!(thief.key(), before);
    assert!(link(&guest, &thief, &at).await.0.is_err());
    // The other way round: the one that dials is told by the first word it gets.
    let next = guest.pairing.renew().unwrap();
    let (here, there) = link(&guest, &host, &at).await;
    assert!(guest.pairing.known().renewal.is_some());
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    settled(&guest).await;
    assert_eq!(guest.key(), next.0);
    let (here, there) = link(&guest, &host, &at).await;
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    assert_eq!(host.pairing.known().peers[0].key, next.0);
}

async fn settled(unit: &Unit) {
    for _ in 0..500 {
        if unit.pairing.known().renewal.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the next key never came into use");
}

#[tokio::test]
async fn a_peer_that_will_not_come_back_does_not_keep_a_new_key_from_being_used() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let next = host.pairing.renew().unwrap().0;
    assert_ne!(host.key(), next);
    host.pairing.revoke("here").unwrap();
    assert_eq!(host.key(), next);
    assert_eq!(
        host.pairing.renew().unwrap().1,
        Vec::<String>::new(),
        "nobody has to hear of it"
    );
    assert_ne!(host.key(), next);
}

#[tokio::test]
async fn whatever_comes_first_is_told_apart_and_answered() {
    let (host, at) = (Unit::new(2, "far"), Listener::new().await);
    let mut silent = TcpStream::connect(at.address).await.unwrap();
    silent.shutdown().await.unwrap();
    assert!(matches!(at.open(&host).await, Err(SessionError::Closed)));
    // TLS that is none.
    let mut odd = TcpStream::connect(at.address).await.unwrap();
    odd.write_all(b"\x16\x03\x01\x00\x04oops").await.unwrap();
    assert!(matches!(at.open(&host).await, Err(SessionError::Door(_))));
    // Without TLS: this machine's own may.
    let mut plain = TcpStream::connect(at.address).await.unwrap();
    plain.write_all(b"FSLK").await.unwrap();
    let mut visitor = at.open(&host).await.unwrap();
    assert!(visitor.unit.is_none());
    let mut magic = [0; 4];
    visitor.read.read_exact(&mut magic).await.unwrap();
    assert_eq!(&magic, b"FSLK", "looking at it took nothing away");
}

#[tokio::test(start_paused = true)]
async fn somebody_who_says_nothing_is_not_waited_for_long() {
    let (host, at) = (Unit::new(2, "far"), Listener::new().await);
    let _silent = TcpStream::connect(at.address).await.unwrap();
    let opened = timeout(PATIENCE + Duration::from_secs(1), at.open(&host)).await;
    assert!(matches!(opened, Ok(Err(SessionError::NoHello))));
}

#[test]
fn files_of_keys_that_others_could_read_or_that_are_none_are_refused_and_kept() {
    let directory = TempDir::new().unwrap();
    let open = || Pairing::open(directory.path(), Uuid::from_u128(1), "here").map(|_| ());
    open().unwrap();
    let key = directory.path().join(FILE);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let text = open().unwrap_err().to_string();
    assert!(text.contains("link.key") && text.contains("chmod 600"), "{text}");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let text = open().unwrap_err().to_string();
    assert!(text.contains("link.key") && text.contains("restore it"), "{text}");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "no key");
    std::fs::remove_file(&key).unwrap();
    std::fs::write(directory.path().join("paired-units.toml"), "unit = 1").unwrap();
    let text = open().unwrap_err().to_string();
    assert!(text.contains("paired-units.toml"), "{text}");
}

#[test]
fn tokens_survive_being_copied_and_mistakes_are_noticed() {
    let token = Token::new(Fingerprint::of_key(b"key"), [9; 16]);
    let text = token.to_string();
    assert_eq!(text.len(), 60);
    for same in [text.clone(), text.to_uppercase(), format!(" {text}\n")] {
        assert_eq!(same.parse::<Token>().unwrap(), token);
    }
    for at in 0..text.len() {
        let mut wrong = text.clone().into_bytes();
        wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
        let wrong = String::from_utf8(wrong).unwrap();
        assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        assert!(text[..at].parse::<Token>().is_err());
    }
    for wrong in ["", "ü", "a b", &"a".repeat(1000)] {
        assert!(wrong.parse::<Token>().is_err(), "{wrong}");
    }
    assert!(!format!("{token:?}").contains(&text));
}

#[test]
fn names_of_peers_are_told_apart_and_an_address_is_of_one_unit() {
    let peer = |number: u128, name: &str, address: Option<&str>| Peer {
        name: name.to_owned(),
        unit: Uuid::from_u128(number),
        key: Fingerprint::of_key(&number.to_be_bytes()),
        next_key: None,
        address: address.map(str::to_owned),
        paired_at: "2026-01-02T03:04:05Z".to_owned(),
    };
    let long = "n".repeat(32);
    let mut peers = Vec::new();
    let mut admit = |new| peers::admit(&mut peers, new).map(|peer| peer.name);
    assert_eq!(admit(peer(1, "far", Some("a:1"))).unwrap(), "far");
    assert_eq!(admit(peer(2, "far", None)).unwrap(), "far-2");
    assert_eq!(admit(peer(3, &long, None)).unwrap(), long);
    assert_eq!(
        admit(peer(4, &long, Some("a:1"))).unwrap(),
        format!("{}-2", "n".repeat(30))
    );
    assert_eq!(
        admit(peer(2, "far", Some("b:2"))).unwrap(),
        "far-2",
        "it is known"
    );
    assert!(matches!(
        admit(Peer {
            key: Fingerprint::of_key(b"new"),
            ..peer(1, "far", None)
        }),
        Err(PairingError::OtherKey { .. })
    ));
    let addresses: Vec<_> = peers.iter().map(|peer| peer.address.as_deref()).collect();
    assert_eq!(addresses, [None, Some("b:2"), None, Some("a:1")]);
}
