//! Everything that can go wrong in a world, one function each.

use crate::checks;
use crate::growth;
use crate::local;
use crate::net::Weather;
use crate::platter::{Fault, Platter};
use crate::process::{Death, Process};
use crate::remote::{self, Remote};
use crate::world::{Kind, World};
use farside_protocol::journal::limits::RING_OFFSET;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

impl World {
    /// Something goes wrong.
    pub(crate) async fn misfortune(self: &Rc<Self>) {
        let kinds = if self.kind == Kind::Plain { 23 } else { 29 };
        match self.draw(kinds) {
            0..3 => self.kill_local(),
            3..6 => self.kill_remote(),
            6 if self.chance(50) => self.host_net.cut(),
            6 => self.net.cut(),
            7 => self.net.freeze(),
            8 => self.net.corrupt(usize::from(self.chance(50))),
            9 => match self.draw(4) {
                0 => self.net.repeat(),
                1 => self.net.miss(),
                _ => self.net.double(usize::from(self.chance(50))),
            },
            10 => self.net.truncate(usize::from(self.chance(50))),
            11 if self.chance(70) => self.grow(),
            11 => self.change_weather(),
            12 => self.jump_clock(),
            13 if self.chance(50) => self.look_at_a_lonely_remote(),
            13 => self.look_at_what_is_left(),
            14 => self.outage(),
            15 => self.restart_cleanly().await,
            16 => self.change_remotes().await,
            17 => self.arm(),
            18..20 => self.hand_over(),
            20 if self.chance(50) => self.hand_over(),
            20 => self.replace_by_a_seed().await,
            _ => self.mishap_of_its_kind().await,
        }
    }

    fn death(&self) -> Death {
        if self.chance(50) {
            Death::Killed
        } else {
            Death::PowerLost
        }
    }

    fn kill_local(&self) {
        self.stats.count("local units killed or without power");
        let how = self.death();
        if let Some(process) = &self.local.borrow().process {
            process.die(how);
        }
    }

    fn a_remote(&self) -> Rc<Remote> {
        self.pick(&self.remotes)
    }

    fn kill_remote(&self) {
        self.stats.count("remote units killed or without power");
        let how = self.death();
        if let Some(process) = self.a_remote().process() {
            process.die(how);
        }
    }

    /// A unit is going to die in the middle of some call to a disk.
    fn arm(&self) {
        let (calls, how) = (1 + self.draw(60), self.death());
        let process = if self.chance(50) {
            self.local.borrow().process.clone()
        } else {
            self.a_remote().process()
        };
        if let Some(process) = process {
            process.dies_after(calls, how);
        }
    }

    /// A unit starts: the calls to its disks that it begins with are few, and dangerous ones. More so after a disk
    /// failed, because what it shows then need not be what it keeps.
    pub(crate) fn endanger(&self, process: Option<Arc<Process>>) {
        let Some(process) = process else { return };
        let was_in_trouble = self.troubled.borrow_mut().remove(process.name());
        if self.is_calm() {
            return;
        }
        if was_in_trouble && self.chance(50) {
            process.dies_in_write(1 + self.draw(4), Death::PowerLost);
        } else if self.chance(10) {
            process.dies_after(1 + self.draw(30), self.death());
        }
    }

    /// The same for faults that such a call meets.
    pub(crate) fn endanger_start(&self, journals: Vec<Arc<Platter>>) {
        if self.kind == Kind::Faults && !self.is_calm() && !journals.is_empty() && self.chance(20) {
            self.stats.count("syncs that fail");
            self.pick(&journals).plan(Fault::Sync, self.draw(3));
        }
    }

    /// A volume becomes larger while it is used.
    fn grow(self: &Rc<Self>) {
        let instance = self.local.borrow().instance;
        growth::under_its_hosts(self, &self.pick(&self.sites()), instance);
    }

    fn change_weather(&self) {
        self.stats.count("changes of the network's weather");
        let weather = Weather {
            up: self.chance(70),
            delay_us: self.pick(&[50, 5_000, 100_000]),
            jitter_us: self.pick(&[100, 20_000]),
            noise_permille: self.pick(&[0, 0, 10, 50]),
        };
        self.net.set_weather(weather);
    }

