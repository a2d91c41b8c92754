//! Many invocations of many functions in too little memory: containers come and go all the time, nothing fails, and
//! nothing is left behind.
//!
//! 10,000 invocations of 200 functions, with at least 500 evictions.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use cluster_tests::{
    client::ActionOptions,
    is_root, machine,
    node::{Options, TestNode, program},
    proc, wait,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

const FUNCTIONS: usize = 200;
const INVOCATIONS: usize = 10_000;
const EVICTIONS: u64 = 500;
const CLIENTS: usize = 64;
/// Most resident memory that the node may have gained, bytes.
const GROWTH: u64 = 64 << 20;

/// Most resident memory of a node at rest, bytes. A release build stays below 60 MB.
const AT_REST: u64 = 100 << 20;

#[test]
fn a_node_at_rest_takes_little_memory() {
    let mut node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options::default());
    let resident = proc::resident(node.pid());
    assert!(resident < AT_REST, "{} MB", resident >> 20);
    // Also where the system gives huge pages to who does not ask for them.
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    assert!(status.contains("THP_enabled:\t0"), "{status}");
    node.stop();
}

#[test]
fn thousands_of_invocations_in_little_memory_fail_never_and_leave_nothing() {
    if is_root() {
        // Its interfaces and firewall rules can be counted there.
        machine::own(load);
    } else {
        load();
    }
}

fn load() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let options = Options {
        memory: "4GB",
        config: "containers = { prewarm = [], idle_timeout = \"2s\", pause_grace = \"1s\" }\n".to_owned(),
        ..Options::default()
    };
    let node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
    let api = node.api();
    for index in 0..FUNCTIONS {
        let (kind, code) = if index % 2 == 0 {
            ("nodejs:default", format!("const main = ({{ n }}) => {{ console.log(n); return {{ sum: n + {index} }} }}"))
        } else {
            ("python:default", format!("def main(args):\n  print(args['n'])\n  return {{'sum': args['n'] + {index}}}"))
        };
        let options = ActionOptions { memory_mb: Some(128), ..ActionOptions::default() };
        api.put_action(&format!("function{index}"), kind, &code, options);
    }
    // Whatever exists once per node exists after these.
    for index in 0..2 {
        api.invoke(&format!("function{index}"), &json!({ "n": 1 })).expect(200);
    }
    let before = settled(&node);
    let began = Instant::now();
    let done = AtomicUsize::new(0);
    let clients = node.api();
    thread::scope(|scope| {
        for client in 0..CLIENTS as u64 {
            let (api, done) = (&clients, &done);
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(client));
            scope.spawn(move || {
                loop {
                    let invocation = done.fetch_add(1, Ordering::Relaxed);
                    if invocation >= INVOCATIONS {
                        break;
                    }
                    // Each is called; a few are called all the time and most now and then, as in life.
                    let skewed = random.random::<f64>().powi(60) * FUNCTIONS as f64;
                    let index = if invocation < FUNCTIONS { invocation } else { skewed as usize % FUNCTIONS };
                    let n = random.random_range(0..1000);
                    let url = format!("/actions/function{index}?blocking=true&result=true");
                    let reply = api.post(&url, &json!({ "n": n }));
                    assert_eq!(reply.status, 200, "function{index}({n}): {}", reply.text);
                    assert_eq!(reply.json(), json!({ "sum": n + index }));
                }
            });
        }
    });
    // Their connections close with them.
    drop(clients);
    let took = began.elapsed();
    let evicted = evictions_of(&node);
    eprintln!("{INVOCATIONS} invocations in {took:?}, {evicted} evictions");
    assert!(evicted >= EVICTIONS, "only {evicted} evictions: there was too much memory");

    let stored = || api.get("/activations?count=true").expect(200)["activations"].as_u64();
    let expected = INVOCATIONS as u64 + 2;
    wait::eventually(Duration::from_secs(30), "a record of each", || match stored() {
        Some(count) if count == expected => Ok(()),
        count => Err(format!("{count:?} of {expected}")),
    });
    let failed: Vec<_> = api.all_activations().into_iter().filter(|record| record["statusCode"] != 0).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let after = settled(&node);
    eprintln!("before: {before:?}\nafter: {after:?}");
    after.assert_no_more_than(&before);
}

