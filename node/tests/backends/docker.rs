//! The Docker back end on this machine's engine, with small images that the tests make.
//!
//! Where there is no engine each test says so on a line that begins with `skipped:`, which `./dev test` counts.

mod engine;
mod lifecycle;
mod misbehaving;
mod pulls;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use node::containers::backend::{
    Backend, Container, ContainerSpec, CreateError,
    docker::{DockerBackend, DockerConfig, DockerMetrics, ImageConfig, ManagedImage},
};
use protocol::ByteSize;
use serde_json::{Value, json};

use crate::{
    images::{Engine, Image, SOCKET},
    nodejs, python,
    suite::{ABNORMAL_INIT, ABNORMAL_RUN, Program, Subject, run_all},
};

/// A back end with a data directory of its own.
struct Fixture {
    backend: DockerBackend,
    engine: Engine,
    /// The label that its containers and its network have.
    label: String,
    folder: tempfile::TempDir,
}

impl Fixture {
    /// With these images by kind.
    async fn start(engine: Engine, managed: &[(&str, &Image)]) -> Self {
        Self::with(engine, managed, |_| {}).await
    }

    async fn with(engine: Engine, managed: &[(&str, &Image)], configure: impl FnOnce(&mut DockerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(folder.path());
        for (kind, image) in managed {
            let managed = ManagedImage { name: image.name.clone(), sentinelled: true };
            config.images.managed.insert((*kind).to_owned(), managed);
        }
        configure(&mut config);
        let backend = DockerBackend::start(config).await.expect("a back end");
        Self { backend, engine, label: label(folder.path()), folder }
    }

    fn containers(&self) -> Vec<Value> {
        self.engine.containers(&self.label)
    }

    fn state(&self, container: &dyn Container) -> Value {
        self.engine.must("GET", &format!("/containers/{}/json", container.name()), &Value::Null)
    }

    async fn create(&self, kind: &str, image: Option<&str>) -> Result<Box<dyn Container>, CreateError> {
        self.backend.create(spec(kind, image)).await
    }

    /// Ends it; the engine has nothing of it afterwards.
    async fn stop(self) {
        self.backend.shutdown().await;
        assert_eq!(self.containers(), Vec::<Value>::new());
        let networks = self.engine.must("GET", "/networks", &Value::Null);
        let own = networks.as_array().expect("a list").iter().find(|network| is_labelled(network, &self.label));
        assert_eq!(own, None);
    }
}

fn config(data_dir: &Path) -> DockerConfig {
    DockerConfig {
        socket: SOCKET.to_owned(),
        data_dir: data_dir.to_owned(),
        network: None,
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_options: Vec::new(),
        cpus: None,
        memory: ByteSize::mib(2048),
        images: ImageConfig {
            managed: BTreeMap::new(),
            // What the tests made can be had from nowhere.
            local_images_prefix: None,
            ..ImageConfig::default()
        },
        extra_args: BTreeMap::new(),
        credentials: None,
        log_capacity: ByteSize::mib(10),
        metrics: DockerMetrics::default(),
    }
}

/// As `whisp.owner` is made.
fn label(data_dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let path = data_dir.canonicalize().expect("a folder");
    format!("whisp.owner={}:{}", path.metadata().expect("a folder").ino(), path.display())
}

fn is_labelled(thing: &Value, label: &str) -> bool {
    let (key, value) = label.split_once('=').expect("a label");
    thing["Labels"][key] == value
}

fn spec(kind: &str, image: Option<&str>) -> ContainerSpec {
    static COUNTER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let counter = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    ContainerSpec {
        name: format!("wsk0_{counter}_guest_hello"),
        kind: kind.to_owned(),
        image: image.map(str::to_owned),
        memory: ByteSize::mib(256),
        env: vec![("__OW_API_HOST".to_owned(), "http://10.0.0.1:3233".to_owned())],
    }
}

/// Waits until `probe` is true.
async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(90);
    while !probe() {
        assert!(Instant::now() < until, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn subject<'a>(
    fixture: &'a Fixture,
    kind: &'a str,
    code: &'a (dyn Fn(Program) -> Option<(String, bool)> + Sync),
) -> Subject<'a> {
    Subject {
        backend: &fixture.backend,
        kind,
        image: None,
        memory: ByteSize::mib(128),
        code,
        limits_memory: true,
        exited: ABNORMAL_RUN,
        exited_in_init: ABNORMAL_INIT,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_a_nodejs_image() {
    let Some(engine) = Engine::find("the_contract_holds_for_a_nodejs_image") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    assert_eq!(fixture.backend.kinds(), ["nodejs:20", "blackbox"]);
    run_all(&subject(&fixture, "nodejs:20", &nodejs::code)).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_a_python_image() {
    let Some(engine) = Engine::find("the_contract_holds_for_a_python_image") else { return };
    let image = Image::python(engine);
    let fixture = Fixture::start(engine, &[("python:3.11", &image)]).await;
    run_all(&subject(&fixture, "python:3.11", &python::code)).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_a_compiled_image() {
    let Some(engine) = Engine::find("the_contract_holds_for_a_compiled_image") else { return };
    let image = Image::compiled(engine, &contract_server());
    let fixture = Fixture::start(engine, &[("rust:1.34", &image)]).await;
    let code = |program: Program| Some((format!("{program:?}"), false));
    run_all(&subject(&fixture, "rust:1.34", &code)).await;
    fixture.stop().await;
}

/// The program of `tests/images/server.rs`, which Cargo builds with all tests.
fn contract_server() -> PathBuf {
    let tests = std::env::current_exe().expect("this program");
    let folder = tests.parent().and_then(Path::parent).expect("Cargo's folder");
    let program = folder.join("examples/contract-server");
    assert!(program.is_file(), "cargo build -p whisp --example contract-server makes {}", program.display());
    program
}

/// Logs of one run without times.
fn lines(logs: &[String]) -> Vec<&str> {
    logs.iter().map(|line| line[30..].trim_start()).collect()
}

fn error(text: &str) -> Value {
    json!({ "error": text })
}
