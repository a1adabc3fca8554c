//! Units that do not keep to the rules, and what happens between two steps.

use super::*;

/// Another unit with the key of `of`.
fn with_key_of(of: &Unit, number: u128, name: &'static str) -> Unit {
    let thief = Unit::new(number, name);
    std::fs::copy(of.directory.path().join(FILE), thief.directory.path().join(FILE)).unwrap();
    let opened = Pairing::open(thief.directory.path(), thief.uuid, name).unwrap();
    Unit {
        pairing: Arc::new(opened),
        ..thief
    }
}

#[tokio::test]
async fn a_revoked_unit_cannot_come_back_with_its_used_token() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    let token = host.pairing.invite().unwrap().token;
    accept(&guest, &host, &at, &token).await.unwrap();
    host.pairing.revoke("here").unwrap();
    let again = accept(&guest, &host, &at, &token).await;
    assert!(
        again.is_err(),
        "revoked, and back in: {:?}",
        host.pairing.known().peers
    );
}

#[tokio::test]
async fn one_token_pairs_one_unit() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    let token = host.pairing.invite().unwrap().token;
    accept(&guest, &host, &at, &token).await.unwrap();
    for number in 100..110 {
        let _ = accept(&with_key_of(&guest, number, "x"), &host, &at, &token).await;
    }
    assert_eq!(host.pairing.known().peers.len(), 1);
}

#[tokio::test]
async fn a_peer_cannot_take_the_key_of_another_for_its_next() {
    let (bad, good, host) = (Unit::new(1, "a"), Unit::new(3, "good"), Unit::new(2, "far"));
    let at = Listener::new().await;
    pair(&bad, &host, &at).await;
    pair(&good, &host, &at).await;
    // What a link of `bad` does whose certificate names the key of `good`.
    let shown = Shown {
        key: bad.key(),
        next: Some(good.key()),
    };
    let _ = host.pairing.note_shown(bad.uuid, shown).await;
    let (_here, there) = link(&good, &host, &at).await;
    let unit = there.unwrap().unit.unwrap();
    let checked = host.door().check(Some(&unit), &good.hello());
    assert!(
        checked.is_ok(),
        "{checked:?}; now known: {:#?}",
        host.pairing.known().peers
    );
}

#[tokio::test]
async fn a_key_that_was_replaced_is_not_noted_again_by_a_connection_that_was_slow() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let old = host.key();
    // The way was looked up before all of the renewal, and its handshake took a while.
    let Way::Paired(slow) = guest.pairing.way_to(&at.address.to_string(), None).unwrap() else {
        panic!()
    };
    let config_of_old = host.pairing.server().0;
    let slow_socket = TcpStream::connect(at.address).await.unwrap();
    let (slow_there, _) = at.socket.accept().await.unwrap();
    host.pairing.renew().unwrap();
    let (_here, there) = link(&guest, &host, &at).await;
    host.door()
        .check(Some(&there.unwrap().unit.unwrap()), &guest.hello())
        .unwrap();
    settled(&host).await;
    let (here, there) = link(&guest, &host, &at).await;
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    assert_eq!(guest.pairing.known().peers[0].key, host.key());
    let acceptor = tokio_rustls::TlsAcceptor::from(config_of_old);
    let (slow, _there) = tokio::join!(
        slow.connect(&guest.pairing, slow_socket),
        acceptor.accept(slow_there)
    );
    assert!(slow.is_err());
    assert_ne!(guest.pairing.known().peers[0].key, old, "the old key is back");
    let (here, _) = link(&guest, &host, &at).await;
    here.unwrap();
}

