//! INQUIRY (SPC-4, section 6.6) and the pages of vital product data (section 7.8; SBC-3, section 6.5).

use super::answer::Answer;
use super::limits::{
    BLOCK_BYTES, COMPARE_BLOCKS, GRANULARITY_BLOCKS, OPTIMAL_BLOCKS, TRANSFER_BLOCKS, UNMAP_RANGES,
    WRITE_SAME_BLOCKS,
};
use bytes::BufMut;
use farside_protocol::scsi::Sense;

/// Eight bytes of T10 vendor identification.
const VENDOR: &[u8; 8] = b"FARSIDE ";
const PRODUCT: &[u8; 16] = b"Volume          ";
/// Standards: SAM-5, iSCSI, SPC-4, SBC-3, all without a version.
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];
/// What there is when a logical unit does not exist: qualifier 3, type 1Fh.
const NO_UNIT: u8 = 0x7f;
/// The pages, which have to be listed in order.
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// What a logical unit is called.
pub(super) struct Identity<'a> {
    /// The volume's identity, which never changes.
    pub(super) uuid: &'a [u8; 16],
    /// The name of the target it is in.
    pub(super) target: &'a str,
    /// Its number there.
    pub(super) lun: u16,
}

impl Identity<'_> {
    /// The unit serial number: the volume's identity.
    fn serial(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An NAA designator that the unit assigns itself (format 3): 60 bits of the volume's identity.
    fn locally_assigned(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, _, _, _, g, h, ..] = *self.uuid;
        [0x30 | (a & 0xf), b, c, d, e, f, g, h]
    }
}

/// Standard data, or a page.
pub(super) fn inquire(identity: &Identity<'_>, page: Option<u8>, allocation: u32) -> Answer {
    let data = match page {
        None => Some(standard(0)),
        Some(page) => product_data(identity, page),
    };
    data.map_or_else(
        || Answer::check(Sense::in_command(2, Some(7))),
        |data| Answer::cut(data, allocation),
    )
}

/// The same for a number that no unit has: the target is there all the same.
pub(in crate::targets) fn inquire_nothing(page: Option<u8>, allocation: u32) -> Answer {
    match page {
        None => Answer::cut(standard(NO_UNIT), allocation),
        Some(0) => Answer::cut(vec![NO_UNIT, 0, 0, 1, 0], allocation),
        Some(_) => Answer::check(Sense::in_command(2, Some(7))),
    }
}

fn standard(device: u8) -> Vec<u8> {
    // SPC-4; the format of this data with hierarchical numbers; commands are queued.
    let mut data = vec![device, 0, 6, 0x12, 0, 0, 0, 0x02];
    data.extend_from_slice(VENDOR);
    data.extend_from_slice(PRODUCT);
    let mut revision = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
    revision.resize(4, b' ');
    data.extend_from_slice(&revision);
    data.resize(58, 0);
    VERSIONS.iter().for_each(|version| data.put_u16(*version));
    data.resize(96, 0);
    let following = u8::try_from(data.len() - 5).unwrap_or(u8::MAX);
    if let [_, _, _, _, length, ..] = data.as_mut_slice() {
        *length = following;
    }
    data
}

fn product_data(identity: &Identity<'_>, page: u8) -> Option<Vec<u8>> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => identity.serial().into_bytes(),
        0x83 => identification(identity),
        0x86 => extended(),
        0xb0 => block_limits(),
        // It does not turn.
        0xb1 => padded(vec![0, 1], 60),
        // Unmapping with UNMAP and both WRITE SAME, and unmapped blocks read as zeroes; thin provisioned.
        0xb2 => vec![0, 0b1110_0100, 2, 0],
        _ => return None,
    };
    let length = u16::try_from(body.len()).ok()?;
    let mut data = vec![0, page];
    data.put_u16(length);
    data.extend_from_slice(&body);
    Some(data)
}

fn padded(mut data: Vec<u8>, length: usize) -> Vec<u8> {
    data.resize(length, 0);
    data
}

/// Names of the unit and of the port (SPC-4, section 7.8.6).
fn identification(identity: &Identity<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    // Of the unit: NAA, assigned by the unit itself; what the vendor calls it; the name as SCSI has it.
    designator(&mut data, (1, 0x03), &identity.locally_assigned());
    let vendor_name = [VENDOR.as_slice(), identity.serial().as_bytes()].concat();
    designator(&mut data, (2, 0x01), &vendor_name);
    let name = format!("{},L,0x{:016x}", identity.target, u64::from(identity.lun) << 48);
    designator(&mut data, (3, 0x08), &terminated(&name));
    // Of the port: its number in the target, and its name; bit 7 says that iSCSI is what it speaks.
    designator(&mut data, (1, 0x94), &[0, 0, 0, 1]);
    designator(
        &mut data,
        (3, 0x98),
        &terminated(&format!("{},t,0x0001", identity.target)),
    );
    data
}

/// Text that ends with a zero byte and is a multiple of four long.
pub(super) fn terminated(text: &str) -> Vec<u8> {
    let length = (text.len() + 1).next_multiple_of(4);
    padded(text.as_bytes().to_vec(), length)
}

/// One designator: code set, then association and type; for those that name a protocol it is iSCSI.
fn designator(data: &mut Vec<u8>, (code_set, kind): (u8, u8), name: &[u8]) {
    let protocol = if kind & 0x80 != 0 { 0x50 } else { 0 };
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    data.extend_from_slice(&[protocol | code_set, kind, 0, length]);
    data.extend_from_slice(&name[..usize::from(length)]);
}

fn extended() -> Vec<u8> {
    // Attributes simple, ordered and head of queue are known; there is a volatile cache.
    padded(vec![0, 0x07, 0x01], 60)
}

fn block_limits() -> Vec<u8> {
    // WRITE SAME with 0 blocks does nothing and is refused.
    let mut data = vec![0x01, COMPARE_BLOCKS];
    data.put_u16(GRANULARITY_BLOCKS);
    data.put_u32(TRANSFER_BLOCKS);
    data.put_u32(OPTIMAL_BLOCKS);
    data.put_u32(0);
    // UNMAP: ranges of any length.
    data.put_u32(u32::MAX);
    data.put_u32(UNMAP_RANGES);
    data.put_u32(u32::from(GRANULARITY_BLOCKS));
    // The granularity begins at block 0, as this says.
    data.put_u32(1 << 31);
    data.put_u64(u64::from(WRITE_SAME_BLOCKS));
    padded(data, 60)
}

const _: () = assert!(
    BLOCK_BYTES * GRANULARITY_BLOCKS as u32 == 4096,
    "the journal's block"
);
