//! Several activations at once in one container: that they really are there together, and what becomes of the others when one
//! of them is too slow or takes the container down.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use cluster_tests::{
    client::{Api, annotation},
    node::{self, Options, TestNode, program},
    wait,
};
use serde_json::{Value, json};

static SHARED: Mutex<Weak<TestNode>> = Mutex::new(Weak::new());

fn shared() -> Arc<TestNode> {
    node::shared(&SHARED, || {
        let config = "containers.prewarm = []\nlimits.concurrency = { max = 8 }\n".to_owned();
        TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options { config, ..Options::default() })
    })
}

/// Each container tells its own token. `meet` answers when as many as it says are there; `exit` ends the process then.
const CODE: &str = "
const token = require('crypto').randomUUID()
let there = []
function main(args) {
    console.log('here is', args.name)
    if (args.hang) return new Promise(() => {})
    if (args.after) return new Promise((done) => setTimeout(() => done({ token, name: args.name }), args.after))
    return new Promise((done) => {
        there.push({ name: args.name, done })
        if (there.length < args.meet) return
        const all = there
        there = []
        if (args.exit) process.exit(3)
        const names = all.map((one) => one.name).sort()
        for (const one of all) one.done({ token, name: one.name, names })
    })
}";

const DEVELOPER: &str = "action developer error";

fn put(api: &Api, name: &str, kind: &str, code: &str, concurrency: u32, timeout_ms: u32) {
    let body = json!({
        "exec": { "kind": kind, "code": code },
        "limits": { "concurrency": concurrency, "timeout": timeout_ms },
    });
    api.put(&format!("/actions/{name}?overwrite=true"), &body).expect(200);
}

/// Invokes once for each of `arguments`, at once, and returns the stored records in their order.
fn invoke_all(api: &Api, name: &str, arguments: &[Value]) -> Vec<Value> {
    thread::scope(|scope| {
        let calls: Vec<_> =
            arguments.iter().map(|arguments| scope.spawn(|| api.invoke_to_record(name, arguments))).collect();
        calls.into_iter().map(|call| call.join().expect("a record")).collect()
    })
}

fn result(record: &Value) -> &Value {
    &record["response"]["result"]
}

fn tokens(records: &[Value]) -> BTreeSet<String> {
    records
        .iter()
        .map(|record| result(record)["token"].as_str().unwrap_or_else(|| panic!("{record}")).to_owned())
        .collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("n{n}")).collect()
}

fn meeting(count: usize) -> Vec<Value> {
    names(count).iter().map(|name| json!({ "name": name, "meet": count })).collect()
}

#[test]
fn activations_meet_in_one_container() {
    let node = shared();
    let api = node.api();
    put(&api, "meet", "nodejs:default", CODE, 4, 20_000);
    // All at once and without a container: they wait for the first to initialize one, and none starts its own.
    let cold = invoke_all(&api, "meet", &meeting(4));
    let initialized = cold.iter().filter(|record| annotation(record, "initTime").is_some()).count();
    assert_eq!(initialized, 1, "{cold:#?}");
    let warm = invoke_all(&api, "meet", &meeting(4));
    for record in cold.iter().chain(&warm) {
        assert_eq!(record["response"]["status"], "success", "{record}");
        assert_eq!(result(record)["names"], json!(names(4)), "{record}");
        assert_eq!(annotation(record, "limits").unwrap()["concurrency"], 4);
        assert_eq!(record["logs"], json!([]), "whose a line is, nobody can tell");
    }
    assert!(warm.iter().all(|record| annotation(record, "initTime").is_none()));
    assert_eq!(tokens(&cold), tokens(&warm));
    assert_eq!(tokens(&cold).len(), 1);
    // Each has its own result, not another's.
    let own: Vec<&Value> = cold.iter().map(|record| &result(record)["name"]).collect();
    assert_eq!(json!(own), json!(names(4)));

    // One more than there is room for is in another container.
    let slow: Vec<Value> = names(5).iter().map(|name| json!({ "name": name, "after": 700 })).collect();
    assert_eq!(tokens(&invoke_all(&api, "meet", &slow)).len(), 2);

    // Work that nobody waits for meets as well.
    let ids: Vec<String> = meeting(4).iter().map(|arguments| api.fire("meet", arguments)).collect();
    let accepted: Vec<Value> = ids.iter().map(|id| api.record(id, Duration::from_secs(30))).collect();
    assert!(accepted.iter().all(|record| record["response"]["status"] == "success"), "{accepted:#?}");
}

