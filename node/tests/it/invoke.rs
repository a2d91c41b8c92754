//! `POST …/actions/{name}`: how outcomes are answered.

use serde_json::{Value, json};

use super::{TestNode, client::Client, golden, user};

/// An action that does what `run` says.
pub fn script(user: &Client, name: &str, run: Value) {
    let code = json!({"run": run}).to_string();
    user.action(name, &json!({"exec": {"kind": "nodejs:20", "code": code}}));
}

#[test]
fn outcomes() {
    let user = user("it-invoke");
    let answer = |status: u16, body: Value| json!({"then": {"answer": {"status": status, "body": body}}});
    script(&user, "echo", json!({}));
    script(&user, "fails", answer(200, json!({"error": {"text": "no"}, "beside": 1})));
    script(&user, "breaks", answer(500, json!({"error": "broken"})));
    script(&user, "list", answer(200, json!([1, {"a": 2}])));
    script(&user, "exits", json!({"then": "exit"}));

    let blocking = user.post("actions/echo?blocking=true", &json!({"a": [1.5, "\u{e9}"]}));
    let id = blocking.header("x-openwhisk-activation-id").expect("an id");
    let record = blocking.ok();
    assert_eq!(record["activationId"], json!(id));
    golden("activation_blocking", &record);
    golden("activation", &user.record(&id));

    let result = user.post("actions/echo?blocking=true&result=true", &json!({"a": 1}));
    assert!(result.header("x-openwhisk-activation-id").is_some());
    assert_eq!(result.body, r#"{"a":1}"#);
    for (name, status, body) in [
        ("fails", 502, r#"{"error":{"text":"no"}}"#),
        ("breaks", 502, r#"{"error":"broken"}"#),
        ("list", 200, r#"[1,{"a":2}]"#),
        ("exits", 502, r#"{"error":"The action did not produce a valid response and exited unexpectedly."}"#),
    ] {
        let answer = user.post(&format!("actions/{name}?blocking=true&result=true"), &json!({}));
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{name}");
        assert!(answer.header("x-openwhisk-activation-id").is_some(), "{name}");
    }
    assert_eq!(user.post("actions/list?blocking=true", &json!({})).body, r#"[1,{"a":2}]"#, "bare, result or not");
    let failed = user.post("actions/fails?blocking=true", &json!({}));
    assert_eq!(failed.status, 502);
    assert_eq!(failed.json()["response"]["status"], "application error");

    for query in ["", "?blocking=false", "?result=true", "?timeout=5"] {
        let accepted = user.post(&format!("actions/echo{query}"), &json!({"n": 1}));
        assert_eq!(accepted.status, 202, "{accepted:?}");
        let id = accepted.header("x-openwhisk-activation-id").expect("an id");
        assert_eq!(accepted.json(), json!({"activationId": id}));
        assert_eq!(user.record(&id)["response"]["result"], json!({"n": 1}));
    }
}

#[test]
fn requests_that_are_refused() {
    let user = user("it-refused");
    script(&user, "echo", json!({}));
    user.post("actions/none?blocking=true", &json!({})).refused(404, "The requested resource does not exist.");
    user.post("actions/none", &json!([])).refused(400, "The request content was malformed:\nJSON object expected");
    for body in [json!([]), json!("a"), json!(1), json!(null)] {
        user.post("actions/echo", &body).refused(400, "The request content was malformed:\nJSON object expected");
    }
    for timeout in ["0", "60001", "-1", "x", "1.5"] {
        for blocking in ["true", "false"] {
            user.post(&format!("actions/echo?blocking={blocking}&timeout={timeout}"), &json!({})).refused(
                400,
                "The query parameter 'timeout' was malformed:\nTimeout must be number of milliseconds up to 60000.",
            );
        }
    }
    user.post("actions/echo?blocking=xyz", &json!({}))
        .refused(400, "The query parameter 'blocking' was malformed:\n'xyz' is not a valid Boolean value");
    user.send("POST", "actions/echo", &[], Some(b"{}")).refused(
        415,
        "The request's Content-Type [application/octet-stream] is not supported. Expected:\napplication/json",
    );
    // No body is an empty object, with or without a content type.
    for headers in [&[][..], &[("Content-Type", "application/json")]] {
        let answer = user.send("POST", "actions/echo?blocking=true&result=true", headers, None);
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }
}

#[test]
fn parameters_final_and_init() {
    let user = user("it-arguments");
    user.action("a", &json!({
        "exec": {"kind": "nodejs:20", "code": "x"},
        "parameters": [{"key": "a", "value": 1}, {"key": "b", "value": null}, {"key": "i", "value": "s", "init": true}],
    }));
    let run = |body: Value| user.post("actions/a?blocking=true&result=true", &body);
    assert_eq!(run(json!({})).ok(), json!({"a": 1, "b": null}));
    assert_eq!(run(json!({"a": {"x": 1}, "i": "gone", "c": 2})).ok(), json!({"a": {"x": 1}, "b": null, "c": 2}));
    user.action("a", &json!({"annotations": [{"key": "final", "value": true}]}));
    run(json!({"a": 1})).refused(400, "Request defines parameters that are not allowed (e.g., reserved properties).");
    assert_eq!(run(json!({"b": 2})).ok(), json!({"a": 1, "b": 2}));
}

#[test]
fn a_wait_that_is_over_ends_in_an_id_and_later_in_a_record() {
    let user = user("it-waits");
    script(&user, "slow", json!({"after_ms": 300}));
    let answer = user.post("actions/slow?blocking=true&timeout=20", &json!({"n": 1}));
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json()["activationId"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("x-openwhisk-activation-id").as_deref(), Some(id.as_str()));
    assert_eq!(user.record(&id)["response"]["result"], json!({"n": 1}));
}

/// Also by a panic.
struct SetWhenDropped<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The cache of resolved actions is never behind an answered write.
#[test]
fn what_is_invoked_after_a_write_is_what_was_written() {
    let user = user("it-fresh");
    let stop = std::sync::atomic::AtomicBool::new(false);
    user.put("packages/p", &json!({})).ok();
    user.action("p/a", &json!({"exec": {"kind": "nodejs:20", "code": "x"}}));
    std::thread::scope(|scope| {
        let _stop = SetWhenDropped(&stop);
        // Keeps reading into the cache while it is written.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                user.post("actions/p/a?blocking=true&result=true", &json!({})).ok();
            }
        });
        for n in 0..60 {
            let parameters = json!({"parameters": [{"key": "n", "value": n}]});
            let path = if n % 2 == 0 { "packages/p?overwrite=true" } else { "actions/p/a?overwrite=true" };
            if n % 2 == 0 {
                // What the action has of its own would lie above.
                user.put("actions/p/a?overwrite=true", &json!({"parameters": []})).ok();
            }
            user.put(path, &parameters).ok();
            let answer = user.post("actions/p/a?blocking=true&result=true", &json!({})).ok();
            assert_eq!(answer, json!({ "n": n }), "after {n} was written");
        }
    });
}

/// What is accepted and waits for a container runs as it is stored when it gets one.
#[test]
fn accepted_work_runs_what_is_there_when_its_turn_comes() {
    let node = TestNode::start("it-turns", |config| {
        config.containers.memory = protocol::ByteSize::mib(256);
        config.containers.prewarm = Some(Vec::new());
    });
    let user = node.user("it-turns");
    let plain = json!({"exec": {"kind": "nodejs:20", "code": "x"}});
    let seen = super::data_dir().join("it-turns-all-is-done");
    script(&user, "slow", json!({"until": seen}));
    for name in ["changed", "deleted", "replaced"] {
        user.action(name, &plain);
    }
    let accept = |name: &str| user.post(&format!("actions/{name}"), &json!({"n": 1})).json()["activationId"].clone();
    let slow = accept("slow");
    let anybody = Client::new(node.addr, None);
    anybody.until_metrics_have("node_container_starts_total{start=\"cold\"} 1");
    // The only container is taken now. Sixteen of each action ask for the next, as they are; one more waits its turn.
    let [changed, deleted, replaced] = ["changed", "deleted", "replaced"].map(|name| {
        (0..16).for_each(|_| drop(accept(name)));
        accept(name)
    });
    anybody.until_metrics_have("node_accepted_waiting 3.0");
    user.action("changed", &json!({"version": "2.0.0", "parameters": [{"key": "new", "value": true}]}));
    user.delete("actions/deleted").ok();
    user.delete("actions/replaced").ok();
    user.put("packages/replaced", &json!({})).ok();
    assert_eq!(user.get("activations").ok(), json!([]), "all of this was done while the first ran");
    std::fs::write(&seen, []).expect("the first may end");

    let record = |id: &Value| user.record(id.as_str().expect("an id"));
    assert_eq!(record(&slow)["response"]["success"], true);
    let changed = record(&changed);
    // Arguments are merged when it is accepted.
    assert_eq!((&changed["version"], &changed["response"]["result"]), (&json!("2.0.0"), &json!({"n": 1})));
    for (id, status, text) in [
        (deleted, "application error", "Action could not be found or may have been deleted."),
        (replaced, "whisk internal error", "Action version is not compatible and cannot be invoked."),
    ] {
        let record = record(&id);
        assert_eq!(record["response"], json!({"result": {"error": text}, "success": false, "status": status}));
        assert_eq!((&record["duration"], &record["annotations"][1]["value"]), (&json!(0), &json!("unknown")));
        assert_eq!(record["annotations"].as_array().map(Vec::len), Some(2), "{record}");
    }
}
