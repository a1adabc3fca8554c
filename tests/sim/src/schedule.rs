//! Who runs next: all tasks of a world on one thread, in an order that the seed decides.
//!
//! A task runs until it waits for something. While one is inside a call to a disk, [`at_device`] may run others
//! before that call has its effect, as threads of the product would; it takes only those that cannot come to wait
//! for a lock that the interrupted call holds, which it knows from [`Store::under_way`](farside_storage::Store::under_way).

use crate::process::Process;
use farside_storage::UnderWay;
use farside_tests::random::Random;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Polls after which the runtime gets a turn of its own.
const TURN: u32 = 64;
/// How deep calls to disks interrupt each other.
const MAX_DEPTH: u32 = 4;
/// One in so many interruptions wakes everybody who rests.
const NUDGE: u64 = 4;
/// Fewer others than this may go while one call to a disk hangs.
const HANG: u64 = 1000;
/// One in so many of those who rest is not woken any more while a call to a disk hangs.
const FALL_ASLEEP: u64 = 8;
/// How often, in a thousand, a call to a disk hangs on a thread that is held up.
const HELD_UP: u64 = 400;
/// A sync hangs so many times as often as a read.
const HANGING_SYNCS: u64 = 2;

type Future0 = Pin<Box<dyn Future<Output = ()>>>;

/// What a task must find free to run while another one is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// It never waits for a lock of a store.
    Nothing,
    /// These steps of its process's stores must not be under way.
    Free(UnderWay),
    /// It appends through a volume's queue: no chunk must be on its way to a journal but one of that queue's, behind
    /// which it waits.
    Queue,
    /// It runs only when nothing is interrupted.
    Everything,
}

struct Task {
    future: Future0,
    signal: Arc<Signal>,
    process: Arc<Process>,
    needs: Needs,
}

/// Wakes one task, and whoever looks for a task to run.
struct Signal {
    ready: AtomicBool,
    root: Arc<Root>,
}

#[derive(Default)]
struct Root {
    waker: parking_lot::Mutex<Option<Waker>>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.ready.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.root.waker.lock().take()
        {
            waker.wake();
        }
    }
}

/// The tasks of one world.
pub struct Schedule {
    tasks: RefCell<Vec<Task>>,
    random: RefCell<Random>,
    root: Arc<Root>,
    depth: Cell<u32>,
    /// The tasks that are being polled, the interrupted ones first.
    polled: RefCell<Vec<(Arc<Process>, Needs)>>,
    /// How often, in a thousand, a call to a disk is interrupted.
    interrupt_permille: Cell<u64>,
    interrupts: Cell<u64>,
    /// How often, in a thousand, a read hangs; a sync, of which there are fewer, hangs more often.
    hang_permille: u64,
    hangs: Cell<u64>,
    /// The same for what a thread does that is held up all the time.
    held_up_permille: Cell<u64>,
    /// Those who rest, and how often they were woken before their time.
    resting: RefCell<Vec<Waker>>,
    nudges: Cell<u64>,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Schedule {{ tasks: {} }}", self.tasks.borrow().len())
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Schedule>>> = const { RefCell::new(None) };
}

/// The schedule of the world that runs on this thread.
///
/// # Panics
/// Outside a world.
#[must_use]
pub fn current() -> Rc<Schedule> {
    CURRENT.with(|current| current.borrow().clone().expect("called inside a world"))
}

/// A task of this process in the present world.
pub fn spawn(process: &Arc<Process>, needs: Needs, future: impl Future<Output = ()> + 'static) {
    current().add(process, needs, Box::pin(future));
}

/// A number below `bound` that the schedule's seed decides.
#[must_use]
pub fn draw(bound: u64) -> u64 {
    current().random.borrow_mut().below(bound)
}

