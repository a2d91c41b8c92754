//! Values that tests are made of.

use openraft::{EntryPayload, storage::RaftStateMachine};
use protocol::{
    Activation, ActivationId, ActivationStatus, EntityName, EntityPath, FullyQualifiedName, SessionId, ShardId,
    activation::Response,
    command::{
        Accept, Command, CommandBody, Finish, ListEntry, MetaCommand, MetaKey, MetaOp, MetaTxn, Origin, ShardOp,
    },
    entity::{Collection, Parameters, SemVer},
    ids::NodeId,
};
use raft_store::{Entry, GroupId, LeaderId, LogId, StateMachine};

/// A moment: 2026-11-21 12:00 UTC.
pub const NOW: u64 = 1_795_262_400_000;
pub const SHARD: GroupId = GroupId::Shard(ShardId(0));

pub fn name(text: &str) -> EntityName {
    EntityName::new(text).expect("a valid name")
}

pub fn fqn(namespace: &str, package: Option<&str>, entity: &str) -> FullyQualifiedName {
    FullyQualifiedName::new(EntityPath { namespace: name(namespace), package: package.map(name) }, name(entity))
}

pub fn session(node: u64, incarnation: u64) -> SessionId {
    SessionId { node: NodeId(node), incarnation }
}

/// An id made `ms` after [`NOW`], the `n`th of that moment.
pub fn id(ms: i64, n: u64) -> ActivationId {
    let ms = NOW.saturating_add_signed(ms);
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    ActivationId::from_bytes(bytes)
}

pub fn record(namespace: &str, id: ActivationId, start_ms: u64) -> Activation {
    Activation {
        namespace: name(namespace),
        name: name("act"),
        version: SemVer::FIRST,
        subject: "someone".to_owned(),
        activation_id: id,
        cause: None,
        start_ms,
        end_ms: Some(start_ms + 5),
        duration_ms: Some(5),
        response: Response { status: ActivationStatus::Success, result: None, size: None },
        logs: vec!["a line".to_owned()],
        annotations: Parameters::default(),
        publish: false,
        filter_name: "act".into(),
    }
}

pub fn accept(namespace: &str, id: ActivationId, owner: SessionId) -> ShardOp {
    ShardOp::Accept(std::sync::Arc::new(Accept {
        owner,
        work: vec![7; 100],
        if_lost: record(namespace, id, id.unix_ms()),
        started: false,
        backlog_limit: 1_000_000,
    }))
}

pub fn finish(namespace: &str, id: ActivationId, session: SessionId) -> ShardOp {
    let record = record(namespace, id, id.unix_ms());
    ShardOp::Finish(std::sync::Arc::new(Finish { session, record: record.into(), log_parts: 0, store: true }))
}

pub fn shard(ops: Vec<ShardOp>) -> Command {
    Command { now_ms: NOW, body: CommandBody::Shard(ops) }
}

pub fn meta(origin: Option<Origin>, command: MetaCommand) -> Command {
    Command { now_ms: NOW, body: CommandBody::Meta { origin, command } }
}

/// Puts a value of `bytes` at an action's key.
pub fn put(entity: &str, bytes: usize) -> Command {
    let list = Some(ListEntry { collection: Collection::Actions, updated_ms: NOW });
    let op = MetaOp::Put { key: MetaKey::Entity(fqn("ns", None, entity)), value: vec![1; bytes], list };
    meta(None, MetaCommand::Write(MetaTxn { conditions: Vec::new(), ops: vec![op] }))
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

pub fn entry(index: u64, command: Command) -> Entry {
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(command) }
}

/// Applies commands as the entries from `first` on.
pub async fn apply(machine: &mut StateMachine, first: u64, commands: Vec<Command>) {
    let entries = (first..).zip(commands).map(|(index, command)| Ok((entry(index, command), None)));
    let entries = futures_util::stream::iter(entries.collect::<Vec<_>>());
    machine.apply(entries).await.expect("entries apply");
}
