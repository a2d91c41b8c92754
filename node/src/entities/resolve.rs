//! From the name in a request to the action that runs: binding, package, action.

use std::sync::Arc;

use bytes::Bytes;
use protocol::{EntityName, EntityPath, ErrorCode, FullyQualifiedName, Revision, entity::Entity, messages};

use super::{Entities, EntityError, Source, cache::ReadCache, reach::reach, resolved::ResolvedAction};

/// Bytes of resolved actions that are kept in memory.
const KEPT: usize = 48 << 20;

/// Resolved actions by the name they were asked for, made of the action, its package and the binding.
#[derive(Debug)]
pub(super) struct ActionCache(pub ReadCache<FullyQualifiedName, Resolved>);

impl Default for ActionCache {
    fn default() -> Self {
        Self(ReadCache::new(KEPT))
    }
}

/// What a name stands for. The owner of the name may use it; others only if it is shared.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    action: Arc<ResolvedAction>,
    is_shared: bool,
}

impl Entities {
    /// The action that `caller` means by `name`. Leaves the thread only if it is not known yet.
    ///
    /// # Errors
    /// Not there (404), not the caller's to read (403), something else by that name (409).
    pub async fn resolve(
        &self,
        caller: &EntityName,
        name: &FullyQualifiedName,
    ) -> Result<Arc<ResolvedAction>, EntityError> {
        let own = name.path.namespace == *caller;
        if !own && name.path.package.is_none() {
            // Actions outside packages are never shared; that they exist is nobody's business.
            return Err(EntityError::forbidden(name));
        }
        if let Some(resolved) = self.0.caches.actions.0.get(name)
            && (own || resolved.is_shared)
        {
            return Ok(resolved.action);
        }
        let (caller, name) = (caller.clone(), name.clone());
        self.reading(move |entities| {
            let cache = &entities.0.caches.actions.0;
            let ticket = cache.begin();
            let (resolved, made_of) = read(&entities.0.meta, &caller, &name)?;
            let weight = resolved.action.weight();
            cache.insert(ticket, name, resolved.clone(), made_of, weight);
            Ok(resolved.action)
        })
        .await
    }

    /// May `caller` use what is in `package`? Asked where the answer comes before other refusals.
    ///
    /// # Errors
    /// Not there (404), not the caller's to read (403), no package (409), bound to itself (422).
    pub async fn check_reach(&self, caller: &EntityName, package: FullyQualifiedName) -> Result<(), EntityError> {
        let caller = caller.clone();
        self.reading(move |entities| {
            reach(&entities.0.meta, &caller, &package).map(drop).map_err(|error| error.for_action(&package))
        })
        .await
    }

    /// The present revision of an action that was accepted earlier, found the same way; `None` if it is gone or out of
    /// reach by now.
    ///
    /// # Errors
    /// Something else has its name by now (409), or the store cannot be read.
    pub async fn action(
        &self,
        provider: &FullyQualifiedName,
        binding: Option<&FullyQualifiedName>,
    ) -> Result<Option<Arc<ResolvedAction>>, EntityError> {
        let name = match binding {
            None => provider.clone(),
            Some(binding) => FullyQualifiedName::new(
                EntityPath::package(binding.path.namespace.clone(), binding.name.clone()),
                provider.name.clone(),
            ),
        };
        match self.resolve(&name.path.namespace, &name).await {
            Ok(action) => Ok(Some(action)),
            Err(EntityError::Refused(ErrorCode::NotFound | ErrorCode::Forbidden, _)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The code of `action`, of this very revision; `None` for an image that brings its own.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was stored.
    pub async fn code(&self, action: &ResolvedAction) -> Result<Option<Bytes>, EntityError> {
        match (action.action.exec.code(), &action.inline_code) {
            (None, _) => Ok(None),
            (Some(_), Some(inline)) => Ok(Some(inline.clone())),
            (Some(code), None) => {
                let sha256 = code.sha256;
                self.reading(move |entities| Ok(Some(entities.0.blobs.read(&sha256)?.into()))).await
            }
        }
    }
}

/// Reads what `name` stands for, and tells which documents that took.
fn read(
    source: &impl Source,
    caller: &EntityName,
    name: &FullyQualifiedName,
) -> Result<(Resolved, Vec<FullyQualifiedName>), EntityError> {
    let mut made_of = vec![name.clone()];
    let reached = match name.package() {
        None => None,
        Some(package) => {
            made_of.push(package.clone());
            let reached = reach(source, caller, &package).map_err(|error| error.for_action(&package))?;
            made_of.extend(reached.provider.as_ref().map(|provider| provider.fqn()));
            Some(reached)
        }
    };
    let home = match &reached {
        None => name.clone(),
        Some(reached) => FullyQualifiedName::new(reached.home().path(), name.name.clone()),
    };
    made_of.push(home.clone());
    let (revision, action, inline_code) = match entity_with_code(source, &home)? {
        Some((revision, Entity::Action(action), code)) => (revision, action, code),
        Some(_) => return Err(EntityError::conflict(messages::WRONG_COLLECTION)),
        None => return Err(EntityError::missing()),
    };
    let inherited = reached.as_ref().map(|reached| reached.parameters());
    let binding = reached.as_ref().and_then(|reached| reached.binding());
    let action = ResolvedAction::new(action, revision, inline_code, inherited.as_ref(), binding);
    let is_shared = reached.is_some_and(|reached| reached.is_shared());
    Ok((Resolved { action: Arc::new(action), is_shared }, made_of))
}

/// Updates that may come between reading an entity and its code, before somebody must be writing on purpose.
const OVERTAKEN: usize = 100;

/// An entity, and the inline code of this very revision if it is an action that has such.
pub(super) fn entity_with_code(
    source: &impl Source,
    name: &FullyQualifiedName,
) -> Result<Option<(Revision, Entity, Option<Bytes>)>, EntityError> {
    let mut before = None;
    for _ in 0..OVERTAKEN {
        let Some((revision, entity)) = source.entity(name)? else { return Ok(None) };
        let sha256 = match &entity {
            Entity::Action(action) => action.exec.code().filter(|code| code.inline).map(|code| code.sha256),
            Entity::Package(_) => None,
        };
        let Some(sha256) = sha256 else { return Ok(Some((revision, entity, None))) };
        let code = source.inline_code(name)?.unwrap_or_default();
        if super::code::sha256(&code) == sha256 {
            return Ok(Some((revision, entity, Some(code.into()))));
        }
        // Two reads are no snapshot: an update may have come between. The same revision twice is damage.
        if before.replace(revision) == Some(revision) {
            return Err(EntityError::Corrupted(format!("code of {name}: its hash is not the stored one")));
        }
    }
    Err(EntityError::Unavailable(format!("{name} changes faster than it can be read")))
}

#[cfg(test)]
mod tests;
