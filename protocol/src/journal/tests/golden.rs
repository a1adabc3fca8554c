//! Golden bytes of every structure of the journal format, version 1, one line per field.
//!
//! Made by hand from `docs/on-disk-format.md`, checksums by another implementation of crc32c. These bytes are on
//! people's disks: a change here is a new version of the format, never an edit.

/// Bytes in hexadecimal, how often they stand there, and the name of the field.
pub(super) type Field = (&'static str, usize, &'static str);

/// The bytes of a structure.
pub(super) fn bytes(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (hex, times, name) in fields {
        for _ in 0..*times {
            for pair in hex.as_bytes().chunks(2) {
                let digits = std::str::from_utf8(pair).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).expect(name));
            }
        }
    }
    bytes
}

/// The superblock of a replica's journal with two consumers.
pub(super) const SUPERBLOCK: &[Field] = &[
    ("464152534944454a", 1, "magic"),
    ("0001", 1, "version"),
    ("0002", 1, "role"),
    ("00000001", 1, "flags"),
    ("0000000000001122", 1, "generation"),
    ("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", 1, "journal UUID"),
    ("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf", 1, "volume UUID"),
    ("0000000040000000", 1, "volume size"),
    ("00400000", 1, "segment size"),
    ("0000007f", 1, "segments"),
    ("0006120304050607", 1, "creation time"),
    ("0000000000000003", 1, "epoch"),
    ("0000000000000009", 1, "starts"),
    ("0000000000503000", 1, "head.address"),
    ("000000000000002a", 1, "head.sequence"),
    ("0000000000000064", 1, "head.record"),
    ("0000000000000003", 1, "head.epoch"),
    ("0006120304050800", 1, "head.sealing time"),
    ("deadbeef", 1, "head.checksum"),
    ("00", 4, "head.zero"),
    ("00000000000001f4", 1, "head.blocks"),
    ("00000000001f4000", 1, "head.bytes"),
    ("0000000000401000", 1, "tail.address"),
    ("0000000000000020", 1, "tail.sequence"),
    ("0000000000000050", 1, "tail.record"),
    ("0000000000000002", 1, "tail.epoch"),
    ("0006120304050700", 1, "tail.sealing time"),
    ("cafe0001", 1, "tail.checksum"),
    ("00", 4, "tail.zero"),
    ("0000000000000190", 1, "tail.blocks"),
    ("0000000000190000", 1, "tail.bytes"),
    ("0000000000402000", 1, "mirrored.address"),
    ("0000000000000021", 1, "mirrored.sequence"),
    ("0000000000000051", 1, "mirrored.record"),
    ("0000000000000002", 1, "mirrored.epoch"),
    ("0006120304050701", 1, "mirrored.sealing time"),
    ("cafe0002", 1, "mirrored.checksum"),
    ("00", 4, "mirrored.zero"),
    ("0000000000000191", 1, "mirrored.blocks"),
    ("0000000000191000", 1, "mirrored.bytes"),
    ("00000001", 1, "copy state"),
    ("0000001f", 1, "window"),
    ("0000000020000000", 1, "copy"),
    ("0000000000000060", 1, "consistent from"),
    ("05", 1, "name.length"),
    ("6469736b30", 1, "name.text"),
    ("00", 27, "name.padding"),
    ("00", 3, "zero"),
    ("00000000", 1, "history line"),
    ("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf", 1, "sender"),
    ("0000000000001000", 1, "totals.written"),
    ("0000000000002000", 1, "totals.sent"),
    ("0000000000003000", 1, "totals.received"),
    ("00000002", 1, "consumer count"),
    ("c0ffee01", 1, "copy id"),
    ("03", 1, "consumers.name.length"),
    ("666172", 1, "consumers.name.text"),
    ("00", 29, "consumers.name.padding"),
    ("00", 7, "consumers.zero"),
    ("00000002", 1, "consumers.state"),
    ("00000000", 1, "consumers.copy id"),
    ("0000000000401000", 1, "consumers.point.address"),
    ("0000000000000020", 1, "consumers.point.sequence"),
    ("0000000000000050", 1, "consumers.point.record"),
    ("0000000000000002", 1, "consumers.point.epoch"),
    ("0006120304050700", 1, "consumers.point.sealing time"),
    ("cafe0001", 1, "consumers.point.checksum"),
    ("00", 4, "consumers.point.zero"),
    ("0000000000000190", 1, "consumers.point.blocks"),
    ("0000000000190000", 1, "consumers.point.bytes"),
    ("12", 1, "consumers.name.length"),
    ("6f66662d736974655f322e6578616d706c65", 1, "consumers.name.text"),
    ("00", 14, "consumers.name.padding"),
    ("00", 7, "consumers.zero"),
    ("00000001", 1, "consumers.state"),
    ("0badcafe", 1, "consumers.copy id"),
    ("0000000000402000", 1, "consumers.point.address"),
    ("0000000000000021", 1, "consumers.point.sequence"),
    ("0000000000000051", 1, "consumers.point.record"),
    ("0000000000000002", 1, "consumers.point.epoch"),
    ("0006120304050701", 1, "consumers.point.sealing time"),
    ("cafe0002", 1, "consumers.point.checksum"),
    ("00", 4, "consumers.point.zero"),
    ("0000000000000191", 1, "consumers.point.blocks"),
    ("0000000000191000", 1, "consumers.point.bytes"),
    ("00", 672, "consumers.unused"),
    ("00", 2796, "zero"),
    ("fc737189", 1, "checksum"),
];

