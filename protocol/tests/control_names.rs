//! The JSON of the control types is an interface: scripts read it. This file keeps its names.

use farside_protocol::control::{
    BufferStatus, Command, CompressionStatus, ControlError, CopyProgress, CounterPair, CreateVolume,
    ErrorCode, Forecast, HistorySummary, ImageStatus, JournalStatus, Lag, MomentStatus, Positions,
    RemoteAddress, RemoteState, RemoteStatus, RemoveVolume, ReplicaState, ReplicaStatus, Reply, ResizeVolume,
    RoundsStatus, SCHEMA, SetFlow, SourceStatus, Status, UnitStatus, VolumeState, VolumeStatus,
};

fn journal(path: &str) -> JournalStatus {
    JournalStatus {
        path: path.into(),
        size_bytes: 536_870_912,
        used_bytes: 4096,
        segment_bytes: 4_194_304,
    }
}

fn remote() -> RemoteStatus {
    RemoteStatus {
        name: "far".into(),
        address: "127.0.0.1:10900".into(),
        paired_with: Some("far".into()),
        state: RemoteState::NeedsCopy,
        detail: Some("connection refused".into()),
        rounds: Some(RoundsStatus {
            every_seconds: 604_800,
            all_since: Some("2026-01-01T03:04:05Z".into()),
            began: Some("2026-01-02T03:04:05Z".into()),
            compared_bytes: 4096,
            total_bytes: 8192,
            differing_bytes: 1,
        }),
        merged_bytes: 77,
        damaged: 3,
        compression: Some(CompressionStatus {
            algorithm: "zstd".into(),
            stream_bytes: 30,
            wire_bytes: 10,
        }),
        sent: 12,
        received: 11,
        applied: 10,
        lag: Lag {
            records: 4,
            blocks: 5,
            bytes: 20_480,
            seconds: 0.5,
        },
        consistent_up_to: Some("2026-01-02T03:04:05Z".into()),
        consistent: true,
        likely_behind: "no".into(),
        copy: Some(CopyProgress {
            done_bytes: 1,
            total_bytes: 2,
            bytes_per_second: 3,
        }),
        dirty_bytes: 8192,
        history_room_bytes: Some(4096),
        forecast: Some(Forecast {
            write_bytes_per_second: 5,
            confirm_bytes_per_second: 6,
            covers_seconds: Some(7),
            drains_seconds: None,
            full_seconds: Some(8),
            full_at: Some("2026-01-02T03:04:05Z".into()),
        }),
    }
}

fn volume() -> VolumeStatus {
    VolumeStatus {
        uuid: "00000000-0000-4000-8000-000000000001".into(),
        state: VolumeState::Healthy,
        epoch: 3,
        clean_start: true,
        journal: journal("/d/journal"),
        mirror: ImageStatus {
            path: "/d/mirror.img".into(),
        },
        positions: Positions {
            tail: 9,
            acked: 11,
            sent: 12,
            durable: 13,
            journaled: 14,
            mirrored: 13,
        },
        counters: CounterPair::default(),
        buffer: BufferStatus {
            blocks: 1,
            bytes: 4096,
        },
        read_only: false,
        iscsi_target: "iqn.2026-11.dev.farside:disk0".into(),
        iscsi_lun: 1,
        connections: 2,
        remotes: vec![remote()],
        ..VolumeStatus::out_of_service("disk0", 1 << 30, None)
    }
}

fn moment(sequence: u64) -> MomentStatus {
    MomentStatus {
        sequence,
        time: "2026-01-02T03:04:05Z".into(),
    }
}

fn replica() -> ReplicaStatus {
    ReplicaStatus {
        name: "disk0".into(),
        volume_uuid: "00000000-0000-4000-8000-000000000001".into(),
        size_bytes: 1 << 30,
        state: ReplicaState::Consistent,
        problem: None,
        source: Some(SourceStatus {
            unit: "here".into(),
            address: "127.0.0.1:40000".into(),
            paired_with: None,
        }),
        connected: true,
        received: 11,
        applied: 10,
        consistent: true,
        consistent_up_to: Some("2026-01-02T03:04:05Z".into()),
        copy: None,
        journal: journal("/r/journal"),
        image: ImageStatus {
            path: "/r/replica.img".into(),
        },
        history: HistorySummary {
            size_bytes: 1 << 30,
            used_bytes: 4096,
            oldest: Some(moment(1)),
            newest: Some(moment(10)),
            bookmarks: 1,
            problem: None,
        },
        connections: 1,
        clean_start: false,
        remotes: Vec::new(),
    }
}

