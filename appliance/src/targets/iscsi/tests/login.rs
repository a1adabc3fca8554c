//! Logins: what is refused and with which status, authentication, discovery.

use super::harness::{INITIATOR, Initiator, Server, TARGET, header, put, text};
use crate::targets::iscsi::Policy;
use crate::targets::iscsi::chap::{Algorithm, from_text, to_hex};
use crate::targets::nbd::tests::memory::MemoryDisk;

fn names() -> [String; 2] {
    [
        format!("InitiatorName={INITIATOR}"),
        format!("TargetName={TARGET}"),
    ]
}

/// Status class and detail of one login with these keys.
async fn outcome(server: &Server, stages: (u8, Option<u8>), tsih: u16, keys: &[&str]) -> u32 {
    let mut initiator = Initiator::connect(server.address).await;
    let reply = initiator.login(stages, 1, tsih, keys).await;
    if reply.word(36) != 0 {
        assert!(initiator.is_closed().await, "a refused login ends the connection");
    }
    reply.word(36) >> 16
}

#[tokio::test]
async fn every_refusal_has_its_status() {
    let server = Server::start().await;
    let [initiator, target] = names();
    let both = [initiator.as_str(), target.as_str()];
    let operational = (1, Some(3));
    assert_eq!(outcome(&server, operational, 0, &both).await, 0);
    assert_eq!(outcome(&server, operational, 0, &[&target]).await, 0x0207);
    assert_eq!(outcome(&server, operational, 0, &[&initiator]).await, 0x0207);
    let other = "TargetName=iqn.2026-11.dev.farside:other";
    assert_eq!(
        outcome(&server, operational, 0, &[&initiator, other]).await,
        0x0203
    );
    let kind = "SessionType=Something";
    assert_eq!(
        outcome(&server, operational, 0, &[&initiator, &target, kind]).await,
        0x0209
    );
    assert_eq!(outcome(&server, operational, 77, &both).await, 0x020a);
    assert_eq!(outcome(&server, (3, None), 0, &both).await, 0x0200);
    assert_eq!(outcome(&server, (1, Some(0)), 0, &both).await, 0x0200);
    let method = "AuthMethod=KRB5";
    assert_eq!(
        outcome(&server, (0, Some(1)), 0, &[&initiator, &target, method]).await,
        0x0201
    );
    let twice = "MaxBurstLength=65536";
    assert_eq!(
        outcome(&server, operational, 0, &[&initiator, &target, twice, twice]).await,
        0x0200
    );
    assert_eq!(
        outcome(&server, operational, 0, &["=", &initiator, &target]).await,
        0x0200
    );
}

#[tokio::test]
async fn keys_are_answered_and_the_session_has_a_number() {
    let server = Server::start().await;
    let [name, target] = names();
    let mut initiator = Initiator::connect(server.address).await;
    let first = initiator
        .login((0, Some(1)), 1, 0, &[&name, &target, "AuthMethod=CHAP,None"])
        .await;
    assert_eq!(first.text(), ["TargetPortalGroupTag=1", "AuthMethod=None"]);
    assert_eq!(first.header[1], 0x81, "on to the operational stage");
    let keys = [
        "HeaderDigest=None",
        "MaxBurstLength=512",
        "X-com.example=1",
        "ErrorRecoveryLevel=2",
    ];
    let second = initiator.login((1, Some(3)), 1, 0, &keys).await;
    assert_eq!(
        second.text(),
        [
            "HeaderDigest=None",
            "MaxBurstLength=512",
            "X-com.example=NotUnderstood",
            "ErrorRecoveryLevel=0",
            "MaxRecvDataSegmentLength=262144"
        ]
    );
    assert_ne!(u16::from_be_bytes([second.header[14], second.header[15]]), 0);
    assert_eq!(
        second.word(24),
        first.word(24) + 1,
        "each login response is a status"
    );
}

