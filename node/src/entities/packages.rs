//! The collection of packages and bindings: create, update, get, delete, list.

use std::ops::ControlFlow;

use protocol::{
    EntityName, ErrorCode, FullyQualifiedName, Revision, codec,
    command::{Condition, ListEntry, MetaKey, MetaOp, MetaTxn},
    entity::{Action, Binding, Collection, Entity, Package, Parameters, SemVer, package::PackageBody},
    messages,
};

use super::{
    Entities, EntityError, Source,
    encryption::Keyring,
    reach::{Reached, Unreachable, reach},
};
use crate::clock;

/// The one name that no package may have: it stands for "no package" in paths of web actions.
const RESERVED: &str = "default";
/// The annotation that bindings have from the server.
const BINDING: &str = "binding";

/// A package with what is in it.
#[derive(Debug, Clone)]
pub struct PackageWithContents {
    pub package: Package,
    /// The provider's, overlaid by the binding's own.
    pub parameters: Parameters,
    /// The provider's.
    pub actions: Vec<Action>,
}

impl Entities {
    /// May `caller` write the package `name`? Asked before the body is looked at.
    ///
    /// # Errors
    /// Not the caller's (403).
    pub fn check_package_owner(&self, caller: &EntityName, name: &FullyQualifiedName) -> Result<(), EntityError> {
        if name.path.namespace == *caller { Ok(()) } else { Err(EntityError::forbidden(name)) }
    }

    /// Refuses names that packages may not have.
    ///
    /// # Errors
    /// The reserved name (400).
    pub fn check_package_name(&self, name: &FullyQualifiedName) -> Result<(), EntityError> {
        if name.name.as_str() == RESERVED { Err(EntityError::bad_request(messages::PACKAGE_RESERVED)) } else { Ok(()) }
    }

    /// Creates or updates the package or binding `name` of the caller's own namespace.
    ///
    /// # Errors
    /// What `PUT` refuses after its body was decoded.
    pub async fn put_package(
        &self,
        name: FullyQualifiedName,
        body: PackageBody,
        overwrite: bool,
    ) -> Result<Package, EntityError> {
        let (package, txn) = self
            .reading(move |entities| {
                let source = &entities.0.meta;
                let binding = body.binding.clone().map(|binding| resolved(binding, &name.path.namespace));
                let to_binding = match &binding {
                    None => false,
                    Some(binding) => check_provider(source, &name, binding)?,
                };
                let known = match source.entity(&name)? {
                    None => None,
                    Some((revision, Entity::Package(package))) if overwrite => Some((revision, package)),
                    Some((_, Entity::Package(_))) => return Err(EntityError::conflict(messages::ALREADY_EXISTS)),
                    Some(_) => return Err(EntityError::conflict(messages::WRONG_COLLECTION)),
                };
                let planned = plan_put(name, body, binding, known, &entities.0.keyring, clock::unix_ms())?;
                // Not before it is known whether a package may become a binding at all.
                if to_binding { Err(EntityError::bad_request(messages::BINDING_TO_BINDING)) } else { Ok(planned) }
            })
            .await?;
        match self.write(txn).await? {
            Ok(_) => Ok(package),
            // The first condition is on the package itself, the other on its provider.
            Err(0) => Err(EntityError::conflict(messages::CONCURRENT_MODIFICATION)),
            Err(_) => Err(EntityError::bad_request(messages::BINDING_TO_MISSING)),
        }
    }

    /// The package or binding `name` as `caller` sees it, with what is in it.
    ///
    /// # Errors
    /// Not there (404), not the caller's to read (403), no package (409).
    pub async fn get_package(
        &self,
        caller: &EntityName,
        name: FullyQualifiedName,
    ) -> Result<PackageWithContents, EntityError> {
        let caller = caller.clone();
        self.reading(move |entities| {
            let reached: Reached =
                reach(&entities.0.meta, &caller, &name).map_err(|error: Unreachable| error.for_package(&name))?;
            let home = reached.home();
            let actions = entities.actions_of(&home.namespace, Some(&home.name), 0, usize::MAX)?;
            Ok(PackageWithContents { parameters: reached.parameters(), package: reached.package, actions })
        })
        .await
    }

    /// Deletes the package or binding `name` of the caller's own namespace. `force`: with the actions in it.
    ///
    /// # Errors
    /// Not there (404); not empty, no package, or changed meanwhile (409).
    pub async fn delete_package(&self, name: FullyQualifiedName, force: bool) -> Result<Package, EntityError> {
        let read = name.clone();
        let (revision, package) = self
            .reading(move |entities| match entities.0.meta.entity(&read)? {
                Some((revision, Entity::Package(package))) => {
                    entities.check_empty(&package, force)?;
                    Ok((revision, package))
                }
                Some(_) => Err(EntityError::conflict(messages::WRONG_COLLECTION)),
                None => Err(EntityError::missing()),
            })
            .await?;
        let key = MetaKey::Entity(name.clone());
        let mut conditions = vec![Condition::At(key.clone(), revision)];
        let mut ops = Vec::new();
        match (&package.binding, force) {
            (Some(_), _) => {}
            (None, true) => ops.push(MetaOp::DeletePackageContents(name.clone())),
            (None, false) => conditions.push(Condition::PackageEmpty(name.clone())),
        }
        ops.push(MetaOp::Delete(key));
        match self.write(MetaTxn { conditions, ops }).await? {
            Ok(_) => Ok(package),
            Err(0) => Err(EntityError::conflict(messages::CONCURRENT_MODIFICATION)),
            // An action came in meanwhile, and may be gone again by now.
            Err(_) => {
                let emptied = package.clone();
                self.reading(move |entities| entities.check_empty(&emptied, force)).await?;
                Err(EntityError::conflict(messages::CONCURRENT_MODIFICATION))
            }
        }
    }