/// Waits for so long in simulated time, or less: while a call to a disk is interrupted no time passes, and what
/// others would do a little later may as well happen in the middle of it.
pub async fn rest(longest: Duration) {
    let mut sleep = std::pin::pin!(tokio::time::sleep(longest));
    let seen = current().nudges.get();
    poll_fn(|context| {
        let schedule = current();
        if schedule.nudges.get() != seen || sleep.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut resting = schedule.resting.borrow_mut();
        resting.retain(|waker| !waker.will_wake(context.waker()));
        resting.push(context.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Whether a call to a disk is being interrupted.
#[must_use]
pub fn is_interrupting() -> bool {
    current().depth.get() > 0
}

/// A call to a disk begins: others may go first.
pub fn at_device() {
    let schedule = CURRENT.with(|current| current.borrow().clone());
    if let Some(schedule) = schedule {
        schedule.interrupt();
    }
}

/// Does what a thread does that is held up at each disk.
pub fn held_up(work: impl FnOnce()) {
    let schedule = current();
    let before = schedule.held_up_permille.replace(HELD_UP);
    work();
    schedule.held_up_permille.set(before);
}

/// A disk is going to be read or, as `is_sync` says, synced: that may take so long that everything else is far ahead then.
pub fn at_slow_call(is_sync: bool) {
    let schedule = CURRENT.with(|current| current.borrow().clone());
    if let Some(schedule) = schedule {
        schedule.hang(if is_sync { HANGING_SYNCS } else { 1 });
    }
}

impl Schedule {
    /// Makes a schedule the present thread's and runs `world` and everything it spawns until `world` ends.
    /// A call to a disk is interrupted, and a read hangs, so often in a thousand. Gives also how often calls were and did.
    pub async fn run<T>(
        seed: u64,
        (interrupt_permille, hang_permille): (u64, u64),
        world: impl Future<Output = T>,
    ) -> (T, (u64, u64)) {
        let schedule = Rc::new(Self {
            tasks: RefCell::default(),
            random: RefCell::new(Random::new(seed ^ 0x5c4e_d01e)),
            root: Arc::default(),
            depth: Cell::new(0),
            polled: RefCell::default(),
            interrupt_permille: Cell::new(interrupt_permille),
            interrupts: Cell::new(0),
            hang_permille,
            hangs: Cell::new(0),
            held_up_permille: Cell::new(0),
            resting: RefCell::default(),
            nudges: Cell::new(0),
        });
        CURRENT.with(|current| *current.borrow_mut() = Some(schedule.clone()));
        let cleared = Cleared;
        let mut world = Box::pin(world);
        let result = poll_fn(|context| {
            *schedule.root.waker.lock() = Some(context.waker().clone());
            if let Poll::Ready(result) = world.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            schedule.turn(context)
        });
        let result = tokio::task::unconstrained(result).await;
        schedule.clear();
        drop(cleared);
        (result, (schedule.interrupts.get(), schedule.hangs.get()))
    }

    /// Runs ready tasks until none is left, or for long enough that timers have to be looked at.
    fn turn<T>(&self, context: &Context<'_>) -> Poll<T> {
        for _ in 0..TURN {
            if !self.poll_one(|_| true) {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn add(&self, process: &Arc<Process>, needs: Needs, future: Future0) {
        let signal = Arc::new(Signal {
            ready: AtomicBool::new(false),
            root: self.root.clone(),
        });
        signal.wake_by_ref();
        self.tasks.borrow_mut().push(Task {
            future,
            signal,
            process: process.clone(),
            needs,
        });
    }

    /// Polls one ready task that fits; false if there is none.
    fn poll_one(&self, fits: impl Fn(&Task) -> bool) -> bool {
        let mut task = {
            let mut tasks = self.tasks.borrow_mut();
            let ready = |task: &Task| task.signal.ready.load(Ordering::Acquire) && fits(task);
            let count = tasks.iter().filter(|task| ready(task)).count() as u64;
            if count == 0 {
                return false;
            }
            let chosen = self.random.borrow_mut().below(count);
            let nth = usize::try_from(chosen).unwrap_or(0);
            let at = tasks.iter().enumerate().filter(|(_, task)| ready(task)).nth(nth);
            let at = at
                .map(|(at, _)| at)
                .expect("there are more ready tasks than the number drawn");
            tasks.swap_remove(at)
        };
        task.signal.ready.store(false, Ordering::Release);
        let waker = Waker::from(task.signal.clone());
        self.polled.borrow_mut().push((task.process.clone(), task.needs));
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        self.polled.borrow_mut().pop();
        if polled.is_pending() && !task.process.is_dead() {
            self.tasks.borrow_mut().push(task);
        }
        true
    }

    fn interrupt(&self) {
        let depth = self.depth.get();
        if depth >= MAX_DEPTH {
            return;
        }
        while self.random.borrow_mut().below(1000) < self.interrupt_permille.get() {
            if self.random.borrow_mut().below(NUDGE) == 0 {
                self.nudge();
            }
            if !self.run_another() {
                return;
            }
            self.interrupts.set(self.interrupts.get() + 1);
        }
    }

    /// Wakes everybody who rests.
    fn nudge(&self) {
        self.nudges.set(self.nudges.get() + 1);
        let resting = self.resting.take();
        resting.into_iter().for_each(Waker::wake);
    }

    /// Runs one task in the middle of a call; false if there is none that may.
    fn run_another(&self) -> bool {
        let depth = self.depth.get();
        self.depth.set(depth + 1);
        let ran = self.poll_one(|task| self.may_interrupt(task));
        self.depth.set(depth);
        ran
    }

    fn hang(&self, often: u64) {
        let permille = self.hang_permille * often + self.held_up_permille.get();
        if self.depth.get() > 0 || self.random.borrow_mut().below(1000) >= permille {
            return;
        }
        self.hangs.set(self.hangs.get() + 1);
        let others = self.random.borrow_mut().below(HANG);
        // Some of the others hang as well, from some moment on: else all would stay about as far as each other.
        let mut asleep = Vec::new();
        for _ in 0..others {
            if !self.run_another() {
                let resting = self.resting.take();
                let falls_asleep = |_: &Waker| self.random.borrow_mut().below(FALL_ASLEEP) == 0;
                let (sleepers, awake): (Vec<_>, Vec<_>) = resting.into_iter().partition(falls_asleep);
                asleep.extend(sleepers);
                *self.resting.borrow_mut() = awake;
                self.nudge();
            }
        }
        self.resting.borrow_mut().extend(asleep);
    }

    fn may_interrupt(&self, task: &Task) -> bool {
        if task.process.is_dead() {
            return false;
        }
        match task.needs {
            Needs::Nothing => true,
            Needs::Everything => false,
            Needs::Queue => {
                let polled = self.polled.borrow();
                let mut others = polled
                    .iter()
                    .filter(|(process, _)| Arc::ptr_eq(process, &task.process));
                others.all(|(_, needs)| *needs == Needs::Queue) || !task.process.under_way().appending
            }
            Needs::Free(free) => {
                let busy = task.process.under_way();
                !((free.appending && busy.appending)
                    || (free.syncing && busy.syncing)
                    || (free.draining && busy.draining)
                    || (free.recording && busy.recording)
                    || (free.remembering && busy.remembering))
            }
        }
    }

    /// Ends all tasks of a process. One that is being polled ends when it is left.
    pub fn end_tasks_of(&self, process: &Arc<Process>) {
        let mut gone = Vec::new();
        {
            let mut tasks = self.tasks.borrow_mut();
            let mut kept = Vec::with_capacity(tasks.len());
            for task in tasks.drain(..) {
                if Arc::ptr_eq(&task.process, process) {
                    gone.push(task);
                } else {
                    kept.push(task);
                }
            }
            *tasks = kept;
        }
        // Dropped without the list being held: what they own may wake others.
        drop(gone);
    }

    fn clear(&self) {
        while let Some(task) = { self.tasks.borrow_mut().pop() } {
            drop(task);
        }
    }
}

/// Takes the schedule off the thread, also when the world panics.
struct Cleared;

impl Drop for Cleared {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = None);
    }
}
