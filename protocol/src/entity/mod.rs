//! The documents that users manage. Each has its exact OpenWhisk JSON beside it; stored, it is the binary form behind
//! [`crate::codec`].

pub mod action;
pub mod exec;
pub mod package;
pub mod parameters;
pub mod version;

pub use action::{Action, ActionLimits, CodeRef, Exec};
pub use exec::{ExecBody, Kinds};
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

impl Collection {
    /// The path segment, which is also the member that counts its entities.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Actions => "actions",
            Self::Triggers => "triggers",
            Self::Rules => "rules",
            Self::Packages => "packages",
        }
    }
}

/// A stored entity of any collection: one name space per namespace, so a key can hold any of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entity {
    Action(Action),
    Package(Package),
}

#[cfg(test)]
mod tests;
