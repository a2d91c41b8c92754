//! Every key space: its number, its key, its value. **Numbers are never reused**; a retired one stays listed as such.
//!
//! RocksDB has three column families:
//! - `default`: facts about the database itself (`data_version.rs`, `flusher.rs`).
//! - `log`: votes and log entries of all groups, `[group u32][space u8]…`. Written once, read little, dropped in ranges;
//!   apart from the state, so that compacting the state never moves dead entries.
//! - `state`: state machines, `[group u32][generation u32][space u8]…`. A generation is one whole state; installing a
//!   snapshot writes another one beside it. Generation 0 holds only the number of the current one.
//!
//! No family per group: each costs write buffers, and a flush of one would hold the log of all. All numbers in keys are
//! big endian, texts before other parts have a length of two bytes, `~x` is `!x` (newest first).

use std::sync::Arc;

use protocol::{
    Activation, ActivationId, Revision, SessionId,
    command::{ListEntry, MetaKey, MetaReply},
    entity::Collection,
    ids::NodeId,
    names::{EntityName, EntityPath, FullyQualifiedName},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    format::{LogIdRecord, StoredMembershipRecord, VoteRecord},
    keys::{KeyReader, KeyWriter},
    types::GroupId,
};

pub const CF_DEFAULT: &str = "default";
pub const CF_LOG: &str = "log";
pub const CF_STATE: &str = "state";

/// A space of keys. `Key` is what follows the number; values are [`protocol::codec`] encodings of `Value`.
pub trait KeySpace {
    const NUMBER: u8;
    /// For error texts.
    const NAME: &'static str;
    type Key;
    type Value: Serialize + DeserializeOwned;

    fn write(key: &Self::Key, out: &mut KeyWriter);
    /// `None` if the bytes are no key of this space.
    fn read(from: &mut KeyReader<'_>) -> Option<Self::Key>;

    /// The whole key behind its group (and generation).
    fn key(key: &Self::Key) -> Vec<u8> {
        let mut out = KeyWriter::new(Self::NUMBER);
        Self::write(key, &mut out);
        out.finish()
    }

    /// Reads what [`KeySpace::key`] wrote.
    fn parse(bytes: &[u8]) -> Option<Self::Key> {
        let mut reader = KeyReader::new(bytes);
        if reader.u8()? != Self::NUMBER {
            return None;
        }
        let key = Self::read(&mut reader)?;
        reader.is_empty().then_some(key)
    }
}

/// Declares a space: number, key with how it is written and read, value.
macro_rules! key_space {
    ($(#[$doc:meta])* $name:ident = $number:literal: $key:ty => $value:ty,
     |$k:ident, $out:ident| $write:expr, |$from:ident| $read:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl KeySpace for $name {
            const NUMBER: u8 = $number;
            const NAME: &'static str = stringify!($name);
            type Key = $key;
            type Value = $value;

            fn write($k: &$key, $out: &mut KeyWriter) {
                $write
            }

            fn read($from: &mut KeyReader<'_>) -> Option<$key> {
                $read
            }
        }
    };
}

// ---- `log` -----------------------------------------------------------------------------------------------------------

key_space!(
    /// The vote of this node.
    VoteSpace = 0x01: () => VoteRecord, |_k, _out| {}, |_from| Some(()));
key_space!(
    /// The last entry that was purged.
    Purged = 0x02: () => LogIdRecord, |_k, _out| {}, |_from| Some(()));
key_space!(
    /// The last entry known to be committed.
    Committed = 0x03: () => LogIdRecord, |_k, _out| {}, |_from| Some(()));
/// Entries by index. The value is [`crate::format::encode_entry`], not a codec value: it has its own checksum.
pub const LOG_ENTRIES: u8 = 0x04;

// ---- `state`, every group --------------------------------------------------------------------------------------------

/// In generation 0: the number of the current generation.
pub const CURRENT_GENERATION: u8 = 0x00;

key_space!(
    /// The last applied entry.
    Applied = 0x01: () => LogIdRecord, |_k, _out| {}, |_from| Some(()));
key_space!(
    /// The last applied membership.
    MembershipSpace = 0x02: () => StoredMembershipRecord, |_k, _out| {}, |_from| Some(()));
// 0x03 is reserved for the group's feature level.

/// Data of the state machine lies in spaces from here on; below is what each replica says about itself.
pub const FIRST_DATA_SPACE: u8 = 0x10;

// ---- `state` of meta -------------------------------------------------------------------------------------------------

/// A value of `meta` with what is needed to replace it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredValue {
    /// Index of the entry that wrote it.
    pub revision: Revision,
    pub list: Option<ListEntry>,
    #[serde(with = "protocol::codec::bytes")]
    pub value: Vec<u8>,
}

/// A node's sessions: the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub incarnation: u64,
    pub node_name: String,
    pub open: bool,
}

