//! The commands of `whisp user`, as OpenWhisk's `wskadmin` has them.
//!
//! Every change is one conditional write to `meta`; one that lost a race is decided anew.
//!
//! Source: apache/openwhisk `tools/admin/wskadmin`, `UserCommand.scala`; reference `rest-api.md` 21.1.

use std::ops::ControlFlow;

use protocol::{
    EntityName, codec,
    command::{AuthKeyEntry, Condition, MetaCommand, MetaKey, MetaOp, MetaReply, MetaTxn},
    identity::{NamespaceKey, Subject},
};
use raft_store::{MetaReader, StoreError};
use serde::{Deserialize, Serialize};

use super::{
    Credentials, DataKey,
    error::{MAX_SUBJECT, MIN_SUBJECT, UserError},
};
use crate::cluster::raft::Groups;

/// Attempts of a change that others get in the way of.
const ATTEMPTS: u32 = 8;
/// Administers users and namespace limits. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    pub(super) groups: Groups,
    key: DataKey,
}

/// What to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    pub subject: String,
    /// Default: named like the subject.
    pub namespace: Option<String>,
    /// Default: new random ones.
    pub credentials: Option<Credentials>,
    /// Replaces the key of a namespace that the subject has already.
    #[serde(default)]
    pub revoke: bool,
}

/// The credentials of one namespace of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceCredentials {
    pub namespace: EntityName,
    pub credentials: Credentials,
}

/// One who can use a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityEntry {
    pub subject: String,
    pub namespace: EntityName,
    pub credentials: Credentials,
}

impl Users {
    pub fn new(groups: Groups, key: DataKey) -> Self {
        Self { groups, key }
    }

    /// Makes a subject, another namespace of one, or with `revoke` a new key for one. Returns the credentials.
    ///
    /// # Errors
    /// [`UserError`]; so for all commands. Nothing is changed then, unless it is [`UserError::Propose`], where the outcome
    /// may be unknown.
    pub async fn create(&self, new: &NewUser) -> Result<NamespaceCredentials, UserError> {
        let subject = subject_name(&new.subject)?;
        let namespace = namespace_name(new.namespace.as_deref().unwrap_or(subject))?;
        let credentials = new.credentials.clone().unwrap_or_else(Credentials::random);

        self.change(async || {
            let mut txn = MetaTxn::default();
            let mut document = match self.subject(subject).await? {
                None => {
                    txn.conditions.push(Condition::Absent(MetaKey::Subject(subject.to_owned())));
                    Subject { subject: subject.to_owned(), blocked: false, namespaces: Vec::new() }
                }
                Some((document, unchanged)) => {
                    txn.conditions.push(unchanged);
                    document
                }
            };
            if document.blocked {
                return Err(UserError::Blocked);
            }
            let entry = NamespaceKey {
                namespace: namespace.clone(),
                uuid: credentials.uuid.clone(),
                mac: self.key.mac(&credentials.key),
                sealed: self.key.seal(&credentials.uuid, &credentials.key),
            };
            let existing = document.namespaces.iter_mut().find(|entry| entry.namespace == namespace);
            let mut replaced = None;
            match existing {
                Some(_) if !new.revoke => return Err(UserError::NamespaceExists),
                Some(existing) => replaced = Some(std::mem::replace(existing, entry).uuid),
                None => document.namespaces.push(entry),
            }
            // The same uuid with another key is a replacement too.
            if replaced.as_ref() != Some(&credentials.uuid) {
                let auth_key = MetaKey::AuthKey(credentials.uuid.clone());
                if self.stored(&auth_key).await?.is_some() {
                    return Err(UserError::UuidInUse);
                }
                txn.conditions.push(Condition::Absent(auth_key));
                txn.ops.extend(replaced.map(|uuid| MetaOp::Delete(MetaKey::AuthKey(uuid))));
            }
            let pointer = AuthKeyEntry { subject: subject.to_owned(), namespace: namespace.clone() };
            txn.ops.push(put(MetaKey::AuthKey(credentials.uuid.clone()), &pointer));
            txn.ops.push(put(MetaKey::Subject(subject.to_owned()), &document));
            Ok((txn, ()))
        })
        .await?;
        Ok(NamespaceCredentials { namespace, credentials })
    }

