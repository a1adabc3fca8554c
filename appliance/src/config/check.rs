//! The one place where a configuration is judged.

use super::check_iscsi::TakenLuns;
use super::names::is_name;
use super::places::{Places, real_path};
use super::raw::{RawConfig, RawLink, RawNbd, RawReplica, RawSize, RawTls, RawUnit, RawVolume};
use super::size::parse_size;
use super::{
    Access, Config, ConfigError, LimitsConfig, LinkConfig, NbdConfig, NbdTls, Problem, ReplicaConfig,
    UnitConfig, VolumeConfig, limits,
};
use crate::targets::ScsiAddress;
use crate::tls::TlsFiles;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

const SEE_EXAMPLE: &str = "see 'farside config example' for every setting";

/// Judges `text` as the content of the file `path`; relative paths in it start at the file's directory.
///
/// # Errors
/// [`ConfigError::Content`] with every problem found.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let refuse = |problems| ConfigError::Content {
        path: path.to_owned(),
        problems,
    };
    let raw: RawConfig = toml::from_str(text).map_err(|error| refuse(vec![syntax_problem(text, &error)]))?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let mut checker = Checker {
        text,
        base,
        problems: Vec::new(),
        taken: HashSet::new(),
    };
    let config = checker.config(raw);
    if checker.problems.is_empty() {
        Ok(config)
    } else {
        Err(refuse(checker.problems))
    }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let message = error.message().trim().replace('\n', ", ");
    let remedy = if message.starts_with("unknown field") {
        "correct the spelling or remove the line"
    } else if message.starts_with("missing field") {
        "add it to this table"
    } else {
        SEE_EXAMPLE
    };
    Problem::at(text, &error.span().unwrap_or(0..0), message, remedy)
}

pub(super) struct Checker<'a> {
    text: &'a str,
    base: &'a Path,
    problems: Vec<Problem>,
    /// Addresses on which something listens already.
    pub(super) taken: HashSet<SocketAddr>,
}

