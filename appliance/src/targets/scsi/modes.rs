//! MODE SENSE and MODE SELECT (SPC-4, sections 6.9 to 6.12 and 7.5; SBC-3, section 6.4).
//!
//! Three things can be changed, for all initiators and until the unit is started again: the write cache (without it each write
//! is durable before its answer), software write protection, the format of sense data.

use super::answer::Answer;
use super::limits::BLOCK_BYTES;
use bytes::BufMut;
use farside_protocol::scsi::{Additional, Sense};

/// What an initiator can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Modes {
    /// Writes are answered when they are in the journal, and durable when the cache is synchronised (WCE).
    pub(super) write_cache: bool,
    /// Nothing may be written (SWP).
    pub(super) write_protected: bool,
    /// Sense data consists of descriptors (D_SENSE).
    pub(super) descriptor_sense: bool,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            write_cache: true,
            write_protected: false,
            descriptor_sense: false,
        }
    }
}

/// Pages in their order: code, and bytes that follow the first two.
const PAGES: [(u8, usize); 5] = [(0x01, 10), (0x02, 14), (0x08, 18), (0x0a, 10), (0x1c, 10)];
/// All of them.
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;
/// Values of the page control field.
const CHANGEABLE: u8 = 1;
const DEFAULT: u8 = 2;
const SAVED: u8 = 3;

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;

/// A MODE SENSE.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) long: bool,
    pub(super) no_descriptor: bool,
    pub(super) control: u8,
    pub(super) page: u8,
    pub(super) subpage: u8,
    pub(super) allocation: u32,
}

/// The pages as they are with these settings.
fn page(code: u8, length: usize, modes: Modes) -> Vec<u8> {
    let mut data = vec![code, u8::try_from(length).unwrap_or(u8::MAX)];
    data.resize(length + 2, 0);
    let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    match (code, data.as_mut_slice()) {
        (0x08, [_, _, flags, ..]) => *flags = flag(modes.write_cache, WCE),
        (0x0a, [_, _, flags, queue, protection, ..]) => {
            *flags = flag(modes.descriptor_sense, D_SENSE);
            // Commands are reordered without restriction: an initiator waits for what has to come first.
            *queue = 0x10;
            *protection = flag(modes.write_protected, SWP);
        }
        _ => {}
    }
    data
}

/// What of a page can be changed.
fn mask(code: u8, length: usize) -> Vec<u8> {
    let mut data = vec![code, u8::try_from(length).unwrap_or(u8::MAX)];
    data.resize(length + 2, 0);
    match (code, data.as_mut_slice()) {
        (0x08, [_, _, flags, ..]) => *flags = WCE,
        (0x0a, [_, _, flags, _, protection, ..]) => (*flags, *protection) = (D_SENSE, SWP),
        _ => {}
    }
    data
}

/// Answers MODE SENSE of a disk with so many blocks.
pub(super) fn sense(modes: Modes, wanted: Wanted, blocks: u64, read_only: bool) -> Answer {
    if wanted.control == SAVED {
        return Answer::check(Sense::illegal(Additional::SavingParametersNotSupported));
    }
    if !matches!((wanted.page, wanted.subpage), (_, 0) | (ALL_PAGES, ALL_SUBPAGES)) {
        return Answer::check(Sense::in_command(3, Some(7)));
    }
    let mut pages = Vec::new();
    for (code, length) in PAGES {
        if wanted.page == code || wanted.page == ALL_PAGES {
            pages.extend(match wanted.control {
                CHANGEABLE => mask(code, length),
                DEFAULT => page(code, length, Modes::default()),
                _ => page(code, length, modes),
            });
        }
    }
    if pages.is_empty() {
        return Answer::check(Sense::in_command(2, Some(5)));
    }
    let descriptor = if wanted.no_descriptor {
        Vec::new()
    } else {
        descriptor(blocks)
    };
    // Write protection; DPO and FUA are understood.
    let device = 0x10
        | if read_only || modes.write_protected {
            0x80
        } else {
            0
        };
    let mut data = Vec::new();
    let descriptor_bytes = u8::try_from(descriptor.len()).unwrap_or(0);
    let following = descriptor.len() + pages.len();
    if wanted.long {
        data.put_u16(u16::try_from(following + 6).unwrap_or(u16::MAX));
        data.extend_from_slice(&[0, device, 0, 0, 0, descriptor_bytes]);
    } else {
        let length = u8::try_from(following + 3).unwrap_or(u8::MAX);
        data.extend_from_slice(&[length, 0, device, descriptor_bytes]);
    }
    data.extend(descriptor);
    data.extend(pages);
    Answer::cut(data, wanted.allocation)
}

