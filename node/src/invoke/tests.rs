//! Invocations on a node without its HTTP side: containers are simulated, and the disk does what a test says.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::registry::Registry;
use protocol::{
    Activation, ByteSize, EntityName, FullyQualifiedName, NodeId, RawJson, ShardId, TransactionId,
    command::{ShardOp, ShardReply},
    entity::{ExecBody, action::ActionContent, exec::CodeBody},
    identity::Identity,
    limits::SystemLimits,
};
use raft_store::{ActivationQuery, MetaChange, Observer, Options, ShardChange, Store, Timers};
use serde_json::json;
use tokio::{runtime::Handle, time::Instant};

use super::*;
use crate::{
    activations::query::Activations,
    auth::{DataKey, Directory},
    cluster::{raft::GroupTimers, session},
    config::StoreLevel,
    containers::{
        PoolConfig,
        backend::simulated::{SimulatedBackend, SimulatedConfig},
        metrics::PoolMetrics,
        pool_state::Limits,
    },
    entities::{EntityCaches, actions::PutAction, code::Blobs, encryption::Keyring, kinds::Kinds, manifest::Manifest},
};

/// Patience with what has to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory of one container.
const ONE: ByteSize = ByteSize::mib(256);

struct Caches(Arc<EntityCaches>);

impl Observer for Caches {
    fn meta_applied(&self, changes: &[MetaChange]) {
        self.0.meta_applied(changes);
    }

    fn shard_applied(&self, _: ShardId, _: &[ShardChange]) {}
}

struct Rig {
    invoker: Invoker,
    backend: SimulatedBackend,
    /// While true, the disk does not answer.
    stalled: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// A node with one shard and memory for so many containers of the standard size.
    async fn start(containers: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options::default();
        let stalled = Arc::clone(&options.faults.stalled);
        let backend = SimulatedBackend::new(SimulatedConfig::default());
        let invoker = invoker(dir.path(), options, &backend, containers).await;
        Self { invoker, backend, stalled, _dir: dir }
    }

    fn parts(&self) -> &Parts {
        &self.invoker.0.parts
    }

    /// An action whose runs take `ms`.
    async fn action(&self, name: &str, ms: u64) -> Arc<ResolvedAction> {
        let code = json!({ "run": { "after_ms": ms } }).to_string();
        let code = CodeBody { sent: code.len() as u64, bytes: code.into(), binary: false };
        let exec = ExecBody::Managed { kind: "nodejs:20".into(), main: None, code };
        let content = ActionContent { exec: Some(exec), ..ActionContent::default() };
        let put = PutAction { overwrite: true, content, settings: Default::default() };
        let name = FullyQualifiedName::parse(&format!("guest/{name}")).expect("a name");
        self.parts().entities.put_action(name.clone(), put).await.expect("it is written");
        self.parts().entities.resolve(&guest(), &name).await.expect("it is there")
    }

    fn invocation(&self, action: &Arc<ResolvedAction>, blocking: Option<Duration>) -> Invocation {
        let identity = Identity { subject: "guest".into(), namespace: guest(), uuid: "uuid".into() };
        Invocation {
            identity: Arc::new(identity),
            action: Arc::clone(action),
            arguments: RawJson::empty_object(),
            init_env: Vec::new(),
            blocking,
            transaction_id: TransactionId("t".into()),
            received_ms: clock::unix_ms(),
            extra_logging: false,
        }
    }

    /// Invokes without waiting for the result.
    async fn accept(&self, action: &Arc<ResolvedAction>) -> Result<ActivationId, InvokeError> {
        match self.invoker.invoke(self.invocation(action, None)).await? {
            Invoked::Accepted(id) => Ok(id),
            Invoked::Done(record) => panic!("it was not to be waited for: {record:?}"),
        }
    }

    async fn records(&self) -> Vec<Activation> {
        let activations = Activations::new(self.parts().groups.clone());
        activations.summaries(&guest(), ActivationQuery::default(), 0, 1000).await.expect("they can be read")
    }

    fn backlog(&self) -> u32 {
        let groups = &self.parts().groups;
        groups.store().shard(groups.shard_of(&guest())).backlog(&guest()).expect("it can be read")
    }

