//! Who calls: subjects, their namespaces and keys, and the limits of a namespace.

use serde::{Deserialize, Serialize};

use crate::names::EntityName;

/// A subject: a person or system that owns namespaces. Key: its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub subject: String,
    pub blocked: bool,
    pub namespaces: Vec<NamespaceKey>,
}

/// A namespace of a subject with the key that selects it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceKey {
    pub namespace: EntityName,
    /// User name of the Basic credentials; UUID text when we generate it.
    pub uuid: String,
    /// HMAC-SHA-256 of the key, to verify it.
    pub mac: [u8; 32],
    /// The key under the cluster's data key, for those who must be shown it or act with it.
    pub sealed: Vec<u8>,
}

/// What a verified credential stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub subject: String,
    pub namespace: EntityName,
    pub uuid: String,
}

/// Limits of a namespace that differ from the defaults; `None` = default.
///
/// Source: reference `rest-api.md` 17 and 21.2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceLimits {
    pub invocations_per_minute: Option<u32>,
    pub concurrent_invocations: Option<u32>,
    pub fires_per_minute: Option<u32>,
    pub allowed_kinds: Option<Vec<String>>,
    pub store_activations: Option<bool>,
    pub min_action_memory_mb: Option<u32>,
    pub max_action_memory_mb: Option<u32>,
    pub min_action_logs_mb: Option<u32>,
    pub max_action_logs_mb: Option<u32>,
    pub min_action_timeout_ms: Option<u32>,
    pub max_action_timeout_ms: Option<u32>,
    pub min_action_concurrency: Option<u32>,
    pub max_action_concurrency: Option<u32>,
    /// As entered, for example `1 MB`.
    pub max_parameter_size: Option<String>,
    pub max_payload_size: Option<String>,
    pub truncation_size: Option<String>,
}