fn descriptor(blocks: u64) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(u32::try_from(blocks).unwrap_or(u32::MAX));
    data.put_u32(BLOCK_BYTES);
    data
}

/// What MODE SELECT with these parameters would make of the settings.
pub(super) fn select(modes: Modes, long: bool, parameters: &[u8], blocks: u64) -> Result<Modes, Sense> {
    const SHORT: Sense = Sense::illegal(Additional::ParameterListLengthError);
    if parameters.is_empty() {
        return Ok(modes);
    }
    let header_bytes = if long { 8 } else { 4 };
    let (header, rest) = parameters.split_at_checked(header_bytes).ok_or(SHORT)?;
    let descriptor_bytes = match *header {
        [_, _, _, length] => usize::from(length),
        [_, _, _, _, _, _, high, low] => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    let (given, mut rest) = rest.split_at_checked(descriptor_bytes).ok_or(SHORT)?;
    check_descriptor(given, blocks, header_bytes)?;
    let mut wanted = modes;
    while let [code, length, ..] = *rest {
        let at = parameters.len() - rest.len();
        let (given, after) = rest.split_at_checked(usize::from(length) + 2).ok_or(SHORT)?;
        apply(&mut wanted, code & 0x3f, given, at)?;
        rest = after;
    }
    if rest.is_empty() { Ok(wanted) } else { Err(SHORT) }
}

/// Blocks stay as long as they are; how many there are need not be said.
fn check_descriptor(given: &[u8], blocks: u64, at: usize) -> Result<(), Sense> {
    let wrong = |byte: usize| {
        Err(Sense::in_parameters(
            u16::try_from(at + byte).unwrap_or(u16::MAX),
            None,
        ))
    };
    match *given {
        [] => Ok(()),
        [b0, b1, b2, b3, _, l1, l2, l3] => {
            let count = u32::from_be_bytes([b0, b1, b2, b3]);
            let own = u32::try_from(blocks).unwrap_or(u32::MAX);
            if count != 0 && count != own {
                return wrong(0);
            }
            if u32::from_be_bytes([0, l1, l2, l3]) != BLOCK_BYTES {
                return wrong(5);
            }
            Ok(())
        }
        _ => Err(Sense::illegal(Additional::ParameterListLengthError)),
    }
}

/// Takes one page over, in which only what is changeable may differ.
fn apply(modes: &mut Modes, code: u8, given: &[u8], at: usize) -> Result<(), Sense> {
    let wrong = |byte: usize| Sense::in_parameters(u16::try_from(at + byte).unwrap_or(u16::MAX), None);
    let known = PAGES.iter().find(|(known, _)| *known == code);
    let (_, length) = *known.ok_or_else(|| wrong(0))?;
    if given.len() != length + 2 {
        return Err(wrong(1));
    }
    let (now, mask) = (page(code, length, *modes), mask(code, length));
    for (byte, ((given, now), mask)) in given.iter().zip(&now).zip(&mask).enumerate().skip(2) {
        if (given ^ now) & !mask != 0 {
            return Err(wrong(byte));
        }
    }
    match (code, given) {
        (0x08, [_, _, flags, ..]) => modes.write_cache = flags & WCE != 0,
        (0x0a, [_, _, flags, _, protection, ..]) => {
            modes.descriptor_sense = flags & D_SENSE != 0;
            modes.write_protected = protection & SWP != 0;
        }
        _ => {}
    }
    Ok(())
}
