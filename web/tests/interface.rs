//! The two routers, against a unit that only pretends.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use farside_protocol::control::{
    AddBookmark, AskChanges, AskHistory, ChangesStatus, Command, ControlError, ErrorCode, HistoryStatus,
    HistorySummary, Invitation, OpenView, PairingStatus, Progress, RemoteVerify, Reply, RestoreFile, SCHEMA,
    Status, UnitStatus, VerifyStatus, VolumeState, VolumeStatus,
};
use farside_web::{
    Answer, Control, Execution, Lasting, PairingOrder, ReplicaOrder, SeedOrder, VerifyOrder, console_router,
    control_router,
};
use http_body_util::BodyExt;
use std::sync::{Arc, Mutex};
use tower::ServiceExt;

#[derive(Default)]
struct Pretended {
    problem: Option<&'static str>,
    seen: Mutex<Vec<Command>>,
    paired: Mutex<Vec<PairingOrder>>,
    viewed: Mutex<Option<tokio::sync::mpsc::Sender<Progress>>>,
}

impl Control for Pretended {
    fn pairing(&self) -> PairingStatus {
        PairingStatus {
            unit_uuid: "u".into(),
            key: "k".into(),
            renewal_waits_for: None,
            peers: vec![],
        }
    }

    fn invite(&self) -> Result<Invitation, ControlError> {
        Ok(Invitation {
            token: "secret".into(),
            expires_at: "2026-01-02T03:04:05Z".into(),
            link_listen: vec![],
        })
    }

    fn pair(&self, order: PairingOrder) -> Execution {
        self.paired.lock().unwrap().push(order);
        Box::pin(async {
            Ok(Reply {
                message: "done".into(),
                files: vec![],
            })
        })
    }

    fn verify(&self, volume: String, order: VerifyOrder) -> Answer<VerifyStatus> {
        let remote = match order {
            VerifyOrder::Show(remote) | VerifyOrder::Stop(remote) => remote,
            VerifyOrder::Start(start) => start.remote,
        };
        Box::pin(async move {
            let remote = remote.ok_or_else(|| ControlError::plain(ErrorCode::NotFound, "no such remote"))?;
            let remote = RemoteVerify {
                remote,
                ..RemoteVerify::default()
            };
            Ok(VerifyStatus {
                volume,
                identical: None,
                remotes: vec![remote],
            })
        })
    }

    fn status(&self) -> Status {
        let mut volume = VolumeStatus::out_of_service("disk0", 1 << 30, self.problem.map(str::to_owned));
        if self.problem.is_none() {
            volume.state = VolumeState::Healthy;
        }
        Status {
            schema: SCHEMA,
            version: "0".into(),
            unit: UnitStatus {
                name: "<here>".into(),
                uuid: "u".into(),
                started_at: "2026-01-02T03:04:05Z".into(),
                config_file: None,
                config_error: None,
                pending_restart: vec![],
                nbd_listen: vec!["127.0.0.1:10809".into()],
                iscsi_listen: vec!["127.0.0.1:3260".into()],
                link_listen: vec![],
                console_listen: None,
            },
            volumes: vec![volume],
            replicas: vec![],
        }
    }

    fn history(&self, replica: String, ask: AskHistory) -> Answer<HistoryStatus> {
        Box::pin(async move {
            if replica == "absent" {
                return Err(ControlError::plain(ErrorCode::NotFound, "no such replica"));
            }
            Ok(HistoryStatus {
                volume: format!("{replica} {:?} {:?}", ask.limit, ask.until),
                summary: HistorySummary::default(),
                named: vec![],
                moments: vec![],
            })
        })
    }

    fn changes(&self, _replica: String, _ask: AskChanges) -> Answer<ChangesStatus> {
        Box::pin(async { Err(ControlError::plain(ErrorCode::Conflict, "no history")) })
    }

    fn add_bookmark(&self, replica: String, add: AddBookmark) -> Answer<Reply> {
        let message = format!("{replica} {} {:?}", add.name, add.at);
        Box::pin(async move {
            Ok(Reply {
                message,
                files: vec![],
            })
        })
    }

    fn remove_bookmark(&self, replica: String, name: String) -> Answer<Reply> {
        let message = format!("{replica} without {name}");
        Box::pin(async move {
            Ok(Reply {
                message,
                files: vec![],
            })
        })
    }

