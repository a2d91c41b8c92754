//! The pools with real threads, actors and time, over a back end that counts.

use std::{
    collections::HashMap,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use prometheus_client::registry::Registry;
use protocol::{EntityName, EntityPath, FullyQualifiedName, Revision};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::timeout};

use super::{fake::Fake, *};
use crate::{
    containers::{StartKind, backend::simulated::SimulatedBackend},
    runtime::proxy_client::{Answer, AnswerBody, AnswerLimits, Endpoint, Observed, ProxyConnection},
};

/// Longer than anything here takes: whoever waits so long was forgotten.
const FOREVER: Duration = Duration::from_secs(60);

fn need(action: &str, memory_mb: u64) -> Need {
    let name = |text: &str| EntityName::new(text).expect("a legal name");
    let action = FullyQualifiedName::new(EntityPath::namespace(name("ns")), name(action));
    let key = PoolKey { namespace: name("guest"), action, revision: Revision(1) };
    Need { key, kind: "nodejs:20".into(), image: None, memory: ByteSize::mib(memory_mb), slots: 1 }
}

fn limits(memory_mb: u64) -> Limits {
    Limits { memory: ByteSize::mib(memory_mb), creations: 4, ..Limits::default() }
}

fn start_with(backend: impl Backend, limits: Limits, stem_cells: Vec<StemCell>) -> Pools {
    let prewarm_interval = Duration::from_millis(20);
    let config = PoolConfig { node: NodeId(7), limits, stem_cells, prewarm_interval, env: Vec::new() };
    let metrics = PoolMetrics::register(&mut Registry::default());
    Pools::start(config, Arc::new(backend), Handle::current(), metrics).expect("a thread for the actors")
}

fn start(fake: &Fake, limits: Limits) -> Pools {
    start_with(fake.clone(), limits, Vec::new())
}

async fn acquire(pools: &Pools, need: &Need) -> Lease {
    let acquired = timeout(FOREVER, pools.acquire(need.clone(), None)).await;
    acquired.expect("a waiter was forgotten").expect("a container")
}

fn give_back(mut lease: Lease) {
    lease.set_initialized();
    lease.give_back();
}

