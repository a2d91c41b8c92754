use std::io;

use super::*;
use crate::runtime::proxy_client::Answer;

const TIMEOUT: Duration = Duration::from_secs(3);

fn after(ms: u64, observed: Observed) -> CallOutcome {
    CallOutcome { observed, elapsed: Duration::from_millis(ms) }
}

fn answer(status: u16, body: &str) -> CallOutcome {
    after(10, Observed::Answer(Answer { status, body: AnswerBody::Whole(body.into()) }))
}

fn lost() -> Observed {
    Observed::Lost(io::ErrorKind::UnexpectedEof.into())
}

fn too_long(status: u16) -> CallOutcome {
    let body =
        AnswerBody::TooLong { length: 2_000_000, limit: protocol::ByteSize::mib(1), prefix: b"{\"a\":\"\xc3".into() };
    after(10, Observed::Answer(Answer { status, body }))
}

fn run(outcome: &CallOutcome) -> (ActivationStatus, String, Option<u64>) {
    match classify_run(outcome, TIMEOUT, Loss::Unexplained) {
        RunVerdict::Finished { response, timed_out, keep_container } => {
            assert!(!timed_out);
            assert_eq!(
                keep_container,
                matches!(response.status, ActivationStatus::Success | ActivationStatus::ApplicationError)
            );
            (response.status, response.result.unwrap().as_str().to_owned(), response.size)
        }
        RunVerdict::Reschedule => panic!("rescheduled"),
    }
}

fn init(outcome: &CallOutcome) -> (ActivationStatus, String, Option<u64>) {
    match classify_init(outcome, TIMEOUT, Loss::Unexplained) {
        InitVerdict::Failed { response, timed_out: false } => {
            (response.status, response.result.unwrap().as_str().to_owned(), response.size)
        }
        other => panic!("{other:?}"),
    }
}

use ActivationStatus::{ApplicationError, DeveloperError, Success};

