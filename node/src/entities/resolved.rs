//! An action as an invocation sees it: found, with its package's and binding's parameters merged in.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use protocol::{
    EntityName, FullyQualifiedName, RawJson, Revision,
    entity::{Action, ActionLimits, Parameters},
};
use serde_json::json;

/// Shared by all invocations of one revision through one path; immutable.
#[derive(Debug, Clone)]
pub struct ResolvedAction {
    /// The action as stored, with the provider's path.
    pub action: Action,
    /// Log index of the write that made it: its content identity.
    pub revision: Revision,
    /// Its code, if that is stored beside it: of this very revision.
    pub inline_code: Option<Bytes>,
    /// `namespace/bindingName`, if it was called through a package binding.
    pub binding: Option<FullyQualifiedName>,
    /// package < binding < action.
    pub parameters: Parameters,
    /// Some of them are encrypted.
    pub(super) has_locked: bool,
    /// Where a key is in `parameters`.
    pub(super) places: HashMap<String, usize>,
    /// Annotation `provide-api-key` is truthy or absent.
    pub provides_api_key: bool,
    /// Annotation `final` is the JSON value `true`.
    pub is_final: bool,
    /// What all records of it share.
    pub recorded: Recorded,
    /// As its runs are told: `/namespace[/package]/name`.
    pub full_name: String,
    pub version: String,
}

/// What a record says of its action, whatever it did: annotations, but for `filter_name`.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub path: RawJson,
    pub kind: RawJson,
    pub limits: RawJson,
    pub binding: Option<RawJson>,
    /// What the `name` filter of activation lists matches.
    pub filter_name: Arc<str>,
}

impl ResolvedAction {
    /// `inherited`: the parameters of the package, overlaid by those of the binding.
    pub fn new(
        action: Action,
        revision: Revision,
        inline_code: Option<Bytes>,
        inherited: Option<&Parameters>,
        binding: Option<FullyQualifiedName>,
    ) -> Self {
        let parameters = match inherited {
            None => action.parameters.clone(),
            Some(inherited) => inherited.overlaid_by(&action.parameters),
        };
        Self {
            recorded: Recorded::of(&action, binding.as_ref()),
            full_name: format!("/{}", action.fqn()),
            version: action.version.to_string(),
            revision,
            inline_code,
            binding,
            places: parameters.0.iter().enumerate().map(|(place, entry)| (entry.key.to_string(), place)).collect(),
            has_locked: parameters.0.iter().any(|parameter| parameter.encryption.is_some()),
            parameters,
            provides_api_key: action.annotations.get("provide-api-key").is_none_or(RawJson::is_truthy),
            is_final: action.annotations.get("final").is_some_and(|value| value.as_str() == "true"),
            action,
        }
    }

    /// Bytes it takes in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        let size = self.parameters.size() + self.action.parameters.size() + self.action.annotations.size();
        size as usize + self.inline_code.as_ref().map_or(0, Bytes::len) + self.parameters.0.len() * 256 + 1536
    }
}

impl Recorded {
    fn of(action: &Action, binding: Option<&FullyQualifiedName>) -> Self {
        Self {
            path: RawJson::string(&action.fqn().to_string()),
            kind: RawJson::string(action.exec.kind()),
            limits: limits(&action.limits),
            binding: binding.map(|binding| RawJson::string(&binding.to_string())),
            filter_name: filter_name(action.path.package.as_ref(), binding, &action.name),
        }
    }
}

/// What the `name` filter of activation lists matches: of an action called through a binding, the binding's name is the
/// package's.
pub fn filter_name(
    package: Option<&EntityName>,
    binding: Option<&FullyQualifiedName>,
    action: &EntityName,
) -> Arc<str> {
    match binding.map(|binding| &binding.name).or(package) {
        Some(package) => format!("{package}/{action}").into(),
        None => action.as_str().into(),
    }
}

fn limits(limits: &ActionLimits) -> RawJson {
    let mut shown = json!({
        "timeout": limits.timeout_ms,
        "memory": limits.memory_mb,
        "logs": limits.logs_mb,
        "concurrency": limits.concurrency,
    });
    if let Some(instances) = limits.instances {
        shown["instances"] = json!(instances);
    }
    shown.into()
}
