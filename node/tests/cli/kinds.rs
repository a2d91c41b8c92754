//! The kinds that an operator allows, over the life of a node.

use serde_json::{Value, json};

use super::{
    GUEST, get,
    node::{Node, WHISP},
    request, told,
};

#[test]
fn the_runtimes_manifest_says_which_kinds_there_are() {
    let files = tempfile::tempdir().unwrap();
    let (manifest, config) = (files.path().join("runtimes.json"), files.path().join("whisp.toml"));
    let written = |deprecated: bool| {
        let image = json!({"prefix": "openwhisk", "name": "i", "tag": "t"});
        json!({"runtimes": {
            "nodejs": [
                {"kind": "nodejs:18", "default": true, "image": image, "deprecated": deprecated},
                {"kind": "nodejs:20", "image": image, "requireMain": true,
                 "stemCells": [{"initialCount": 3, "memory": "128 MB"}]},
                {"kind": "nodejs:6", "image": image, "deprecated": true},
            ],
            "ruby": [{"kind": "ruby:2.5", "image": image}],
        }, "blackboxes": [image]})
    };
    std::fs::write(&manifest, written(false).to_string()).unwrap();
    let settings = format!(
        "[containers]\nruntimes_manifest = {manifest:?}\n[limits]\nallowed_kinds = [\"nodejs:18\", \"nodejs:6\"]\n"
    );
    std::fs::write(&config, settings).unwrap();
    let arguments = ["--dev", "--config", config.to_str().unwrap()];

    let node = Node::start(&arguments);
    let address = node.status()["api_addr"].as_str().unwrap().to_owned();
    let call = |method: &str, name: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(&address, &format!("{method} /api/v1/namespaces/_/actions/{name}"), GUEST, "", &body)
    };
    let create = |name: &str, kind: &str| call("PUT", name, json!({"exec": {"kind": kind, "code": "", "main": "m"}}));
    let kind = |kind: &str, default: bool, deprecated: bool, main: bool| {
        json!({"kind": kind, "image": "openwhisk/i:t", "deprecated": deprecated, "default": default, "attached": false,
               "requireMain": main})
    };
    assert_eq!(
        get(&address, "/", GUEST).1["runtimes"],
        json!({"nodejs": [kind("nodejs:6", false, true, false), kind("nodejs:18", true, false, false),
                          kind("nodejs:20", false, false, true)]}),
        "what cannot run here is not there"
    );
    assert_eq!(node.status()["backend"]["kinds"], json!(["nodejs:18", "nodejs:20", "blackbox"]));
    assert_eq!(node.status()["containers"]["prewarmed"][0]["wanted"], 3, "{}", node.status());
    let (status, created) = create("a", "nodejs:default");
    assert_eq!((status, &created["exec"]["kind"]), (200, &json!("nodejs:18")));
    let unsupported = |kind: &str| {
        format!(
            "The request content was malformed:\nThe specified runtime '{kind}' is not supported by this platform. \
             Valid values are: 'nodejs:6', 'nodejs:18', 'nodejs:20'."
        )
    };
    let no_longer = |kind: &str| {
        format!(
            "The '{kind}' runtime is no longer supported. You may read and delete but not update or invoke this action."
        )
    };
    for (name, kind, status, text) in [
        ("b", "ruby:2.5", 400, unsupported("ruby:2.5")),
        ("b", "python:3.11", 400, unsupported("python:3.11")),
        ("b", "ruby:default", 400, unsupported("ruby:default")),
        ("b", "nodejs:6", 400, no_longer("nodejs:6")),
        ("a", "nodejs:6", 409, "resource already exists".to_owned()),
        (
            "b",
            "nodejs:20",
            403,
            "The supplied authentication is not authorized to access actions of kind 'nodejs:20'.".to_owned(),
        ),
    ] {
        let (got, body) = create(name, kind);
        assert_eq!((got, body["error"].as_str()), (status, Some(text.as_str())), "{kind}");
    }
    // A namespace's own list stands for the system's.
    assert_eq!(told(&node.ask(&["limits", "set", "guest", "--allowedKinds", "nodejs:20"])).0, 0);
    assert_eq!(create("b", "nodejs:20").0, 200);
    let without_main = call("PUT", "c", json!({"exec": {"kind": "nodejs:20", "code": ""}})).1["error"].clone();
    assert_eq!(
        without_main,
        "The request content was malformed:\n'main' must be a string defined in 'exec' for 'nodejs:20' actions"
    );
    let data = node.data_dir().to_owned();
    assert_eq!(node.terminate().0, Some(0));

    std::fs::write(&manifest, written(true).to_string()).unwrap();
    let node = Node::start_on(data, &arguments);
    let address = node.status()["api_addr"].as_str().unwrap().to_owned();
    let call = |method: &str, query: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(&address, &format!("{method} /api/v1/namespaces/_/actions/a{query}"), GUEST, "", &body)
    };
    assert_eq!(call("GET", "", Value::Null).1["exec"]["kind"], "nodejs:18");
    for (method, query) in [("POST", ""), ("POST", "?blocking=true"), ("PUT", "?overwrite=true")] {
        let (status, body) = call(method, query, json!({}));
        assert_eq!((status, body["error"].as_str()), (400, Some(no_longer("nodejs:18").as_str())), "{method} {query}");
    }
    let replaced = call("PUT", "?overwrite=true", json!({"exec": {"kind": "nodejs:20", "code": "", "main": "m"}}));
    assert_eq!(replaced.0, 200, "another kind may take its place");
    assert_eq!(call("DELETE", "", Value::Null).0, 200);
    drop(node);

    std::fs::write(&manifest, "{\"runtimes\": {\"a\": 1}}").unwrap();
    let mut command = std::process::Command::new(WHISP);
    command.args(["start", "--backend", "simulated", "--api-addr", "127.0.0.1:0", "--data-dir"]);
    let output = command.arg(files.path().join("data")).args(arguments).output().expect("the program runs");
    let (code, _, error) = told(&output);
    assert!(code != 0 && error.contains("runtimes.json: invalid type: integer `1`"), "{code} {error}");
}