/// The *what* part of a chunk with a record of every kind.
pub(super) const WHAT: &[Field] = &[
    ("4641524348554e4b", 1, "magic"),
    ("0001", 1, "version"),
    ("00d8", 1, "length"),
    ("0005", 1, "records"),
    ("00", 2, "zero"),
    ("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf", 1, "volume UUID"),
    ("0000000000000003", 1, "epoch"),
    ("000000000000002b", 1, "sequence"),
    ("0000000000000065", 1, "first record"),
    ("0006120304050900", 1, "sealing time"),
    ("00000200", 1, "data length"),
    ("deadbeef", 1, "previous checksum"),
    ("a36c1655", 1, "checksum"),
    ("00", 4, "zero"),
    ("00000000000001f4", 1, "blocks before"),
    ("00000000001f4000", 1, "bytes before"),
    ("0000000000002000", 1, "table.offset"),
    ("00000200", 1, "table.length"),
    ("ae10ee5a", 1, "table.payload checksum"),
    ("00000064", 1, "table.age"),
    ("01", 1, "table.kind"),
    ("00", 1, "table.flags"),
    ("0000", 1, "table.extra"),
    ("0000000000100000", 1, "table.offset"),
    ("00010000", 1, "table.length"),
    ("00000000", 1, "table.payload checksum"),
    ("00000032", 1, "table.age"),
    ("02", 1, "table.kind"),
    ("00", 1, "table.flags"),
    ("0000", 1, "table.extra"),
    ("0000000000200000", 1, "table.offset"),
    ("00001000", 1, "table.length"),
    ("00000000", 1, "table.payload checksum"),
    ("00000019", 1, "table.age"),
    ("03", 1, "table.kind"),
    ("00", 1, "table.flags"),
    ("0000", 1, "table.extra"),
    ("0000000000300000", 1, "table.offset"),
    ("00002000", 1, "table.length"),
    ("00000000", 1, "table.payload checksum"),
    ("00000001", 1, "table.age"),
    ("03", 1, "table.kind"),
    ("01", 1, "table.flags"),
    ("0000", 1, "table.extra"),
    ("0000000000000000", 1, "table.offset"),
    ("00000000", 1, "table.length"),
    ("00000000", 1, "table.payload checksum"),
    ("00000000", 1, "table.age"),
    ("04", 1, "table.kind"),
    ("00", 1, "table.flags"),
    ("0102", 1, "table.extra"),
];

/// What stands between the fixed fields and the table of the last chunk of a merged batch.
pub(super) const MERGED: &[Field] = &[
    ("000000000000004d", 1, "sequence"),
    ("0000000000000123", 1, "last record"),
    ("0000000000000555", 1, "blocks"),
    ("0000000000777777", 1, "bytes"),
    ("cafe0123", 1, "checksum"),
    ("00", 4, "zero"),
];

/// The *where* part of the same chunk.
pub(super) const PLACE: &[Field] = &[
    ("57484552", 1, "magic"),
    ("0001", 1, "version"),
    ("00", 2, "zero"),
    ("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", 1, "journal UUID"),
    ("0000000000503000", 1, "address"),
    ("000000000000002b", 1, "sequence"),
    ("a36c1655", 1, "what checksum"),
    ("00", 4, "zero"),
    ("0000000000000050", 1, "tail"),
    ("0000000000000051", 1, "mirrored"),
    ("0000000000000064", 1, "durable"),
    ("0000000000000052", 1, "acked"),
    ("00", 44, "zero"),
    ("66f3dcd0", 1, "checksum"),
];

/// The header of a dirty-block map.
pub(super) const BLOCK_MAP: &[Field] = &[
    ("464152534944454d", 1, "magic"),
    ("0001", 1, "version"),
    ("00", 6, "zero"),
    ("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf", 1, "volume UUID"),
    ("0000000000010000", 1, "bytes per bit"),
    ("0000000000004000", 1, "bits"),
    ("77fc6037", 1, "checksum"),
];
