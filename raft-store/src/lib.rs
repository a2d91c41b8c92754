//! The state of a node that survives: openraft on RocksDB, any number of Raft groups in one database.
//!
//! # Map
//! - [`Store`] (`store.rs`): opens the directory and hands out the parts of each group. `options.rs`, `data_version.rs`,
//!   `wal.rs` (torn tail or damage?) belong to opening, `space.rs` (is the disk full?) to running.
//! - `log_store.rs`, `flusher.rs`: entries and votes; one fsync for all groups that wait.
//! - `state_machine.rs`, [`apply`]: entries become state, atomically; the rules are pure functions.
//! - `snapshot.rs`: sent, received and installed without ever being whole in memory.
//! - `query/`: reads for the node. [`Observer`]: what its caches need to hear.
//! - `key_spaces.rs`, `keys.rs`, [`format`]: every byte on disk.
//! - `config.rs`: how to run a group.
//!
//! # Running a group
//! ```ignore
//! let store = Store::open(dir, Options::default())?;
//! let config = Arc::new(config(group, Timers::of(group), sole_voter)?);
//! let raft = Raft::new(node, config, network, store.log(group), store.state_machine(group, observer)).await?;
//! tokio::spawn(keep_log_short(store.clone(), group, raft.clone()));
//! ```
//! A new group is made by `raft.initialize(members)`; a repeated one answers `NotAllowed`, which means it was made before.
//! A *sole voter* has ticks off (`config(.., true)`), so nothing ever times out and nothing elects it: after each start it
//! calls `raft.trigger().elect(false)` and waits until `raft.metrics()` names it as leader. Its elections and commits need
//! nobody's answer. Before its membership grows: `raft.runtime_config().tick(true)`.
//!
//! At the end: `raft.shutdown()` of every group, then [`Store::close`].
//!
//! Before `client_write` call [`check_size`]. If a group's disk or state fails, its `Raft` stops with a fatal error; after
//! a failed fsync every group of the process does ([`StoreError::Failed`]).

pub mod apply;
mod blocking;
mod config;
mod data_version;
mod error;
mod flusher;
pub mod format;
#[cfg(test)]
mod format_tests;
mod key_spaces;
mod keys;
mod log_bound;
mod log_store;
mod options;
mod query;
mod recent;
mod snapshot;
mod space;
mod state_machine;
mod store;
mod types;
mod view;
mod wal;

pub use apply::{activations::ShardChange, meta::MetaChange};
pub use config::{SNAPSHOT_AFTER_BYTES, SNAPSHOT_AFTER_ENTRIES, Timers, config};
pub use error::{OpenError, StoreError};
pub use flusher::FlushStats;
pub use log_bound::keep_log_short;
pub use log_store::{EntryTooLarge, LogStore, READ_BYTES, check_size};
pub use options::{Faults, InstallStage, Options};
pub use query::{ActivationQuery, MetaReader, OpenSession, ShardReader, Stored, Unfinished};
pub use snapshot::{CHUNK_BYTES, SnapshotData, SnapshotReceiver};
pub use space::Space;
pub use state_machine::{SnapshotBuilder, StateMachine};
pub use store::{Observer, StillOpen, Store};
pub use types::{
    Entry, GroupId, LeaderId, LogId, Membership, Raft, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