    async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(Instant::now() < deadline, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.parts().pools.shutdown(PATIENCE).await;
        self.parts().groups.shutdown().await;
    }
}

impl Drop for Rig {
    /// A test that fails while the disk is stalled ends all the same.
    fn drop(&mut self) {
        self.stalled.store(false, Ordering::SeqCst);
    }
}

async fn invoker(dir: &Path, options: Options, backend: &SimulatedBackend, containers: u64) -> Invoker {
    let store = Store::open(&dir.join("store"), options).expect("a fresh store");
    let directory = Arc::new(Directory::load(store.meta()).expect("an empty directory"));
    let caches = Arc::new(EntityCaches::default());
    let timers = GroupTimers { meta: Timers::META, shards: Timers::SHARD };
    let groups = Groups::start(NodeId(1), store, 1, timers, Arc::new(Caches(Arc::clone(&caches)))).await;
    let groups = groups.expect("the groups start");
    let session = session::open(&groups, "one").await.expect("a session").session;
    let kinds = Kinds::new(&Manifest::upstream(), &["nodejs:20".to_owned()]);
    let blobs = Blobs::open(dir.join("blobs")).expect("a folder for code");
    let entities = Entities::new(groups.clone(), caches, kinds, SystemLimits::default(), blobs, Keyring::default());
    let pool_config = PoolConfig {
        node: NodeId(1),
        limits: Limits { memory: ByteSize(containers * ONE.bytes()), ..Limits::default() },
        stem_cells: Vec::new(),
        prewarm_interval: Duration::MAX,
        env: Vec::new(),
    };
    let mut registry = Registry::default();
    let metrics = PoolMetrics::register(&mut registry);
    let pools = Pools::start(pool_config, Arc::new(backend.clone()), Handle::current(), metrics);
    let config = InvokeConfig {
        backlog_limit: 1000,
        store_blocking: StoreLevel::StoreAlways,
        store_accepted: StoreLevel::StoreAlways,
        log_unstored: false,
    };
    Invoker::new(Parts {
        config,
        session,
        entities,
        keys: Arc::new(Authenticator::new(directory, DataKey::of(&[0; 32]), 0)),
        pools: pools.expect("a thread for the actors"),
        records: Records::new(groups.clone(), session),
        metrics: ActivationMetrics::register(&mut registry),
        groups,
        background: Handle::current(),
    })
}

