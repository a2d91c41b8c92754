//! Parameters that are encrypted at rest: what lies on the disk does not hold them, keys are changed, and a wrong one is told.

use std::{fs, path::Path, time::Duration};

use cluster_tests::{
    client::{ActionOptions, Api},
    node::{Options, TestNode, program},
};
use serde_json::{Value, json};

/// What must not be on the disk: the value of a package's parameter, and of an action's for its environment.
const PASSWORD: &str = "kQ7vX2m9LpTz4RwB";
const TOKEN: &str = "Zf83nHc61JdYs0aE";
/// What the action tells of the two: SHA-256 of them with `|` between.
const DIGEST: &str = "af6166807174dc807c96fe373930c23d9cac60e79e5e90f44806bdf8225a287d";
/// The same with `given` for the password.
const DIGEST_OF_GIVEN: &str = "9babf884e3bd069da9cd0fc219042ed8170c22a4c1b6abc84c0c231b5ea9bd5a";
const CODE: &str = "function main(args) {
    const text = `${args.password}|${process.env.TOKEN}`
    return { digest: require('crypto').createHash('sha256').update(text).digest('hex') }
}";

const KEY_128: &str = "BwcHBwcHBwcHBwcHBwcHBw==";
const KEY_256: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const OTHER_256: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

fn config(current: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys.iter().map(|(id, key)| format!("\"{id}\" = \"{key}\"")).collect();
    format!("[parameter_storage]\ncurrent = \"{current}\"\nkeys = {{ {} }}\n", keys.join(", "))
}

fn store(api: &Api, package: &str) {
    let password = json!([{ "key": "password", "value": PASSWORD }]);
    api.put(&format!("/packages/{package}?overwrite=true"), &json!({ "parameters": password })).expect(200);
    let parameters = Some(json!([{ "key": "TOKEN", "value": TOKEN, "init": true }]));
    let options = ActionOptions { parameters, ..ActionOptions::default() };
    api.put_action(&format!("{package}/digest"), "nodejs:default", CODE, options);
}

/// The ids of the keys that the package's and the action's parameter name.
fn key_ids(api: &Api, package: &str) -> [Value; 2] {
    [format!("/packages/{package}"), format!("/actions/{package}/digest")]
        .map(|path| api.get(&path).expect(200)["parameters"][0]["encryption"].clone())
}

