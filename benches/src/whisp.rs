//! Nodes under test: real processes of the release binary, each with a data folder and ports of its own.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    floor::Runtime,
    http::{self, Address, Client},
    process::Owned,
};

/// The key that `whisp start --dev` accepts.
const GUEST: &str =
    "23bc46b1-71f6-4ed5-8c54-816aa4f8c502:123zO3xZCLrMN6v2BKK1dXYFpXlPkccOFqm12CdAsMgRU4VrNZ9lyGVCGuMDGIwP";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// So that the largest load finds a container for each client: the accounting, not use.
const MEMORY: &str = "64GB";

/// What runs the actions of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Sandboxed processes: the whole product.
    Process,
    /// Docker containers.
    Docker,
    /// Answers made up inside the node: the platform without a runtime.
    Simulated,
}

impl Backend {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Process => "process",
            Backend::Docker => "docker",
            Backend::Simulated => "simulated",
        }
    }
}

/// How a node is set up beyond the defaults.
#[derive(Debug, Clone)]
pub struct Setup {
    pub backend: Backend,
    /// Kinds to keep a stem cell of; `None`: the default ones.
    pub prewarm: Option<Vec<String>>,
    /// Accepted and unfinished activations that are allowed.
    pub backlog: u32,
    /// Further lines of `[containers]`.
    pub containers: String,
}

impl Setup {
    #[must_use]
    pub fn new(backend: Backend) -> Setup {
        Setup { backend, prewarm: None, backlog: 1_000_000, containers: String::new() }
    }

    fn to_toml(&self) -> String {
        let cells = |kinds: &Vec<String>| {
            let cells: Vec<String> = kinds.iter().map(|kind| format!("{{ kind = {kind:?} }}")).collect();
            format!("prewarm = [{}]\n", cells.join(", "))
        };
        let mut containers = self.prewarm.as_ref().map(cells).unwrap_or_default() + &self.containers;
        if !containers.is_empty() {
            containers.insert_str(0, "[containers]\n");
        }
        format!("{containers}\n[activations]\nbacklog = {}\n", self.backlog)
    }
}

/// A running node. Dropping it without [`Whisp::stop`] kills it; what it leaves then lies in the run's folder.
pub struct Whisp {
    process: Owned,
    command: Command,
    address: SocketAddr,
    folder: PathBuf,
    authorization: String,
}

