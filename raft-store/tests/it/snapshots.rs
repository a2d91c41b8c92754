//! Snapshots: what is sent is one moment, what arrives is all or nothing.

use std::sync::Arc;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use protocol::{ShardId, command::MetaKey, entity::Collection};
use raft_store::{
    CHUNK_BYTES, Faults, GroupId, InstallStage, MetaChange, Observer, Options, ShardChange, Snapshot, StateMachine,
    Store,
};
use tempfile::TempDir;

use crate::support::{accept, apply, fqn, id, name, put, session, shard};

const SHARD_0: GroupId = GroupId::Shard(ShardId(0));

fn store(faults: Faults) -> anyhow::Result<(TempDir, Store)> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options { faults, ..Options::default() })?;
    Ok((dir, store))
}

/// A store of `meta` with `n` values of 10,000 bytes, the first one's name with `tag`.
async fn filled(tag: &str, n: usize) -> anyhow::Result<(TempDir, Store, StateMachine)> {
    let (dir, store) = store(Faults::default())?;
    let mut machine = store.state_machine(GroupId::Meta, Arc::new(()));
    apply(&mut machine, 1, (0..n).map(|n| put(&format!("{tag}{n}"), 10_000)).collect()).await;
    Ok((dir, store, machine))
}

async fn built(machine: &mut StateMachine) -> anyhow::Result<Snapshot> {
    Ok(machine.get_snapshot_builder().await.build_snapshot().await?)
}

fn chunks(snapshot: &mut Snapshot) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut chunks = Vec::new();
    while let Some(chunk) = snapshot.snapshot.next_chunk()? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

#[tokio::test]
async fn chunks_are_bounded_and_show_one_moment() -> anyhow::Result<()> {
    let (_dir, sender, mut machine) = filled("a", 100).await?;
    let mut snapshot = built(&mut machine).await?;
    let (at, sum) = sender.checksum(GroupId::Meta)?;
    assert_eq!(snapshot.meta.last_log_id.map(|id| id.index), Some(at));
    // What is applied later, or changed, is not in it.
    apply(&mut machine, 101, vec![put("late", 10), put("a5", 10)]).await;
    let chunks = chunks(&mut snapshot)?;
    assert!(chunks.len() > 3, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 200));

    let (_dir, receiver) = store(Faults::default())?;
    let mut other = receiver.state_machine(GroupId::Meta, Arc::new(()));
    apply(&mut other, 1, vec![put("only here", 10)]).await;
    let mut receiving = receiver.receive_snapshot(GroupId::Meta);
    chunks.iter().try_for_each(|chunk| receiving.write(chunk))?;
    let data = receiving.finish()?;
    assert_eq!(receiver.meta().count(&name("ns"), Collection::Actions, None)?, 1, "not installed yet");
    other.install_snapshot(&snapshot.meta, data).await?;
    assert_eq!(receiver.checksum(GroupId::Meta)?, (at, sum));
    assert_eq!(receiver.meta().applied(), at);
    assert_eq!(receiver.meta().get(&MetaKey::Entity(fqn("ns", None, "only here")))?, None);
    Ok(())
}

#[tokio::test]
async fn damaged_incomplete_and_mixed_up_snapshots_are_refused() -> anyhow::Result<()> {
    let (_dir, _store, mut machine) = filled("a", 100).await?;
    let mut snapshot = built(&mut machine).await?;
    let chunks = chunks(&mut snapshot)?;
    let (dir, receiver) = store(Faults::default())?;
    let refused = |sent: &[&[u8]]| {
        let mut receiving = receiver.receive_snapshot(GroupId::Meta);
        sent.iter().try_for_each(|chunk| receiving.write(chunk)).and_then(|()| receiving.finish().map(|_| ())).is_err()
    };
    let all: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
    assert!(!refused(&all));
    assert!(refused(&all[..all.len() - 1]), "the last is missing");
    assert!(refused(&[&all[..1], &all[2..]].concat()), "one is missing");
    assert!(refused(&[&all[..2], &all[1..]].concat()), "one comes twice");
    assert!(refused(&[all.as_slice(), &all[..1]].concat()), "one comes after the last");
    let mut damaged = chunks[1].clone();
    damaged[5000] ^= 1;
    assert!(refused(&[&all[..1], &[damaged.as_slice()], &all[2..]].concat()), "damaged");
    assert!(refused(&[&[]]));
    // Nothing of them stays.
    drop(receiver);
    let store = Store::open(dir.path(), Options::default())?;
    assert_eq!(store.checksum(GroupId::Meta)?, (0, 0));
    drop(store);
    assert_eq!(state_keys(&dir)?, 0);
    Ok(())
}

