//! The write path alone: proposals through Raft and RocksDB without HTTP, containers or actions around them. What
//! `./dev bench accept` shows beyond this is the price of everything else.
//!
//! `cargo bench -p benches --bench write_path [-- FOLDER]`; takes about 15 seconds.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use benches::{load::histogram, machine::Appends};
use node::{
    clock,
    cluster::{
        raft::{GroupTimers, Groups},
        session,
    },
};
use protocol::{
    Activation, ActivationId, ActivationStatus, EntityName, NodeId, RawJson, SessionId, ShardId,
    activation::Response,
    command::{Accept, Finish, ShardOp, ShardReply},
    entity::{Parameters, SemVer},
};
use raft_store::{MetaChange, Observer, Options, ShardChange, Store, Timers};

const WRITERS: [usize; 4] = [1, 16, 128, 512];
const MEASURE: Duration = Duration::from_secs(2);

struct NobodyListens;

impl Observer for NobodyListens {
    fn meta_applied(&self, _changes: &[MetaChange]) {}
    fn shard_applied(&self, _shard: ShardId, _changes: &[ShardChange]) {}
}

fn main() -> anyhow::Result<()> {
    let parent = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = tempfile::tempdir_in(parent.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut appends = Appends::open(&folder.path().join("appends"))?;
        appends.round(1_000)?;
        let append_us = appends.latency.value_at_quantile(0.5) as f64 / 1e3;
        println!("append 320 bytes, fdatasync: p50 {append_us:.0} us");
        let store = Store::open(&folder.path().join("store"), Options::default())?;
        let timers = GroupTimers { meta: Timers::META, shards: Timers::SHARD };
        let groups = Groups::start(NodeId(1), store, 8, timers, Arc::new(NobodyListens)).await?;
        let opened = session::open(&groups, "bench").await?;
        let namespace = EntityName::new("guest").context("guest is a name")?;
        for writers in WRITERS {
            measure(&groups, opened.session, &namespace, writers).await?;
        }
        groups.shutdown().await;
        Ok(())
    })
}

/// Each writer accepts an activation and finishes it, over and over; both are timed.
async fn measure(groups: &Groups, session: SessionId, namespace: &EntityName, writers: usize) -> anyhow::Result<()> {
    let latency = Arc::new(Mutex::new(histogram()));
    let until = Instant::now() + MEASURE;
    let before = groups.store().flush_stats();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (groups, namespace, latency) = (groups.clone(), namespace.clone(), latency.clone());
        tasks.spawn(async move {
            let shard = groups.shard_of(&namespace);
            let mut own = histogram();
            while Instant::now() < until {
                let [accept, finish] = operations(session, &namespace)?;
                for (op, expected) in [(accept, ShardReply::Accepted), (finish, ShardReply::Finished)] {
                    let start = Instant::now();
                    let reply = groups.propose_shard(shard, op).await?;
                    own.saturating_record(start.elapsed().as_nanos() as u64);
                    ensure!(reply == expected, "{reply:?} instead of {expected:?}");
                }
            }
            latency.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?.add(&own)?;
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let after = groups.store().flush_stats();
    let latency = latency.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
    let us = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{writers:>4} writers: {:>8.0} proposals/s, p50 {:>6.0} us, p99 {:>6.0} us, {:.1} proposals per sync",
        latency.len() as f64 / MEASURE.as_secs_f64(),
        us(0.5),
        us(0.99),
        latency.len() as f64 / (after.flushes - before.flushes).max(1) as f64,
    );
    Ok(())
}

/// An acceptance and its end, in the sizes that a no-op without parameters has.
fn operations(session: SessionId, namespace: &EntityName) -> anyhow::Result<[ShardOp; 2]> {
    let now_ms = clock::unix_ms();
    let id = ActivationId::new(now_ms);
    let record = Activation {
        namespace: namespace.clone(),
        name: EntityName::new("noop").context("noop is a name")?,
        version: SemVer::FIRST,
        subject: "guest".to_owned(),
        activation_id: id,
        cause: None,
        start_ms: now_ms,
        end_ms: Some(now_ms),
        duration_ms: Some(0),
        response: Response {
            status: ActivationStatus::Success,
            result: Some(RawJson::object([("ok", &RawJson::from(serde_json::json!(true)))])),
            size: Some(11),
        },
        logs: Vec::new(),
        annotations: Parameters::default(),
        publish: false,
        filter_name: "noop".into(),
    };
    let accept = Accept {
        owner: session,
        work: vec![b'w'; 250],
        if_lost: record.clone(),
        started: true,
        backlog_limit: 1_000_000,
    };
    let finish = Finish { session, record: record.into(), log_parts: 0, store: true };
    Ok([ShardOp::Accept(Arc::new(accept)), ShardOp::Finish(Arc::new(finish))])
}
