use std::time::Duration;

use node::runtime::{Answer, AnswerBody, AnswerLimits, Endpoint, InitVerdict, Observed};
use protocol::{ActivationStatus, ByteSize};
use serde_json::{Value, json};

use crate::{
    suite::{ABNORMAL_INIT, ABNORMAL_RUN, Program, Running, Subject, run_all},
    support::{Fixture, binary, noise, targz, text, zip},
};

pub fn code(program: Program) -> Option<(String, bool)> {
    Some(text(match program {
        Program::Echo => {
            "function main(args) { console.log('hello stdout'); console.error('hello stderr'); return args }"
        }
        Program::Repeat => "const main = ({ n }) => ({ text: 'x'.repeat(n) })",
        Program::Scalar => "const main = () => 5",
        Program::ApplicationError => "const main = () => ({ error: 'planned', other: 1 })",
        Program::Exit => "function main(args) { if (args.exit) process.exit(3); return args }",
        Program::Hang => "function main(args) { return args.hang ? new Promise(() => {}) : args }",
        Program::HangInInit => "for (;;);",
        Program::ExitInInit => "process.exit(0)",
        Program::ExhaustMemory => "function main() { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)) }",
        Program::Flood => {
            "function main({ lines }) { for (let i = 0; i < lines; i++) console.log('y'.repeat(100)); return {} }"
        }
        Program::Environment => {
            "function main({ names }) { \
             return Object.fromEntries(names.map((name) => [name, process.env[name] ?? null])) }"
        }
    }))
}

fn subject(fixture: &Fixture) -> Subject<'_> {
    Subject {
        backend: &fixture.backend,
        kind: fixture.nodejs(),
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
    for sandboxed in [true, false] {
        let fixture = Fixture::with_sandbox(sandboxed).await;
        run_all(&subject(&fixture)).await;
        fixture.stop().await;
    }
}

const LONG: Duration = Duration::from_secs(60);

