//! Target: the JSON of the control socket and the console, both ways.
//!
//! Promises: no panic; what is accepted survives being written and read again; what is made of it for people does not
//! panic whatever numbers are in it.

use crate::golden;
use farside_protocol::control::{
    Command, ControlError, CreateVolume, ErrorCode, Health, RemoteAddress, RemoveVolume, Reply, ResizeVolume,
    Status, VersionInfo, counted, human_bytes, likely_behind,
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

pub(crate) fn run(input: &[u8]) -> bool {
    let status = serde_json::from_slice::<Status>(input).ok();
    if let Some(status) = &status {
        show(status);
        let text = serde_json::to_string(status).expect("plain data");
        let second: Status = serde_json::from_str(&text).expect("what was written can be read");
        // Decimal fractions may lose their last bit on the way; everything else may not.
        assert_eq!(without_fractions(status), without_fractions(&second));
    }
    let others = [
        comes_back::<Command>(input),
        comes_back::<Reply>(input),
        comes_back::<ControlError>(input),
        comes_back::<VersionInfo>(input),
        comes_back::<Health>(input),
    ];
    status.is_some() || others.contains(&true)
}

fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(input) else {
        return false;
    };
    let text = serde_json::to_string(&value).expect("plain data");
    let second: T = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(value, second);
    true
}

fn without_fractions(status: &Status) -> Status {
    let mut status = status.clone();
    for volume in &mut status.volumes {
        for remote in &mut volume.remotes {
            remote.lag.seconds = 0.0;
        }
    }
    status
}

fn show(status: &Status) {
    let health = status.health();
    assert!(health.healthy == health.problems.is_empty());
    for volume in &status.volumes {
        for remote in &volume.remotes {
            for connected in [true, false] {
                assert!(!likely_behind(connected, volume.clean_start, &remote.lag).is_empty());
            }
            assert!(human_bytes(remote.dirty_bytes).ends_with('B'));
        }
        assert!(counted(volume.size_bytes, "byte").contains("byte"));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let create = Command::CreateVolume(CreateVolume {
        name: "disk1".into(),
        size: "1G".into(),
        journal_size: Some("64M".into()),
        remotes: vec![RemoteAddress {
            name: "far".into(),
            address: "127.0.0.1:10900".into(),
        }],
        force: true,
        ..CreateVolume::default()
    });
    let remove = Command::RemoveVolume(RemoveVolume {
        name: "disk1".into(),
        ..RemoveVolume::default()
    });
    let resize = Command::ResizeVolume(ResizeVolume {
        name: "disk1".into(),
        size: "2G".into(),
    });
    let reply = Reply {
        message: "done".into(),
        files: vec!["/d/journal".into()],
    };
    let error = ControlError::new(ErrorCode::Conflict, "it exists", "choose another");
    let health = Health {
        healthy: false,
        problems: vec!["volume disk0: degraded".into()],
    };
    let texts = [
        serde_json::to_vec(&create),
        serde_json::to_vec(&remove),
        serde_json::to_vec(&resize),
        serde_json::to_vec(&Command::Reload),
        serde_json::to_vec(&reply),
        serde_json::to_vec(&error),
        serde_json::to_vec(&health),
        serde_json::to_vec(&VersionInfo::current()),
    ];
    let golden = golden::status().as_bytes().to_vec();
    texts.into_iter().flatten().chain([golden]).collect()
}
