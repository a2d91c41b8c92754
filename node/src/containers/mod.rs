//! Containers: pools of warm ones, decisions about starting and evicting, and the back ends that run them.
//!
//! Map, from the outside in: [`pool`] is the door: a warm container, or a place in the queue for one. [`lease`] is a
//! container in use, `shared` one in use by several. [`pool_state`] decides everything, without a clock or I/O; [`memory`] and [`prewarm`] are its
//! parts. `effects` and
//! [`container`] carry decisions out on a [`backend`]; `invoke/action_actor.rs` brings misses and timers.

pub mod backend;
pub mod container;
mod effects;
pub mod lease;
pub mod memory;
pub mod metrics;
pub mod need;
pub mod pool;
pub mod pool_state;
pub mod prewarm;
pub mod report;
mod shared;

pub use lease::{Lease, StartKind};
pub use need::{Need, PoolKey};
pub use pool::{AcquireError, PoolConfig, Pools};