/// Initializes `code` with entry `main` and runs it once.
async fn once(subject: &Subject<'_>, code: (String, bool), main: &str, arguments: Value) -> (ActivationStatus, Value) {
    let mut running = Running::start(subject).await;
    let value = json!({"name": "test", "main": main, "code": code.0, "binary": code.1, "env": {}});
    let outcome = match running.init_value(value, LONG).await {
        InitVerdict::Failed { response, .. } => {
            let result = response.result.expect("a result").read().expect("JSON");
            (response.status, result)
        }
        InitVerdict::Initialized => {
            let finished = running.run(arguments).await;
            (finished.response.status, finished.result())
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
    let refused = "The action did not produce a valid JSON or JSON Array response: null";
    let cases = [
        ("main = () => undefined", Success, json!({})),
        ("main = () => [1, 2]", Success, json!([1, 2])),
        ("main = async (args) => ({ ...args, b: 2 })", Success, json!({"a": 1, "b": 2})),
        (
            "main = () => new Promise((done) => setTimeout(() => done({ late: true }), 20))",
            Success,
            json!({"late": true}),
        ),
        ("main = () => null", DeveloperError, json!({ "error": refused })),
        ("main = () => 'text'", DeveloperError, json!({"error": "The action did not return a dictionary."})),
        ("main = () => () => 1", DeveloperError, json!({"error": "The action did not return a dictionary."})),
        (
            "main = () => { throw new Error('Extraordinary exception') }",
            DeveloperError,
            json!({"error": "An error has occurred: Error: Extraordinary exception"}),
        ),
        ("main = () => { throw 'text' }", DeveloperError, json!({"error": "An error has occurred: text"})),
        ("main = () => Promise.reject('refused')", ApplicationError, json!({"error": "refused"})),
        ("main = () => Promise.reject()", ApplicationError, json!({"error": {}})),
        (
            "main = () => Promise.reject({ code: 7, deep: { a: [1] } })",
            ApplicationError,
            json!({"error": {"code": 7, "deep": {"a": [1]}}}),
        ),
        ("main = () => { const a = {}; a.a = a; return a }", DeveloperError, json!({"error": "Internal error."})),
        (
            "main = () => { setTimeout(() => { throw 1 }, 1); return new Promise(() => {}) }",
            DeveloperError,
            json!({"error": ABNORMAL_RUN}),
        ),
    ];
    for (code, status, result) in cases {
        assert_eq!(once(&subject, text(code), "main", json!({"a": 1})).await, (status, result), "{code}");
    }
    let (status, result) = once(
        &subject,
        text("main = async () => { throw Object.assign(new TypeError('no'), { extra: 1 }) }"),
        "main",
        json!({}),
    )
    .await;
    assert_eq!(status, ApplicationError);
    let error = &result["error"];
    assert_eq!((&error["name"], &error["message"], &error["extra"]), (&json!("TypeError"), &json!("no"), &json!(1)));
    assert!(error["stack"].as_str().is_some_and(|stack| stack.starts_with("TypeError: no\n")), "{error}");
    fixture.stop().await;
}

#[tokio::test]
async fn whoever_looks_at_the_environment_finds_the_run_that_is_on() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let ways = [
        // Each run may look in another way; the first does not look.
        "const looks = [() => undefined, () => undefined, () => process.env.__OW_ACTIVATION_ID, () => \
         ({ ...process.env }).__OW_ACTIVATION_ID, () => require('child_process').execSync('echo $__OW_ACTIVATION_ID')\
         .toString().trim()]; const main = () => ({ id: looks.length > 1 ? looks.shift()() : looks[0]() })",
        "const { env } = process; const main = () => ({ id: env.__OW_ACTIVATION_ID })",
        "const { env } = require('process'); const main = () => ({ id: env.__OW_ACTIVATION_ID })",
        "const main = () => ({ id: require('child_process').execSync('echo $__OW_ACTIVATION_ID').toString().trim() })",
        "let kept; const main = () => { kept ??= Object.entries(Object.getOwnPropertyDescriptors(process)) \
         .find(([name]) => name === 'env'); return { id: (kept[1].value ?? kept[1].get()).__OW_ACTIVATION_ID } }",
    ];
    for way in ways {
        let mut running = Running::start(&subject).await;
        assert!(matches!(running.init(&text(way), LONG).await, InitVerdict::Initialized), "{way}");
        let mut seen = Vec::new();
        for id in ["one", "two", "three", "four", "five", "six"] {
            let body = json!({"value": {}, "activation_id": id}).to_string();
            let called = running.call(Endpoint::Run, body.as_bytes(), LONG, AnswerLimits::default()).await;
            let Observed::Answer(Answer { body: AnswerBody::Whole(body), .. }) = called.observed else {
                panic!("{way}: {called:?}")
            };
            let result: Value = serde_json::from_slice(&body).expect("JSON");
            seen.push((result.get("id").cloned(), id));
        }
        assert!(seen.iter().all(|(found, id)| found.as_ref().is_none_or(|found| found == id)), "{way}: {seen:?}");
        assert!(seen.iter().filter(|(found, _)| found.is_some()).count() >= 4, "{way}: {seen:?}");
        running.destroy().await;
    }
    let whole = "process.env = { mine: 'yes' }; const main = () => ({ env: process.env })";
    let answer = once(&subject, text(whole), "main", json!({})).await;
    assert_eq!(answer, (ActivationStatus::Success, json!({"env": {"mine": "yes"}})), "it may be replaced as a whole");
    fixture.stop().await;
}

#[tokio::test]
async fn entries_are_found_where_they_may_be() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let found = json!({"found": true});
    for (code, main) in [
        ("function niam() { return { found: true } }", "niam"),
        ("exports.niam = () => ({ found: true })", "niam"),
        ("module.exports = { niam: () => ({ found: true }) }", "niam"),
        ("global.niam = () => ({ found: true })", "niam"),
        ("const a = { b: () => ({ found: true }) } // no line end", "a.b"),
        ("'use strict'; const path = require('path'); const main = () => ({ found: !!path.join })", "main"),
    ] {
        let outcome = once(&subject, text(code), main, json!({})).await;
        assert_eq!(outcome, (ActivationStatus::Success, found.clone()), "{code}");
    }
    let (status, result) = once(&subject, text("const main = 5"), "main", json!({})).await;
    assert_eq!(status, ActivationStatus::DeveloperError);
    let expected = "Initialization has failed due to: Action entrypoint 'main' is not a function.";
    assert_eq!(result, json!({"error": expected}));
    for (code, name) in
        [("x y", "SyntaxError"), ("missing()", "ReferenceError"), ("import fs from 'fs'", "SyntaxError")]
    {
        let (status, result) = once(&subject, text(code), "main", json!({})).await;
        assert_eq!(status, ActivationStatus::DeveloperError);
        let error = result["error"].as_str().expect("a text");
        assert!(error.starts_with(&format!("Initialization has failed due to: {name}")), "{error}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn archives_are_unpacked_and_loaded() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let package = br#"{"main": "lib/start.js"}"#.as_slice();
    let module =
        b"exports.main = (a) => ({ sum: require('adder')(a.x, 1), here: require('fs').existsSync('data.txt') });
        exports.deep = { er: () => ({ deep: true }) }"
            .as_slice();
    let adder = b"module.exports = (a, b) => a + b".as_slice();
    let files = [
        ("package.json", package),
        ("lib/start.js", module),
        ("data.txt", b"x".as_slice()),
        ("node_modules/adder/index.js", adder),
        ("other.js", b"exports.fn = () => ({ other: true })".as_slice()),
    ];
    for archive in [zip(&files), targz(&files)] {
        let cases = [
            ("main", json!({"sum": 42, "here": true})),
            ("lib/start.deep.er", json!({"deep": true})),
            ("other.fn", json!({"other": true})),
        ];
        for (main, expected) in cases {
            let outcome = once(&subject, binary(&archive), main, json!({"x": 41})).await;
            assert_eq!(outcome, (ActivationStatus::Success, expected), "{main}");
        }
    }
    let index = zip(&[("index.js", b"exports.main = () => ({ index: true })")]);
    assert_eq!(once(&subject, binary(index), "main", json!({})).await.1, json!({"index": true}));
    fixture.stop().await;
}

#[tokio::test]
async fn bad_archives_fail_in_the_words_of_the_reference() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let broken = [b"PK\x03\x04".as_slice(), &[0; 100]].concat();
    let cases = [
        (zip(&[("other.js", b"")]), "Zipped actions must contain either package.json or index.js at the root."),
        (b"neither".to_vec(), "There was an error uncompressing the action archive. The file type is unsupported"),
        (broken, "There was an error uncompressing the action Zip archive."),
        (zip(&[("index.js", b""), ("../../evil", b"")]), "There was an error uncompressing the action Zip archive."),
        (zip(&[("index.js", b"exports.main = 1")]), "Action entrypoint 'main' is not a function."),
    ];
    for (archive, reason) in cases {
        let outcome = once(&subject, binary(archive), "main", json!({})).await;
        let expected = json!({ "error": format!("Initialization has failed due to: {reason}") });
        assert_eq!(outcome, (ActivationStatus::DeveloperError, expected));
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_20_mb_archive_works() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let noise = noise(20 << 20);
    let index = b"exports.main = () => ({ size: require('fs').statSync('noise').size })";
    let archive = zip(&[("index.js", index), ("noise", &noise)]);
    assert!(archive.len() > 20 << 20);
    let outcome = once(&subject, binary(archive), "main", json!({})).await;
    assert_eq!(outcome, (ActivationStatus::Success, json!({"size": 20 << 20})));
    fixture.stop().await;
}

#[tokio::test]
async fn state_is_kept_between_runs_and_overlapping_output_is_not_lost() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let mut running = Running::start(&subject).await;
    let counting = text("let n = 0; function main() { process.stdout.write('z'.repeat(300000)); return { n: ++n } }");
    assert_eq!(running.init(&counting, LONG).await, InitVerdict::Initialized);
    for n in 1..4 {
        let finished = running.run(json!({})).await;
        assert_eq!(finished.result(), json!({ "n": n }));
        assert!(!finished.logs.unreliable, "{:?}", finished.lines().last());
        // 300,000 bytes in pieces of 16 KiB, the last of which is lost with the sentinel that is glued to it.
        assert_eq!(finished.lines().len(), 300_000 / (16 << 10));
    }
    running.destroy().await;
    fixture.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_bad_requests() {
    let fixture = Fixture::start().await;
    let subject = subject(&fixture);
    let mut running = Running::with(&subject, Program::Echo).await.expect("a program");
    for body in ["{", "5", "null"] {
        let outcome = running
            .call(node::runtime::Endpoint::Run, body.as_bytes(), LONG, node::runtime::AnswerLimits::default())
            .await;
        match outcome.observed {
            node::runtime::Observed::Answer(answer) => {
                assert_eq!(answer.status, 500);
                let body = node::runtime::AnswerBody::Whole(br#"{"error":"Bad request."}"#.to_vec());
                assert_eq!(answer.body, body);
            }
            other => panic!("{other:?}"),
        }
    }
    running.destroy().await;
    fixture.stop().await;
}
