//! An action as an invocation sees it: found, with its package's and binding's parameters merged in.

use protocol::{
    EntityName, FullyQualifiedName, Revision,
    entity::{Action, Parameters},
};

/// Shared by all invocations of one revision through one path; immutable.
#[derive(Debug, Clone)]
pub struct ResolvedAction {
    /// The action as stored, with the provider's path.
    pub action: Action,
    /// Log index of the write that made it: its content identity.
    pub revision: Revision,
    /// `namespace/bindingName`, if it was called through a package binding.
    pub binding: Option<FullyQualifiedName>,
    /// package < binding < action.
    pub parameters: Parameters,
    /// Annotation `provide-api-key` is truthy or absent.
    pub provides_api_key: bool,
    /// Annotation `final` is the JSON value `true`.
    pub is_final: bool,
}

impl ResolvedAction {
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
}
