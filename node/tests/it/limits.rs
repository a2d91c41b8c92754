//! `…/limits`, and what they limit.

use node::auth::LimitsUpdate;
use serde_json::json;

use super::{client::Client, golden, set_limits, user};

#[test]
fn limits_of_a_namespace() {
    let user = user("it-limits");
    golden("limits", &user.get("limits").ok());
    user.get("limits/x").refused(400, "Inner entity level routes for limits are not yet implemented.");
    let limits = LimitsUpdate {
        max_action_memory: Some(256),
        allowed_kinds: Some(vec!["python:3.11".into()]),
        store_activations: Some(true),
        max_parameter_size: Some("1 KB".into()),
        concurrent_invocations: Some(2),
        ..LimitsUpdate::default()
    };
    set_limits("it-limits", &limits);
    golden("limits_own", &user.get("limits/").ok());

    let action = |kind: &str, limits: serde_json::Value, parameters: serde_json::Value| {
        let body = json!({"exec": {"kind": kind, "code": ""}, "limits": limits, "parameters": parameters});
        user.put("actions/a", &body)
    };
    action("python:3.11", json!({"memory": 257}), json!([]))
        .refused(400, "requirement failed: memory size 257 MB exceeds allowed threshold of 256 MB");
    action("nodejs:20", json!({}), json!([]))
        .refused(403, "The supplied authentication is not authorized to access actions of kind 'nodejs:20'.");
    action("python:3.11", json!({"instances": 3}), json!([]))
        .refused(400, "Max action instance concurrency must not exceed your namespace concurrency of 2.");
    action("python:3.11", json!({}), json!([{"key": "k", "value": "x".repeat(1022)}]))
        .refused(413, "parameters larger than allowed: 1025 > 1024 bytes.");
    let created = action("python:3.11", json!({"memory": 256, "instances": 2}), json!([])).ok();
    assert_eq!(
        created["limits"],
        json!({"timeout": 60000, "memory": 256, "logs": 10, "concurrency": 1, "instances": 2})
    );
}

#[test]
fn bounds_of_an_actions_limits() {
    let user = user("it-bounds");
    for (limits, text) in [
        (json!({"memory": 513}), "requirement failed: memory size 513 MB exceeds allowed threshold of 512 MB"),
        (json!({"memory": 127}), "requirement failed: memory size 127 MB below allowed threshold of 128 MB"),
        (
            json!({"timeout": 300001}),
            "requirement failed: duration 300001 milliseconds exceeds allowed threshold of 300000 milliseconds",
        ),
        (
            json!({"timeout": 99}),
            "requirement failed: duration 99 milliseconds below allowed threshold of 100 milliseconds",
        ),
        (json!({"logs": 11}), "requirement failed: log size 11 MB exceeds allowed threshold of 10 MB"),
        (json!({"concurrency": 2}), "requirement failed: concurrency 2 exceeds allowed threshold of 1"),
        (
            json!({"timeout": 1.5}),
            "The request content was malformed:\nrequirement failed: time limit must be whole number",
        ),
        (json!({"timeout": "1"}), "The request content was malformed:\ntime limit malformed"),
        (
            json!({"memory": -1}),
            "The request content was malformed:\nrequirement failed: a negative size of an object is not allowed.",
        ),
        (
            json!({"instances": -1}),
            "The request content was malformed:\nrequirement failed: Action container concurrency must be greater than or equal to 0.",
        ),
    ] {
        let body = json!({"exec": {"kind": "nodejs:20", "code": ""}, "limits": limits});
        user.put("actions/a", &body).refused(400, text);
        // Whether the action is there makes no difference.
        user.action("there", &json!({"exec": {"kind": "nodejs:20", "code": ""}}));
        user.put("actions/there", &body).refused(400, text);
    }
}

/// Creates `name`, which answers `body`.
fn answering(user: &Client, name: &str, limits: &serde_json::Value, body: &serde_json::Value) {
    let code = json!({"run": {"then": {"answer": {"status": 200, "body": body}}}}).to_string();
    user.action(name, &json!({"exec": {"kind": "nodejs:20", "code": code}, "limits": limits}));
}