fn evictions_of(node: &TestNode) -> u64 {
    let count = node.metric("node_container_evictions_total");
    // Counters are whole.
    count as u64
}

/// What a node has of the machine.
#[derive(Debug)]
struct Footprint {
    processes: usize,
    threads: usize,
    sockets: usize,
    descriptors: usize,
    namespaces: usize,
    cgroups: usize,
    mounts: usize,
    interfaces: usize,
    rules: usize,
    folders: HashSet<PathBuf>,
    resident: u64,
}

/// The node's footprint once all containers that can go are gone.
fn settled(node: &TestNode) -> Footprint {
    let mut quiet_since = (Instant::now(), usize::MAX);
    wait::until(Duration::from_secs(60), "idle containers to be removed", || {
        let processes = proc::descendants(node.pid()).len();
        if processes != quiet_since.1 {
            quiet_since = (Instant::now(), processes);
        }
        // Longer than the idle timeout and the pause before it: what is there now stays.
        quiet_since.0.elapsed() > Duration::from_secs(5)
    });
    let descriptors = proc::descriptors(node.pid());
    let output = |program: &str, arguments: &[&str]| {
        if is_root() { machine::run(program, arguments).lines().count() } else { 0 }
    };
    let kinds = ["net", "mnt", "pid", "ipc", "uts"];
    Footprint {
        processes: proc::descendants(node.pid()).len(),
        threads: proc::threads(node.pid()),
        sockets: descriptors.iter().filter(|target| target.starts_with("socket:")).count(),
        descriptors: descriptors.len(),
        namespaces: kinds.iter().map(|kind| proc::namespaces_below(node.pid(), kind)).sum(),
        cgroups: proc::cgroup_label(node.pid()).map_or(0, |label| proc::cgroups(&label).len()),
        mounts: proc::mounts().len(),
        interfaces: output("ip", &["-oneline", "link"]),
        rules: output("iptables-save", &[]),
        folders: container_folders(node),
        resident: proc::resident(node.pid()),
    }
}

/// Folders of the data directory, without what the store makes for itself.
fn container_folders(node: &TestNode) -> HashSet<PathBuf> {
    let (names, _) = proc::files(&node.data_dir());
    let store = |path: &PathBuf| path.extension().is_some_and(|kind| ["sst", "log"].iter().any(|&store| kind == store));
    names.into_iter().map(PathBuf::from).filter(|path| path.is_dir() && !store(path)).collect()
}

impl Footprint {
    fn assert_no_more_than(&self, before: &Self) {
        let pairs = [
            ("processes", self.processes, before.processes),
            // The pool of blocking threads shrinks after ten idle seconds only; it is bounded.
            ("threads", self.threads.saturating_sub(32), before.threads),
            ("sockets", self.sockets, before.sockets),
            // The store may have made a few files.
            ("descriptors", self.descriptors.saturating_sub(16), before.descriptors),
            ("namespaces", self.namespaces, before.namespaces),
            ("cgroups", self.cgroups, before.cgroups),
            ("mounts", self.mounts, before.mounts),
            ("interfaces", self.interfaces, before.interfaces),
            ("firewall rules", self.rules, before.rules),
        ];
        for (what, now, then) in pairs {
            assert!(now <= then, "{what}: {then} before, {now} now");
        }
        let new: Vec<_> = self.folders.difference(&before.folders).collect();
        assert!(new.is_empty(), "folders are left: {new:?}");
        assert!(
            self.resident <= before.resident + GROWTH,
            "{} MiB before, {} now",
            before.resident >> 20,
            self.resident >> 20
        );
    }
}
