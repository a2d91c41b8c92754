//! What functions may not do, tried by real functions: each attempt succeeds where there is no sandbox, so that it is
//! known to be one, and fails in the sandbox.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr as UnixAddress, UnixListener},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use cluster_tests::{
    archive::input_text,
    client::{ActionOptions, Api},
    is_root, machine,
    node::{Options, TestNode, program},
    proc, skip, wait,
};
use serde_json::{Value, json};

/// Known to nobody but the test, in places that functions must not see.
const SECRET: &str = "a-secret-of-the-host-3141592653";
/// A file that a container leaves.
const LEFT: &str = "left-by-another";
/// An abstract socket of the host's.
const ABSTRACT: &str = "whisp-escapes-host";
/// A System V key.
const KEY: i32 = 0x5749_5350;

#[test]
fn functions_cannot_leave_the_sandbox_of_a_node_that_root_runs() {
    if !is_root() {
        return skip("functions_cannot_leave_the_sandbox_of_a_node_that_root_runs", "this is not root");
    }
    machine::own(|| {
        let host = Host::prepare(None);
        try_all(&host);
    });
}

#[test]
fn functions_cannot_leave_the_sandbox_of_a_node_that_another_user_runs() {
    const USER: u32 = 64_123;
    if !is_root() {
        let name = "functions_cannot_leave_the_sandbox_of_a_node_that_another_user_runs";
        return skip(name, "only root may have a machine of its own to try this on, and become another user there");
    }
    machine::own(|| {
        let host = Host::prepare(Some(USER));
        try_all(&host);
    });
}

/// One attempt.
struct Attempt {
    name: &'static str,
    arguments: Value,
    /// Languages that make it.
    by: &'static [&'static str],
}

const BOTH: &[&str] = &["python", "nodejs"];
const PYTHON: &[&str] = &["python"];

