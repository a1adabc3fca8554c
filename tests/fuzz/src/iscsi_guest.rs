//! The initiator of the target `iscsi_login`: asks what its steps decide, solves challenges if they say so, and checks every answer.

use crate::draw::Draw;
use crate::iscsi_pdu::{
    Digests, HEADER_BYTES, Header, is_onward, put_message, put_word, take_message, take_piece, word,
};
use crate::iscsi_wire::Initiator;
use crate::iscsi_words::say_more;
use farside::targets::iscsi::{Account, Policy};
use farside_protocol::iscsi::{Pairs, put_pair};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

pub(crate) const HOST: &str = "iqn.2026-11.test:host";
pub(crate) const TARGET: &str = "iqn.2026-11.dev.farside:disk0";
pub(crate) const USER: &str = "user";
const SECRET: &[u8] = b"twelve bytes";
const OWN_NAME: &str = "farside";
const OWN_SECRET: &[u8] = b"other twelve bytes";
/// The challenge of initiators.
const OUR_IDENTIFIER: &str = "77";
const OUR_CHALLENGE: &[u8] = b"sixteen bytes it is";
/// The target gives up after 64.
pub(crate) const MOST_REQUESTS: usize = 80;
const LOGOUT_TAG: u32 = 0xfff0_0001;

/// What a login has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Security,
    Operational,
    Full,
    /// Refused, or over after the logout.
    Over,
}

/// A request that is not answered.
#[derive(Debug, Clone)]
struct Asked {
    flags: u8,
    tag: u32,
    isid: [u8; 6],
    /// What it and those that it goes on from say.
    pairs: Vec<(String, String)>,
}

fn find<'a>(pairs: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(key, _)| key == wanted);
    found.map(|(_, value)| value.as_str())
}

