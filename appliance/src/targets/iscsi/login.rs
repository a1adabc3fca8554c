//! The login phase (RFC 7143, sections 6 and 11.12): who is there, and what is spoken. No sockets, no clock.

use super::chap::{Account, Algorithm, Challenge, from_text, to_hex};
use super::limits::{LOGIN_REQUESTS, LOGIN_SEGMENT_BYTES, NAME_BYTES, SEGMENT_BYTES, TEXT_BYTES};
use super::parameters::{Answer, Parameters};
use super::sessions::Nexus;
use farside_protocol::iscsi::{Login as Request, LoginStatus, Pairs, Stage, put_pair};

/// Who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// What initiators have to know, if anything.
    pub account: Option<Account>,
    /// Names of initiators; all if there are none.
    pub initiators: Vec<String>,
}

/// How authentication stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    /// Nothing was said of it.
    Unknown,
    /// CHAP was agreed on.
    Chap,
    /// It has a challenge to answer.
    Challenged(Challenge),
    /// It is who it says.
    Proven,
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This text, and on to the next stage if there is one.
    Answer { text: Vec<u8>, next: Option<Stage> },
    /// The login ends.
    Refuse(LoginStatus, String),
}

/// A login under way.
#[derive(Debug)]
pub(super) struct Login<'a> {
    policy: &'a Policy,
    /// What the initiator said of itself.
    pub(super) initiator: Option<String>,
    /// The target it wants.
    pub(super) target: Option<String>,
    /// It wants to know targets only.
    pub(super) is_discovery: bool,
    /// What was agreed on.
    pub(super) parameters: Parameters,
    stage: Option<Stage>,
    identity: Identity,
    first: Option<([u8; 6], u16)>,
    text: Vec<u8>,
    requests: u32,
    has_said_segment: bool,
    has_said_group: bool,
}

type Outcome<T> = Result<T, (LoginStatus, String)>;

fn refuse<T>(status: LoginStatus, why: impl Into<String>) -> Outcome<T> {
    Err((status, why.into()))
}

