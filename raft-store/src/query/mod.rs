//! Reads of applied state. They see one moment each, whatever is applied or installed meanwhile, and block: callers are on
//! threads that may.

mod meta;
mod shard;

pub use meta::{MetaReader, OpenSession, Stored};
pub use shard::{ActivationQuery, ShardReader, Unfinished};
