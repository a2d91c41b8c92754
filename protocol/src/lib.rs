//! Everything that crosses a wire or a disk: entities with their OpenWhisk JSON, names, limits, Raft commands,
//! activation records and the bodies of the action-proxy contract. No I/O, no async, no clock.
//!
//! Map: [`names`], [`ids`], [`size`], [`json`], [`limits`] are the small values; [`entity`], [`identity`] and [`activation`] are the
//! documents; [`action_proxy`] is what containers are told; [`messages`] and [`error`] are what callers are told;
//! [`command`] is what Raft replicates; [`codec`] turns all of it into versioned bytes.

pub mod action_proxy;
pub mod activation;
pub mod codec;
pub mod command;
pub mod entity;
pub mod error;
pub mod identity;
pub mod ids;
pub mod json;
pub mod limits;
pub mod messages;
pub mod names;
pub mod size;

pub use activation::{Activation, ActivationStatus};
pub use error::ErrorCode;
pub use ids::{ActivationId, NodeId, Revision, SessionId, ShardId, TransactionId};
pub use json::RawJson;
pub use names::{EntityName, EntityPath, FullyQualifiedName};
pub use size::ByteSize;
