use std::time::Duration;

use node::{containers::backend::Backend, runtime::InitVerdict};
use protocol::{ActivationStatus, ByteSize};
use serde_json::{Value, json};

use crate::{
    suite::{Program, Running, Subject, run_all},
    support::{Fixture, binary, noise, targz, text, zip},
};

const LONG: Duration = Duration::from_secs(60);
const CANNOT_START: &str = "Cannot start action. Check logs for details.";
const NO_BINARY: &str = "The action failed to generate or locate a binary. See logs for details.";

pub fn code(program: Program) -> Option<(String, bool)> {
    Some(text(match program {
        Program::Echo => {
            "import sys\ndef main(args):\n    print('hello stdout')\n    print('hello stderr', file=sys.stderr)\n    return args"
        }
        Program::Repeat => "def main(args):\n    return {'text': 'x' * args['n']}",
        Program::Scalar => "def main(args):\n    return 5",
        Program::ApplicationError => "def main(args):\n    return {'error': 'planned', 'other': 1}",
        Program::Exit => "import sys\ndef main(args):\n    if 'exit' in args:\n        sys.exit(3)\n    return args",
        Program::Hang => {
            "import time\ndef main(args):\n    while 'hang' in args:\n        time.sleep(1)\n    return args"
        }
        Program::HangInInit => "while True:\n    pass",
        Program::ExitInInit => "import sys\nsys.exit(0)",
        Program::ExhaustMemory => {
            "def main(args):\n    taken = []\n    while True:\n        taken.append(b'x' * (1 << 20))"
        }
        Program::Flood => {
            "def main(args):\n    for _ in range(args['lines']):\n        print('y' * 100)\n    return {}"
        }
        Program::Environment => {
            "import os\ndef main(args):\n    return {name: os.environ.get(name) for name in args['names']}"
        }
    }))
}

fn subject(fixture: &Fixture) -> Subject<'_> {
    Subject {
        backend: &fixture.backend,
        kind: "python:3.11",
        image: None,
        memory: ByteSize::mib(128),
        code: &code,
        limits_memory: true,
        exited: "command exited",
        exited_in_init: CANNOT_START,
    }
}

#[tokio::test]
async fn the_contract_holds() {
    for sandboxed in [true, false] {
        let fixture = Fixture::with_sandbox(sandboxed).await;
        run_all(&subject(&fixture)).await;
        fixture.stop().await;
    }
}

