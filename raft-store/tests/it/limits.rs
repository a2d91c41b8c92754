//! What is bounded, and what stops a group.

use std::{sync::Arc, time::Duration};

use openraft::{
    RaftLogReader,
    async_runtime::WatchReceiver,
    storage::{IOFlushed, RaftLogStorage, RaftStateMachine},
    type_config::TypeConfigExt,
};
use protocol::{ShardId, command::MAX_ENTRY};
use raft_store::{
    Faults, GroupId, LeaderId, Options, READ_BYTES, SNAPSHOT_AFTER_BYTES, Store, TypeConfig, Vote, check_size,
    keep_log_short,
};

use crate::{
    network::{Net, Node},
    support::{SHARD, accept, entry, id, put, session, shard},
};

async fn append(store: &Store, group: GroupId, index: u64, bytes: usize) -> anyhow::Result<()> {
    let (sender, receiver) = TypeConfig::oneshot();
    store.log(group).append([entry(index, put("a", bytes))], IOFlushed::signal(sender)).await?;
    Ok(receiver.await??)
}

#[tokio::test]
async fn reads_of_the_log_are_bounded_in_bytes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    for index in 1..=6 {
        append(&store, SHARD, index, 1 << 20).await?;
    }
    append(&store, SHARD, 7, READ_BYTES + 1).await?;
    let mut log = store.log(SHARD);
    let read = |entries: Vec<raft_store::Entry>| entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
    assert_eq!(read(log.limited_get_log_entries(1, 8).await?), [1, 2, 3]);
    assert_eq!(read(log.limited_get_log_entries(4, 5).await?), [4]);
    assert_eq!(read(log.limited_get_log_entries(7, 8).await?), [7], "always one");
    assert_eq!(read(log.try_get_log_entries(1..8).await?), [1, 2, 3, 4, 5, 6, 7], "all that was asked for");
    let streamed: Vec<_> = futures_util::TryStreamExt::try_collect(log.entries_stream(2..8).await).await?;
    assert_eq!(read(streamed), [2, 3, 4, 5, 6, 7]);
    Ok(())
}

#[test]
fn a_command_that_is_too_large_is_refused_before_it_is_proposed() {
    assert_eq!(check_size(&put("a", MAX_ENTRY - 1000)), Ok(()));
    let error = check_size(&put("a", MAX_ENTRY)).unwrap_err();
    assert!(error.size > MAX_ENTRY as u64);
    assert!(error.to_string().contains(&MAX_ENTRY.to_string()), "{error}");
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_written_any_more() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let faults = Faults { fail_flush: Some(2), ..Faults::default() };
    let store = Store::open(dir.path(), Options { faults, ..Options::default() })?;
    append(&store, SHARD, 1, 10).await?;
    assert!(append(&store, SHARD, 2, 10).await.is_err());
    // The disk would do it now, but what the failed flush left undone would stay undone.
    let error = append(&store, SHARD, 3, 10).await.unwrap_err();
    assert!(error.to_string().contains("an earlier write to disk failed"), "{error}");
    assert!(append(&store, GroupId::Meta, 1, 10).await.is_err(), "all groups share the disk");
    let vote = Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: false };
    assert!(store.log(GroupId::Meta).save_vote(&vote).await.is_err());
    assert!(store.sync().is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_stops_every_group() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let net = Net::default();
    let node = Node::start(1, dir.path(), Options::default(), &net, true).await?;
    node.lead_alone().await?;
    node.stop(&net).await?;
    let faults = Faults { fail_flush: Some(12), ..Faults::default() };
    let node = Node::start(1, dir.path(), Options { faults, ..Options::default() }, &net, true).await?;
    // Votes and first entries of the groups take some flushes; whichever it hits, every group stops and none acknowledges.
    let _ = node.lead_alone().await;
    for n in 0..20 {
        let _ = node.write(SHARD, shard(vec![accept("ns", id(0, n), session(1, 1))])).await;
    }
    for (group, raft) in &node.rafts {
        let command = match group {
            GroupId::Meta => put("x", 1),
            GroupId::Shard(_) => shard(vec![accept("ns", id(0, 1000), session(1, 1))]),
        };
        let written = tokio::time::timeout(Duration::from_secs(10), raft.client_write(command)).await?;
        assert!(written.is_err(), "{group} acknowledged a write that is not durable");
    }
    Ok(())
}

#[tokio::test]
async fn an_entry_of_another_kind_of_group_stops_the_group() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let mut machine = store.state_machine(GroupId::Meta, Arc::new(()));
    let wrong = entry(1, shard(vec![]));
    let error = machine.apply(futures_util::stream::iter([Ok((wrong, None))])).await.unwrap_err();
    assert!(error.to_string().contains("log entry 1 of meta"), "{error}");
    assert_eq!(machine.applied_state().await?.0, None, "it is not skipped");
    Ok(())
}

#[tokio::test]
async fn an_unknown_command_stops_the_group_with_a_clear_error() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    append(&store, GroupId::Meta, 1, 10).await?;
    drop(store);
    {
        // As a newer version would write it: the tag of the command's kind is one that does not exist yet.
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), ["default", "log", "state"])?;
        let family = db.cf_handle("log").expect("a family");
        let (key, value) = db.iterator_cf(family, rocksdb::IteratorMode::Start).next().expect("an entry")?;
        let mut body = value[4..].to_vec();
        // version, log id (3 x 8), payload tag (4), now_ms (8), then the tag of the body.
        assert_eq!(body[37..41], [0; 4]);
        body[37] = 77;
        db.put_cf(family, key, [&crc32fast::hash(&body).to_le_bytes(), body.as_slice()].concat())?;
    }
    let store = Store::open(dir.path(), Options::default())?;
    let error = store.log(GroupId::Meta).try_get_log_entries(1..2).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("log entry 1 of meta") && text.contains("not readable by this build"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_purged_when_it_has_too_many_bytes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let net = Net::default();
    let node = Node::start(1, dir.path(), Options::default(), &net, true).await?;
    node.lead_alone().await?;
    let group = GroupId::Shard(ShardId(1));
    let raft = &node.rafts[&group];
    let keeper = tokio::spawn(keep_log_short(node.store.clone(), group, raft.clone()));
    let entry = 1 << 20;
    for n in 0..SNAPSHOT_AFTER_BYTES / entry + 1 {
        let mut op = accept("ns", id(0, n), session(1, 1));
        if let protocol::command::ShardOp::Accept(accept) = &mut op {
            Arc::make_mut(accept).work = vec![1; entry as usize];
        }
        node.write(group, shard(vec![op])).await?;
    }
    let wait = raft.wait(Some(Duration::from_secs(20)));
    wait.metrics(|now| now.purged.is_some_and(|at| at.index >= SNAPSHOT_AFTER_BYTES / entry - 2), "purged").await?;
    let last = raft.metrics().borrow_watched().last_log_index;
    assert!(last >= Some(SNAPSHOT_AFTER_BYTES / entry));
    node.stop(&net).await?;
    tokio::time::timeout(Duration::from_secs(10), keeper).await??;
    Ok(())
}
