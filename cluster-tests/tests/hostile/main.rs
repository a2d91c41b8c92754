//! Clients that mean no good, or know no better: whatever they send, they are told what is wrong, others go on, and the
//! node keeps its memory and its temper.
//!
//! Containers are simulated, so that thousands of requests take seconds, and actions can misbehave in every way.

mod answers;
mod endless;
mod requests;
mod slow;

use std::{
    cell::Cell,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cluster_tests::{
    client::{ActionOptions, Api},
    node::{Options, TestNode, program},
};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::json;

use self::{answers::Answer, requests::Conversation};

/// How long requests are made up and sent.
const TIME: Duration = Duration::from_secs(30);
/// Clients at once.
const CLIENTS: usize = 4;
/// Tests that measure time or memory while thousands of connections or gigabytes come.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Nobody waits longer for an answer; actions that hang are waited for at most a second.
const PATIENCE: Duration = Duration::from_secs(30);

fn node(config: &str) -> TestNode {
    let options = Options {
        backend: "simulated",
        // As a login gives; the node raises it.
        soft_descriptors: Some(1024),
        config: config.to_owned(),
        ..Options::default()
    };
    TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options)
}

/// What the actions of a namespace do, by name.
fn put_actions(api: &Api) {
    api.put("/packages/p?overwrite=true", &json!({})).expect(200);
    let raw = |text: &str| json!({ "then": { "raw": text } });
    let answer =
        |status: u16, body: serde_json::Value| json!({ "then": { "answer": { "status": status, "body": body } } });
    for (name, run) in [
        ("echo", json!({})),
        ("p/echo", json!({ "stdout": ["a", "b"] })),
        ("fails", answer(200, json!({ "error": "no" }))),
        ("breaks", answer(500, json!({ "error": { "a": 1 } }))),
        ("list", answer(200, json!([1, 2]))),
        ("text", answer(200, json!("text"))),
        ("exits", json!({ "then": "exit" })),
        ("hungry", json!({ "then": "out_of_memory" })),
        ("hangs", json!({ "then": "hang" })),
        ("garbage", raw("\0\u{1}garbage\r\n\r\n")),
        ("not-json", raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"a\":")),
        ("short", raw("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}")),
        ("chunks", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")),
        ("bad-chunks", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n")),
        ("no-content", raw("HTTP/1.1 204 No Content\r\n\r\n")),
        ("endless-head", raw(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(100_000)))),
    ] {
        let code = json!({ "run": run }).to_string();
        let options = ActionOptions { timeout_ms: Some(300), memory_mb: Some(128), ..ActionOptions::default() };
        api.put_action(name, "nodejs:20", &code, options);
    }
}

/// Made-up conversations over a connection each: valid requests, broken ones, half of one, bytes at a time, many at once,
/// too large ones.
#[test]
fn whatever_is_sent_is_answered_in_the_same_manner() {
    let node = node("http.head_timeout = \"2s\"\nhttp.body_timeout = \"2s\"\n");
    let keys: Vec<String> = (0..CLIENTS).map(|client| node.create_user(&format!("client{client}"))).collect();
    let until = Instant::now() + TIME;
    let counts: Vec<Counts> = thread::scope(|scope| {
        let clients = keys.iter().map(|key| {
            put_actions(&Api::new(node.address(), key));
            scope.spawn(|| converse(node.address(), key, until))
        });
        // Started before any is waited for.
        let clients: Vec<_> = clients.collect();
        clients.into_iter().map(|client| client.join().expect("a client found what must not be")).collect()
    });
    let conversations: usize = counts.iter().map(|counts| counts.conversations.get()).sum();
    let answers: usize = counts.iter().map(|counts| counts.answers.get()).sum();
    eprintln!("{conversations} conversations, {answers} answers");
    assert!(answers > 200, "only {answers} answers: nothing was tried");
    // It works as ever, for those who ask as they should.
    let api = node.api();
    put_actions(&api);
    api.invoke("echo", &json!({ "a": 1 })).expect(200);
    calm(&node);
}

/// The node did not stumble: its log tells of no panic and of no error.
fn calm(node: &TestNode) {
    let log = node.log();
    let bad: Vec<&str> = log.lines().filter(|line| line.contains("panicked") || line.contains("ERROR")).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Set when it is dropped, also by a test that fails: nobody goes on in a scope that is left.
#[derive(Default)]
struct Stop(AtomicBool);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn at_the_end(&self) -> StopAtTheEnd<'_> {
        StopAtTheEnd(self)
    }
}

struct StopAtTheEnd<'a>(&'a Stop);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Counts {
    conversations: Cell<usize>,
    answers: Cell<usize>,
}

fn converse(address: SocketAddr, key: &str, until: Instant) -> Counts {
    // As many as time allows.
    let config = Config { cases: 1_000_000, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let counts = Counts::default();
    let mut runner = TestRunner::new(config);
    while Instant::now() < until {
        let tree = requests::conversation(key.to_owned()).new_tree(&mut runner).expect("a conversation can be made up");
        let outcome = runner.run_one(tree, |conversation| {
            let answers = conversation.hold(address);
            counts.conversations.set(counts.conversations.get() + 1);
            counts.answers.set(counts.answers.get() + answers.as_ref().map_or(0, Vec::len));
            conversation.check(answers).map_err(TestCaseError::fail)
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }
    counts
}

impl Conversation {
    /// Sends all of it as it says, and reads to the end.
    fn hold(&self, address: SocketAddr) -> Result<Vec<Answer>, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("the node takes no connections: {error}"))?;
        let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set.map_err(|error| error.to_string())?;
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in self.pieces() {
                    // A refusal ends the connection before all is sent.
                    if (&stream).write_all(piece).is_err() {
                        return;
                    }
                    thread::sleep(self.pause);
                }
                let _ = stream.shutdown(Shutdown::Write);
            });
            let mut bytes = Vec::new();
            let read = (&stream).read_to_end(&mut bytes);
            // The sender must not go on for nobody.
            let _ = stream.shutdown(Shutdown::Both);
            match read {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    Err(format!("the connection was left open: {}", String::from_utf8_lossy(&bytes)))
                }
                // The end, or a reset by a node that was refused to be listened to.
                _ => answers::parse(&bytes),
            }
        })
    }
}
