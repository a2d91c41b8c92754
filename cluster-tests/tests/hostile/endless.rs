//! Bodies without end: refused at the limit, the connection closed, and nothing of the rest kept.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cluster_tests::{node::TestNode, proc};

use super::{ONE_AT_A_TIME, Stop, answers, calm, node, put_actions};

const MIB: u64 = 1 << 20;
/// Clients that do the same at once.
const CLIENTS: usize = 4;

/// Sends a body until the connection is closed; returns the answer, and how much could be sent.
fn send_without_end(node: &TestNode, head: &str, is_chunked: bool) -> (answers::Answer, u64) {
    let stream = TcpStream::connect(node.address()).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let sent = AtomicU64::new(0);
    let answer = thread::scope(|scope| {
        scope.spawn(|| {
            let piece = [b' '; 64 << 10];
            let began = Instant::now();
            let write = |bytes: &[u8]| (&stream).write_all(bytes).is_ok();
            let mut open = write(head.as_bytes());
            while open && began.elapsed() < Duration::from_secs(60) {
                open = match is_chunked {
                    true => write(b"10000\r\n") && write(&piece) && write(b"\r\n"),
                    false => write(&piece),
                };
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            assert!(!open, "the connection was never closed");
        });
        let mut bytes = Vec::new();
        // It may end with a reset: more was sent than was read.
        let _ = (&stream).read_to_end(&mut bytes);
        let mut answers = answers::parse(&bytes).expect("a whole answer");
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    });
    (answer, sent.into_inner())
}

#[test]
fn a_body_without_end_is_refused_and_memory_stays() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let node = node("");
    put_actions(&node.api());
    let idle = proc::resident(node.pid());
    let known = format!("Authorization: Basic {}\r\n", STANDARD.encode(node.key()));
    let json = "Content-Type: application/json\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let declared = "Content-Length: 1000000000000\r\n";
    // Path and headers; status; how much may be read of it, and kept by each client.
    for (request, headers, status, read) in [
        ("POST /api/v1/namespaces/_/actions/echo?blocking=true", [&known, json, chunked], 413, MIB),
        ("POST /api/v1/namespaces/_/actions/none", [&known, json, chunked], 413, MIB),
        ("POST /api/v1/namespaces/_/actions/echo", [&known, json, declared], 413, 0),
        ("PUT /api/v1/namespaces/_/actions/new", [&known, json, declared], 413, 0),
        ("PUT /api/v1/namespaces/_/actions/new", [&known, "Content-Type: text/plain\r\n", chunked], 415, 0),
        ("PUT /api/v1/namespaces/_/actions/new", ["", json, chunked], 401, 0),
        ("PUT /api/v1/namespaces/nobody/actions/new", [&known, json, chunked], 403, 0),
        ("POST /api/v1/namespaces/_/nothing", [&known, json, chunked], 404, 0),
        ("POST /ping", ["", json, chunked], 404, 0),
        // Last: the allocator may keep what these took.
        ("PUT /api/v1/namespaces/_/packages/new", [&known, json, chunked], 413, 50 * MIB),
        ("PUT /api/v1/namespaces/_/actions/new", [&known, json, chunked], 413, 50 * MIB),
    ] {
        let head = format!("{request} HTTP/1.1\r\nHost: whisp\r\n{}\r\n", headers.concat());
        let is_chunked = headers.contains(&chunked);
        let done = Stop::default();
        let peak = thread::scope(|scope| {
            let end = done.at_the_end();
            let watch = scope.spawn(|| {
                let mut peak = 0;
                while !done.is_set() {
                    peak = peak.max(proc::resident(node.pid()));
                    thread::sleep(Duration::from_millis(5));
                }
                peak
            });
            let clients: Vec<_> =
                (0..CLIENTS).map(|_| scope.spawn(|| send_without_end(&node, &head, is_chunked))).collect();
            for client in clients {
                let (answer, sent) = client.join().expect("a client");
                assert_eq!(answer.status, status, "{request}: {answer:?}");
                answer.check().expect("the form of a refusal");
                // What lies in buffers, and is read and forgotten for a second, is not for the node to count.
                eprintln!("{request}: {status} after {read} bytes, {sent} sent");
            }
            drop(end);
            watch.join().expect("the watch")
        });
        // A body that grows is copied: two at most of this namespace at once, with room for twice their size.
        let allowed = match read {
            50_000_000.. => 3 * 80 * MIB,
            _ => CLIENTS as u64 * 4 * MIB + 24 * MIB,
        };
        eprintln!("{request}: {} MiB, {} when idle", peak / MIB, idle / MIB);
        assert!(peak < idle + allowed, "{request}: {} MiB at most, {} when idle", peak / MIB, idle / MIB);
    }
    calm(&node);
}