    /// The namespaces of a subject with their credentials.
    pub async fn all_of(&self, subject: &str) -> Result<Vec<NamespaceCredentials>, UserError> {
        let document = self.existing(subject.trim()).await?.0;
        document
            .namespaces
            .into_iter()
            .map(|entry| Ok(NamespaceCredentials { credentials: self.unsealed(&entry)?, namespace: entry.namespace }))
            .collect()
    }

    /// The credentials of one namespace of a subject, by default that of its own name.
    pub async fn get(&self, subject: &str, namespace: Option<&str>) -> Result<NamespaceCredentials, UserError> {
        let subject = subject.trim();
        let wanted = namespace.unwrap_or(subject);
        let all = self.all_of(subject).await?;
        all.into_iter()
            .find(|entry| entry.namespace.as_str() == wanted)
            .ok_or_else(|| UserError::NamespaceNotFound { namespace: wanted.to_owned(), subject: subject.to_owned() })
    }

    /// Who has these credentials. Blocked subjects are not recognized.
    pub async fn whois(&self, credentials: &Credentials) -> Result<IdentityEntry, UserError> {
        let Some(stored) = self.stored(&MetaKey::AuthKey(credentials.uuid.clone())).await? else {
            return Err(UserError::NotRecognized);
        };
        let pointer: AuthKeyEntry = read("credentials", &stored.value)?;
        let document = self.existing(&pointer.subject).await?.0;
        let entry = document.namespaces.iter().find(|entry| entry.uuid == credentials.uuid);
        match entry {
            Some(entry) if !document.blocked && entry.mac == self.key.mac(&credentials.key) => Ok(IdentityEntry {
                subject: document.subject,
                namespace: entry.namespace.clone(),
                credentials: credentials.clone(),
            }),
            _ => Err(UserError::NotRecognized),
        }
    }

    /// Up to `pick` identities (`None`: all) that can use `namespace`, by subject. Blocked subjects cannot.
    pub async fn list(&self, namespace: &str, pick: Option<usize>) -> Result<Vec<IdentityEntry>, UserError> {
        let (wanted, pick) = (namespace.to_owned(), pick.unwrap_or(usize::MAX));
        let found = self
            .blocking(move |reader| {
                let mut found = Vec::new();
                let mut failed = None;
                reader.visit_subjects(&mut |_, stored| {
                    match read::<Subject>("subject", &stored.value) {
                        Ok(document) if !document.blocked => {
                            let entries = document.namespaces.into_iter();
                            found.extend(
                                entries
                                    .filter(|entry| entry.namespace.as_str() == wanted)
                                    .map(|entry| (document.subject.clone(), entry)),
                            );
                        }
                        Ok(_) => {}
                        Err(error) => failed = Some(error),
                    }
                    if found.len() >= pick || failed.is_some() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })?;
                found.truncate(pick);
                failed.map_or(Ok(found), Err)
            })
            .await?;
        if found.is_empty() {
            return Err(UserError::NoIdentities(namespace.to_owned()));
        }
        found
            .into_iter()
            .map(|(subject, entry)| {
                Ok(IdentityEntry { subject, credentials: self.unsealed(&entry)?, namespace: entry.namespace })
            })
            .collect()
    }

    /// Removes a subject, or one of its namespaces; its entities stay.
    pub async fn delete(&self, subject: &str, namespace: Option<&str>) -> Result<(), UserError> {
        let subject = subject.trim();
        self.change(async || {
            let (mut document, unchanged) = self.existing(subject).await?;
            let goes = |entry: &NamespaceKey| namespace.is_none_or(|name| entry.namespace.as_str() == name);
            let (gone, kept): (Vec<_>, Vec<_>) = document.namespaces.into_iter().partition(goes);
            if let (Some(name), true) = (namespace, gone.is_empty()) {
                return Err(UserError::NothingToDelete { namespace: name.to_owned(), subject: subject.to_owned() });
            }
            let key = MetaKey::Subject(subject.to_owned());
            let mut ops: Vec<_> = gone.into_iter().map(|entry| MetaOp::Delete(MetaKey::AuthKey(entry.uuid))).collect();
            document.namespaces = kept;
            ops.push(if namespace.is_some() { put(key, &document) } else { MetaOp::Delete(key) });
            Ok((MetaTxn { conditions: vec![unchanged], ops }, ()))
        })
        .await
    }