fn try_all(host: &Host) {
    let mut failures = Vec::new();
    for sandboxed in [false, true] {
        let mut node = host.start_node(!sandboxed);
        let neighbour = host.start_neighbour(&node);
        for attempt in host.attempts(&node, &neighbour) {
            for language in attempt.by {
                let mut arguments = attempt.arguments.clone();
                arguments["attempt"] = json!(attempt.name);
                if attempt.name == "leftovers" || attempt.name == "shared_memory" {
                    // Another container before it, which is gone when this one starts.
                    let litter = json!({ "attempt": "litter", "name": LEFT, "key": KEY });
                    node.api().invoke("litter", &litter).expect(502);
                }
                let reply = node.api().invoke(&format!("escapes-{language}"), &arguments);
                let result = reply.json()["response"]["result"].clone();
                let line =
                    format!("{} {} ({language}): {result}", if sandboxed { "sandbox" } else { "bare" }, attempt.name);
                eprintln!("{line}");
                if reply.status != 200 || result["escaped"] != !sandboxed {
                    failures.push(format!("{line} {}", attempt.arguments));
                }
            }
        }
        host.outlive(&node, sandboxed, &mut failures);
        if sandboxed {
            exhaust(&node);
        }
        node.stop();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The machine, with all that a function could want of it.
struct Host {
    user: Option<u32>,
    /// A process of the node's user, with the secret in its environment.
    victim: Child,
    loopback: u16,
    elsewhere: u16,
    metadata: u16,
    folder: tempfile::TempDir,
    /// Without it the other machine would be gone, and with it the address `HERE`.
    _outside: TcpListener,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

impl Host {
    fn prepare(user: Option<u32>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("whisp-escapes-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a folder in the temporary one");
        let mut command = Command::new("sleep");
        command.arg("1000").env("SECRET", SECRET);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let serve = |address: Ipv4Addr, port: u16| {
            let listener = TcpListener::bind((address, port)).expect("the address is this machine's");
            let port = listener.local_addr().expect("a listener has an address").port();
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.write_all(b"the host\n");
                }
            });
            port
        };
        let outside = machine::outside();
        let host = Self {
            user,
            victim: command.spawn().expect("every system can sleep"),
            loopback: serve(Ipv4Addr::LOCALHOST, 0),
            elsewhere: serve(machine::HERE, 0),
            metadata: serve(machine::METADATA, 80),
            folder,
            _outside: outside,
        };
        let listen = |path: &Path| {
            let listener = UnixListener::bind(path).expect("the folder is ours");
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("the socket is ours");
            serve_unix(listener);
        };
        listen(&host.folder.path().join("host.sock"));
        // `/run` is the test's own.
        listen(Path::new("/run/docker.sock"));
        // Abstract, as most programs write such names, and as long as they can be, as Node.js does.
        for length in [ABSTRACT.len(), 107] {
            let name = UnixAddress::from_abstract_name(format!("{ABSTRACT:\0<length$}")).expect("the name is short");
            serve_unix(UnixListener::bind_addr(&name).expect("abstract names are per network"));
        }
        host
    }

    fn start_node(&self, unsafe_no_sandbox: bool) -> TestNode {
        let options = Options { unsafe_no_sandbox, user: self.user, ..Options::default() };
        let node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
        let warnings = node.status()["backend"]["warnings"].clone();
        if unsafe_no_sandbox {
            assert!(warnings.to_string().contains("sandbox"), "the missing sandbox is not reported: {warnings}");
        } else {
            // What another user cannot have without root's help is said, and is no hole: limits by watching, no network.
            let tolerated = |warning: &Value| {
                let of_user = ["no writable memory control group", "containers have no network"];
                self.user.is_some()
                    && of_user.iter().any(|it| warning.as_str().is_some_and(|text| text.starts_with(it)))
            };
            let missing = warnings.as_array().is_none_or(|all| !all.iter().all(tolerated));
            assert!(!missing, "the sandbox is not whole: {warnings}");
        }
        let api = node.api();
        let python = input_text("escapes.py");
        let limits = ActionOptions { timeout_ms: Some(20_000), ..ActionOptions::default() };
        api.put_action("escapes-python", "python:default", &python, limits.clone());
        api.put_action("escapes-nodejs", "nodejs:default", &input_text("escapes.js"), limits.clone());
        api.put_action("litter", "python:default", &python, limits);
        api.put_action("neighbour", "nodejs:default", &input_text("sibling.js"), ActionOptions::default());
        node
    }

    /// Another action of the same namespace, whose container stays warm beside the one that makes the attempts.
    fn start_neighbour(&self, node: &TestNode) -> Value {
        let name = format!("neighbour-{}", node.pid());
        let record = node.api().invoke("neighbour", &json!({ "name": name, "secret": SECRET })).expect(200);
        record["response"]["result"].clone()
    }

    fn attempts(&self, node: &TestNode, neighbour: &Value) -> Vec<Attempt> {
        let data_dir = node.data_dir().display().to_string();
        let docker = ["/run/docker.sock", "/var/run/docker.sock"];
        let ports = |port: u64, more: &[Value]| -> Value {
            let mut hosts = vec![json!("127.0.0.1")];
            hosts.extend_from_slice(more);
            json!({ "addresses": hosts.iter().map(|host| json!([host, port])).collect::<Vec<_>>() })
        };
        let siblings = neighbour["hosts"].as_array().cloned().unwrap_or_default();
        let attempt = |name, arguments, by| Attempt { name, arguments, by };
        vec![
            attempt("data_directory", json!({ "data_dir": data_dir }), BOTH),
            attempt(
                "other_folder",
                json!({ "data_dir": data_dir, "folder": neighbour["folder"], "secret": SECRET }),
                BOTH,
            ),
            attempt("leftovers", json!({ "name": LEFT }), PYTHON),
            attempt("shared_memory", json!({ "key": KEY }), PYTHON),
            attempt("environ", json!({ "secret": SECRET }), BOTH),
            attempt("memory", json!({}), PYTHON),
            attempt("descriptors", json!({}), BOTH),
            attempt("admin", json!({ "data_dir": data_dir }), BOTH),
            // The host's services, by each of its addresses.
            attempt("tcp", ports(self.loopback.into(), &[json!(machine::HERE.to_string())]), BOTH),
            attempt("tcp", json!({ "addresses": [[machine::HERE.to_string(), self.elsewhere]] }), BOTH),
            attempt("tcp", json!({ "addresses": [[machine::METADATA.to_string(), self.metadata]] }), BOTH),
            attempt("tcp", ports(neighbour["port"].as_u64().unwrap_or_default(), &siblings), BOTH),
            attempt("unix", json!({ "paths": [self.folder.path().join("host.sock")] }), BOTH),
            attempt("unix", json!({ "paths": [format!("@{ABSTRACT}")] }), BOTH),
            attempt("unix", json!({ "paths": [neighbour["socket"]] }), BOTH),
            attempt("unix", json!({ "paths": [neighbour["abstract"]] }), BOTH),
            attempt("unix", json!({ "paths": docker }), BOTH),
            attempt("ptrace", json!({}), PYTHON),
            attempt("process_vm", json!({}), PYTHON),
            attempt("signals", json!({ "pid": self.victim.id() }), BOTH),
            attempt("user_namespace", json!({}), PYTHON),
            attempt("mounts", json!({}), PYTHON),
        ]
    }

    /// A process of a function's own session must not outlive its container.
    fn outlive(&self, node: &TestNode, sandboxed: bool, failures: &mut Vec<String>) {
        // `sleep` takes fractions of seconds: the number is this node's mark.
        let mark = format!("1000.{}", node.pid());
        let arguments = json!({ "attempt": "outlive", "mark": mark });
        node.api().invoke("escapes-python", &arguments).expect(502);
        let alive = || proc::all().into_iter().find(|process| process.command_line() == format!("sleep {mark} "));
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut left = alive();
        while left.is_some() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            left = alive();
        }
        match left {
            Some(process) => {
                if let Some(pid) = rustix::process::Pid::from_raw(process.pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                if sandboxed {
                    failures.push(format!("sandbox outlive: {process:?} lived on"));
                }
            }
            // Root has control groups, sandbox or not, and they reach every process.
            None if sandboxed || self.user.is_none() => {}
            None => failures.push("bare outlive: no process lived on".to_owned()),
        }
    }
}