    fn open_view(&self, _replica: String, open: OpenView) -> Answer<Lasting> {
        let (tell, told) = tokio::sync::mpsc::channel(1);
        *self.viewed.lock().unwrap() = Some(tell.clone());
        Box::pin(async move {
            let message = open.nbd_socket;
            tell.send(Progress::Done { message }).await.unwrap();
            Ok(told)
        })
    }

    fn restore(&self, _replica: String, _restore: RestoreFile) -> Answer<Lasting> {
        Box::pin(async { Err(ControlError::plain(ErrorCode::Conflict, "the file is there")) })
    }

    fn replica(&self, replica: String, order: ReplicaOrder) -> Execution {
        let message = format!("{replica} {order:?}");
        Box::pin(async move {
            Ok(Reply {
                message,
                files: vec![],
            })
        })
    }

    fn seed(&self, order: SeedOrder) -> Answer<Lasting> {
        let (tell, told) = tokio::sync::mpsc::channel(1);
        let message = format!("{order:?}");
        Box::pin(async move {
            tell.send(Progress::Done { message }).await.unwrap();
            Ok(told)
        })
    }

    fn execute(&self, command: Command) -> Execution {
        let refused = matches!(&command, Command::RemoveVolume(remove) if remove.name == "absent");
        self.seen.lock().unwrap().push(command);
        Box::pin(async move {
            if refused {
                return Err(ControlError::plain(ErrorCode::NotFound, "no such volume"));
            }
            Ok(Reply {
                message: "done".into(),
                files: vec![],
            })
        })
    }
}

