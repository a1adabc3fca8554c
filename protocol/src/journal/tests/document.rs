//! `docs/on-disk-format.md` says what the bytes are: its tables are compared with the golden bytes, which the
//! encoders are compared with.

use super::golden::{self, Field};
use crate::journal::limits;

const DOCUMENT: &str = include_str!("../../../../docs/on-disk-format.md");

/// Offset, size and name of each field of a structure; the parts of a group, written `group.part`, count as one.
fn layout(fields: &[Field]) -> Vec<(usize, usize, String)> {
    let mut layout: Vec<(usize, usize, String)> = Vec::new();
    let (mut at, mut last_was_group) = (0, false);
    for (hex, times, name) in fields {
        let length = hex.len() / 2 * times;
        let (group, is_group) = name
            .split_once('.')
            .map_or((*name, false), |(group, _)| (group, true));
        match layout.last_mut() {
            Some((_, size, last)) if is_group && last_was_group && last == group => *size += length,
            _ => layout.push((at, length, group.to_owned())),
        }
        (at, last_was_group) = (at + length, is_group);
    }
    layout
}

/// The parts of the first element of a group.
fn parts(fields: &[Field], group: &str) -> Vec<(usize, usize, String)> {
    let inside: Vec<Field> = fields
        .iter()
        .filter_map(|(hex, times, name)| {
            let part = name.strip_prefix(group)?.strip_prefix('.')?;
            Some((*hex, *times, part))
        })
        .collect();
    layout(&inside)
}

/// Rows `| offset | size | field...` of the first table after a heading; the field ends at the first `:`.
fn table(heading: &str) -> Vec<(usize, usize, String)> {
    let (_, section) = DOCUMENT
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = cells[3].split(':').next().unwrap().trim_matches('*').to_owned();
        (cells[1].parse().unwrap(), cells[2].parse().unwrap(), name)
    })
    .collect()
}

#[test]
fn the_document_has_every_field_where_the_bytes_have_it() {
    assert_eq!(table("Superblock"), layout(golden::SUPERBLOCK));
    assert_eq!(table("Point"), parts(golden::SUPERBLOCK, "head"));
    let where_part = layout(golden::PLACE);
    assert_eq!(table("Where part"), where_part);
    assert_eq!(table("Dirty-block map header"), layout(golden::BLOCK_MAP));
    let mut what = layout(golden::WHAT);
    // The document gives the table of records as what one record takes.
    what.last_mut().unwrap().1 = limits::RECORD_BYTES;
    assert_eq!(table("What part"), what);
    let merged = layout(golden::MERGED)
        .into_iter()
        .map(|(at, size, name)| (96 + at, size, name));
    assert_eq!(table("End of a merged batch"), merged.collect::<Vec<_>>());
    let mut record = parts(golden::WHAT, "table");
    record.truncate(record.len() / 5);
    assert_eq!(table("Record"), record);
    let mut consumer = parts(golden::SUPERBLOCK, "consumers");
    consumer.truncate(5);
    assert_eq!(table("Consumer"), consumer);
}

#[test]
fn the_document_has_the_constants_of_the_format() {
    let constants: Vec<(&str, u64)> = vec![
        ("BLOCK_BYTES", limits::BLOCK_BYTES_U64),
        ("SUPERBLOCK_OFFSETS[0]", limits::SUPERBLOCK_OFFSETS[0]),
        ("SUPERBLOCK_OFFSETS[1]", limits::SUPERBLOCK_OFFSETS[1]),
        ("RING_OFFSET", limits::RING_OFFSET),
        ("WHAT_HEADER_BYTES", limits::WHAT_HEADER_BYTES as u64),
        ("RECORD_BYTES", limits::RECORD_BYTES as u64),
        ("WHERE_OFFSET", limits::WHERE_OFFSET as u64),
        ("WHERE_BYTES", limits::WHERE_BYTES as u64),
        ("MAX_RECORDS", limits::MAX_RECORDS as u64),
        ("MAX_MERGED_RECORDS", limits::MAX_MERGED_RECORDS as u64),
        ("MAX_CHUNK_DATA_BYTES", limits::MAX_CHUNK_DATA_BYTES.into()),
        ("MIN_SEGMENT_BYTES", limits::MIN_SEGMENT_BYTES.into()),
        ("MAX_SEGMENT_BYTES", limits::MAX_SEGMENT_BYTES.into()),
        ("MIN_SEGMENTS", limits::MIN_SEGMENTS.into()),
        ("MAX_CONSUMERS", limits::MAX_CONSUMERS as u64),
        ("NAME_BYTES", limits::NAME_BYTES as u64),
        ("MAX_VOLUME_BYTES", limits::MAX_VOLUME_BYTES),
        ("MAX_RING_BYTES", limits::MAX_RING_BYTES),
        ("MAX_POSITION", limits::MAX_POSITION),
    ];
    for (name, value) in constants {
        let row = format!("| `{name}` | {value} |");
        assert!(DOCUMENT.contains(&row), "docs/on-disk-format.md lacks {row}");
    }
}
