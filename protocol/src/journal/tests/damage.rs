//! Every bit of a structure is covered, every length is checked, every rule about its fields is kept.

use super::identity::block_with_place;
use super::{golden, values};
use crate::journal::limits::{BLOCK_BYTES, MAX_POSITION, MAX_RECORDS, MAX_VOLUME_BYTES, WHERE_BYTES};
use crate::journal::{BlockMapHeader, FormatError, Place, Superblock, What};

type Decode = fn(&[u8]) -> Result<(), FormatError>;

fn place(part: &[u8]) -> Result<(), FormatError> {
    Place::decode(&block_with_place(part)).map(drop)
}

/// Name, golden bytes and decoder of every structure.
fn structures() -> [(&'static str, Vec<u8>, Decode); 4] {
    [
        ("superblock", golden::bytes(golden::SUPERBLOCK), |bytes| {
            Superblock::decode(bytes).map(drop)
        }),
        ("what", golden::bytes(golden::WHAT), |bytes| {
            What::decode(bytes).map(drop)
        }),
        ("where", golden::bytes(golden::PLACE), place),
        ("block map", golden::bytes(golden::BLOCK_MAP), |bytes| {
            BlockMapHeader::decode(bytes).map(drop)
        }),
    ]
}

/// Computes the checksum of a structure anew, so that only what it says is wrong.
fn reseal(name: &str, bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let (at, checksum) = if name == "what" {
        (
            72,
            crc32c::crc32c_append(crc32c::crc32c(&bytes[..72]), &bytes[76..]),
        )
    } else {
        (end, crc32c::crc32c(&bytes[..end]))
    };
    bytes[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn every_flipped_bit_is_refused() {
    for (name, golden, decode) in structures() {
        for bit in 0..golden.len() * 8 {
            let mut damaged = golden.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "{name}: bit {bit} (byte {})", bit / 8);
        }
    }
}

#[test]
fn every_truncation_is_refused_and_bytes_that_follow_are_not_looked_at() {
    for (name, golden, decode) in structures() {
        for length in 0..golden.len() {
            let refused = decode(&golden[..length]).expect_err(name);
            let says = [FormatError::Truncated, FormatError::Magic];
            assert!(says.contains(&refused), "{name} of {length} bytes: {refused}");
        }
        decode(&[golden.as_slice(), &[0xff; 100]].concat()).expect(name);
    }
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    for (name, mut bytes, decode) in structures() {
        let at = if name == "where" { 4 } else { 8 };
        let known = if name == "what" { 2 } else { 1 };
        bytes[at + 1] = 3;
        reseal(name, &mut bytes);
        let refused = decode(&bytes).expect_err(name);
        assert_eq!(refused, FormatError::Version(3, known), "{name}");
        assert!(refused.to_string().contains("use a newer farside"));
    }
}

#[test]
fn reserved_bytes_that_are_not_zero_are_refused() {
    let fields = [golden::SUPERBLOCK, golden::WHAT, golden::PLACE, golden::BLOCK_MAP];
    for ((name, golden, decode), fields) in structures().into_iter().zip(fields) {
        let mut at = 0;
        for (hex, times, field) in fields {
            let length = hex.len() / 2 * times;
            if ["zero", "padding", "unused"]
                .iter()
                .any(|word| field.ends_with(word))
            {
                for byte in at..at + length {
                    let mut bytes = golden.clone();
                    bytes[byte] = 1;
                    reseal(name, &mut bytes);
                    assert!(decode(&bytes).is_err(), "{name}: byte {byte} of {field}");
                }
            }
            at += length;
        }
    }
}

/// The superblock's bytes with other bytes at an offset, sealed anew.
fn patched(offset: usize, field: &[u8]) -> Result<Superblock, FormatError> {
    let mut bytes = golden::bytes(golden::SUPERBLOCK);
    bytes[offset..offset + field.len()].copy_from_slice(field);
    reseal("superblock", &mut bytes);
    Superblock::decode(&bytes)
}

#[test]
fn a_superblock_that_contradicts_itself_is_refused() {
    let large = MAX_POSITION + 4096;
    let wrong: [(usize, &[u8], &str); 24] = [
        (10, &[0, 4], "role"),
        (12, &[0, 0, 0, 15], "flags"),
        (16, &large.to_be_bytes(), "generation"),
        (56, &[0; 8], "volume size 0"),
        (56, &(MAX_VOLUME_BYTES + 1).to_be_bytes(), "volume size"),
        (64, &[0, 0x40, 0, 1], "segment size no power of two"),
        (64, &[0, 0, 0x20, 0], "segment size too small"),
        (64, &[8, 0, 0, 0], "segment size too large"),
        (68, &[0, 0, 0, 3], "segments"),
        (68, &[0xff; 4], "ring too large"),
        (80, &[0; 8], "epoch 0"),
        (80, &large.to_be_bytes(), "epoch"),
        (88, &large.to_be_bytes(), "starts"),
        (96, &large.to_be_bytes(), "head address"),
        (96, &0x50_3001_u64.to_be_bytes(), "head address in a block"),
        (96, &0x40_1000_u64.to_be_bytes(), "head before mirrored"),
        (104, &0x65_u64.to_be_bytes(), "more chunks than records"),
        (160, &0x40_3000_u64.to_be_bytes(), "tail after mirrored"),
        (176, &0x52_u64.to_be_bytes(), "tail record after mirrored"),
        (288, &[0, 0, 0, 3], "copy state"),
        (292, &[0; 4], "window 0"),
        (296, &0x4000_0001_u64.to_be_bytes(), "copied more than the volume"),
        (312, &[33], "name too long"),
        (392, &[0, 0, 0, 9], "too many consumers"),
    ];
    for (offset, field, what) in wrong {
        let refused = patched(offset, field);
        assert!(
            matches!(refused, Err(FormatError::Field(_))),
            "{what}: {refused:?}"
        );
    }
}

#[test]
fn names_that_could_leave_their_directory_are_refused() {
    for name in ["../dir", "a/b", ".x", "a b", "", "\u{7}", "\u{e9}"] {
        for offset in [312, 400] {
            let mut field = [0; 33];
            field[0] = u8::try_from(name.len()).unwrap();
            field[1..=name.len()].copy_from_slice(name.as_bytes());
            assert_eq!(
                patched(offset, &field),
                Err(FormatError::Field("name")),
                "{name:?}"
            );
        }
    }
    // Two consumers of one name would share a map.
    let far = golden::bytes(golden::SUPERBLOCK)[400..433].to_vec();
    assert_eq!(patched(512, &far), Err(FormatError::Field("consumers")));
}

#[test]
fn a_chunk_that_contradicts_itself_is_refused() {
    let large = (MAX_POSITION + 1).to_be_bytes();
    let count = u16::try_from(MAX_RECORDS + 1).unwrap().to_be_bytes();
    let wrong: [(usize, &[u8], &str); 17] = [
        (10, &[0, 215], "length"),
        (12, &[0, 0], "no records"),
        (12, &count, "too many records"),
        (32, &[0; 8], "epoch 0"),
        (32, &large, "epoch"),
        (40, &[0; 8], "sequence 0"),
        (40, &large, "sequence"),
        (48, &[0; 8], "first record 0"),
        (48, &large, "first record"),
        (64, &[0, 0, 2, 1], "data length"),
        (96 + 8, &[0; 4], "empty write"),
        (96 + 20, &[5], "unknown kind"),
        (96 + 21, &[1], "flag of another kind"),
        (120, &[0xff; 8], "range beyond all addresses"),
        (120 + 12, &[0, 0, 0, 1], "checksum without payload"),
        (120 + 23, &[1], "extra of another kind"),
        (192 + 11, &[1], "mark with a range"),
    ];
    for (offset, field, what) in wrong {
        let mut bytes = golden::bytes(golden::WHAT);
        bytes[offset..offset + field.len()].copy_from_slice(field);
        reseal("what", &mut bytes);
        let refused = What::decode(&bytes).map(drop);
        assert!(
            matches!(refused, Err(FormatError::Field(_))),
            "{what}: {refused:?}"
        );
    }
}

#[test]
fn positions_out_of_order_and_impossible_geometry_are_refused() {
    for (offset, value) in [(48, 0x52_u64), (56, 0x65), (24, MAX_POSITION + 1)] {
        let mut part = golden::bytes(golden::PLACE);
        part[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
        reseal("where", &mut part);
        assert_eq!(place(&part), Err(FormatError::Field("positions")));
    }
    for (offset, value) in [
        (32, 0_u64),
        (32, 0x1_0001),
        (32, 1 << 63),
        (40, 0),
        (40, u64::MAX),
    ] {
        let mut header = golden::bytes(golden::BLOCK_MAP);
        header[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
        reseal("block map", &mut header);
        assert_eq!(
            BlockMapHeader::decode(&header),
            Err(FormatError::Field("geometry"))
        );
    }
}

#[test]
fn only_the_unused_middle_of_a_meta_data_block_is_free_to_differ() {
    let what = golden::bytes(golden::WHAT);
    let mut block = vec![0; BLOCK_BYTES];
    block[..what.len()].copy_from_slice(&what);
    values::place().encode(&mut block);
    for byte in 0..BLOCK_BYTES {
        let mut damaged = block.clone();
        damaged[byte] ^= 0x80;
        let seen = What::decode(&damaged).is_err() || Place::decode(&damaged).is_err();
        let free = (what.len()..BLOCK_BYTES - WHERE_BYTES).contains(&byte);
        assert_eq!(seen, !free, "byte {byte}");
    }
}
