//! Three stores in one process, with all groups.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use openraft::BasicNode;
use protocol::{
    ShardId,
    command::{MetaCommand, MetaReply, Reply, ShardReply},
    ids::NodeId,
};
use raft_store::{Faults, GroupId, MetaChange, Observer, Options, ShardChange, Store};
use tempfile::TempDir;

use crate::{
    network::{Net, Node, SHARDS, groups},
    support::{accept, finish, id, meta, put, session, shard},
};

const DEADLINE: Duration = Duration::from_secs(40);

struct Cluster {
    net: Net,
    dirs: Vec<TempDir>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn start(size: u64) -> anyhow::Result<Self> {
        let net = Net::default();
        let mut dirs = Vec::new();
        let mut nodes = Vec::new();
        for id in 1..=size {
            let dir = tempfile::tempdir()?;
            nodes.push(Node::start(id, dir.path(), Options::default(), &net, false).await?);
            dirs.push(dir);
        }
        let members: BTreeMap<u64, BasicNode> =
            (1..=size).map(|id| (id, BasicNode::new(format!("node{id}")))).collect();
        for group in groups() {
            nodes[0].rafts[&group].initialize(members.clone()).await?;
        }
        Ok(Self { net, dirs, nodes })
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[usize::try_from(id).expect("few nodes") - 1]
    }

    /// The leader of `group` among the nodes that `asked` names.
    async fn leader(&self, group: GroupId, asked: &[u64]) -> anyhow::Result<&Node> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            for id in asked {
                let node = self.node(*id);
                if node.rafts[&group].current_leader().await == Some(*id)
                    && node.rafts[&group].ensure_linearizable(openraft::ReadPolicy::ReadIndex).await.is_ok()
                {
                    return Ok(node);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("{group} has no leader among {asked:?} after {DEADLINE:?}")
    }

    /// Waits until all of `ids` applied as far as the leader, then compares their data.
    async fn agree(&self, group: GroupId, ids: &[u64]) -> anyhow::Result<()> {
        let leader = self.leader(group, ids).await?;
        let (index, _) = leader.store.checksum(group)?;
        for id in ids {
            let wait = self.node(*id).rafts[&group].wait(Some(DEADLINE));
            wait.applied_index_at_least(Some(index), "a replica catches up").await?;
        }
        let sums: Vec<(u64, u32)> =
            ids.iter().map(|id| self.node(*id).store.checksum(group)).collect::<Result<_, _>>()?;
        anyhow::ensure!(sums.windows(2).all(|two| two[0] == two[1]), "{group} differs: {sums:?}");
        Ok(())
    }
}

use openraft::async_runtime::WatchReceiver;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_groups_elect_replicate_and_survive_the_loss_of_a_leader() -> anyhow::Result<()> {
    let cluster = Cluster::start(3).await?;
    for group in groups() {
        let leader = cluster.leader(group, &[1, 2, 3]).await?;
        for n in 0..50 {
            let reply = match group {
                GroupId::Meta => leader.write(group, put(&format!("a{n}"), 100)).await?,
                GroupId::Shard(_) => leader.write(group, shard(vec![accept("ns", id(0, n), session(1, 1))])).await?,
            };
            assert!(matches!(reply, Reply::Meta(MetaReply::Written { .. }) | Reply::Shard(_)), "{reply:?}");
        }
        cluster.agree(group, &[1, 2, 3]).await?;
    }
    // Whoever leads `meta` is cut off; the others go on with everything that was acknowledged.
    let old = cluster.leader(GroupId::Meta, &[1, 2, 3]).await?.id;
    cluster.net.cut_off(old);
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    for group in groups() {
        let leader = cluster.leader(group, &others).await?;
        match group {
            GroupId::Meta => {
                leader.write(group, put("after", 10)).await?;
                let count = leader.store.meta().count(
                    &crate::support::name("ns"),
                    protocol::entity::Collection::Actions,
                    None,
                )?;
                assert_eq!(count, 51);
            }
            GroupId::Shard(shard_id) => {
                let reply = leader.write(group, shard(vec![finish("ns", id(0, 1), session(2, 1))])).await?;
                assert_eq!(reply, Reply::Shard(vec![ShardReply::Finished]));
                assert_eq!(leader.store.shard(shard_id).backlog(&crate::support::name("ns"))?, 49);
            }
        }
        cluster.agree(group, &others).await?;
    }
    // The old leader comes back and agrees.
    cluster.net.heal(old);
    for group in groups() {
        cluster.agree(group, &[1, 2, 3]).await?;
    }
    for node in cluster.nodes {
        node.stop(&cluster.net).await?;
    }
    Ok(())
}

/// Counts what it hears.
#[derive(Default)]
struct Resets {
    meta: AtomicUsize,
    shards: AtomicUsize,
}

impl Observer for Resets {
    fn meta_applied(&self, changes: &[MetaChange]) {
        self.meta.fetch_add(changes.iter().filter(|change| **change == MetaChange::Reset).count(), Ordering::SeqCst);
    }

