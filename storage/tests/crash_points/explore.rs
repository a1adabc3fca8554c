//! Stops a recorded run at every event, in every way that counts, and has each state that is left checked.
//!
//! Two kinds of end. Loss of power: what was synced, and any subset of the rest. Death of the process: everything
//! up to the event, also in the middle of a call; what was not durable then is still not, and a later loss of power
//! may take it. A state that was checked under the same promises is not checked again.

use crate::machine::{Event, Machine, mix};
use crate::recorder::Tape;
use crate::subsets::{Effort, from_text, to_text};
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Loss of power.
    Power,
    /// Death of the process.
    Kill,
}

/// One state among those of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Events that happened before.
    event: usize,
    crash: Crash,
    /// Units that survive, or how many parts of the next event happened.
    kept: String,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crash = if self.crash == Crash::Power {
            "power"
        } else {
            "kill"
        };
        write!(formatter, "{}/{crash}/{}", self.event, self.kept)
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let [event, crash, kept] = parts[..] else {
            return Err(format!("{text} is not EVENT/power|kill/SUBSET"));
        };
        let crash = if crash == "power" {
            Crash::Power
        } else {
            Crash::Kill
        };
        Ok(Self {
            event: event.parse().map_err(|error| format!("{event}: {error}"))?,
            crash,
            kept: kept.to_owned(),
        })
    }
}

/// What a run promised and how a state is held against it.
pub(crate) trait Subject {
    /// A number for everything in a promise that a check after such a crash depends on.
    fn key(&self, promise: usize, crash: Crash) -> u64;

    /// Opens what a crash left and checks it; `deep`: follow its recovery, too. Returns the states checked inside.
    fn check(&self, machine: &Machine, promise: usize, crash: Crash, deep: bool) -> Result<u64, String>;
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// States after a loss of power.
    pub(crate) power: u64,
    /// States after the death of the process.
    pub(crate) kill: u64,
    /// States after a second crash, during or after recovery.
    pub(crate) second: u64,
    /// States whose recovery was followed.
    pub(crate) deep: u64,
}

/// A state that breaks a promise.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Which one.
    pub(crate) place: Place,
    /// Where in the run, and what is wrong.
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "state {}, {}", self.place, self.text)
    }
}

impl Failure {
    fn at(self, words: impl fmt::Display) -> Self {
        Self {
            text: format!("{words}: {}", self.text),
            ..self
        }
    }
}

struct Explorer<'a> {
    subject: &'a dyn Subject,
    effort: Effort,
    only: Option<Place>,
    seen: HashSet<u64>,
    counts: Counts,
}

/// Checks every state, or only the one named.
pub(crate) fn explore(
    tape: &Tape,
    subject: &dyn Subject,
    effort: Effort,
    only: Option<Place>,
) -> Result<Counts, Failure> {
    let mut explorer = Explorer {
        subject,
        effort,
        only,
        seen: HashSet::new(),
        counts: Counts::default(),
    };
    let (mut machine, mut promise) = (tape.start.clone(), 0);
    let place = |event: usize| format!("event {event} of {}", tape.events.len());
    for (number, event) in tape.events.iter().enumerate() {
        for (part, done) in machine.parts(event).iter().enumerate() {
            let mut torn = machine.clone();
            torn.apply(done);
            explorer
                .kill(number, part + 1, &torn, promise)
                .map_err(|failure| {
                    failure.at(format!("{}, in the middle of the {event:?}", place(number)))
                })?;
        }
        machine.apply(event);
        if let Event::Promise(number) = event {
            promise = *number;
        }
        explorer
            .point(number + 1, &machine, promise)
            .map_err(|failure| failure.at(format!("{}, after the {event:?}", place(number + 1))))?;
    }
    Ok(explorer.counts)
}

impl Explorer<'_> {
    fn point(&mut self, event: usize, machine: &Machine, promise: usize) -> Result<(), Failure> {
        self.kill(event, 0, machine, promise)?;
        let subsets = match &self.only {
            Some(only) if only.event == event => vec![from_text(&only.kept, machine.pending())],
            Some(_) => return Ok(()),
            None => self.effort.subsets(machine, event as u64),
        };
        let promised = self.subject.key(promise, Crash::Power);
        for kept in subsets {
            if self.is_new(mix(machine.key(&kept), promised)) {
                let kept_text = to_text(&kept);
                let place = Place {
                    event,
                    crash: Crash::Power,
                    kept: kept_text,
                };
                self.visit(&place, &machine.lose_power(&kept), promise)?;
            }
        }
        Ok(())
    }

    fn kill(&mut self, event: usize, part: usize, machine: &Machine, promise: usize) -> Result<(), Failure> {
        let all = vec![true; machine.pending()];
        // What is durable of it matters for a later loss of power.
        let key = mix(machine.key(&all), mix(machine.key(&[]), 1));
        let place = Place {
            event,
            crash: Crash::Kill,
            kept: part.to_string(),
        };
        if self.is_new(mix(key, self.subject.key(promise, Crash::Kill))) {
            self.visit(&place, machine, promise)?;
        }
        Ok(())
    }

    /// Whether a state is seen for the first time and belongs to the sample.
    fn is_new(&mut self, key: u64) -> bool {
        let sampled = self.only.is_some() || key.is_multiple_of(self.effort.one_in);
        sampled && self.seen.insert(key)
    }

    fn visit(&mut self, place: &Place, machine: &Machine, promise: usize) -> Result<(), Failure> {
        if self.only.as_ref().is_some_and(|only| only != place) {
            return Ok(());
        }
        let number = self.counts.power + self.counts.kill;
        let every = self.effort.deep_every;
        let deep = self.only.is_some() || (every > 0 && number.is_multiple_of(every));
        match place.crash {
            Crash::Power => self.counts.power += 1,
            Crash::Kill => self.counts.kill += 1,
        }
        self.counts.deep += u64::from(deep);
        let check = || self.subject.check(machine, promise, place.crash, deep);
        let outcome = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!(
                "panicked: {}",
                text.unwrap_or_else(|| "without words".to_owned())
            ))
        });
        self.counts.second += outcome.map_err(|text| Failure {
            place: place.clone(),
            text,
        })?;
        Ok(())
    }
}

impl Counts {
    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        self.power += other.power;
        self.kill += other.kill;
        self.second += other.second;
        self.deep += other.deep;
    }
}
