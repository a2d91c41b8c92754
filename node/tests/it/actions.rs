//! `…/actions`: create, update, get, delete, list.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{golden, user};

fn plain() -> Value {
    json!({"exec": {"kind": "nodejs:20", "code": "function main() {}"}})
}

#[test]
fn an_action_from_creation_to_deletion() {
    let user = user("it-action");
    let body = json!({
        "namespace": "_", "name": "ignored", "updated": 3,
        "exec": {"kind": " NodeJS:default ", "code": "function main(a) { return a }", "binary": true, "main": "go"},
        "parameters": [{"key": "p", "value": {"deep": [1, null]}}, {"key": "i", "value": "v", "init": true}],
        "annotations": [{"key": "description", "value": "d"}, {"key": "exec", "value": "mine"}],
        "limits": {"timeout": 1000},
    });
    let created = user.put("actions/hello", &body).ok();
    golden("action", &created);
    assert_eq!(user.get("actions/hello").ok(), created);
    let mut without_code = created.clone();
    without_code["exec"].as_object_mut().unwrap().remove("code");
    assert_eq!(user.get("actions/hello?code=false").ok(), without_code);

    user.put("actions/hello", &plain()).refused(409, "resource already exists");
    user.put("actions/hello?overwrite=false", &plain()).refused(409, "resource already exists");
    let update = json!({
        "parameters": [{"key": "q", "value": 1}],
        "annotations": [{"key": "more", "value": true}], "delAnnotations": ["description"],
        "limits": {"memory": 512}, "publish": true,
    });
    let updated = user.put("actions/hello?overwrite=true", &update).ok();
    golden("action_updated", &updated);
    assert!(updated["updated"].as_u64() >= created["updated"].as_u64());
    let versioned = user.put("actions/hello?overwrite=true", &json!({"version": "2.1"})).ok();
    assert_eq!(versioned["version"], "2.1.0");

    assert_eq!(user.delete("actions/hello").ok(), versioned);
    user.get("actions/hello").refused(404, "The requested resource does not exist.");
    user.delete("actions/hello").refused(404, "The requested resource does not exist.");
    user.post("actions/hello", &json!({})).refused(404, "The requested resource does not exist.");
    assert_eq!(user.put("actions/hello", &plain()).ok()["version"], "0.0.1", "a new one begins anew");
}

#[test]
fn bodies_that_are_refused() {
    let user = user("it-bodies");
    let malformed = |reason: &str| format!("The request content was malformed:\n{reason}");
    let kinds = "'blackbox', ";
    for (body, status, text) in [
        (json!({}), 400, "exec undefined".to_owned()),
        (json!([]), 400, malformed("JSON object expected")),
        (json!({"exec": {}}), 400, malformed("'kind' must be a string defined in 'exec'")),
        (
            json!({"exec": {"kind": "nodejs:20"}}),
            400,
            malformed("'code' must be a string or attachment object defined in 'exec' for 'nodejs:20' actions"),
        ),
        (
            json!({"exec": {"kind": "nodejs:20", "code": 3}}),
            400,
            malformed("Could not deserialize as attachment record: 3"),
        ),
        (
            json!({"exec": {"kind": "nodejs:20", "code": "", "main": 1}}),
            400,
            malformed("if defined, 'main' be a string in 'exec' for 'nodejs:20' actions"),
        ),
        (
            json!({"exec": {"kind": "blackbox"}}),
            400,
            malformed("'image' must be a string defined in 'exec' for 'blackbox' actions"),
        ),
        (json!({"exec": {"kind": "blackbox", "image": "A b"}}), 400, malformed("could not parse image name")),
        (json!({"parameters": {}}), 400, malformed("parameters malformed!")),
        (json!({"annotations": [{"key": "k"}]}), 400, malformed("parameters malformed!")),
        (json!({"version": "0.0.0"}), 400, malformed("semantic version malformed")),
        (json!({"version": 1}), 400, malformed("semantic version malformed")),
        (
            json!({"exec": {"kind": "sequence", "components": ["/_/a"]}}),
            400,
            "This build does not run sequences yet: actions of kind 'sequence' cannot be created.".to_owned(),
        ),
        (json!({"exec": {"kind": "sequence"}}), 400, malformed("'components' must be defined for sequence kind")),
        (
            json!({"exec": {"kind": "nodejs:20", "code": ""}, "annotations": [{"key": "conductor", "value": {}}]}),
            400,
            "This build does not run compositions yet: actions with the annotation 'conductor' cannot be created."
                .to_owned(),
        ),
    ] {
        user.put("actions/a", &body).refused(status, &text);
    }
    let unknown = user.put("actions/a", &json!({"exec": {"kind": "cobol:60", "code": ""}}));
    let text = unknown.json()["error"].as_str().unwrap().to_owned();
    assert!(unknown.status == 400 && !text.contains(kinds), "{unknown:?}");
    assert!(text.starts_with(&malformed("The specified runtime 'cobol:60' is not supported by this platform. Valid values are: 'go:1.20', 'nodejs:18', ")), "{text}");
    let syntax = user.put_text("actions/a", "{\"exec\":");
    assert!(syntax.status == 400 && syntax.body.contains("The request content was malformed:\\n"), "{syntax:?}");
    let deep =
        format!("{{\"parameters\":[{{\"key\":\"k\",\"value\":{}{}}}]}}", "[".repeat(100_000), "]".repeat(100_000));
    user.put_text("actions/a", &deep).refused(400, &malformed("JSON is nested deeper than 512 levels"));
    user.put("actions/a?overwrite=maybe", &plain())
        .refused(400, "The query parameter 'overwrite' was malformed:\n'maybe' is not a valid Boolean value");
}