/// The pairs up to the first that is none.
fn pairs_of(text: &[u8]) -> Vec<(String, String)> {
    let pairs = Pairs::new(text).map_while(Result::ok);
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Who may log in: anybody, who has an account (with an own name of the target or without), or who is on a list.
pub(crate) fn policy(kind: u8) -> Policy {
    let own = (kind & 2 != 0).then(|| (OWN_NAME.to_owned(), OWN_SECRET.to_vec()));
    let account = Account {
        user: USER.to_owned(),
        secret: SECRET.to_vec(),
        own,
    };
    let listed = if kind & 8 == 0 {
        HOST
    } else {
        "iqn.2026-11.test:other"
    };
    Policy {
        account: (kind & 1 != 0).then_some(account),
        initiators: (kind & 4 != 0).then(|| listed.to_owned()).into_iter().collect(),
    }
}

/// A challenge of the target's.
#[derive(Debug, Clone, Default)]
struct Challenge {
    algorithm: String,
    identifier: u8,
    bytes: Vec<u8>,
}

impl Challenge {
    fn answer(&self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let said = [&[identifier], secret, challenge].concat();
        match self.algorithm.as_str() {
            "5" => Md5::digest(said).to_vec(),
            _ => Sha256::digest(said).to_vec(),
        }
    }
}

pub(crate) struct Guest {
    /// What decides each request.
    steps: VecDeque<Vec<u8>>,
    policy: Policy,
    pub(crate) stage: Stage,
    moved: usize,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    asked: Option<Asked>,
    requests: usize,
    status: Option<u32>,
    /// What was said since the last request that was complete, and in the first that was.
    text: Vec<u8>,
    introduction: Option<Vec<(String, String)>>,
    challenge: Option<Challenge>,
    proved: bool,
    digests: Digests,
    pub(crate) has_logged_out: bool,
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("0x{}", digits.collect::<String>())
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").expect("the target writes hexadecimal");
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    pairs.map(|pair| byte(pair).expect("digits")).collect()
}

impl Guest {
    /// One that does these steps, beginning in this stage, and knows who may log in.
    pub(crate) fn new(steps: VecDeque<Vec<u8>>, stage: Stage, policy: Policy) -> Self {
        Self {
            steps,
            policy,
            stage,
            moved: 0,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            asked: None,
            requests: 0,
            status: None,
            text: Vec::new(),
            introduction: None,
            challenge: None,
            proved: false,
            digests: Digests::default(),
            has_logged_out: false,
        }
    }

    /// Whether the last message is whole.
    pub(crate) fn has_all(&self) -> bool {
        self.incoming.is_empty()
    }

    fn ask(&mut self) {
        let step = self.steps.pop_front().unwrap_or_default();
        let draw = &mut Draw::new(&step);
        let how = draw.u8();
        let (csg, next) = match self.stage {
            Stage::Security => (0, 1),
            _ => (1, 3),
        };
        let mut flags = match how & 3 {
            0 => csg << 2,
            1 => 0x80 | (csg << 2) | next,
            2 => 0x80 | (csg << 2) | 3,
            _ => draw.u8(),
        };
        if how & 4 != 0 {
            flags = (flags | 0x40) & 0x7f;
        }
        let mut text = Vec::new();
        if how & 8 != 0 {
            put_pair(&mut text, "InitiatorName", HOST);
            match how & 16 {
                0 => put_pair(&mut text, "TargetName", TARGET),
                _ => put_pair(&mut text, "SessionType", "Discovery"),
            }
        }
        match (how >> 5) & 3 {
            1 => put_pair(&mut text, "AuthMethod", "CHAP,None"),
            2 => {
                let list = ["7,5", "5", "7", "6,5"][usize::from(draw.u8() & 3)];
                put_pair(&mut text, "CHAP_A", list);
            }
            3 => self.answer_challenge(draw, &mut text),
            _ => {}
        }
        say_more(draw, &mut text);
        text.truncate(60_000);
        self.text.extend_from_slice(&text);
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1], header[8]) = (0x43, flags, 0x80);
        put_word(&mut header, 16, u32::try_from(self.requests).expect("few"));
        put_word(&mut header, 24, 5);
        if how & 0x80 != 0 {
            let at = usize::from(draw.u8()) % HEADER_BYTES;
            if !(4..8).contains(&at) {
                header[at] = draw.u8();
            }
        }
        self.requests += 1;
        self.asked = Some(Asked {
            flags: header[1],
            tag: word(&header, 16),
            isid: *header[8..].first_chunk().expect("inside the header"),
            pairs: pairs_of(&self.text),
        });
        if header[1] & 0x40 == 0 {
            self.text.clear();
        }
        put_message(&mut self.outgoing, header, &text, Digests::default());
    }

    /// The right answer, or one that is not quite right, or a challenge with it.
    fn answer_challenge(&self, draw: &mut Draw<'_>, text: &mut Vec<u8>) {
        let how = draw.u8();
        let challenge = self.challenge.clone().unwrap_or_default();
        let mut answer = challenge.answer(challenge.identifier, SECRET, &challenge.bytes);
        if how & 1 != 0 {
            let at = usize::from(draw.u8()) % answer.len();
            answer[at] ^= 1 << (how >> 5);
        }
        let name = if how & 2 == 0 { USER } else { OWN_NAME };
        put_pair(text, "CHAP_N", name);
        put_pair(text, "CHAP_R", &hex(&answer));
        if how & 4 != 0 {
            let (identifier, bytes) = match how & 8 {
                0 => (OUR_IDENTIFIER.to_owned(), OUR_CHALLENGE.to_vec()),
                _ => (challenge.identifier.to_string(), challenge.bytes),
            };
            put_pair(text, "CHAP_I", &identifier);
            put_pair(text, "CHAP_C", &hex(&bytes));
        }
    }

    fn check(&mut self, header: &Header, data: &[u8]) {
        let asked = self.asked.take().expect("an answer to nothing");
        assert_ne!(self.stage, Stage::Over, "a word after the last one");
        if self.has_logged_out {
            assert_eq!((header[0], word(header, 16)), (0x26, LOGOUT_TAG));
            self.stage = Stage::Over;
            return;
        }
        assert_eq!(header[0], 0x23, "a login response");
        assert_eq!(
            (word(header, 16), &header[8..14]),
            (asked.tag, asked.isid.as_slice())
        );
        let status = word(header, 24);
        assert!(
            self.status.is_none_or(|before| before.wrapping_add(1) == status),
            "StatSN"
        );
        self.status = Some(status);
        assert!(is_onward(word(header, 28), word(header, 32)), "an open window");
        let flags = header[1];
        if header[36] != 0 {
            assert!(data.is_empty() && flags & 0x80 == 0 && (1..=3).contains(&header[36]));
            self.stage = Stage::Over;
            return;
        }
        assert_eq!(flags & 0x0c, asked.flags & 0x0c, "the stage of the request");
        assert_eq!(flags & 0x40, 0, "answers fit into one message");
        if asked.flags & 0x40 != 0 {
            return assert!(data.is_empty() && flags & 0x80 == 0, "the text was not complete");
        }
        self.check_pairs(&asked.pairs, data);
        self.introduction.get_or_insert(asked.pairs);
        if flags & 0x80 == 0 {
            return assert_eq!(flags & 3, 0, "a next stage without transit");
        }
        assert_eq!(flags & 0x83, asked.flags & 0x83, "the stage that was asked for");
        self.check_right();
        self.stage = match flags & 3 {
            1 => Stage::Operational,
            3 => Stage::Full,
            other => panic!("on to stage {other}"),
        };
        let session = u16::from_be_bytes([header[14], header[15]]);
        assert_eq!(session != 0, self.stage == Stage::Full, "a session has a number");
    }

    /// Whether the initiator may go on to another stage.
    fn check_right(&self) {
        assert!(
            self.proved || self.policy.account.is_none(),
            "on without authentication"
        );
        let said = self.introduction.as_deref().unwrap_or_default();
        let name = find(said, "InitiatorName").expect("an initiator without a name");
        let listed = &self.policy.initiators;
        assert!(
            listed.is_empty() || listed.iter().any(|known| known == name),
            "{name} is let in"
        );
        match find(said, "SessionType") {
            Some("Discovery") => {}
            kind => assert_eq!(
                (kind.unwrap_or("Normal"), find(said, "TargetName")),
                ("Normal", Some(TARGET))
            ),
        }
    }

    fn check_pairs(&mut self, asked: &[(String, String)], data: &[u8]) {
        assert!(Pairs::new(data).all(|pair| pair.is_ok()), "a list of pairs");
        let pairs = pairs_of(data);
        for (key, value) in &pairs {
            let unasked = matches!(key.as_str(), "TargetPortalGroupTag" | "MaxRecvDataSegmentLength");
            let in_turn = key.starts_with("CHAP_") && asked.iter().any(|(key, _)| key.starts_with("CHAP_"));
            assert!(
                unasked || in_turn || find(asked, key).is_some(),
                "{key}={value} to {asked:?}"
            );
        }
        for (key, used) in [
            ("HeaderDigest", &mut self.digests.header),
            ("DataDigest", &mut self.digests.data),
        ] {
            *used = find(&pairs, key).map_or(*used, |value| value == "CRC32C");
        }
        if let Some(challenge) = &self.challenge {
            let right = hex(&challenge.answer(challenge.identifier, SECRET, &challenge.bytes));
            self.proved |= (find(asked, "CHAP_N"), find(asked, "CHAP_R")) == (Some(USER), Some(&right));
        }
        // Outside the security stage the keys mean nothing.
        let known = |key| find(&pairs, key).filter(|value| *value != "NotUnderstood");
        if let Some(answer) = known("CHAP_R") {
            self.check_proof(asked, (find(&pairs, "CHAP_N"), answer));
        }
        if let Some(bytes) = known("CHAP_C") {
            assert!(self.policy.account.is_some(), "a challenge for nothing");
            let before = self.challenge.replace(Challenge {
                algorithm: find(&pairs, "CHAP_A").expect("an algorithm").to_owned(),
                identifier: find(&pairs, "CHAP_I")
                    .and_then(|text| text.parse().ok())
                    .expect("a byte"),
                bytes: from_hex(bytes),
            });
            assert!(before.is_none(), "a second try");
        }
    }

    /// The target shows that it knows its own secret.
    fn check_proof(&self, asked: &[(String, String)], (name, answer): (Option<&str>, &str)) {
        assert!(self.proved, "an answer for somebody who proved nothing");
        assert!(
            self.policy
                .account
                .as_ref()
                .is_some_and(|account| account.own.is_some())
        );
        let challenge = self.challenge.as_ref().expect("a challenge came before");
        let bytes = find(asked, "CHAP_C").expect("a challenge was sent");
        assert_ne!(bytes, hex(&challenge.bytes), "the challenge was its own");
        if (find(asked, "CHAP_I"), bytes) == (Some(OUR_IDENTIFIER), hex(OUR_CHALLENGE).as_str()) {
            let identifier = OUR_IDENTIFIER.parse().expect("a byte");
            let right = challenge.answer(identifier, OWN_SECRET, OUR_CHALLENGE);
            assert_eq!((name, answer), (Some(OWN_NAME), hex(&right).as_str()));
        }
    }

    fn log_out(&mut self) {
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (0x46, 0x80);
        put_word(&mut header, 16, LOGOUT_TAG);
        put_word(&mut header, 24, 5);
        self.asked = Some(Asked {
            flags: 0,
            tag: LOGOUT_TAG,
            isid: [0; 6],
            pairs: Vec::new(),
        });
        self.has_logged_out = true;
        put_message(&mut self.outgoing, header, &[], self.digests);
    }
}

impl Initiator for Guest {
    fn next_bytes(&mut self, most: usize) -> Option<Vec<u8>> {
        if self.outgoing.is_empty() {
            match self.stage {
                _ if self.asked.is_some() => return None,
                Stage::Over => return Some(Vec::new()),
                Stage::Full => self.log_out(),
                _ if self.steps.is_empty() || self.requests == MOST_REQUESTS => return Some(Vec::new()),
                _ => self.ask(),
            }
        }
        let piece = take_piece(&mut self.outgoing, most);
        self.moved += piece.len();
        Some(piece)
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.moved += bytes.len();
        self.incoming.extend_from_slice(bytes);
        let digests = |guest: &Self| match guest.has_logged_out {
            true => guest.digests,
            false => Digests::default(),
        };
        while let Some((header, data)) = {
            let used = digests(self);
            take_message(&mut self.incoming, used, 8192)
        } {
            self.check(&header, &data);
        }
    }

    fn moved(&self) -> usize {
        self.moved
    }
}
