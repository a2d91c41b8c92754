//! `…/activations`: records, lists and filters.

use serde_json::{Value, json};

use super::{golden, user};

#[test]
fn one_record() {
    let user = user("it-record");
    let code = json!({"run": {"stdout": ["out"], "stderr": ["err"]}}).to_string();
    user.action("talks", &json!({"exec": {"kind": "nodejs:20", "code": code}}));
    let id =
        user.post("actions/talks?blocking=true", &json!({"x": 1})).ok()["activationId"].as_str().unwrap().to_owned();
    let record = user.record(&id);
    let logs: Vec<&str> = record["logs"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    // Time in 30 columns, then the stream.
    assert!(
        logs.iter().any(|line| line[31..] == *"stdout: out") && logs.iter().any(|line| line[31..] == *"stderr: err"),
        "{logs:?}"
    );
    assert_eq!(user.get(&format!("activations/{id}/")).ok(), record);
    assert_eq!(user.get(&format!("activations/{id}/logs")).ok(), json!({"logs": logs}));
    assert_eq!(user.get(&format!("activations/{id}/result")).ok(), record["response"]);
    assert_eq!(record["response"], json!({"result": {"x": 1}, "size": 7, "success": true, "status": "success"}));

    user.get("activations/0123456789abcdef0123456789abcde").refused(400, "Activation id length is 31 but must be 32.");
    user.get("activations/0123456789ABCDEF0123456789abcdef").refused(400, "The activation id is not valid.");
    for part in ["", "/logs", "/result"] {
        user.get(&format!("activations/0123456789abcdef0123456789abcdef{part}"))
            .refused(404, "The requested resource does not exist.");
    }
}

#[test]
fn lists_and_filters() {
    let user = user("it-activations");
    user.put("packages/p", &json!({})).ok();
    for name in ["a", "p/a"] {
        user.action(name, &json!({"exec": {"kind": "nodejs:20", "code": "x"}}));
    }
    let mut starts = Vec::new();
    for name in ["a", "p/a", "a"] {
        let run = user.post(&format!("actions/{name}?blocking=true"), &json!({})).ok();
        starts.push(user.record(run["activationId"].as_str().unwrap())["start"].as_u64().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    let list = |query: &str| user.get(&format!("activations{query}")).ok();
    let began = |list: Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|item| item["start"].as_u64().unwrap()).collect()
    };
    golden("activations", &list(""));
    assert_eq!(began(list("")), [starts[2], starts[1], starts[0]]);
    assert_eq!(began(list("/?limit=1&skip=1")), [starts[1]]);
    assert_eq!(began(list("?name=a")), [starts[2], starts[0]]);
    assert_eq!(began(list("?name=p/a")), [starts[1]]);
    assert_eq!(began(list("?name=%20")), [starts[2], starts[1], starts[0]], "blank is no filter");
    assert_eq!(began(list(&format!("?since={}&upto={}", starts[1], starts[1]))), [starts[1]], "bounds are inclusive");
    assert_eq!(list(&format!("?count=true&since={}", starts[1])), json!({"activations": 2}));
    assert_eq!(list("?count=true&name=a&skip=1"), json!({"activations": 1}));
    let documents = list("?docs=true&limit=2");
    assert_eq!(began(documents.clone()), [starts[2], starts[1]]);
    assert_eq!(documents[0], user.record(documents[0]["activationId"].as_str().unwrap()));
    assert_eq!(list("?docs=true&name=none"), json!([]));
    assert_eq!(list("?name=none"), json!([]));

    let refused = |query: &str, text: &str| user.get(&format!("activations?{query}")).refused(400, text);
    refused("count=true&docs=true", "The parameter 'docs' is not permitted with 'count'.");
    refused(
        "limit=300",
        "The query parameter 'limit' was malformed:\nThe value '300' is not in the range of 0 to 200 for activations.",
    );
    refused(
        "since=xxx",
        "The query parameter 'since' was malformed:\nParameter is not a valid value for epoch seconds: xxx",
    );
    refused(
        "upto=1.5",
        "The query parameter 'upto' was malformed:\nParameter is not a valid value for epoch seconds: 1.5",
    );
    assert_eq!(began(list("?name=/p//a/")), [starts[1]]);
    for name in ["a/b/c", "$a", "/", "$%2Fb"] {
        refused(
            &format!("name={name}"),
            &format!(
                "The query parameter 'name' was malformed:\nParameter may be a 'simple' name or 'package-name/simple' name: {}",
                name.replace("%2F", "/")
            ),
        );
    }
}