impl Whisp {
    /// Starts `binary` with its data in `folder/name` and waits until it serves requests.
    ///
    /// # Errors
    /// If it ends or is not ready within a minute; the end of its log is part of the error.
    pub async fn start(binary: &Path, folder: &Path, name: &str, setup: Setup) -> anyhow::Result<Whisp> {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        let config = folder.join("whisp.toml");
        std::fs::write(&config, setup.to_toml())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let log = File::create(folder.join("log"))?;
        let mut command = Command::new(binary);
        command.arg("start").arg("--dev").arg("--config").arg(&config);
        command.arg("--data-dir").arg(folder.join("data")).args(["--node-name", name, "--memory", MEMORY]);
        command.args(["--api-addr", &address.to_string(), "--backend", setup.backend.name()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Asked, not killed: a killed node cannot remove its containers and their network.
        let process = Owned::spawn(&mut command, Signal::TERM)
            .with_context(|| format!("cannot start {}; `./dev build` makes it", binary.display()))?;
        let authorization = format!("Basic {}", STANDARD.encode(GUEST));
        let mut node = Whisp { process, command, address, folder, authorization };
        node.wait_until_ready().await.with_context(|| format!("the node {name} did not start\n{}", node.log_end()))?;
        Ok(node)
    }

    /// Kills the node and starts it again on its data. Returns the time from the start until it serves requests.
    ///
    /// # Errors
    /// If it ends or is not ready within a minute; the end of its log is part of the error.
    pub async fn kill_and_restart(&mut self) -> anyhow::Result<Duration> {
        self.process.kill();
        let start = Instant::now();
        self.process = Owned::spawn(&mut self.command, Signal::TERM)?;
        self.wait_until_ready().await.with_context(|| format!("a killed node did not start\n{}", self.log_end()))?;
        Ok(start.elapsed())
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + START_LIMIT;
        let ready = http::request("GET", "/ready", None, b"");
        while Instant::now() < until {
            if let Some(status) = self.process.ended()? {
                bail!("it ended with {status}");
            }
            if let Ok(mut client) = Client::open(&self.address()).await
                && client.call(&ready).await.is_ok_and(|answer| answer.status == 200)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("it was not ready within {START_LIMIT:?}")
    }

    /// Stops the node as an operator would, and removes its data.
    ///
    /// # Errors
    /// If it had to be killed, or its data cannot be removed.
    pub fn stop(mut self) -> anyhow::Result<()> {
        if !self.process.end(STOP_LIMIT) {
            bail!("a node did not stop within {STOP_LIMIT:?} and was killed\n{}", self.log_end());
        }
        std::fs::remove_dir_all(&self.folder).context("a node's data cannot be removed")
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The label that the node's Docker containers have.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub fn containers_label(&self) -> anyhow::Result<String> {
        let data = self.folder.join("data").canonicalize()?;
        Ok(format!("whisp.owner={}:{}", data.metadata()?.ino(), data.display()))
    }

    /// Bytes of the node's data on the disk.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub fn disk_bytes(&self) -> anyhow::Result<u64> {
        disk_bytes(&self.folder.join("data")).context("a node's data cannot be read")
    }

    #[must_use]
    pub fn address(&self) -> Address {
        Address::Tcp(self.address)
    }

    /// The last lines of the node's log.
    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The bytes of an authenticated request to `path` below the default namespace, such as `/actions/noop`.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        http::request(method, &format!("/api/v1/namespaces/_{path}"), Some(&self.authorization), body)
    }

    /// An invocation of `action` that waits for the result, with the parameter that a direct call has too.
    #[must_use]
    pub fn blocking_invoke(&self, action: &str) -> Vec<u8> {
        self.request("POST", &format!("/actions/{action}?blocking=true&result=true"), br#"{"name":"bench"}"#)
    }

    /// An invocation of `action` that is answered with 202.
    #[must_use]
    pub fn accepted_invoke(&self, action: &str) -> Vec<u8> {
        self.request("POST", &format!("/actions/{action}"), br#"{"name":"bench"}"#)
    }

    /// Sends one request on a new connection.
    ///
    /// # Errors
    /// If the answer's status is not 2xx.
    pub async fn call(&self, request: &[u8]) -> anyhow::Result<Value> {
        let mut client = Client::open(&self.address()).await?;
        let answer = client.call(request).await?;
        if !(200..300).contains(&answer.status) {
            let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let (line, body) = (String::from_utf8_lossy(line), String::from_utf8_lossy(answer.body));
            bail!("{line}: {} {body}", answer.status);
        }
        Ok(serde_json::from_slice(answer.body)?)
    }

    /// Stores a no-op action of `kind`, such as `nodejs:default`, with OpenWhisk's default limits.
    ///
    /// # Errors
    /// If the node refuses it.
    pub async fn put_noop(&self, name: &str, runtime: Runtime, kind: &str) -> anyhow::Result<()> {
        let body = json!({ "exec": { "kind": kind, "code": runtime.noop() } });
        self.call(&self.request("PUT", &format!("/actions/{name}?overwrite=true"), body.to_string().as_bytes()))
            .await?;
        Ok(())
    }

    /// # Errors
    /// If there is no such action.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.call(&self.request("DELETE", &format!("/actions/{name}"), b"")).await?;
        Ok(())
    }

    /// How many activation records the namespace has.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn recorded(&self) -> anyhow::Result<u64> {
        let answer = self.call(&self.request("GET", "/activations?count=true", b"")).await?;
        answer["activations"].as_u64().with_context(|| format!("no count in {answer}"))
    }
}

/// Bytes of blocks that the files below `folder` take. Files that go meanwhile do not count.
fn disk_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// A port that nobody listens on now. The kernel hands the next ones to others first, so it stays free for a while.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_names_its_stem_cells() {
        let mut setup = Setup::new(Backend::Process);
        assert_eq!(setup.to_toml(), "\n[activations]\nbacklog = 1000000\n");
        setup.prewarm = Some(vec!["nodejs:20".to_owned(), "python:3.11".to_owned()]);
        let expected = r#"prewarm = [{ kind = "nodejs:20" }, { kind = "python:3.11" }]"#;
        assert!(setup.to_toml().starts_with(&format!("[containers]\n{expected}\n")), "{}", setup.to_toml());
    }
}
