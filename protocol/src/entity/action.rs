//! Actions.

use serde::{Deserialize, Serialize};

use super::{parameters::Parameters, version::SemVer};
use crate::{
    names::{EntityName, EntityPath, FullyQualifiedName},
    size::ByteSize,
};

/// An action as stored. The code itself is kept apart (see [`CodeRef`]), so that lists and look-ups never load it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// `ns` or `ns/package`.
    pub path: EntityPath,
    pub name: EntityName,
    pub version: SemVer,
    pub publish: bool,
    pub exec: Exec,
    pub parameters: Parameters,
    pub annotations: Parameters,
    pub limits: ActionLimits,
    /// Milliseconds since the epoch of the last write.
    pub updated_ms: u64,
}

impl Action {
    pub fn fqn(&self) -> FullyQualifiedName {
        FullyQualifiedName::new(self.path.clone(), self.name.clone())
    }
}

/// How an action is executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Exec {
    /// A kind of the runtimes manifest, resolved (`nodejs:20`, never `nodejs:default`).
    Managed { kind: String, main: Option<String>, code: CodeRef },
    /// An image of the user's.
    Blackbox { image: String, main: Option<String>, code: Option<CodeRef> },
    /// Actions called one after another.
    Sequence { components: Vec<FullyQualifiedName> },
}

impl Exec {
    /// The kind as the API shows it.
    pub fn kind(&self) -> &str {
        match self {
            Exec::Managed { kind, .. } => kind,
            Exec::Blackbox { .. } => "blackbox",
            Exec::Sequence { .. } => "sequence",
        }
    }

    pub fn code(&self) -> Option<&CodeRef> {
        match self {
            Exec::Managed { code, .. } => Some(code),
            Exec::Blackbox { code, .. } => code.as_ref(),
            Exec::Sequence { .. } => None,
        }
    }

    pub fn main(&self) -> Option<&str> {
        match self {
            Exec::Managed { main, .. } | Exec::Blackbox { main, .. } => main.as_deref(),
            Exec::Sequence { .. } => None,
        }
    }
}

/// Names the code of an action: the bytes of the text, or the decoded bytes of base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRef {
    pub sha256: [u8; 32],
    /// Bytes as stored.
    pub size: u64,
    /// True when the client sent base64 (zip, jar, executable): it is stored decoded and shown encoded.
    pub binary: bool,
    /// True: up to 64 KiB, stored beside the entity in `meta`. False: a blob file named by `sha256`.
    pub inline: bool,
}

/// Largest code that is stored beside its entity.
pub const INLINE_CODE: ByteSize = ByteSize::kib(64);

/// Limits of an action, checked against the namespace's bounds when written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionLimits {
    pub timeout_ms: u32,
    pub memory_mb: u32,
    pub logs_mb: u32,
    pub concurrency: u32,
    pub instances: Option<u32>,
}

impl Default for ActionLimits {
    fn default() -> Self {
        Self { timeout_ms: 60_000, memory_mb: 256, logs_mb: 10, concurrency: 1, instances: None }
    }
}
