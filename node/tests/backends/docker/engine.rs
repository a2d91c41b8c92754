//! An engine that is missing, vanishes, hangs, comes back, or is of another version. Between the real one and the back end
//! stands a socket of the test's own, so that nobody else's containers are disturbed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use node::{
    containers::backend::{CreateError, docker::DockerBackend},
    runtime::InitVerdict,
};
use serde_json::{Value, json};

use super::{Fixture, config, eventually, label};
use crate::{
    images::{Engine, Image, SOCKET},
    suite::Running,
};

const LONG: Duration = Duration::from_secs(60);

/// What becomes of a connection.
const FORWARD: u8 = 0;
const REFUSE: u8 = 1;
/// It is accepted, and nothing comes of it until the mode changes.
const HANG: u8 = 2;

/// An image that is nowhere.
const NONE: &str = "127.0.0.1:1/whisp-test/none:1";

/// A socket in front of the engine's.
struct Proxy {
    path: PathBuf,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    fn start(folder: &Path) -> Self {
        let path = folder.join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let mode = Arc::new(AtomicU8::new(FORWARD));
        let shared = Arc::clone(&mode);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let mode = Arc::clone(&shared);
                std::thread::spawn(move || forward(connection, &mode));
            }
        });
        Self { path, mode }
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

fn forward(connection: UnixStream, mode: &AtomicU8) {
    while mode.load(Ordering::SeqCst) == HANG {
        std::thread::sleep(Duration::from_millis(10));
    }
    if mode.load(Ordering::SeqCst) == REFUSE {
        return;
    }
    let Ok(engine) = UnixStream::connect(SOCKET) else { return };
    let (mut from_node, mut to_engine) = (connection.try_clone().expect("a copy"), engine.try_clone().expect("a copy"));
    std::thread::spawn(move || {
        // Either side may leave at any time.
        let _ = std::io::copy(&mut from_node, &mut to_engine);
        let _ = to_engine.shutdown(std::net::Shutdown::Write);
    });
    let (mut from_engine, mut to_node) = (engine, connection);
    let _ = std::io::copy(&mut from_engine, &mut to_node);
    let _ = to_node.shutdown(std::net::Shutdown::Both);
}

