//! Clients that go away, and a node that is asked to stop: the work goes on to its end.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cluster_tests::{
    client::{ActionOptions, Api},
    is_root, machine,
    node::{Options, TestNode, program},
    proc, wait,
};
use rustix::{net::sockopt::set_socket_linger, process::Signal};
use serde_json::json;

const SLOW_NODE: &str =
    "const main = ({ ms }) => new Promise(go => setTimeout(() => { console.log('done'); go({ ms }) }, ms))";
const SLOW_PYTHON: &str =
    "import time\ndef main(args):\n  time.sleep(args['ms'] / 1000)\n  print('done')\n  return args";

fn node() -> TestNode {
    let node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options::default());
    node.api().put_action("slow-node", "nodejs:default", SLOW_NODE, ActionOptions::default());
    node.api().put_action("slow-python", "python:default", SLOW_PYTHON, ActionOptions::default());
    node
}

/// Sends a blocking invocation and resets the connection `after` that time, without reading.
fn invoke_and_reset(node: &TestNode, action: &str, body: &str, after: Duration) {
    let mut stream = TcpStream::connect(node.address()).expect("the node listens");
    // Closing sends a reset at once, as a crashed client's machine does.
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("TCP sockets can linger");
    let request = format!(
        "POST /api/v1/namespaces/_/actions/{action}?blocking=true HTTP/1.1\r\nHost: whisp\r\nAuthorization: Basic {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        STANDARD.encode(node.key()),
        body.len(),
    );
    stream.write_all(request.as_bytes()).expect("the node reads");
    thread::sleep(after);
}

fn finished(api: &Api, action: &str) -> Vec<serde_json::Value> {
    let list = api.get(&format!("/activations?name={action}&docs=true&limit=200")).expect(200);
    list.as_array().cloned().unwrap_or_default()
}

#[test]
fn an_activation_ends_in_its_record_though_the_client_resets_the_connection() {
    let node = node();
    let api = node.api();
    let mut expected = 0;
    for action in ["slow-node", "slow-python"] {
        // The first finds no container, the others find a warm one; one resets before anything can have run.
        for after in [Duration::from_millis(150), Duration::from_millis(100), Duration::from_millis(2)] {
            invoke_and_reset(&node, action, r#"{"ms": 400}"#, after);
            expected += 1;
            wait::until(Duration::from_secs(30), "the record of a dropped call", || {
                finished(&api, "slow-node").len() + finished(&api, "slow-python").len() == expected
            });
        }
        for record in finished(&api, action) {
            assert_eq!(record["response"]["result"], json!({ "ms": 400 }), "{record}");
            assert_eq!(record["response"]["status"], "success");
            assert_eq!(record["logs"].as_array().map(Vec::len), Some(1), "{record}");
        }
    }
    // Nothing is held for those clients: containers are free again, and their connections are closed.
    let before = proc::descriptors(node.pid()).len();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| invoke_and_reset(&node, "slow-python", r#"{"ms": 50}"#, Duration::from_millis(5)));
        }
    });
    wait::until(Duration::from_secs(30), "the records of clients that went away together", || {
        finished(&api, "slow-python").len() == 3 + 6
    });
    wait::until(Duration::from_secs(10), "their connections to be closed", || {
        // New containers may have stayed warm, with a few descriptors each.
        proc::descriptors(node.pid()).len() < before + 6 * 8
    });
    let reply = api.invoke("slow-python", &json!({ "ms": 1 }));
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Containers that run something.
fn busy(node: &TestNode) -> u64 {
    let status = node.status();
    let actions = status["containers"]["actions"].as_array().cloned().unwrap_or_default();
    actions.iter().filter_map(|action| action["busy"].as_u64()).sum()
}

/// Interfaces and firewall rules of this machine.
fn network() -> Vec<String> {
    let text = machine::run("ip", &["-oneline", "link"]) + &machine::run("iptables-save", &[]);
    // Chains that are there once a table was used, comments with the time.
    text.lines().filter(|line| !line.starts_with([':', '#', '*', 'C'])).map(str::to_owned).collect()
}

#[test]
fn a_stopping_node_answers_what_runs_and_leaves_nothing() {
    if is_root() {
        machine::own(|| {
            let before = network();
            stop_by_signals();
            assert_eq!(network(), before, "the node left interfaces or rules");
        });
    } else {
        stop_by_signals();
    }
}

fn stop_by_signals() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = node();
        let api = node.api();
        let accepted = thread::scope(|scope| {
            let running: Vec<_> = (0..6)
                .map(|index| {
                    let api = &api;
                    let action = if index % 2 == 0 { "slow-node" } else { "slow-python" };
                    scope.spawn(move || {
                        api.request("POST", &format!("/actions/{action}?blocking=true"), Some(&json!({ "ms": 4000 })))
                    })
                })
                .collect();
            wait::eventually(Duration::from_secs(30), "all of them to run", || {
                let busy = busy(&node);
                if busy == 6 { Ok(()) } else { Err(format!("{busy} containers are busy")) }
            });
            let accepted = api.fire("slow-python", &json!({ "ms": 100 }));
            let processes = proc::descendants(node.pid());
            let label = proc::cgroup_label(node.pid());
            assert!(!is_root() || label.is_some(), "root's containers are in no control group");
            let stopping = Instant::now();
            node.signal(signal);
            for call in running {
                let reply = call.join().expect("the client did not panic").expect("the call was answered");
                assert_eq!(reply.status, 200, "{}", reply.text);
                assert_eq!(reply.json()["response"]["result"], json!({ "ms": 4000 }));
            }
            let status = node.ended(Duration::from_secs(30));
            assert!(status.success(), "{signal:?}: {status}:\n{}", node.log());
            eprintln!("{signal:?}: the node stopped {:?} after the signal", stopping.elapsed());
            let left: Vec<_> = processes.iter().filter(|process| process.is_alive()).collect();
            assert!(left.is_empty(), "{left:?} are left");
            let groups = label.map_or_else(Vec::new, |label| proc::cgroups(&label));
            assert!(groups.is_empty(), "{groups:?} are left");
            accepted
        });
        assert!(!node.data_dir().join("admin.sock").exists(), "the admin socket is left");
        // Each of them has its record, and the accepted one ends too, before the stop or after the next start.
        node.start_again();
        let api = node.api();
        assert_eq!(api.record(&accepted, Duration::from_secs(30))["response"]["status"], "success");
        let records = api.all_activations();
        assert_eq!(records.len(), 7, "{records:?}");
        assert!(records.iter().all(|record| record["statusCode"] == 0), "{records:?}");
        node.stop();
    }
}
