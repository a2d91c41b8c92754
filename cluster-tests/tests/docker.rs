//! Nodes whose actions run in Docker containers, through the API: what users of OpenWhisk's runtime images and of images of
//! their own see, and what is left of a node's containers.

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use cluster_tests::{
    client::{ActionOptions, Api, annotation},
    node::{Options, TestNode, program},
    wait,
};
use serde_json::{Value, json};

use crate::images::{Engine, FOLDER, Image, SOCKET};

#[allow(dead_code, reason = "also used by the tests of the back end")]
#[path = "../../node/tests/images/mod.rs"]
mod images;

const SOON: Duration = Duration::from_secs(30);
const WARNING: &str = "stderr: The action did not initialize or run as expected. Log data might be missing.";

/// A node with `nodejs` as the image of its only kind, and no stem cells. `more`: lines of `[containers.docker]`.
fn node(nodejs: &Image, backend: &'static str, more: &str) -> (TestNode, tempfile::TempDir) {
    node_with_cells(nodejs, backend, more, 0)
}

/// The same with stem cells.
fn node_with_cells(nodejs: &Image, backend: &'static str, more: &str, cells: usize) -> (TestNode, tempfile::TempDir) {
    let manifest = json!({"runtimes": {"nodejs": [
        {"kind": "nodejs:20", "default": true, "image": manifest_image(nodejs)}
    ]}});
    let prewarm = format!("prewarm = [{{ kind = \"nodejs:20\", count = {cells} }}]");
    let (config, folder) = config_of(&manifest, &format!("{prewarm}\n[containers.docker]\n{more}"));
    let options = Options { backend, config, ..Options::default() };
    (TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options), folder)
}

/// `image` as a runtimes manifest names it.
fn manifest_image(image: &Image) -> Value {
    let (image, tag) = image.name.rsplit_once(':').expect("a tag");
    let (registry, name) = image.split_once('/').expect("a registry");
    json!({"registry": registry, "name": name, "tag": tag})
}

/// A configuration with this runtimes manifest, a file in the folder, and `more` lines of `[containers]`.
fn config_of(manifest: &Value, more: &str) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("runtimes.json");
    std::fs::write(&path, manifest.to_string()).expect("a file");
    (format!("[containers]\nruntimes_manifest = \"{}\"\n{more}\n", path.display()), folder)
}

fn put_image(api: &Api, name: &str, image: &str, limits: Value) {
    let body = json!({"exec": {"kind": "blackbox", "image": image}, "limits": limits});
    api.put(&format!("/actions/{name}?overwrite=true"), &body).expect(200);
}

/// Containers of the node with this data directory.
fn containers(engine: Engine, data_dir: &Path) -> Vec<Value> {
    let path = data_dir.canonicalize().expect("a folder");
    let inode = path.metadata().expect("a folder").ino();
    engine.containers(&format!("whisp.owner={inode}:{}", path.display()))
}

fn lines(record: &Value) -> Vec<&str> {
    let lines = record["logs"].as_array().expect("logs are a list").iter();
    lines.map(|line| line.as_str().expect("text")[30..].trim_start()).collect()
}

#[test]
fn runtime_actions_stay_warm_log_and_call_back() {
    let Some(engine) = Engine::find("runtime_actions_stay_warm_log_and_call_back") else { return };
    let image = Image::nodejs(engine);
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = sockets.path().join("docker.sock");
    std::os::unix::fs::symlink(SOCKET, &socket).expect("a link");
    let (mut node, _folder) = node(&image, "docker", &format!("socket = \"{}\"", socket.display()));
    assert_eq!(node.status()["backend"]["name"], "docker");
    assert_eq!(node.status()["backend"]["warnings"], json!([]));
    let api = node.api();
    let code = "let n = 0
        async function main({ word }) {
            console.log(word); console.error('to stderr')
            const answer = await fetch(process.env.__OW_API_HOST + '/ping')
            return { n: ++n, api: await answer.text() } }";
    api.put_action("call", "nodejs:default", code, ActionOptions::default());
    for n in 1..4 {
        let record = api.invoke_to_record("call", &json!({"word": format!("word {n}")}));
        assert_eq!(record["response"]["result"], json!({"n": n, "api": "pong"}), "{record}");
        assert_eq!(annotation(&record, "initTime").is_some(), n == 1, "{record}");
        assert_eq!(annotation(&record, "kind"), Some(&json!("nodejs:20")));
        let mut lines = lines(&record);
        lines.sort_unstable();
        assert_eq!(lines, ["stderr: to stderr".to_owned(), format!("stdout: word {n}")]);
    }
    assert_eq!(containers(engine, &node.data_dir()).len(), 1);
    assert!(node.metric("node_docker_call_seconds_count") >= 4.0, "at least version, create, start, inspect");

    // Without the engine, what is warm goes on, and what is not says whose fault it is; with it, all is as before.
    std::fs::remove_file(&socket).expect("the link");
    assert_eq!(api.invoke_to_record("call", &json!({"word": "x"}))["response"]["result"]["n"], 4);
    api.put_action("new", "nodejs:20", "main = () => ({ fine: true })", ActionOptions::default());
    let record = api.invoke_to_record("new", &json!({}));
    assert_eq!(record["response"]["status"], "whisk internal error", "{record}");
    let error = "Failed to provision resources to run the action.";
    assert_eq!(record["response"]["result"], json!({ "error": error }));
    std::os::unix::fs::symlink(SOCKET, &socket).expect("a link");
    assert_eq!(api.invoke_to_record("new", &json!({}))["response"]["result"], json!({"fine": true}));
    assert!(node.log().contains("does not answer") && node.log().contains("answers again"), "{}", node.log());
    let data_dir = node.data_dir();
    node.stop();
    assert_eq!(containers(engine, &data_dir), Vec::<Value>::new());
}

