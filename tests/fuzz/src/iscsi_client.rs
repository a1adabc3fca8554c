//! The initiator of the target `iscsi_server`: does what its script says, answers what the target asks, and checks every
//! message that it gets.

use crate::iscsi_pdu::{
    Digests, HEADER_BYTES, Header, NO_TAG, is_onward, put_message, put_word, take_message, take_piece, word,
};
use crate::iscsi_script::{Command, Manner, Script, Step};
use crate::iscsi_wire::Initiator;
use std::collections::BTreeMap;

const LOGIN_TAG: u32 = 0xfff0_0000;
const LOGOUT_TAG: u32 = 0xfff0_0001;

/// A command that is not answered.
#[derive(Debug)]
struct Open {
    command: Command,
    /// Bytes sent, and got.
    sent: usize,
    got: Vec<u8>,
    /// Messages of data and requests for data that came.
    pieces: u32,
}

/// What others are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Function,
    Echo(usize),
    Text,
}

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Login,
    Full,
    /// The logout is sent.
    Leaving,
    Over,
}

pub(crate) struct Client {
    script: Script,
    pub(crate) stage: Stage,
    moved: usize,
    /// What the target has sent, and what is to be sent.
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    open: BTreeMap<u32, Open>,
    asked: BTreeMap<u32, Asked>,
    tag: u32,
    number: u32,
    /// The status expected next, and the window.
    status: Option<u32>,
    expected: u32,
    last: u32,
    first_burst: usize,
    max_burst: usize,
    has_immediate: bool,
    asks_first: bool,
    /// The data of each command in the order of the answers; none if it was not carried out.
    pub(crate) answers: Vec<Option<Vec<u8>>>,
}

impl Client {
    pub(crate) fn new(script: Script) -> Self {
        let mut client = Self {
            script,
            stage: Stage::Login,
            moved: 0,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            open: BTreeMap::new(),
            asked: BTreeMap::new(),
            tag: 0,
            number: 1,
            status: None,
            expected: 1,
            last: 1,
            first_burst: 65_536,
            max_burst: 262_144,
            has_immediate: true,
            asks_first: true,
            answers: Vec::new(),
        };
        client.log_in();
        client
    }

    pub(crate) fn is_in_order(&self) -> bool {
        self.script.in_order
    }

