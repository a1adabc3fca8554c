//! Replicas handed over and taken back, and seeds: what a volume holds, carried to its remote on a disk.

use super::Parts;
use super::copying::{Content, absolute, copy_out, new_file, not_made};
use super::error::PartError;
use super::moments;
use super::receiving::LinkServer;
use super::volume::Volume;
use crate::config::{ReplicaConfig, is_name};
use crate::targets::Disk as _;
use farside_protocol::control::{ErrorCode, Progress, Reply, SeedFile, counted};
use farside_remote::{AsideError, ReplicaSet};
use farside_storage::{Allocation, Device, FileDevice, Store};
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

impl From<AsideError> for PartError {
    fn from(error: AsideError) -> Self {
        let code = match &error {
            AsideError::None(_) => ErrorCode::NotFound,
            AsideError::Unfit(..) => ErrorCode::Conflict,
            AsideError::Storage(..) => ErrorCode::Failed,
        };
        Self {
            code,
            message: error.to_string(),
        }
    }
}

impl Parts {
    fn link_server(&self) -> Result<Arc<LinkServer>, PartError> {
        let link = self.link.lock().clone();
        link.ok_or_else(|| {
            PartError::conflict(
                "this unit keeps no replicas: link.listen is not set; ask the unit that does, with --socket",
            )
        })
    }

    /// Runs what waits for disks with the replicas.
    async fn with_replicas<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<ReplicaSet>) -> Result<T, AsideError> + Send + 'static,
    ) -> Result<T, PartError> {
        let set = self.link_server()?.set().clone();
        let done = tokio::task::spawn_blocking(move || work(&set)).await;
        Ok(done.map_err(|error| PartError::failed(error.to_string()))??)
    }

    /// Lets another host have the disk of a replica.
    pub(crate) async fn detach_replica(&self, name: String) -> Result<Reply, PartError> {
        let wanted = name.clone();
        let (record, image) = self.with_replicas(move |set| set.detach(&wanted)).await?;
        let image = image.display();
        tracing::info!(replica = name, record, %image, "replica detached");
        Ok(Reply {
            message: format!(
                "replica {name} is detached after record {record}: {image} is a disk like any other until 'farside replica \
                 attach {name}'; meanwhile the volume's unit keeps what is written"
            ),
            files: vec![image.to_string()],
        })
    }

    /// Lets another host have the disk of a replica as it was at a moment. Goes on to its end, whether somebody listens or not.
    pub(crate) fn detach_replica_at(
        &self,
        name: String,
        at: &str,
    ) -> Result<mpsc::Receiver<Progress>, PartError> {
        let server = self.link_server()?;
        let replica = server.replica(&name);
        let replica = replica.ok_or_else(|| AsideError::None(name.clone()))?;
        let moment = moments::find(&replica, at)?;
        drop(replica);
        let (tell, told) = mpsc::channel(4);
        let house = self.house();
        tracing::info!(
            replica = name,
            record = moment.record,
            "replica is brought back to this record, to be handed over"
        );
        let tasks = house.tasks.clone();
        tasks.spawn(async move {
            let (teller, wanted, stop) = (tell.clone(), name.clone(), house.stop.clone());
            let done = tokio::task::spawn_blocking(move || {
                let tell = |done_bytes, total_bytes| {
                    // Somebody who reads slowly misses some of it.
                    let _ = teller.try_send(Progress::Copied {
                        done_bytes,
                        total_bytes,
                    });
                    !stop.is_cancelled()
                };
                server.set().detach_at(&wanted, &moment, &tell)
            });
            let last = match done.await {
                Ok(Ok((record, image))) => {
                    let image = image.display();
                    tracing::info!(replica = name, record, %image, "replica detached");
                    let message = format!(
                        "replica {name} is detached as it was after record {record}: {image} is a disk like any other until 'farside \
                         replica attach {name}', which overwrites it with what the volume has; meanwhile the volume's unit keeps what is written"
                    );
                    Progress::Done { message }
                }
                Ok(Err(error)) => {
                    tracing::error!(replica = name, "not detached: {error}");
                    let message = error.to_string();
                    Progress::Failed { message }
                }
                Err(error) => Progress::Failed {
                    message: error.to_string(),
                },
            };
            tokio::select! {
                _ = tell.send(last) => {}
                () = house.stop.cancelled() => {}
            }
        });
        Ok(told)
    }

    /// Images of replicas that come from now on are to lie there.
    pub(crate) fn place_replicas(&self, replicas: &[ReplicaConfig]) {
        if let Some(link) = &*self.link.lock() {
            link.place_images(replicas);
        }
    }

    /// Tries once more to open replicas that could not be opened.
    pub(crate) async fn open_failed_replicas(&self) {
        let link = self.link.lock().clone();
        if let Some(link) = link {
            link.open_failed().await;
        }
    }

    /// Takes what lies where the image of a replica is to lie for its beginning.
    pub(crate) async fn adopt_replica(&self, name: String) -> Result<Reply, PartError> {
        if !is_name(&name) {
            return Err(no_name(&name));
        }
        let wanted = name.clone();
        let image = self.with_replicas(move |set| set.adopt(&wanted)).await?;
        let image = image.display();
        tracing::info!(replica = name, %image, "what lies there is taken for the beginning of a replica");
        Ok(Reply {
            message: format!(
                "the replica of {name} begins with what {image} holds; its volume's unit compares and sends what differs"
            ),
            files: vec![image.to_string()],
        })
    }

    /// Takes the disk of a replica back.
    pub(crate) async fn attach_replica(&self, name: String) -> Result<Reply, PartError> {
        let wanted = name.clone();
        let changed = self.with_replicas(move |set| set.attach(&wanted)).await?;
        tracing::info!(replica = name, changed, "replica attached again");
        let what = if changed {
            "its disk was changed, or may have been: the volume's unit sends what differs, its history begins anew"
        } else {
            "its disk is as it was left: it goes on from there"
        };
        Ok(Reply {
            message: format!("replica {name} is taken back; {what}"),
            files: Vec::new(),
        })
    }

    /// Writes what a volume holds, while hosts use it, into a new file.
    pub(crate) fn export_seed(
        &self,
        volume: &Volume,
        seed: &SeedFile,
    ) -> Result<mpsc::Receiver<Progress>, PartError> {
        let disk = &volume.disk().volume;
        let (path, file) = new_file(&seed.file)?;
        let content = VolumeContent {
            store: disk.store().clone(),
            closing: disk.closing(),
        };
        tracing::info!(volume = volume.name(), file = %path.display(), "export of a seed begins");
        Ok(copy_out(&self.house(), content, file, move |copied, content| {
            if let Err(error) = copied {
                return not_made(&path, &error);
            }
            let (path, name) = (path.display(), content.store.name());
            let message = format!(
                "{path} holds volume {name}, {}; at the remote: farside seed import --volume {name} --file FILE",
                counted(content.bytes(), "byte")
            );
            Progress::Done { message }
        }))
    }

    /// Makes an image the beginning of a replica.
    pub(crate) async fn import_seed(
        &self,
        name: &str,
        seed: &SeedFile,
    ) -> Result<mpsc::Receiver<Progress>, PartError> {
        if !is_name(name) {
            return Err(no_name(name));
        }
        let path = absolute(&seed.file)?;
        let wanted = path.clone();
        let opened = tokio::task::spawn_blocking(move || SeedContent::open(&wanted)).await;
        let opened = opened.map_err(|error| PartError::failed(error.to_string()))?;
        let content = opened.map_err(|error| PartError::conflict(format!("{}: {error}", path.display())))?;
        let wanted = name.to_owned();
        let bytes = content.bytes;
        let place = self.with_replicas(move |set| set.seed(&wanted, bytes)).await?;
        let file = place.file().try_clone();
        let file = file.map_err(|error| PartError::failed(error.to_string()))?;
        let name = name.to_owned();
        tracing::info!(replica = name, file = %path.display(), "import of a seed begins");
        Ok(copy_out(&self.house(), content, file, move |copied, content| {
            let kept = copied.and_then(|()| Ok(place.keep()?));
            match kept {
                Ok(()) => Progress::Done {
                    message: format!(
                        "the replica of {name} begins with {} of {}; its volume's unit compares and sends what differs",
                        counted(content.bytes, "byte"),
                        path.display()
                    ),
                },
                Err(error) => Progress::Failed {
                    message: format!("the replica of {name} gets no seed: {error}"),
                },
            }
        }))
    }
}

