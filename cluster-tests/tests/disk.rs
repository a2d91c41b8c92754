//! A disk that fills up: the node refuses what is new, goes on with all else, and is whole once there is room again. One
//! that nobody watches ends the node, with the cause, and without loss.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use cluster_tests::{
    client::{ActionOptions, Api, Reply},
    is_root, machine,
    node::{Options, TestNode, program},
    skip, wait,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

const FULL: &str = "The disk of this node is full: nothing can be written or accepted until there is room again.";
/// What a small node writes is there long before.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_full_disk_refuses_what_is_new_and_nothing_else_until_there_is_room() {
    on_a_small_disk(
        "a_full_disk_refuses_what_is_new_and_nothing_else_until_there_is_room",
        "min_free_disk = \"32MB\"\ncontainers.prewarm = []\n",
        "512MB",
        full_and_whole_again,
    );
}

#[test]
fn a_full_disk_that_nobody_watches_ends_the_node_and_loses_nothing_that_was_acknowledged() {
    on_a_small_disk(
        "a_full_disk_that_nobody_watches_ends_the_node_and_loses_nothing_that_was_acknowledged",
        "min_free_disk = \"0MB\"\ncontainers.prewarm = []\n",
        "2GB",
        fill_up,
    );
}

/// Runs `test` with a stopped node whose data lies on a disk of 320 MB.
fn on_a_small_disk(name: &str, config: &'static str, memory: &'static str, test: fn(&mut TestNode)) {
    if !is_root() {
        return skip(name, "only root may have a small disk of its own");
    }
    machine::own(move || {
        let options = Options { config: config.to_owned(), memory, ..Options::default() };
        let mut node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
        node.stop();
        let data = node.data_dir();
        let kept = data.with_file_name("kept");
        machine::run("cp", &["-a", &text(&data), &text(&kept)]);
        mount("none", &data, "tmpfs", MountFlags::empty(), c"size=320m,mode=700").expect("a tmpfs can be mounted");
        machine::run("cp", &["-a", &format!("{}/.", text(&kept)), &text(&data)]);
        test(&mut node);
        unmount(&data, UnmountFlags::empty()).expect("nobody uses it any more");
    });
}