/// An image of a user's, and the record of an activation on it.
struct Case {
    behave: &'static str,
    limits: Value,
    status: &'static str,
    result: Value,
    logs: &'static [&'static str],
    reused: bool,
}

#[test]
fn images_of_users_end_in_the_records_of_the_reference() {
    let Some(engine) = Engine::find("images_of_users_end_in_the_records_of_the_reference") else { return };
    let good = Image::nodejs(engine);
    // Containers live as long as the node, and images must live longer.
    let mut images = Vec::new();
    let (node, _folder) = node(&good, "docker", &format!("local_images_prefix = \"{FOLDER}\""));
    let api = node.api();
    let said = ["stderr: stderr of the image", "stdout: stdout of the image"].as_slice();
    let case =
        |behave, result: Value| Case { behave, limits: json!({}), status: "success", result, logs: &[], reused: true };
    let broken = |behave, error: &str| Case {
        status: "action developer error",
        logs: &[WARNING],
        reused: false,
        ..case(behave, json!({ "error": error }))
    };
    let no_init = "The action did not initialize and exited unexpectedly.";
    let no_answer = "The action did not produce a valid response and exited unexpectedly.";
    let cases = [
        Case { logs: said, ..case("echoes", json!({"a": 1})) },
        Case { logs: said, ..case("answers_in_chunks", json!({"a": 1})) },
        Case {
            limits: json!({"timeout": 2000}),
            ..broken("never_listens", "The action exceeded its time limits of 2000 milliseconds during initialization.")
        },
        broken("exits_at_once", no_init),
        broken("exits_in_init", no_init),
        broken("answers_garbage", no_init),
        broken("exits_in_run", no_answer),
        Case {
            logs: &[WARNING, "stderr: stderr of the image", "stdout: stdout of the image"],
            ..broken("answers_204", no_answer)
        },
        Case {
            limits: json!({"memory": 128}),
            ..broken("eats_memory", "The action exhausted its memory and was aborted.")
        },
        Case {
            logs: &[
                "stderr: There was an issue while collecting your logs. Data might be missing.",
                "stderr: stderr of the image",
                "stdout: stdout of the image",
            ],
            reused: false,
            ..case("writes_no_sentinel", json!({"a": 1}))
        },
    ];
    for case in &cases {
        images.push(good.behaving(engine, case.behave));
        put_image(&api, case.behave, &images[images.len() - 1].name, case.limits.clone());
        let reply = api.invoke(case.behave, &json!({"a": 1}));
        assert_eq!(reply.status, if case.status == "success" { 200 } else { 502 }, "{}: {}", case.behave, reply.text);
        let record = api.record(&reply.activation_id(), SOON);
        assert_eq!(record["response"]["status"], case.status, "{}: {record}", case.behave);
        assert_eq!(record["response"]["result"], case.result, "{}", case.behave);
        let mut lines = lines(&record);
        lines.sort_unstable();
        assert_eq!(lines, case.logs, "{}", case.behave);
        let timed_out = case.behave == "never_listens";
        for (key, value) in [("kind", json!("blackbox")), ("timeout", json!(timed_out))] {
            assert_eq!(annotation(&record, key), Some(&value), "{}: {record}", case.behave);
        }
        assert!(annotation(&record, "initTime").is_some() && annotation(&record, "waitTime").is_some(), "{record}");
        let again = api.invoke_to_record(case.behave, &json!({"a": 1}));
        assert_eq!(annotation(&again, "initTime").is_none(), case.reused, "{}: {again}", case.behave);
        api.delete(&format!("/actions/{}", case.behave)).expect(200);
    }
    // One byte too much, and the flood that crosses its limit.
    let large = good.behaving(engine, "answers_too_much");
    put_image(&api, "large", &large.name, json!({}));
    let record = api.invoke_to_record("large", &json!({}));
    assert_eq!(record["response"]["status"], "application error");
    let text = record["response"]["result"]["error"].as_str().expect("a text");
    assert!(
        text.starts_with("The action produced a response that exceeded the allowed length: 1048577 > 1048576 bytes.")
    );
    let flood = good.behaving(engine, "floods_logs");
    put_image(&api, "flood", &flood.name, json!({"logs": 1}));
    let record = api.invoke_to_record("flood", &json!({}));
    let lines = lines(&record);
    let cut = "stderr: Logs were truncated because the total bytes size exceeds the limit of 1048576 bytes.";
    assert_eq!((lines.len(), lines.last()), ((1 << 20) / 171 + 1, Some(&cut)), "100 bytes and a line end are 171");

    images.extend([large, flood]);

    // One that cannot be had.
    put_image(&api, "nowhere", "127.0.0.1:1/nobody/nothing", json!({}));
    let record = api.invoke_to_record("nowhere", &json!({}));
    assert_eq!(record["response"]["status"], "action developer error", "{record}");
    let error = "Failed to pull container image '127.0.0.1:1/nobody/nothing'.";
    assert_eq!(record["response"]["result"], json!({ "error": error }));
    assert_eq!((&record["duration"], &record["logs"]), (&json!(0), &json!([])), "nothing ran");
    assert!(annotation(&record, "initTime").is_none() && annotation(&record, "limits").is_some(), "{record}");
}

