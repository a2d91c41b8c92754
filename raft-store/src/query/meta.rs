//! Reads of the group `meta`.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
};

use protocol::{EntityName, FullyQualifiedName, Revision, SessionId, command::MetaKey, entity::Collection};

use crate::{
    apply::{self, ReadState, scan_prefix},
    error::StoreError,
    key_spaces::{
        CountKey, Counts, KeySpace, List, PackageList, Sessions, Values, auth_keys_prefix, entities_prefix,
        generation_prefix, list_prefix, subjects_prefix,
    },
    store::{Group, Inner},
    types::GroupId,
    view::{Frozen, View},
};

/// A value of `meta` as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Index of the entry that wrote it.
    pub revision: Revision,
    pub value: Vec<u8>,
}

/// An open session and its node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    pub session: SessionId,
    pub node_name: String,
}

/// Reads `meta` as applied on this node. Cheap to clone.
#[derive(Clone)]
pub struct MetaReader {
    inner: Arc<Inner>,
    group: Arc<Group>,
}

impl MetaReader {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let group = inner.group(GroupId::Meta);
        Self { inner, group }
    }

    /// Index of the last applied entry whose changes were observed.
    pub fn applied(&self) -> u64 {
        self.group.applied.load(Ordering::Acquire)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError`] if the disk cannot be read; so for all methods here.
    pub fn get(&self, key: &MetaKey) -> Result<Option<Stored>, StoreError> {
        let generation = self.group.generation.read();
        let view = View { reads: self.inner.live(), prefix: generation_prefix(GroupId::Meta, *generation) };
        stored(&view, key)
    }

    /// Visits the entities of a collection, of one package or of the whole namespace with those in packages, the newest
    /// `updated` first.
    pub fn visit_list(
        &self,
        namespace: &EntityName,
        collection: Collection,
        package: Option<&EntityName>,
        visit: &mut dyn FnMut(FullyQualifiedName, Stored) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let view = self.frozen();
        scan_prefix(&view, &list_prefix(namespace, collection, package), &mut |key, _| {
            let place = if package.is_some() { apply::key::<PackageList>(key)? } else { apply::key::<List>(key)? };
            let name = FullyQualifiedName::from(place);
            let stored = stored(&view, &MetaKey::Entity(name.clone()))?.ok_or_else(|| StoreError::Unreadable {
                what: format!("the entity {name}"),
                cause: "it is listed but not there".to_owned(),
            })?;
            Ok(visit(name, stored))
        })
    }

    /// How many [`MetaReader::visit_list`] would visit. Reads one number.
    pub fn count(
        &self,
        namespace: &EntityName,
        collection: Collection,
        package: Option<&EntityName>,
    ) -> Result<u64, StoreError> {
        let key = CountKey { namespace: namespace.clone(), collection, package: package.cloned() };
        Ok(apply::get::<Counts>(&self.frozen(), &key)?.unwrap_or(0))
    }

    /// Visits all subjects by name.
    pub fn visit_subjects(&self, visit: &mut dyn FnMut(String, Stored) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.visit_values(&subjects_prefix(), &mut |key, stored| match key {
            MetaKey::Subject(name) => visit(name, stored),
            _ => ControlFlow::Continue(()),
        })
    }

    /// Visits all credentials by uuid.
    pub fn visit_auth_keys(&self, visit: &mut dyn FnMut(String, Stored) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.visit_values(&auth_keys_prefix(), &mut |key, stored| match key {
            MetaKey::AuthKey(uuid) => visit(uuid, stored),
            _ => ControlFlow::Continue(()),
        })
    }

    /// Visits all entities of all namespaces, by name.
    pub fn visit_entities(
        &self,
        visit: &mut dyn FnMut(FullyQualifiedName, Stored) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.visit_values(&entities_prefix(), &mut |key, stored| match key {
            MetaKey::Entity(name) => visit(name, stored),
            _ => ControlFlow::Continue(()),
        })
    }

    /// All open sessions, by node.
    pub fn sessions(&self) -> Result<Vec<OpenSession>, StoreError> {
        let mut sessions = Vec::new();
        scan_prefix(&self.frozen(), &[Sessions::NUMBER], &mut |key, value| {
            let node = apply::key::<Sessions>(key)?;
            let newest = apply::value::<Sessions>(value)?;
            if newest.open {
                let session = SessionId { node, incarnation: newest.incarnation };
                sessions.push(OpenSession { session, node_name: newest.node_name });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(sessions)
    }

    fn visit_values(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(MetaKey, Stored) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        scan_prefix(&self.frozen(), prefix, &mut |key, value| {
            let key = apply::key::<Values>(key)?;
            let stored = apply::value::<Values>(value)?;
            Ok(visit(key, Stored { revision: stored.revision, value: stored.value }))
        })
    }

    fn frozen(&self) -> View<Frozen<'_>> {
        self.inner.frozen(GroupId::Meta, &self.group)
    }
}

fn stored(view: &impl ReadState, key: &MetaKey) -> Result<Option<Stored>, StoreError> {
    let stored = apply::get::<Values>(view, key)?;
    Ok(stored.map(|stored| Stored { revision: stored.revision, value: stored.value }))
}
