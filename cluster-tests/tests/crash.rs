//! The process is killed with -9, as a power cut or the kernel's out-of-memory killer would: what was acknowledged is
//! there afterwards, what was accepted runs, and nothing starts twice.

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cluster_tests::{
    client::{ActionOptions, Api},
    collector::{self, Collector},
    is_root, machine,
    node::{Options, TestNode, program},
    skip, wait,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Containers that fit on the node.
const SLOTS: usize = 12;
/// Of these, the ones that hold still until the node dies.
const HELD: usize = 8;
/// Accepted activations that have not started when the node dies: at least this many.
const UNSTARTED: usize = 500;
/// Everything accepted must have ended so long after the restart began.
const RECOVERY: Duration = Duration::from_secs(30);

/// These tests have deadlines that are promises; they do not take each other's time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// When the node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// All containers are held, and everything else waits.
    AllHeld,
    /// Some containers were let go and take one waiting activation after another.
    Draining,
    /// The same, and requests are still coming in.
    Accepting,
}

#[test]
fn accepted_work_runs_once_after_a_kill_in_the_sandbox() {
    if !is_root() {
        return skip("accepted_work_runs_once_after_a_kill_in_the_sandbox", "only root may have a network of its own");
    }
    machine::own(|| rounds(machine::outside(), false));
}

#[test]
fn accepted_work_runs_once_after_a_kill_without_a_sandbox() {
    rounds(TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"), true);
}

fn rounds(listener: TcpListener, unsafe_no_sandbox: bool) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let options = Options {
        memory: "1536MB",
        unsafe_no_sandbox,
        config: "containers.prewarm = []\n".to_owned(),
        ..Options::default()
    };
    let mut node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
    let tags: Vec<String> = (0..3).flat_map(|round| [format!("held{round}"), format!("soon{round}")]).collect();
    let collector = Collector::on(listener, &tags.iter().map(String::as_str).collect::<Vec<_>>());
    for (round, moment) in [Moment::AllHeld, Moment::Draining, Moment::Accepting].into_iter().enumerate() {
        let key = node.create_user(&format!("round{round}"));
        let round = Round { number: round, moment, key, collector: &collector };
        round.run(&mut node, &mut random);
    }
}

struct Round<'a> {
    number: usize,
    moment: Moment,
    key: String,
    collector: &'a Collector,
}

/// What clients know when the node is dead.
struct Before {
    held: HashSet<String>,
    soon: HashSet<String>,
    /// Accepted beyond those.
    quick: HashSet<String>,
    /// Requests without an answer: accepted or not, nobody knows.
    unanswered: usize,
    /// Activations that had reported their start.
    started: HashMap<String, usize>,
}

