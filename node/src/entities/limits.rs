//! The limits of namespaces, as they are in effect.

use std::sync::Arc;

use protocol::{EntityName, codec, command::MetaKey, identity::NamespaceLimits, limits::EffectiveLimits};

use super::{Entities, EntityError, cache::ReadCache};

/// Namespaces whose limits are kept in memory, roughly.
const NAMESPACES: usize = 10_000;

#[derive(Debug)]
pub(super) struct LimitsCache(pub ReadCache<EntityName, Arc<EffectiveLimits>>);

impl Default for LimitsCache {
    fn default() -> Self {
        Self(ReadCache::new(NAMESPACES))
    }
}

impl Entities {
    /// What holds for `namespace`. Leaves the thread only if it is not known yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn limits(&self, namespace: &EntityName) -> Result<Arc<EffectiveLimits>, EntityError> {
        if let Some(limits) = self.0.caches.limits.0.get(namespace) {
            return Ok(limits);
        }
        let namespace = namespace.clone();
        self.reading(move |entities| entities.read_limits(&namespace)).await
    }

    /// What holds for `namespace` while its activations run. A namespace that is not in memory costs a look into the
    /// store's own cache; one whose limits cannot be read has the system's, as what was accepted must end somehow.
    pub fn limits_in_effect(&self, namespace: &EntityName) -> Arc<EffectiveLimits> {
        let limits = match self.0.caches.limits.0.get(namespace) {
            Some(limits) => Ok(limits),
            None => self.read_limits(namespace),
        };
        limits.unwrap_or_else(|error| {
            tracing::error!(%namespace, %error, "the limits of a namespace cannot be read");
            Arc::new(EffectiveLimits::of(&self.0.limits, None))
        })
    }

    fn read_limits(&self, namespace: &EntityName) -> Result<Arc<EffectiveLimits>, EntityError> {
        let cache = &self.0.caches.limits.0;
        let ticket = cache.begin();
        let own: Option<NamespaceLimits> = match self.0.meta.get(&MetaKey::Limits(namespace.clone()))? {
            None => None,
            Some(stored) => Some(
                codec::decode(&stored.value)
                    .map_err(|error| EntityError::Corrupted(format!("limits of {namespace}: {error}")))?,
            ),
        };
        let limits = Arc::new(EffectiveLimits::of(&self.0.limits, own.as_ref()));
        cache.insert(ticket, namespace.clone(), Arc::clone(&limits), vec![namespace.clone()], 1);
        Ok(limits)
    }
}
