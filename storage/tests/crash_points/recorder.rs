//! Devices that tell everything done to them to one recorder, in one global order.
//!
//! What is read is what was written, durable or not, as with a page cache. Nothing ever fails here.

use crate::disk::{PAGE_BYTES, index};
use crate::machine::{Event, Machine};
use farside_storage::{Clock, Device, Extent, StorageError};
use parking_lot::Mutex;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What happened to a machine since a moment.
#[derive(Clone)]
pub(crate) struct Tape {
    /// The machine at that moment.
    pub(crate) start: Machine,
    /// What happened then.
    pub(crate) events: Vec<Event>,
}

struct Recording {
    tape: Tape,
    machine: Machine,
}

/// Records what happens to the disks of one machine.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Mutex<Recording>>);

impl Recorder {
    /// Begins with a machine as it is.
    pub(crate) fn new(start: Machine) -> Self {
        let machine = start.clone();
        let tape = Tape {
            start,
            events: Vec::new(),
        };
        Self(Arc::new(Mutex::new(Recording { tape, machine })))
    }

    /// One of its disks.
    pub(crate) fn device(&self, number: usize) -> Arc<dyn Device> {
        Arc::new(Recorded {
            number,
            recorder: self.clone(),
        })
    }

    /// The disks from this number on.
    pub(crate) fn devices_from(&self, number: usize) -> Vec<Arc<dyn Device>> {
        let disks = self.0.lock().machine.disks();
        (number..disks).map(|number| self.device(number)).collect()
    }

    /// Adds an event.
    pub(crate) fn event(&self, event: Event) {
        let mut recording = self.0.lock();
        recording.machine.apply(&event);
        recording.tape.events.push(event);
    }

    /// The machine as it is now.
    pub(crate) fn machine(&self) -> Machine {
        self.0.lock().machine.clone()
    }

    /// Everything recorded so far.
    pub(crate) fn tape(&self) -> Tape {
        self.0.lock().tape.clone()
    }
}

struct Recorded {
    number: usize,
    recorder: Recorder,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "disk {}", self.number)
    }
}

impl Device for Recorded {
    fn name(&self) -> &'static str {
        ["journal", "image", "map 0", "map 1"][self.number]
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        let recording = self.recorder.0.lock();
        recording.machine.current(self.number).read(index(offset), buffer);
        Ok(())
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let mut data = Vec::new();
        for buffer in buffers.iter() {
            data.extend_from_slice(buffer);
        }
        self.recorder
            .event(Event::Write(self.number, offset, data.into()));
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64, _allocate: bool) -> Result<(), StorageError> {
        self.recorder.event(Event::Zero(self.number, offset, length));
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.recorder.event(Event::Sync(self.number));
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent, StorageError> {
        let recording = self.recorder.0.lock();
        let disk = recording.machine.current(self.number);
        let hole = disk.is_hole(index(offset));
        let mut to = index(offset);
        while to < index(end) && disk.is_hole(to) == hole {
            to = (to / PAGE_BYTES + 1) * PAGE_BYTES;
        }
        let length = (to as u64).min(end) - offset;
        Ok(Extent {
            offset,
            length,
            data: !hole,
        })
    }
}

/// A clock that moves by one microsecond with every look at it.
#[derive(Debug, Default)]
pub(crate) struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn wall_us(&self) -> u64 {
        1_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(1, Ordering::Relaxed))
    }
}