/// Place in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListKey {
    pub namespace: EntityName,
    pub collection: Collection,
    pub updated_ms: u64,
    pub package: Option<EntityName>,
    pub name: EntityName,
}

/// What entities are counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountKey {
    pub namespace: EntityName,
    pub collection: Collection,
    /// `None`: all of the namespace, those in packages too.
    pub package: Option<EntityName>,
}

const ENTITY: u8 = 1;
const CODE: u8 = 2;
const SUBJECT: u8 = 3;
const AUTH_KEY: u8 = 4;
const LIMITS: u8 = 5;
const SETTING: u8 = 6;

key_space!(
/// Values by [`MetaKey`].
Values = 0x10: MetaKey => StoredValue,
|key, out| match key {
    MetaKey::Entity(name) => out.u8(ENTITY).fqn(name),
    MetaKey::Code(name) => out.u8(CODE).fqn(name),
    MetaKey::Subject(text) => out.u8(SUBJECT).rest(text),
    MetaKey::AuthKey(text) => out.u8(AUTH_KEY).rest(text),
    MetaKey::Limits(name) => out.u8(LIMITS).rest(name.as_str()),
    MetaKey::Setting(text) => out.u8(SETTING).rest(text),
},
|from| Some(match from.u8()? {
    ENTITY => MetaKey::Entity(from.fqn()?),
    CODE => MetaKey::Code(from.fqn()?),
    SUBJECT => MetaKey::Subject(from.rest()?.to_owned()),
    AUTH_KEY => MetaKey::AuthKey(from.rest()?.to_owned()),
    LIMITS => MetaKey::Limits(EntityName::new(from.rest()?).ok()?),
    SETTING => MetaKey::Setting(from.rest()?.to_owned()),
    _ => return None,
}));

key_space!(
/// All entities of a namespace's collection: (namespace, collection, ~updated, package, name).
List = 0x11: ListKey => (),
|key, out| out
    .text(key.namespace.as_str()).u8(collection_number(key.collection)).newest_first(key.updated_ms)
    .package(key.package.as_ref()).rest(key.name.as_str()),
|from| Some(ListKey {
    namespace: from.name()?,
    collection: collection_of(from.u8()?)?,
    updated_ms: from.newest_first()?,
    package: from.package()?,
    name: EntityName::new(from.rest()?).ok()?,
}));

key_space!(
/// Entities of one package: (namespace, collection, package, ~updated, name).
PackageList = 0x12: ListKey => (),
|key, out| out
    .text(key.namespace.as_str()).u8(collection_number(key.collection)).package(key.package.as_ref())
    .newest_first(key.updated_ms).rest(key.name.as_str()),
|from| Some(ListKey {
    namespace: from.name()?,
    collection: collection_of(from.u8()?)?,
    package: from.package()?,
    updated_ms: from.newest_first()?,
    name: EntityName::new(from.rest()?).ok()?,
}));

key_space!(
/// Numbers of listed entities.
Counts = 0x13: CountKey => u64,
|key, out| {
    out.text(key.namespace.as_str()).u8(collection_number(key.collection));
    if let Some(package) = &key.package {
        out.rest(package.as_str());
    }
},
|from| Some(CountKey {
    namespace: from.name()?,
    collection: collection_of(from.u8()?)?,
    package: match from.rest()? {
        "" => None,
        package => Some(EntityName::new(package).ok()?),
    },
}));

key_space!(
    /// The newest session of each node that ever had one.
    Sessions = 0x14: NodeId => SessionRecord,
    |key, out| { out.u64(key.0); }, |from| from.u64().map(NodeId));

key_space!(
    /// First replies to proposals of open sessions.
    Replies = 0x15: (SessionId, u64) => MetaReply,
    |key, out| { out.session(key.0).u64(key.1); }, |from| Some((from.session()?, from.u64()?)));

key_space!(
    /// The highest sequence of each open session.
    HighestSequence = 0x16: SessionId => u64,
    |key, out| { out.session(*key); }, |from| from.session());

