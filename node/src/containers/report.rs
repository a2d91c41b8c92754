//! What the pools look like right now: for `whisp status`, for placement, and for tests.

use serde::{Deserialize, Serialize};

/// The pools of one node. Sizes in bytes unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    pub memory_total: u64,
    /// Held by everything that exists, idle or not, until it is destroyed.
    pub memory_used: u64,
    /// Part of `memory_used` that would be evicted for others.
    pub memory_idle: u64,
    /// Activations waiting for memory.
    pub run_buffer: usize,
    pub draining: bool,
    pub actions: Vec<ActionReport>,
    pub prewarmed: Vec<PrewarmReport>,
}

/// One action of one invoking namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionReport {
    pub namespace: String,
    pub action: String,
    pub revision: u64,
    pub kind: String,
    pub memory_mb: u64,
    pub idle: usize,
    pub paused: usize,
    pub busy: usize,
    pub starting: usize,
    pub waiters: usize,
}

/// One kind of stem cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrewarmReport {
    pub kind: String,
    pub memory_mb: u64,
    pub wanted: usize,
    pub ready: usize,
    pub creating: usize,
}
