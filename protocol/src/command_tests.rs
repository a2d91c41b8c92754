//! Bytes of commands and replies that must never change: they lie in the logs and states of running clusters. A failure here
//! means that a format was changed; it wants a new variant at the end of its enum, not other bytes in the file.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::{
    ActivationStatus, RawJson, activation::Response, codec, entity::parameters::Parameters, entity::version::SemVer,
    names::EntityPath,
};

/// `name hex` per line.
const FROZEN: &str = include_str!("fixtures/commands.hex");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn name(text: &str) -> EntityName {
    EntityName::new(text).unwrap()
}

fn fqn() -> FullyQualifiedName {
    FullyQualifiedName::new(EntityPath::package(name("ns"), name("p")), name("a"))
}

fn id() -> ActivationId {
    ActivationId::from_bytes(*b"0123456789abcdef")
}

fn session() -> SessionId {
    SessionId { node: NodeId(2), incarnation: 5 }
}

fn record() -> Activation {
    Activation {
        namespace: name("ns"),
        name: name("a"),
        version: SemVer::FIRST,
        subject: "s".to_owned(),
        activation_id: id(),
        cause: Some(id()),
        start_ms: 7,
        end_ms: Some(8),
        duration_ms: Some(1),
        response: Response { status: ActivationStatus::WhiskError, result: Some(RawJson::null()), size: Some(4) },
        logs: vec!["l".to_owned()],
        annotations: Parameters::default(),
        publish: true,
        filter_name: "p/a".into(),
    }
}

/// Collects what does not have its frozen bytes.
#[derive(Default)]
struct Check {
    lines: Vec<String>,
}

impl Check {
    fn value<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let bytes = codec::encode(value);
        assert_eq!(codec::decode::<T>(&bytes).unwrap(), *value, "{name}");
        assert_eq!(codec::encoded_len(value), bytes.len() as u64, "{name}");
        self.lines.push(format!("{name} {}", hex(&bytes)));
    }

    fn end(self) {
        let frozen: Vec<&str> = FROZEN.lines().collect();
        let now = self.lines.join("\n");
        assert_eq!(self.lines, frozen, "the bytes are now:\n{now}\n");
    }
}

#[test]
fn commands_and_replies_have_their_frozen_bytes() {
    let mut check = Check::default();
    let keys = [
        ("entity", MetaKey::Entity(fqn())),
        ("code", MetaKey::Code(fqn())),
        ("subject", MetaKey::Subject("s".to_owned())),
        ("auth-key", MetaKey::AuthKey("u".to_owned())),
        ("limits", MetaKey::Limits(name("ns"))),
        ("setting", MetaKey::Setting("x".to_owned())),
    ];
    for (kind, key) in &keys {
        check.value(&format!("key-{kind}"), key);
    }
    let key = keys[2].1.clone();
    check.value("condition-absent", &Condition::Absent(key.clone()));
    check.value("condition-exists", &Condition::Exists(key.clone()));
    check.value("condition-at", &Condition::At(key.clone(), Revision(3)));
    check.value("condition-package-empty", &Condition::PackageEmpty(fqn()));
    for collection in [Collection::Actions, Collection::Triggers, Collection::Rules, Collection::Packages] {
        let list = Some(ListEntry { collection, updated_ms: 7 });
        check.value(&format!("op-put-{collection:?}"), &MetaOp::Put { key: key.clone(), value: vec![1, 2], list });
    }
    check.value("op-delete", &MetaOp::Delete(key));
    check.value("op-delete-contents", &MetaOp::DeletePackageContents(fqn()));

    let meta = |command| Command {
        now_ms: 9,
        body: CommandBody::Meta { origin: Some(Origin { session: session(), sequence: 6 }), command },
    };
    check.value("write", &meta(MetaCommand::Write(MetaTxn::default())));
    check.value("open", &meta(MetaCommand::OpenSession { node: NodeId(2), node_name: "n".to_owned() }));
    check.value("expire", &meta(MetaCommand::ExpireSession { session: session() }));

    let (id, session) = (id(), session());
    let accept = Accept { owner: session, work: vec![1, 2], if_lost: record(), started: true, backlog_limit: 9 };
    let lines = vec!["l".to_owned()];
    let ops = vec![
        ShardOp::Accept(Arc::new(accept)),
        ShardOp::Start { id, session, attempt: 1 },
        ShardOp::Finish(Arc::new(Finish { session, record: record().into(), log_parts: 3, store: true })),
        ShardOp::Fence { session, node_name: "n".to_owned() },
        ShardOp::Assign { id, session, attempt: 1 },
        ShardOp::DropBefore { day: 4 },
        ShardOp::LogPart { session, namespace: name("ns"), id, part: 2, lines },
    ];
    for op in ops {
        check.value("shard", &Command { now_ms: 9, body: CommandBody::Shard(vec![op]) });
    }

    check.value("reply-none", &Reply::None);
    for reply in [
        MetaReply::Written { revision: Revision(3) },
        MetaReply::ConditionFailed { index: 1 },
        MetaReply::SessionOpened { session, closed: Some(session) },
        MetaReply::SessionExpired(true),
        MetaReply::SessionClosed,
        MetaReply::SequenceForgotten,
    ] {
        check.value("reply-meta", &Reply::Meta(reply));
    }
    let replies = vec![
        ShardReply::Accepted,
        ShardReply::Duplicate,
        ShardReply::BacklogFull { count: 1 },
        ShardReply::IdOutOfRange,
        ShardReply::Granted,
        ShardReply::NotGranted,
        ShardReply::Finished,
        ShardReply::Dropped,
        ShardReply::Fenced { taken_back: 1, lost: 2 },
        ShardReply::Assigned,
        ShardReply::NotAssigned,
        ShardReply::SessionFenced,
        ShardReply::DroppedBefore,
        ShardReply::LogPartStored,
    ];
    check.value("reply-shard", &Reply::Shard(replies));

    let work = AcceptedWork {
        activation_id: id,
        action: fqn(),
        binding: Some(fqn()),
        revision: Revision(3),
        subject: "s".to_owned(),
        namespace: name("ns"),
        key_uuid: "u".to_owned(),
        transaction_id: "t".to_owned(),
        arguments: "{}".to_owned(),
        init_env: vec![("K".to_owned(), "v".to_owned())],
        cause: None,
        received_ms: 7,
        extra_logging: false,
    };
    check.value("work", &work);
    check.end();
}

#[test]
fn byte_fields_are_encoded_as_sequences_of_bytes() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Fast(#[serde(with = "codec::bytes")] Vec<u8>);
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Slow(Vec<u8>);
    let bytes = vec![0, 1, 255];
    assert_eq!(codec::encode(&Fast(bytes.clone())), codec::encode(&Slow(bytes.clone())));
    assert_eq!(codec::decode::<Fast>(&codec::encode(&Slow(bytes.clone()))).unwrap(), Fast(bytes));
}