/// Initializes `code` with entry `main` and runs it once; status, result, and the lines of its logs.
async fn once(
    subject: &Subject<'_>,
    code: (String, bool),
    main: &str,
    arguments: Value,
) -> (ActivationStatus, Value, String) {
    let mut running = Running::start(subject).await;
    let value = json!({"name": "test", "main": main, "code": code.0, "binary": code.1, "env": {}});
    let outcome = match running.init_value(value, LONG).await {
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

#[tokio::test]
async fn results_of_every_form() {
    use ActivationStatus::{ApplicationError, DeveloperError, Success};
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let refused = "The action did not produce a valid JSON or JSON Array response: null\n";
    let no_dictionary = "The action did not return a dictionary or array.";
    let cases = [
        ("def main(args): return [1, 2]", Success, json!([1, 2])),
        ("def main(args): return (1, 'é')", Success, json!([1, "é"])),
        ("def main(args): return None", DeveloperError, json!({ "error": refused })),
        ("def main(args): return 'text'", DeveloperError, json!({ "error": no_dictionary })),
        ("def main(args): return {'x': float('nan')}", DeveloperError, json!({ "error": no_dictionary })),
        ("def main(args): return {'x': 'NaN Infinity'}", Success, json!({"x": "NaN Infinity"})),
        ("def main(args): return {'x': object()}", DeveloperError, json!({"error": "command exited"})),
        ("def main(args): raise Exception('planned é')", ApplicationError, json!({"error": "planned é"})),
        ("def main(args): return args['missing']", ApplicationError, json!({"error": "'missing'"})),
        ("def main(args): raise KeyboardInterrupt", DeveloperError, json!({"error": "command exited"})),
        ("import os\ndef main(args): os._exit(0)", DeveloperError, json!({"error": "command exited"})),
        ("import os\ndef main(args): os.kill(os.getpid(), 11)", DeveloperError, json!({"error": "command exited"})),
        (
            "import os, subprocess\ndef main(args):\n    subprocess.Popen(['sleep', '60'])\n    os._exit(1)",
            DeveloperError,
            json!({"error": "command exited"}),
        ),
        ("def main(args): return {'name': __name__}", Success, json!({"name": "main__"})),
    ];
    for (code, status, result) in cases {
        let (got, value, _) = once(&subject, text(code), "main", json!({})).await;
        assert_eq!((got, value), (status, result), "{code}");
    }
    let (_, _, logs) = once(&subject, text("def main(args): raise Exception('planned')"), "main", json!({})).await;
    assert!(logs.contains("stderr: Traceback (most recent call last):"), "{logs}");
    assert!(logs.contains("stderr: Exception: planned"), "{logs}");
    assert!(logs.contains("main__.py\", line 1, in main"), "{logs}");
    fixture.stop().await;
}

#[tokio::test]
async fn its_end_is_told_alike_without_a_zygote() {
    let fixture = Fixture::with(|config| config.warm_zygote = false).await;
    let zygote = fixture.folder().join("process/launchers/zygote.py");
    std::fs::write(zygote, "raise SystemExit").expect("the zygote is broken");
    let subject = subject(&fixture);
    for (code, result, log) in [
        ("import os\ndef main(args): os._exit(0)", json!({"error": "command exited"}), ""),
        ("import os\ndef main(args): os.kill(os.getpid(), 9)", json!({"error": "command exited"}), ""),
        (
            "import os; print('before'); os._exit(1)",
            json!({ "error": CANNOT_START }),
            "stderr: Command exited abruptly during initialization.",
        ),
    ] {
        let (_, got, logs) = once(&subject, text(code), "main", json!({})).await;
        assert_eq!(got, result, "{code}: {logs}");
        assert!(logs.contains(log), "{code}: {logs}");
    }
    assert!(zygotes_of(fixture.folder()).is_empty());
    fixture.stop().await;
}

#[tokio::test]
async fn failures_of_init_are_in_the_logs() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let cases = [
        ("def main(args:\n  return 1", NO_BINARY, "SyntaxError"),
        ("import no_such_module", CANNOT_START, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", CANNOT_START, "ZeroDivisionError"),
        ("def other(args): return {}", CANNOT_START, "cannot import name 'main'"),
        ("import sys; sys.exit(1)", CANNOT_START, "Command exited abruptly during initialization."),
        ("import os; os._exit(1)", CANNOT_START, "Command exited abruptly during initialization."),
        ("import os; os.kill(os.getpid(), 9)", CANNOT_START, "Command exited abruptly during initialization."),
    ];
    for (code, error, log) in cases {
        let (status, result, logs) = once(&subject, text(code), "main", json!({})).await;
        assert_eq!((status, result), (ActivationStatus::DeveloperError, json!({ "error": error })), "{code}");
        assert!(logs.contains(log), "{code}: {logs}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn archives_are_unpacked_and_loaded() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let start = b"import os, helper\nfrom vendored.deep import x\ndef niam(args):\n    \
        return {'sum': helper.add(args['x'], x), 'data': open('data.txt').read()}"
        .as_slice();
    let files = [
        ("__main__.py", start),
        ("helper.py", b"def add(a, b): return a + b".as_slice()),
        ("vendored/__init__.py", b"".as_slice()),
        ("vendored/deep.py", b"x = 1".as_slice()),
        ("data.txt", "é".as_bytes()),
    ];
    for archive in [zip(&files), targz(&files)] {
        let (status, result, logs) = once(&subject, binary(archive), "niam", json!({"x": 41})).await;
        assert_eq!((status, result), (ActivationStatus::Success, json!({"sum": 42, "data": "é"})), "{logs}");
    }
    let (_, result, logs) = once(&subject, binary(zip(&[("other.py", b"")])), "main", json!({})).await;
    assert_eq!(result, json!({ "error": NO_BINARY }));
    assert!(logs.contains("stderr: Zip file does not include main__"), "{logs}");
    let (_, result, logs) =
        once(&subject, binary(zip(&[("__main__.py", b""), ("../e", b"")])), "main", json!({})).await;
    assert_eq!(result, json!({ "error": NO_BINARY }));
    assert!(logs.contains("outside of the action's folder"), "{logs}");
    fixture.stop().await;
}

#[tokio::test]
async fn a_20_mb_archive_works() {
    let fixture = Fixture::start().await;
    let subject = Subject { memory: ByteSize::mib(256), ..subject(&fixture) };
    let start = b"import os\ndef main(args): return {'size': os.stat('noise').st_size}";
    let archive = zip(&[("__main__.py", start), ("noise", &noise(20 << 20))]);
    let (status, result, logs) = once(&subject, binary(archive), "main", json!({})).await;
    assert_eq!((status, result), (ActivationStatus::Success, json!({"size": 20 << 20})), "{logs}");
    fixture.stop().await;
}

#[tokio::test]
async fn own_modules_win_over_those_that_the_zygote_has_loaded() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let start = b"import calendar, launcher, queue, html.parser\n\
        def main(args): return {'own': [calendar.own, launcher.own, queue.own, html.parser.own]}"
        .as_slice();
    let own = b"own = 1".as_slice();
    let files = ["calendar.py", "launcher.py", "queue/__init__.py", "html/__init__.py", "html/parser.py"];
    let mut entries = vec![("__main__.py", start)];
    entries.extend(files.map(|name| (name, own)));
    let (status, result, logs) = once(&subject, binary(zip(&entries)), "main", json!({})).await;
    assert_eq!((status, result), (ActivationStatus::Success, json!({"own": [1, 1, 1, 1]})), "{logs}");
    fixture.stop().await;
}

#[tokio::test]
async fn virtual_environments_are_activated() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let start = b"import only_there\ndef main(args): return {'there': only_there.value}".as_slice();
    let activate = b"import os, sys\nhere = os.path.dirname(os.path.abspath(__file__))\n\
        sys.path.insert(0, os.path.join(here, '..', 'lib', 'python3.11', 'site-packages'))"
        .as_slice();
    for scripts in ["bin", "Scripts"] {
        let activate_path = format!("virtualenv/{scripts}/activate_this.py");
        let archive = zip(&[
            ("__main__.py", start),
            (&activate_path, activate),
            ("virtualenv/lib/python3.11/site-packages/only_there.py", b"value = 7"),
        ]);
        let (status, result, logs) = once(&subject, binary(archive), "main", json!({})).await;
        assert_eq!((status, result), (ActivationStatus::Success, json!({"there": 7})), "{logs}");
    }
    let archive = zip(&[("__main__.py", start), ("virtualenv/readme", b"")]);
    let (_, result, logs) = once(&subject, binary(archive), "main", json!({})).await;
    assert_eq!(result, json!({ "error": NO_BINARY }));
    assert!(logs.contains("Invalid virtualenv. Zip file does not include 'activate_this.py'."), "{logs}");
    fixture.stop().await;
}

#[tokio::test]
async fn containers_of_one_zygote_share_nothing_that_matters() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let random = "import random, os, sys, uuid\nstate = []\ndef main(args):\n    state.append(1)\n    \
        return {'r': random.random(), 'n': len(state), 'argv': sys.argv, 'fds': sorted(os.listdir('/proc/self/fd'))}";
    let mut first = Running::start(&subject).await;
    let mut second = Running::start(&subject).await;
    assert_eq!(first.init(&text(random), LONG).await, InitVerdict::Initialized);
    assert_eq!(second.init(&text(random), LONG).await, InitVerdict::Initialized);
    let (a, b) = (first.run(json!({})).await.result(), second.run(json!({})).await.result());
    assert_ne!(a["r"], b["r"]);
    assert_eq!((&a["n"], &b["n"]), (&json!(1), &json!(1)));
    // Three standard streams, the connection under its own number, and the listing itself.
    assert_eq!(a["fds"].as_array().expect("a list").len(), 5, "{a}");
    first.destroy().await;
    second.destroy().await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_zygote_that_dies_is_replaced() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    Running::start(&subject).await.destroy().await;
    for _ in 0..3 {
        let zygotes = zygotes_of(fixture.folder());
        assert!(!zygotes.is_empty());
        for zygote in zygotes {
            rustix::process::kill_process(zygote, rustix::process::Signal::KILL).expect("it lives");
        }
        let (status, result, _) = once(&subject, text("def main(args): return {'fine': 1}"), "main", json!({})).await;
        assert_eq!((status, result), (ActivationStatus::Success, json!({"fine": 1})));
    }
    fixture.stop().await;
}

/// The zygotes of the back end in `folder`, started by this process.
fn zygotes_of(folder: &std::path::Path) -> Vec<rustix::process::Pid> {
    let (own, folder) = (format!("\nPPid:\t{}\n", std::process::id()), folder.to_str().expect("UTF-8"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if status.contains(&own) && command.contains(folder) && command.contains("/zygote.py\0") {
            found.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    found
}

#[tokio::test]
async fn every_version_of_python_runs() {
    let fixture = Fixture::start().await;
    let kinds: Vec<_> = fixture.backend.kinds().into_iter().filter(|kind| kind.starts_with("python:")).collect();
    assert!(!kinds.is_empty());
    for kind in kinds {
        let subject = Subject { kind: &kind, ..subject(&fixture) };
        let version = text("import sys\ndef main(args): return {'version': 'python:%d.%d' % sys.version_info[:2]}");
        let (_, result, logs) = once(&subject, version, "main", json!({})).await;
        assert_eq!(result, json!({ "version": kind }), "{logs}");
    }
    fixture.stop().await;
}