    fn check_empty(&self, package: &Package, force: bool) -> Result<(), EntityError> {
        if force || package.binding.is_some() {
            return Ok(());
        }
        match self.0.meta.count(&package.namespace, Collection::Actions, Some(&package.name))? {
            0 => Ok(()),
            count => Err(EntityError::conflict(messages::package_not_empty(count))),
        }
    }

    /// The packages of `namespace`, newest first: all if it is the caller's, else those that are published.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list_packages(
        &self,
        caller: &EntityName,
        namespace: EntityName,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<Package>, EntityError> {
        let own = namespace == *caller;
        self.reading(move |entities| {
            let mut found = Vec::new();
            let mut seen = 0;
            if limit > 0 {
                entities.visit_packages(&namespace, own, &mut |package| {
                    seen += 1;
                    if seen > skip {
                        found.push(package);
                    }
                    if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })?;
            }
            Ok(found)
        })
        .await
    }

    /// How many [`Entities::list_packages`] would list.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn count_packages(&self, caller: &EntityName, namespace: EntityName) -> Result<u64, EntityError> {
        let own = namespace == *caller;
        self.reading(move |entities| {
            if own {
                return Ok(entities.0.meta.count(&namespace, Collection::Packages, None)?);
            }
            let mut count = 0;
            entities.visit_packages(&namespace, own, &mut |_| {
                count += 1;
                ControlFlow::Continue(())
            })?;
            Ok(count)
        })
        .await
    }

    fn visit_packages(
        &self,
        namespace: &EntityName,
        own: bool,
        visit: &mut dyn FnMut(Package) -> ControlFlow<()>,
    ) -> Result<(), EntityError> {
        let mut failed = Ok(());
        self.0.meta.visit_list(namespace, Collection::Packages, None, &mut |name, stored| match super::decode(
            &name,
            &stored.value,
        ) {
            Ok(Entity::Package(package)) if own || (package.publish && package.binding.is_none()) => visit(package),
            Ok(Entity::Package(_)) => ControlFlow::Continue(()),
            Ok(_) => {
                failed = Err(EntityError::Corrupted(format!("{name} is listed as a package")));
                ControlFlow::Break(())
            }
            Err(error) => {
                failed = Err(error);
                ControlFlow::Break(())
            }
        })?;
        failed
    }
}

fn resolved(binding: Binding, namespace: &EntityName) -> Binding {
    if binding.namespace.is_placeholder() { Binding { namespace: namespace.clone(), ..binding } } else { binding }
}

/// May the caller read what is to be bound to? That comes before existence. True: it is a binding itself.
fn check_provider(source: &impl Source, name: &FullyQualifiedName, binding: &Binding) -> Result<bool, EntityError> {
    let provider = binding.fqn();
    if provider == *name {
        return Err(EntityError::refused(ErrorCode::Unprocessable, messages::circular_binding(name)));
    }
    match reach(source, &name.path.namespace, &provider) {
        Ok(reached) => Ok(reached.provider.is_some()),
        // Also if it is one's own binding whose provider is gone.
        Err(Unreachable::Missing) => Err(EntityError::bad_request(messages::BINDING_TO_MISSING)),
        Err(Unreachable::NotAPackage) => Err(EntityError::conflict(messages::BINDING_TO_NON_PACKAGE)),
        Err(other) => Err(other.for_package(&provider)),
    }
}

/// The package that `body` makes of what is `known`, or of nothing, and how to write it.
fn plan_put(
    name: FullyQualifiedName,
    body: PackageBody,
    binding: Option<Binding>,
    known: Option<(Revision, Package)>,
    keyring: &Keyring,
    now_ms: u64,
) -> Result<(Package, MetaTxn), EntityError> {
    let key = MetaKey::Entity(name.clone());
    let mut conditions = Vec::new();
    if let Some(provider) = &binding {
        conditions.push(Condition::Exists(MetaKey::Entity(provider.fqn())));
    }
    let (own, mut package) = match known {
        None => {
            let package = Package {
                namespace: name.path.namespace,
                name: name.name,
                version: body.version.unwrap_or(SemVer::FIRST),
                publish: body.publish.unwrap_or(false),
                binding,
                parameters: body.parameters.unwrap_or_default(),
                annotations: body.annotations.unwrap_or_default(),
                updated_ms: now_ms,
            };
            (Condition::Absent(key.clone()), package)
        }
        Some((_, stored)) if stored.binding.is_none() && binding.is_some() => {
            return Err(EntityError::conflict(messages::PACKAGE_TO_BINDING));
        }
        Some((revision, stored)) => {
            let package = Package {
                version: body.version.unwrap_or(stored.version.next_patch()),
                publish: body.publish.unwrap_or(stored.publish),
                binding: binding.or(stored.binding),
                parameters: body.parameters.unwrap_or(stored.parameters),
                annotations: body.annotations.unwrap_or(stored.annotations),
                updated_ms: now_ms,
                ..stored
            };
            (Condition::At(key.clone(), revision), package)
        }
    };
    conditions.insert(0, own);
    package.parameters = keyring.lock(package.parameters);
    package.annotations.remove(BINDING);
    if let Some(binding) = &package.binding {
        package.annotations.set(BINDING, binding.annotation());
    }
    let value = codec::encode(&Entity::Package(package.clone()));
    let list = Some(ListEntry { collection: Collection::Packages, updated_ms: package.updated_ms });
    let ops = vec![MetaOp::Put { key, value, list }];
    Ok((package, MetaTxn { conditions, ops }))
}

#[cfg(test)]
mod tests;
