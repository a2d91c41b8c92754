//! The floor of Docker containers: one of the same image, made and called without a platform.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

pub use self::images::{Engine, Image, SOCKET};
use crate::{
    floor::{Runtime, direct_call},
    http::{self, Address, Client},
};

#[allow(dead_code, reason = "also used by the tests of the back end")]
#[path = "../../node/tests/images/mod.rs"]
mod images;

/// How long a container may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Pause between attempts to reach a starting one.
const RETRY: Duration = Duration::from_micros(500);

/// The version of the engine that answers; `None`: there is none.
#[must_use]
pub fn engine_version() -> Option<String> {
    let (status, body) = Engine.ask("GET", "/version", "", &[]).ok()?;
    let version: Value = serde_json::from_slice(&body).ok().filter(|_| status == 200)?;
    Some(version["Version"].as_str()?.to_owned())
}

/// Containers with `label`, as the engine lists them.
///
/// # Errors
/// If it refuses.
pub fn containers(label: &str) -> anyhow::Result<Vec<Value>> {
    let filters = json!({ "label": [label] }).to_string().replace('"', "%22");
    let list = ask("GET", &format!("/containers/json?all=1&filters={filters}"), &Value::Null)?;
    list.as_array().cloned().context("no list of containers")
}

/// The network with `label`.
///
/// # Errors
/// If there is none.
pub fn network(label: &str) -> anyhow::Result<String> {
    let (key, value) = label.split_once('=').context("a label is key=value")?;
    let networks = ask("GET", "/networks", &Value::Null)?;
    let mut networks = networks.as_array().into_iter().flatten();
    let found = networks.find(|network| network["Labels"][key] == value).context("the node has no network")?;
    Ok(found["Name"].as_str().context("a network without name")?.to_owned())
}

/// A container with a no-op that answers `/run`. Removed when it is dropped.
pub struct RawContainer {
    id: String,
    pub address: Address,
    /// From its creation to its first answer.
    pub took: Duration,
}

impl RawContainer {
    /// Creates and starts one on `network` with the limits that a node's has, initializes it as a node does, and calls it once.
    ///
    /// # Errors
    /// If it does not answer within 30 s.
    pub async fn start(image: &Image, network: &str) -> anyhow::Result<RawContainer> {
        let host = json!({
            "NetworkMode": network,
            "Memory": 256 << 20, "MemorySwap": 256 << 20, "PidsLimit": 1024, "CapDrop": ["NET_RAW", "NET_ADMIN"],
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}], "LogConfig": {"Type": "json-file"},
        });
        let body = json!({ "Image": image.name, "HostConfig": host });
        let code = json!({"name": "noop", "main": "main", "code": Runtime::Nodejs.noop(), "binary": false, "env": {}});
        let init = http::request("POST", "/init", None, json!({ "value": code }).to_string().as_bytes());

        let begun = Instant::now();
        let created = ask("POST", "/containers/create", &body)?;
        let id = created["Id"].as_str().context("a container without id")?.to_owned();
        let mut container = RawContainer { id, address: Address::Tcp(([0, 0, 0, 0], 0).into()), took: Duration::ZERO };
        ask("POST", &format!("/containers/{}/start", container.id), &Value::Null)?;
        let found = ask("GET", &format!("/containers/{}/json", container.id), &Value::Null)?;
        let address = found["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
        let address: IpAddr = address.context("a container without address")?.parse()?;
        container.address = Address::Tcp((address, 8080).into());
        let mut client = loop {
            match Client::open(&container.address).await {
                Ok(client) => break client,
                Err(_) if begun.elapsed() < START_LIMIT => std::thread::sleep(RETRY),
                Err(error) => return Err(error).context("a raw container does not listen"),
            }
        };
        for request in [init, direct_call()] {
            let answer = client.call(&request).await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(answer.body));
        }
        container.took = begun.elapsed();
        Ok(container)
    }
}

impl Drop for RawContainer {
    fn drop(&mut self) {
        if let Err(error) = ask("DELETE", &format!("/containers/{}?force=1&v=1", self.id), &Value::Null) {
            eprintln!("a container is left: {error:#}");
        }
    }
}

fn ask(method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = Engine.ask(method, path, "application/json", body.as_bytes())?;
    ensure!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
    if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&answer)?) }
}
