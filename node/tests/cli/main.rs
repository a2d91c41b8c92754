//! The program `whisp` as a person uses it: real processes, their output and their exit codes.

mod kinds;
mod node;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use node::{Node, WHISP};

const GUEST: &str =
    "23bc46b1-71f6-4ed5-8c54-816aa4f8c502:123zO3xZCLrMN6v2BKK1dXYFpXlPkccOFqm12CdAsMgRU4VrNZ9lyGVCGuMDGIwP";

/// Runs `whisp` to its end, with nothing of ours in its environment.
fn whisp(arguments: &[&str]) -> Output {
    let mut command = Command::new(WHISP);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHISP_")) {
        command.env_remove(name);
    }
    command.args(arguments).output().expect("the program runs")
}

/// Exit code, stdout, stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8").trim_end().to_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn is_one_line(text: &str) -> bool {
    text.lines().count() == 1
}

/// Status and body of one API request with the credentials `key`.
fn get(address: &str, path: &str, key: &str) -> (u16, Value) {
    request(address, &format!("GET {path}"), key, "", "")
}

/// The same with a body. `transaction`: what the caller calls the request.
fn request(address: &str, what: &str, key: &str, transaction: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    let (key, length) = (STANDARD.encode(key), body.len());
    write!(
        stream,
        "{what} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {key}\r\nX-Request-ID: {transaction}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn a_node_is_started_shown_and_stopped() {
    let node = Node::start(&["--dev", "--node-name", "probe"]);
    let (code, text, _) = told(&node.ask(&["status"]));
    assert_eq!(code, 0);
    for part in
        ["node        probe (id 1), whisp 0.1.0", "dev: everybody knows the guest key", "simulated", "meta: leader 1"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let status = node.status();
    assert_eq!(status["node_name"], "probe");
    assert_eq!(status["groups"].as_array().unwrap().len(), 9, "meta and eight shards");
    assert_eq!(status["sessions"], json!([{ "node": 1, "node_name": "probe", "incarnation": 1 }]));
    assert!(status["resident_bytes"].as_u64().unwrap() > 1 << 20);

    let address = status["api_addr"].as_str().unwrap();
    assert_eq!(get(address, "/api/v1/namespaces", GUEST), (200, json!(["guest"])));
    assert_eq!(get(address, "/api/v1/namespaces", &GUEST.replace("123z", "123y")).0, 401);

    let data = node.data_dir().to_owned();
    let (code, log) = node.terminate();
    assert_eq!(code, Some(0), "{log}");
    let (code, out, error) = told(&whisp(&["status", "--data-dir", data.path().to_str().unwrap()]));
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(is_one_line(&error) && error.starts_with("whisp: no node runs on "), "{error}");
}

#[test]
fn users_are_administered_as_by_wskadmin() {
    let node = Node::start(&[]);
    let address = node.status()["api_addr"].as_str().unwrap().to_owned();
    let lines = |arguments: &[&str]| {
        let output = node.ask(arguments);
        let (code, out, error) = told(&output);
        assert_eq!(code, 0, "{arguments:?}: {error}");
        out
    };
    let refusal = |arguments: &[&str]| {
        let (code, out, error) = told(&node.ask(arguments));
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}: {error}");
        error.strip_prefix("whisp: ").unwrap_or_else(|| panic!("{error}")).to_owned()
    };

    assert_eq!(get(&address, "/api/v1/namespaces", GUEST).0, 401, "without --dev there is no guest");
    let key = lines(&["user", "create", "alice"]);
    assert_eq!((key.len(), key.find(':')), (101, Some(36)));
    assert_eq!(get(&address, "/api/v1/namespaces", &key), (200, json!(["alice"])));
    assert_eq!(lines(&["user", "get", "alice"]), key);
    let team = lines(&["user", "create", "alice", "-n", "team"]);
    assert_eq!(lines(&["user", "get", "alice", "--all"]), format!("alice\t{key}\nteam\t{team}"));
    assert_eq!(lines(&["user", "whois", &team]), "subject: alice\nnamespace: team");
    assert_eq!(lines(&["user", "list", "team"]), format!("{team}\talice"));
    assert_eq!(lines(&["user", "list", "team", "--all", "--key"]), team);
    assert_eq!(lines(&["user", "create", "bobby", "--auth", GUEST, "--silent"]), "");
    assert_eq!(lines(&["user", "create", "bobby", "--generate"]).len(), 101);
    let json: Value = serde_json::from_str(&lines(&["user", "get", "bobby", "--json"])).unwrap();
    assert_eq!(json, json!([{ "namespace": "bobby", "credentials": GUEST }]));

    assert_eq!(refusal(&["user", "create", "alice"]), "Namespace already exists");
    assert_eq!(refusal(&["user", "create", "abc"]), "Subject name must be at least 5 characters");
    assert_eq!(refusal(&["user", "list", "nobody"]), "no identities found for namespace \"nobody\"");
    assert_eq!(refusal(&["user", "get", "alice", "-n", "x"]), "namespace \"x\" not found for \"alice\"");

    assert_eq!(lines(&["user", "block", "alice", " "]), "\"alice\" blocked successfully");
    assert_eq!(get(&address, "/api/v1/namespaces", &key).0, 401);
    let (code, out, error) = told(&node.ask(&["user", "unblock", "nobody", "alice"]));
    assert_eq!((code, out.as_str()), (1, "\"alice\" unblocked successfully"));
    assert_eq!(error, "whisp: Failed to unblock \"nobody\" (Failed to get subject (\"nobody\" does not exist))");
    assert_eq!(get(&address, "/api/v1/namespaces", &key).0, 200);

    assert_eq!(lines(&["user", "delete", "alice", "-n", "team"]), "Namespace deleted");
    assert_eq!(refusal(&["user", "delete", "alice", "-n", "team"]), "Namespace \"team\" does not exist for \"alice\"");
    assert_eq!(lines(&["user", "delete", "alice"]), "Subject deleted");
    assert_eq!(get(&address, "/api/v1/namespaces", &key).0, 401);
}

#[test]
fn limits_are_set_shown_and_deleted() {
    let node = Node::start(&["--dev"]);
    let address = node.status()["api_addr"].as_str().unwrap().to_owned();
    let lines = |arguments: &[&str]| told(&node.ask(arguments));
    let done = |text: &str| (0, text.to_owned(), String::new());
    assert_eq!(
        lines(&["limits", "get", "guest"]),
        (1, String::new(), "whisp: No limits found, default system limits apply".to_owned())
    );
    let set = ["limits", "set", "guest", "--invocationsPerMinute", "7", "--allowedKinds", "nodejs:20", "blackbox"];
    assert_eq!(lines(&set), done("Limits successfully set for \"guest\""));
    assert_eq!(
        lines(&["limits", "set", "guest", "--storeActivations", "false", "--maxPayloadSize", "1 MB"]),
        done("Limits successfully set for \"guest\"")
    );
    assert_eq!(
        lines(&["limits", "get", "guest"]),
        done(
            "invocationsPerMinute = 7\nallowedKinds = ['nodejs:20', 'blackbox']\nstoreActivations = False\n\
             maxPayloadSize = 1 MB"
        )
    );
    assert_eq!(get(&address, "/api/v1/namespaces/_/limits", GUEST).1["invocationsPerMinute"], 7);
    assert_eq!(lines(&["limits", "set", "guest"]).0, 2, "nothing to set");
    assert_eq!(lines(&["limits", "set", "guest", "--maxPayloadSize", "big"]).0, 1);
    assert_eq!(lines(&["limits", "delete", "guest"]), done("Limits deleted"));
    assert_eq!(get(&address, "/api/v1/namespaces/_/limits", GUEST).1["invocationsPerMinute"], 60);
}

#[test]
fn a_killed_node_comes_back_with_its_users() {
    let node = Node::start(&["--dev"]);
    let (_, key, _) = told(&node.ask(&["user", "create", "alice"]));
    let data = node.data_dir().to_owned();
    node.kill();
    // Without --dev this time: the guest key is gone.
    let node = Node::start_on(data, &[]);
    let status = node.status();
    assert_eq!(status["sessions"][0]["incarnation"], 2);
    let address = status["api_addr"].as_str().unwrap();
    assert_eq!(get(address, "/api/v1/namespaces", &key).0, 200);
    assert_eq!(get(address, "/api/v1/namespaces", GUEST).0, 401);
}

#[test]
fn secrets_are_the_owners_alone() {
    let node = Node::start(&[]);
    let mode = |name: &str| node.data_dir().path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("admin.sock"), mode("data.key")), (0o600, 0o600));
    let data = node.data_dir().to_owned();
    assert_eq!(node.terminate().0, Some(0));
    // Without its key the data cannot be used, and no other key takes its place.
    std::fs::remove_file(data.path().join("data.key")).unwrap();
    let (code, _, error) = told(&start(data.path(), &[]));
    assert_eq!(code, 1);
    assert!(error.contains("data.key is gone"), "{error}");
    assert!(!data.path().join("data.key").exists());
}