fn full_and_whole_again(node: &mut TestNode) {
    node.start_again();
    let api = node.api();
    let reserve = node.data_dir().join("store/reserve");
    wait::until(SOON, "room to be reserved", || reserve.exists());
    let mut acknowledged = HashMap::new();
    for index in 0..20 {
        assert_eq!(put(&api, index, "before", &mut acknowledged), Some(200));
    }
    let sleeps = |ms| format!("const main = args => new Promise(done => setTimeout(() => done(args), {ms}))");
    for (name, code) in [("echo", sleeps(0)), ("cold", sleeps(1)), ("slow", sleeps(3000))] {
        api.put_action(name, "nodejs:default", &code, ActionOptions::default());
    }
    let before = api.invoke_to_record("echo", &json!({ "n": 0 }));

    // The node writes until it refuses, long before the disk does.
    let near = node.data_dir().join("near");
    leave(&near, 80 << 20);
    let mut refused = 0;
    for index in 0..400 {
        let reply = put_large(&api, index);
        match reply.status {
            200 => assert_eq!(refused, 0, "there is no more room than before"),
            _ => refused += usize::from(is_refused(&reply)),
        }
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5, "80 MB were enough for all");

    // Some more for what follows, then others take everything, in a moment.
    fs::remove_file(&near).expect("the first ballast can be removed");
    wait::until(SOON, "room for writes", || put_large(&api, 1000).status == 200);
    // There are two containers: two of these run, two wait.
    let accepted: Vec<String> = (0..4).map(|n| api.fire("slow", &json!({ "n": n }))).collect();
    wait::until(SOON, "two to run", || busy(node) == 2);
    let far = node.data_dir().join("far");
    fill(&far);
    assert!(api.put("/actions/late", &json!({})).status == 503, "the next write is refused already");
    wait::until(SOON, "the reserve to be given up", || !reserve.exists());

    // Nothing new.
    for (method, path, body) in [
        ("PUT", "/actions/late", json!({ "exec": { "kind": "nodejs:default", "code": sleeps(0) } })),
        ("PUT", "/actions/echo?overwrite=true", json!({ "parameters": [] })),
        ("PUT", "/packages/late", json!({})),
        ("DELETE", "/actions/a0", json!({})),
        ("POST", "/actions/echo", json!({})),
    ] {
        let reply = api.request(method, path, Some(&body)).expect("an answer");
        assert!(is_refused(&reply), "{method} {path}");
    }
    assert!(is_refused(&put_large(&api, 2000)));
    // What was promised ends; what waits goes on waiting, and leaves its containers to who can use them.
    let (running, waiting) = accepted.split_at(2);
    for id in running {
        assert_eq!(api.record(id, SOON)["response"]["success"], true);
    }
    // Reads and calls go on, on a container that is there and on a new one. Their records wait for room.
    check(&api, &acknowledged);
    let mut answered: Vec<String> = Vec::new();
    for (name, n) in [("echo", 1), ("cold", 2), ("echo", 3)] {
        let record = api.invoke(name, &json!({ "n": n })).expect(200);
        assert_eq!(record["response"]["result"], json!({ "n": n }));
        answered.push(record["activationId"].as_str().expect("an id").to_owned());
    }
    let late = wait::eventually(SOON, "a call that outlasts its caller", || {
        // It may be over before its container is there.
        let reply = api.post("/actions/slow?blocking=true&timeout=1000", &json!({}));
        assert_eq!(reply.status, 503, "{}", reply.text);
        if reply.text.contains("is still running, not yet recorded") { Ok(reply) } else { Err(reply.text) }
    });
    let stored = || api.get("/activations?count=true").expect(200)["activations"].as_u64().expect("a number");
    assert_eq!(stored(), 3);
    // Calls go on even when more records wait than may.
    let large = json!({ "text": "x".repeat(1_000_000) });
    for _ in 0..12 {
        let reply = api.post("/actions/echo?blocking=true&result=true", &large);
        assert!(reply.status == 200 && reply.text.len() > 1_000_000, "{}: {}", reply.status, reply.text.len());
    }
    wait::until(SOON, "a record to be dropped", || node.metric("node_records_dropped_total") > 0.0);
    // Whoever runs the node sees why, and can block a key.
    assert_eq!(node.metric("node_disk_short"), 1.0);
    assert!(node.command(&["status"]).contains("the disk is almost full"));
    node.command(&["user", "block", "tester"]);
    assert_eq!(api.get("/actions/echo").status, 401);
    node.command(&["user", "unblock", "tester"]);
    // With room it is as it was, without a start.
    fs::remove_file(&far).expect("the second ballast can be removed");
    wait::until(SOON, "room for writes", || put_large(&api, 3000).status == 200);
    answered.push(late.headers["x-openwhisk-activation-id"].clone());
    for id in answered.iter().chain(waiting) {
        assert_eq!(api.record(id, SOON)["response"]["success"], true);
    }
    let expected =
        3 + answered.len() as u64 + waiting.len() as u64 + 12 - node.metric("node_records_dropped_total") as u64;
    wait::eventually(SOON, "a record of each", || match stored() {
        stored if stored == expected => Ok(()),
        stored => Err(format!("{stored} of {expected}")),
    });
    wait::until(SOON, "room to be reserved", || reserve.exists());

    // Killed while it is full, and started while it is.
    let waiting: Vec<String> = (0..3).map(|n| api.fire("slow", &json!({ "n": n }))).collect();
    wait::until(SOON, "two to run", || busy(node) == 2);
    fill(&far);
    wait::until(SOON, "the node to notice", || node.metric("node_disk_short") == 1.0);
    node.kill();
    node.start_again();
    check(&api, &acknowledged);
    assert_eq!(api.invoke("echo", &json!({ "n": 4 })).expect(200)["response"]["result"], json!({ "n": 4 }));
    assert!(is_refused(&put_large(&api, 4000)));
    fs::remove_file(&far).expect("the third ballast can be removed");
    for id in &waiting {
        let response = api.record(id, SOON)["response"].clone();
        let is_lost = response["result"]["error"].as_str().is_some_and(|text| text.contains("node-under-test"));
        assert!(response["success"] == true || is_lost, "{response}");
    }
    assert_eq!(api.record(before["activationId"].as_str().expect("an id"), SOON), before);
    assert_eq!(put(&api, 0, "after", &mut acknowledged), Some(200));
    check(&api, &acknowledged);
    node.stop();
}

