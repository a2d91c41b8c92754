//! The HTTP API of a whole node whose containers are simulated: one file per collection.
//!
//! Tests share a node, unless they need other settings, and each has namespaces of its own. Bodies are compared with `golden/*.json`, in which what
//! differs from run to run is replaced; `UPDATE_GOLDEN=1 cargo test --test it` writes them anew, to be read in the diff.

mod actions;
mod activations;
mod bounds;
mod client;
mod http;
mod invoke;
mod limits;
mod metrics;
mod openapi;
mod packages;
mod store_levels;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{LazyLock, mpsc},
};

use node::{
    auth::{LimitsUpdate, NewUser, Users},
    config::{BackendChoice, Config, Overrides},
    node::Node,
};
use serde_json::Value;

use self::client::Client;

/// A node in this process, until that ends.
struct TestNode {
    addr: SocketAddr,
    users: Users,
    runtime: tokio::runtime::Runtime,
}

/// The node that tests share unless they need settings of their own.
static NODE: LazyLock<TestNode> = LazyLock::new(|| TestNode::start("it", |_| {}));

impl TestNode {
    /// `name`: no other node of this process has it. `configure` changes the defaults.
    fn start(name: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let overrides = Overrides {
            data_dir: Some(data_dir().join(name)),
            node_name: Some(name.into()),
            api_addr: Some(([127, 0, 0, 1], 0).into()),
            backend: Some(BackendChoice::Simulated),
            ..Overrides::default()
        };
        let mut config = Config::load(None, overrides).expect("a valid configuration");
        configure(&mut config);
        let (started, start) = mpsc::channel();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let node = Node::start(config).await.expect("a node");
                started.send((node.api_addr(), node.admin().users.clone())).expect("the test waits");
                // Until the process ends.
                std::future::pending::<()>().await;
            });
        });
        let (addr, users) = start.recv().expect("the node starts");
        Self { addr, users, runtime: tokio::runtime::Runtime::new().expect("a runtime") }
    }

    /// A client that owns the namespace `name`, which nobody had before.
    fn user(&self, name: &str) -> Client {
        let new = NewUser { subject: name.to_owned(), namespace: None, credentials: None, revoke: false };
        let created = self.runtime.block_on(self.users.create(&new)).expect("a new user");
        Client::new(self.addr, Some(format!("{}:{}", created.credentials.uuid, created.credentials.key)))
    }

    fn set_limits(&self, namespace: &str, limits: &LimitsUpdate) {
        self.runtime.block_on(self.users.set_limits(namespace, limits)).expect("limits are set");
    }
}

/// A directory of this process; those of processes that are gone are removed.
fn data_dir() -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.strip_prefix("it-"))
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    base.join(format!("it-{}", std::process::id()))
}

/// See [`TestNode::user`].
fn user(name: &str) -> Client {
    NODE.user(name)
}

fn set_limits(namespace: &str, limits: &LimitsUpdate) {
    NODE.set_limits(namespace, limits);
}

/// Nobody in particular.
fn anonymous() -> Client {
    Client::new(NODE.addr, None)
}

/// Compares `body` with the file `golden/{name}.json`.
#[track_caller]
fn golden(name: &str, body: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(format!("{name}.json"));
    let mut found = body.clone();
    normalize(&mut found);
    let found = serde_json::to_string_pretty(&found).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).expect("the golden file is written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{}", path.display());
}

/// Replaces what differs from run to run.
fn normalize(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Object(members) => {
            let measured = ["waitTime", "initTime"];
            if members.get("key").and_then(Value::as_str).is_some_and(|key| measured.contains(&key)) {
                members.insert("value".into(), "<number>".into());
            }
            for (key, value) in members {
                match (key.as_str(), &*value) {
                    ("updated" | "start" | "end" | "duration", Value::Number(_)) => *value = "<number>".into(),
                    ("activationId", Value::String(id)) if id.len() == 32 => *value = "<id>".into(),
                    _ => normalize(value),
                }
            }
        }
        _ => {}
    }
}