    fn jump_clock(&self) {
        self.stats.count("clocks that jump");
        let hours = i64::try_from(self.draw(200)).unwrap_or(0) - 100;
        let clock = if self.chance(50) {
            self.local_clock.clone()
        } else {
            self.a_remote().clock.clone()
        };
        clock.jump(hours * 3_600_000_000);
    }

    /// The local unit is gone for ever, say: what would this remote come up with?
    fn look_at_a_lonely_remote(&self) {
        let remote = self.a_remote();
        let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
        for home in homes {
            if remote.directory(&home.name).handed_over().is_none() {
                checks::recovery::remote_now(self, &remote, &home);
            }
        }
        self.look_at_what_is_aside(&remote);
    }

    /// The local unit is dead from now on, say: what would it come up with?
    fn look_at_what_is_left(&self) {
        for site in self.sites() {
            checks::recovery::local_now(self, &site);
        }
    }

    /// Nothing connects for a while, so that journals overflow.
    fn outage(&self) {
        self.stats.count("outages");
        let before = self.net.weather();
        self.net.set_weather(Weather { up: false, ..before });
        if self.chance(50) {
            self.net.cut();
        } else {
            self.net.freeze();
        }
        let lasts = Duration::from_micros(self.draw(5_000_000));
        self.outage_ends.set(Some(Instant::now() + lasts));
    }

    /// The network comes back, if it is time.
    pub(crate) fn end_outage(&self, at_once: bool) {
        let ends = self.outage_ends.get();
        if ends.is_some_and(|ends| at_once || ends <= Instant::now()) {
            self.outage_ends.set(None);
            let before = self.net.weather();
            self.net.set_weather(Weather { up: true, ..before });
        }
    }

    async fn restart_cleanly(self: &Rc<Self>) {
        self.stats.count("clean restarts");
        if self.chance(50) {
            local::shut_down(self).await;
            self.plan_restart("local");
        } else {
            let remote = self.a_remote();
            remote::shut_down(self, &remote).await;
            self.plan_restart(&remote.name);
        }
    }

    /// A remote is taken out of the configuration, or put back; it takes effect when the unit starts again. What the
    /// volume knew of it is forgotten then, so its operator gives up its replica.
    async fn change_remotes(self: &Rc<Self>) {
        self.stats.count("changes of configured remotes");
        let (site, remote) = (self.pick(&self.sites()), self.a_remote());
        let known = site
            .remotes
            .borrow()
            .iter()
            .position(|known| *known == remote.name);
        if let Some(at) = known {
            site.remotes.borrow_mut().remove(at);
            site.maps.borrow_mut().remove(&remote.name);
        } else {
            remote::shut_down(self, &remote).await;
            if remote.process().is_some_and(|process| !process.is_dead()) {
                return;
            }
            remote.homes.lock().remove(&site.name);
            self.give_up(&site, &remote);
            if self.chance(50) {
                self.bring_a_seed(&site, &remote);
            } else {
                remote.directory(&site.name).lay_down(None);
            }
            site.remotes.borrow_mut().push(remote.name.clone());
            self.plan_restart(&remote.name);
        }
        if let Some(process) = &self.local.borrow().process {
            process.die(Death::Killed);
        }
    }

    async fn mishap_of_its_kind(self: &Rc<Self>) {
        match self.kind {
            Kind::Plain => self.kill_local(),
            Kind::Faults => self.plan_fault(),
            Kind::Flips => self.flip(),
            Kind::OldCopies if self.chance(40) => self.old_copy_of_the_volume().await,
            Kind::OldCopies => self.old_copy().await,
        }
    }

    fn plan_fault(&self) {
        let fault = self.pick(&[
            Fault::Read,
            Fault::Write,
            Fault::NoSpace,
            Fault::Sync,
            Fault::Sync,
        ]);
        self.stats
            .trace("world", || format!("a disk is going to fail: {fault:?}"));
        let calls = self.draw(30);
        if self.chance(50) {
            let site = self.pick(&self.sites());
            site.faulty.set(true);
            self.pick(&site.platters()).plan(fault, calls);
        } else {
            let homes: Vec<_> = self.a_remote().homes.lock().values().cloned().collect();
            if !homes.is_empty() {
                let home = self.pick(&homes);
                if self.chance(25) {
                    home.past_is_ill.store(true, Ordering::Relaxed);
                    home.past.plan(fault, calls);
                } else {
                    home.faulty.store(true, Ordering::Relaxed);
                    self.pick(&home.platters()).plan(fault, calls);
                }
            }
        }
    }