#[test]
fn payloads_and_results_of_a_namespace_have_its_own_limits() {
    let (roomy, tight) = (user("it-roomy"), user("it-tight"));
    let limits = LimitsUpdate {
        max_payload_size: Some("1 KB".into()),
        truncation_size: Some("10 B".into()),
        ..LimitsUpdate::default()
    };
    set_limits("it-tight", &limits);
    // `{"a":"…"}` around the text.
    let (fits, exceeds) = (json!({"a": "x".repeat(1024 - 8)}), json!({"a": "x".repeat(1024 - 7)}));
    for (user, too_long) in [(&tight, true), (&roomy, false)] {
        answering(user, "fits", &json!({}), &fits);
        answering(user, "exceeds", &json!({}), &exceeds);
        let run = |name: &str, payload: &serde_json::Value| {
            user.post(&format!("actions/{name}?blocking=true&result=true"), payload)
        };
        assert_eq!(run("fits", &fits).ok(), fits);
        if too_long {
            run("fits", &exceeds).refused(413, "Request larger than allowed: 1025 > 1024 bytes.");
            let answer = run("exceeds", &json!({}));
            assert_eq!(answer.status, 502);
            let text = "The action produced a response that exceeded the allowed length: 1025 > 1024 bytes. \
                        The truncated response was: {\"a\":\"xxxx";
            assert_eq!(answer.json(), json!({ "error": text }));
            let id = user.post("actions/exceeds", &json!({})).json()["activationId"].as_str().unwrap().to_owned();
            let response = user.record(&id)["response"].clone();
            assert_eq!(
                response,
                json!({"result": {"error": text}, "size": 1025, "success": false, "status": "application error"})
            );
        } else {
            assert_eq!(run("exceeds", &exceeds).ok(), exceeds);
        }
    }
}

#[test]
fn stored_limits_beyond_those_of_the_namespace_keep_an_action_from_running() {
    let user = user("it-shrunk");
    answering(&user, "a", &json!({"memory": 512, "timeout": 120000, "logs": 0}), &json!({}));
    user.post("actions/a?blocking=true", &json!({})).ok();
    for (limits, text) in [
        (
            LimitsUpdate { max_action_memory: Some(256), ..LimitsUpdate::default() },
            "memory size 512 MB exceeds allowed threshold of 256 MB",
        ),
        (
            LimitsUpdate {
                max_action_memory: Some(512),
                max_action_timeout: Some(60000),
                min_action_logs: Some(1),
                ..LimitsUpdate::default()
            },
            "duration 120000 milliseconds exceeds allowed threshold of 60000 milliseconds",
        ),
        (
            LimitsUpdate { max_action_timeout: Some(300000), ..LimitsUpdate::default() },
            "log size 0 MB below allowed threshold of 1 MB",
        ),
    ] {
        set_limits("it-shrunk", &limits);
        let blocking = user.post("actions/a?blocking=true&result=true", &json!({}));
        assert_eq!((blocking.status, blocking.json()), (502, json!({ "error": text })));
        let accepted = user.post("actions/a", &json!({}));
        assert_eq!(accepted.status, 202, "{accepted:?}");
        for id in [blocking.header("x-openwhisk-activation-id"), accepted.header("x-openwhisk-activation-id")] {
            let record = user.record(&id.expect("an id"));
            assert_eq!(record["response"]["result"], json!({ "error": text }));
            golden(
                "activation_beyond_limits",
                &json!({
                    "annotations": record["annotations"], "logs": record["logs"], "name": record["name"],
                    "version": record["version"], "status": record["response"]["status"], "duration": record["duration"],
                    "took": record["end"].as_u64().unwrap() - record["start"].as_u64().unwrap(),
                }),
            );
        }
    }
    set_limits("it-shrunk", &LimitsUpdate { min_action_logs: Some(0), ..LimitsUpdate::default() });
    user.post("actions/a?blocking=true", &json!({})).ok();
}

#[test]
fn what_fits_into_no_log_entry_is_refused_and_what_must_be_recorded_fits() {
    let user = user("it-entries");
    let entries = |key: &str| json!([{"key": key, "value": "x".repeat(900_000)}]);
    user.put("packages/p", &json!({ "parameters": entries("a") })).ok();
    answering(&user, "p/a", &json!({}), &json!({}));
    user.action("p/a", &json!({ "parameters": entries("b") }));
    let payload = json!({"c": "x".repeat(900_000)});
    user.post("actions/p/a", &payload)
        .refused(413, "The request content is larger than the server is willing or able to process.");
    // Who waits for the result needs no entry.
    user.post("actions/p/a?blocking=true", &payload).ok();

    // Each character of it takes four times as much in the record.
    answering(&user, "quotes", &json!({}), &json!({"a": "\"".repeat(600_000)}));
    for query in ["?blocking=true", ""] {
        let id = user.post(&format!("actions/quotes{query}"), &json!({})).header("x-openwhisk-activation-id").unwrap();
        let record = user.record(&id);
        let text = record["response"]["result"]["error"].as_str().unwrap();
        let start = "The action produced a response that exceeded the allowed length: 1200008 > 1048576 bytes. \
                     The truncated response was: {\"a\":\"\\\"\\\"";
        assert!(text.starts_with(start), "{}", &text[..200]);
        assert_eq!(record["response"]["size"], 1_200_008);
    }
}
