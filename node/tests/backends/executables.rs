use std::{process::Command, sync::OnceLock, time::Duration};

use node::{
    containers::backend::{Backend, ContainerSpec, CreateError},
    runtime::InitVerdict,
};
use protocol::{ActivationStatus, ByteSize};
use serde_json::{Value, json};

use crate::{
    suite::{Program, Running, Subject, run_all},
    support::{Fixture, binary, compile, noise, targz, text, zip},
};

const LONG: Duration = Duration::from_secs(60);
const NO_BINARY: &str = "The action failed to generate or locate a binary. See logs for details.";
const CANNOT_START: &str = "Cannot start action. Check logs for details.";

/// One executable for all programs of the ActionLoop protocol: the first argument of its `main` is told by a file
/// beside it. A script, so that the test needs no compiler; compiled ones have tests of their own.
const LOOP: &str = r#"#!/usr/bin/python3
import json, os, sys, time
program = open(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), 'program')).read()
answers = os.fdopen(3, 'w')
for line in sys.stdin:
    request = json.loads(line)
    for key, value in request.items():
        if key != 'value': os.environ['__OW_' + key.upper()] = value
    args = result = request['value']
    if program == 'Echo':
        print('hello stdout', flush=True)
        print('hello stderr', file=sys.stderr, flush=True)
    if program == 'Repeat': result = {'text': 'x' * args['n']}
    if program == 'Scalar': result = 5
    if program == 'ApplicationError': result = {'error': 'planned', 'other': 1}
    if program == 'Exit' and 'exit' in args: sys.exit(3)
    if program == 'Hang' and 'hang' in args: time.sleep(1000)
    if program == 'ExhaustMemory':
        taken = []
        while True: taken.append(b'x' * (1 << 20))
    if program == 'Flood':
        for _ in range(args['lines']): print('y' * 100)
        result = {}
        sys.stdout.flush()
    if program == 'Environment': result = {name: os.environ.get(name) for name in args['names']}
    answers.write(json.dumps(result) + '\n')
    answers.flush()
"#;

fn loop_code(program: Program) -> Option<(String, bool)> {
    let name = format!("{program:?}");
    // There is nothing to acknowledge, so nothing in `/init` can hang, and a process that ends a moment after its start
    // has been initialized.
    (!matches!(program, Program::HangInInit | Program::ExitInInit))
        .then(|| binary(zip(&[("exec", LOOP.as_bytes()), ("program", name.as_bytes())])))
}

/// The same for a process per activation.
fn skeleton_code(program: Program) -> Option<(String, bool)> {
    let body = match program {
        Program::Echo => "echo hello stdout; echo hello stderr >&2; cat; echo",
        Program::Scalar => "echo 5",
        Program::ApplicationError => "echo '{\"error\": \"planned\"}'",
        Program::Hang => "case \"$1\" in *hang*) sleep 1000;; esac; cat; echo",
        Program::Flood => {
            "n=$(printf %s \"$1\" | tr -dc 0-9); y=$(printf 'y%.0s' $(seq 100)); yes $y | head -n $n; echo '{}'"
        }
        Program::ExhaustMemory => "exec tail /dev/zero",
        Program::Repeat | Program::Exit | Program::HangInInit | Program::ExitInInit | Program::Environment => {
            return None;
        }
    };
    Some(text(&format!("#!/bin/sh\n{body}\n")))
}

fn subject<'a>(fixture: &'a Fixture, skeleton: bool) -> Subject<'a> {
    Subject {
        backend: &fixture.backend,
        kind: if skeleton { "blackbox" } else { "go:1.20" },
        image: skeleton.then_some("openwhisk/dockerskeleton"),
        memory: ByteSize::mib(128),
        code: if skeleton { &skeleton_code } else { &loop_code },
        limits_memory: !skeleton,
        exited: "command exited",
        exited_in_init: CANNOT_START,
    }
}

#[tokio::test]
async fn the_contract_holds_for_action_loops() {
    for sandboxed in [true, false] {
        let fixture = Fixture::with_sandbox(sandboxed).await;
        run_all(&subject(&fixture, false)).await;
        fixture.stop().await;
    }
}

