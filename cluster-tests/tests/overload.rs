//! Ten times the load that a node can take, offered whether or not it answers: it goes on at its own pace, says why it
//! refuses, keeps its memory, and is itself again as soon as the load is over.
//!
//! What is invoked takes a fixed time and no processor, so that the node's capacity is known: it is that of its containers.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use cluster_tests::{
    client::{ActionOptions, Api, Reply},
    node::{Options, TestNode, program},
    proc, wait,
};
use serde_json::json;

/// Containers that have memory, and how long each activation takes one.
const CONTAINERS: u64 = 4;
const TAKES_MS: u64 = 200;
/// Activations a second.
const CAPACITY: u64 = CONTAINERS * 1000 / TAKES_MS;
const OFFERED: u64 = 10 * CAPACITY;
const LOAD: Duration = Duration::from_secs(4);
/// Callers that may wait: five seconds of work.
const RUN_BUFFER: usize = 100;
/// Accepted work that may wait.
const BACKLOG: u64 = 40;
/// Most resident memory that the node may gain, bytes.
const GROWTH: u64 = 100 << 20;
/// The node is itself again this long after the load.
const RECOVERY: Duration = Duration::from_secs(2);

const BUSY: &str = "System is overloaded, try again later.";

#[test]
fn a_node_with_processes_holds_under_ten_times_its_load() {
    overload("process", &format!("const main = () => new Promise(done => setTimeout(() => done({{}}), {TAKES_MS}))"));
}

#[test]
fn a_node_with_simulated_containers_holds_under_ten_times_its_load() {
    overload("simulated", &json!({ "run": { "after_ms": TAKES_MS } }).to_string());
}

/// A request of the load, and its answer.
struct Answered {
    blocking: bool,
    reply: Reply,
}

fn overload(backend: &'static str, code: &str) {
    let options = Options {
        memory: "512MB",
        backend,
        config: format!(
            "containers = {{ prewarm = [], run_buffer = {RUN_BUFFER} }}\nactivations = {{ backlog = {BACKLOG} }}\n"
        ),
        ..Options::default()
    };
    let mut node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
    let api = node.api();
    let limits = ActionOptions { memory_mb: Some(512 / CONTAINERS), ..ActionOptions::default() };
    api.put_action("steady", "nodejs:default", code, limits);
    warm_up(&api);
    let usual = calls(&api);
    let memory = proc::resident(node.pid());

    let answers = Arc::new(Mutex::new(Vec::new()));
    let (began, served_before) = (Instant::now(), served(&node));
    let mut callers = Vec::new();
    let mut peak = 0;
    for index in 0..OFFERED * LOAD.as_secs() {
        thread::sleep(
            (began + Duration::from_secs(1) * index as u32 / OFFERED as u32).saturating_duration_since(Instant::now()),
        );
        let (api, answers) = (api.clone(), Arc::clone(&answers));
        // Of four, one does not wait for its result.
        let blocking = index % 4 != 0;
        callers.push(thread::spawn(move || {
            let url = if blocking { "/actions/steady?blocking=true" } else { "/actions/steady" };
            let reply = api.post(url, &json!({ "n": index }));
            answers.lock().expect("nobody panics").push(Answered { blocking, reply });
        }));
        if index % OFFERED == 0 {
            peak = peak.max(proc::resident(node.pid()));
        }
    }
    let (over, served_under_load) = (Instant::now(), served(&node) - served_before);
    peak = peak.max(proc::resident(node.pid()));

    // As many callers as before the load.
    thread::sleep((over + RECOVERY).saturating_duration_since(Instant::now()));
    let waiting = callers.iter().filter(|caller| !caller.is_finished()).count();
    let after = calls(&api);

    let refused = |answers: &[Answered], status| answers.iter().filter(|answer| answer.reply.status == status).count();
    callers.into_iter().for_each(|caller| caller.join().expect("every request is answered"));
    let answers = Arc::into_inner(answers).expect("all callers ended").into_inner().expect("nobody panicked");
    eprintln!(
        "{backend}: {served_under_load} served in {:?}, {} refused with 503 and {} with 429; {usual:?} before, {after:?} \
         after, with {waiting} waiting; {} MiB at most, {} before",
        over - began,
        refused(&answers, 503),
        refused(&answers, 429),
        peak >> 20,
        memory >> 20
    );
    answers.iter().for_each(Answered::check);
    assert!(refused(&answers, 503) > 0 && refused(&answers, 429) > 0, "this was no overload");
    // A machine that has much else to do gives the node, and who loads it, a part of the time.
    let possible = CAPACITY as f64 * (over - began).as_secs_f64();
    assert!(served_under_load > possible / 3.0, "{served_under_load} of {possible} that can be served");
    assert!(peak < memory + GROWTH, "{} MiB, {} before", peak >> 20, memory >> 20);
    // Those who wait still would be before who comes now.
    assert!(waiting > RUN_BUFFER / 4, "only {waiting} still wait: there is nothing to stand behind");
    assert!(after < usual * 4 + Duration::from_millis(500), "{usual:?} before, {after:?} after");

    // All that was accepted has one record, and nothing else waits.
    let accepted: Vec<_> = answers.iter().filter(|answer| answer.reply.status == 202).collect();
    for answer in accepted {
        let record = api.record(&answer.reply.activation_id(), Duration::from_secs(30));
        assert_eq!(record["response"]["success"], true, "{record}");
    }
    wait::until(Duration::from_secs(30), "nobody to wait", || node.status()["containers"]["run_buffer"] == 0);
    node.stop();
}

/// As many containers as there are, by as many calls at once.
fn warm_up(api: &Api) {
    thread::scope(|scope| {
        for _ in 0..2 * CONTAINERS {
            scope.spawn(|| api.invoke("steady", &json!({})).expect(200));
        }
    });
}

/// The median time of five calls at once.
fn calls(api: &Api) -> Duration {
    let call = || {
        let began = Instant::now();
        api.invoke("steady", &json!({})).expect(200);
        began.elapsed()
    };
    thread::scope(|scope| {
        let calls: Vec<_> = (0..5).map(|_| scope.spawn(call)).collect();
        let mut times: Vec<_> = calls.into_iter().map(|call| call.join().expect("it is answered")).collect();
        times.sort_unstable();
        times[times.len() / 2]
    })
}

/// Activations that had a container.
fn served(node: &TestNode) -> f64 {
    node.metric("node_container_starts_total")
}

impl Answered {
    /// # Panics
    /// If it is not explained.
    fn check(&self) {
        let text = self.reply.json()["error"].as_str().unwrap_or_default().to_owned();
        let explained = match (self.blocking, self.reply.status) {
            (true, 200) | (false, 202) => true,
            (true, 503) => text == BUSY,
            (false, 429) => {
                text == format!(
                    "Too many accepted activations wait in the namespace (count: {BACKLOG}, allowed: {BACKLOG})."
                )
            }
            _ => false,
        };
        assert!(explained, "blocking: {}, {}: {}", self.blocking, self.reply.status, self.reply.text);
    }
}