#[tokio::test]
async fn text_goes_on_in_the_next_request() {
    let server = Server::start().await;
    let mut initiator = Initiator::connect(server.address).await;
    let whole = text(&[&names()[0], &names()[1]]);
    let (one, other) = whole.split_at(30);
    let mut request = header(0x43, 0x44, 0, 7);
    request[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, 1]);
    put(&mut request, 24, 1);
    initiator.send(request, one).await;
    let reply = initiator.reply().await;
    assert!(reply.data.is_empty() && reply.header[1] & 0x80 == 0 && reply.word(36) == 0);
    request[1] = 0x87;
    initiator.send(request, other).await;
    let reply = initiator.reply().await;
    assert_eq!((reply.word(36), reply.header[1]), (0, 0x87));
}

/// The two first steps of CHAP; gives the challenge's identifier and bytes.
async fn challenged(initiator: &mut Initiator, algorithms: &str) -> (u8, Vec<u8>, String) {
    let [name, target] = names();
    let first = initiator
        .login((0, None), 1, 0, &[&name, &target, "AuthMethod=CHAP"])
        .await;
    assert_eq!(first.value("AuthMethod").as_deref(), Some("CHAP"));
    let offer = format!("CHAP_A={algorithms}");
    let second = initiator.login((0, None), 1, 0, &[&offer]).await;
    let identifier = second.value("CHAP_I").unwrap().parse().unwrap();
    let challenge = from_text(&second.value("CHAP_C").unwrap()).unwrap();
    (identifier, challenge, second.value("CHAP_A").unwrap())
}

async fn answer(initiator: &mut Initiator, keys: &[&str]) -> super::harness::Reply {
    initiator.login((0, Some(1)), 1, 0, keys).await
}

#[tokio::test]
async fn chap_lets_in_who_knows_the_secret_and_proves_itself_if_asked() {
    let server = Server::with(Server::secret(), MemoryDisk::new(1 << 20)).await;
    for (offer, algorithm) in [("5", Algorithm::Md5), ("6,7,5", Algorithm::Sha256)] {
        let mut initiator = Initiator::connect(server.address).await;
        let (identifier, challenge, chosen) = challenged(&mut initiator, offer).await;
        assert_eq!(chosen, algorithm.code());
        let response = to_hex(&algorithm.response(identifier, b"secretsecret12", &challenge));
        let own = algorithm.response(9, b"another-secret", b"my own challenge");
        let keys = [
            "CHAP_N=host",
            &format!("CHAP_R={response}"),
            "CHAP_I=9",
            &format!("CHAP_C={}", to_hex(b"my own challenge")),
        ];
        let reply = answer(&mut initiator, &keys).await;
        assert_eq!(reply.word(36), 0, "{reply:?}");
        assert_eq!(reply.value("CHAP_N").as_deref(), Some("farside"));
        assert_eq!(reply.value("CHAP_R"), Some(to_hex(&own)));
        let reply = initiator.login((1, Some(3)), 1, 0, &[]).await;
        assert_eq!(reply.word(36), 0);
    }
}

#[tokio::test]
async fn chap_keeps_everybody_else_out() {
    let server = Server::with(Server::secret(), MemoryDisk::new(1 << 20)).await;
    let [name, target] = names();
    let refused = 0x0201;
    assert_eq!(
        outcome(&server, (1, Some(3)), 0, &[&name, &target]).await,
        refused
    );
    assert_eq!(
        outcome(&server, (0, Some(1)), 0, &[&name, &target]).await,
        refused
    );
    let none = "AuthMethod=None";
    assert_eq!(
        outcome(&server, (0, Some(1)), 0, &[&name, &target, none]).await,
        refused
    );
    let discovery = "SessionType=Discovery";
    assert_eq!(
        outcome(&server, (1, Some(3)), 0, &[&name, discovery]).await,
        refused
    );

    let right = |identifier, challenge: &[u8]| {
        to_hex(&Algorithm::Md5.response(identifier, b"secretsecret12", challenge))
    };
    let wrong = |identifier, challenge: &[u8]| {
        to_hex(&Algorithm::Md5.response(identifier, b"secretsecret13", challenge))
    };
    type Answerer<'a> = Box<dyn Fn(u8, &[u8]) -> Vec<String> + 'a>;
    let answers: [Answerer; 5] = [
        Box::new(|id, bytes| vec!["CHAP_N=host".into(), format!("CHAP_R={}", wrong(id, bytes))]),
        Box::new(|id, bytes| vec!["CHAP_N=guest".into(), format!("CHAP_R={}", right(id, bytes))]),
        Box::new(|_, _| vec!["CHAP_N=host".into(), "CHAP_R=0x".into()]),
        // Answers of an earlier login, and the challenge itself as a question.
        Box::new(|id, _| vec!["CHAP_N=host".into(), format!("CHAP_R={}", right(id, &[1; 24]))]),
        Box::new(|id, bytes| {
            vec![
                "CHAP_N=host".into(),
                format!("CHAP_R={}", right(id, bytes)),
                "CHAP_I=1".into(),
                format!("CHAP_C={}", to_hex(bytes)),
            ]
        }),
    ];
    for (number, keys) in answers.iter().enumerate() {
        let mut initiator = Initiator::connect(server.address).await;
        let (identifier, challenge, _) = challenged(&mut initiator, "5").await;
        let keys = keys(identifier, &challenge);
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let reply = answer(&mut initiator, &keys).await;
        assert_eq!(reply.word(36) >> 16, refused, "answer {number}");
    }
    let mut initiator = Initiator::connect(server.address).await;
    let (one, ..) = challenged(&mut initiator, "5").await;
    let reply = initiator.login((0, Some(1)), 1, 0, &["CHAP_A=5"]).await;
    assert_eq!(reply.word(36) >> 16, refused, "a second challenge after {one}");
}