    fn log_in(&mut self) {
        let mut text = Vec::new();
        let own = [
            "InitiatorName=iqn.2026-11.test:host".to_owned(),
            "TargetName=iqn.2026-11.dev.farside:disk0".to_owned(),
            "SessionType=Normal".to_owned(),
        ];
        for pair in own.iter().chain(&self.script.keys) {
            text.extend_from_slice(pair.as_bytes());
            text.push(0);
        }
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1], header[8], header[13]) = (0x43, 0x87, 0x80, 1);
        put_word(&mut header, 16, LOGIN_TAG);
        put_word(&mut header, 24, self.number);
        self.put(header, &text);
    }

    fn digests(&self) -> Digests {
        match self.stage {
            Stage::Login => Digests::default(),
            _ => self.script.digests,
        }
    }

    /// Appends a message.
    fn put(&mut self, header: Header, data: &[u8]) {
        let digests = self.digests();
        put_message(&mut self.outgoing, header, data, digests);
    }

    /// An initiator in order does not send what is outside the window.
    fn waits_for_window(&self) -> bool {
        self.is_in_order() && !is_onward(self.number, self.last)
    }

    fn numbered(&mut self, header: &mut Header) {
        put_word(header, 24, self.number);
        if header[0] & 0x40 == 0 {
            self.number = self.number.wrapping_add(1);
        }
    }

    fn next_tag(&mut self) -> u32 {
        self.tag += 1;
        self.tag
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Command(command) => self.command(command),
            Step::Manage(function, lun, back) => {
                let tag = self.next_tag();
                let mut header = [0; HEADER_BYTES];
                (header[0], header[1], header[9]) = (0x42, 0x80 | function, lun);
                put_word(&mut header, 16, tag);
                put_word(&mut header, 20, tag.wrapping_sub(1 + u32::from(back)));
                put_word(&mut header, 32, self.number.wrapping_sub(1 + u32::from(back % 8)));
                self.numbered(&mut header);
                self.asked.insert(tag, Asked::Function);
                self.put(header, &[]);
            }
            Step::Nop(data) => {
                let asked = Asked::Echo(data.len().min(self.script.segment_bytes));
                self.ask(0, asked, &data);
            }
            Step::Text(data) => self.ask(4, Asked::Text, &data),
            Step::SkipNumber => self.number = self.number.wrapping_add(1),
            Step::Message(mut header, data, looked_at) => {
                if looked_at {
                    header[0] = (header[0] & 0x40) | (header[0] % 7);
                    (header[4], header[9]) = (0, header[9] % 3);
                    self.numbered(&mut header);
                }
                self.put(header, &data);
            }
            Step::Noise(bytes) => self.outgoing.extend_from_slice(&bytes),
        }
    }

    /// Something else that is answered.
    fn ask(&mut self, opcode: u8, asked: Asked, data: &[u8]) {
        let tag = self.next_tag();
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (opcode, 0x80);
        put_word(&mut header, 16, tag);
        put_word(&mut header, 20, NO_TAG);
        self.numbered(&mut header);
        self.asked.insert(tag, asked);
        self.put(header, data);
    }

    fn command(&mut self, command: Command) {
        let tag = self.next_tag();
        let mut header = [0; HEADER_BYTES];
        let direction =
            if command.takes > 0 { 0x40 } else { 0 } | if command.gives.is_empty() { 0 } else { 0x20 };
        header[0] = if command.immediate { 0x41 } else { 0x01 };
        header[1] = direction | command.attribute;
        header[9] = command.lun;
        put_word(&mut header, 16, tag);
        let expected = command
            .takes
            .max(u32::try_from(command.gives.len()).expect("short"));
        put_word(&mut header, 20, expected);
        header[32..].copy_from_slice(&command.cdb);
        self.numbered(&mut header);
        let whole = command.gives.len();
        let unasked = if self.asks_first {
            0
        } else {
            whole.min(self.first_burst)
        };
        let immediate = match command.manner {
            _ if !self.has_immediate => 0,
            Manner::Pieces(bytes) => whole.min(bytes).min(self.first_burst),
            _ => whole.min(self.first_burst).min(4096),
        };
        let (data, manner) = (command.gives.clone(), command.manner);
        let follows = unasked > immediate;
        if !follows {
            header[1] |= 0x80;
        }
        let sent = immediate.max(unasked);
        let (got, pieces) = (Vec::new(), 0);
        self.open.insert(
            tag,
            Open {
                command,
                sent,
                got,
                pieces,
            },
        );
        self.put(header, &data[..immediate]);
        if follows {
            self.send_data((tag, NO_TAG), manner, immediate, &data[immediate..unasked]);
        }
    }

    /// Data of a command, from `offset` on.
    fn send_data(&mut self, (tag, transfer): (u32, u32), manner: Manner, offset: usize, data: &[u8]) {
        let mut offset = u32::try_from(offset).expect("short");
        let (piece_bytes, data) = match manner {
            Manner::Whole => (8192, data),
            Manner::Pieces(bytes) => (bytes, data),
            Manner::Never => return,
            Manner::Wrong(how) => {
                let less = data.len().saturating_sub(usize::from(how));
                offset = offset.wrapping_add(u32::from(how & 7) * 100);
                (1 + usize::from(how) * 8, &data[..less])
            }
        };
        let count = data.chunks(piece_bytes).count();
        for (number, piece) in (0..).zip(data.chunks(piece_bytes)) {
            let mut header = [0; HEADER_BYTES];
            (header[0], header[9]) = (5, 1);
            if number + 1 == count {
                header[1] = 0x80;
            }
            put_word(&mut header, 16, tag);
            put_word(&mut header, 20, transfer);
            put_word(&mut header, 36, u32::try_from(number).expect("few"));
            put_word(&mut header, 40, offset);
            offset = offset.wrapping_add(u32::try_from(piece.len()).expect("short"));
            self.put(header, piece);
        }
    }

    fn log_out(&mut self) {
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (0x46, 0x80);
        put_word(&mut header, 16, LOGOUT_TAG);
        self.numbered(&mut header);
        self.put(header, &[]);
        self.stage = Stage::Leaving;
    }

    /// Whether the last message is whole.
    pub(crate) fn has_all(&self) -> bool {
        self.incoming.is_empty()
    }

    fn next_message(&mut self) -> Option<(Header, Vec<u8>)> {
        let most = match self.stage {
            Stage::Login => 8192,
            _ => self.script.segment_bytes,
        };
        let digests = self.digests();
        take_message(&mut self.incoming, digests, most)
    }

    fn check(&mut self, header: &Header, data: &[u8]) {
        let (opcode, tag) = (header[0] & 0x3f, word(header, 16));
        self.check_numbers(header, opcode, tag);
        match opcode {
            0x20 if tag == NO_TAG => panic!("nobody was silent"),
            0x20 => self.echo(tag, data),
            0x21 => self.response(header, tag, data),
            0x22 => assert!(self.asked.remove(&tag).is_some() || !self.is_in_order()),
            0x23 => self.logged_in(header, data),
            0x24 => assert!(self.asked.get(&tag) == Some(&Asked::Text) || !self.is_in_order()),
            0x25 => self.data_in(header, tag, data),
            0x26 => {
                assert!(tag == LOGOUT_TAG || !self.is_in_order());
                assert!(self.open.is_empty() || !self.is_in_order());
                if tag == LOGOUT_TAG && header[2] == 0 {
                    self.stage = Stage::Over;
                }
            }
            0x31 => self.ready(header, tag),
            0x32 => panic!("the unit does not end"),
            0x3f => {
                assert!(!self.is_in_order(), "rejected for {}", header[2]);
                assert_eq!(data.len(), HEADER_BYTES, "what was rejected");
            }
            other => panic!("opcode {other:#x}"),
        }
    }

    fn check_numbers(&mut self, header: &Header, opcode: u8, tag: u32) {
        let is_status = match opcode {
            0x25 => header[1] & 1 != 0,
            0x31 => false,
            0x20 => tag != NO_TAG,
            _ => true,
        };
        if is_status {
            let status = word(header, 24);
            assert!(self.status.is_none_or(|expected| expected == status), "StatSN");
            self.status = Some(status.wrapping_add(1));
        }
        let (expected, last) = (word(header, 28), word(header, 32));
        assert!(is_onward(self.expected, expected), "ExpCmdSN goes back");
        assert!(is_onward(self.last, last), "MaxCmdSN goes back");
        assert!(
            last.wrapping_add(1).wrapping_sub(expected) <= 4096,
            "a window of {expected}..={last}"
        );
        if self.is_in_order() {
            assert!(is_onward(expected, self.number), "a number that was not sent");
        }
        (self.expected, self.last) = (expected, last);
    }

    fn logged_in(&mut self, header: &Header, data: &[u8]) {
        assert_eq!((self.stage, header[36]), (Stage::Login, 0), "the login failed");
        assert_eq!(header[1] & 0x83, 0x83, "in one step");
        for pair in data.split(|byte| *byte == 0) {
            let pair = std::str::from_utf8(pair).expect("text");
            let (key, value) = pair.split_once('=').unwrap_or(("", ""));
            let number = || value.parse().expect("a number");
            match key {
                "FirstBurstLength" => self.first_burst = number(),
                "MaxBurstLength" => self.max_burst = number(),
                "ImmediateData" => self.has_immediate = value == "Yes",
                "InitialR2T" => self.asks_first = value == "Yes",
                _ => {}
            }
        }
        self.stage = Stage::Full;
    }

    fn echo(&mut self, tag: u32, data: &[u8]) {
        match self.asked.remove(&tag) {
            Some(Asked::Echo(length)) => assert_eq!(data.len(), length),
            other => assert!(!self.is_in_order(), "{other:?} was asked"),
        }
    }

    /// The end of a command; without an answer if a function ended it.
    fn close(&mut self, tag: u32) -> Option<Open> {
        let open = self.open.remove(&tag);
        assert!(
            open.is_some() || !self.is_in_order(),
            "{tag} is answered twice, or was never sent"
        );
        open
    }

    fn response(&mut self, header: &Header, tag: u32, data: &[u8]) {
        let Some(open) = self.close(tag) else { return };
        let status = header[3];
        assert_eq!(
            status == 2,
            !data.is_empty(),
            "sense data comes with a check condition"
        );
        if status == 2 {
            let length = u16::from_be_bytes([data[0], data[1]]);
            assert_eq!(data.len(), 2 + usize::from(length));
            assert!(matches!(data[2] & 0x7f, 0x70 | 0x72), "a format of sense data");
        }
        if status == 0 && self.is_in_order() {
            self.check_residual(header, &open);
        }
        self.answers.push((status == 0).then_some(open.got));
    }

    fn check_residual(&self, header: &Header, open: &Open) {
        let count = word(header, 44) as usize;
        match header[1] & 6 {
            0 => assert!(open.got.len() == open.command.takes as usize || !open.command.gives.is_empty()),
            2 if open.command.gives.is_empty() => {
                assert_eq!(
                    open.got.len() + count,
                    open.command.takes as usize,
                    "underflow: {open:?}"
                );
            }
            2 => assert!(count <= open.command.gives.len()),
            4 => assert!(count > 0),
            _ => panic!("over and under"),
        }
    }

    fn data_in(&mut self, header: &Header, tag: u32, data: &[u8]) {
        let has_status = header[1] & 1 != 0;
        let Some(open) = self.open.get_mut(&tag) else {
            assert!(!self.script.in_order, "data that nobody asked for");
            return;
        };
        if self.script.in_order {
            assert_eq!(word(header, 36), open.pieces, "number of the data");
            assert_eq!(word(header, 40) as usize, open.got.len(), "place of the data");
        }
        open.pieces += 1;
        open.got.extend_from_slice(data);
        assert!(
            open.got.len() <= open.command.takes as usize || !self.script.in_order,
            "more than was expected"
        );
        if has_status && let Some(open) = self.close(tag) {
            assert_eq!((header[3], header[1] & 0x80), (0, 0x80));
            if self.is_in_order() {
                self.check_residual(header, &open);
            }
            self.answers.push(Some(open.got));
        }
    }

    /// The target asks for data.
    fn ready(&mut self, header: &Header, tag: u32) {
        let (transfer, offset, length) = (
            word(header, 20),
            word(header, 40) as usize,
            word(header, 44) as usize,
        );
        assert_ne!(transfer, NO_TAG);
        assert!(
            0 < length && length <= self.max_burst,
            "{length} bytes are asked for"
        );
        let Some(open) = self.open.get_mut(&tag) else {
            assert!(!self.script.in_order, "data of nobody is asked for");
            return;
        };
        let end = offset + length;
        if self.script.in_order {
            assert_eq!((offset, word(header, 36)), (open.sent, open.pieces));
            assert!(end <= open.command.gives.len());
        }
        open.sent = end;
        open.pieces += 1;
        let (manner, data) = (open.command.manner, open.command.gives.get(offset..end));
        let data = data.unwrap_or_default().to_vec();
        self.send_data((tag, transfer), manner, offset, &data);
    }
}

impl Initiator for Client {
    fn next_bytes(&mut self, most: usize) -> Option<Vec<u8>> {
        while self.outgoing.is_empty() {
            match self.stage {
                Stage::Login => return None,
                Stage::Full if self.waits_for_window() => return None,
                Stage::Full => match self.script.steps.pop_front() {
                    Some(step) => self.take_step(step),
                    None if self.is_in_order() && !(self.open.is_empty() && self.asked.is_empty()) => {
                        return None;
                    }
                    None => self.log_out(),
                },
                Stage::Leaving if self.is_in_order() => return None,
                Stage::Leaving | Stage::Over => return Some(Vec::new()),
            }
        }
        let piece = take_piece(&mut self.outgoing, most);
        self.moved += piece.len();
        Some(piece)
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.moved += bytes.len();
        self.incoming.extend_from_slice(bytes);
        while let Some((header, data)) = self.next_message() {
            self.check(&header, &data);
        }
    }

    fn moved(&self) -> usize {
        self.moved
    }
}
