//! Records of activations: how they are put together, written and read, and the logs in them.

pub mod logs;
pub mod metrics;
pub mod query;
pub mod record;
pub mod retention;
pub mod store;