#[test]
fn a_stem_cell_waits_frozen_and_is_replaced() {
    let Some(engine) = Engine::find("a_stem_cell_waits_frozen_and_is_replaced") else { return };
    let image = Image::nodejs(engine);
    let (mut node, _folder) = node_with_cells(&image, "docker", "", 1);
    let states = || {
        let mut states: Vec<_> = containers(engine, &node.data_dir())
            .iter()
            .map(|found| (found["State"].clone(), found["Names"].to_string().contains("_prewarm_nodejs20")))
            .collect();
        states.sort_by_key(|(state, _)| state.to_string());
        states
    };
    let wait_for = |wanted: &[(Value, bool)]| {
        wait::eventually(SOON, "the stem cell", || {
            let states = states();
            if states == wanted { Ok(()) } else { Err(format!("{states:?}")) }
        });
    };
    let cell = (json!("paused"), true);
    wait_for(std::slice::from_ref(&cell));
    let api = node.api();
    api.put_action("count", "nodejs:20", "let n = 0; main = () => ({ n: ++n })", ActionOptions::default());
    for n in 1..3 {
        let record = api.invoke_to_record("count", &json!({}));
        assert_eq!(record["response"]["result"], json!({ "n": n }), "{record}");
    }
    wait_for(&[cell, (json!("running"), true)]);
    node.stop();
}

/// The number of stem cells grows when many actions start cold at once, and shrinks when it is quiet.
#[track_caller]
fn stem_cells_follow_cold_starts(backend: &'static str, kind: &str, image: Value) {
    let cells = json!({"initialCount": 1, "memory": "128 MB", "reactive": {
        "minCount": 1, "maxCount": 3, "ttl": "3 seconds", "threshold": 1, "increment": 1}});
    let runtime = json!({"kind": kind, "default": true, "image": image, "stemCells": [cells]});
    let times = "prewarm_interval = \"1s\"\npause_grace = \"0s\"\nidle_timeout = \"2s\"";
    let (config, _folder) = config_of(&json!({"runtimes": {"family": [runtime]}}), times);
    let mut node =
        TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options { backend, config, ..Options::default() });
    let api = node.api();
    let cells = || node.status()["containers"]["prewarmed"][0].clone();
    let wait_for = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        wait::eventually(SOON, what, || {
            let cells = cells();
            if holds(&cells) { Ok(()) } else { Err(cells.to_string()) }
        });
    };
    wait_for("the first stem cell", &|cells| cells["wanted"] == 1 && cells["ready"] == 1);
    let code = if kind.starts_with("python") { "def main(args):\n    return {}" } else { "main = () => ({})" };
    let limits = ActionOptions { memory_mb: Some(128), ..ActionOptions::default() };
    let mut round = 0;
    wait::eventually(2 * SOON, "more stem cells", || {
        round += 1;
        let names: Vec<String> = (0..4).map(|number| format!("a{round}x{number}")).collect();
        names.iter().for_each(|name| api.put_action(name, kind, code, limits.clone()));
        names.iter().for_each(|name| drop(api.fire(name, &json!({}))));
        // They are wanted for a while only, and a busy machine takes long for each start.
        for _ in 0..40 {
            if cells()["wanted"].as_u64() > Some(1) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("{round} rounds"))
    });
    wait_for("the last stem cell alone", &|cells| {
        cells["wanted"] == 1 && cells["ready"] == 1 && cells["creating"] == 0
    });
    node.stop();
}

