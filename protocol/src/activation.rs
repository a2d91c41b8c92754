//! The record that every activation ends in.

use serde::{Deserialize, Serialize};

use crate::{
    entity::{parameters::Parameters, version::SemVer},
    ids::ActivationId,
    json::RawJson,
    names::EntityName,
};

/// How an activation ended. The numbers are OpenWhisk's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActivationStatus {
    Success,
    ApplicationError,
    DeveloperError,
    WhiskError,
}

impl ActivationStatus {
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The status as records show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ApplicationError => "application error",
            Self::DeveloperError => "action developer error",
            Self::WhiskError => "whisk internal error",
        }
    }
}

/// What an activation answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub status: ActivationStatus,
    pub result: Option<RawJson>,
    /// Characters of the container's answer, or its declared length when it was cut.
    pub size: Option<u64>,
}

/// A stored activation.
///
/// Source: apache/openwhisk `WhiskActivation.scala`, `ActivationResult.scala`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The invoker's namespace.
    pub namespace: EntityName,
    pub name: EntityName,
    pub version: SemVer,
    pub subject: String,
    pub activation_id: ActivationId,
    pub cause: Option<ActivationId>,
    pub start_ms: u64,
    /// Absent for triggers.
    pub end_ms: Option<u64>,
    pub duration_ms: Option<u64>,
    pub response: Response,
    pub logs: Vec<String>,
    pub annotations: Parameters,
    pub publish: bool,
    /// What the `name` filter of lists matches: `action`, or `package/action` with the binding's name if invoked
    /// through one.
    pub filter_name: String,
}