fn serve_unix(listener: UnixListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"the host\n");
        }
    });
}

/// Functions that take all they can get: they get their limit, the node and other functions do not notice, and nothing
/// of it stays.
fn exhaust(node: &TestNode) {
    let api = node.api();
    api.put_action("bystander", "nodejs:default", "const main = () => ({ fine: true })", ActionOptions::default());
    api.invoke("bystander", &json!({})).expect(200);
    let idle = settled_processes(node);
    // A bomb of small processes is bounded by their number, the others by their memory.
    for (attempt, memory) in [("fork_bomb", 512), ("fill", 128), ("hoard", 128)] {
        let options = ActionOptions { timeout_ms: Some(10_000), memory_mb: Some(memory), ..ActionOptions::default() };
        api.put_action("exhaust", "python:default", &input_text("escapes.py"), options);
        let most = thread::scope(|scope| {
            let call = scope.spawn(|| api.invoke("exhaust", &json!({ "attempt": attempt })));
            let mut most = 0;
            while !call.is_finished() {
                most = most.max(proc::descendants(node.pid()).len());
                bystander(&api);
            }
            let reply = call.join().expect("the client did not panic");
            let response = reply.json()["response"].clone();
            eprintln!("sandbox {attempt}: {response}, at most {most} processes");
            assert!(
                response["status"] == "action developer error" || response["result"]["escaped"] == false,
                "{attempt}: {response}"
            );
            most
        });
        assert!(most < 1024 + 64, "{attempt}: {most} processes");
        // What is left of it goes with its container, which its own end destroys.
        api.invoke("exhaust", &json!({ "attempt": "litter", "name": LEFT, "key": KEY })).expect(502);
        wait::until(Duration::from_secs(30), "its processes to be gone", || {
            proc::descendants(node.pid()).len() <= idle + 4
        });
    }
    let (_, bytes) = proc::files(&node.data_dir().join("containers"));
    assert!(bytes < 64 << 20, "{} MiB are left on the disk", bytes >> 20);
}

fn bystander(api: &Api) {
    let began = Instant::now();
    api.invoke("bystander", &json!({})).expect(200);
    assert!(began.elapsed() < Duration::from_secs(10), "a bystander waited for {:?}", began.elapsed());
}

fn settled_processes(node: &TestNode) -> usize {
    thread::sleep(Duration::from_millis(200));
    proc::descendants(node.pid()).len()
}
