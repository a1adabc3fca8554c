//! The answer of `farside inspect` for people.

use super::report::{
    Body, ChainReport, ChunkReport, ConsumerReport, JournalReport, MapReport, PointReport, Report,
    RingReport, SuperblockReport,
};
use farside_protocol::control::human_bytes;
use std::io::{Result, Write};

/// Everything but the chunks.
pub(super) fn report(report: &Report, out: &mut dyn Write) -> Result<()> {
    match &report.body {
        Body::Journal(journal) => self::journal(journal, out)?,
        Body::DirtyBlockMap(found) => map(found, out)?,
    }
    match &report.first_damage {
        Some(damage) => writeln!(out, "DAMAGED      at byte {}: {}", damage.offset, damage.problem),
        None => writeln!(out, "intact"),
    }
}

/// One chunk, and its records if there are any to show.
pub(super) fn chunk(chunk: &ChunkReport, out: &mut dyn Write) -> Result<()> {
    let ChunkReport {
        sequence,
        epoch,
        records,
        first_record,
        last_record,
        ..
    } = chunk;
    let state = if chunk.intact { "intact" } else { "BROKEN PAYLOAD" };
    writeln!(
        out,
        "chunk {sequence}  epoch {epoch}  {records} records {first_record}..{last_record}  {}  at byte {}, {} bytes  \
         {state}",
        chunk.sealed_at, chunk.offset, chunk.bytes
    )?;
    for record in chunk.table.iter().flatten() {
        let (number, kind, offset, length) = (record.record, record.kind, record.offset, record.length);
        writeln!(
            out,
            "  record {number}  {kind}  {length} bytes at {offset}  {} us before",
            record.age_us
        )?;
    }
    Ok(())
}

fn map(found: &MapReport, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "dirty-block map of volume {}", found.volume)?;
    let (marked, bits) = (found.marked_bits, found.bits);
    let (bytes, each) = (human_bytes(found.marked_bytes), human_bytes(found.bytes_per_bit));
    writeln!(out, "marked       {marked} of {bits} blocks of {each}, {bytes}")
}

fn journal(journal: &JournalReport, out: &mut dyn Write) -> Result<()> {
    if let Some(found) = &journal.superblock {
        superblock(found, out)?;
    }
    for copy in &journal.superblocks {
        let state = match (&copy.generation, &copy.problem) {
            (Some(generation), _) if copy.in_force => format!("generation {generation}, in force"),
            (Some(generation), _) => format!("generation {generation}"),
            (None, problem) => format!("UNREADABLE: {}", problem.as_deref().unwrap_or("unknown")),
        };
        writeln!(out, "superblock   at byte {}: {state}", copy.offset)?;
    }
    if journal.superblock.is_some() {
        ring(&journal.ring, out)?;
        chain(&journal.chain, out)?;
    }
    if journal.changed_meanwhile {
        writeln!(
            out,
            "in use       the journal was written to meanwhile; this shows what was read"
        )?;
    }
    Ok(())
}

fn superblock(found: &SuperblockReport, out: &mut dyn Write) -> Result<()> {
    let (role, name) = (found.role, &found.name);
    writeln!(
        out,
        "journal of {role} {name}, {}",
        human_bytes(found.volume_bytes)
    )?;
    writeln!(out, "volume       {}", found.volume)?;
    writeln!(out, "journal      {}, made {}", found.journal, found.created_at)?;
    if let Some(sender) = &found.sender {
        writeln!(out, "sender       {sender}")?;
        writeln!(
            out,
            "copy         {}, {} copied",
            found.copy,
            human_bytes(found.copied_bytes)
        )?;
    }
    let segment = human_bytes(found.segment_bytes.into());
    let (segments, window) = (found.segments, found.window_segments);
    writeln!(
        out,
        "ring         {segments} segments of {segment}, window {window}"
    )?;
    let end = if found.clean {
        "shut down cleanly"
    } else {
        "in use, or not shut down"
    };
    writeln!(out, "epoch        {}, start {}, {end}", found.epoch, found.starts)?;
    for (name, at) in [
        ("tail", &found.tail),
        ("mirrored", &found.mirrored),
        ("head", &found.head),
    ] {
        writeln!(out, "{name:12} {}", point(at))?;
    }
    for ConsumerReport { name, state, acked } in &found.consumers {
        writeln!(out, "remote       {name}: {state}, confirmed {}", point(acked))?;
    }
    Ok(())
}

fn point(at: &PointReport) -> String {
    let (record, sequence, address) = (at.record, at.sequence, at.address);
    if record == 0 {
        return format!("before the first record, address {address}");
    }
    format!(
        "record {record}, chunk {sequence}, address {address}, {}",
        at.sealed_at
    )
}

fn ring(found: &RingReport, out: &mut dyn Write) -> Result<()> {
    let (with, empty, unknown) = (
        found.segments_with_chunks,
        found.segments_empty,
        found.segments_unknown,
    );
    write!(
        out,
        "segments     {with} with chunks, {empty} empty, {unknown} unknown"
    )?;
    if let (Some(oldest), Some(newest)) = (found.oldest_sequence, found.newest_sequence) {
        write!(out, "; chunks seen {oldest} to {newest}")?;
    }
    writeln!(out)
}

fn chain(found: &ChainReport, out: &mut dyn Write) -> Result<()> {
    let (chunks, records) = (found.chunks, found.records);
    write!(
        out,
        "chain        {chunks} chunks, {records} records, {}",
        human_bytes(found.bytes)
    )?;
    if let (Some(first), Some(last)) = (found.first_record, found.last_record) {
        write!(out, ", records {first} to {last}")?;
    }
    writeln!(out)?;
    if let Some(record) = found.recovered_record {
        writeln!(out, "recovers     to record {record}")?;
    }
    for end in &found.end {
        writeln!(out, "chain ends   at byte {}: {}", end.offset, end.found)?;
    }
    Ok(())
}