impl Round<'_> {
    fn run(&self, node: &mut TestNode, random: &mut StdRng) {
        let api = Api::new(node.address(), &self.key);
        for (language, kind, code) in
            [("node", "nodejs:default", collector::NODEJS), ("python", "python:default", collector::PYTHON)]
        {
            for name in ["hold", "quick"] {
                let options =
                    ActionOptions { memory_mb: Some(128), timeout_ms: Some(120_000), ..ActionOptions::default() };
                api.put_action(&format!("{name}-{language}"), kind, code, options);
            }
        }
        let before = self.load_and_kill(node, &api, random);
        self.recover(node, &api, &before);
    }

    fn arguments(&self, tag: &str) -> Value {
        json!({ "collector": self.collector.address(), "tag": tag })
    }

    fn load_and_kill(&self, node: &mut TestNode, api: &Api, random: &mut StdRng) -> Before {
        let (held_tag, soon_tag, quick_tag) =
            (format!("held{}", self.number), format!("soon{}", self.number), format!("quick{}", self.number));
        let fire = |count: usize, tag: &str| -> HashSet<String> {
            let name = |index| if index % 2 == 0 { "hold-node" } else { "hold-python" };
            (0..count).map(|index| api.fire(name(index), &self.arguments(tag))).collect()
        };
        let held = fire(HELD, &held_tag);
        let soon = fire(SLOTS - HELD, &soon_tag);
        let waiting = || self.collector.waiting();
        wait::until(Duration::from_secs(60), "all containers to be held", || waiting() == SLOTS);

        let quick = Mutex::new(HashSet::new());
        let unanswered = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let total = if self.moment == Moment::AllHeld { UNSTARTED + 50 } else { UNSTARTED + 400 };
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let index = sent.fetch_add(1, Ordering::Relaxed);
                        if index >= total && self.moment != Moment::Accepting {
                            break;
                        }
                        let path =
                            if index.is_multiple_of(2) { "/actions/quick-node" } else { "/actions/quick-python" };
                        match api.request("POST", path, Some(&self.arguments(&quick_tag))) {
                            Ok(reply) => {
                                assert_eq!(reply.status, 202, "{}", reply.text);
                                quick.lock().expect("nobody panicked").insert(reply.activation_id());
                            }
                            Err(_) => {
                                unanswered.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                        }
                    }
                });
            }
            let accepted = || quick.lock().expect("nobody panicked").len();
            let started = || self.collector.started(&quick_tag).len();
            wait::until(Duration::from_secs(120), "enough accepted work", || {
                accepted() >= total.min(UNSTARTED + started() + if self.moment == Moment::AllHeld { 50 } else { 200 })
            });
            if self.moment != Moment::AllHeld {
                self.collector.release(&soon_tag);
                let enough = random.random_range(1..40);
                wait::until(Duration::from_secs(60), "some of it to start", || started() >= enough);
                thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
            }
            assert!(waiting() >= HELD, "{} run", waiting());
            node.kill();
            stop.store(true, Ordering::Relaxed);
        });
        // What the dead node started ends with it, or at the latest with the next start.
        let patience = Instant::now() + Duration::from_secs(3);
        while !node.orphans().is_empty() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(20));
        }
        let quick = quick.into_inner().expect("nobody panicked");
        let started = self.collector.starts();
        let unstarted = quick.iter().filter(|&id| !started.contains_key(id)).count();
        eprintln!("round {}, {:?}: {} accepted, {unstarted} of them unstarted", self.number, self.moment, quick.len());
        assert!(unstarted >= UNSTARTED, "only {unstarted} unstarted: this round shows nothing");
        if self.moment == Moment::AllHeld {
            assert_eq!(unstarted, quick.len(), "a container more than fits was started");
        }
        Before { held, soon, quick, unanswered: unanswered.into_inner(), started }
    }

    fn recover(&self, node: &mut TestNode, api: &Api, before: &Before) {
        let restarted = Instant::now();
        node.start_again();
        let known: HashSet<String> = before.held.iter().chain(&before.soon).chain(&before.quick).cloned().collect();
        let left = RECOVERY.saturating_sub(restarted.elapsed());
        let records = wait::eventually(left, "a record of everything that was accepted", || {
            let records = api.all_activations();
            let ended: HashSet<&str> = records.iter().filter_map(|record| record["activationId"].as_str()).collect();
            let missing = known.iter().filter(|id| !ended.contains(id.as_str())).count();
            if missing == 0 { Ok(records) } else { Err(format!("{missing} of {} are missing", known.len())) }
        });
        eprintln!("round {}: all over {:?} after the restart began", self.number, restarted.elapsed());

        let mut statuses = HashMap::new();
        for record in &records {
            let id = record["activationId"].as_str().unwrap_or_default().to_owned();
            assert!(statuses.insert(id, record["statusCode"].as_u64()).is_none(), "two records: {record}");
        }
        let strangers = statuses.keys().filter(|id| !known.contains(*id)).count();
        assert!(strangers <= before.unanswered, "{strangers} records of nothing");
        let count = api.get("/activations?count=true").expect(200);
        assert!(count["activations"].as_u64() >= Some(statuses.len() as u64), "{count}");

        let starts = self.collector.starts();
        for (id, count) in &starts {
            assert_eq!(*count, 1, "{id} was started {count} times");
        }
        for id in &before.held {
            assert_eq!(statuses[id], Some(3), "{id} ran when the node died");
            let record = api.get(&format!("/activations/{id}")).expect(200);
            assert_eq!(record["response"]["status"], "whisk internal error", "{record}");
            let error = record["response"]["result"]["error"].as_str().unwrap_or_default();
            assert!(error.contains("node-under-test"), "the lost node is not named: {record}");
        }
        // Their start may have been committed, and the node killed before they could report it.
        let mut silent = 0;
        for id in &before.quick {
            let ran_before = before.started.contains_key(id);
            match statuses[id] {
                Some(0) => assert!(starts.contains_key(id), "{id} is a success and never started"),
                Some(3) if ran_before => {}
                Some(3) if !starts.contains_key(id) => silent += 1,
                other => panic!("{id} ended with {other:?}"),
            }
        }
        let allowed = if self.moment == Moment::AllHeld { 0 } else { SLOTS - HELD };
        assert!(silent <= allowed, "{silent} of those that waited were not run");
        wait::eventually(Duration::from_secs(10), "the dead node's processes to be gone", || match node.orphans() {
            left if left.is_empty() => Ok(()),
            left => {
                Err(left.iter().map(|one| format!("{} {}", one.pid, one.command_line())).collect::<Vec<_>>().join("\n"))
            }
        });
        self.collector.release(&format!("held{}", self.number));
        self.collector.release(&format!("soon{}", self.number));
    }
}

