//! All credentials in memory.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use parking_lot::RwLock;
use protocol::{
    codec,
    command::MetaKey,
    identity::{Identity, Subject},
};
use raft_store::{MetaChange, MetaReader, StoreError};

/// What `meta` says of subjects, as of the last applied entry: fed by [`Directory::meta_applied`] before a
/// write is answered, so a key that was deleted or blocked fails from the answer on.
pub struct Directory {
    reader: MetaReader,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// By uuid; those of blocked subjects are not here.
    credentials: HashMap<Arc<str>, Credential>,
    /// The uuids of each subject in `credentials`.
    uuids: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// A reload failed: what is here may be wrong.
    unusable: bool,
}

/// What is known of a uuid.
#[derive(Clone)]
pub(super) struct Credential {
    pub identity: Arc<Identity>,
    pub mac: [u8; 32],
    pub sealed: Arc<[u8]>,
}

/// The directory could not be read from the store; it says nothing about anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the users cannot be read from the store")]
pub struct DirectoryError;

impl Directory {
    /// Reads everything. Blocking; before the groups start, or changes would be missed.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn load(reader: MetaReader) -> Result<Self, StoreError> {
        let state = RwLock::new(read(&reader)?);
        Ok(Self { reader, state })
    }

    /// Follows what was applied. Called in order, by the observer of `meta`.
    pub fn meta_applied(&self, changes: &[MetaChange]) {
        // Most writes are about entities: do not take the lock for them.
        let relevant = |change: &&MetaChange| match change {
            MetaChange::Put { key, .. } | MetaChange::Deleted(key) => matches!(key, MetaKey::Subject(_)),
            MetaChange::Reset => true,
            _ => false,
        };
        let mut changes = changes.iter().filter(relevant).peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut state = self.state.write();
        for change in changes {
            match change {
                MetaChange::Put { key: MetaKey::Subject(name), value, .. } => state.put_subject(name, value),
                MetaChange::Deleted(MetaKey::Subject(name)) => state.remove_subject(name),
                MetaChange::Reset => match read(&self.reader) {
                    Ok(read) => *state = read,
                    Err(error) => {
                        tracing::error!(%error, "users cannot be read from the store; nobody can log in");
                        *state = State { unusable: true, ..State::default() };
                    }
                },
                _ => {}
            }
        }
    }

    pub(super) fn credential(&self, uuid: &str) -> Result<Option<Credential>, DirectoryError> {
        let state = self.state.read();
        if state.unusable { Err(DirectoryError) } else { Ok(state.credentials.get(uuid).cloned()) }
    }
}

impl State {
    fn put_subject(&mut self, name: &str, value: &[u8]) {
        self.remove_subject(name);
        match codec::decode::<Subject>(value) {
            Ok(subject) => self.add_subject(subject),
            // Written by a newer version, or damaged: that subject cannot log in, the others can.
            Err(error) => tracing::error!(subject = name, %error, "a stored subject cannot be read"),
        }
    }

    fn add_subject(&mut self, subject: Subject) {
        if subject.blocked {
            return;
        }
        let name: Arc<str> = subject.subject.as_str().into();
        for key in subject.namespaces {
            let uuid: Arc<str> = key.uuid.as_str().into();
            let identity = Identity { subject: subject.subject.clone(), namespace: key.namespace, uuid: key.uuid };
            let credential = Credential { identity: Arc::new(identity), mac: key.mac, sealed: key.sealed.into() };
            self.credentials.insert(Arc::clone(&uuid), credential);
            self.uuids.entry(Arc::clone(&name)).or_default().push(uuid);
        }
    }

    fn remove_subject(&mut self, name: &str) {
        for uuid in self.uuids.remove(name).unwrap_or_default() {
            self.credentials.remove(&uuid);
        }
    }
}

fn read(reader: &MetaReader) -> Result<State, StoreError> {
    let mut state = State::default();
    reader.visit_subjects(&mut |name, stored| {
        state.put_subject(&name, &stored.value);
        ControlFlow::Continue(())
    })?;
    Ok(state)
}
