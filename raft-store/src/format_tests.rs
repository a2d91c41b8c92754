//! Bytes that must never change: what is on the disks of running clusters. A test here that fails means that a format was
//! changed; it wants a new version and an upgrade, not new bytes in the test.

use std::collections::BTreeSet;

use openraft::{BasicNode, EntryPayload};
use protocol::{
    ActivationId, EntityName, EntityPath, FullyQualifiedName, SessionId, codec,
    command::{Command, CommandBody, ListEntry, MetaCommand, MetaKey, MetaOp, MetaTxn, Origin, ShardOp},
    entity::Collection,
    ids::NodeId,
};

use crate::{
    format::{
        EntryError, EntryRecord, LogIdRecord, SnapshotMetaRecord, StoredMembershipRecord, VoteRecord, decode_entry,
        encode_entry,
    },
    key_spaces::{
        ByName, ByStart, CountKey, Counts, Fences, Holders, KeySpace, List, ListKey, LogParts, PackageList,
        RecordValue, Records, Replies, SessionRecord, Sessions, StoredValue, UnfinishedSpace, UnfinishedValue, Values,
        current_generation_key, generation_prefix, log_key,
    },
    types::{Entry, GroupId, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote},
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log_id() -> LogId {
    LogId::new(LeaderId { term: 3, node_id: 2 }, 0x0102)
}

fn membership() -> Membership {
    let voters = vec![BTreeSet::from([1, 2])];
    let nodes = [(1, "a:1"), (2, "b"), (3, "")].map(|(id, addr)| (id, BasicNode::new(addr)));
    Membership::new(voters, std::collections::BTreeMap::from(nodes)).unwrap()
}

fn name(text: &str) -> EntityName {
    EntityName::new(text).unwrap()
}

fn session() -> SessionId {
    SessionId { node: NodeId(2), incarnation: 5 }
}

fn id() -> ActivationId {
    ActivationId::from_bytes(*b"0123456789abcdef")
}

fn fqn() -> FullyQualifiedName {
    FullyQualifiedName::new(EntityPath { namespace: name("ns"), package: Some(name("p")) }, name("a"))
}

fn command(body: CommandBody) -> Entry {
    Entry { log_id: log_id(), payload: EntryPayload::Normal(Command { now_ms: 9, body }) }
}

/// Checks the bytes of a value, and that they read back as the same value.
macro_rules! frozen {
    ($value:expr, $type:ty, $bytes:literal) => {{
        let record = <$type>::from($value);
        let bytes = codec::encode(&record);
        assert_eq!(hex(&bytes), $bytes, stringify!($type));
        assert_eq!(codec::decode::<$type>(&bytes).unwrap(), record);
        record
    }};
}

#[test]
fn votes_log_ids_and_memberships() {
    let record = frozen!(&log_id(), LogIdRecord, "01030000000000000002000000000000000201000000000000");
    assert_eq!(LogId::from(record), log_id());
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 2 }, committed: true };
    let record = frozen!(&vote, VoteRecord, "010300000000000000020000000000000001");
    assert_eq!(Vote::from(record), vote);
    let stored = StoredMembership::new(Some(log_id()), membership());
    let record = frozen!(
        &stored,
        StoredMembershipRecord,
        "01010300000000000000020000000000000002010000000000000100000000000000020000000000000001000000000000000200000000000000030000000000000001000000000000000300000000000000613a31020000000000000001000000000000006203000000000000000000000000000000"
    );
    assert_eq!(StoredMembership::try_from(record).unwrap(), stored);
    let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::default() };
    let record = frozen!(&meta, SnapshotMetaRecord, "01000000000000000000000000000000000000");
    assert_eq!(SnapshotMeta::try_from(record).unwrap(), meta);
}

#[test]
fn entries() {
    let write = MetaCommand::Write(MetaTxn {
        conditions: vec![],
        ops: vec![MetaOp::Put {
            key: MetaKey::Entity(fqn()),
            value: vec![0xee],
            list: Some(ListEntry { collection: Collection::Actions, updated_ms: 7 }),
        }],
    });
    let origin = Some(Origin { session: session(), sequence: 6 });
    let entries = [
        (
            Entry { log_id: log_id(), payload: EntryPayload::Blank },
            "f62cf68d0103000000000000000200000000000000020100000000000000000000",
        ),
        (
            Entry { log_id: log_id(), payload: EntryPayload::Membership(membership()) },
            "c54b5b7a01030000000000000002000000000000000201000000000000020000000100000000000000020000000000000001000000000000000200000000000000030000000000000001000000000000000300000000000000613a31020000000000000001000000000000006203000000000000000000000000000000",
        ),
        (
            command(CommandBody::Meta { origin, command: write }),
            "44789f540103000000000000000200000000000000020100000000000001000000090000000000000000000000010200000000000000050000000000000006000000000000000000000000000000000000000100000000000000000000000000000002000000000000006e73010100000000000000700100000000000000610100000000000000ee01000000000700000000000000",
        ),
        (
            command(CommandBody::Shard(vec![ShardOp::Start { id: id(), session: session(), attempt: 1 }])),
            "15f945cf0103000000000000000200000000000000020100000000000001000000090000000000000001000000010000000000000001000000303132333435363738396162636465660200000000000000050000000000000001000000",
        ),
    ];
    for (entry, expected) in entries {
        let bytes = encode_entry(&entry);
        assert_eq!(hex(&bytes), expected, "{entry:?}");
        assert_eq!(decode_entry(&bytes).unwrap(), entry);
        // Any changed byte is seen.
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(matches!(decode_entry(&damaged), Err(EntryError::Checksum)), "byte {at}");
        }
        assert!(matches!(decode_entry(&bytes[..3]), Err(EntryError::Short)));
        assert!(EntryRecord::from(&entry).into_entry().is_ok());
    }
}

