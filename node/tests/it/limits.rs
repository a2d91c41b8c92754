//! `…/limits`, and what they limit.

use node::auth::LimitsUpdate;
use serde_json::json;

use super::{golden, set_limits, user};

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
