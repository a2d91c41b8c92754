//! What votes, log ids, entries, memberships and snapshot metas look like on disk and between nodes. openraft's own serde
//! forms are no format: they may change with any release, these may not.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use openraft::{BasicNode, EntryPayload};
use protocol::{
    codec::{self, DecodeError},
    command::Command,
};
use serde::{Deserialize, Serialize};

use crate::types::{Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIdRecord {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// Voters by (joint) configuration, and every node with its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipRecord {
    pub voters: Vec<Vec<u64>>,
    pub nodes: Vec<(u64, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMembershipRecord {
    pub log_id: Option<LogIdRecord>,
    pub membership: MembershipRecord,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PayloadRecord<'a> {
    Blank,
    Command(Cow<'a, Command>),
    Membership(MembershipRecord),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryRecord<'a> {
    pub log_id: LogIdRecord,
    pub payload: PayloadRecord<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMetaRecord {
    pub last_log_id: Option<LogIdRecord>,
    pub membership: StoredMembershipRecord,
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        LogId::new(LeaderId { term: record.term, node_id: record.node }, record.index)
    }
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        Self { leader_id: LeaderId { term: record.term, node_id: record.node }, committed: record.committed }
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }
    }
}

impl TryFrom<MembershipRecord> for Membership {
    type Error = String;

    /// Fails if a voter is no node, or a configuration is empty.
    fn try_from(record: MembershipRecord) -> Result<Self, String> {
        if record.voters.is_empty() && record.nodes.is_empty() {
            return Ok(Self::default());
        }
        let voters: Vec<BTreeSet<u64>> = record.voters.into_iter().map(|set| set.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, BasicNode> =
            record.nodes.into_iter().map(|(id, addr)| (id, BasicNode::new(addr))).collect();
        Self::new(voters, nodes).map_err(|error| error.to_string())
    }
}

impl From<&StoredMembership> for StoredMembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: stored.log_id().as_ref().map(LogIdRecord::from), membership: stored.membership().into() }
    }
}

impl TryFrom<StoredMembershipRecord> for StoredMembership {
    type Error = String;

    fn try_from(record: StoredMembershipRecord) -> Result<Self, String> {
        Ok(Self::new(record.log_id.map(LogId::from), record.membership.try_into()?))
    }
}

impl From<&SnapshotMeta> for SnapshotMetaRecord {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last_log_id: meta.last_log_id.as_ref().map(LogIdRecord::from),
            membership: (&meta.last_membership).into(),
        }
    }
}

impl TryFrom<SnapshotMetaRecord> for SnapshotMeta {
    type Error = String;

    fn try_from(record: SnapshotMetaRecord) -> Result<Self, String> {
        Ok(Self { last_log_id: record.last_log_id.map(LogId::from), last_membership: record.membership.try_into()? })
    }
}

impl<'a> From<&'a Entry> for EntryRecord<'a> {
    fn from(entry: &'a Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => PayloadRecord::Blank,
            EntryPayload::Normal(command) => PayloadRecord::Command(Cow::Borrowed(command)),
            EntryPayload::Membership(membership) => PayloadRecord::Membership(membership.into()),
        };
        Self { log_id: (&entry.log_id).into(), payload }
    }
}

impl EntryRecord<'_> {
    /// The entry that this is the form of.
    ///
    /// # Errors
    /// Says what is wrong with its membership.
    pub fn into_entry(self) -> Result<Entry, String> {
        let payload = match self.payload {
            PayloadRecord::Blank => EntryPayload::Blank,
            PayloadRecord::Command(command) => EntryPayload::Normal(command.into_owned()),
            PayloadRecord::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
        };
        Ok(Entry { log_id: self.log_id.into(), payload })
    }
}

/// Why the bytes of an entry are refused.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("shorter than its checksum")]
    Short,
    #[error("checksum mismatch")]
    Checksum,
    /// Among others: a command that this build does not know.
    #[error("not readable by this build: {0}")]
    Decode(#[from] DecodeError),
    #[error("invalid membership: {0}")]
    Membership(String),
}

/// The stored bytes of an entry: CRC-32 of the rest (little endian), then its encoding.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut bytes = codec::encode_behind(4, &EntryRecord::from(entry));
    let checksum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads what [`encode_entry`] wrote.
///
/// # Errors
/// [`EntryError`] for anything else.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, EntryError> {
    let (checksum, body) = bytes.split_first_chunk::<4>().ok_or(EntryError::Short)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(EntryError::Checksum);
    }
    codec::decode::<EntryRecord<'static>>(body)?.into_entry().map_err(EntryError::Membership)
}