/// `whisp start` that is expected to end by itself.
fn start(data_dir: &Path, arguments: &[&str]) -> Output {
    let common = ["start", "--backend", "simulated", "--data-dir", data_dir.to_str().unwrap()];
    let address: &[&str] = if arguments.contains(&"--api-addr") { &[] } else { &["--api-addr", "127.0.0.1:0"] };
    whisp(&[&common, address, arguments].concat())
}

#[test]
fn a_start_that_cannot_be_says_why_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let broken = dir.path().join("broken.toml");
    std::fs::write(&broken, "[http]\nport = 1\n").unwrap();
    let data = dir.path().join("data");
    for (arguments, code, part) in [
        (vec!["--api-addr", taken.as_str()], 1, "in use"),
        (vec!["--dev", "--api-addr", "0.0.0.0:0"], 2, "loopback"),
        (vec!["--join", "10.0.0.1:7233"], 2, "--join cannot be used yet"),
        (vec!["--config", "/nonexistent.toml"], 2, "/nonexistent.toml"),
        (vec!["--memory", "64MB"], 2, "containers."),
    ] {
        let (exit, out, error) = told(&start(&data, &arguments));
        assert_eq!((exit, out.as_str()), (code, ""), "{arguments:?}: {error}");
        assert!(is_one_line(&error) && error.starts_with("whisp: ") && error.contains(part), "{arguments:?}: {error}");
    }
    let (code, _, error) = told(&start(&data, &["--config", broken.to_str().unwrap()]));
    assert!(code == 2 && error.contains("unknown field `port`"), "{error}");

    // A file where the data should be.
    let (code, _, error) = told(&start(&broken, &[]));
    assert!(code == 1 && is_one_line(&error) && error.contains("broken.toml"), "{error}");

    let node = Node::start(&[]);
    let (code, _, error) = told(&start(node.data_dir().path(), &[]));
    assert!(code == 1 && error.lines().last().unwrap().starts_with("whisp: "), "{error}");
    assert_eq!(told(&node.ask(&["status"])).0, 0, "the first one is not disturbed");
}