    fn shard_applied(&self, _shard: ShardId, changes: &[ShardChange]) {
        self.shards.fetch_add(changes.iter().filter(|change| **change == ShardChange::Reset).count(), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_purged_entries_gets_snapshots_also_after_dying_in_the_middle() -> anyhow::Result<()> {
    use raft_store::InstallStage::{AfterSwitch, BeforeSwitch};

    let mut cluster = Cluster::start(3).await?;
    for group in groups() {
        cluster.leader(group, &[1, 2, 3]).await?.write(group, first_of(group)).await?;
        cluster.agree(group, &[1, 2, 3]).await?;
    }
    let lagging = cluster.nodes.pop().expect("three nodes");
    cluster.net.cut_off(3);
    lagging.stop(&cluster.net).await?;

    // More than one chunk of data per group, then nothing of it is left in the logs.
    for group in groups() {
        let leader = cluster.leader(group, &[1, 2]).await?;
        for n in 0..40 {
            let command = match group {
                GroupId::Meta => put(&format!("b{n}"), 20_000),
                GroupId::Shard(_) => shard((0..40).map(|m| accept("ns", id(1, n * 100 + m), session(1, 1))).collect()),
            };
            leader.write(group, command).await?;
        }
        for node in [1, 2] {
            let raft = &cluster.node(node).rafts[&group];
            let applied = cluster.leader(group, &[1, 2]).await?.rafts[&group].metrics().borrow_watched().last_applied;
            raft.wait(Some(DEADLINE)).metrics(|now| now.last_applied >= applied, "applied").await?;
            raft.trigger().snapshot().await?;
            raft.wait(Some(DEADLINE)).metrics(|now| now.snapshot >= applied, "noted").await?;
            raft.trigger().purge_log(applied.expect("entries were applied").index).await?;
            raft.wait(Some(DEADLINE)).metrics(|now| now.purged >= applied, "purged").await?;
        }
    }

    // It dies before and after the switch of a generation, then is left in peace.
    for stage in [Some(BeforeSwitch), Some(AfterSwitch), None] {
        let options = Options { faults: Faults { die_at: stage, ..Faults::default() }, ..Options::default() };
        let observer = Arc::new(Resets::default());
        let dir = cluster.dirs[2].path();
        let node = Node::observed(3, dir, options, &cluster.net, false, observer.clone()).await?;
        cluster.net.heal(3);
        if stage.is_some() {
            // Each group dies at its first snapshot.
            for group in groups() {
                let wait = node.rafts[&group].wait(Some(DEADLINE));
                let caught_up = wait.metrics(|now| now.last_applied.is_some_and(|at| at.index > 20), "caught up").await;
                let error = caught_up.expect_err("it dies instead");
                assert!(matches!(error, openraft::metrics::WaitError::ShuttingDown), "{group} at {stage:?}: {error}");
            }
            assert_eq!((observer.meta.load(Ordering::SeqCst), observer.shards.load(Ordering::SeqCst)), (0, 0));
            cluster.net.cut_off(3);
            node.stop(&cluster.net).await?;
            continue;
        }
        // The last death was behind the switch: the new state is whole, index, membership and data, before anyone sends
        // anything.
        cluster.nodes.push(node);
        for group in groups() {
            cluster.agree(group, &[1, 2, 3]).await?;
        }
    }
    for node in cluster.nodes {
        node.stop(&cluster.net).await?;
    }
    Ok(())
}

fn first_of(group: GroupId) -> protocol::command::Command {
    match group {
        GroupId::Meta => meta(None, MetaCommand::OpenSession { node: NodeId(1), node_name: "one".to_owned() }),
        GroupId::Shard(_) => shard(vec![accept("ns", id(0, 0), session(1, 1))]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_groups_share_fsyncs() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let net = Net::default();
    let faults = Faults { flush_delay: Duration::from_millis(2), ..Faults::default() };
    let node = Arc::new(Node::start(1, dir.path(), Options { faults, ..Options::default() }, &net, true).await?);
    node.lead_alone().await?;
    let before = node.store.flush_stats();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..32u64 {
        let node = node.clone();
        writers.spawn(async move {
            let group = GroupId::Shard(ShardId(u16::try_from(writer).expect("few writers") % SHARDS));
            for n in 0..30 {
                let op = accept("ns", id(0, writer * 1000 + n), session(1, 1));
                assert_eq!(node.write(group, shard(vec![op])).await?, Reply::Shard(vec![ShardReply::Accepted]));
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let after = node.store.flush_stats();
    let (entries, flushes) = (after.entries - before.entries, after.flushes - before.flushes);
    assert!(entries >= 32 * 30);
    assert!(entries > 4 * flushes, "{entries} entries took {flushes} flushes");
    Arc::into_inner(node).expect("all writers ended").stop(&net).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_voter_without_ticks_leads_after_each_start() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let net = Net::default();
    for round in 0..3 {
        let node = Node::start(1, dir.path(), Options::default(), &net, true).await?;
        node.lead_alone().await?;
        node.write(GroupId::Meta, put(&format!("r{round}"), 10)).await?;
        let count =
            node.store.meta().count(&crate::support::name("ns"), protocol::entity::Collection::Actions, None)?;
        assert_eq!(count, round + 1);
        node.stop(&net).await?;
    }
    let store = Store::open(dir.path(), Options::default())?;
    assert_eq!(store.meta().count(&crate::support::name("ns"), protocol::entity::Collection::Actions, None)?, 3);
    Ok(())
}