#[tokio::test]
async fn only_listed_initiators_come_in() {
    let policy = Policy {
        account: None,
        initiators: vec!["iqn.2026-11.test:another".to_owned()],
    };
    let server = Server::with(policy, MemoryDisk::new(1 << 20)).await;
    let [name, target] = names();
    assert_eq!(outcome(&server, (1, Some(3)), 0, &[&name, &target]).await, 0x0202);
    let listed = "InitiatorName=iqn.2026-11.test:another";
    assert_eq!(outcome(&server, (1, Some(3)), 0, &[listed, &target]).await, 0);
}

#[tokio::test]
async fn discovery_lists_targets_and_their_portals() {
    let server = Server::start().await;
    server
        .exports
        .0
        .lock()
        .insert("more".to_owned(), MemoryDisk::new(1 << 20));
    let mut initiator = Initiator::connect(server.address).await;
    let keys = [
        &names()[0],
        "SessionType=Discovery",
        "MaxRecvDataSegmentLength=512",
    ];
    let reply = initiator.login((1, Some(3)), 1, 0, &keys).await;
    assert_eq!(reply.word(36), 0);
    let address = format!("TargetAddress={},1", server.address);
    for (which, expected) in [("All", 2), (TARGET, 1), ("iqn.2026-11.dev.farside:none", 0)] {
        let mut request = header(0x44, 0x80, 0, 5);
        put(&mut request, 20, u32::MAX);
        put(&mut request, 24, initiator.command_number);
        initiator
            .send(request, &text(&[&format!("SendTargets={which}")]))
            .await;
        let reply = initiator.reply().await;
        assert_eq!(reply.opcode(), 0x24);
        let listed = reply.text().iter().filter(|pair| **pair == address).count();
        assert_eq!(listed, expected, "{which}: {:?}", reply.text());
    }
    initiator.command(&[0; 6], (0, 0), &[]).await;
    assert_eq!(
        initiator.reply().await.opcode(),
        0x3f,
        "no commands in a discovery session"
    );
    assert_eq!(initiator.log_out().await.header[2], 0);
    assert!(initiator.is_closed().await);
}

#[tokio::test]
async fn many_keys_that_nobody_knows_get_no_longer_answer_than_an_initiator_takes() {
    let server = Server::start().await;
    let names = [
        format!("InitiatorName={}", super::harness::INITIATOR),
        format!("TargetName={TARGET}"),
    ];
    for (count, status) in [(400, 0x0000), (900, 0x0200)] {
        let mut initiator = Initiator::connect(server.address).await;
        let keys: Vec<String> = (0..count).map(|number| format!("k{number}=")).collect();
        let pairs = names.iter().chain(&keys).map(String::as_str);
        let reply = initiator
            .login((1, Some(3)), 1, 0, &pairs.collect::<Vec<_>>())
            .await;
        assert_eq!(reply.word(36) >> 16, status);
        assert!(reply.data.len() <= 8192, "{} bytes", reply.data.len());
    }
}
