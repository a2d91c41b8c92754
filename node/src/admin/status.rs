//! What `whisp status` shows.

use std::{path::PathBuf, sync::Arc};

use raft_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    cluster::raft::{GroupReport, Groups},
    config::Config,
    containers::{backend::Backend, pool::Pools, report::PoolReport},
    metrics,
};

/// A node at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub node: u64,
    pub node_name: String,
    pub pid: u32,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    pub data_dir: PathBuf,
    pub disk: DiskStatus,
    pub api_addr: String,
    /// The guest key works.
    pub dev: bool,
    /// Memory of the process itself, containers excluded; `None` where the system does not tell.
    pub resident_bytes: Option<u64>,
    pub backend: BackendStatus,
    pub containers: PoolReport,
    pub cluster_id: String,
    pub groups: Vec<GroupReport>,
    pub sessions: Vec<SessionStatus>,
}

/// The disk of the data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskStatus {
    pub free_bytes: u64,
    /// With less nothing new is written or accepted.
    pub min_free_bytes: u64,
    /// There is less, or was a moment ago.
    pub is_short: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendStatus {
    pub name: String,
    pub kinds: Vec<String>,
    /// What a person should know, such as a missing layer of the sandbox.
    pub warnings: Vec<String>,
}

/// A process of a node, as `meta` knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionStatus {
    pub node: u64,
    pub node_name: String,
    pub incarnation: u64,
}

/// Where the parts of a [`Status`] come from.
pub struct StatusSource {
    pub config: Arc<Config>,
    /// As bound: the configured port may be 0.
    pub api_addr: std::net::SocketAddr,
    pub started_ms: u64,
    pub groups: Groups,
    pub pools: Pools,
    pub backend: Arc<dyn Backend>,
    /// Kinds that actions can have here.
    pub kinds: Vec<String>,
}

impl StatusSource {
    /// Blocking: reads the store.
    ///
    /// # Errors
    /// [`StoreError`] if that fails.
    pub fn collect(&self) -> Result<Status, StoreError> {
        let space = self.groups.store().space();
        let sessions = self.groups.store().meta().sessions()?;
        let sessions = sessions.into_iter().map(|open| SessionStatus {
            node: open.session.node.0,
            node_name: open.node_name,
            incarnation: open.session.incarnation,
        });
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.groups.node().0,
            node_name: self.config.node_name.clone(),
            pid: std::process::id(),
            uptime_ms: clock::unix_ms().saturating_sub(self.started_ms),
            data_dir: self.config.data_dir.clone(),
            disk: DiskStatus {
                free_bytes: space.free_bytes(),
                min_free_bytes: space.min_free_bytes(),
                is_short: space.was_short(),
            },
            api_addr: self.api_addr.to_string(),
            dev: self.config.dev,
            resident_bytes: metrics::resident_bytes(),
            backend: BackendStatus {
                name: self.backend.name().to_owned(),
                kinds: self.kinds.clone(),
                warnings: self.backend.warnings(),
            },
            containers: self.pools.report(),
            cluster_id: self.groups.settings().cluster_id.clone(),
            groups: self.groups.report(),
            sessions: sessions.collect(),
        })
    }
}
