//! Logic of the entities: what may be written, how names resolve, how parameters merge.
//!
//! [`Entities`] is the door. `actions.rs` and `packages.rs` hold what may be done to a collection, each a decision on
//! what is stored followed by one conditional write; `resolve.rs` finds what a name stands for, `arguments.rs` merges
//! what an action is called with. `cache.rs` keeps resolved actions right while writes go on; `limits.rs` does so for
//! namespaces. `encryption.rs` hides stored values of parameters. `manifest.rs` reads the runtimes manifest and `kinds.rs` finds what of it can be used here;
//! `code.rs` keeps code that is too large for the log.

pub mod actions;
pub mod arguments;
mod cache;
pub mod code;
pub mod collect;
pub mod encryption;
mod error;
pub mod kinds;
mod limits;
pub mod manifest;
pub mod packages;
mod reach;
pub mod resolve;
pub mod resolved;

use std::sync::Arc;

use protocol::{
    FullyQualifiedName, Revision, codec,
    command::{MetaCommand, MetaKey, MetaReply, MetaTxn},
    entity::Entity,
    limits::SystemLimits,
};
use raft_store::{MetaChange, MetaReader};

pub use self::error::EntityError;
use self::{code::Blobs, encryption::Keyring, kinds::Kinds, limits::LimitsCache, resolve::ActionCache};
use crate::cluster::raft::Groups;

/// What is kept in memory of entities. Made before the Raft groups, which tell it what they apply.
#[derive(Debug, Default)]
pub struct EntityCaches {
    actions: ActionCache,
    limits: LimitsCache,
}

impl EntityCaches {
    /// Forgets what `changes` made out of date. Called after they are readable and before they are answered.
    pub fn meta_applied(&self, changes: &[MetaChange]) {
        for change in changes {
            match change {
                MetaChange::Put { key, .. } | MetaChange::Deleted(key) => match key {
                    MetaKey::Entity(name) => self.actions.0.invalidate(name),
                    MetaKey::Limits(namespace) => self.limits.0.invalidate(namespace),
                    // Code changes with the revision of its action only.
                    MetaKey::Code(_) | MetaKey::Subject(_) | MetaKey::AuthKey(_) | MetaKey::Setting(_) => {}
                },
                MetaChange::Reset => {
                    self.actions.0.clear();
                    self.limits.0.clear();
                }
                MetaChange::SessionOpened(_) | MetaChange::SessionExpired(_) => {}
            }
        }
    }
}

/// The entities of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Entities(Arc<Inner>);

struct Inner {
    groups: Groups,
    meta: MetaReader,
    caches: Arc<EntityCaches>,
    kinds: Kinds,
    limits: SystemLimits,
    blobs: Blobs,
    keyring: Keyring,
}

impl Entities {
    /// `caches`: the ones whose [`EntityCaches::meta_applied`] hears of everything that `groups` apply.
    pub fn new(
        groups: Groups,
        caches: Arc<EntityCaches>,
        kinds: Kinds,
        limits: SystemLimits,
        blobs: Blobs,
        keyring: Keyring,
    ) -> Self {
        let meta = groups.store().meta();
        Self(Arc::new(Inner { groups, meta, caches, kinds, limits, blobs, keyring }))
    }

    pub fn kinds(&self) -> &Kinds {
        &self.0.kinds
    }

    pub fn system_limits(&self) -> &SystemLimits {
        &self.0.limits
    }

    /// What encrypted parameters are read with.
    pub fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    /// Refuses what would be written to a disk that is almost full. Users and limits are not refused: they are few, and a key
    /// may have to be blocked at any time.
    fn check_room(&self) -> Result<(), EntityError> {
        if self.0.groups.store().space().is_short() { Err(EntityError::NoSpace) } else { Ok(()) }
    }

    /// Does `txn` if its conditions hold. `Err` inside: the index of the one that did not.
    async fn write(&self, txn: MetaTxn) -> Result<Result<Revision, u32>, EntityError> {
        self.check_room()?;
        match self.0.groups.propose_meta(MetaCommand::Write(txn)).await? {
            MetaReply::Written { revision } => Ok(Ok(revision)),
            MetaReply::ConditionFailed { index } => Ok(Err(index)),
            other => Err(EntityError::Internal(format!("a write was answered with {other:?}"))),
        }
    }

    /// Runs `read`, which may wait for the disk, where that holds nobody up.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, EntityError> + Send + 'static,
    ) -> Result<T, EntityError> {
        let entities = self.clone();
        match tokio::task::spawn_blocking(move || read(&entities)).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(EntityError::Unavailable("the node is stopping".into())),
        }
    }
}

/// Where entities are read. Reads may wait for the disk.
trait Source {
    fn entity(&self, name: &FullyQualifiedName) -> Result<Option<(Revision, Entity)>, EntityError>;
    /// The inline code of an action.
    fn inline_code(&self, name: &FullyQualifiedName) -> Result<Option<Vec<u8>>, EntityError>;
}

impl Source for MetaReader {
    fn entity(&self, name: &FullyQualifiedName) -> Result<Option<(Revision, Entity)>, EntityError> {
        match self.get(&MetaKey::Entity(name.clone()))? {
            None => Ok(None),
            Some(stored) => Ok(Some((stored.revision, decode(name, &stored.value)?))),
        }
    }

    fn inline_code(&self, name: &FullyQualifiedName) -> Result<Option<Vec<u8>>, EntityError> {
        Ok(self.get(&MetaKey::Code(name.clone()))?.map(|stored| stored.value))
    }
}

fn decode(name: &FullyQualifiedName, value: &[u8]) -> Result<Entity, EntityError> {
    codec::decode(value).map_err(|error| EntityError::Corrupted(format!("{name}: {error}")))
}