#[tokio::test]
async fn once_a_new_key_is_in_use_nobody_accepts_the_old_one() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let thief = with_key_of(&host, 2, "far");
    host.pairing.renew().unwrap();
    let (here, there) = link(&guest, &host, &at).await;
    let unit = there.unwrap().unit.unwrap();
    host.door().check(Some(&unit), &guest.hello()).unwrap();
    settled(&host).await;
    // The link that is there ends, and the next one shows it.
    assert_eq!(*unit.notices.borrow(), Notice::Renewed);
    drop(here);
    let (here, there) = link(&guest, &host, &at).await;
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    let (stolen, _) = link(&guest, &thief, &at).await;
    let text = stolen.unwrap_err();
    assert!(text.contains("another unit answered"), "{text}");
}

/// A cable that can be stopped from the guest to the host.
async fn gate(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (open, mut told) = watch::channel(true);
    tokio::spawn(async move {
        let (from, _) = listener.accept().await.unwrap();
        let to = TcpStream::connect(to).await.unwrap();
        let (mut from_read, mut from_write) = from.into_split();
        let (mut to_read, mut to_write) = to.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut to_read, &mut from_write).await });
        let mut bytes = [0; 4096];
        let mut first = true;
        loop {
            let count = from_read.read(&mut bytes).await.unwrap();
            if count == 0 {
                break;
            }
            if !first {
                told.wait_for(|open| *open).await.unwrap();
            }
            first = false;
            to_write.write_all(&bytes[..count]).await.unwrap();
        }
    });
    (address, open)
}

#[tokio::test]
async fn a_connection_that_saw_the_old_certificate_does_not_outlive_a_renewal() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let (through, open) = gate(at.address).await;
    open.send_replace(false);
    let Way::Paired(way) = guest.pairing.way_to(&at.address.to_string(), None).unwrap() else {
        panic!()
    };
    let dial = async {
        let socket = TcpStream::connect(through).await.unwrap();
        way.connect(&guest.pairing, socket).await
    };
    let renew = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.pairing.renew().unwrap();
        open.send_replace(true);
    };
    let (here, there, ()) = tokio::join!(dial, at.open(&host), renew);
    let _here = here.unwrap();
    let Ok(there) = there else { return };
    let unit = there.unit.unwrap();
    host.door().check(Some(&unit), &guest.hello()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        *unit.notices.borrow() != Notice::None || host.pairing.known().renewal.is_none(),
        "certificate {}, notice {:?}, waits for {:?}",
        unit.certificate,
        *unit.notices.borrow(),
        host.pairing.known().renewal
    );
}

#[tokio::test]
async fn a_unit_that_is_paired_while_the_key_changes_gets_the_key_that_stays() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    let token = host.pairing.invite().unwrap().token;
    let (through, open) = gate(at.address).await;
    open.send_replace(false);
    let renew = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.pairing.renew().unwrap();
        open.send_replace(true);
    };
    let through = through.to_string();
    let (paired, _, ()) = tokio::join!(guest.pairing.accept(&through, &token), at.open(&host), renew);
    if paired.is_ok() {
        assert_eq!(
            guest.pairing.known().peers[0].key,
            host.key(),
            "paired, and cannot come together"
        );
    }
}

#[tokio::test]
async fn a_unit_with_a_new_identity_and_its_old_key_can_be_paired_again() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let anew = with_key_of(&guest, 9, "here");
    let token = host.pairing.invite().unwrap().token;
    if accept(&anew, &host, &at, &token).await.is_err() {
        return;
    }
    let (_here, there) = link(&anew, &host, &at).await;
    let checked = host
        .door()
        .check(Some(&there.unwrap().unit.unwrap()), &anew.hello());
    assert!(checked.is_ok(), "paired with success, and then: {checked:?}");
}

#[tokio::test]
async fn a_connection_let_in_just_before_a_revoke_says_no_hello_after_it() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let (_here, there) = link(&guest, &host, &at).await;
    let unit = there.unwrap().unit.unwrap();
    host.pairing.revoke("here").unwrap();
    let checked = host.door().check(Some(&unit), &guest.hello());
    assert!(
        checked.is_err(),
        "a replica is made, grown or opened for a unit that was revoked"
    );
}