// ---- `state` of shards -----------------------------------------------------------------------------------------------

/// A record as stored; its log has further lines in [`LogParts`] of `session`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordValue {
    pub record: Arc<Activation>,
    pub log_parts: u32,
    /// Who finished it; `None`: `apply` itself, because the node was lost.
    pub session: Option<SessionId>,
}

/// Accepted work without its payload, so that starting it rewrites little.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedValue {
    pub namespace: EntityName,
    pub owner: Option<SessionId>,
    pub attempt: u32,
    pub started: Option<SessionId>,
}

impl UnfinishedValue {
    /// The session whose end concerns it: who started it, else who is to place it.
    pub fn holder(&self) -> Option<SessionId> {
        self.started.or(self.owner)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkValue {
    #[serde(with = "protocol::codec::bytes")]
    pub work: Vec<u8>,
}

/// Everything about finished activations: `[DAYS][day u32][space u8]…`, so that a day is one range.
pub const DAYS: u8 = 0x20;

/// A space inside a day.
pub trait DaySpace: KeySpace {
    /// Its number behind the day.
    const SUB: u8;
}

/// Declares a space inside a day: key is (day, …).
macro_rules! day_space {
    ($(#[$doc:meta])* $name:ident = $sub:literal: ($($part:ident: $type:ty),*) => $value:ty,
     |$out:ident| $write:expr, |$from:ident, $day:ident| $read:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl DaySpace for $name {
            const SUB: u8 = $sub;
        }

        impl KeySpace for $name {
            const NUMBER: u8 = DAYS;
            const NAME: &'static str = stringify!($name);
            type Key = (u32, $($type),*);
            type Value = $value;

            fn write((day, $($part),*): &Self::Key, $out: &mut KeyWriter) {
                $out.u32(*day).u8($sub);
                $write;
            }

            fn read($from: &mut KeyReader<'_>) -> Option<Self::Key> {
                let $day = $from.u32()?;
                if $from.u8()? != $sub {
                    return None;
                }
                Some($read)
            }
        }
    };
}

day_space!(
    /// Records by id.
    Records = 1: (id: ActivationId) => RecordValue, |out| out.id(id), |from, day| (day, from.id()?));
day_space!(
    /// Summaries (records without logs and result) of a namespace, newest start first.
    ByStart = 2: (namespace: EntityName, start_ms: u64, id: ActivationId) => Activation,
    |out| out.text(namespace.as_str()).newest_first(*start_ms).id(id),
    |from, day| (day, from.name()?, from.newest_first()?, from.id()?));
day_space!(
    /// Index by what the `name` filter matches, newest start first.
    ByName = 3: (namespace: EntityName, name: Arc<str>, start_ms: u64, id: ActivationId) => (),
    |out| out.text(namespace.as_str()).text(name).newest_first(*start_ms).id(id),
    |from, day| (day, from.name()?, from.text()?.into(), from.newest_first()?, from.id()?));
day_space!(
    /// Numbers of records per namespace and hour (since the epoch) of their start.
    CountByHour = 4: (namespace: EntityName, hour: u32) => u64,
    |out| out.text(namespace.as_str()).u32(*hour), |from, day| (day, from.name()?, from.u32()?));
day_space!(
    /// The same per name.
    CountByName = 5: (namespace: EntityName, name: Arc<str>, hour: u32) => u64,
    |out| out.text(namespace.as_str()).text(name).u32(*hour),
    |from, day| (day, from.name()?, from.text()?.into(), from.u32()?));
day_space!(
    /// Lines of long logs, per session that sent them: only those of the one that finished count.
    LogParts = 6: (id: ActivationId, session: SessionId, part: u32) => Vec<String>,
    |out| out.id(id).session(*session).u32(*part), |from, day| (day, from.id()?, from.session()?, from.u32()?));
day_space!(
    /// Activations that ended without a stored record, so that none is accepted or finished twice.
    Ended = 7: (id: ActivationId) => (), |out| out.id(id), |from, day| (day, from.id()?));

key_space!(
    /// Accepted work that has not ended.
    UnfinishedSpace = 0x21: ActivationId => UnfinishedValue,
    |key, out| { out.id(key); }, |from| from.id());
key_space!(
    /// Its payload.
    Work = 0x22: ActivationId => WorkValue, |key, out| { out.id(key); }, |from| from.id());
key_space!(
    /// Its record if the node is lost.
    IfLost = 0x23: ActivationId => Activation, |key, out| { out.id(key); }, |from| from.id());
key_space!(
    /// Numbers of unfinished activations per namespace.
    Backlog = 0x24: EntityName => u32,
    |key, out| out.rest(key.as_str()), |from| EntityName::new(from.rest()?).ok());
key_space!(
    /// The highest fenced incarnation of each node.
    Fences = 0x25: NodeId => u64, |key, out| { out.u64(key.0); }, |from| from.u64().map(NodeId));
key_space!(
    /// Unfinished work by its holder.
    Holders = 0x26: (SessionId, ActivationId) => (),
    |key, out| { out.session(key.0).id(&key.1); }, |from| Some((from.session()?, from.id()?)));

// ---- prefixes --------------------------------------------------------------------------------------------------------

/// `[group][space]` of the `log` family.
pub fn log_prefix(group: GroupId, space: u8) -> [u8; 5] {
    let mut prefix = [0; 5];
    prefix[..4].copy_from_slice(&group.number().to_be_bytes());
    prefix[4] = space;
    prefix
}

/// Key of a log entry.
pub fn log_key(group: GroupId, index: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..5].copy_from_slice(&log_prefix(group, LOG_ENTRIES));
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The generation that a group begins with; it is current while no other is written down.
pub const FIRST_GENERATION: u32 = 1;

/// `[group][generation]` of the `state` family.
pub fn generation_prefix(group: GroupId, generation: u32) -> [u8; 8] {
    prefix_of(group.number(), generation)
}

/// The same by the group's number.
pub fn prefix_of(group: u32, generation: u32) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix[..4].copy_from_slice(&group.to_be_bytes());
    prefix[4..].copy_from_slice(&generation.to_be_bytes());
    prefix
}

/// Key of the number of a group's current generation.
pub fn current_generation_key(group: GroupId) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&generation_prefix(group, 0));
    key[8] = CURRENT_GENERATION;
    key
}

