use node::containers::backend::simulated::{Script, SimulatedBackend, Step, Then};
use protocol::ByteSize;
use serde_json::{Value, json};

use crate::suite::{ABNORMAL_INIT, ABNORMAL_RUN, Program, Running, Subject, run_all};

fn step(then: Then) -> Step {
    Step { then, ..Step::default() }
}

/// The programs as scripts. A script cannot look at its arguments, so some do always what others do on demand.
fn code(program: Program) -> Option<(String, bool)> {
    let answer = |body: Value| Then::Answer { status: 200, body };
    let dictionary = json!({"error": "The action did not return a dictionary."});
    let (init, run) = match program {
        Program::Echo => {
            let echo =
                Step { stdout: vec!["hello stdout".into()], stderr: vec!["hello stderr".into()], ..Step::default() };
            (Step::default(), echo)
        }
        Program::Scalar => (Step::default(), step(Then::Answer { status: 502, body: dictionary })),
        Program::ApplicationError => (Step::default(), step(answer(json!({"error": "planned"})))),
        Program::Exit => (Step::default(), step(Then::Exit)),
        Program::Hang => (Step::default(), step(Then::Hang)),
        Program::HangInInit => (step(Then::Hang), Step::default()),
        Program::ExitInInit => (step(Then::Exit), Step::default()),
        Program::ExhaustMemory => (Step::default(), step(Then::OutOfMemory)),
        Program::Repeat | Program::Flood | Program::Environment => return None,
    };
    Some((serde_json::to_string(&Script { init, run }).expect("a script is JSON"), false))
}

fn subject(backend: &SimulatedBackend) -> Subject<'_> {
    Subject {
        backend,
        kind: "nodejs:20",
        image: None,
        memory: ByteSize::mib(256),
        code: &code,
        limits_memory: true,
        exited: ABNORMAL_RUN,
        exited_in_init: ABNORMAL_INIT,
    }
}

#[tokio::test]
async fn the_contract_holds() {
    let backend = SimulatedBackend::default();
    run_all(&subject(&backend)).await;
    assert_eq!(backend.alive(), 0);
    assert!(backend.created() > 10);
}

#[tokio::test]
async fn garbage_is_an_abnormal_end() {
    let backend = SimulatedBackend::default();
    for garbage in ["nonsense", "HTTP/1.1 200 OK\r\n\r\n{}", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"] {
        let script = Script { run: step(Then::Raw(garbage.into())), ..Script::default() };
        let mut running = Running::start(&subject(&backend)).await;
        let code = (serde_json::to_string(&script).expect("a script is JSON"), false);
        running.init(&code, std::time::Duration::from_secs(10)).await;
        let finished = running.run(json!({})).await;
        assert_eq!(finished.result(), json!({"error": ABNORMAL_RUN}), "{garbage}");
        running.destroy().await;
    }
}