#[tokio::test]
async fn the_contract_holds_for_a_process_per_activation() {
    for sandboxed in [true, false] {
        let fixture = Fixture::with_sandbox(sandboxed).await;
        run_all(&subject(&fixture, true)).await;
        fixture.stop().await;
    }
}

async fn once(subject: &Subject<'_>, code: (String, bool), arguments: Value) -> (ActivationStatus, Value, String) {
    let mut running = Running::start(subject).await;
    let outcome = match running.init(&code, LONG).await {
        InitVerdict::Failed { response, .. } => {
            let result = response.result.expect("a result").read().expect("JSON");
            (response.status, result, running.failed_logs().await.join("\n"))
        }
        InitVerdict::Initialized => {
            let finished = running.run(arguments).await;
            (finished.response.status, finished.result(), finished.lines().join("\n"))
        }
        InitVerdict::Reschedule => panic!("rescheduled"),
    };
    running.destroy().await;
    outcome
}

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    FILE *answers = fdopen(3, "w");
    char *line = NULL; size_t size = 0; int n = 0;
    while (getline(&line, &size, stdin) > 0) {
        printf("run %d, path %s\n", ++n, getenv("PATH") ? "set" : "unset"); fflush(stdout);
        fprintf(answers, "{\"length\":%zu,\"greeting\":\"%s\"}\n", strlen(line), getenv("GREETING")); fflush(answers);
    }
}
"#;

const RUST: &str = r#"
use std::{fs::File, io::{stdin, BufRead, Write}, os::fd::FromRawFd};
fn main() {
    let mut answers = unsafe { File::from_raw_fd(3) };
    if std::env::var_os("__OW_WAIT_FOR_ACK").is_some() { writeln!(answers, "{{\"ok\":true}}").unwrap(); }
    for line in stdin().lock().lines() { writeln!(answers, "{{\"bytes\":{}}}", line.unwrap().len()).unwrap(); }
}
"#;

const GO: &str = r#"
package main
import ("bufio"; "encoding/json"; "os")
func main() {
    answers := os.NewFile(3, "answers")
    input := bufio.NewReader(os.Stdin)
    for {
        line, err := input.ReadBytes('\n')
        if err != nil { return }
        var request map[string]interface{}
        if json.Unmarshal(line, &request) != nil { return }
        answer, _ := json.Marshal(map[string]interface{}{"got": request["value"], "id": request["activation_id"]})
        answers.Write(append(answer, '\n'))
    }
}
"#;

/// The C program, compiled once.
fn c_program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, output) = (folder.path().join("a.c"), folder.path().join("exec"));
        std::fs::write(&source, C).expect("a source file");
        compile(Command::new("gcc").args(["-O1", "-o"]).args([&output, &source]), &output)
    })
}