#[test]
fn values_of_the_state() {
    let value = StoredValue {
        revision: protocol::Revision(4),
        list: Some(ListEntry { collection: Collection::Packages, updated_ms: 7 }),
        value: vec![1, 2],
    };
    assert_eq!(hex(&codec::encode(&value)), "0104000000000000000103000000070000000000000002000000000000000102");
    // The record's own bytes are frozen with the commands that carry it.
    let record = protocol::Activation {
        namespace: name("ns"),
        name: name("a"),
        version: protocol::entity::SemVer::FIRST,
        subject: String::new(),
        activation_id: id(),
        cause: None,
        start_ms: 7,
        end_ms: None,
        duration_ms: None,
        response: protocol::activation::Response {
            status: protocol::ActivationStatus::Success,
            result: None,
            size: None,
        },
        logs: vec![],
        annotations: protocol::entity::Parameters::default(),
        publish: false,
        filter_name: "".into(),
    };
    let value = RecordValue { record: record.clone().into(), log_parts: 3, session: Some(session()) };
    let behind = hex(&codec::encode(&value)).replace(&hex(&codec::encode(&record)), "record ");
    assert_eq!(behind, "record 030000000102000000000000000500000000000000");
    let value = SessionRecord { incarnation: 5, node_name: "n".to_owned(), open: true };
    assert_eq!(hex(&codec::encode(&value)), "01050000000000000001000000000000006e01");
    let value = UnfinishedValue { namespace: name("ns"), owner: None, attempt: 2, started: Some(session()) };
    assert_eq!(hex(&codec::encode(&value)), "0102000000000000006e7300020000000102000000000000000500000000000000");
}

#[test]
fn keys() {
    fn key<S: KeySpace>(key: S::Key, expected: &str)
    where
        S::Key: PartialEq + std::fmt::Debug,
    {
        let bytes = S::key(&key);
        assert_eq!(hex(&bytes), expected, "{}", S::NAME);
        assert_eq!(S::parse(&bytes), Some(key), "{}", S::NAME);
    }
    let place = || ListKey {
        namespace: name("ns"),
        collection: Collection::Actions,
        updated_ms: 7,
        package: Some(name("p")),
        name: name("a"),
    };
    key::<Values>(MetaKey::Entity(fqn()), "100100026e7300017061");
    key::<Values>(MetaKey::Subject("s".to_owned()), "100373");
    key::<List>(place(), "1100026e7301fffffffffffffff800017061");
    key::<PackageList>(place(), "1200026e7301000170fffffffffffffff861");
    let count = CountKey { namespace: name("ns"), collection: Collection::Rules, package: None };
    key::<Counts>(count, "1300026e7303");
    key::<Sessions>(NodeId(2), "140000000000000002");
    key::<Replies>((session(), 6), "15000000000000000200000000000000050000000000000006");
    key::<Records>((8, id()), "20000000080130313233343536373839616263646566");
    key::<ByStart>((8, name("ns"), 7, id()), "20000000080200026e73fffffffffffffff830313233343536373839616263646566");
    key::<ByName>(
        (8, name("ns"), "p/a".into(), 7, id()),
        "20000000080300026e730003702f61fffffffffffffff830313233343536373839616263646566",
    );
    key::<LogParts>(
        (8, id(), session(), 1),
        "200000000806303132333435363738396162636465660000000000000002000000000000000500000001",
    );
    key::<UnfinishedSpace>(id(), "2130313233343536373839616263646566");
    key::<Fences>(NodeId(2), "250000000000000002");
    key::<Holders>((session(), id()), "260000000000000002000000000000000530313233343536373839616263646566");
    assert_eq!(hex(&log_key(GroupId::Shard(protocol::ShardId(1)), 0x0102)), "00000002040000000000000102");
    assert_eq!(hex(&generation_prefix(GroupId::Meta, 3)), "0000000000000003");
    assert_eq!(hex(&current_generation_key(GroupId::Meta)), "000000000000000000");
}
