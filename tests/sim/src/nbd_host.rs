//! Hosts that speak NBD: the same questions as those of `host.rs`, asked through the product's NBD target, several at a
//! time on one connection, which may go away in the middle.

use crate::checks;
use crate::host::{Question, ask, change};
use crate::local::Site;
use crate::net::{End, ReadEnd, WriteEnd};
use crate::process::Process;
use crate::schedule::{Needs, spawn};
use crate::time::pause_us;
use crate::world::World;
use farside::targets::Disk;
use farside::targets::nbd::{Service, serve};
use farside::targets::{Export, Exports, Listener, ScsiAddress};
use farside::volume::Volume;
use farside_protocol::nbd::{OPTION_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC};
use farside_tests::random::Random;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Join};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted.
const WAITING: usize = 16;
/// The option `GO` and the reply that ends the negotiation (NBD specification, "Option types", "Option reply types").
const GO: u32 = 7;
const ACK: u32 = 1;
const NO_HOLE: u16 = 1 << 1;
const FUA: u16 = 1;

struct SimListener(Mutex<mpsc::Receiver<End>>);

impl Listener for SimListener {
    type Stream = Join<ReadEnd, WriteEnd>;

    async fn accept(&self) -> io::Result<(Self::Stream, String)> {
        match self.0.lock().await.recv().await {
            Some((read, write)) => Ok((tokio::io::join(read, write), "host".to_owned())),
            None => std::future::pending().await,
        }
    }
}

struct OneExport(String, Arc<Volume>);

impl Exports for OneExport {
    type Disk = Volume;

    fn find(&self, name: &str) -> Option<Export<Volume>> {
        (name == self.0).then(|| Export {
            name: name.to_owned(),
            description: String::new(),
            requires_tls: false,
            uuid: [1; 16],
            scsi: ScsiAddress::of_its_own("disk"),
            disk: self.1.clone(),
        })
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
}

/// Serves a volume over NBD and starts its hosts.
pub fn start(world: &Rc<World>, process: &Arc<Process>, site: &Rc<Site>, volume: &Arc<Volume>) {
    let (dial, accept) = mpsc::channel(WAITING);
    let exports = Arc::new(OneExport(site.name.clone(), volume.clone()));
    let serving = serve(
        SimListener(Mutex::new(accept)),
        Service::new(exports),
        CancellationToken::new(),
    );
    spawn(process, Needs::Everything, serving);
    for _ in 0..world.hosts {
        let host = Host {
            world: world.clone(),
            process: process.clone(),
            site: site.clone(),
            volume: volume.clone(),
            random: Random::new(world.random.borrow_mut().next_u64()),
            dial: dial.clone(),
        };
        spawn(process, Needs::Nothing, host.work());
    }
}

struct Host {
    world: Rc<World>,
    process: Arc<Process>,
    site: Rc<Site>,
    volume: Arc<Volume>,
    random: Random,
    dial: mpsc::Sender<End>,
}

/// A question on its way.
struct Open {
    question: Question,
    /// Its number in the history, if it changes something.
    number: Option<u64>,
    /// The oldest state it may show, or what it has to cover.
    from: u64,
    asked: Instant,
    _waiting: checks::waiting::Waiting,
}

impl Host {
    async fn work(mut self) {
        while self.world.hosts_go_on() && !self.process.is_dead() {
            let Some((here, there)) = self
                .world
                .host_net
                .connect(&self.world.hosts_machine, &self.process)
            else {
                return;
            };
            if self.dial.send(there).await.is_err() {
                return;
            }
            if let Err(error) = self.converse(here).await {
                self.world
                    .stats
                    .trace(&self.site.name, || format!("a host's connection ended: {error}"));
            }
            let pause = self.random.below(50_000);
            pause_us(pause).await;
        }
    }

    async fn converse(&mut self, (mut from, mut to): End) -> io::Result<()> {
        negotiate(&mut from, &mut to, &self.site.name).await?;
        let mut cookie = 0;
        // Many hosts ask for one thing at a time, and the target treats them in a way of their own.
        let most = if self.random.chance(40) { 1 } else { 4 };
        let mut pair = most == 1 && self.random.chance(50);
        let mut flush = false;
        while self.world.hosts_go_on() {
            let pause = self.random.below(self.world.think_us);
            pause_us(pause).await;
            let mut open = BTreeMap::new();
            for _ in 0..self.random.between(1, most) {
                cookie += 1;
                // Some flush after each change, as a database does, until they do something else now and then.
                pair ^= most == 1 && self.random.chance(2);
                let mut question = match (pair, flush) {
                    (false, _) => ask(&mut self.random, self.site.volume_bytes()),
                    (true, false) => change(&mut self.random, self.site.volume_bytes()),
                    (true, true) => Question::Flush,
                };
                self.site.history.lock().repeat(&mut self.random, &mut question);
                flush = matches!(question, Question::Change { .. });
                let bytes = self.request(cookie, &question);
                self.world
                    .stats
                    .trace("host", || format!("asks {cookie}: {question}"));
                open.insert(cookie, self.note(question));
                to.write_all(&bytes).await?;
            }
            if self.random.chance(3) {
                // It goes away with questions open; nobody will ever tell it what became of them.
                return Ok(());
            }
            while !open.is_empty() {
                self.reply(&mut from, &mut open).await?;
            }
        }
        Ok(())
    }

