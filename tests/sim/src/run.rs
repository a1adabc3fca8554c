//! Runs worlds: one with its trace, or many on all cores.

use crate::world;
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// No world takes so long, in real time, however busy the machine is: one that does never ends.
const LONGEST: Duration = Duration::from_mins(1);

thread_local! {
    /// The first panic of the world on this thread, also of a task that caught it.
    static BROKEN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are kept for the report instead of printed, on threads that run worlds.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some("world") {
                return before(info);
            }
            let place = info.location().map_or_else(String::new, |place| {
                format!(" ({}:{})", place.file(), place.line())
            });
            let text = format!("{}{place}", text_of(info.payload()));
            BROKEN.with(|broken| _ = broken.borrow_mut().get_or_insert(text));
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

/// A promise that a world saw broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The world.
    pub seed: u64,
    /// The promise.
    pub text: String,
}

/// What many worlds came to.
#[derive(Debug, Default)]
pub struct Totals {
    /// Worlds that ended.
    pub worlds: u64,
    /// Operations whose outcome was checked.
    pub operations: u64,
    /// Simulated seconds.
    pub simulated_s: f64,
    /// Events by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Worlds that saw a promise broken.
    pub broken: Vec<Broken>,
}

/// The worlds under way, and since when.
static UNDER_WAY: Mutex<Vec<(u64, Instant)>> = Mutex::new(Vec::new());

/// A world under way: nobody can interrupt one that never ends, so the program ends, and says which one it was.
struct Watched(u64);

impl Watched {
    #[expect(clippy::disallowed_methods, reason = "how long a world takes is real time")]
    fn new(seed: u64) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let watchdog = std::thread::Builder::new().name("watchdog".to_owned());
            watchdog.spawn(watch).expect("a thread can be started");
        });
        under_way().push((seed, Instant::now()));
        Self(seed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        under_way().retain(|(seed, _)| *seed != self.0);
    }
}

fn under_way() -> std::sync::MutexGuard<'static, Vec<(u64, Instant)>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::print_stdout,
    reason = "the report of a world that cannot report itself"
)]
#[expect(clippy::exit, reason = "nothing else ends a world that never ends")]
fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let overdue = under_way()
            .iter()
            .find(|(_, since)| since.elapsed() > LONGEST)
            .copied();
        if let Some((seed, _)) = overdue {
            println!(
                "seed {seed}: did not end within {} s of real time",
                LONGEST.as_secs()
            );
            println!("  see it: make sim SEED={seed}");
            std::process::exit(1);
        }
    }
}

fn one(seed: u64, traced: bool, totals: &mut Totals) {
    let _watched = Watched::new(seed);
    BROKEN.with(|broken| broken.borrow_mut().take());
    let outcome = catch_unwind(AssertUnwindSafe(|| world::run(seed, traced)));
    totals.worlds += 1;
    if let Some(text) = BROKEN.with(|broken| broken.borrow_mut().take()) {
        totals.broken.push(Broken { seed, text });
    }
    if let Ok(outcome) = outcome {
        totals.operations += outcome.operations;
        totals.simulated_s += outcome.lasted.as_secs_f64();
        for (what, count) in outcome.counts {
            *totals.counts.entry(what).or_default() += count;
        }
    }
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.operations += other.operations;
        self.simulated_s += other.simulated_s;
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.broken.extend(other.broken);
    }
}

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Ends [`many`] after the worlds that are under way.
pub fn stop() {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Runs the worlds of these seeds on so many threads; stops early once `enough` were broken.
///
/// # Panics
/// When a thread cannot be started.
#[must_use]
pub fn many(
    seeds: std::ops::Range<u64>,
    threads: usize,
    enough: usize,
    progress: &(dyn Fn(u64, usize) + Sync),
) -> Totals {
    keep_panics();
    let (next, broken, done) = (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut totals = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if STOPPED.load(Ordering::Relaxed)
                || seed >= seeds.end
                || usize::try_from(broken.load(Ordering::Relaxed)).unwrap_or(usize::MAX) >= enough
            {
                return totals;
            }
            let before = totals.broken.len();
            one(seed, false, &mut totals);
            broken.fetch_add((totals.broken.len() - before) as u64, Ordering::Relaxed);
            let ended = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress(
                ended,
                usize::try_from(broken.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
            );
        }
    };
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        let start = || {
            let builder = std::thread::Builder::new().name("world".to_owned());
            builder
                .spawn_scoped(scope, work)
                .expect("a thread can be started")
        };
        let threads: Vec<_> = (0..threads).map(|_| start()).collect();
        for thread in threads {
            totals.add(thread.join().expect("a world's panic is caught"));
        }
    });
    totals.broken.sort_by_key(|broken| broken.seed);
    totals
}

/// Runs one world with its trace.
///
/// # Panics
/// When its thread cannot be started.
#[must_use]
pub fn traced(seed: u64) -> Totals {
    alone(seed, true)
}

/// Runs one world without its trace.
///
/// # Panics
/// When its thread cannot be started.
#[must_use]
pub fn single(seed: u64) -> Totals {
    alone(seed, false)
}

fn alone(seed: u64, traced: bool) -> Totals {
    keep_panics();
    let run = move || {
        let mut totals = Totals::default();
        one(seed, traced, &mut totals);
        totals
    };
    let thread = std::thread::Builder::new().name("world".to_owned()).spawn(run);
    thread
        .expect("a thread can be started")
        .join()
        .expect("a world's panic is caught")
}