#[tokio::test]
async fn this_machine_is_this_machine_also_on_a_listener_for_both_families() {
    let host = Unit::new(2, "far");
    let socket = TcpListener::bind("[::]:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(b"FSLK").await.unwrap();
    let (socket, address) = socket.accept().await.unwrap();
    let opened = host.door().open(socket, address).await;
    assert!(opened.is_ok(), "{address}: {opened:?}");
}

#[tokio::test]
async fn a_refusal_by_somebody_who_knows_nothing_is_not_taken_for_having_been_told() {
    let (guest, mut host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let list = host.directory.path().join("paired-units.toml");
    let away = host.directory.path().join("away");
    std::fs::rename(&list, &away).unwrap();
    host.restart();
    guest.pairing.renew().unwrap();
    let before = guest.key();
    let (here, there) = link(&guest, &host, &at).await;
    refused(there);
    let _ = here.unwrap().read.read_u8().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The list is restored from a backup, as its message advises.
    std::fs::rename(&away, &list).unwrap();
    host.restart();
    assert_eq!(
        guest.key(),
        before,
        "it went on to a key that the other does not know"
    );
    let (_here, there) = link(&guest, &host, &at).await;
    there.unwrap();
}

#[tokio::test]
async fn a_token_of_before_a_renewal_says_what_is_the_matter() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    let token = host.pairing.invite().unwrap().token;
    host.pairing.renew().unwrap();
    let text = accept(&guest, &host, &at, &token).await.unwrap_err().to_string();
    assert!(text.contains("invite"), "{text}");
}

#[tokio::test]
async fn two_volumes_that_come_with_the_old_key_while_the_new_one_is_noted() {
    // Volume 2 was looked up with the old key before volume 1 showed the new one; it notes what it saw after that.
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let old = guest.key();
    let (peer, _notices) = host.pairing.recognise(old, 1).unwrap();
    guest.pairing.renew().unwrap();
    let (here, there) = link(&guest, &host, &at).await;
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    settled(&guest).await;
    let (here, there) = link(&guest, &host, &at).await;
    talk(&mut here.unwrap(), &mut there.unwrap()).await;
    let _ = host
        .pairing
        .note_shown(peer.unit, Shown { key: old, next: None })
        .await;
    assert_eq!(
        host.pairing.known().peers[0].key,
        guest.key(),
        "the old key is back"
    );
}

#[tokio::test]
async fn a_revoked_key_does_not_replace_that_of_a_new_pairing() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    // The thief has the key, and is looked up before the revoke.
    let (peer, _notices) = host.pairing.recognise(guest.key(), 1).unwrap();
    host.pairing.revoke("here").unwrap();
    let anew = Unit::new(1, "here");
    pair(&anew, &host, &at).await;
    let _ = host
        .pairing
        .note_shown(
            peer.unit,
            Shown {
                key: guest.key(),
                next: None,
            },
        )
        .await;
    assert_eq!(host.pairing.known().peers[0].key, anew.key());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_shows_ever_new_keys_does_not_use_up_the_blocking_threads() {
    let (guest, host, at) = (Unit::new(1, "here"), Unit::new(2, "far"), Listener::new().await);
    pair(&guest, &host, &at).await;
    let (release, held) = (std::sync::mpsc::sync_channel::<()>(1), host.pairing.clone());
    let (release, wait) = release;
    // A disk that is slow just now.
    let holder = std::thread::spawn(move || {
        let _turn = held.turn.lock();
        let _ = wait.recv();
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..600u32 {
        let shown = Shown {
            key: guest.key(),
            next: Some(Fingerprint::of_key(&number.to_be_bytes())),
        };
        // Its connection is displaced by the next ones.
        let _ = timeout(
            Duration::from_millis(1),
            host.pairing.note_shown(guest.uuid, shown),
        )
        .await;
    }
    let disk_work = tokio::task::spawn_blocking(|| ());
    let done = timeout(Duration::from_secs(1), disk_work).await;
    drop(release);
    holder.join().unwrap();
    assert!(done.is_ok(), "no thread is left for reading and writing");
}