/// Keys in the family of the states.
fn state_keys(dir: &TempDir) -> anyhow::Result<usize> {
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), ["default", "log", "state"])?;
    let family = db.cf_handle("state").expect("a family");
    Ok(db.iterator_cf(family, rocksdb::IteratorMode::Start).count())
}

#[tokio::test]
async fn a_death_at_any_stage_leaves_one_whole_state() -> anyhow::Result<()> {
    let (_dir, sender, mut machine) = filled("new", 100).await?;
    let new = sender.checksum(GroupId::Meta)?;
    for stage in [InstallStage::Half, InstallStage::BeforeSwitch, InstallStage::AfterSwitch] {
        let (dir, receiver) = store(Faults { die_at: Some(stage), ..Faults::default() })?;
        let mut other = receiver.state_machine(GroupId::Meta, Arc::new(()));
        apply(&mut other, 1, (0..30).map(|n| put(&format!("old{n}"), 1000)).collect()).await;
        let old = receiver.checksum(GroupId::Meta)?;
        let snapshot = built(&mut machine).await?;
        other.install_snapshot(&snapshot.meta, snapshot.snapshot).await.expect_err("it dies");
        drop((other, receiver));

        let store = Store::open(dir.path(), Options::default())?;
        let (expected, values) = if stage == InstallStage::AfterSwitch { (new, 100) } else { (old, 30) };
        assert_eq!(store.checksum(GroupId::Meta)?, expected, "{stage:?}");
        let applied = store.state_machine(GroupId::Meta, Arc::new(())).applied_state().await?.0;
        assert_eq!(applied.map(|id| id.index), Some(expected.0), "{stage:?}");
        drop(store);
        // Values, list, count, applied index, and the numbers of generation and membership after the switch.
        let rest = if stage == InstallStage::AfterSwitch { 4 } else { 2 };
        assert_eq!(state_keys(&dir)?, values * 2 + rest, "leftovers after {stage:?}");
        // Once more, in peace.
        let store = Store::open(dir.path(), Options::default())?;
        let mut other = store.state_machine(GroupId::Meta, Arc::new(()));
        let snapshot = built(&mut machine).await?;
        other.install_snapshot(&snapshot.meta, snapshot.snapshot).await?;
        assert_eq!(store.checksum(GroupId::Meta)?, new);
    }
    Ok(())
}

/// Remembers that it was told to forget.
#[derive(Default)]
struct Resets(parking_lot::Mutex<Vec<String>>);

impl Observer for Resets {
    fn meta_applied(&self, changes: &[MetaChange]) {
        self.0.lock().push(format!("{changes:?}"));
    }

    fn shard_applied(&self, shard: ShardId, changes: &[ShardChange]) {
        self.0.lock().push(format!("{shard}: {changes:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_the_old_or_the_new_state_and_observers_are_told() -> anyhow::Result<()> {
    let (_dir, _sender, mut machine) = filled("new", 60).await?;
    let (_dir, receiver) = store(Faults::default())?;
    let resets = Arc::new(Resets::default());
    let mut other = receiver.state_machine(GroupId::Meta, resets.clone());
    apply(&mut other, 1, (0..20).map(|n| put(&format!("old{n}"), 1000)).collect()).await;
    resets.0.lock().clear();
    let reading = {
        let reader = receiver.meta();
        std::thread::spawn(move || -> anyhow::Result<(u32, u32)> {
            let (mut old, mut new) = (0, 0);
            while new < 20 {
                let mut names = Vec::new();
                reader.visit_list(&name("ns"), Collection::Actions, None, &mut |name, _| {
                    names.push(name.to_string());
                    std::ops::ControlFlow::Continue(())
                })?;
                match names.len() {
                    20 if names.iter().all(|name| name.starts_with("ns/old")) => old += 1,
                    60 if names.iter().all(|name| name.starts_with("ns/new")) => new += 1,
                    _ => anyhow::bail!("a mixture: {names:?}"),
                }
            }
            Ok((old, new))
        })
    };
    let snapshot = built(&mut machine).await?;
    other.install_snapshot(&snapshot.meta, snapshot.snapshot).await?;
    let (_old, new) = reading.join().expect("the reader ends")?;
    assert_eq!(new, 20);
    assert_eq!(*resets.0.lock(), ["[Reset]"]);

    let shard_machine = &mut receiver.state_machine(SHARD_0, resets.clone());
    apply(shard_machine, 1, vec![shard(vec![accept("ns", id(0, 1), session(1, 1))])]).await;
    let same = built(shard_machine).await?;
    shard_machine.install_snapshot(&same.meta, same.snapshot).await?;
    assert_eq!(resets.0.lock().last().map(String::as_str), Some("0: [Reset]"));
    assert_eq!(receiver.shard(ShardId(0)).backlog(&name("ns"))?, 1);
    Ok(())
}
