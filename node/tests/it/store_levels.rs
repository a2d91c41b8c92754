//! Which activations leave a record.

use node::{auth::LimitsUpdate, config::StoreLevel};
use serde_json::{Value, json};

use super::{TestNode, client::Client, invoke::script};

/// Invokes `name`; its id.
fn run(user: &Client, name: &str, query: &str, headers: &[(&str, &str)]) -> String {
    let headers = [headers, &[("Content-Type", "application/json")]].concat();
    let answer = user.send("POST", &format!("actions/{name}{query}"), &headers, Some(b"{}"));
    answer.header("x-openwhisk-activation-id").unwrap_or_else(|| panic!("{answer:?}"))
}

/// Runs `ok`, `fails` and `breaks`, and names those that left a record.
fn recorded(user: &Client, query: &str, headers: &[(&str, &str)], last: &str) -> Vec<String> {
    for name in ["ok", "fails", "breaks"] {
        for _ in 0..3 {
            run(user, name, query, headers);
        }
    }
    // A record that was on its way before this one is there when this one is.
    user.record(&run(user, last, query, headers));
    let list: Value = user.get("activations?limit=0").ok();
    let mut names: Vec<String> = list.as_array().unwrap().iter().map(|item| item["name"].to_string()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| name.trim_matches('"').to_owned()).collect()
}

#[test]
fn what_the_levels_and_the_namespace_leave_out() {
    let node = TestNode::start("it-store-levels", |config| {
        config.activations.store_blocking_result_level = StoreLevel::StoreFailures;
        config.activations.store_non_blocking_result_level = StoreLevel::StoreFailuresNotApplicationErrors;
    });
    let user = |name: &str| {
        let user = node.user(name);
        script(&user, "ok", json!({}));
        script(&user, "fails", json!({"then": {"answer": {"status": 200, "body": {"error": "no"}}}}));
        script(&user, "breaks", json!({"then": {"answer": {"status": 500, "body": {"error": "no"}}}}));
        user
    };
    assert_eq!(recorded(&user("it-blocking"), "?blocking=true", &[], "breaks"), ["breaks", "fails"]);
    assert_eq!(recorded(&user("it-accepted"), "", &[], "breaks"), ["breaks"]);
    let extra = [("X-OW-EXTRA-LOGGING", "On")];
    assert_eq!(recorded(&user("it-extra"), "?blocking=true", &extra, "ok"), ["breaks", "fails", "ok"]);
    assert_eq!(recorded(&user("it-extra-accepted"), "", &extra, "ok"), ["breaks", "fails", "ok"]);

    let unrecorded = user("it-unrecorded");
    node.set_limits("it-unrecorded", &LimitsUpdate { store_activations: Some(false), ..LimitsUpdate::default() });
    let ids: Vec<String> = ["?blocking=true", ""]
        .iter()
        .flat_map(|query| (0..5).map(|_| run(&unrecorded, "breaks", query, &extra)))
        .collect();
    // By then theirs would be there too.
    let recorded = user("it-recorded");
    recorded.record(&run(&recorded, "breaks", "", &[]));
    for id in ids {
        unrecorded.get(&format!("activations/{id}")).refused(404, "The requested resource does not exist.");
    }
    assert_eq!(unrecorded.get("activations").ok(), json!([]));
}