#[test]
fn stem_cells_in_docker_follow_cold_starts() {
    let Some(engine) = Engine::find("stem_cells_in_docker_follow_cold_starts") else { return };
    let image = Image::nodejs(engine);
    stem_cells_follow_cold_starts("docker", "nodejs:20", manifest_image(&image));
}

#[test]
fn stem_cells_as_processes_follow_cold_starts() {
    let asked = std::process::Command::new("python3").arg("--version").output().expect("./dev installs Python");
    let version = String::from_utf8(asked.stdout).expect("a version");
    let minor = version.trim().split('.').nth(1).expect("such as Python 3.11.2");
    stem_cells_follow_cold_starts("process", &format!("python:3.{minor}"), json!({"name": "none"}));
}

#[test]
fn a_killed_nodes_containers_are_gone_after_its_next_start() {
    let Some(engine) = Engine::find("a_killed_nodes_containers_are_gone_after_its_next_start") else { return };
    let image = Image::nodejs(engine);
    let (mut node, _folder) = node(&image, "docker", "");
    let api = node.api();
    api.put_action("count", "nodejs:20", "let n = 0; main = () => ({ n: ++n })", ActionOptions::default());
    assert_eq!(api.invoke_to_record("count", &json!({}))["response"]["result"], json!({"n": 1}));
    let hang = ActionOptions { timeout_ms: Some(300_000), ..ActionOptions::default() };
    let code = "main = () => { console.log('begun'); return new Promise(() => {}) }";
    api.put_action("hang", "nodejs:20", code, hang);
    let id = api.fire("hang", &json!({}));
    wait::eventually(SOON, "the activation", || {
        let containers = containers(engine, &node.data_dir());
        let has_begun = |container: &&Value| {
            let path = format!("/containers/{}/logs?stdout=1", container["Id"].as_str().expect("an id"));
            engine.ask("GET", &path, "", &[]).is_ok_and(|(_, logs)| String::from_utf8_lossy(&logs).contains("begun"))
        };
        containers.iter().find(has_begun).map(drop).ok_or_else(|| format!("{} containers", containers.len()))
    });
    node.kill();
    assert_eq!(containers(engine, &node.data_dir()).len(), 2, "nobody is there to remove them");
    node.start_again();
    assert_eq!(containers(engine, &node.data_dir()), Vec::<Value>::new());
    let api = node.api();
    // What ran is recorded as lost, and what is called now begins anew.
    let lost = api.record(&id, SOON);
    assert_eq!(lost["response"]["status"], "whisk internal error", "{lost}");
    assert_eq!(api.invoke_to_record("count", &json!({}))["response"]["result"], json!({"n": 1}));
    node.stop();
}

#[test]
fn auto_takes_docker_where_it_answers_and_both_back_ends_work_side_by_side() {
    let name = "auto_takes_docker_where_it_answers_and_both_back_ends_work_side_by_side";
    let Some(engine) = Engine::find(name) else { return };
    let image = Image::nodejs(engine);
    let (docker, _folder) = node(&image, "auto", "");
    let config = "[containers]\nprewarm = []\n[containers.docker]\nsocket = \"/nowhere/docker.sock\"".to_owned();
    let options = Options { backend: "auto", config, ..Options::default() };
    let process = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
    assert_eq!(docker.status()["backend"]["name"], "docker");
    assert_eq!(process.status()["backend"]["name"], "process");
    assert!(docker.log().contains("Docker answers"), "{}", docker.log());
    assert!(process.log().contains("no Docker here"), "{}", process.log());
    // Both reach their API through the machine's firewall, which both have changed.
    let code = "const main = async () => ({ api: await (await fetch(process.env.__OW_API_HOST + '/ping')).text() })";
    for node in [&docker, &process, &docker] {
        let kind = if node.status()["backend"]["name"] == "docker" { "nodejs:20" } else { "nodejs:default" };
        let api = node.api();
        api.put_action("call", kind, code, ActionOptions::default());
        let record = api.invoke_to_record("call", &json!({}));
        assert_eq!(record["response"]["result"], json!({"api": "pong"}), "{record}");
    }
}