#[test]
fn whom_to_ask_is_said_when_nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    for (path, part) in
        [(dir.path().join("nowhere"), "is no data directory of a node"), (dir.path().to_owned(), "no node runs on")]
    {
        for command in
            [&["status"][..], &["user", "get", "alice"], &["user", "block", "alice"], &["limits", "get", "x"]]
        {
            let (code, out, error) = told(&whisp(&[command, &["--data-dir", path.to_str().unwrap()]].concat()));
            assert_eq!((code, out.as_str()), (3, ""), "{error}");
            assert!(is_one_line(&error) && error.contains(part), "{error}");
        }
    }
}

#[test]
fn logs_are_json_on_request() {
    let node = Node::start(&["--log-format", "json"]);
    let (code, log) = node.terminate();
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["message"] == "ready" && line["api"].is_string()), "{log}");
}

#[test]
fn log_lines_of_a_request_name_its_transaction() {
    let node = Node::start(&["--dev", "--log-format", "json"]);
    let address = node.status()["api_addr"].as_str().unwrap().to_owned();
    let action = "/api/v1/namespaces/_/actions/broken";
    // Too long for the log, so that it lies in a file; and without that file, each run has something to log.
    let body = json!({ "exec": { "kind": "nodejs:default", "code": "x".repeat(1 << 18) } }).to_string();
    assert_eq!(request(&address, &format!("PUT {action}"), GUEST, "stored", &body).0, 200);
    let files: Vec<_> = std::fs::read_dir(node.data_dir().path().join("blobs")).unwrap().collect();
    assert_eq!(files.len(), 1);
    for file in files {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert_eq!(request(&address, &format!("GET {action}"), GUEST, "read", "").0, 500);
    assert_eq!(request(&address, &format!("POST {action}?blocking=true"), GUEST, "awaited", "{}").0, 500);
    let (status, accepted) = request(&address, &format!("POST {action}"), GUEST, "accepted", "{}");
    assert_eq!(status, 202);
    // What has not started when the node stops would not be run by it.
    let record = format!("/api/v1/namespaces/_/activations/{}", accepted["activationId"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(&address, &record, GUEST).0 != 200 {
        assert!(Instant::now() < deadline, "no record of {accepted}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, log) = node.terminate();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let named = |transaction: &str| lines.iter().filter(|line| line["transid"] == transaction).collect::<Vec<_>>();
    assert!(named("stored").is_empty(), "{log}");
    assert!(named("read").iter().any(|line| line["message"] == "a request failed"), "{log}");
    for transaction in ["awaited", "accepted"] {
        let unread = |line: &&Value| line["message"] == "the action's code could not be read";
        assert!(named(transaction).into_iter().any(|line| unread(&line) && line["activation_id"].is_string()), "{log}");
    }
}

#[test]
fn a_request_that_asks_for_it_is_logged_in_detail() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let activations = "[activations]\nstore_blocking_result_level = \"STORE_FAILURES\"\nlog_unstored = true\n";
    std::fs::write(config.path(), activations).unwrap();
    let node = Node::start(&["--dev", "--log-format", "json", "--config", config.path().to_str().unwrap()]);
    let address = node.status()["api_addr"].as_str().unwrap().to_owned();
    let action = "/api/v1/namespaces/_/actions/quick";
    let body = json!({ "exec": { "kind": "nodejs:default", "code": "x" } }).to_string();
    assert_eq!(request(&address, &format!("PUT {action}"), GUEST, "stored", &body).0, 200);
    for (transaction, header) in [("plain", ""), ("extra", "\r\nX-OW-EXTRA-LOGGING: on")] {
        for (query, status) in [("?blocking=true", 200), ("", 202)] {
            let transaction = format!("{transaction}{status}{header}");
            assert_eq!(request(&address, &format!("POST {action}{query}"), GUEST, &transaction, "{}").0, status);
        }
    }
    let (code, log) = node.terminate();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let runs = |transaction: &str| {
        let of_it = lines.iter().filter(|line| line["transid"] == transaction && line["level"] == "DEBUG");
        of_it.filter(|line| line["message"] == "the activation runs" && line["start"].is_string()).count()
    };
    assert_eq!([runs("plain200"), runs("plain202")], [0, 0], "{log}");
    // What is accepted when a node stops may be left for its next start.
    assert_eq!((runs("extra200"), lines.iter().any(|line| line["transid"] == "extra202")), (1, true), "{log}");
    // Its record is there as well, whatever the level.
    let unrecorded = lines.iter().filter(|line| line["message"] == "the activation is not recorded");
    let unrecorded: Vec<_> = unrecorded.map(|line| (&line["transid"], &line["status"])).collect();
    assert_eq!(unrecorded, [(&"plain200".into(), &"success".into())], "{log}");
    assert!(lines.iter().all(|line| line["level"] != "DEBUG" || line["transid"].as_str().is_some()), "{log}");
}

#[test]
fn help_is_there_and_mistakes_are_named() {
    let (code, text, _) = told(&whisp(&["--help"]));
    assert_eq!(code, 0);
    for command in ["start", "status", "user", "limits"] {
        assert!(text.contains(command), "{text}");
    }
    assert!(told(&whisp(&["start", "--help"])).1.contains("--unsafe-no-sandbox"));
    assert_eq!(told(&whisp(&["--version"])).1, "whisp 0.1.0");
    assert_eq!(told(&whisp(&[])).0, 2);
    assert_eq!(told(&whisp(&["fly"])).0, 2);
}
