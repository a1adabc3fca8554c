//! The past of replicas as the control interface sees it: moments found by what people call them, bookmarks, views, copies.

use super::copying::{Content, absolute, copy_out, new_file, not_made};
use super::error::PartError;
use super::moments;
use super::status::{history_summary, moment_status};
use crate::past::{OneExport, Snapshot};
use crate::targets::nbd::{Security, Service, serve};
use crate::unit::limits::{MOMENT_PATIENCE, MOMENT_POLL, MOMENTS_DEFAULT, MOMENTS_MAX};
use crate::unit::listeners::bind_unix;
use farside_protocol::control::{
    AddBookmark, AskChanges, AskHistory, BookmarkStatus, ChangedRange, ChangesStatus, ErrorCode,
    HistoryStatus, OpenView, Progress, Reply, RestoreFile, counted, human_bytes,
};
use farside_protocol::journal::CopyState;
use farside_protocol::link::name_is_valid;
use farside_remote::Replica;
use farside_storage::{Moment, View};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where views live.
#[derive(Debug, Clone)]
pub(super) struct House {
    pub(super) scratch_dir: PathBuf,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// A replica, and what is asked about its past.
#[derive(Debug, Clone)]
pub(crate) struct PastOf(Arc<Replica>, House);

impl PastOf {
    pub(super) fn new(replica: Arc<Replica>, house: House) -> Self {
        Self(replica, house)
    }

    fn name(&self) -> &str {
        self.0.store().name()
    }

    fn refuse(&self, code: ErrorCode, problem: impl std::fmt::Display) -> PartError {
        moments::refuse(&self.0, code, problem)
    }

    pub(crate) fn moment(&self, text: &str) -> Result<Moment, PartError> {
        moments::find(&self.0, text)
    }

    pub(crate) fn history(&self, ask: &AskHistory) -> Result<HistoryStatus, PartError> {
        let limit = ask.limit.unwrap_or(MOMENTS_DEFAULT).min(MOMENTS_MAX);
        let until = ask.until.as_deref().map(|text| self.moment(text)).transpose()?;
        let history = self.0.store().history();
        let moments =
            history.map(|history| history.newest(until.as_ref(), usize::try_from(limit).unwrap_or(0)));
        let bookmarks = self.0.past().bookmarks();
        let named = bookmarks.into_iter().map(|bookmark| BookmarkStatus {
            kept: bookmark.moment.is_some(),
            sequence: bookmark.record,
            time: super::status::fine_timestamp(bookmark.time_us),
            name: bookmark.name,
        });
        Ok(HistoryStatus {
            volume: self.name().to_owned(),
            summary: history_summary(&self.0),
            named: named.collect(),
            moments: moments.unwrap_or_default().iter().map(moment_status).collect(),
        })
    }

    pub(crate) fn changes(&self, ask: &AskChanges) -> Result<ChangesStatus, PartError> {
        let (from, to) = (
            self.moment(&ask.from)?,
            self.moment(ask.to.as_deref().unwrap_or("now"))?,
        );
        if from.record > to.record {
            let text = format!(
                "record {} is after record {}; name the earlier first",
                from.record, to.record
            );
            return Err(self.refuse(ErrorCode::BadRequest, text));
        }
        let history = self.0.store().history();
        let ranges = history
            .and_then(|history| history.changed(&from, &to))
            .ok_or_else(|| {
                self.refuse(
                    ErrorCode::NotFound,
                    "the earlier moment has just left the history",
                )
            })?;
        Ok(ChangesStatus {
            from: moment_status(&from),
            to: moment_status(&to),
            bytes: ranges.iter().map(|range| range.end - range.start).sum(),
            ranges: ranges
                .iter()
                .map(|range| ChangedRange {
                    offset: range.start,
                    length: range.end - range.start,
                })
                .collect(),
        })
    }

    /// Everything received by now, once it is in the image.
    async fn received_now(&self) -> Result<Moment, PartError> {
        let wanted = self.0.store().points().durable.record;
        let deadline = tokio::time::Instant::now() + MOMENT_PATIENCE;
        loop {
            let newest = self.moment("now");
            match newest {
                Ok(newest) if newest.record >= wanted => return Ok(newest),
                // A copy that has just become complete is a moment with the next step of the image.
                Err(error) if self.0.store().copy_progress().state != CopyState::Complete => {
                    return Err(error);
                }
                Err(error)
                    if self
                        .0
                        .store()
                        .history()
                        .is_none_or(|history| !history.is_usable()) =>
                {
                    return Err(error);
                }
                _ => {}
            }
            if tokio::time::Instant::now() >= deadline {
                let text = format!("record {wanted} was received and is not in the image yet; try again");
                return Err(self.refuse(ErrorCode::Failed, text));
            }
            tokio::time::sleep(MOMENT_POLL).await;
        }
    }