/// Stores an action whose code is a file of its own.
fn put_large(api: &Api, index: usize) -> Reply {
    let code = format!("const main = () => {index} // {}", "x".repeat(1 << 20));
    api.put(
        &format!("/actions/large{index}?overwrite=true"),
        &json!({ "exec": { "kind": "nodejs:default", "code": code } }),
    )
}

fn is_refused(reply: &Reply) -> bool {
    assert_eq!((reply.status, &reply.json()["error"]), (503, &json!(FULL)), "{}", reply.text);
    true
}

fn busy(node: &TestNode) -> u64 {
    let status = node.status();
    let actions = status["containers"]["actions"].as_array().into_iter().flatten();
    actions.filter_map(|action| action["busy"].as_u64()).sum()
}

/// Every acknowledged action is there as it was written.
fn check(api: &Api, acknowledged: &HashMap<usize, String>) {
    for (index, code) in acknowledged {
        let action: Value = api.get(&format!("/actions/a{index}")).expect(200);
        assert_eq!(action["exec"]["code"], code.as_str(), "a{index}");
    }
}

/// Makes `file` so large that `bytes` of its disk are left.
fn leave(file: &Path, bytes: u64) {
    let made = File::create(file).expect("there is room yet");
    let stat = rustix::fs::fstatvfs(&made).expect("a disk");
    let free = stat.f_bavail * stat.f_frsize;
    rustix::fs::fallocate(made, rustix::fs::FallocateFlags::empty(), 0, free - bytes).expect("so much is there");
}

fn fill_up(node: &mut TestNode) {
    node.start_again();
    let mut acknowledged = HashMap::new();
    for index in 0..20 {
        assert_eq!(put(&node.api(), index, "before", &mut acknowledged), Some(200));
    }
    let ballast = node.data_dir().join("ballast");
    fill(&ballast);

    // Refused, not lost: with 503 while it stops, and then not at all.
    let mut refused = None;
    for index in 0..100_000 {
        match put(&node.api(), index % 50, &"x".repeat(16 << 10), &mut acknowledged) {
            Some(200) => {}
            answer => {
                refused = Some(answer);
                break;
            }
        }
    }
    let answer = refused.expect("a full disk takes no writes");
    assert!(answer.is_none() || answer == Some(503), "{answer:?}");
    let status = node.ended(Duration::from_secs(30));
    assert!(!status.success(), "it ended as if nothing had happened");
    let log = node.log();
    assert!(log.contains("No space left on device"), "the cause is not told:\n{log}");

    fs::remove_file(&ballast).expect("the ballast can be removed");
    node.start_again();
    let api = node.api();
    check(&api, &acknowledged);
    api.put_action("echo", "nodejs:default", "const main = args => args", ActionOptions::default());
    assert_eq!(api.invoke_to_record("echo", &json!({ "n": 1 }))["response"]["result"], json!({ "n": 1 }));
    node.stop();
}

/// Writes an action. Its status, if there was an answer; what was acknowledged is noted, what may have been is forgotten.
fn put(api: &Api, index: usize, text: &str, acknowledged: &mut HashMap<usize, String>) -> Option<u16> {
    let code = format!("const main = () => ({{ text: '{text}' }})");
    let body = json!({ "exec": { "kind": "nodejs:default", "code": code } });
    let reply = api.request("PUT", &format!("/actions/a{index}?overwrite=true"), Some(&body)).ok();
    let status = reply.map(|reply| reply.status);
    match status {
        Some(200) => acknowledged.insert(index, code),
        _ => acknowledged.remove(&index),
    };
    status
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("there is room yet");
    for size in [1 << 20, 4 << 10, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary folders have plain names").to_owned()
}
