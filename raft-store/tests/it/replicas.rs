//! The same entries give the same data: in memory and on disk, in one batch and in many, before and after a restart.

use proptest::prelude::*;
use protocol::{
    command::{Command, Condition, Finish, ListEntry, MetaCommand, MetaKey, MetaOp, MetaTxn, Origin, ShardOp},
    entity::Collection,
    ids::NodeId,
};
use raft_store::{
    GroupId, Options, Store,
    apply::{
        MapState,
        activations::{self, Batch},
        meta as meta_machine,
    },
};

use crate::support::{SHARD, accept, apply, fqn, id, meta, record, session, shard};

fn any_meta() -> impl Strategy<Value = Command> {
    let package = prop_oneof![Just(None), Just(Some("p")), Just(Some("q"))];
    let names = (package, "[a-c]").prop_map(|(package, name)| fqn("ns", package, &name));
    let key = names.clone().prop_flat_map(|name| {
        prop_oneof![
            3 => Just(MetaKey::Entity(name.clone())),
            1 => Just(MetaKey::Code(name)),
            1 => Just(MetaKey::Subject("s".to_owned())),
            1 => Just(MetaKey::Setting("x".to_owned())),
        ]
    });
    let op = prop_oneof![
        5 => (key.clone(), prop::collection::vec(any::<u8>(), 0..20), 0u64..5).prop_map(|(key, value, updated_ms)| {
            MetaOp::Put { key, value, list: Some(ListEntry { collection: Collection::Actions, updated_ms }) }
        }),
        2 => key.clone().prop_map(MetaOp::Delete),
        1 => prop_oneof![Just("p"), Just("q")].prop_map(|name| MetaOp::DeletePackageContents(fqn("ns", None, name))),
    ];
    let condition = prop_oneof![key.clone().prop_map(Condition::Absent), key.prop_map(Condition::Exists)];
    let write = (prop::collection::vec(condition, 0..2), prop::collection::vec(op, 0..4))
        .prop_map(|(conditions, ops)| MetaCommand::Write(MetaTxn { conditions, ops }));
    let command = prop_oneof![
        6 => write,
        1 => (1u64..3).prop_map(|node| MetaCommand::OpenSession { node: NodeId(node), node_name: "n".to_owned() }),
        1 => (1u64..3, 1u64..3).prop_map(|(n, i)| MetaCommand::ExpireSession { session: session(n, i) }),
    ];
    let origin = prop_oneof![
        Just(None),
        (1u64..3, 1u64..3, 0u64..600).prop_map(|(n, i, sequence)| Some(Origin { session: session(n, i), sequence })),
    ];
    (origin, command).prop_map(|(origin, command)| meta(origin, command))
}

fn any_shard() -> impl Strategy<Value = Command> {
    let ids = (-1i64..2, 0u64..5).prop_map(|(days, n)| id(days * 1_800_000, n));
    let pair = (ids, (1u64..4, 1u64..4).prop_map(|(node, incarnation)| session(node, incarnation)));
    let op = prop_oneof![
        4 => pair.clone().prop_map(|(id, session)| accept("ns", id, session)),
        3 => (pair.clone(), 0u32..2).prop_map(|((id, session), attempt)| ShardOp::Start { id, session, attempt }),
        3 => (pair.clone(), any::<bool>()).prop_map(|((id, session), store)| {
            let record = record("ns", id, id.unix_ms());
            ShardOp::Finish(std::sync::Arc::new(Finish { session, record: record.into(), log_parts: 0, store }))
        }),
        1 => pair.clone().prop_map(|(_, session)| ShardOp::Fence { session, node_name: "gone".to_owned() }),
        2 => (pair, 0u32..2).prop_map(|((id, session), attempt)| ShardOp::Assign { id, session, attempt }),
        // The days of these ids are 20,777 and 20,778 or so: sometimes all, some or none are dropped.
        1 => (-1i64..2).prop_map(|day| ShardOp::DropBefore { day: id(0, 0).day().saturating_add_signed(day as i32) }),
    ];
    prop::collection::vec(op, 1..6).prop_map(shard)
}

/// The state in memory after `commands`, summed up as `Store::checksum` does.
fn in_memory(group: GroupId, commands: &[Command]) -> u32 {
    let mut state = MapState::default();
    for (index, command) in (1..).zip(commands) {
        match &command.body {
            protocol::command::CommandBody::Meta { origin, command } => {
                meta_machine::apply(&mut state, index, *origin, command, &mut Vec::new()).expect("applies");
            }
            protocol::command::CommandBody::Shard(ops) => {
                // Each by itself: on disk they share what they read.
                for op in ops {
                    activations::apply(&mut state, command.now_ms, op, &mut Batch::default()).expect("applies");
                }
            }
        }
    }
    let _ = group;
    let mut hasher = crc32fast::Hasher::new();
    for part in state.0.iter().flat_map(|(key, value)| [key, value]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

/// On disk: one at a time, all at once, and all at once after a restart in the middle.
async fn on_disk(group: GroupId, commands: &[Command], together: usize, restart: bool) -> anyhow::Result<u32> {
    let dir = tempfile::tempdir()?;
    let mut store = Store::open(dir.path(), Options::default())?;
    let mut first = 1;
    for (n, chunk) in commands.chunks(together).enumerate() {
        if restart && n == 1 {
            drop(store);
            store = Store::open(dir.path(), Options::default())?;
        }
        let mut machine = store.state_machine(group, std::sync::Arc::new(()));
        apply(&mut machine, first, chunk.to_vec()).await;
        first += chunk.len() as u64;
    }
    Ok(store.checksum(group)?.1)
}

fn same_everywhere(group: GroupId, commands: &[Command]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let expected = in_memory(group, commands);
    for (together, restart) in [(1, false), (1000, false), (7, true)] {
        let sum = runtime.block_on(on_disk(group, commands, together, restart))?;
        anyhow::ensure!(sum == expected, "{together} at a time differ from memory");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn meta_is_the_same_in_memory_and_on_disk(commands in prop::collection::vec(any_meta(), 1..80)) {
        same_everywhere(GroupId::Meta, &commands).map_err(|error| TestCaseError::fail(error.to_string()))?;
    }

    #[test]
    fn shards_are_the_same_in_memory_and_on_disk(commands in prop::collection::vec(any_shard(), 1..40)) {
        same_everywhere(SHARD, &commands).map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
}