/// Prefix of the entities that live in `package`.
pub fn package_contents_prefix(package: &FullyQualifiedName) -> Vec<u8> {
    contents_prefix(ENTITY, package)
}

/// Prefix of the code of the actions that live in `package`.
pub fn package_code_prefix(package: &FullyQualifiedName) -> Vec<u8> {
    contents_prefix(CODE, package)
}

fn contents_prefix(kind: u8, package: &FullyQualifiedName) -> Vec<u8> {
    let mut out = KeyWriter::new(Values::NUMBER);
    out.u8(kind).text(package.path.namespace.as_str()).package(Some(&package.name));
    out.finish()
}

/// Prefix of all entities.
pub fn entities_prefix() -> Vec<u8> {
    vec![Values::NUMBER, ENTITY]
}

/// Prefix of all subjects.
pub fn subjects_prefix() -> Vec<u8> {
    vec![Values::NUMBER, SUBJECT]
}

/// Prefix of all credentials.
pub fn auth_keys_prefix() -> Vec<u8> {
    vec![Values::NUMBER, AUTH_KEY]
}

/// Prefix of a list, whole or of one package.
pub fn list_prefix(namespace: &EntityName, collection: Collection, package: Option<&EntityName>) -> Vec<u8> {
    let mut out = KeyWriter::new(if package.is_some() { PackageList::NUMBER } else { List::NUMBER });
    out.text(namespace.as_str()).u8(collection_number(collection));
    if package.is_some() {
        out.package(package);
    }
    out.finish()
}

/// Prefix of all keys of a day.
pub fn day_prefix(day: u32) -> Vec<u8> {
    let mut out = KeyWriter::new(DAYS);
    out.u32(day);
    out.finish()
}

/// The document that a list entry stands for.
impl From<ListKey> for FullyQualifiedName {
    fn from(key: ListKey) -> Self {
        Self::new(EntityPath { namespace: key.namespace, package: key.package }, key.name)
    }
}

/// Stored numbers, independent of the order in the enum.
const fn collection_number(collection: Collection) -> u8 {
    match collection {
        Collection::Actions => 1,
        Collection::Triggers => 2,
        Collection::Rules => 3,
        Collection::Packages => 4,
    }
}

const fn collection_of(number: u8) -> Option<Collection> {
    Some(match number {
        1 => Collection::Actions,
        2 => Collection::Triggers,
        3 => Collection::Rules,
        4 => Collection::Packages,
        _ => return None,
    })
}
