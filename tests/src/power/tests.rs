//! The disk keeps what was flushed and loses the rest; without that the power cuts would prove nothing.

use super::{DiskServer, Fate, PowerDisk, SECTOR_BYTES, Switch};
use crate::BlockClient as _;
use crate::Random;
use crate::nbd::{Endpoint, NbdClient};
use std::sync::Arc;

const SIZE_BYTES: u64 = 1 << 20;

fn disk(directory: &tempfile::TempDir) -> Arc<PowerDisk> {
    disk_of(directory, SECTOR_BYTES)
}

fn disk_of(directory: &tempfile::TempDir, unit: usize) -> Arc<PowerDisk> {
    let path = directory.path().join("medium");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    Arc::new(PowerDisk::open(&path, unit).unwrap())
}

fn medium(disk: &PowerDisk) -> Vec<u8> {
    std::fs::read(disk.path()).unwrap()
}

/// Flushed ones everywhere, then unflushed twos.
fn ones_then_twos(disk: &PowerDisk) {
    let bytes = usize::try_from(SIZE_BYTES).unwrap();
    disk.write(0, vec![1; bytes]).unwrap().unwrap();
    disk.flush().unwrap().unwrap();
    for at in (0..SIZE_BYTES).step_by(4096) {
        disk.write(at, vec![2; 4096]).unwrap().unwrap();
    }
    let seen = disk.read(0, bytes).unwrap().unwrap();
    assert!(seen.iter().all(|byte| *byte == 2), "a read misses the cache");
}

#[test]
fn flushed_sectors_survive_every_fate_and_sectors_are_never_torn() {
    let mut random = Random::new(1);
    for fate in [
        Fate::Nothing,
        Fate::Everything,
        Fate::InOrder,
        Fate::Scattered(50),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(&directory);
        ones_then_twos(&disk);
        let survived = disk.settle(fate, &mut random).unwrap();
        let medium = medium(&disk);
        let sectors: Vec<&[u8]> = medium.chunks(SECTOR_BYTES).collect();
        let whole = |sector: &&[u8]| sector.iter().all(|byte| *byte == 1 || *byte == sector[0]);
        assert!(sectors.iter().all(whole), "{fate:?} tore a sector");
        let kept = sectors.iter().filter(|sector| sector[0] == 2).count();
        assert_eq!(kept as u64, survived.kept, "{fate:?}");
        assert_eq!(survived.unflushed, SIZE_BYTES / SECTOR_BYTES as u64);
        let first_kept = sectors.iter().take(kept).all(|sector| sector[0] == 2);
        match fate {
            Fate::Nothing => assert_eq!(kept, 0),
            Fate::Everything => assert_eq!(kept, sectors.len()),
            Fate::InOrder => assert!(first_kept, "not in order"),
            Fate::Scattered(_) => assert!(kept > 0 && kept < sectors.len() && !first_kept),
        }
    }
}

#[test]
fn what_a_write_covers_of_a_larger_unit_is_never_torn() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk_of(&directory, 4096);
    // Beside the units, so that the ends of it cover a part of one.
    for at in (SECTOR_BYTES..1 << 20).step_by(64 << 10) {
        disk.write(at as u64, vec![2; 16 << 10]).unwrap().unwrap();
    }
    let survived = disk.settle(Fate::Scattered(50), &mut Random::new(7)).unwrap();
    let medium = medium(&disk);
    let (mut kept, mut lost) = (0, 0);
    for at in (0..1 << 20).step_by(64 << 10) {
        for (unit, covered) in [
            (0, 512..4096),
            (4096, 0..4096),
            (8192, 0..4096),
            (12288, 0..4096),
            (16384, 0..512),
        ] {
            let part = &medium[at + unit..at + unit + 4096][covered];
            assert!(part.iter().all(|byte| *byte == part[0]), "{at}+{unit} is torn");
            *(if part[0] == 2 { &mut kept } else { &mut lost }) += part.len() / SECTOR_BYTES;
        }
    }
    assert_eq!(survived.kept, kept as u64);
    assert!(kept > 0 && lost > 0);
}

#[test]
fn an_older_version_of_a_sector_can_survive_the_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    for version in 1..=3 {
        disk.write(0, vec![version; 64 * SECTOR_BYTES]).unwrap().unwrap();
    }
    disk.settle(Fate::Scattered(50), &mut Random::new(3)).unwrap();
    let medium = medium(&disk);
    for version in 0..=3 {
        assert!(
            medium[..64 * SECTOR_BYTES].contains(&version),
            "{version} never survived"
        );
    }
}

#[test]
fn nothing_is_answered_once_the_power_is_off_and_the_other_switch_goes_too() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    let (switch, other) = (Switch::on(), Switch::on());
    disk.plug_in(&switch);
    switch.off_after(3, &[Arc::clone(&other)]);
    assert!(disk.write(0, vec![1; SECTOR_BYTES]).unwrap().is_some());
    assert!(disk.flush().unwrap().is_some());
    assert!(!other.is_off());
    assert!(disk.flush().unwrap().is_none(), "the third request was answered");
    assert!(other.is_off());
    assert!(disk.write(0, vec![2; SECTOR_BYTES]).unwrap().is_none());
    assert!(disk.read(0, SECTOR_BYTES).unwrap().is_none());
    disk.settle(Fate::Everything, &mut Random::new(1)).unwrap();
    assert_eq!(medium(&disk)[0], 1, "a write after the cut reached the medium");
}

#[test]
fn a_lying_disk_answers_a_flush_and_loses_it() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    disk.lie_about_flushes();
    disk.write(0, vec![1; SECTOR_BYTES]).unwrap().unwrap();
    disk.flush().unwrap().unwrap();
    disk.settle(Fate::Nothing, &mut Random::new(1)).unwrap();
    assert_eq!(medium(&disk)[0], 0);
}

#[test]
fn the_disk_is_served_to_nbd_clients() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(&directory);
    let socket = directory.path().join("socket");
    let _server = DiskServer::start(&disk, &socket).unwrap();
    let mut client = NbdClient::connect(&Endpoint::Unix(socket), "any").unwrap();
    assert_eq!(client.info().size_bytes, SIZE_BYTES);
    let data = Random::new(5).bytes(8192);
    client.write(4096, &data).unwrap();
    assert_eq!(client.read(4096, 8192).unwrap(), data);
    assert_eq!(medium(&disk)[4096..12288], [0; 8192], "written before a flush");
    client.flush().unwrap();
    assert_eq!(medium(&disk)[4096..12288], data);
    assert!(client.write(1, &data).is_err(), "half sectors are none");
    assert!(client.write(SIZE_BYTES - 4096, &data).is_err(), "past the end");
    assert_eq!(client.read(4096, 8192).unwrap(), data);
}
