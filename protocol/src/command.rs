//! What Raft replicates: commands of the `meta` group and of the activations groups (shards), and their replies.
//!
//! `apply` is a pure function of the command and the state: times come from the command. Enums only grow at the end.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    activation::Activation,
    entity::Collection,
    ids::{ActivationId, NodeId, Revision, SessionId},
    names::{EntityName, FullyQualifiedName},
};

/// One log entry's payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The proposer's wall clock, milliseconds since the epoch. The only time that `apply` knows.
    pub now_ms: u64,
    pub body: CommandBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CommandBody {
    /// `origin`: `None` for `OpenSession` and for what is idempotent by itself; then nothing is deduplicated.
    Meta {
        origin: Option<Origin>,
        command: MetaCommand,
    },
    Shard(Vec<ShardOp>),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            CommandBody::Meta { command: MetaCommand::Write(txn), .. } => write!(f, "write of {} ops", txn.ops.len()),
            CommandBody::Meta { command, .. } => write!(f, "{command:?}"),
            CommandBody::Shard(ops) => write!(f, "{} activation ops", ops.len()),
        }
    }
}

/// Identifies a proposal, so that a repeated one gets the first one's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    pub session: SessionId,
    pub sequence: u64,
}

/// What `apply` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Of entries without a command (blank, membership).
    None,
    Meta(MetaReply),
    /// One per op, in their order.
    Shard(Vec<ShardReply>),
}

// ---- meta ----------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// All conditions hold, then all ops are done, in one step; else nothing is.
    Write(MetaTxn),
    /// A process of `node` starts: opens its next incarnation and closes the older one.
    OpenSession { node: NodeId, node_name: String },
    /// The only decision that a node is gone.
    ExpireSession { session: SessionId },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct MetaTxn {
    pub conditions: Vec<Condition>,
    pub ops: Vec<MetaOp>,
}

/// Names a stored value of `meta`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MetaKey {
    /// Value: [`crate::entity::Entity`].
    Entity(FullyQualifiedName),
    /// Inline code of an action: the raw bytes, not encoded.
    Code(FullyQualifiedName),
    /// By subject name. Value: [`crate::identity::Subject`].
    Subject(String),
    /// By the uuid of the credentials. Value: [`AuthKeyEntry`].
    AuthKey(String),
    /// Value: [`crate::identity::NamespaceLimits`].
    Limits(EntityName),
    /// Cluster settings such as its id and number of shards. Value: the setting's own type.
    Setting(String),
}

/// Points from a credential's uuid to the subject that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthKeyEntry {
    pub subject: String,
    pub namespace: EntityName,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    Absent(MetaKey),
    Exists(MetaKey),
    /// The value was last written by this log index.
    At(MetaKey, Revision),
    /// No action lives in this package.
    PackageEmpty(FullyQualifiedName),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MetaOp {
    Put {
        key: MetaKey,
        #[serde(with = "crate::codec::bytes")]
        value: Vec<u8>,
        /// For entities: their place in the list of their collection.
        list: Option<ListEntry>,
    },
    /// Of a key that is not there: nothing happens.
    Delete(MetaKey),
    /// Deletes the actions of a package with their code.
    DeletePackageContents(FullyQualifiedName),
}

/// Place in a collection's list: newest `updated_ms` first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    pub collection: Collection,
    pub updated_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaReply {
    /// Done; `revision` is that of every value put.
    Written {
        revision: Revision,
    },
    /// The condition with this index (from 0) did not hold; nothing was done.
    ConditionFailed {
        index: u32,
    },
    SessionOpened {
        session: SessionId,
        closed: Option<SessionId>,
    },
    /// False: it was not open.
    SessionExpired(bool),
    /// The session of the proposal's [`Origin`] is not open (any more): nothing was done.
    SessionClosed,
    /// The proposal's sequence is [`REPLY_WINDOW`] or more below the highest of its session, so whether it was done
    /// before is not known any more: nothing was done now.
    SequenceForgotten,
}

/// The replies of a session that are kept for repeated proposals: a proposer has fewer sequences than this unanswered.
pub const REPLY_WINDOW: u64 = 4096;