fn no_name(name: &str) -> PartError {
    PartError {
        code: ErrorCode::BadRequest,
        message: format!("'{}' cannot be the name of a volume", name.escape_default()),
    }
}

/// A volume as hosts see it now.
struct VolumeContent {
    store: Arc<Store>,
    closing: CancellationToken,
}

impl Content for VolumeContent {
    fn bytes(&self) -> u64 {
        self.store.volume_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), anyhow::Error> {
        Ok(self.store.read(offset, buffer)?)
    }

    fn zero_until(&self, offset: u64) -> Result<u64, anyhow::Error> {
        let found = self.store.allocation(offset, self.bytes(), 1)?;
        let hole = found
            .first()
            .filter(|stretch| stretch.allocation == Allocation::Hole);
        Ok(hole.map_or(offset, |stretch| offset + stretch.length))
    }

    fn is_gone(&self) -> Option<&'static str> {
        self.closing.is_cancelled().then_some("the volume was closed")
    }
}

/// An image that somebody brought.
struct SeedContent {
    device: FileDevice,
    bytes: u64,
}

impl SeedContent {
    fn open(path: &Path) -> Result<Self, anyhow::Error> {
        // Before it is opened: that would wait for whoever writes to a pipe.
        let kind = std::fs::metadata(path)?.file_type();
        anyhow::ensure!(!kind.is_dir(), "is a directory");
        anyhow::ensure!(
            kind.is_file() || kind.is_block_device(),
            "is neither a file nor a block device"
        );
        let device = FileDevice::new(File::open(path)?, path)?;
        let bytes = device.size_bytes()?;
        anyhow::ensure!(bytes > 0, "is empty");
        Ok(Self { device, bytes })
    }
}

impl Content for SeedContent {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), anyhow::Error> {
        Ok(self.device.read_at(buffer, offset)?)
    }

    fn zero_until(&self, offset: u64) -> Result<u64, anyhow::Error> {
        let extent = self.device.extent_at(offset, self.bytes)?;
        Ok(if extent.data {
            offset
        } else {
            offset + extent.length
        })
    }
}