#[tokio::test]
async fn where_there_is_no_engine_the_back_end_does_not_start_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.socket = folder.path().join("none.sock").display().to_string();
    let began = Instant::now();
    let error = DockerBackend::start(config).await.err().expect("there is none").to_string();
    assert!(error.starts_with("the Docker engine at ") && error.contains("none.sock does not answer: "), "{error}");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_vanishes_or_hangs_is_survived() {
    let Some(engine) = Engine::find("an_engine_that_vanishes_or_hangs_is_survived") else { return };
    let image = Image::nodejs(engine);
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start(folder.path());
    let socket = proxy.path.display().to_string();
    let fixture = Fixture::with(engine, &[("nodejs:20", &image)], |config| config.socket = socket).await;
    let mut warm = Running::connect(fixture.create("nodejs:20", None).await.expect("a container")).await;
    let code = ("let n = 0; main = () => ({ n: ++n })".to_owned(), false);
    assert_eq!(warm.init(&code, LONG).await, InitVerdict::Initialized);
    // Its logs are being followed when the engine goes.
    assert_eq!(warm.run(json!({})).await.result(), json!({"n": 1}));
    let idle = fixture.create("nodejs:20", None).await.expect("a container");

    for (mode, most) in [(REFUSE, Duration::from_secs(2)), (HANG, Duration::from_secs(40))] {
        proxy.set(mode);
        let began = Instant::now();
        match fixture.create("nodejs:20", None).await.err() {
            Some(CreateError::Platform(text)) => assert!(text.contains("does not answer: "), "{text}"),
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < most, "{:?}", began.elapsed());
        // Work on containers that are there goes on without it.
        let finished = warm.run(json!({})).await;
        assert!(finished.result()["n"].is_u64(), "{finished:?}");
        proxy.set(FORWARD);
        let again = fixture.create("nodejs:20", None).await.expect("it is back");
        again.destroy().await;
    }

    // What could not be removed is removed as soon as the engine is back.
    proxy.set(REFUSE);
    let left = [idle.name().to_owned(), warm.container.name().to_owned()];
    idle.destroy().await;
    drop(warm);
    let names = format!("{:?}", fixture.containers());
    assert!(left.iter().all(|name| names.contains(name)), "{names}");
    proxy.set(FORWARD);
    eventually("the end of both", || fixture.containers().is_empty()).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_the_engine_carries_out_too_late_leaves_no_container() {
    let Some(engine) = Engine::find("a_creation_that_the_engine_carries_out_too_late_leaves_no_container") else {
        return;
    };
    let image = Image::nodejs(engine);
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start(folder.path());
    let socket = proxy.path.display().to_string();
    let fixture = Fixture::with(engine, &[("nodejs:20", &image)], |config| config.socket = socket).await;
    proxy.set(HANG);
    assert!(matches!(fixture.create("nodejs:20", None).await, Err(CreateError::Platform(_))));
    // The request is still on its way. If that for the removal is faster, others follow.
    proxy.set(FORWARD);
    let began = Instant::now();
    while fixture.containers().is_empty() && began.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eventually("the end of what came of it", || fixture.containers().is_empty()).await;
    fixture.stop().await;
}

/// Answers `/version` as an engine that speaks `api` and nothing else; returns the request lines after that.
fn engine_of_version(path: &Path, api: &'static str) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(path).expect("a socket");
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut lines = BufReader::new(connection.try_clone().expect("a copy"));
            let mut request = String::new();
            lines.read_line(&mut request).expect("a request");
            let (status, body) = if request.contains("/version ") {
                (200, json!({"ApiVersion": api, "MinAPIVersion": api, "Version": "9.9"}))
            } else {
                seen.lock().expect("no panic").push(request);
                (500, json!({"message": "not in this test"}))
            };
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = connection.write_all(format!("{head}{body}").as_bytes());
            let _ = connection.shutdown(std::net::Shutdown::Write);
            let _ = connection.read_to_end(&mut Vec::new());
        }
    });
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn each_engine_is_spoken_to_in_its_own_version() {
    // Docker 20.10, 25, 28 and 29; a newer one is spoken to in the newest that is known here.
    for (api, spoken) in [("1.41", "1.41"), ("1.44", "1.44"), ("1.48", "1.48"), ("1.52", "1.52"), ("1.99", "1.53")] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(folder.path());
        let socket = folder.path().join("docker.sock");
        config.socket = socket.display().to_string();
        let requests = engine_of_version(&socket, api);
        let error = DockerBackend::start(config).await.err().expect("it refuses everything else").to_string();
        assert!(error.contains("not in this test"), "{error}");
        let requests = requests.lock().expect("no panic").clone();
        assert!(!requests.is_empty());
        for request in requests {
            assert!(request.contains(&format!(" /v{spoken}/")), "{api}: {request}");
        }
    }
}

/// Another engine may take the place of the first one while the node runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_agreed_on_anew_after_the_engine_was_gone() {
    let Some(engine) = Engine::find("the_version_is_agreed_on_anew_after_the_engine_was_gone") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start(folder.path());
    let socket = proxy.path.display().to_string();
    let fixture = Fixture::with(engine, &[], |config| config.socket = socket).await;
    let refused = fixture.create("blackbox", Some(NONE)).await.err();
    assert!(matches!(refused, Some(CreateError::Developer(_))), "{refused:?}");
    proxy.set(REFUSE);
    let gone = fixture.create("blackbox", Some(NONE)).await.err();
    assert!(matches!(gone, Some(CreateError::Platform(_))), "{gone:?}");
    std::fs::remove_file(&proxy.path).expect("a socket");
    let requests = engine_of_version(&proxy.path, "1.44");
    fixture.create("blackbox", Some(NONE)).await.err();
    let seen = requests.lock().expect("no panic").clone();
    assert!(seen.iter().any(|request| request.starts_with("POST /v1.44/images/create")), "{seen:?}");
    std::fs::remove_file(&proxy.path).expect("a socket");
    std::os::unix::fs::symlink(SOCKET, &proxy.path).expect("a link");
    assert_eq!(engine.containers(&label(fixture.folder.path())), Vec::<Value>::new());
    fixture.stop().await;
}