// ---- shards --------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ShardOp {
    Accept(Arc<Accept>),
    /// Compare-and-set: may the holder of a container run attempt `attempt` of `id`? Asking again gives the same
    /// answer.
    Start {
        id: ActivationId,
        session: SessionId,
        attempt: u32,
    },
    /// The first record of an activation wins.
    Finish(Arc<Finish>),
    /// No command of this session or an older one of its node counts any more. What it owned and had not started has
    /// no owner now; what it had started is finished as lost.
    Fence {
        session: SessionId,
        node_name: String,
    },
    /// Gives unowned work a new owner, if it still is at `attempt`.
    Assign {
        id: ActivationId,
        session: SessionId,
        attempt: u32,
    },
    /// Retention: drops the records of all UTC days before `day` (days since the epoch).
    DropBefore {
        day: u32,
    },
    /// Lines of a log that is too long for one entry, sent before [`ShardOp::Finish`]. Parts count from 0; a part that
    /// is there is replaced. They lie in the day range of the id, so retention removes what no record names.
    LogPart {
        session: SessionId,
        namespace: EntityName,
        id: ActivationId,
        part: u32,
        lines: Vec<String>,
    },
}

/// Logs above this many bytes go into the shard as parts, so that no entry exceeds [`MAX_ENTRY`].
pub const INLINE_LOGS: usize = 256 << 10;

/// No entry of a log is larger, in bytes as encoded.
pub const MAX_ENTRY: usize = 2 << 20;

/// Bytes that the entry of a record has for the result, as JSON, beside logs and all else.
pub const LONGEST_RESULT: usize = MAX_ENTRY - INLINE_LOGS - (64 << 10);

/// Makes an activation durable before it is answered with 202.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accept {
    /// The session that places the work; the attempt starts at 0.
    pub owner: SessionId,
    /// What to run: the bytes of an [`AcceptedWork`], opaque to `apply`.
    #[serde(with = "crate::codec::bytes")]
    pub work: Vec<u8>,
    /// The record if the node is lost while it runs: `apply` fills in the response, `end` and `duration`.
    /// Its `activation_id` and `namespace` are those of the activation.
    pub if_lost: Activation,
    /// True: it runs already, on `owner` (a blocking call past its deadline).
    pub started: bool,
    /// Refused if the namespace has this many unfinished activations.
    pub backlog_limit: u32,
}

/// Ends an activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    pub session: SessionId,
    pub record: Arc<Activation>,
    /// How many [`ShardOp::LogPart`]s hold the lines before those in `record.logs`. Readers see them joined.
    pub log_parts: u32,
    /// False: the store level or the namespace excludes the record; only the unfinished work is removed.
    pub store: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardReply {
    Accepted,
    /// The id is there already: accepted before, or finished.
    Duplicate,
    BacklogFull {
        count: u32,
    },
    /// The id's time is more than an hour from the command's.
    IdOutOfRange,
    Granted,
    /// Started or finished by another, at another attempt, or unknown.
    NotGranted,
    Finished,
    /// There was a record already.
    Dropped,
    /// Counts of what was taken back and of what was finished as lost.
    Fenced {
        taken_back: u64,
        lost: u64,
    },
    Assigned,
    NotAssigned,
    /// The session of the command is fenced: nothing was done.
    SessionFenced,
    DroppedBefore,
    LogPartStored,
}

/// What an accepted activation runs. Queued work names the key by its uuid, never by the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptedWork {
    pub activation_id: ActivationId,
    /// The action as resolved: the provider's name.
    pub action: FullyQualifiedName,
    /// `namespace/name` of the package binding it was called through.
    pub binding: Option<FullyQualifiedName>,
    pub revision: Revision,
    pub subject: String,
    /// The invoker's namespace.
    pub namespace: EntityName,
    pub key_uuid: String,
    pub transaction_id: String,
    /// Merged arguments: the JSON text of an object or array, init parameters removed.
    pub arguments: String,
    /// Environment of `/init` from init parameters: name and text.
    pub init_env: Vec<(String, String)>,
    pub cause: Option<ActivationId>,
    /// When the request arrived, milliseconds since the epoch; `waitTime` counts from here.
    pub received_ms: u64,
    /// `X-OW-EXTRA-LOGGING: on`: the record is stored whatever the level.
    pub extra_logging: bool,
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