#[test]
fn an_action_that_allows_one_at_a_time_has_one_at_a_time() {
    let node = shared();
    let api = node.api();
    put(&api, "single", "nodejs:default", CODE, 1, 20_000);
    let records =
        invoke_all(&api, "single", &[json!({ "name": "a", "after": 700 }), json!({ "name": "b", "after": 700 })]);
    assert_eq!(tokens(&records).len(), 2);
    assert!(records[0]["logs"][0].as_str().is_some_and(|line| line.ends_with("stdout: here is a")), "{}", records[0]);

    // What cannot do more than one thing at once is not asked to, whatever the action allows.
    let code = "import time, uuid\ntoken = str(uuid.uuid4())\nbusy = 0\ndef main(args):\n    global busy\n    busy += 1\n    \
                most = busy\n    time.sleep(0.5)\n    busy -= 1\n    return {'token': token, 'most': most}\n";
    put(&api, "snake", "python:default", code, 8, 20_000);
    let records = invoke_all(&api, "snake", &[json!({}), json!({})]);
    assert_eq!(tokens(&records).len(), 2, "{records:#?}");
    assert!(records.iter().all(|record| result(record)["most"] == 1), "{records:#?}");
}

#[test]
fn whoever_takes_the_container_down_takes_all_with_it() {
    let node = shared();
    let api = node.api();
    put(&api, "exit", "nodejs:default", CODE, 3, 20_000);
    let before = tokens(&invoke_all(&api, "exit", &meeting(3)));
    let mut arguments = meeting(3);
    arguments.iter_mut().for_each(|arguments| arguments["exit"] = json!(true));
    for record in invoke_all(&api, "exit", &arguments) {
        let response = json!({
            "status": DEVELOPER,
            "success": false,
            "result": { "error": "The action did not produce a valid response and exited unexpectedly." },
        });
        assert_eq!(record["response"], response, "{record}");
        assert_eq!(annotation(&record, "timeout"), Some(&json!(false)));
        assert_eq!(annotation(&record, "initTime"), None);
        assert_eq!(record["logs"], json!([]));
    }
    // The next have a container of their own, together.
    let after = invoke_all(&api, "exit", &meeting(3));
    assert!(after.iter().all(|record| record["response"]["status"] == "success"), "{after:#?}");
    assert_eq!(tokens(&after).len(), 1);
    assert!(tokens(&after).is_disjoint(&before));
}

#[test]
fn one_that_is_too_slow_disturbs_nobody_and_is_the_last_of_its_container() {
    let node = shared();
    let api = node.api();
    put(&api, "slow", "nodejs:default", CODE, 3, 3_000);
    let token = |record: &Value| result(record)["token"].clone();
    let first = api.invoke_to_record("slow", &json!({ "name": "first", "meet": 1 }));

    let (hung, beside, after) = thread::scope(|scope| {
        let hung = scope.spawn(|| api.invoke_to_record("slow", &json!({ "name": "hung", "hang": true })));
        // In there before the other's time is over, and for a while after it.
        thread::sleep(Duration::from_millis(1_500));
        let beside = scope.spawn(|| api.invoke_to_record("slow", &json!({ "name": "beside", "after": 2_500 })));
        let hung = hung.join().expect("a record");
        let after = api.invoke_to_record("slow", &json!({ "name": "after", "meet": 1 }));
        assert!(!beside.is_finished(), "it ended before there was anything to see");
        (hung, beside.join().expect("a record"), after)
    });

    let response = json!({
        "status": DEVELOPER,
        "success": false,
        "result": { "error": "The action exceeded its time limits of 3000 milliseconds." },
    });
    assert_eq!(hung["response"], response, "{hung}");
    assert_eq!(annotation(&hung, "timeout"), Some(&json!(true)));
    assert_eq!(beside["response"]["status"], "success", "{beside}");
    assert_eq!(annotation(&beside, "timeout"), Some(&json!(false)));
    assert_eq!(token(&beside), token(&first), "it was in the same container");
    assert_eq!(after["response"]["status"], "success", "{after}");
    assert_ne!(token(&after), token(&first), "which takes nobody any more");

    // Once the last has left, it is destroyed: of this action one container is left.
    wait::eventually(Duration::from_secs(20), "the container's end", || {
        let status = node.status();
        let actions = status["containers"]["actions"].as_array().cloned().unwrap_or_default();
        let of_this =
            actions.iter().find(|action| action["action"].as_str().is_some_and(|name| name.ends_with("/slow")));
        match of_this {
            Some(action) if action["idle"] == 1 && action["busy"] == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(token(&api.invoke_to_record("slow", &json!({ "name": "last", "meet": 1 }))), token(&after));
}
