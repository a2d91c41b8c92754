//! An action as an invocation sees it: found, with its package's and binding's parameters merged in.

use std::collections::HashMap;

use bytes::Bytes;
use protocol::{
    EntityName, FullyQualifiedName, RawJson, Revision,
    entity::{Action, Parameters},
};

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
    /// Where a key is in `parameters`.
    pub(super) places: HashMap<String, usize>,
    /// Annotation `provide-api-key` is truthy or absent.
    pub provides_api_key: bool,
    /// Annotation `final` is the JSON value `true`.
    pub is_final: bool,
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
            revision,
            inline_code,
            binding,
            places: parameters.0.iter().enumerate().map(|(place, entry)| (entry.key.clone(), place)).collect(),
            parameters,
            provides_api_key: action.annotations.get("provide-api-key").is_none_or(RawJson::is_truthy),
            is_final: action.annotations.get("final").is_some_and(|value| value.as_str() == "true"),
            action,
        }
    }

    /// What the `name` filter of activation lists matches.
    pub fn filter_name(&self) -> String {
        let package: Option<&EntityName> = match &self.binding {
            Some(binding) => Some(&binding.name),
            None => self.action.path.package.as_ref(),
        };
        match package {
            Some(package) => format!("{package}/{}", self.action.name),
            None => self.action.name.to_string(),
        }
    }

    /// Bytes it takes in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        let size = self.parameters.size() + self.action.parameters.size() + self.action.annotations.size();
        size as usize + self.inline_code.as_ref().map_or(0, Bytes::len) + self.parameters.0.len() * 256 + 1024
    }
}