#[test]
fn code_comes_back_as_it_went() {
    let user = user("it-code");
    let zip = STANDARD.encode(b"PK\x03\x04zipped");
    let large = format!("// {}\n", "x".repeat(100 << 10));
    let large_zip = STANDARD.encode((0..200_000_u32).map(|n| ((n * 7919) >> 3) as u8).collect::<Vec<_>>());
    for (code, binary) in [
        ("function main() {}", false),
        ("main", true),
        (&zip, true),
        (&large, false),
        (&large_zip, true),
        ("", false),
        ("é\u{1F600}\u{0}", false),
    ] {
        let put = user.action("a", &json!({"exec": {"kind": "nodejs:20", "code": code}}));
        for shown in [put, user.get("actions/a").ok()] {
            assert_eq!((&shown["exec"]["code"], &shown["exec"]["binary"]), (&json!(code), &json!(binary)));
        }
    }
    // An update without exec keeps it, wherever it is kept.
    user.action("a", &json!({"exec": {"kind": "nodejs:20", "code": large}}));
    assert_eq!(user.action("a", &json!({"publish": true}))["exec"]["code"], json!(large));
    user.action("a", &plain());
    assert_eq!(user.action("a", &json!({}))["exec"]["code"], "function main() {}");

    let docker = user.action(
        "d",
        &json!({"exec": {"kind": "blackbox", "image": format!("openwhisk/dockerskeleton@sha256:{}", "ab".repeat(32)), "code": " "}}),
    );
    assert_eq!(docker["exec"], json!({"kind": "blackbox", "image": "openwhisk/dockerskeleton", "binary": false}));
    assert_eq!(user.delete("actions/d").ok()["exec"]["image"], "openwhisk/dockerskeleton");
}

#[test]
fn lists() {
    let user = user("it-lists");
    user.put("packages/pkg", &json!({})).ok();
    for name in ["one", "two", "pkg/three"] {
        user.action(name, &plain());
        // Two writes in one millisecond may be listed either way.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    golden("actions", &user.get("actions").ok());
    let names = |path: &str| -> Vec<String> {
        let list = user.get(path).ok();
        list.as_array()
            .unwrap()
            .iter()
            .map(|item| format!("{}/{}", item["namespace"].as_str().unwrap(), item["name"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(names("actions?limit=2"), ["it-lists/pkg/three", "it-lists/two"]);
    assert_eq!(names("actions/?skip=2&docs=true"), ["it-lists/one"]);
    assert_eq!(names("actions?skip=9"), [""; 0]);
    assert_eq!(names("actions/pkg/"), ["it-lists/pkg/three"]);
    user.action("one", &json!({}));
    assert_eq!(names("actions?limit=0")[0], "it-lists/one", "written last");
    assert_eq!(user.get("actions?count=true&limit=1&skip=1").ok(), json!({"actions": 2}));
    assert_eq!(user.get("actions/pkg/?count=true").ok(), json!({"actions": 1}));
    assert_eq!(user.get("actions?count=true&skip=8").ok(), json!({"actions": 0}));
    user.get("actions?limit=201").refused(
        400,
        "The query parameter 'limit' was malformed:\nThe value '201' is not in the range of 0 to 200 for actions.",
    );
    user.get("actions?skip=-1").refused(
        400,
        "The query parameter 'skip' was malformed:\nThe value '-1' is not greater than or equal to 0 for actions.",
    );
    user.get("actions/none/").refused(404, "The requested resource does not exist.");
    user.get("actions/one/").refused(409, "Resource by this name exists but is not in this collection.");
}

#[test]
fn one_name_is_one_thing() {
    let user = user("it-conformance");
    user.put("packages/p", &json!({})).ok();
    user.action("a", &plain());
    let wrong = "Resource by this name exists but is not in this collection.";
    for overwrite in ["", "?overwrite=true"] {
        user.put(&format!("actions/p{overwrite}"), &plain()).refused(409, wrong);
        user.put(&format!("packages/a{overwrite}"), &json!({})).refused(409, wrong);
    }
    user.get("actions/p").refused(409, wrong);
    user.post("actions/p", &json!({})).refused(409, wrong);
    user.delete("actions/p").refused(409, wrong);
    user.get("packages/a").refused(409, wrong);
    user.delete("packages/a").refused(409, wrong);
    user.put("actions/a/x", &plain()).refused(409, wrong);
    user.put("actions/none/x", &plain()).refused(404, "The requested resource does not exist.");
}

#[test]
fn writers_that_meet_are_told_so_and_none_is_lost() {
    let user = user("it-races");
    user.action("a", &plain());
    let written: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let user = &user;
                scope.spawn(move || {
                    let mut written = 0;
                    for round in 0..25 {
                        let body = json!({"annotations": [{"key": format!("w{writer}-{round}"), "value": 1}]});
                        let answer = user.put("actions/a?overwrite=true", &body);
                        match answer.status {
                            200 => written += 1,
                            _ => answer.refused(409, "Concurrent modification to resource detected."),
                        }
                    }
                    written
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let action = user.get("actions/a").ok();
    // Annotations merge, so each successful write left one; two are the server's.
    assert_eq!(action["annotations"].as_array().unwrap().len(), written + 2);
    assert_eq!(action["version"], format!("0.0.{}", written + 1));

    let created: Vec<u16> = std::thread::scope(|scope| {
        let creators: Vec<_> = (0..4).map(|_| scope.spawn(|| user.put("actions/new", &plain()).status)).collect();
        creators.into_iter().map(|creator| creator.join().unwrap()).collect()
    });
    assert_eq!(created.iter().filter(|status| **status == 200).count(), 1, "{created:?}");
    assert_eq!(created.iter().collect::<HashSet<_>>(), HashSet::from([&200, &409]), "{created:?}");
}