/// Calls it in every way; what it tells is right each time.
#[track_caller]
fn check_runs(api: &Api, package: &str) {
    let name = format!("{package}/digest");
    let digest = |record: Value| record["response"]["result"]["digest"].as_str().map(str::to_owned);
    let answer = api.invoke(&name, &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(digest(answer.json()).as_deref(), Some(DIGEST), "{}", answer.text);
    let accepted = api.record(&api.fire(&name, &json!({})), Duration::from_secs(30));
    assert_eq!(digest(accepted).as_deref(), Some(DIGEST));
    let given = api.invoke(&name, &json!({ "password": "given" })).json();
    assert_eq!(digest(given).as_deref(), Some(DIGEST_OF_GIVEN));
}

/// Files below `folder` that hold `secret`.
fn files_with(folder: &Path, secret: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        if entry.file_type().expect("its type").is_dir() {
            found.extend(files_with(&path, secret));
        } else if entry.file_type().expect("its type").is_file() {
            let bytes = fs::read(&path).expect("a file");
            if bytes.windows(secret.len()).any(|window| window == secret.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn secrets_are_not_on_the_disk_and_outlive_their_keys_change() {
    let first = config("aes-128", &[("aes-128", KEY_128)]);
    let options = Options { config: first, ..Options::default() };
    let mut node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), options);
    store(&node.api(), "old");
    assert_eq!(key_ids(&node.api(), "old"), ["aes-128", "aes-128"]);
    check_runs(&node.api(), "old");

    // Another key for what is written from now on; the first still opens what it closed.
    node.stop();
    node.configure(&config("aes-256/next", &[("aes-128", KEY_128), ("aes-256/next", KEY_256)]));
    node.start_again();
    store(&node.api(), "new");
    assert_eq!(key_ids(&node.api(), "new"), ["aes-256/next", "aes-256/next"]);
    assert_eq!(key_ids(&node.api(), "old"), ["aes-128", "aes-128"]);
    check_runs(&node.api(), "old");
    check_runs(&node.api(), "new");
    // What a client reads it may write back: it stays what it is, and is not encrypted twice.
    let read = node.api().get("/packages/old").expect(200)["parameters"].clone();
    assert_ne!(read[0]["value"], PASSWORD);
    let written = node.api().put("/packages/old?overwrite=true", &json!({ "parameters": read })).expect(200);
    assert_eq!(written["parameters"], read);
    check_runs(&node.api(), "old");

    // The disk, after everything was written that will be: by the end of this process, and the start of the next.
    node.stop();
    node.start_again();
    node.stop();
    for secret in [PASSWORD, TOKEN] {
        assert_eq!(files_with(&node.data_dir(), secret), Vec::<String>::new(), "{secret} is on the disk");
    }

    // A wrong key under the right name, and no key at all.
    node.configure(&config("off", &[("aes-256/next", OTHER_256)]));
    node.start_again();
    for (package, text) in [
        (
            "new",
            "The parameter 'password' cannot be decrypted: the key 'aes-256/next' is not the one that it was encrypted \
             with, or the value is damaged.",
        ),
        ("old", "The parameter 'password' is encrypted with the key 'aes-128', which is not configured."),
    ] {
        let answer = node.api().invoke(&format!("{package}/digest"), &json!({}));
        assert_eq!(answer.status, 502, "{}", answer.text);
        let response = answer.json()["response"].clone();
        assert_eq!(
            (&response["status"], &response["result"]["error"]),
            (&json!("action developer error"), &json!(text))
        );
    }

    // Without encryption the same look finds both: it can fail.
    store(&node.api(), "open");
    assert_eq!(key_ids(&node.api(), "open"), [Value::Null, Value::Null]);
    check_runs(&node.api(), "open");
    node.stop();
    for secret in [PASSWORD, TOKEN] {
        assert_ne!(files_with(&node.data_dir(), secret), Vec::<String>::new(), "the look for {secret} finds nothing");
    }
}

#[test]
fn an_action_gets_its_callers_key_only_if_it_says_so() {
    let config = "containers.prewarm = []\n".to_owned();
    let node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options { config, ..Options::default() });
    let api = node.api();
    let code = "const atInit = process.env.__OW_API_KEY ?? null
        function main() { return { atInit, atRun: process.env.__OW_API_KEY ?? null } }";
    let seen = |annotations: Option<Value>| {
        let options = ActionOptions { annotations, ..ActionOptions::default() };
        api.put_action("whose", "nodejs:default", code, options);
        let record = api.invoke("whose", &json!({})).expect(200);
        let result = &record["response"]["result"];
        assert_eq!(result["atInit"], result["atRun"], "{record}");
        result["atRun"].clone()
    };
    let annotated = |value: Value| Some(json!([{ "key": "provide-api-key", "value": value }]));
    assert_eq!(seen(None), Value::Null, "a new action does not ask for it");
    for yes in [json!(true), json!(1), json!("false"), json!({}), json!([])] {
        assert_eq!(seen(annotated(yes.clone())), node.key(), "{yes}");
    }
    for no in [json!(false), json!(0), json!(""), Value::Null] {
        assert_eq!(seen(annotated(no.clone())), Value::Null, "{no}");
    }
    // Actions that were stored before there was the annotation have none, and need the key.
    let update = json!({ "delAnnotations": ["provide-api-key"] });
    api.put("/actions/whose?overwrite=true", &update).expect(200);
    assert_eq!(api.invoke("whose", &json!({})).expect(200)["response"]["result"]["atRun"], node.key());
}

#[test]
fn init_parameters_are_environment_and_nothing_else() {
    let config = "containers.prewarm = []\n".to_owned();
    let node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options { config, ..Options::default() });
    let api = node.api();
    let code = "const atInit = process.env.MODE
        function main(args) { return { atInit, now: process.env.MODE, deep: process.env.DEEP, args } }";
    let parameters = json!([
        { "key": "MODE", "value": "stored", "init": true }, { "key": "DEEP", "value": { "a": [1] }, "init": true },
        { "key": "plain", "value": 1 },
    ]);
    let options = ActionOptions { parameters: Some(parameters), ..ActionOptions::default() };
    let seen = |arguments: Value| api.invoke_to_record("mode", &arguments)["response"]["result"].clone();
    api.put_action("mode", "nodejs:default", code, options.clone());
    let expected =
        |mode: &str, args: Value| json!({ "atInit": mode, "now": mode, "deep": "{\"a\":[1]}", "args": args });
    assert_eq!(seen(json!({ "x": 2 })), expected("stored", json!({ "plain": 1, "x": 2 })));
    // A container that is there already was initialized without it.
    assert_eq!(seen(json!({ "MODE": "given" })), expected("stored", json!({ "plain": 1 })));
    api.put_action("mode", "nodejs:default", code, options);
    assert_eq!(seen(json!({ "MODE": "given" })), expected("given", json!({ "plain": 1 })));
}