#[test]
fn every_status_and_body_of_run() {
    let invalid = |body: &str| {
        let text = if body.is_empty() { ".".to_owned() } else { format!(": {body}") };
        serde_json::json!({"error": format!("The action did not produce a valid JSON or JSON Array response{text}")})
            .to_string()
    };
    let cases: &[(u16, &str, ActivationStatus, String)] = &[
        (200, r#"{}"#, Success, "{}".into()),
        (200, " {\"a\": {\"error\": 1}}\n", Success, r#"{"a": {"error": 1}}"#.into()),
        (200, r#"[1,{"error":2}]"#, Success, r#"[1,{"error":2}]"#.into()),
        (200, r#"{"n":12345678901234567890123.50}"#, Success, r#"{"n":12345678901234567890123.50}"#.into()),
        (200, r#"{"a":1,"error":{"x":[1, 2]},"b":2}"#, ApplicationError, r#"{"error":{"x":[1, 2]}}"#.into()),
        (200, r#"{"error":null}"#, ApplicationError, r#"{"error":null}"#.into()),
        (200, "{\"err\\u006fr\":false}", ApplicationError, r#"{"error":false}"#.into()),
        (200, r#"{"error":1,"error":2}"#, ApplicationError, r#"{"error":2}"#.into()),
        (502, r#"{"error":"boom","x":1}"#, DeveloperError, r#"{"error":"boom"}"#.into()),
        (400, r#"{"error":"command exited"}"#, DeveloperError, r#"{"error":"command exited"}"#.into()),
        (201, r#"{"error":"e"}"#, DeveloperError, r#"{"error":"e"}"#.into()),
        (201, r#"{"a":1}"#, DeveloperError, invalid(r#"{"a":1}"#)),
        (500, "[1]", DeveloperError, invalid("[1]")),
        (200, "null\n", DeveloperError, invalid("null\n")),
        (200, "true", DeveloperError, invalid("true")),
        (200, "\"text\"", DeveloperError, invalid("\"text\"")),
        (200, "-1.5e3", DeveloperError, invalid("-1.5e3")),
        (200, "7", DeveloperError, invalid("7")),
        (200, "not json", DeveloperError, invalid("not json")),
        (200, "{} {}", DeveloperError, invalid("{} {}")),
        (200, "{\"a\":}", DeveloperError, invalid("{\"a\":}")),
        (200, "[1,", DeveloperError, invalid("[1,")),
        (200, "", DeveloperError, invalid("")),
        (502, "", DeveloperError, invalid("")),
    ];
    for (status, body, expected, result) in cases {
        let size = Some(body.len() as u64);
        assert_eq!(run(&answer(*status, body)), (*expected, result.clone(), size), "{status} {body}");
    }
}

#[test]
fn size_counts_characters() {
    assert_eq!(run(&answer(200, "{\"a\":\"é𝄞\"}")).2, Some(10));
    assert_eq!(init(&answer(500, "é")).2, Some(1));
}

#[test]
fn deep_nesting_costs_no_stack() {
    let depth = 1_000_000;
    let body = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(run(&answer(200, &body)).0, Success);
    assert_eq!(run(&answer(200, &body[..body.len() - 2])).0, DeveloperError);
}

#[test]
fn a_body_beyond_the_limit_is_an_application_error_at_run_and_a_developer_error_at_init() {
    let text = r#"{"error":"The action produced a response that exceeded the allowed length: 2000000 > 1048576 bytes. The truncated response was: {\"a\":\""}"#;
    for status in [200, 502] {
        assert_eq!(run(&too_long(status)), (ApplicationError, text.to_owned(), Some(2_000_000)));
        assert_eq!(init(&too_long(status)), (DeveloperError, text.to_owned(), Some(2_000_000)));
    }
}

#[test]
fn run_without_an_answer() {
    let text = r#"{"error":"The action did not produce a valid response and exited unexpectedly."}"#;
    assert_eq!(run(&after(10, lost())), (DeveloperError, text.to_owned(), None));
    match classify_run(&after(10, lost()), TIMEOUT, Loss::OutOfMemory) {
        RunVerdict::Finished { response, timed_out: false, keep_container: false } => {
            let text = r#"{"error":"The action exhausted its memory and was aborted."}"#;
            assert_eq!((response.status, response.result.unwrap().as_str()), (DeveloperError, text));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn run_beyond_its_time() {
    let late_answer = Observed::Answer(Answer { status: 200, body: AnswerBody::Whole(b"{}".into()) });
    for outcome in [after(3001, Observed::TimedOut), after(3000, late_answer), after(3000, lost())] {
        match classify_run(&outcome, TIMEOUT, Loss::Unexplained) {
            RunVerdict::Finished { response, timed_out: true, keep_container: false } => {
                let text = r#"{"error":"The action exceeded its time limits of 3000 milliseconds."}"#;
                assert_eq!((response.status, response.result.unwrap().as_str()), (DeveloperError, text));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn work_that_no_container_took_is_rescheduled() {
    let refused = || after(1, Observed::NotSent(io::ErrorKind::BrokenPipe.into()));
    assert_eq!(classify_run(&refused(), TIMEOUT, Loss::Unexplained), RunVerdict::Reschedule);
    assert_eq!(classify_init(&refused(), TIMEOUT, Loss::Unexplained), InitVerdict::Reschedule);
    assert_eq!(classify_run(&answer(503, "{\"error\":1}"), TIMEOUT, Loss::Unexplained), RunVerdict::Reschedule);
    assert_eq!(classify_init(&answer(503, ""), TIMEOUT, Loss::Unexplained), InitVerdict::Reschedule);
    let late = after(4000, Observed::Answer(Answer { status: 503, body: AnswerBody::Whole(Vec::new()) }));
    assert_eq!(classify_run(&late, TIMEOUT, Loss::Unexplained), RunVerdict::Reschedule);
}

#[test]
fn every_answer_of_init() {
    assert_eq!(classify_init(&answer(200, ""), TIMEOUT, Loss::Unexplained), InitVerdict::Initialized);
    let late = after(9000, Observed::Answer(Answer { status: 200, body: AnswerBody::Whole(b"{\"OK\":true}".into()) }));
    assert_eq!(classify_init(&late, TIMEOUT, Loss::Unexplained), InitVerdict::Initialized);
    let cases = [
        (502, r#"{"error":{"a":1},"b":2}"#, r#"{"error":{"a":1}}"#.to_owned()),
        (403, "", r#"{"error":"The action failed during initialization."}"#.to_owned()),
        (500, "oops", r#"{"error":"The action failed during initialization: oops"}"#.to_owned()),
        (204, r#"{"a":1}"#, r#"{"error":"The action failed during initialization: {\"a\":1}"}"#.to_owned()),
    ];
    for (status, body, result) in cases {
        assert_eq!(init(&answer(status, body)), (DeveloperError, result, Some(body.len() as u64)));
    }
    let text = r#"{"error":"The action did not initialize and exited unexpectedly."}"#;
    assert_eq!(init(&after(10, lost())), (DeveloperError, text.to_owned(), None));
}

#[test]
fn init_without_an_answer() {
    let never_listened = Observed::NotSent(io::ErrorKind::ConnectionRefused.into());
    for outcome in [after(3001, Observed::TimedOut), after(3001, lost()), after(3000, never_listened)] {
        match classify_init(&outcome, TIMEOUT, Loss::Unexplained) {
            InitVerdict::Failed { response, timed_out: true } => {
                let text =
                    r#"{"error":"The action exceeded its time limits of 3000 milliseconds during initialization."}"#;
                assert_eq!((response.status, response.result.unwrap().as_str()), (DeveloperError, text));
            }
            other => panic!("{other:?}"),
        }
    }
    match classify_init(&after(3001, lost()), TIMEOUT, Loss::CommandExited) {
        InitVerdict::Failed { timed_out: true, .. } => {}
        other => panic!("{other:?}"),
    }
    match classify_init(&after(10, lost()), TIMEOUT, Loss::OutOfMemory) {
        InitVerdict::Failed { response, timed_out: false } => {
            assert_eq!(
                response.result.unwrap().as_str(),
                r#"{"error":"The action exhausted its memory and was aborted."}"#
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_node_kills_when_it_stops_is_not_the_actions_fault() {
    let InitVerdict::Failed { response: init, timed_out: false } =
        classify_init(&after(10, lost()), TIMEOUT, Loss::NodeStopped)
    else {
        panic!("not failed")
    };
    let RunVerdict::Finished { response: run, timed_out: false, keep_container: false } =
        classify_run(&after(10, lost()), TIMEOUT, Loss::NodeStopped)
    else {
        panic!("not failed")
    };
    assert_eq!((init.status, run.status), (ActivationStatus::WhiskError, ActivationStatus::WhiskError));
}

/// As an answer of the proxy would be: see `400 command exited` above.
#[test]
fn the_end_of_a_command_is_told_as_by_its_proxy() {
    let answer = "{\"error\":\"Cannot start action. Check logs for details.\"}\n";
    let InitVerdict::Failed { response, timed_out: false } =
        classify_init(&after(10, lost()), TIMEOUT, Loss::CommandExited)
    else {
        panic!("not failed")
    };
    let told = (response.status, response.result.unwrap().as_str().to_owned(), response.size);
    assert_eq!(told, init(&self::answer(502, answer)));
    let RunVerdict::Finished { response, timed_out: false, keep_container: false } =
        classify_run(&after(10, lost()), TIMEOUT, Loss::CommandExited)
    else {
        panic!("not failed")
    };
    let told = (response.status, response.result.unwrap().as_str().to_owned(), response.size);
    assert_eq!(told, run(&self::answer(400, "{\"error\":\"command exited\"}\n")));
    // An answer is not overruled, nor is the time.
    assert_eq!(
        classify_run(&self::answer(200, "{}"), TIMEOUT, Loss::CommandExited),
        classify_run(&self::answer(200, "{}"), TIMEOUT, Loss::Unexplained)
    );
    assert!(matches!(
        classify_run(&after(3000, lost()), TIMEOUT, Loss::CommandExited),
        RunVerdict::Finished { timed_out: true, .. }
    ));
}

/// What does not fit into its entry would never be recorded.
#[test]
fn no_text_is_longer_than_a_record_holds() {
    for character in ["\u{1}", "\"", "\\", "a", "é", "\u{7f}", "\u{1F600}"] {
        let body = character.repeat((1 << 20) / character.len());
        let (_, result, size) = run(&answer(200, &body));
        assert!(result.len() <= LONGEST_RESULT, "{character:?} gives {}", result.len());
        assert_eq!(size, Some(body.chars().count() as u64));
        let text: serde_json::Value = serde_json::from_str(&result).unwrap();
        let text = text["error"].as_str().unwrap();
        let whole = format!("The action did not produce a valid JSON or JSON Array response: {body}");
        assert!(whole.starts_with(text));
        let escapes = serde_json::to_string(character).unwrap().len() - 2 > character.len();
        assert_eq!(text == whole, !escapes, "{character:?}: nothing is cut without need");
        assert!(text == whole || result.len() > LONGEST_RESULT - 80, "{character:?} gives {}", result.len());
    }
}
