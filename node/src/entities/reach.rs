//! Who may read what a package holds: its owner, everybody if it is published; through a binding its owner only, as
//! long as the package behind it may be read.

use protocol::{
    EntityName, ErrorCode, FullyQualifiedName,
    entity::{Entity, Package, Parameters},
    messages,
};

use super::{EntityError, Source};

/// A package that may be read, and the one it stands for.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub package: Package,
    /// If `package` is a binding: what it is bound to.
    pub provider: Option<Package>,
}

/// Why a package cannot be read. How it is told depends on what was asked for.
#[derive(Debug)]
pub(super) enum Unreachable {
    /// One's own, and it is not there; or one's own binding leads nowhere in one's own namespace.
    Missing,
    /// One's own, and no package.
    NotAPackage,
    /// Somebody else's, and private, missing or a binding. Which it is remains a secret.
    Forbidden,
    Circular,
    Failed(EntityError),
}

impl From<EntityError> for Unreachable {
    fn from(error: EntityError) -> Self {
        Self::Failed(error)
    }
}

impl Reached {
    /// The package whose actions these are.
    pub fn home(&self) -> &Package {
        self.provider.as_ref().unwrap_or(&self.package)
    }

    /// What its actions inherit.
    pub fn parameters(&self) -> Parameters {
        match &self.provider {
            None => self.package.parameters.clone(),
            Some(provider) => provider.parameters.overlaid_by(&self.package.parameters),
        }
    }

    /// The binding, if it is one.
    pub fn binding(&self) -> Option<FullyQualifiedName> {
        self.provider.is_some().then(|| self.package.fqn())
    }

    /// May everybody read it?
    pub fn is_shared(&self) -> bool {
        self.provider.is_none() && self.package.publish
    }
}

/// Finds the package `name` for `caller`.
pub(super) fn reach(
    source: &impl Source,
    caller: &EntityName,
    name: &FullyQualifiedName,
) -> Result<Reached, Unreachable> {
    let package = match (source.entity(name)?, name.path.namespace == *caller) {
        (Some((_, Entity::Package(package))), true) => package,
        (Some((_, Entity::Package(package))), false) if package.publish && package.binding.is_none() => package,
        (_, false) => return Err(Unreachable::Forbidden),
        (Some(_), true) => return Err(Unreachable::NotAPackage),
        (None, true) => return Err(Unreachable::Missing),
    };
    let provider = match &package.binding {
        None => None,
        Some(binding) if binding.fqn() == *name => return Err(Unreachable::Circular),
        // The package behind a binding is no binding, so this goes one step deep. Should one have become a binding by
        // being deleted and made anew, it counts as missing: following it could go on for ever.
        Some(binding) => match (source.entity(&binding.fqn())?, binding.namespace == *caller) {
            (Some((_, Entity::Package(provider))), own) if provider.binding.is_none() && (own || provider.publish) => {
                Some(provider)
            }
            (_, true) => return Err(Unreachable::Missing),
            (_, false) => return Err(Unreachable::Forbidden),
        },
    };
    Ok(Reached { package, provider })
}

impl Unreachable {
    /// As told when an action in the package was asked for.
    pub fn for_action(self, package: &FullyQualifiedName) -> EntityError {
        match self {
            Self::Missing => EntityError::missing(),
            other => other.told(package),
        }
    }

    /// As told when the package itself was asked for: it is named.
    pub fn for_package(self, package: &FullyQualifiedName) -> EntityError {
        match self {
            Self::Missing => {
                EntityError::refused(ErrorCode::NotFound, messages::named_resource_does_not_exist(package))
            }
            other => other.told(package),
        }
    }

    fn told(self, package: &FullyQualifiedName) -> EntityError {
        match self {
            Self::Missing => EntityError::missing(),
            Self::NotAPackage => EntityError::conflict(messages::WRONG_COLLECTION),
            Self::Forbidden => EntityError::forbidden(package),
            Self::Circular => EntityError::refused(ErrorCode::Unprocessable, messages::circular_binding(package)),
            Self::Failed(error) => error,
        }
    }
}
