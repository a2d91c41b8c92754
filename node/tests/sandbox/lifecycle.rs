//! Life and end of a sandbox: what a payload finds, freezing, death of the node, refusals.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use node::containers::backend::sandbox::{SandboxConfig, SandboxError, SandboxHost};
use protocol::ByteSize;

use super::support::{World, eventually, in_own_network, processes_with, python, start};

const HELLO: &str = r#"
import os, socket, json
status = {name: value.strip() for name, _, value in (line.partition(":") for line in open("/proc/self/status"))}
s = socket.socket(fileno=3); s.sendall(b"hi")
open("/action/mine", "w").write("x"); open("/tmp/mine", "w").write("x"); open("/dev/shm/mine", "w").write("x")
open("/dev/stdout", "w").write("")
print(json.dumps({
  "cwd": os.getcwd(), "env": dict(os.environ), "fds": sorted(int(f) for f in os.listdir("/proc/self/fd")), "pid": os.getpid(),
  "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
  "caps": [status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapAmb")], "nnp": status["NoNewPrivs"], "seccomp": status["Seccomp"],
  "groups": status["Groups"], "uid": os.getuid(), "host": socket.gethostname(),
}), flush=True)
s.recv(1)
"#;

#[test]
fn a_payload_finds_its_world_and_nothing_else() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let mut sandbox = world.create("wsk_1_hello", ByteSize::mib(128)).await;
        let mut running = python(&mut sandbox, HELLO, &[], &[("GREETING", "hello")]).await;
        let mut told = [0; 2];
        if running.connection.read_exact(&mut told).is_err() {
            panic!("{}", running.output().await);
        }
        assert_eq!(&told, b"hi");
        let line = running.line().await;
        let found: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(found["cwd"], "/action");
        assert_eq!(found["host"], "wsk-1-hello");
        // Python adds LC_CTYPE for itself.
        assert_eq!(found["env"]["GREETING"], "hello");
        assert_eq!(found["env"]["HOME"], "/action");
        assert!(found["env"].get("PATH").is_none());
        // The fifth is the folder being listed.
        assert_eq!(found["fds"].as_array().unwrap().len(), 5, "{found}");
        assert_eq!(found["pids"], serde_json::json!([found["pid"]]));
        assert_eq!(found["caps"], serde_json::json!(vec!["0000000000000000"; 4]));
        assert_eq!(found["nnp"], "1");
        assert_eq!(found["seccomp"], "2");
        assert_eq!(found["groups"], "");
        assert!(found["uid"].as_u64().unwrap() >= 0x7000_0000);
        assert!(sandbox.is_alive());
        running.connection.write_all(b".").unwrap();
        tokio::time::timeout(Duration::from_secs(10), sandbox.exited()).await.expect("process 1 ends with its payload");
        assert!(!sandbox.is_alive());
        assert!(!sandbox.killed_for_memory());
        sandbox.destroy().await;
        world.end().await;
    });
}

#[test]
fn freezing_stops_and_thawing_continues() {
    in_own_network(|| async {
        for unsafe_no_sandbox in [false, true] {
            let world = World::start(|config| config.unsafe_no_sandbox = unsafe_no_sandbox).await;
            let mut sandbox = world.create("freezes", ByteSize::mib(128)).await;
            let echo = "import socket\ns = socket.socket(fileno=3)\nwhile True:\n  d = s.recv(1)\n  if not d: break\n  s.sendall(d)";
            let mut running = python(&mut sandbox, echo, &[], &[]).await;
            let mut byte = [0];
            let connection = &mut running.connection;
            connection.write_all(b"1").unwrap();
            connection.read_exact(&mut byte).unwrap();
            sandbox.freeze().await.unwrap();
            connection.write_all(b"2").unwrap();
            connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert_eq!(connection.read_exact(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            sandbox.thaw().await.unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            connection.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"2");
            // A frozen one can be destroyed, and one that is only dropped goes as well.
            sandbox.freeze().await.unwrap();
            drop(sandbox);
            world.end().await;
        }
    });
}

#[test]
fn a_program_that_cannot_run_is_an_error_and_leaves_nothing() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let mut sandbox = world.create("broken", ByteSize::mib(64)).await;
        let error = start(&mut sandbox, vec!["/no/such/program".to_owned()], &[]).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        let again = start(&mut sandbox, vec!["/bin/true".to_owned()], &[]).await.map(drop).unwrap_err();
        assert!(matches!(again, SandboxError::InUse));
        sandbox.destroy().await;
        world.end().await;
    });
}

#[test]
fn a_killed_node_leaves_no_process_and_the_next_start_removes_the_rest() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let mut sandbox = world.create("orphan", ByteSize::mib(64)).await;
        let marker = world.data.path().display().to_string();
        let running = python(&mut sandbox, "import time\ntime.sleep(1000)", &[], &[("MARKER", &marker)]).await;
        assert_eq!(processes_with(&marker).len(), 1);
        // One that is frozen at that moment cannot take note of it.
        let mut frozen = world.create("frozen", ByteSize::mib(64)).await;
        let colder = format!("{marker}-frozen");
        let ice = python(&mut frozen, "import time\ntime.sleep(1000)", &[], &[("COLDER", &colder)]).await;
        frozen.freeze().await.unwrap();
        // What a SIGKILL does to the node: its descriptors close, and nothing of its code runs.
        let config = world.data.path().join("sandbox");
        std::mem::forget(running);
        std::mem::forget(ice);
        sandbox.abandon();
        frozen.abandon();
        eventually("the container has died with the node's socket", || processes_with(&marker).len() == 1).await;
        assert_eq!(processes_with(&colder).len(), 1);
        let World { data, host } = world;
        std::mem::forget(host);
        let mut config = SandboxConfig::new(config, super::support::API_PORT);
        config.init_program = super::support::init_program();
        let host = SandboxHost::start(config).await.unwrap();
        World { data, host }.end().await;
    });
}

#[test]
fn creation_is_fast_when_prepared() {
    in_own_network(|| async {
        let world = World::start(|config| config.ready = 4).await;
        let mut times = Vec::new();
        for round in 0..12 {
            // The pool is refilled off the request path; a full one is what is measured.
            tokio::time::sleep(Duration::from_millis(400)).await;
            let begin = Instant::now();
            let mut sandbox = world.create(&format!("fast_{round}"), ByteSize::mib(64)).await;
            let created = begin.elapsed();
            let running = start(&mut sandbox, vec!["/bin/true".to_owned()], &[]).await.unwrap();
            let spawned = begin.elapsed();
            running.output().await;
            let ended = begin.elapsed();
            sandbox.destroy().await;
            times.push((created, spawned, ended, begin.elapsed() - ended));
        }
        times.sort();
        eprintln!("created, spawned, ended, destroyed: median {:?}, all {times:?}", times[6]);
        // Far above what is measured on an idle machine, so that it fails for a reason only.
        assert!(times[6].0 < Duration::from_millis(100), "{times:?}");
        world.end().await;
    });
}
