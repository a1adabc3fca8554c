//! Volumes that become larger, at a start or under their hosts, and replicas that follow with the next greeting.

use crate::disk::SimDisk;
use crate::local::{self, Site};
use crate::process::{Death, Process};
use crate::schedule::{draw, spawn};
use crate::stats::happened;
use crate::time::pause_us;
use crate::workers::ALL_FREE;
use crate::world::World;
use farside_storage::{BlockMap, Device, StorageError, Store};
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

/// Makes a volume as large as its operator wants it.
pub fn carry_out(site: &Site, process: &Arc<Process>, store: &Store) -> Result<(), StorageError> {
    let (old, wanted) = (store.volume_bytes(), site.wanted.get());
    if wanted <= old {
        return Ok(());
    }
    store.make_room(wanted)?;
    // Maps in force that have not got their place yet get it before others are made.
    site.settle_maps();
    let header = |bytes| BlockMap::header_for(site.uuid, bytes);
    let mut maps = Vec::new();
    let mut platters = Vec::new();
    for slot in &store.superblock().consumers {
        if header(old) != header(wanted) {
            let map = site.new_map(&slot.name);
            maps.push((slot.name.clone(), SimDisk::open(&map, process) as Arc<dyn Device>));
            platters.push((slot.name.clone(), map));
        }
    }
    site.new_maps.borrow_mut().extend(platters.iter().cloned());
    store.grow(wanted, &maps)?;
    happened("volumes that grew");
    // A start finds them where they are, too.
    if draw(4) > 0 {
        site.new_maps.borrow_mut().clear();
        site.maps.borrow_mut().extend(platters);
    }
    Ok(())
}

/// Makes a volume larger while hosts use it. Its links make way meanwhile.
pub fn under_its_hosts(world: &Rc<World>, site: &Rc<Site>, instance: Uuid) {
    let process = world.local.borrow().process.clone();
    let volume = site.volume.borrow().clone();
    let (Some(process), Some(volume)) = (process, volume) else {
        return;
    };
    let wanted = volume.store().volume_bytes() + 4096 * (1 + draw(8));
    if wanted > site.capacity || process.is_dead() {
        return;
    }
    site.wanted.set(wanted);
    let (world, site) = (world.clone(), site.clone());
    spawn(&process.clone(), ALL_FREE, async move {
        let stop = site.stop.take();
        if let Some(stop) = &stop {
            stop.send_replace(true);
        }
        while Rc::strong_count(&site.links_running) > 1 {
            pause_us(100).await;
        }
        let closing = |volume: &farside::volume::Volume| {
            use farside::targets::Disk as _;
            volume.closing().is_cancelled()
        };
        if closing(&volume) {
            return;
        }
        // Few calls to disks, and dangerous ones.
        if !world.is_calm() && draw(2) == 0 {
            let how = if draw(2) == 0 {
                Death::Killed
            } else {
                Death::PowerLost
            };
            process.dies_after(1 + draw(16), how);
        }
        if let Err(error) = carry_out(&site, &process, volume.store()) {
            let excused = process.is_dead() || site.is_hurt() || site.faulty.get();
            assert!(excused, "{} does not grow: {error}", site.name);
        }
        if !process.is_dead() {
            local::start_links(&world, &process, (&site, &volume), instance);
        }
    });
}