/// What a writer knows to be so.
#[derive(Default)]
struct Acknowledged {
    /// Name and the last code that was stored; `None`: deleted.
    actions: HashMap<String, Option<String>>,
    /// Names whose last write was not answered: it may have happened or not.
    unknown: HashSet<String>,
    activations: HashSet<String>,
}

#[test]
fn acknowledged_writes_are_there_after_a_kill() {
    const KILLS: usize = 6;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut node = TestNode::start(
        program(env!("CARGO_BIN_EXE_whisp-node")),
        Options { config: "containers.prewarm = []\n".to_owned(), ..Options::default() },
    );
    node.api().put_action("noop", "python:default", "def main(args):\n  return args", ActionOptions::default());
    let mut all: Vec<Acknowledged> = (0..4).map(|_| Acknowledged::default()).collect();
    for kill in 0..KILLS {
        let api = node.api();
        let written = AtomicUsize::new(0);
        thread::scope(|scope| {
            for (writer, acknowledged) in all.iter_mut().enumerate() {
                let (api, written) = (&api, &written);
                let mut random = StdRng::seed_from_u64(random.random());
                scope.spawn(move || write_until_it_dies(api, writer, kill, acknowledged, written, &mut random));
            }
            let enough = random.random_range(40..160);
            wait::until(Duration::from_secs(60), "enough writes", || written.load(Ordering::Relaxed) >= enough);
            thread::sleep(Duration::from_micros(random.random_range(0..10_000)));
            node.kill();
        });
        node.start_again();
        let api = node.api();
        for acknowledged in &mut all {
            check(&api, acknowledged);
        }
    }
    let accepted: usize = all.iter().map(|acknowledged| acknowledged.activations.len()).sum();
    let ids: Vec<String> = node
        .api()
        .all_activations()
        .iter()
        .filter_map(|record| Some(record["activationId"].as_str()?.to_owned()))
        .collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "an activation has two records");
    eprintln!("{accepted} activations were acknowledged, {} have records", ids.len());
}

fn write_until_it_dies(
    api: &Api,
    writer: usize,
    kill: usize,
    acknowledged: &mut Acknowledged,
    written: &AtomicUsize,
    random: &mut StdRng,
) {
    for index in 0.. {
        let name = format!("action-{writer}-{}", random.random_range(0..20));
        let code = format!("const main = () => ({{ by: '{writer} {kill} {index}' }})");
        let (method, path, body) = match random.random_range(0..10) {
            0..6 => {
                let body = json!({ "exec": { "kind": "nodejs:default", "code": code } });
                ("PUT", format!("/actions/{name}?overwrite=true"), body)
            }
            6..8 => ("DELETE", format!("/actions/{name}"), Value::Null),
            _ => ("POST", "/actions/noop".to_owned(), json!({})),
        };
        let reply = api.request(method, &path, (!body.is_null()).then_some(&body));
        let Ok(reply) = reply else {
            if method != "POST" {
                acknowledged.unknown.insert(name);
            }
            return;
        };
        match (method, reply.status) {
            ("PUT", 200) => {
                acknowledged.unknown.remove(&name);
                acknowledged.actions.insert(name, Some(code));
            }
            ("DELETE", 200 | 404) => {
                acknowledged.unknown.remove(&name);
                acknowledged.actions.insert(name, None);
            }
            ("POST", 202) => {
                acknowledged.activations.insert(reply.activation_id());
            }
            // It is going down under us.
            (_, 503) => {}
            (_, status) => panic!("{method} {path}: {status}: {}", reply.text),
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn check(api: &Api, acknowledged: &mut Acknowledged) {
    for (name, code) in &acknowledged.actions {
        if acknowledged.unknown.contains(name) {
            continue;
        }
        let reply = api.get(&format!("/actions/{name}"));
        match code {
            Some(code) => assert_eq!(reply.expect(200)["exec"]["code"], code.as_str(), "{name}"),
            None => assert_eq!(reply.status, 404, "{name} was deleted: {}", reply.text),
        }
    }
    // Read what is unknown; from here on it is known.
    for name in std::mem::take(&mut acknowledged.unknown) {
        let reply = api.get(&format!("/actions/{name}"));
        let code = (reply.status == 200).then(|| reply.json()["exec"]["code"].as_str().unwrap_or_default().to_owned());
        acknowledged.actions.insert(name, code);
    }
    for id in &acknowledged.activations {
        let record = api.record(id, RECOVERY);
        let status = record["response"]["status"].as_str().unwrap_or_default().to_owned();
        assert!(["success", "whisk internal error"].contains(&status.as_str()), "{record}");
    }
}