fn guest() -> EntityName {
    EntityName::new("guest").expect("a name")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_recorded_in_time_is_withdrawn() {
    let rig = Rig::start(2).await;
    let action = rig.action("quick", 0).await;
    for round in 1..=2 {
        // The second time a container is warm, and accepting would have started it at once.
        rig.stalled.store(true, Ordering::SeqCst);
        let asked = Instant::now();
        let refused = rig.accept(&action).await;
        assert!(matches!(refused, Err(InvokeError::NotRecorded(_))), "{refused:?}");
        assert!(asked.elapsed() < Duration::from_secs(3), "refused after {:?}", asked.elapsed());
        rig.stalled.store(false, Ordering::SeqCst);

        // All that waits is committed before this one.
        let id = rig.accept(&action).await.expect("the disk is well again");
        rig.until("the record of what was accepted", async |rig| {
            rig.records().await.iter().any(|record| record.activation_id == id)
        })
        .await;
        rig.until("the refused one does not count any more", async |rig| rig.backlog() == 0).await;
        assert_eq!((rig.backend.runs(), rig.records().await.len()), (round, round), "the refused one never ran");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_does_not_take_the_work_along() {
    let rig = Rig::start(1).await;
    let action = rig.action("slow", 300).await;
    let call = rig.invoker.invoke(rig.invocation(&action, Some(PATIENCE)));
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err(), "the call was dropped in the middle");
    rig.until("the record of the dropped call", async |rig| rig.records().await.len() == 1).await;
    assert_eq!(rig.records().await[0].response.status, ActivationStatus::Success);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_work_that_takes_long_gets_more_containers() {
    let rig = Rig::start(8).await;
    let slow = rig.action("slow", 3000).await;
    for _ in 0..8 {
        rig.accept(&slow).await.expect("it is accepted");
    }
    rig.until("all to run", async |rig| rig.backend.runs() == 8).await;
    assert!(rig.records().await.is_empty(), "they ran one after another");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_work_runs_only_if_its_start_is_granted() {
    let rig = Rig::start(1).await;
    let slow = rig.action("slow", 1000).await;
    let blocking = tokio::spawn({
        let (invoker, call) = (rig.invoker.clone(), rig.invocation(&slow, Some(PATIENCE)));
        async move { invoker.invoke(call).await }
    });
    rig.until("the container to be busy", async |rig| rig.backend.runs() == 1).await;
    let quick = rig.action("quick", 0).await;
    rig.accept(&quick).await.expect("it waits for the container");
    // The cluster takes this node for gone, and gives its work to others.
    let (groups, session) = (&rig.parts().groups, rig.parts().session);
    let fence = ShardOp::Fence { session, node_name: "one".into() };
    groups.propose_shard(groups.shard_of(&guest()), fence).await.expect("it is fenced");
    blocking.await.expect("no panic").expect("its caller has an answer all the same");
    rig.until("nothing to be under way", async |rig| rig.invoker.running() == 0).await;
    assert_eq!(rig.backend.runs(), 1, "work of another session was run");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_starts_no_containers_for_what_stays_in_its_shard() {
    let rig = Rig::start(1).await;
    // Longer than what follows takes on a busy machine.
    let slow = rig.action("slow", 3000).await;
    rig.accept(&slow).await.expect("it is accepted");
    rig.until("the container to be busy", async |rig| rig.backend.runs() == 1).await;
    let mut waiting = 0;
    for name in ["a", "b", "c"] {
        let action = rig.action(name, 0).await;
        for _ in 0..5 {
            rig.accept(&action).await.expect("it is accepted");
            waiting += 1;
        }
    }
    rig.invoker.stop_placing();
    tokio::time::timeout(PATIENCE, rig.invoker.drained()).await.expect("what runs ends");
    assert_eq!((rig.backend.created(), rig.backend.runs()), (1, 1));
    assert_eq!((rig.records().await.len(), rig.backlog()), (1, waiting), "the rest is for the next process");
    let refused = rig.accept(&slow).await;
    assert!(matches!(refused, Err(InvokeError::Stopping)), "{refused:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_records_of_calls_that_were_answered() {
    let rig = Rig::start(1).await;
    let action = rig.action("quick", 0).await;
    rig.stalled.store(true, Ordering::SeqCst);
    let answer = rig.invoker.invoke(rig.invocation(&action, Some(PATIENCE))).await.expect("it needs no disk");
    assert!(matches!(answer, Invoked::Done(_)), "{answer:?}");
    rig.until("nothing to be under way", async |rig| rig.invoker.running() == 0).await;
    let drained = tokio::time::timeout(Duration::from_millis(300), rig.invoker.drained()).await;
    assert!(drained.is_err(), "a node that stops now loses the record");
    rig.stalled.store(false, Ordering::SeqCst);
    rig.invoker.drained().await;
    assert_eq!(rig.records().await.len(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_wait_are_bounded_by_their_bytes() {
    let rig = Rig::start(1).await;
    let action = rig.action("quick", 0).await;
    let small = match rig.invoker.invoke(rig.invocation(&action, Some(PATIENCE))).await.expect("it runs") {
        Invoked::Done(record) => Arc::unwrap_or_clone(record),
        Invoked::Accepted(id) => panic!("{id} was waited for"),
    };
    let large = Activation { logs: vec!["l".repeat(1 << 20); 40], ..small.clone() };
    let records = &rig.parts().records;
    let first = records.place(&large, false).await;
    let second = records.place(&large, false);
    assert!(tokio::time::timeout(Duration::from_millis(50), second).await.is_err(), "80 MiB do not wait");
    let beside = tokio::time::timeout(PATIENCE, records.place(&small, false)).await;
    assert!(beside.is_ok(), "but small ones do beside it");
    drop((first, beside));
    drop(tokio::time::timeout(PATIENCE, records.place(&large, false)).await.expect("the first one is written"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_as_soon_as_it_is_accepted_is_started_by_the_same_command() {
    let rig = Rig::start(1).await;
    let action = rig.action("any", 0).await;
    rig.invoker.invoke(rig.invocation(&action, Some(PATIENCE))).await.expect("it runs, and leaves a warm container");
    rig.until("the container to be free", async |rig| rig.invoker.running() == 0).await;
    let mut held = rig.invocation(&action, None);
    held.arguments = RawJson::from(json!({ "simulate": { "after_ms": 500 } }));
    rig.invoker.invoke(held).await.expect("it is accepted");
    rig.until("it to run", async |rig| rig.backend.runs() == 2).await;
    let (groups, session) = (&rig.parts().groups, rig.parts().session);
    let fence = ShardOp::Fence { session, node_name: "one".into() };
    let fenced = groups.propose_shard(groups.shard_of(&guest()), fence).await.expect("it is fenced");
    assert_eq!(fenced, ShardReply::Fenced { taken_back: 0, lost: 1 }, "another session would run it again");
    rig.until("nothing to be under way", async |rig| rig.invoker.running() == 0).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopping_node_cuts_off_is_not_the_actions_fault() {
    let rig = Rig::start(1).await;
    let action = rig.action("any", 0).await;
    let mut cut_off = rig.invocation(&action, None);
    cut_off.arguments = RawJson::from(json!({ "simulate": { "after_ms": 300, "then": "exit" } }));
    rig.invoker.invoke(cut_off).await.expect("it is accepted");
    rig.until("it to run", async |rig| rig.backend.runs() == 1).await;
    rig.parts().pools.shutdown(Duration::ZERO).await;
    rig.until("its record", async |rig| rig.records().await.len() == 1).await;
    assert_eq!(rig.records().await[0].response.status, ActivationStatus::WhiskError);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_into_no_container_ends_in_a_record_that_says_so() {
    let rig = Rig::start(0).await;
    let action = rig.action("any", 0).await;
    let Ok(Invoked::Done(told)) = rig.invoker.invoke(rig.invocation(&action, Some(PATIENCE))).await else {
        panic!("trying again would not help")
    };
    assert_eq!(told.response.status, ActivationStatus::WhiskError);
    rig.accept(&action).await.expect("it is accepted");
    rig.until("both records", async |rig| rig.records().await.len() == 2).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_its_activation_in_a_record_and_nothing_else() {
    let rig = Rig::start(1).await;
    let action = rig.action("any", 0).await;
    rig.backend.panic_once();
    rig.accept(&action).await.expect("it is accepted");
    rig.until("its record", async |rig| rig.records().await.len() == 1).await;
    assert_eq!(rig.records().await[0].response.status, ActivationStatus::WhiskError);
    rig.backend.panic_once();
    let mut waited_for = Vec::new();
    for _ in 0..2 {
        match rig.invoker.invoke(rig.invocation(&action, Some(PATIENCE))).await {
            Ok(Invoked::Done(record)) => waited_for.push(record.response.status),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waited_for, [ActivationStatus::WhiskError, ActivationStatus::Success]);
    rig.until("no container of a panic to be left", async |rig| rig.backend.alive() == 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_in_memory_are_bounded_by_their_bytes() {
    let rig = Rig::start(1).await;
    let action = rig.action("any", 0).await;
    let with = |bytes: usize, blocking| {
        let mut call = rig.invocation(&action, blocking);
        call.arguments = RawJson::from(json!({ "text": "x".repeat(bytes) }));
        rig.invoker.invoke(call)
    };
    let others = Arc::clone(&rig.invoker.0.arguments).try_acquire_many_owned((ARGUMENT_BYTES - (64 << 10)) as u32);
    for blocking in [None, Some(PATIENCE)] {
        let refused = with(100 << 10, blocking).await;
        assert!(matches!(refused, Err(InvokeError::Overloaded)), "{refused:?}");
        with(UNCOUNTED / 2, blocking).await.expect("little is not counted");
        // One after another there is room for any number.
        for _ in 0..3 {
            with(40 << 10, blocking).await.expect("there is room for one");
        }
    }
    drop(others.expect("nobody else has any"));
    with(100 << 10, None).await.expect("there is room again");
    rig.stop().await;
}