async fn until(pools: &Pools, what: &str, holds: impl Fn(&PoolReport) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds(&pools.report()) {
        assert!(Instant::now() < deadline, "{what} did not come about: {:#?}", pools.report());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn until_actors_left(pools: &Pools) {
    let deadline = Instant::now() + FOREVER;
    while pools.actors().count() > 0 {
        assert!(Instant::now() < deadline, "{} actors stay", pools.actors().count());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Shuts down and checks that nothing is left, here or in the back end.
async fn shut_down(pools: &Pools, fake: &Fake) {
    assert_eq!(pools.shutdown(FOREVER).await, 0);
    let report = pools.report();
    assert!(report.actions.is_empty(), "{report:#?}");
    assert_eq!(fake.counts.alive.load(SeqCst), 0, "a container leaked");
    assert_eq!(fake.counts.dropped.load(SeqCst), 0, "a container was dropped, not destroyed");
    assert_eq!(fake.counts.shutdowns.load(SeqCst), 1);
}

/// Random seeds, printed so that a failure can be repeated with `WHISP_SEED=n`.
fn seeds(count: u64) -> Vec<u64> {
    let given = std::env::var("WHISP_SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = match given {
        Some(seed) => vec![seed],
        None => (0..count).map(|_| rand::random()).collect(),
    };
    println!("seeds {seeds:?}");
    seeds
}

/// Cold, then warm from any thread, and gone with the last container: also the actor.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_started_once_and_taken_warm_from_any_thread() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(1024));
    assert!(pools.take_warm(&a.key).is_none());
    let lease = acquire(&pools, &a).await;
    assert_eq!((lease.start, lease.initialized), (StartKind::Cold, false));
    assert_eq!(lease.container.name(), "wsk7_0_guest_a");
    give_back(lease);
    let (other, key) = (pools.clone(), a.key.clone());
    let thread = std::thread::spawn(move || {
        let lease = other.take_warm(&key).expect("a warm one");
        assert_eq!((lease.start, lease.initialized), (StartKind::Warm, true));
        // Destroyed on a thread without a runtime.
        drop(lease);
    });
    thread.join().expect("no panic");
    until(&pools, "destruction", |report| report.memory_used == 0 && report.actions.is_empty()).await;
    until_actors_left(&pools).await;
    assert_eq!(fake.counts.created.load(SeqCst), 1);
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_its_code_is_not_given_back() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(1024));
    acquire(&pools, &a).await.give_back();
    assert!(pools.take_warm(&a.key).is_none());
    until(&pools, "destruction", |report| report.memory_used == 0).await;
    shut_down(&pools, &fake).await;
}

/// More callers than containers on one action: every return has to find its waiter.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost_under_contention() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(512));
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let (pools, a) = (pools.clone(), a.clone());
        callers.spawn(async move {
            for _ in 0..100 {
                let lease = match pools.take_warm(&a.key) {
                    Some(lease) => lease,
                    None => acquire(&pools, &a).await,
                };
                tokio::task::yield_now().await;
                give_back(lease);
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.expect("no caller failed");
    }
    let created = fake.counts.created.load(SeqCst);
    assert!(created <= 2, "{created} created where two fit and none was evicted");
    shut_down(&pools, &fake).await;
}

/// Six actions, two of which allow three activations in a container, in room for four containers: thousands of leases, hundreds of evictions, failures, cancellations and
/// deadlines, from many threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_leaks_and_memory_holds_under_chaos() {
    for seed in seeds(2) {
        let fake = Fake {
            create_takes: Duration::from_micros(300),
            destroy_takes: Duration::from_micros(300),
            ..Fake::default()
        };
        fake.switches.fail_every.store(23, SeqCst);
        let short = Limits {
            pause_grace: Some(Duration::from_millis(3)),
            idle_timeout: Duration::from_millis(5),
            ..limits(1024)
        };
        let pools = start(&fake, short);
        let in_use = Arc::new(Mutex::new(HashMap::new()));
        let served = Arc::new(AtomicUsize::new(0));
        let of = |n| {
            let slots = if n < 2 { 3 } else { 1 };
            Need { slots, ..need(&format!("a{n}"), if n % 2 == 0 { 128 } else { 512 }) }
        };
        let needs: Vec<Need> = (0..6).map(of).collect();
        let mut callers = JoinSet::new();
        for caller in 0..16 {
            let (pools, needs, in_use, served) = (pools.clone(), needs.clone(), in_use.clone(), served.clone());
            let mut random = StdRng::seed_from_u64(seed ^ caller);
            callers.spawn(async move {
                for _ in 0..200 {
                    let need = needs[random.random_range(0..needs.len())].clone();
                    let kind = random.random_range(0..10);
                    let patience = Duration::from_micros(random.random_range(0..3000));
                    let mut lease = match pools.take_warm(&need.key) {
                        Some(lease) => lease,
                        // Cancelled at some point.
                        None if kind == 0 => match timeout(patience, pools.acquire(need.clone(), None)).await {
                            Ok(Ok(lease)) => lease,
                            Ok(Err(AcquireError::Create(_))) | Err(_) => continue,
                            Ok(Err(error)) => panic!("{error}"),
                        },
                        None if kind == 1 => match pools.acquire(need.clone(), Some(Instant::now() + patience)).await {
                            Ok(lease) => lease,
                            Err(AcquireError::Create(_) | AcquireError::Deadline) => continue,
                            Err(error) => panic!("{error}"),
                        },
                        None => match timeout(FOREVER, pools.acquire(need.clone(), None)).await {
                            Ok(Ok(lease)) => lease,
                            Ok(Err(AcquireError::Create(_))) => continue,
                            Ok(Err(error)) => panic!("{error}"),
                            Err(_) => panic!("a waiter was forgotten: {:#?}", pools.report()),
                        },
                    };
                    let name = lease.container.name().to_owned();
                    assert!(name.ends_with(need.key.action.name.as_str()), "{name} is of another action");
                    let users = {
                        let mut in_use = in_use.lock();
                        let users: &mut usize = in_use.entry(name.clone()).or_default();
                        *users += 1;
                        *users
                    };
                    assert!(users <= need.slots, "{name} is leased {users} times");
                    assert!(users == 1 || lease.initialized, "{name} is being initialized for another");
                    served.fetch_add(1, SeqCst);
                    if random.random_bool(0.5) {
                        lease.set_initialized();
                    }
                    match random.random_range(0..20) {
                        0 => tokio::time::sleep(Duration::from_micros(500)).await,
                        1..10 => tokio::task::yield_now().await,
                        _ => {}
                    }
                    *in_use.lock().get_mut(&name).expect("it is in use") -= 1;
                    if random.random_range(0..20) == 0 { lease.destroy() } else { give_back(lease) }
                }
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller.expect("no caller failed");
        }
        let evictions = pools.inner.metrics.evictions.get();
        let most = fake.counts.most_bytes.load(SeqCst) >> 20;
        println!("seed {seed}: {} served, {evictions} evictions, at most {most} MB", served.load(SeqCst));
        assert!(served.load(SeqCst) > 2000, "hardly anyone was served");
        assert!(evictions > 200, "{evictions} evictions exercise little");
        assert!(most <= 1024, "{most} MB were occupied");
        until(&pools, "idleness", |report| report.actions.is_empty() && report.memory_used == 0).await;
        until_actors_left(&pools).await;
        // Of failed creations.
        fake.counts.dropped.store(0, SeqCst);
        shut_down(&pools, &fake).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_callers_leave_the_queue_and_their_containers_to_others() {
    let fake = Fake { create_takes: Duration::from_millis(5), ..Fake::default() };
    let a = need("a", 256);
    let pools = start(&fake, limits(256));
    for _ in 0..50 {
        let mut callers: Vec<_> = (0..8)
            .map(|_| {
                let (pools, a) = (pools.clone(), a.clone());
                tokio::spawn(async move { pools.acquire(a, None).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let last = callers.pop().expect("eight of them");
        callers.iter().for_each(|caller| caller.abort());
        for caller in callers {
            // One that was faster than its cancellation.
            if let Ok(Ok(lease)) = caller.await {
                give_back(lease);
            }
        }
        let lease = timeout(FOREVER, last).await.expect("the last is served").expect("no panic");
        give_back(lease.expect("a container"));
    }
    until(&pools, "an empty queue", |report| report.actions.iter().all(|action| action.waiters + action.busy == 0))
        .await;
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_wait_and_only_that() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(256));
    let lease = acquire(&pools, &a).await;
    let asked = Instant::now();
    let result = pools.acquire(a.clone(), Some(asked + Duration::from_millis(30))).await;
    assert!(matches!(result, Err(AcquireError::Deadline)), "{result:?}");
    assert!(asked.elapsed() >= Duration::from_millis(30));
    assert_eq!(pools.report().run_buffer, 0);
    give_back(lease);
    assert!(pools.take_warm(&a.key).is_some(), "nobody waits any more");
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_to_create_reach_one_caller_each() {
    let (fake, a) = (Fake::default(), need("a", 128));
    fake.switches.fail_every.store(2, SeqCst);
    let pools = start(&fake, limits(1024));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (pools, a) = (pools.clone(), a.clone());
        callers.spawn(async move { pools.acquire(a, None).await });
    }
    let mut leases = Vec::new();
    let mut failures = 0;
    while let Some(result) = callers.join_next().await {
        match result.expect("no panic") {
            Ok(lease) => leases.push(lease),
            Err(AcquireError::Create(CreateError::Platform(text))) => {
                assert!(text.ends_with("failed"), "{text}");
                failures += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((leases.len(), failures), (4, 4));
    drop(leases);
    until(&pools, "destruction", |report| report.memory_used == 0).await;
    fake.counts.dropped.store(0, SeqCst);
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_panics_costs_no_memory_and_no_caller_hangs() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(256));
    fake.switches.panic_in_create.store(true, SeqCst);
    let result = timeout(FOREVER, pools.acquire(a.clone(), None)).await.expect("an answer");
    assert!(matches!(result, Err(AcquireError::Create(CreateError::Platform(_)))), "{result:?}");
    fake.switches.panic_in_create.store(false, SeqCst);
    fake.switches.panic_in_destroy.store(true, SeqCst);
    acquire(&pools, &a).await.destroy();
    drop(acquire(&pools, &a).await);
    until(&pools, "destruction", |report| report.memory_used == 0).await;
    fake.counts.dropped.store(0, SeqCst);
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_containers_are_paused_resumed_and_removed_in_time() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let short = Limits {
        pause_grace: Some(Duration::from_millis(20)),
        idle_timeout: Duration::from_millis(300),
        ..limits(1024)
    };
    let pools = start(&fake, short);
    give_back(acquire(&pools, &a).await);
    until(&pools, "the pause", |report| report.actions.first().is_some_and(|action| action.paused == 1)).await;
    assert!(pools.take_warm(&a.key).is_none());
    let lease = acquire(&pools, &a).await;
    assert_eq!((lease.start, lease.initialized), (StartKind::Warm, true));
    assert_eq!(fake.counts.resumed.load(SeqCst), 1);
    give_back(lease);
    until(&pools, "removal", |report| report.actions.is_empty() && report.memory_used == 0).await;
    assert_eq!(fake.counts.created.load(SeqCst), 1);

    // What cannot be resumed is destroyed, and the caller gets another.
    give_back(acquire(&pools, &a).await);
    until(&pools, "the pause", |report| report.actions.first().is_some_and(|action| action.paused == 1)).await;
    fake.switches.fail_resume.store(true, SeqCst);
    let lease = acquire(&pools, &a).await;
    assert_eq!((lease.start, fake.counts.created.load(SeqCst)), (StartKind::Cold, 3));

    // What cannot be paused is destroyed.
    fake.switches.fail_pause.store(true, SeqCst);
    give_back(lease);
    until(&pools, "destruction", |report| report.actions.is_empty() && report.memory_used == 0).await;
    shut_down(&pools, &fake).await;
}

/// Several handles, one container: it is paused, resumed and destroyed once, when nobody is in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_container_lives_and_ends_as_one() {
    let (fake, a) = (Fake::default(), Need { slots: 2, ..need("a", 256) });
    let short = Limits { pause_grace: Some(Duration::from_millis(20)), ..limits(256) };
    let pools = start(&fake, short);
    let mut first = acquire(&pools, &a).await;
    let waiting = tokio::spawn({
        let (pools, a) = (pools.clone(), a.clone());
        async move { acquire(&pools, &a).await }
    });
    until(&pools, "the second's wait", |report| report.actions.first().is_some_and(|a| a.waiters == 1)).await;
    first.set_initialized();
    let second = waiting.await.expect("no panic");
    assert_eq!((second.start, second.initialized), (StartKind::Warm, true));
    assert_eq!(first.container.name(), second.container.name());
    assert!(pools.take_warm(&a.key).is_none(), "it is full");
    first.give_back();
    assert_eq!(pools.report().actions[0].busy, 1, "one is still in it");
    let third = pools.take_warm(&a.key).expect("room");
    second.give_back();
    third.give_back();
    until(&pools, "the pause", |report| report.actions.first().is_some_and(|action| action.paused == 1)).await;
    let (first, second) = (acquire(&pools, &a).await, acquire(&pools, &a).await);
    assert_eq!((fake.counts.resumed.load(SeqCst), fake.counts.created.load(SeqCst)), (1, 1));

    // Unfit for one of them: the other stays, and it is gone afterwards.
    first.destroy();
    assert!(pools.take_warm(&a.key).is_none(), "it takes nobody any more");
    assert_eq!(fake.counts.alive.load(SeqCst), 1);
    second.give_back();
    until(&pools, "destruction", |report| report.memory_used == 0).await;
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_and_needs_beyond_the_node_are_refused() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, Limits { run_buffer: 1, ..limits(256) });
    let too_large = pools.acquire(need("b", 512), None).await.expect_err("it cannot fit");
    assert_eq!(
        too_large.to_string(),
        "a container of 512 MB cannot run on this node, which has 256 MB at most for one"
    );
    let lease = acquire(&pools, &a).await;
    let mut waiting = pin!(pools.acquire(a.clone(), None));
    assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    until(&pools, "a waiter", |report| report.run_buffer == 1).await;
    let full = pools.acquire(a.clone(), None).await.expect_err("one may wait");
    assert_eq!(full.to_string(), "the node's queue for containers is full");
    give_back(lease);
    drop(timeout(FOREVER, waiting).await.expect("it is served").expect("a container"));
    shut_down(&pools, &fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_refuses_new_work_and_waits_for_the_rest() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(256));
    let lease = acquire(&pools, &a).await;
    let (queued, key) = (pools.clone(), a.clone());
    let queued = tokio::spawn(async move { queued.acquire(key, None).await });
    until(&pools, "a waiter", |report| report.run_buffer == 1).await;
    assert_eq!(pools.drain(Duration::from_millis(5)).await, 2, "one lease and one waiter");
    assert!(matches!(pools.acquire(a.clone(), None).await, Err(AcquireError::ShuttingDown)));
    let draining = pools.clone();
    let drained = tokio::spawn(async move { draining.drain(FOREVER).await });
    give_back(lease);
    give_back(queued.await.expect("no panic").expect("who waited before the drain is served"));
    assert_eq!(drained.await.expect("no panic"), 0);
    shut_down(&pools, &fake).await;
    assert!(matches!(pools.acquire(a, None).await, Err(AcquireError::ShuttingDown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_takes_back_leases_and_refuses_waiters() {
    let (fake, a) = (Fake::default(), need("a", 256));
    let pools = start(&fake, limits(256));
    let lease = acquire(&pools, &a).await;
    let (queued, key) = (pools.clone(), a.clone());
    let queued = tokio::spawn(async move { queued.acquire(key, None).await });
    until(&pools, "a waiter", |report| report.run_buffer == 1).await;
    let closing = pools.clone();
    let closed = tokio::spawn(async move { closing.shutdown(FOREVER).await });
    assert!(matches!(queued.await.expect("no panic"), Err(AcquireError::ShuttingDown)));
    give_back(lease);
    assert_eq!(closed.await.expect("no panic"), 0);
    assert_eq!(fake.counts.alive.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stem_cells_are_used_and_replaced() {
    let fake = Fake::default();
    let cells = vec![StemCell { kind: "nodejs:20".into(), memory: ByteSize::mib(256), count: 2, reactive: None }];
    let pools = start_with(fake.clone(), limits(2048), cells);
    until(&pools, "stem cells", |report| report.prewarmed[0].ready == 2).await;
    let lease = acquire(&pools, &need("a", 256)).await;
    assert_eq!((lease.start, lease.initialized), (StartKind::Prewarmed, false));
    assert!(lease.container.name().ends_with("_prewarm_nodejs20"), "{}", lease.container.name());
    until(&pools, "a new stem cell", |report| report.prewarmed[0].ready == 2).await;
    assert_eq!(acquire(&pools, &need("b", 128)).await.start, StartKind::Cold);
    drop(lease);
    shut_down(&pools, &fake).await;
}

/// Posts `body` and returns the answer, connecting first if need be.
async fn call(lease: &mut Lease, endpoint: Endpoint, body: &str) -> Option<String> {
    let Live { container, connection, .. } = &mut **lease;
    if connection.is_none() {
        let opened = container.connect().await.expect("a connection");
        *connection = Some(ProxyConnection::new(opened).expect("a connection"));
    }
    let connection = connection.as_mut().expect("it was just opened");
    let called = connection.call(endpoint, body.as_bytes(), FOREVER, AnswerLimits::default()).await;
    match called.observed {
        Observed::Answer(Answer { status: 200, body: AnswerBody::Whole(body) }) => String::from_utf8(body).ok(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_keeps_its_code_over_a_pause() {
    let simulated = SimulatedBackend::default();
    let short = Limits { pause_grace: Some(Duration::from_millis(20)), ..limits(512) };
    let (pools, a) = (start_with(simulated.clone(), short, Vec::new()), need("a", 256));
    let mut lease = acquire(&pools, &a).await;
    call(&mut lease, Endpoint::Init, r#"{"value":{"name":"a","main":"main","code":"echo","binary":false}}"#).await;
    assert_eq!(call(&mut lease, Endpoint::Run, r#"{"value":{"n":1}}"#).await.as_deref(), Some(r#"{"n":1}"#));
    give_back(lease);
    let mut lease = pools.take_warm(&a.key).expect("a warm one");
    assert!(lease.connection.is_some(), "the connection stays open between calls");
    assert_eq!(call(&mut lease, Endpoint::Run, r#"{"value":{"n":2}}"#).await.as_deref(), Some(r#"{"n":2}"#));
    give_back(lease);
    until(&pools, "the pause", |report| report.actions.first().is_some_and(|action| action.paused == 1)).await;
    let mut lease = acquire(&pools, &a).await;
    assert_eq!((lease.start, lease.initialized), (StartKind::Warm, true));
    assert!(lease.connection.is_none(), "it was closed for the pause");
    assert_eq!(call(&mut lease, Endpoint::Run, r#"{"value":{"n":3}}"#).await.as_deref(), Some(r#"{"n":3}"#));
    give_back(lease);
    assert_eq!(simulated.created(), 1);
    assert_eq!(pools.shutdown(FOREVER).await, 0);
    assert_eq!(simulated.alive(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_back_end_is_left_empty() {
    let simulated = SimulatedBackend::default();
    let pools = start_with(simulated.clone(), limits(512), Vec::new());
    for round in 0..20 {
        let lease = acquire(&pools, &need(&format!("a{}", round % 4), 256)).await;
        give_back(lease);
    }
    assert_eq!(simulated.created(), 20, "two of four fit, used in turns");
    assert_eq!(pools.shutdown(FOREVER).await, 0);
    assert_eq!(simulated.alive(), 0);
}