impl<'a> Login<'a> {
    pub(super) fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            initiator: None,
            target: None,
            is_discovery: false,
            parameters: Parameters::default(),
            stage: None,
            identity: Identity::Unknown,
            first: None,
            text: Vec::new(),
            requests: 0,
            has_said_segment: false,
            has_said_group: false,
        }
    }

    /// Takes a request; `exists` says whether there is a target of a name.
    pub(super) fn step(&mut self, request: &Request, text: &[u8], exists: impl Fn(&str) -> bool) -> Step {
        match self.try_step(request, text, exists) {
            Ok((text, next)) => Step::Answer { text, next },
            Err((status, why)) => Step::Refuse(status, why),
        }
    }

    /// Whose session it is going to be.
    pub(super) fn nexus(&self) -> Nexus {
        Nexus {
            initiator: self.initiator.clone().unwrap_or_default(),
            isid: self.first.map(|(isid, _)| isid).unwrap_or_default(),
            target: self.target.clone(),
        }
    }

    fn try_step(
        &mut self,
        request: &Request,
        text: &[u8],
        exists: impl Fn(&str) -> bool,
    ) -> Outcome<(Vec<u8>, Option<Stage>)> {
        self.check_request(request)?;
        if self.text.len() + text.len() > TEXT_BYTES {
            return refuse(LoginStatus::InitiatorError, "more text than a login can have");
        }
        self.text.extend_from_slice(text);
        if request.continues {
            if request.transit {
                return refuse(LoginStatus::InitiatorError, "text that goes on in another stage");
            }
            return Ok((Vec::new(), None));
        }
        let text = std::mem::take(&mut self.text);
        let pairs: Vec<(&str, &str)> = Pairs::new(&text)
            .collect::<Result<_, _>>()
            .or_else(|error| refuse(LoginStatus::InitiatorError, error.to_string()))?;
        let mut out = Vec::new();
        let is_first = self.initiator.is_none();
        self.introduce(&pairs, is_first, exists)?;
        if !self.has_said_group && self.target.is_some() {
            self.has_said_group = true;
            put_pair(&mut out, "TargetPortalGroupTag", "1");
        }
        match request.current {
            Stage::Security => self.authenticate(&pairs, &mut out)?,
            _ => self.negotiate(&pairs, &mut out)?,
        }
        // Answers can be several times as long as what they answer; the initiator takes no more before it has said so.
        if out.len() > LOGIN_SEGMENT_BYTES as usize {
            return refuse(
                LoginStatus::InitiatorError,
                "more keys than one answer has room for",
            );
        }
        let next = self.next_stage(request)?;
        Ok((out, next))
    }

    /// What has to hold of every request.
    fn check_request(&mut self, request: &Request) -> Outcome<()> {
        self.requests += 1;
        if self.requests > LOGIN_REQUESTS {
            return refuse(LoginStatus::InitiatorError, "a login that does not end");
        }
        if request.versions.1 > 0 {
            return refuse(LoginStatus::Version, "another version of the protocol");
        }
        let identity = (request.isid, request.tsih);
        if *self.first.get_or_insert(identity) != identity {
            return refuse(
                LoginStatus::InitiatorError,
                "a session that changes during its login",
            );
        }
        if !matches!(request.current, Stage::Security | Stage::Operational) {
            return refuse(LoginStatus::InitiatorError, "a stage that a login does not have");
        }
        let stage = *self.stage.get_or_insert(request.current);
        if stage != request.current {
            return refuse(LoginStatus::InitiatorError, "a stage that was not agreed on");
        }
        if stage == Stage::Operational && self.has_to_prove_itself() {
            return refuse(LoginStatus::AuthenticationFailure, "no authentication");
        }
        Ok(())
    }

    fn has_to_prove_itself(&self) -> bool {
        self.policy.account.is_some() && self.identity != Identity::Proven
    }

    /// The keys that say who wants what (sections 13.3 to 13.8 and 13.21).
    fn introduce(
        &mut self,
        pairs: &[(&str, &str)],
        is_first: bool,
        exists: impl Fn(&str) -> bool,
    ) -> Outcome<()> {
        let find = |key: &str| {
            pairs
                .iter()
                .find(|(known, _)| *known == key)
                .map(|(_, value)| *value)
        };
        if !is_first {
            return Ok(());
        }
        match find("InitiatorName") {
            None => return refuse(LoginStatus::MissingParameter, "no InitiatorName"),
            Some(name) if name.is_empty() || name.len() > NAME_BYTES => {
                return refuse(LoginStatus::InitiatorError, "an InitiatorName that is no name");
            }
            Some(name) => self.initiator = Some(name.to_owned()),
        }
        self.is_discovery = match find("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return refuse(LoginStatus::SessionType, "no such type of session"),
        };
        let initiator = self.initiator.as_deref().unwrap_or_default();
        let allowed = &self.policy.initiators;
        if !allowed.is_empty() && !allowed.iter().any(|known| known == initiator) {
            return refuse(
                LoginStatus::Forbidden,
                format!("initiator {initiator:?} is not on the list"),
            );
        }
        if self.is_discovery {
            return Ok(());
        }
        match find("TargetName") {
            None => refuse(LoginStatus::MissingParameter, "no TargetName"),
            Some(name) if !exists(name) => refuse(LoginStatus::NotFound, format!("no target {name:?}")),
            Some(name) => {
                self.target = Some(name.to_owned());
                Ok(())
            }
        }
    }

    /// The security stage (section 12).
    fn authenticate(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Outcome<()> {
        let find = |key: &str| {
            pairs
                .iter()
                .find(|(known, _)| *known == key)
                .map(|(_, value)| *value)
        };
        if let Some(methods) = find("AuthMethod") {
            let wanted = if self.policy.account.is_some() {
                "CHAP"
            } else {
                "None"
            };
            if !methods.split(',').any(|method| method == wanted) {
                return refuse(
                    LoginStatus::AuthenticationFailure,
                    format!("AuthMethod {methods:?} does not offer {wanted}"),
                );
            }
            put_pair(out, "AuthMethod", wanted);
            if wanted == "CHAP" && self.identity == Identity::Unknown {
                self.identity = Identity::Chap;
            }
        }
        if let (Identity::Chap, Some(list)) = (&self.identity, find("CHAP_A")) {
            self.challenge(list, out)?;
        } else if let (Identity::Challenged(challenge), Some(name), Some(response)) =
            (self.identity.clone(), find("CHAP_N"), find("CHAP_R"))
        {
            self.judge(
                &challenge,
                (name, response),
                (find("CHAP_I"), find("CHAP_C")),
                out,
            )?;
        } else if pairs.iter().any(|(key, _)| key.starts_with("CHAP_")) {
            return refuse(LoginStatus::AuthenticationFailure, "CHAP out of its order");
        }
        self.refuse_unknown(pairs, out)
    }

    fn challenge(&mut self, list: &str, out: &mut Vec<u8>) -> Outcome<()> {
        let Some(algorithm) = Algorithm::choose(list) else {
            return refuse(
                LoginStatus::AuthenticationFailure,
                format!("CHAP_A {list:?} has neither 5 (MD5) nor 7 (SHA-256)"),
            );
        };
        let Some(challenge) = Challenge::new(algorithm) else {
            return refuse(LoginStatus::TargetError, "the system has no randomness");
        };
        put_pair(out, "CHAP_A", algorithm.code());
        put_pair(out, "CHAP_I", &challenge.identifier.to_string());
        put_pair(out, "CHAP_C", &to_hex(&challenge.bytes));
        self.identity = Identity::Challenged(challenge);
        Ok(())
    }

    /// The initiator's answer, and ours if it asks.
    fn judge(
        &mut self,
        challenge: &Challenge,
        (name, response): (&str, &str),
        asked: (Option<&str>, Option<&str>),
        out: &mut Vec<u8>,
    ) -> Outcome<()> {
        let Some(account) = &self.policy.account else {
            return refuse(LoginStatus::TargetError, "a challenge without an account");
        };
        let right = from_text(response).is_some_and(|bytes| challenge.is_answered(&account.secret, &bytes));
        // Both are looked at in any case: an answer tells nothing about names.
        if !right || name != account.user {
            return refuse(
                LoginStatus::AuthenticationFailure,
                format!("CHAP as {name:?} failed"),
            );
        }
        if asked != (None, None) {
            let (Some(identifier), Some(bytes)) = (
                asked.0.and_then(|text| text.parse::<u8>().ok()),
                asked.1.and_then(from_text),
            ) else {
                return refuse(LoginStatus::InitiatorError, "a challenge that is none");
            };
            // Whoever sends a challenge back wants it answered by somebody else (section 9.2.1).
            if bytes == challenge.bytes {
                return refuse(LoginStatus::AuthenticationFailure, "the challenge was sent back");
            }
            let Some((own, secret)) = &account.own else {
                return refuse(
                    LoginStatus::AuthenticationFailure,
                    "the initiator wants mutual CHAP, for which nothing is configured",
                );
            };
            put_pair(out, "CHAP_N", own);
            let response = challenge.algorithm.response(identifier, secret, &bytes);
            put_pair(out, "CHAP_R", &to_hex(&response));
        }
        self.identity = Identity::Proven;
        Ok(())
    }

    /// Keys of a stage that nobody knows are answered all the same (section 6.2).
    fn refuse_unknown(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Outcome<()> {
        for (key, value) in pairs {
            if is_introduction(key) || *key == "AuthMethod" || key.starts_with("CHAP_") {
                continue;
            }
            self.negotiate_one(key, value, out)?;
        }
        Ok(())
    }

    fn negotiate(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Outcome<()> {
        for (key, value) in pairs {
            if !is_introduction(key) {
                self.negotiate_one(key, value, out)?;
            }
        }
        if !self.has_said_segment {
            self.has_said_segment = true;
            put_pair(out, "MaxRecvDataSegmentLength", &SEGMENT_BYTES.to_string());
        }
        Ok(())
    }

    fn negotiate_one(&mut self, key: &str, value: &str, out: &mut Vec<u8>) -> Outcome<()> {
        match self.parameters.negotiate(key, value) {
            Answer::Nothing => {}
            Answer::Value(value) => put_pair(out, key, &value),
            Answer::Again => {
                return refuse(LoginStatus::InitiatorError, format!("{key} negotiated twice"));
            }
        }
        Ok(())
    }

    /// Where the login goes from here, if the initiator wants on and may.
    fn next_stage(&mut self, request: &Request) -> Outcome<Option<Stage>> {
        if !request.transit {
            return Ok(None);
        }
        let next = match (request.current, request.next) {
            (Stage::Security, next @ (Stage::Operational | Stage::FullFeature))
            | (Stage::Operational, next @ Stage::FullFeature) => next,
            _ => return refuse(LoginStatus::InitiatorError, "a stage that does not come next"),
        };
        if self.has_to_prove_itself() {
            // It may have more to say: with CHAP agreed on, the next message is its.
            return match self.identity {
                Identity::Unknown => refuse(LoginStatus::AuthenticationFailure, "no authentication"),
                _ => Ok(None),
            };
        }
        self.stage = Some(next);
        if next == Stage::FullFeature {
            self.parameters.finish();
        }
        Ok(Some(next))
    }
}

fn is_introduction(key: &str) -> bool {
    matches!(
        key,
        "InitiatorName" | "InitiatorAlias" | "SessionType" | "TargetName" | "TargetAlias"
    )
}
