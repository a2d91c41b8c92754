//! A disk that fills up: the node refuses, ends with the cause, and goes on where it was once there is room.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use cluster_tests::{
    client::{ActionOptions, Api},
    is_root, machine,
    node::{Options, TestNode, program},
    skip,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

#[test]
fn a_full_disk_ends_the_node_and_loses_nothing_that_was_acknowledged() {
    let name = "a_full_disk_ends_the_node_and_loses_nothing_that_was_acknowledged";
    if !is_root() {
        return skip(name, "only root may have a small disk of its own");
    }
    machine::own(|| {
        let config = "containers.prewarm = []\n".to_owned();
        let options = Options { config, ..Options::default() };
        let mut node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
        node.stop();
        let data = node.data_dir();
        let kept = data.with_file_name("kept");
        machine::run("cp", &["-a", &text(&data), &text(&kept)]);
        mount("none", &data, "tmpfs", MountFlags::empty(), c"size=160m,mode=700").expect("a tmpfs can be mounted");
        machine::run("cp", &["-a", &format!("{}/.", text(&kept)), &text(&data)]);
        fill_up(&mut node);
        unmount(&data, UnmountFlags::empty()).expect("nobody uses it any more");
    });
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
    for (index, code) in &acknowledged {
        let action = api.get(&format!("/actions/a{index}")).expect(200);
        assert_eq!(action["exec"]["code"], code.as_str(), "a{index}");
    }
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
