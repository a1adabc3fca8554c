//! What the initiator of the target `iscsi_server` is going to do, decided by the input before it begins.

use crate::draw::Draw;
use crate::iscsi_pdu::Digests;
use crate::small_disk::DISK_BYTES;
use std::collections::VecDeque;

/// Most steps of one session: enough to go around the command window.
const MOST_STEPS: usize = 300;
const BLOCKS: u64 = DISK_BYTES as u64 / 512;

/// How data that is asked for is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// All at once.
    Whole,
    /// In pieces of so many bytes.
    Pieces(usize),
    /// At another place than was asked for, or too little of it: the command fails.
    Wrong(u8),
    /// Not at all.
    Never,
}

/// A command.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) lun: u8,
    pub(crate) attribute: u8,
    pub(crate) immediate: bool,
    pub(crate) cdb: [u8; 16],
    /// Bytes that it takes and gives.
    pub(crate) takes: u32,
    pub(crate) gives: Vec<u8>,
    pub(crate) manner: Manner,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Command(Command),
    /// Function, unit, how many commands back the one is that it is about.
    Manage(u8, u8, u8),
    Nop(Vec<u8>),
    Text(Vec<u8>),
    /// Goes on without a number.
    SkipNumber,
    /// A message that is anything; with `true` its opcode and number are such that it is looked at.
    Message([u8; 48], Vec<u8>, bool),
    /// No message at all.
    Noise(Vec<u8>),
}

/// All of a session.
#[derive(Debug)]
pub(crate) struct Script {
    /// Further keys of the login.
    pub(crate) keys: Vec<String>,
    pub(crate) digests: Digests,
    /// Longest data segment that the initiator takes.
    pub(crate) segment_bytes: usize,
    pub(crate) steps: VecDeque<Step>,
    /// Nothing in it is against the rules, and nothing aborts commands: each is answered.
    pub(crate) in_order: bool,
}

impl Script {
    /// These steps, and nothing particular.
    pub(crate) fn plain(steps: VecDeque<Step>) -> Self {
        Self {
            keys: vec!["MaxRecvDataSegmentLength=262144".to_owned()],
            digests: Digests::default(),
            segment_bytes: 262_144,
            steps,
            in_order: true,
        }
    }

    pub(crate) fn from(draw: &mut Draw<'_>) -> Self {
        let how = draw.u8();
        let segment_bytes = [512, 8192, 4096, 262_144][usize::from(how >> 6)];
        let digests = Digests {
            header: how & 1 != 0,
            data: how & 2 != 0,
        };
        let digest = |used: bool| if used { "CRC32C" } else { "None" };
        let mut script = Self {
            keys: vec![
                format!("HeaderDigest={}", digest(digests.header)),
                format!("DataDigest={}", digest(digests.data)),
                format!("MaxRecvDataSegmentLength={segment_bytes}"),
            ],
            digests,
            segment_bytes,
            steps: VecDeque::new(),
            in_order: true,
        };
        let yes = |no: bool| if no { "No" } else { "Yes" };
        script.keys.push(format!("ImmediateData={}", yes(how & 4 != 0)));
        script.keys.push(format!("InitialR2T={}", yes(how & 8 != 0)));
        if how & 16 != 0 {
            script.keys.push("FirstBurstLength=1024".to_owned());
            script.keys.push("MaxBurstLength=2048".to_owned());
        }
        while !draw.is_empty() && script.steps.len() < MOST_STEPS {
            let step = script.step(draw);
            script.steps.push_back(step);
        }
        script
    }

    fn step(&mut self, draw: &mut Draw<'_>) -> Step {
        let how = draw.u8();
        match how {
            0..=199 => Step::Command(self.command(draw, how)),
            200..=215 => {
                self.in_order = false;
                Step::Manage(how % 10, draw.u8() % 3, draw.u8())
            }
            216..=223 => Step::Nop(vec![how; usize::from(draw.u8())]),
            224..=231 => {
                let length = usize::from(draw.u8());
                self.in_order = false;
                Step::Text(draw.bytes(length).to_vec())
            }
            232..=235 => {
                self.in_order = false;
                Step::SkipNumber
            }
            236..=250 => {
                self.in_order = false;
                let mut header = [0; 48];
                let taken = draw.bytes(48);
                header[..taken.len()].copy_from_slice(taken);
                Step::Message(
                    header,
                    vec![how; usize::from(draw.u8()) * 4],
                    how.is_multiple_of(2),
                )
            }
            _ => {
                self.in_order = false;
                let length = usize::from(draw.u8());
                Step::Noise(draw.bytes(length).to_vec())
            }
        }
    }

