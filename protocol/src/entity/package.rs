//! Packages and bindings.

use serde::{Deserialize, Serialize};

use super::{parameters::Parameters, version::SemVer};
use crate::names::EntityName;

/// A package, or a binding to one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Package {
    pub namespace: EntityName,
    pub name: EntityName,
    pub version: SemVer,
    pub publish: bool,
    pub binding: Option<Binding>,
    pub parameters: Parameters,
    pub annotations: Parameters,
    pub updated_ms: u64,
}

/// The package that a binding stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub namespace: EntityName,
    pub name: EntityName,
}