    /// Blocks a subject, whose keys then fail, or unblocks it.
    pub async fn set_blocked(&self, subject: &str, blocked: bool) -> Result<(), UserError> {
        let subject = subject.trim();
        self.change(async || {
            let (mut document, unchanged) = self.existing(subject).await?;
            document.blocked = blocked;
            let ops = vec![put(MetaKey::Subject(subject.to_owned()), &document)];
            Ok((MetaTxn { conditions: vec![unchanged], ops }, ()))
        })
        .await
    }

    /// Writes what `decide` makes of the present state, again while conditions fail.
    pub(super) async fn change<T>(
        &self,
        decide: impl AsyncFn() -> Result<(MetaTxn, T), UserError>,
    ) -> Result<T, UserError> {
        for _ in 0..ATTEMPTS {
            let (txn, result) = decide().await?;
            match self.groups.propose_meta(MetaCommand::Write(txn)).await? {
                MetaReply::ConditionFailed { .. } => {}
                _ => return Ok(result),
            }
        }
        Err(UserError::Contended)
    }

    async fn existing(&self, subject: &str) -> Result<(Subject, Condition), UserError> {
        self.subject(subject).await?.ok_or_else(|| UserError::NoSubject(subject.to_owned()))
    }

    /// The subject, and the condition that it is still as it was read.
    async fn subject(&self, name: &str) -> Result<Option<(Subject, Condition)>, UserError> {
        let key = MetaKey::Subject(name.to_owned());
        let Some(stored) = self.stored(&key).await? else { return Ok(None) };
        Ok(Some((read("subject", &stored.value)?, Condition::At(key, stored.revision))))
    }

    pub(super) async fn stored(&self, key: &MetaKey) -> Result<Option<raft_store::Stored>, UserError> {
        let key = key.clone();
        self.blocking(move |reader| Ok(reader.get(&key)?)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(MetaReader) -> Result<T, UserError> + Send + 'static,
    ) -> Result<T, UserError> {
        let reader = self.groups.store().meta();
        // Fails only if `work` panics, or the runtime ends, which nobody sees.
        tokio::task::spawn_blocking(move || work(reader))
            .await
            .unwrap_or_else(|error| Err(StoreError::Failed(format!("reading was cut off: {error}")).into()))
    }

    fn unsealed(&self, entry: &NamespaceKey) -> Result<Credentials, UserError> {
        let key = self.key.unseal(&entry.uuid, &entry.sealed);
        let key = key.ok_or_else(|| UserError::Sealed(entry.namespace.to_string()))?;
        Ok(Credentials { uuid: entry.uuid.clone(), key })
    }
}

fn subject_name(text: &str) -> Result<&str, UserError> {
    let name = text.trim();
    let length = name.chars().count();
    if length < MIN_SUBJECT {
        return Err(UserError::SubjectTooShort);
    }
    if length > MAX_SUBJECT || name.contains(char::is_control) {
        return Err(UserError::SubjectIllegal);
    }
    Ok(name)
}

pub(super) fn namespace_name(text: &str) -> Result<EntityName, UserError> {
    let name = text.trim();
    if name.is_empty() {
        return Err(UserError::NamespaceEmpty);
    }
    match EntityName::new(name) {
        // `_` stands for the caller's own namespace in every path.
        Ok(name) if name.is_placeholder() => {
            Err(UserError::NamespaceIllegal(name.to_string(), protocol::names::NameError::Illegal))
        }
        Ok(name) => Ok(name),
        Err(error) => Err(UserError::NamespaceIllegal(name.to_owned(), error)),
    }
}

pub(super) fn put<T: Serialize>(key: MetaKey, value: &T) -> MetaOp {
    MetaOp::Put { key, value: codec::encode(value), list: None }
}

pub(super) fn read<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, UserError> {
    codec::decode(bytes)
        .map_err(|error| StoreError::Unreadable { what: what.to_owned(), cause: error.to_string() }.into())
}