    fn note(&self, question: Question) -> Open {
        let from = match &question {
            Question::Read { .. } => checks::reads::begun(&self.site, &self.volume),
            Question::Change { .. } | Question::Flush => self.site.history.lock().acknowledged,
        };
        let mut history = self.site.history.lock();
        let number = match &question {
            Question::Change {
                offset, bytes, kind, ..
            } => Some(history.ask(*offset, bytes.clone(), *kind)),
            Question::Read { .. } | Question::Flush => None,
        };
        Open {
            question,
            number,
            from,
            asked: Instant::now(),
            _waiting: checks::waiting::Waiting::new(&self.site),
        }
    }

    fn request(&mut self, cookie: u64, question: &Question) -> Vec<u8> {
        use farside_protocol::journal::RecordKind;
        let (flags, command, offset, length, payload): (u16, u16, u64, usize, &[u8]) = match question {
            Question::Read { offset, length } => (0, 0, *offset, *length as usize, &[]),
            Question::Flush => (0, 3, 0, 0, &[]),
            Question::Change {
                offset,
                bytes,
                kind,
                durable,
            } => {
                let fua = if *durable { FUA } else { 0 };
                match kind {
                    RecordKind::Trim => (fua, 4, *offset, bytes.len(), &[]),
                    RecordKind::Zero { allocate } => {
                        let no_hole = if *allocate { NO_HOLE } else { 0 };
                        (fua | no_hole, 6, *offset, bytes.len(), &[])
                    }
                    RecordKind::Write | RecordKind::Mark(_) => (fua, 1, *offset, bytes.len(), bytes),
                }
            }
        };
        let mut out = Vec::with_capacity(28 + payload.len());
        out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&command.to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    async fn reply(&self, from: &mut ReadEnd, open: &mut BTreeMap<u64, Open>) -> io::Result<()> {
        let magic = from.read_u32().await?;
        let (error, cookie) = (from.read_u32().await?, from.read_u64().await?);
        assert_eq!(magic, SIMPLE_REPLY_MAGIC, "no reply of NBD");
        let answered = open.remove(&cookie).expect("an answer belongs to a question");
        let mut found = Vec::new();
        if let (Question::Read { length, .. }, 0) = (&answered.question, error) {
            found.resize(*length as usize, 0);
            from.read_exact(&mut found).await?;
        }
        if self.process.is_dead() {
            self.judge_last_words(&answered, error);
            return Ok(());
        }
        self.world.stats.trace("host", || {
            format!("answer to {cookie}: error {error}, {}", answered.question)
        });
        checks::waiting::answered(&self.site, answered.asked.elapsed());
        self.world.stats.checked();
        if error != 0 {
            let failure = self.volume.store().failure();
            let excused =
                self.site.faulty.get() || self.site.is_hurt() || self.volume.closing().is_cancelled();
            assert!(excused, "{} answered error {error}: {failure:?}", self.site.name);
        }
        self.judge(&answered, error == 0, &found);
        Ok(())
    }

    /// What was answered before the unit died, and read only now, is as true.
    fn judge_last_words(&self, answered: &Open, error: u32) {
        let serving = self.site.volume.borrow();
        let is_buried = !serving
            .as_ref()
            .is_some_and(|volume| Arc::ptr_eq(volume, &self.volume));
        if error == 0 && !is_buried && !matches!(answered.question, Question::Read { .. }) {
            self.judge(answered, true, &[]);
        }
    }

    fn judge(&self, answered: &Open, done: bool, found: &[u8]) {
        match (&answered.question, answered.number) {
            (Question::Change { durable, .. }, Some(number)) => {
                let mut history = self.site.history.lock();
                let covered = if *durable { history.durable() } else { u64::MAX };
                let last = history.answered(number, done, covered);
                drop(history);
                if done && *durable {
                    checks::durability::flushed(&self.site, last);
                }
            }
            (Question::Flush, _) if done => checks::durability::flushed(&self.site, answered.from),
            (Question::Read { offset, .. }, _) if done => {
                checks::reads::ended(&self.site, *offset, found, answered.from);
            }
            _ => {}
        }
    }
}

async fn negotiate(from: &mut ReadEnd, to: &mut WriteEnd, export: &str) -> io::Result<()> {
    let mut greeting = [0; 18];
    from.read_exact(&mut greeting).await?;
    let mut out = Vec::new();
    out.extend_from_slice(&3_u32.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&GO.to_be_bytes());
    let name = export.as_bytes();
    let length = u32::try_from(name.len()).unwrap_or(0);
    out.extend_from_slice(&(4 + length + 2).to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(&0_u16.to_be_bytes());
    to.write_all(&out).await?;
    loop {
        let (_magic, _option) = (from.read_u64().await?, from.read_u32().await?);
        let (kind, length) = (from.read_u32().await?, from.read_u32().await?);
        let mut data = vec![0; length as usize];
        from.read_exact(&mut data).await?;
        if kind == ACK {
            return Ok(());
        }
        if kind & (1 << 31) != 0 {
            return Err(io::Error::other(format!("the export was refused: {kind:#x}")));
        }
    }
}