fn status() -> Status {
    Status {
        schema: SCHEMA,
        version: "0.1.0".into(),
        unit: UnitStatus {
            name: "here".into(),
            uuid: "00000000-0000-4000-8000-000000000002".into(),
            started_at: "2026-01-02T03:00:00Z".into(),
            config_file: Some("/d/farside.toml".into()),
            config_error: None,
            pending_restart: vec!["nbd.listen".into()],
            nbd_listen: vec!["127.0.0.1:10809".into()],
            iscsi_listen: vec!["127.0.0.1:3260".into()],
            link_listen: vec!["127.0.0.1:10900".into()],
            console_listen: Some("127.0.0.1:8480".into()),
        },
        volumes: vec![volume()],
        replicas: vec![replica()],
    }
}

#[test]
fn status_keeps_its_names() {
    let golden = include_str!("golden/status.json");
    let text = serde_json::to_string_pretty(&status()).expect("plain data");
    assert_eq!(
        text.trim(),
        golden.trim(),
        "names are an interface: add fields, never rename or remove one"
    );
    let back: Status = serde_json::from_str(golden).expect("what was written can be read");
    assert_eq!(back, status());
}

#[test]
fn commands_and_replies_keep_their_names() {
    let create = Command::CreateVolume(CreateVolume {
        name: "disk1".into(),
        size: "1G".into(),
        remotes: vec![RemoteAddress {
            name: "far".into(),
            address: "127.0.0.1:10900".into(),
        }],
        ..CreateVolume::default()
    });
    let remove = Command::RemoveVolume(RemoveVolume {
        name: "disk1".into(),
        ..RemoveVolume::default()
    });
    for (value, text) in [
        (
            serde_json::to_string(&create),
            r#"{"command":"create_volume","name":"disk1","size":"1G","journal_size":null,"mirror":null,"journal":null,"remotes":[{"name":"far","address":"127.0.0.1:10900"}],"force":false,"adopt":false}"#,
        ),
        (
            serde_json::to_string(&remove),
            r#"{"command":"remove_volume","name":"disk1","delete_data":false,"force":false}"#,
        ),
        (
            serde_json::to_string(&Command::ResizeVolume(ResizeVolume {
                name: "disk1".into(),
                size: "2G".into(),
            })),
            r#"{"command":"resize_volume","name":"disk1","size":"2G"}"#,
        ),
        (
            serde_json::to_string(&Command::SetFlow(SetFlow {
                volume: "disk1".into(),
                send: Some(false),
                ..SetFlow::default()
            })),
            r#"{"command":"set_flow","volume":"disk1","remote":null,"send":false,"queue":null}"#,
        ),
        (serde_json::to_string(&Command::Reload), r#"{"command":"reload"}"#),
        (
            serde_json::to_string(&Reply {
                message: "done".into(),
                files: vec!["/d".into()],
            }),
            r#"{"message":"done","files":["/d"]}"#,
        ),
        (
            serde_json::to_string(&ControlError::new(
                ErrorCode::InvalidConfiguration,
                "wrong",
                "mend it",
            )),
            r#"{"code":"invalid_configuration","message":"wrong","remedy":"mend it"}"#,
        ),
    ] {
        assert_eq!(value.expect("plain data"), text);
    }
}

#[test]
fn health_names_what_needs_an_operator_and_nothing_else() {
    assert!(status().health().healthy);
    let mut ill = status();
    ill.unit.config_error = Some("line 3".into());
    for volume in &mut ill.volumes {
        volume.state = VolumeState::Degraded;
        volume.problem = Some("journal sync failed".into());
        for remote in &mut volume.remotes {
            remote.state = RemoteState::Refused;
        }
    }
    let health = ill.health();
    assert!(!health.healthy);
    assert_eq!(
        health.problems,
        [
            "configuration: line 3",
            "volume disk0: journal sync failed",
            "remote far of volume disk0: connection refused"
        ]
    );
}