    fn flip(&self) {
        let mut random = self.random.borrow_mut();
        if random.chance(50) {
            let site = random.pick(&self.sites()).clone();
            if site
                .journal
                .flip_bit(&mut random, RING_OFFSET..site.journal.bytes)
            {
                site.flips.set(site.flips.get() + 1);
            }
        } else {
            let homes: Vec<_> = random
                .pick(&self.remotes)
                .homes
                .lock()
                .values()
                .cloned()
                .collect();
            if random.chance(25)
                && let Some(home) = homes.first()
            {
                home.past_is_ill.store(true, Ordering::Relaxed);
                home.past_is_damaged.store(true, Ordering::Relaxed);
                home.past.flip_bit(&mut random, RING_OFFSET..home.past.bytes);
            } else if !homes.is_empty()
                && let home = random.pick(&homes)
                && home
                    .journal
                    .flip_bit(&mut random, RING_OFFSET..home.journal.bytes)
            {
                home.hurt.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Takes a copy of a unit's disks while it is down, or puts one back.
    async fn old_copy(self: &Rc<Self>) {
        let remote = self.a_remote();
        let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
        if homes.is_empty() {
            return;
        }
        let home = self.pick(&homes);
        remote::shut_down(self, &remote).await;
        if remote.process().is_some() {
            return;
        }
        if remote.directory(&home.name).handed_over().is_some() {
            return self.plan_restart(&remote.name);
        }
        let mut backups = self.backups.borrow_mut();
        let copies = backups
            .entry(format!("{}/{}", remote.name, home.name))
            .or_default();
        // One of a replica that was made anew since, with a journal of another size, does not fit its disk.
        let fit = |(journal, _): &&(Arc<Platter>, Arc<Platter>)| journal.bytes == home.journal.bytes;
        let fitting: Vec<_> = copies.iter().filter(fit).cloned().collect();
        let restore = !fitting.is_empty() && self.chance(60);
        if restore {
            self.stats.count("old copies put back");
            let (journal, image) = self.pick(&fitting);
            home.journal.restore(&journal);
            home.tail.forget();
            home.image.restore(&image);
            home.reached.store(0, Ordering::Relaxed);
            home.went_back.store(true, Ordering::Relaxed);
            let site = self.sites().into_iter().find(|site| site.name == home.name);
            if let Some(site) = site {
                self.tell_branches_apart(&site);
            }
            for site in self.sites().iter().filter(|site| site.name == home.name) {
                site.confirmed.borrow_mut().remove(&remote.name);
            }
        } else {
            let mut random = self.random.borrow_mut();
            copies.push((
                home.journal.fork(false, &mut random),
                home.image.fork(false, &mut random),
            ));
        }
        drop(backups);
        self.plan_restart(&remote.name);
    }

    /// Takes a copy of the volumes' disks while nobody uses them, or puts one back: the volume goes back in time.
    async fn old_copy_of_the_volume(self: &Rc<Self>) {
        local::shut_down(self).await;
        if self.local.borrow().process.is_some() {
            return;
        }
        let site = self.pick(&self.sites());
        let restore = !site.backups.borrow().is_empty() && self.chance(60);
        if restore {
            self.stats.count("volumes that went back in time");
            site.go_back(|remote| {
                let home = self.remote(remote)?.home(&site.name)?;
                checks::recovery::held_by(&home)
            });
            self.tell_branches_apart(&site);
            // A replica whose copy was under way is copied anew, from there.
            for home in self.remotes.iter().filter_map(|remote| remote.home(&site.name)) {
                home.reached
                    .fetch_min(site.history.lock().last(), Ordering::Relaxed);
            }
            // An old copy that was left cleanly goes on in its epoch.
            self.seen.borrow_mut().clear();
        } else {
            site.back_up(&mut self.random.borrow_mut());
        }
        self.plan_restart("local");
    }
}