#[tokio::test]
async fn compiled_c_runs_from_every_wrapping() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture, false);
    let program = c_program();
    let files = [("exec", program), ("data", b"x".as_slice())];
    for code in [binary(program), binary(zip(&files)), binary(targz(&files))] {
        let mut running = Running::start(&subject).await;
        assert_eq!(running.init(&code, LONG).await, InitVerdict::Initialized);
        for n in 1..4 {
            let finished = running.run(json!({})).await;
            assert_eq!(finished.result()["greeting"], "hé");
            assert_eq!(finished.lines(), [format!("stdout: run {n}, path unset")]);
            // The answer is the action's line, with its end.
            assert!(finished.response.size > Some(20));
        }
        running.destroy().await;
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_20_mb_archive_works() {
    let fixture = Fixture::start().await;
    let subject = Subject { memory: ByteSize::mib(256), ..subject(&fixture, false) };
    let archive = zip(&[("exec", c_program()), ("noise", &noise(20 << 20))]);
    let (status, result, logs) = once(&subject, binary(archive), json!({})).await;
    assert_eq!((status, &result["greeting"]), (ActivationStatus::Success, &json!("hé")), "{logs}");
    fixture.stop().await;
}

#[tokio::test]
async fn compiled_rust_and_go_run() {
    let fixture = Fixture::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.rs"), RUST).expect("a source file");
    let rust = compile(
        Command::new("rustc").args(["--edition", "2021", "-C", "debuginfo=0", "-o"]).args([path("rust"), path("a.rs")]),
        &path("rust"),
    );
    let rust_subject = Subject { kind: "rust:1.34", ..subject(&fixture, false) };
    let (status, result, logs) = once(&rust_subject, binary(zip(&[("exec", &rust)])), json!({})).await;
    assert_eq!(status, ActivationStatus::Success, "{result} {logs}");
    assert!(result["bytes"].as_u64() > Some(100));

    std::fs::write(path("a.go"), GO).expect("a source file");
    let cache = path("cache");
    let go = compile(
        Command::new("go")
            .args(["build", "-o"])
            .args([path("go"), path("a.go")])
            .envs([("GOCACHE", cache.as_os_str()), ("GOFLAGS", "-mod=mod".as_ref()), ("GO111MODULE", "off".as_ref())])
            .env("CGO_ENABLED", "0"),
        &path("go"),
    );
    let (status, result, logs) =
        once(&subject(&fixture, false), binary(zip(&[("exec", &go)])), json!({"x": [1, "é"]})).await;
    assert_eq!(status, ActivationStatus::Success, "{result} {logs}");
    assert_eq!(result, json!({"got": {"x": [1, "é"]}, "id": "0123456789abcdef0123456789abcdef"}));
    fixture.stop().await;
}

#[tokio::test]
async fn what_is_no_executable_fails_in_the_words_of_the_reference() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture, false);
    let cases = [
        (text("package main"), NO_BINARY, "neither an executable nor an archive"),
        (binary(zip(&[("other", b"")])), NO_BINARY, "the archive holds no `exec`"),
        (binary(zip(&[("exec", b"#!/bin/sh\n"), ("/evil", b"")])), NO_BINARY, "outside of the action's folder"),
        (binary(zip(&[("exec", b"#!/no/such/interpreter\n")])), CANNOT_START, "cannot start action: "),
        (text("#!/bin/sh\nexit 1"), CANNOT_START, "command exited"),
    ];
    for (code, error, log) in cases {
        let (status, result, logs) = once(&subject, code, json!({})).await;
        assert_eq!((status, result), (ActivationStatus::DeveloperError, json!({ "error": error })), "{logs}");
        assert!(logs.contains(log), "{log}: {logs}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_process_per_activation_gets_its_argument_twice_and_its_context() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture, true);
    let script = "#!/bin/sh\nread -r input\necho \"first $__OW_ACTIVATION_ID $GREETING\"\n\
        if [ \"$1\" = \"$input\" ]; then echo '{\"same\": true}'; else echo '{\"same\": false}'; fi\n";
    let (_, result, logs) = once(&subject, text(script), json!({"a": "b c"})).await;
    assert_eq!(result, json!({"same": true}));
    assert_eq!(logs, "stdout: first 0123456789abcdef0123456789abcdef hé");
    // Longer than an argument may be.
    let script = "#!/bin/sh\nprintf '{\"arguments\": %d, \"bytes\": %d}' $# $(wc -c)";
    let (_, result, _) = once(&subject, text(script), json!({ "a": "x".repeat(200_000) })).await;
    assert_eq!(result, json!({"arguments": 0, "bytes": 200_008}));
    let (_, result, logs) = once(&subject, text("#!/bin/sh\necho one\necho no json"), json!({})).await;
    assert_eq!(result, json!({"error": "The action did not return a dictionary or array."}));
    assert!(logs.starts_with("stdout: one\nstdout: no json\n"), "{logs}");
    let (_, result, _) = once(&subject, text(""), json!({})).await;
    assert_eq!(result, json!({"error": "This is a stub action. Replace it with custom logic."}));
    fixture.stop().await;
}

#[tokio::test]
async fn images_that_need_docker_are_refused_clearly() {
    let fixture = Fixture::start().await;
    let spec = ContainerSpec {
        name: "wsktest_image".into(),
        kind: "blackbox".into(),
        image: Some("someone/image:1".into()),
        memory: ByteSize::mib(128),
        env: Vec::new(),
    };
    match fixture.backend.create(spec).await {
        Err(CreateError::Developer(text)) => assert!(text.contains("'someone/image:1' needs Docker"), "{text}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it has no Docker"),
    }
    fixture.stop().await;
}