impl Checker<'_> {
    pub(super) fn refuse(&mut self, span: &Range<usize>, message: impl Into<String>, remedy: &str) {
        self.problems
            .push(Problem::at(self.text, span, message.into(), remedy));
    }

    fn config(&mut self, raw: RawConfig) -> Config {
        let unit = self.unit(&raw.unit);
        let nbd = self.nbd(&raw.nbd);
        let iscsi = self.iscsi(&raw.iscsi);
        let link = self.link(&raw.link);
        let console_listen = raw
            .console
            .listen
            .as_ref()
            .and_then(|listen| self.console(listen));
        let mut places = Places::default();
        let volumes = self.volumes(&raw, (&unit, &link), &mut places);
        let replicas = self.replicas(&raw.replica, (&unit, &link), &mut places);
        let limits = LimitsConfig {
            nbd_connections: self.connections("nbd", raw.limits.nbd_connections.as_ref()),
            iscsi_connections: self.connections("iscsi", raw.limits.iscsi_connections.as_ref()),
        };
        Config {
            unit,
            nbd,
            iscsi,
            link,
            console_listen,
            volumes,
            replicas,
            limits,
        }
    }

    fn unit(&mut self, raw: &RawUnit) -> UnitConfig {
        self.name("unit", &raw.name);
        let data_dir = self.path(&raw.data_dir);
        let below = |checker: &mut Self, setting: Option<&Spanned<String>>, name: &str| match setting {
            Some(setting) => checker.path(setting),
            None => data_dir.join(name),
        };
        let volumes_dir = below(self, raw.volumes_dir.as_ref(), "volumes");
        let replicas_dir = below(self, raw.replicas_dir.as_ref(), "replicas");
        let control_socket = below(self, raw.control_socket.as_ref(), "control.sock");
        self.socket_length(
            raw.control_socket.as_ref().unwrap_or(&raw.data_dir),
            &control_socket,
        );
        let log = raw
            .log
            .as_ref()
            .map_or("info", |log| log.get_ref().as_str())
            .to_owned();
        if let (Some(setting), Err(error)) = (&raw.log, log.parse::<tracing_subscriber::filter::Targets>()) {
            let remedy = "write error, warn, info, debug or trace";
            self.refuse(
                &setting.span(),
                format!("'{}' is not a log level: {error}", log.escape_debug()),
                remedy,
            );
        }
        UnitConfig {
            name: raw.name.get_ref().clone(),
            data_dir,
            volumes_dir,
            replicas_dir,
            control_socket,
            log,
        }
    }

    fn nbd(&mut self, raw: &RawNbd) -> NbdConfig {
        let tls = raw.tls.as_ref().map(|tls| self.tls(tls));
        let sure_of_hosts = tls
            .as_ref()
            .is_some_and(|tls| tls.required && tls.files.client_ca.is_some());
        let listen = self.addresses(&raw.listen, "nbd", raw.trust_network || sure_of_hosts);
        let socket = raw.socket.as_ref().map(|setting| {
            let path = self.path(setting);
            self.socket_length(setting, &path);
            path
        });
        NbdConfig { listen, socket, tls }
    }

    /// Whether the files can be used is seen when they are read.
    fn tls(&mut self, raw: &RawTls) -> NbdTls {
        let files = TlsFiles {
            certificate: self.path(&raw.certificate),
            key: self.path(&raw.key),
            client_ca: raw.client_ca.as_ref().map(|setting| self.path(setting)),
        };
        NbdTls {
            files,
            required: raw.required,
        }
    }

    fn link(&mut self, raw: &RawLink) -> LinkConfig {
        // Whoever comes from another machine has to be paired.
        let listen = self.addresses(&raw.listen, "link", true);
        let window_bytes = self.size_or(raw.window.as_ref(), limits::WINDOW_DEFAULT);
        if let Some(setting) = &raw.window
            && !(limits::WINDOW_BYTES_MIN..=limits::WINDOW_BYTES_MAX).contains(&window_bytes)
        {
            self.refuse(
                &setting.span(),
                "the window must be from 1M to 1G",
                "64M suits most links",
            );
        }
        for name in raw.accept.iter().flatten() {
            self.name("volume", name);
        }
        let accept = raw.accept.as_ref();
        let accept = accept.map(|names| names.iter().map(|name| name.get_ref().clone()).collect());
        let journal_size_bytes = self.journal_size(raw.journal_size.as_ref());
        let history_size_bytes = self.history_size(raw.history_size.as_ref(), journal_size_bytes);
        LinkConfig {
            listen,
            trust_network: raw.trust_network,
            window_bytes,
            accept,
            journal_size_bytes,
            history_size_bytes,
            export_replicas: raw.export_replicas,
        }
    }

    fn console(&mut self, setting: &Spanned<String>) -> Option<SocketAddr> {
        let address = self.address(setting)?;
        if !address.ip().is_loopback() {
            let message = format!(
                "the console at {address} would be open to other machines, and it asks nobody who they are"
            );
            self.refuse(
                &setting.span(),
                message,
                "give a loopback address such as 127.0.0.1:8480",
            );
        }
        Some(address)
    }

    fn volumes(
        &mut self,
        raw: &RawConfig,
        (unit, link): (&UnitConfig, &LinkConfig),
        places: &mut Places,
    ) -> Vec<VolumeConfig> {
        let mut names = HashSet::new();
        let mut luns = TakenLuns::new();
        let mut volumes = Vec::new();
        for raw_volume in &raw.volume {
            let name = raw_volume.name.get_ref();
            self.name("volume", &raw_volume.name);
            if !names.insert(name) {
                let message = format!("there are two volumes named '{}'", name.escape_debug());
                self.refuse(&raw_volume.name.span(), message, "give each volume its own name");
            }
            if let Some(required) = raw_volume
                .require_tls
                .as_ref()
                .filter(|required| *required.get_ref())
                && raw.nbd.tls.is_none()
            {
                let message = format!("volume '{}' requires TLS, and there is none", name.escape_debug());
                self.refuse(
                    &required.span(),
                    message,
                    "add [nbd.tls] with a certificate and its key",
                );
            }
            let scsi = self.scsi_address(raw_volume, &mut luns);
            let volume = self.volume((raw_volume, scsi), unit, places);
            let remotes = self.remotes(&raw_volume.remote, link);
            volumes.push(VolumeConfig { remotes, ..volume });
        }
        volumes
    }

    fn volume(
        &mut self,
        (raw, scsi): (&RawVolume, ScsiAddress),
        unit: &UnitConfig,
        places: &mut Places,
    ) -> VolumeConfig {
        let name = raw.name.get_ref().clone();
        let size_bytes = self.volume_size(&raw.size);
        let journal_size_bytes = self.journal_size(raw.journal_size.as_ref());
        let directory = unit.volumes_dir.join(&name);
        let mirror = self.data_file(raw.mirror.as_ref(), directory.join("mirror.img"));
        let journal = self.data_file(raw.journal.as_ref(), directory.join("journal"));
        let files = [
            ("mirror", &mirror, &raw.mirror),
            ("journal", &journal, &raw.journal),
        ];
        for (kind, path, setting) in files {
            let owner = format!("the {kind} of volume {name}");
            let span = setting.as_ref().unwrap_or(&raw.name).span();
            self.take_place(&span, (path, &owner), places);
        }
        VolumeConfig {
            name,
            size_bytes,
            journal_size_bytes,
            mirror,
            journal,
            access: Access {
                read_only: raw.read_only,
                skip_unchanged: raw.skip_unchanged,
                require_tls: raw
                    .require_tls
                    .as_ref()
                    .is_some_and(|required| *required.get_ref()),
                scsi,
            },
            remotes: Vec::new(),
        }
    }

    fn take_place(&mut self, span: &Range<usize>, (path, owner): (&Path, &str), places: &mut Places) {
        if let Some(other) = places.take(path, owner) {
            let message = format!("{owner} is the same file as {other} ({})", path.display());
            self.refuse(span, message, "give each its own file");
        }
    }

    pub(super) fn replicas(
        &mut self,
        raw: &[RawReplica],
        (unit, link): (&UnitConfig, &LinkConfig),
        places: &mut Places,
    ) -> Vec<ReplicaConfig> {
        let mut names = HashSet::new();
        let mut replicas = Vec::new();
        for RawReplica { name, image, remote } in raw {
            self.name("volume", name);
            let (span, text) = (name.span(), name.get_ref());
            if !names.insert(text) {
                let message = format!("there are two replicas named '{}'", text.escape_debug());
                self.refuse(&span, message, "say once where the image of each lies");
            }
            if let Some(accept) = &link.accept
                && !accept.contains(text)
            {
                let message = format!("replica '{}' is not among link.accept", text.escape_debug());
                self.refuse(&span, message, "add its name there, or take it out here");
            }
            if image.is_none() && remote.is_empty() {
                let message = format!("nothing is said of replica '{}'", text.escape_debug());
                let remedy =
                    "name its 'image', or a [[replica.remote]] that it is sent on to, or take it out";
                self.refuse(&span, message, remedy);
            }
            let image = image
                .as_ref()
                .map(|image| self.replica_image((text, image), unit, places));
            replicas.push(ReplicaConfig {
                name: text.clone(),
                image,
                remotes: self.remotes_of_replica(remote, link),
            });
        }
        replicas
    }

    fn replica_image(
        &mut self,
        (name, image): (&str, &Spanned<String>),
        unit: &UnitConfig,
        places: &mut Places,
    ) -> PathBuf {
        let path = self.data_file(Some(image), PathBuf::new());
        if real_path(&path).starts_with(real_path(&unit.replicas_dir)) {
            let message = format!("{} lies in unit.replicas_dir", path.display());
            let remedy = "name another place, or take the setting out";
            self.refuse(&image.span(), message, remedy);
        }
        let owner = format!("the image of replica {name}");
        self.take_place(&image.span(), (&path, &owner), places);
        path
    }

    fn data_file(&mut self, setting: Option<&Spanned<String>>, default: PathBuf) -> PathBuf {
        let Some(setting) = setting else { return default };
        let path = self.path(setting);
        if path.is_dir() {
            self.refuse(
                &setting.span(),
                format!("{} is a directory", path.display()),
                "name a file or a block device",
            );
        }
        path
    }

    pub(super) fn name(&mut self, kind: &str, setting: &Spanned<String>) {
        if !is_name(setting.get_ref()) {
            let message = format!(
                "'{}' cannot be the name of a {kind}",
                setting.get_ref().escape_debug()
            );
            let remedy =
                "use 1 to 32 of the letters A-Z, a-z, 0-9, '.', '_' and '-', with no '.' or '-' in front";
            self.refuse(&setting.span(), message, remedy);
        }
    }

    pub(super) fn path(&mut self, setting: &Spanned<String>) -> PathBuf {
        let text = setting.get_ref();
        if text.is_empty() || text.contains('\0') {
            self.refuse(
                &setting.span(),
                "this path is empty or holds a zero byte",
                "name a file or directory",
            );
        }
        let joined = self.base.join(text);
        // Tidies `./` and doubled slashes; symbolic links stay as they are written.
        joined.components().collect()
    }

    fn socket_length(&mut self, setting: &Spanned<String>, path: &Path) {
        let length = path.as_os_str().len();
        if length > limits::SOCKET_PATH_BYTES {
            let message = format!(
                "{} has {length} bytes, and a unix socket's path at most 107",
                path.display()
            );
            self.refuse(&setting.span(), message, "choose a shorter path");
        }
    }

    fn volume_size(&mut self, setting: &Spanned<RawSize>) -> u64 {
        let Some(bytes) = self.size(setting) else { return 0 };
        if bytes == 0 || !bytes.is_multiple_of(limits::SECTOR_BYTES) || bytes > limits::VOLUME_BYTES_MAX {
            let message = format!("a volume cannot have {bytes} bytes");
            self.refuse(
                &setting.span(),
                message,
                "give a multiple of 512 bytes, more than 0 and at most 1P",
            );
        }
        bytes
    }

    fn journal_size(&mut self, setting: Option<&Spanned<RawSize>>) -> u64 {
        let bytes = self.size_or(setting, limits::JOURNAL_SIZE_DEFAULT);
        let Some(span) = setting.map(Spanned::span) else {
            return bytes;
        };
        if !(limits::JOURNAL_BYTES_MIN..=limits::VOLUME_BYTES_MAX).contains(&bytes) {
            let message = format!("a journal cannot have {bytes} bytes");
            self.refuse(
                &span,
                message,
                "give at least 1M (1048576 bytes, the minimum) and at most 1P",
            );
        } else if !bytes.is_multiple_of(limits::JOURNAL_BLOCK_BYTES) {
            let message = format!("a journal of {bytes} bytes does not end on a block");
            self.refuse(&span, message, "give a multiple of 4096 bytes");
        }
        bytes
    }

    /// As large as the journal, unless it is said.
    fn history_size(&mut self, setting: Option<&Spanned<RawSize>>, journal_bytes: u64) -> u64 {
        let Some(setting) = setting else {
            return journal_bytes.max(limits::HISTORY_BYTES_MIN);
        };
        let bytes = self.size(setting).unwrap_or(0);
        if bytes != 0 && !(limits::HISTORY_BYTES_MIN..=limits::VOLUME_BYTES_MAX).contains(&bytes) {
            let message = format!("a history cannot have {bytes} bytes");
            self.refuse(
                &setting.span(),
                message,
                "give at least 4M and at most 1P, or 0 to keep none",
            );
        }
        bytes
    }

    fn size_or(&mut self, setting: Option<&Spanned<RawSize>>, default: &str) -> u64 {
        match setting {
            Some(setting) => self.size(setting).unwrap_or(limits::JOURNAL_BYTES_MIN),
            None => parse_size(default).expect("the defaults are sizes, as a test shows"),
        }
    }

    pub(super) fn size(&mut self, setting: &Spanned<RawSize>) -> Option<u64> {
        match parse_size(&setting.get_ref().0) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.refuse(&setting.span(), why, "units are binary: 1K is 1024 bytes");
                None
            }
        }
    }

    fn connections(&mut self, target: &str, setting: Option<&Spanned<i64>>) -> u32 {
        let Some(setting) = setting else {
            return limits::NBD_CONNECTIONS_DEFAULT;
        };
        match u32::try_from(*setting.get_ref()) {
            Ok(count) if (1..=limits::NBD_CONNECTIONS_MAX).contains(&count) => count,
            _ => {
                self.refuse(
                    &setting.span(),
                    format!("{target}_connections must be from 1 to 65536"),
                    "1024 is the default",
                );
                limits::NBD_CONNECTIONS_DEFAULT
            }
        }
    }
}
