//! The documents that users manage. Each has its exact OpenWhisk JSON beside it; stored, it is the binary form behind
//! [`crate::codec`].

pub mod action;
pub mod package;
pub mod parameters;
pub mod version;

pub use action::{Action, ActionLimits, CodeRef, Exec};
pub use package::{Binding, Package};
pub use parameters::{Parameter, Parameters};
pub use version::SemVer;

use serde::{Deserialize, Serialize};

/// The collections that list entities. Stored numbers: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Collection {
    Actions,
    Triggers,
    Rules,
    Packages,
}

/// A stored entity of any collection: one name space per namespace, so a key can hold any of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entity {
    Action(Action),
    Package(Package),
}