    pub(crate) async fn add_bookmark(&self, add: &AddBookmark) -> Result<Reply, PartError> {
        let name = &add.name;
        // A number or a word for a moment would name two things.
        if !name_is_valid(name) || name == "now" || name.bytes().all(|byte| byte.is_ascii_digit()) {
            let text = format!(
                "'{}' cannot be the name of a bookmark: 1 to 32 of A-Z a-z 0-9 . _ -, not digits only",
                name.escape_default()
            );
            return Err(self.refuse(ErrorCode::BadRequest, text));
        }
        let moment = match &add.at {
            Some(at) => self.moment(at)?,
            None => self.received_now().await?,
        };
        let (replica, named) = (self.0.clone(), name.clone());
        let added = tokio::task::spawn_blocking(move || {
            replica.past().add_bookmark(replica.store(), &named, &moment)
        });
        added
            .await
            .map_err(|error| PartError::failed(error.to_string()))??;
        let at = moment_status(&moment);
        Ok(Reply {
            message: format!("bookmark {name} is record {} of {}", at.sequence, at.time),
            files: Vec::new(),
        })
    }

    pub(crate) async fn remove_bookmark(&self, name: &str) -> Result<Reply, PartError> {
        let (replica, named) = (self.0.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || replica.past().remove_bookmark(&named));
        if !removed
            .await
            .map_err(|error| PartError::failed(error.to_string()))??
        {
            let text = format!("there is no bookmark '{}'", name.escape_default());
            return Err(self.refuse(ErrorCode::NotFound, text));
        }
        Ok(Reply {
            message: format!("bookmark {name} is removed"),
            files: Vec::new(),
        })
    }

    /// Serves a moment at a socket until nobody listens to `tell` any more.
    pub(crate) async fn open_view(&self, open: OpenView) -> Result<mpsc::Receiver<Progress>, PartError> {
        let House {
            scratch_dir,
            stop,
            tasks,
        } = &self.1;
        let view = moments::view(&self.0, &open.at)?;
        let (moment, size_bytes) = (moment_status(view.moment()), view.bytes());
        let path = absolute(&open.nbd_socket)?;
        let socket = bind_unix(&path, "--nbd-socket").await;
        let socket = socket.map_err(|error| PartError::conflict(error.to_string()))?;
        let closing = stop.child_token();
        let snapshot = Snapshot::new(
            (view, self.0.clone()),
            open.scratch.then_some(scratch_dir.as_path()),
            closing.clone(),
        );
        let snapshot = snapshot.map_err(|error| {
            PartError::failed(format!("no scratch in {}: {error}", scratch_dir.display()))
        })?;
        let description = format!(
            "replica of {} after record {}, {}",
            self.name(),
            moment.sequence,
            human_bytes(size_bytes)
        );
        let mut service = Service::new(Arc::new(OneExport {
            name: self.name().to_owned(),
            description,
            disk: Arc::new(snapshot),
        }));
        service.security = Security {
            local: true,
            ..Security::default()
        };
        let (tell, told) = mpsc::channel(4);
        tracing::info!(replica = self.name(), record = moment.sequence, socket = %path.display(), scratch = open.scratch,
            "a moment can be attached");
        let (name, replica) = (self.name().to_owned(), self.0.clone());
        tasks.spawn(async move {
            let _ = tell.try_send(Progress::Ready { moment, size_bytes });
            let serving = serve(socket.listener, service, closing.clone());
            let watching = async {
                tokio::select! {
                    () = tell.closed() => {}
                    () = replica.until_stopped() => {
                        let message = "the replica was detached".to_owned();
                        let _ = tell.try_send(Progress::Failed { message });
                    }
                    () = closing.cancelled() => {
                        let message = "the unit is shutting down".to_owned();
                        let _ = tell.try_send(Progress::Failed { message });
                    }
                }
                closing.cancel();
            };
            tokio::join!(serving, watching);
            drop(socket.file);
            tracing::info!(replica = name, "the view of a moment ended");
        });
        Ok(told)
    }

    /// Copies a moment into a new file; whoever no longer listens ends it, and the file goes.
    pub(crate) fn restore(&self, restore: &RestoreFile) -> Result<mpsc::Receiver<Progress>, PartError> {
        let view = moments::view(&self.0, &restore.at)?;
        let (path, file) = new_file(&restore.file)?;
        let content = MomentContent {
            view,
            replica: self.0.clone(),
        };
        Ok(copy_out(&self.1, content, file, move |copied, content| {
            if let Err(error) = copied {
                return not_made(&path, &error);
            }
            let message = format!(
                "{} is the disk after record {}, {}",
                path.display(),
                content.view.moment().record,
                counted(content.bytes(), "byte")
            );
            Progress::Done { message }
        }))
    }
}

/// A replica as it was at a moment.
struct MomentContent {
    view: View,
    replica: Arc<Replica>,
}

impl Content for MomentContent {
    fn bytes(&self) -> u64 {
        self.view.bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), anyhow::Error> {
        Ok(self.view.read(offset, buffer)?)
    }

    fn is_gone(&self) -> Option<&'static str> {
        self.replica.is_stopping().then_some("the replica was detached")
    }
}