    fn command(&mut self, draw: &mut Draw<'_>, how: u8) -> Command {
        let (cdb, takes, gives) = command_block(draw, how);
        let manners = draw.u8();
        let manner = match manners & 15 {
            0..=9 => Manner::Whole,
            10..=12 => Manner::Pieces(512 << (manners & 3)),
            13 => Manner::Wrong(draw.u8()),
            14 => Manner::Pieces(usize::from(draw.u8()) + 1),
            _ => Manner::Never,
        };
        if matches!(manner, Manner::Wrong(_) | Manner::Never) && gives > 0 {
            self.in_order = false;
        }
        let fill = draw.u8();
        let mut data = vec![fill; gives];
        if manners & 0x10 != 0 {
            let drawn = draw.bytes(gives.min(64));
            data[..drawn.len()].copy_from_slice(drawn);
        }
        Command {
            lun: if manners & 0xe0 == 0xe0 { fill % 3 } else { 1 },
            attribute: if manners & 0xe0 == 0x20 { 2 } else { 1 },
            // Few at a time are taken, so this is not in order.
            immediate: manners & 0xe0 == 0x40 && !self.in_order,
            cdb,
            takes,
            gives: data,
            manner,
        }
    }
}

/// A command descriptor block, the bytes that come, and those that go.
fn command_block(draw: &mut Draw<'_>, how: u8) -> ([u8; 16], u32, usize) {
    const TEN: [u8; 10] = [0x28, 0x2a, 0x2e, 0x2f, 0x35, 0x41, 0x42, 0x34, 0x5e, 0x5f];
    const SIXTEEN: [u8; 8] = [0x88, 0x8a, 0x8e, 0x8f, 0x89, 0x8b, 0x93, 0x9e];
    const OTHERS: [u8; 12] = [
        0x00, 0x03, 0x12, 0x1a, 0x15, 0x25, 0xa0, 0xa3, 0x1b, 0x16, 0x17, 0x5a,
    ];
    let mut cdb = [0; 16];
    let lba = if how & 1 == 0 {
        draw.below(BLOCKS)
    } else {
        draw.near(BLOCKS)
    };
    let blocks = u16::from(draw.u8() % 40);
    let flags = draw.u8();
    let bytes = usize::from(blocks) * 512;
    match how {
        0..=119 => {
            cdb[0] = TEN[usize::from(how / 2) % TEN.len()];
            cdb[2..6].copy_from_slice(&u32::try_from(lba).unwrap_or(u32::MAX).to_be_bytes());
            cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        }
        120..=159 => {
            cdb[0] = SIXTEEN[usize::from(how / 2) % SIXTEEN.len()];
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&u32::from(blocks).to_be_bytes());
        }
        _ => cdb[0] = OTHERS[usize::from(how) % OTHERS.len()],
    }
    if how & 64 != 0 {
        cdb[1] = flags;
    }
    let (takes, gives) = match cdb[0] {
        0x28 | 0x88 => (bytes, 0),
        0x2a | 0x2e | 0x8a | 0x8e | 0x8b => (0, bytes),
        0x89 => {
            cdb[10..13].fill(0);
            (0, bytes * 2)
        }
        0x2f | 0x8f => (0, if cdb[1] & 6 == 2 { bytes } else { 0 }),
        0x41 | 0x93 => (0, if cdb[1] & 1 == 0 { 512 } else { 0 }),
        0x42 | 0x15 => {
            let length = draw.u8();
            cdb[if cdb[0] == 0x42 { 8 } else { 4 }] = length;
            cdb[7] = 0;
            (0, usize::from(length))
        }
        0x5f => {
            (cdb[1], cdb[2]) = (flags % 9, flags >> 4);
            cdb[3..10].copy_from_slice(&[0, 0, 0, 0, 0, 24, 0]);
            (0, 24)
        }
        0x34 | 0x35 | 0x16 | 0x17 | 0x1b | 0x00 => (0, 0),
        _ => {
            if matches!(cdb[0], 0x9e | 0xa3) {
                cdb[1] = [0x10, 0x12, 0x0c, 0x0d][usize::from(flags & 3)];
            }
            cdb[2] |= flags & 0x3f;
            cdb[4..14].iter_mut().step_by(3).for_each(|byte| *byte = 200);
            (255, 0)
        }
    };
    // Sometimes the initiator expects another length than the command has.
    match flags {
        251 => (cdb, u32::try_from(takes).unwrap_or(0) / 2, gives / 2),
        252 if takes > 0 => (cdb, u32::try_from(takes).unwrap_or(0) + 512, gives),
        253 if gives > 0 => (cdb, 0, gives + 512),
        _ => (cdb, u32::try_from(takes).unwrap_or(0), gives),
    }
}