async fn ask(router: &Router, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn console_shows_everything_and_changes_nothing() {
    let unit = Arc::new(Pretended::default());
    let console = console_router(unit.clone());
    for path in [
        "/",
        "/health",
        "/api/v1/status",
        "/api/v1/volumes",
        "/api/v1/volumes/disk0",
        "/api/v1/version",
        "/api/v1/peers",
    ] {
        assert_eq!(ask(&console, "GET", path, "").await.0, StatusCode::OK, "{path}");
    }
    for (method, path, body) in [
        ("POST", "/api/v1/volumes", r#"{"name":"a","size":"1G"}"#),
        ("DELETE", "/api/v1/volumes/disk0", ""),
        ("POST", "/api/v1/reload", ""),
        ("PUT", "/api/v1/status", ""),
        ("POST", "/api/v1/invitations", ""),
        ("POST", "/api/v1/peers", r#"{"address":"a:1","token":"t"}"#),
        ("DELETE", "/api/v1/peers/far", ""),
        ("POST", "/api/v1/key/renew", ""),
    ] {
        let (status, text) = ask(&console, method, path, body).await;
        assert!(matches!(status.as_u16(), 404 | 405), "{method} {path}: {status}");
        assert!(text.contains("\"message\""), "{text}");
    }
    assert!(unit.seen.lock().unwrap().is_empty());
    assert!(unit.paired.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_somebody_else_points_here_shows_nothing() {
    let console = console_router(Arc::new(Pretended::default()));
    let ask_as = async |host: &str, uri: &str| {
        let request = Request::builder().uri(uri).header("host", host);
        let response = console
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    };
    for (host, uri) in [
        ("evil.example:8480", "/"),
        ("evil.example", "/api/v1/status"),
        ("127.0.0.1", "http://evil.example/"),
        ("evil.example", "/nothing/here"),
    ] {
        let (status, text) = ask_as(host, uri).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{host} {uri}");
        assert!(
            text.contains("by its address") && !text.contains("disk0"),
            "{text}"
        );
    }
    for host in ["127.0.0.1:8480", "[::1]:8480", "localhost"] {
        assert_eq!(ask_as(host, "/api/v1/status").await.0, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn control_socket_takes_commands_whole() {
    let unit = Arc::new(Pretended::default());
    let control = control_router(unit.clone());
    let (status, text) = ask(&control, "POST", "/api/v1/volumes", r#"{"name":"a","size":"1G"}"#).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::OK, r#"{"message":"done","files":[]}"#)
    );
    let (status, _) = ask(&control, "DELETE", "/api/v1/volumes/a?delete_data=true", "").await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&control, "PUT", "/api/v1/volumes/a/size", r#"{"size":"2G"}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&control, "PUT", "/api/v1/volumes/a/flow", r#"{"send":false}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&control, "DELETE", "/api/v1/volumes/a/queue?remote=r", "").await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&control, "DELETE", "/api/v1/volumes/a/queue?remotes=r", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let seen = unit.seen.lock().unwrap();
    assert!(
        matches!(&seen[4], Command::DiscardQueue(discard) if discard.volume == "a" && discard.remote.as_deref() == Some("r"))
    );
    assert!(matches!(&seen[3], Command::SetFlow(flow) if flow.volume == "a" && flow.send == Some(false)));
    assert!(matches!(&seen[2], Command::ResizeVolume(resize) if resize.name == "a" && resize.size == "2G"));
    assert!(matches!(&seen[0], Command::CreateVolume(create) if create.name == "a" && create.size == "1G"));
    assert!(matches!(&seen[1], Command::RemoveVolume(remove) if remove.delete_data && !remove.force));
}

#[tokio::test]
async fn malformed_and_oversized_commands_are_refused_before_the_unit_sees_them() {
    let unit = Arc::new(Pretended::default());
    let control = control_router(unit.clone());
    let huge = format!(r#"{{"name":"a","size":"{}"}}"#, "9".repeat(70_000));
    for body in [
        "",
        "{",
        r#"{"name":"a"}"#,
        r#"{"name":"a","size":"","adopt":false}"#,
        r#"{"name":"a","size":"1G","sise":"2G"}"#,
        huge.as_str(),
    ] {
        let (status, text) = ask(&control, "POST", "/api/v1/volumes", body.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    }
    assert_eq!(
        ask(&control, "DELETE", "/api/v1/volumes/a?force=perhaps", "")
            .await
            .0,
        StatusCode::BAD_REQUEST
    );
    assert!(unit.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_carry_code_and_message() {
    let control = control_router(Arc::new(Pretended::default()));
    let (status, text) = ask(&control, "DELETE", "/api/v1/volumes/absent", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(
        text,
        r#"{"code":"not_found","message":"no such volume","remedy":null}"#
    );
    let (status, text) = ask(&control, "GET", "/api/v1/volumes/other", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("farside volume list"));
}

#[tokio::test]
async fn health_turns_503_with_the_reason_when_a_volume_fails() {
    let well = console_router(Arc::new(Pretended::default()));
    let (status, text) = ask(&well, "GET", "/health", "").await;
    assert_eq!(
        (status.as_u16(), text.as_str()),
        (200, r#"{"healthy":true,"problems":[]}"#)
    );
    let ill = console_router(Arc::new(Pretended {
        problem: Some("journal sync failed"),
        ..Pretended::default()
    }));
    let (status, text) = ask(&ill, "GET", "/health", "").await;
    assert_eq!(status.as_u16(), 503);
    assert!(text.contains("volume disk0: journal sync failed"));
}

#[tokio::test]
async fn page_escapes_what_came_from_outside() {
    let router = console_router(Arc::new(Pretended {
        problem: Some("<script>"),
        ..Pretended::default()
    }));
    let (_, text) = ask(&router, "GET", "/", "").await;
    assert!(text.contains("&lt;here&gt;") && text.contains("&lt;script&gt;") && !text.contains("<script"));
}

#[tokio::test]
async fn shutdown_ends_the_server_and_a_silent_client_does_not_hold_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let router = control_router(Arc::new(Pretended::default()));
    let server = tokio::spawn(farside_web::serve_unix(listener, router, async {
        stopped.await.ok();
    }));
    let silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(20), server)
        .await
        .expect("the server ends")
        .unwrap();
    drop(silent);
}

#[tokio::test]
async fn many_silent_clients_do_not_keep_others_from_being_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = console_router(Arc::new(Pretended::default()));
    let server = tokio::spawn(farside_web::serve_tcp(listener, router, std::future::pending()));
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HT").await.unwrap();
        silent.push(client);
    }
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, client.read_to_string(&mut answer))
        .await
        .expect("served at last")
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.abort();
}

#[tokio::test]
async fn the_past_of_a_replica_is_shown_to_all_and_named_by_the_operator_only() {
    let unit = Arc::new(Pretended::default());
    let (console, control) = (console_router(unit.clone()), control_router(unit.clone()));
    let path = "/api/v1/replicas/disk0/history?limit=5&until=10m%20ago";
    for router in [&console, &control] {
        let (status, text) = ask(router, "GET", path, "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains(r#"disk0 Some(5) Some(\"10m ago\")"#), "{text}");
        let (status, _) = ask(router, "GET", "/api/v1/replicas/absent/history", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let (status, _) = ask(router, "GET", "/api/v1/replicas/disk0/history?limit=x", "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let (status, _) = ask(router, "GET", "/api/v1/replicas/disk0/history/changes?from=1", "").await;
        assert_eq!(status, StatusCode::CONFLICT);
    }
    for (method, path, body, said) in [
        ("POST", "bookmarks", r#"{"name":"a"}"#, "disk0 a None"),
        ("POST", "bookmarks", r#"{"name":"a","at":"7"}"#, "disk0 a Some"),
        ("DELETE", "bookmarks/a", "", "disk0 without a"),
        ("POST", "views", r#"{"at":"now","nbd_socket":"/s"}"#, "/s"),
        ("POST", "detach", "", "disk0 Detach"),
        ("POST", "detach-at", r#"{"at":"10m ago"}"#, "10m ago"),
        ("POST", "attach", "", "disk0 Attach"),
        ("POST", "seed", r#"{"file":"/f"}"#, "Import"),
    ] {
        let path = format!("/api/v1/replicas/disk0/{path}");
        let (status, _) = ask(&console, method, &path, body).await;
        assert!(matches!(status.as_u16(), 404 | 405), "{method} {path}");
        *unit.viewed.lock().unwrap() = None;
        let asked = ask(&control, method, &path, body);
        let ending = async {
            // A view says nothing more and does not end before whoever opened it goes, or the unit ends it.
            for _ in 0..100 {
                tokio::task::yield_now().await;
                unit.viewed.lock().unwrap().take();
            }
        };
        let ((status, text), ()) = tokio::join!(asked, ending);
        assert!(
            status.is_success() && text.contains(said),
            "{path}: {status} {text}"
        );
    }
    let (status, _) = ask(
        &control,
        "POST",
        "/api/v1/replicas/disk0/restore",
        r#"{"at":"1","file":"/f"}"#,
    )
    .await;
    assert_eq!(status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_view_ends_with_the_connection_of_whoever_opened_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let unit = Arc::new(Pretended::default());
    let router = control_router(unit.clone());
    let server = tokio::spawn(farside_web::serve_unix(listener, router, std::future::pending()));
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    let body = r#"{"at":"now","nbd_socket":"/s"}"#;
    let head = format!(
        "POST /api/v1/replicas/disk0/views HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("done") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0);
    }
    let tell = unit.viewed.lock().unwrap().clone().unwrap();
    assert!(!tell.is_closed());
    drop(client);
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, tell.closed())
        .await
        .expect("nobody listens any more");
    server.abort();
}

#[tokio::test]
async fn units_are_paired_over_the_control_socket() {
    let unit = Arc::new(Pretended::default());
    let control = control_router(unit.clone());
    let (status, text) = ask(&control, "POST", "/api/v1/invitations", "").await;
    assert!(
        status == StatusCode::OK && text.contains(r#""token":"secret""#),
        "{text}"
    );
    for (method, path, body) in [
        ("POST", "/api/v1/peers", r#"{"address":"far:1","token":"t"}"#),
        ("DELETE", "/api/v1/peers/far", ""),
        ("POST", "/api/v1/key/renew", ""),
    ] {
        assert_eq!(
            ask(&control, method, path, body).await.0,
            StatusCode::OK,
            "{path}"
        );
    }
    let (status, _) = ask(&control, "POST", "/api/v1/peers", r#"{"address":"far:1"}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let seen = unit.paired.lock().unwrap();
    assert!(
        matches!(&seen[..], [PairingOrder::Accept(accept), PairingOrder::Revoke(name), PairingOrder::Renew]
            if accept.address == "far:1" && accept.token == "t" && name == "far"),
        "{seen:?}"
    );
}
