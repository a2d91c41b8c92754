//! Configuration, in two types: what a person may write ([`Written`]: every field optional, unknown keys refused), and
//! the checked [`Config`] that the node uses.
//!
//! Each value is a default, or from the TOML file, or from the environment (`WHISP_…`), or from a flag: the later wins.
//! The command line ([`crate::cli`]) hands environment and flags over as [`Overrides`]. `node/whisp.example.toml` shows
//! every key with its default.

mod activations;
mod auth;
mod containers;
mod docker;
mod http;
mod limits;
mod parameter_storage;
mod raft;
mod units;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{ByteSize, limits::SystemLimits};
use serde::Deserialize;

use crate::entities::encryption::Keyring;

pub use self::{
    activations::{Activations, StoreLevel},
    auth::Auth,
    containers::{BackendChoice, Containers, Prewarm},
    docker::Docker,
    http::Http,
    raft::Raft,
    units::{HumanDuration, HumanSize},
};

/// The checked configuration of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that the node keeps: the store, action code, its data key, the admin socket. One process at a time
    /// owns it. Default `whisp-data` in the working directory.
    pub data_dir: PathBuf,
    /// With less than this free on the disk of the data directory, nothing new is written or accepted; 0: nobody looks, and
    /// a full disk ends the node. Default `256MB`.
    pub min_free_disk: ByteSize,
    /// What logs, `whisp status` and lost activations call this node. Default: the machine's host name.
    pub node_name: String,
    /// For trying things out on one's own machine: the well-known `guest` key works, and a missing layer of the sandbox
    /// is a warning. Only with a loopback `http.api_addr`. Default off.
    pub dev: bool,
    /// Default `text`.
    pub log_format: LogFormat,
    /// How long a stopping node waits for what it runs. Default 310 s: longer than the longest action.
    pub drain_timeout: Duration,
    pub http: Http,
    pub raft: Raft,
    pub containers: Containers,
    pub limits: SystemLimits,
    pub activations: Activations,
    pub parameter_storage: Keyring,
    pub auth: Auth,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line, for programs.
    Json,
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("configuration file {}: {source}", path.display())]
    Malformed { path: PathBuf, source: Box<toml::de::Error> },
    /// A value that makes no sense. `key` as in the file.
    #[error("{key}: {reason}")]
    Invalid { key: &'static str, reason: String },
}

impl ConfigError {
    fn invalid(key: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { key, reason: reason.into() }
    }
}

/// What the file may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    data_dir: Option<PathBuf>,
    min_free_disk: Option<HumanSize>,
    node_name: Option<String>,
    dev: Option<bool>,
    log_format: Option<LogFormat>,
    drain_timeout: Option<HumanDuration>,
    http: http::Written,
    raft: raft::Written,
    containers: containers::Written,
    limits: limits::Written,
    activations: activations::Written,
    parameter_storage: parameter_storage::Written,
    auth: auth::Written,
}

/// What flags or the environment set.
#[derive(Debug, Default, Clone)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub node_name: Option<String>,
    pub dev: Option<bool>,
    pub log_format: Option<LogFormat>,
    pub api_addr: Option<SocketAddr>,
    pub backend: Option<BackendChoice>,
    pub unsafe_no_sandbox: Option<bool>,
    pub memory: Option<HumanSize>,
}

/// With less the store could not even end what it has begun: it writes tables of up to 16 MB beside its log.
const LEAST_FREE_DISK: ByteSize = ByteSize::mib(32);

/// Where the data lies unless someone says otherwise.
pub const DEFAULT_DATA_DIR: &str = "whisp-data";

impl Config {
    /// Reads `file`, if there is one, puts `overrides` over it, fills in defaults and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError`] names the file or the key.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let written = match file {
            None => Written::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
                toml::from_str(&text)
                    .map_err(|source| ConfigError::Malformed { path: path.to_owned(), source: Box::new(source) })?
            }
        };
        written.overridden(overrides).checked()
    }
}

impl Written {
    fn overridden(mut self, over: Overrides) -> Self {
        fn put<T>(place: &mut Option<T>, value: Option<T>) {
            if value.is_some() {
                *place = value;
            }
        }
        put(&mut self.data_dir, over.data_dir);
        put(&mut self.node_name, over.node_name);
        put(&mut self.dev, over.dev);
        put(&mut self.log_format, over.log_format);
        put(&mut self.http.api_addr, over.api_addr);
        put(&mut self.containers.backend, over.backend);
        put(&mut self.containers.unsafe_no_sandbox, over.unsafe_no_sandbox);
        put(&mut self.containers.memory, over.memory);
        self
    }

    fn checked(self) -> Result<Config, ConfigError> {
        let config = Config {
            data_dir: self.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            min_free_disk: self.min_free_disk.map_or(ByteSize::mib(256), ByteSize::from),
            node_name: self.node_name.unwrap_or_else(host_name),
            dev: self.dev.unwrap_or(false),
            log_format: self.log_format.unwrap_or_default(),
            drain_timeout: self.drain_timeout.map_or(Duration::from_secs(310), Duration::from),
            http: self.http.checked()?,
            raft: self.raft.checked()?,
            limits: self.limits.checked()?,
            containers: self.containers.checked()?,
            activations: self.activations.checked()?,
            parameter_storage: self.parameter_storage.checked()?,
            auth: self.auth.checked(),
        };
        if config.node_name.is_empty() || config.node_name.len() > 64 || config.node_name.contains(char::is_control) {
            return Err(ConfigError::invalid("node_name", "must have 1 to 64 bytes and no control characters"));
        }
        if config.min_free_disk != ByteSize(0) && config.min_free_disk < LEAST_FREE_DISK {
            let least = LEAST_FREE_DISK.as_mib();
            return Err(ConfigError::invalid(
                "min_free_disk",
                format!("must be at least {least} MB, or 0MB for no bound"),
            ));
        }
        // The guest key is public: whoever reaches the API with it may run code here.
        if config.dev && !config.http.api_addr.ip().is_loopback() {
            return Err(ConfigError::invalid(
                "dev",
                format!(
                    "needs an API address on loopback, as everybody knows the guest key, and http.api_addr is {}",
                    config.http.api_addr
                ),
            ));
        }
        let needed = ByteSize::mib(config.limits.memory_mb.standard.into());
        if config.containers.memory < needed {
            return Err(ConfigError::invalid(
                "containers.memory",
                format!(
                    "{} MB hold no action of the standard size, {} MB",
                    config.containers.memory.as_mib(),
                    needed.as_mib()
                ),
            ));
        }
        Ok(config)
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "whisp".to_owned() } else { name }
}

#[cfg(test)]
pub(crate) mod tests;
