//! The types that openraft is instantiated with, and their short names.

use std::fmt;

use openraft::{BasicNode, alias};
use protocol::{
    command::{Command, Reply},
    ids::ShardId,
};

use crate::state_machine::StateMachine;

openraft::declare_raft_types!(
    /// Commands and replies of every group. Nodes are named by their number; [`BasicNode::addr`] is the cluster address
    /// at which a node was when the membership was written, for those who have no newer one.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = BasicNode,
);

/// A running Raft group on this node.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub type LogId = alias::LogIdOf<TypeConfig>;
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub type Vote = alias::VoteOf<TypeConfig>;
pub type Entry = alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, BasicNode>;
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = alias::SmSnapshotOf<TypeConfig, StateMachine>;

/// A Raft group of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// Entities, identities, sessions, settings.
    Meta,
    /// Accepted activations and records of the namespaces that hash to it.
    Shard(ShardId),
}

impl GroupId {
    /// First four bytes (big endian) of the group's keys. Never changes.
    pub fn number(self) -> u32 {
        match self {
            Self::Meta => 0,
            Self::Shard(shard) => u32::from(shard.0) + 1,
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("meta"),
            Self::Shard(shard) => write!(f, "shard {shard}"),
        }
    }
}
