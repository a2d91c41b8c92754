//! `…/packages`: packages, bindings, and actions seen through them.

use serde_json::json;

use super::{golden, user};

const FORBIDDEN: &str = "The supplied authentication is not authorized to access";

fn action() -> serde_json::Value {
    json!({"exec": {"kind": "nodejs:20", "code": "x"}, "parameters": [{"key": "c", "value": "action"}]})
}

#[test]
fn a_package_from_creation_to_deletion() {
    let user = user("it-package");
    let body = json!({
        "parameters": [{"key": "p", "value": 1}],
        "annotations": [{"key": "a", "value": 1}, {"key": "binding", "value": "mine"}], "binding": {}, "publish": true,
    });
    let created = user.put("packages/pkg", &body).ok();
    golden("package", &created);
    user.put("packages/pkg", &body).refused(409, "resource already exists");
    user.action("pkg/act", &action());
    user.action(
        "pkg/feed",
        &json!({"exec": {"kind": "nodejs:20", "code": "x"}, "annotations": [{"key": "feed", "value": null}]}),
    );
    golden("package_contents", &user.get("packages/pkg").ok());
    golden("packages", &user.get("packages?public=true").ok());
    assert_eq!(user.get("packages?count=true").ok(), json!({"packages": 1}));

    let updated = user.put("packages/pkg?overwrite=true", &json!({"annotations": []})).ok();
    assert_eq!((&updated["version"], &updated["annotations"]), (&json!("0.0.2"), &json!([])), "annotations replace");
    assert_eq!(updated["parameters"], created["parameters"]);

    user.delete("packages/pkg")
        .refused(409, "Package not empty (contains 2 entities). Set force param or delete package contents.");
    user.delete("actions/pkg/feed").ok();
    user.delete("packages/pkg?force=false")
        .refused(409, "Package not empty (contains 1 entity). Set force param or delete package contents.");
    assert_eq!(user.delete("packages/pkg?force=true").ok(), updated);
    user.get("packages/pkg").refused(404, "The requested resource 'it-package/pkg' does not exist.");
    user.delete("packages/pkg").refused(404, "The requested resource does not exist.");
    user.get("actions/pkg/act").refused(404, "The requested resource does not exist.");
    assert_eq!(user.get("actions").ok(), json!([]));
    user.put("packages/default", &json!({})).refused(400, "Package name 'default' is reserved.");
    user.put("packages/default", &json!({"version": 1})).refused(400, "Package name 'default' is reserved.");
    user.put("packages/default", &json!({"parameters": 1}))
        .refused(400, "The request content was malformed:\nparameters malformed!");
    user.put("packages/pkg", &json!({"binding": null}))
        .refused(400, "The request content was malformed:\n'binding' must be an object");
}

#[test]
fn bindings() {
    let (user, provider) = (user("it-binder"), user("it-provider"));
    let package = |publish: bool| json!({"publish": publish, "parameters": [{"key": "a", "value": "package"}, {"key": "b", "value": "package"}]});
    provider.put("packages/open", &package(true)).ok();
    provider.put("packages/closed", &package(false)).ok();
    provider.action("open/act", &action());
    let to = |namespace: &str, name: &str| json!({"binding": {"namespace": namespace, "name": name}});

    let mut body = to("it-provider", "open");
    body["parameters"] = json!([{"key": "b", "value": "binding"}, {"key": "c", "value": "binding"}]);
    body["annotations"] = json!([{"key": "binding", "value": "mine"}]);
    let bound = user.put("packages/bound", &body).ok();
    golden("binding", &bound);
    golden("binding_contents", &user.get("packages/bound").ok());
    golden("bindings", &user.get("packages").ok());
    golden("action_through_binding", &user.get("actions/bound/act?code=false").ok());
    let with_code = user.get("actions/bound/act").ok();
    assert_eq!((&with_code["binding"], &with_code["exec"]["code"]), (&json!(null), &json!("x")));
    assert_eq!(user.get("actions/bound/").ok()[0]["namespace"], "it-provider/open");

    // What runs is merged the same way, and found under the binding's name.
    let run = user.post("actions/bound/act?blocking=true", &json!({"d": "payload"}));
    let record = run.ok();
    assert_eq!(record["response"]["result"], json!({"a": "package", "b": "binding", "c": "action", "d": "payload"}));
    let annotation = |key: &str| {
        record["annotations"].as_array().unwrap().iter().find(|a| a["key"] == key).map(|a| a["value"].clone())
    };
    assert_eq!(annotation("path"), Some(json!("it-provider/open/act")));
    assert_eq!(annotation("binding"), Some(json!("it-binder/bound")));
    assert_eq!(record["namespace"], "it-binder");
    user.record(record["activationId"].as_str().unwrap());
    assert_eq!(user.get("activations?name=bound/act&count=true").ok(), json!({"activations": 1}));
    assert_eq!(user.get("activations?name=open/act&count=true").ok(), json!({"activations": 0}));

    for method in ["PUT", "DELETE"] {
        user.send(method, "actions/bound/act", &[("Content-Type", "application/json")], Some(b"nonsense"))
            .refused(400, "Operation not permitted on package binding.");
    }
    user.put("packages/mine", &json!({})).ok();
    user.action("plain", &action());
    user.put("packages/bound2", &to("it-provider", "open")).ok();
    for (name, body, status, text) in [
        // Whether it can be read comes before existence, what it is after it.
        ("bound", to("_", "none"), 400, "Binding references a package that does not exist.".to_owned()),
        ("bound", to("_", "plain"), 409, "Cannot bind to a resource that is not a package.".to_owned()),
        ("bound", to("_", "bound2"), 409, "resource already exists".to_owned()),
        (
            "mine?overwrite=true",
            to("_", "bound2"),
            409,
            "Resource is a package and cannot be converted into a binding.".to_owned(),
        ),
        ("b", to("_", "none"), 400, "Binding references a package that does not exist.".to_owned()),
        ("b", to("_", "plain"), 409, "Cannot bind to a resource that is not a package.".to_owned()),
        ("b", to("_", "bound"), 400, "Cannot bind to another package binding.".to_owned()),
        ("b", to("_", "b"), 422, "Package binding 'it-binder/b' contains a circular reference.".to_owned()),
        ("b", to("it-provider", "closed"), 403, format!("{FORBIDDEN} 'it-provider/closed'.")),
        ("b", to("it-provider", "none"), 403, format!("{FORBIDDEN} 'it-provider/none'.")),
        (
            "mine?overwrite=true",
            to("it-provider", "open"),
            409,
            "Resource is a package and cannot be converted into a binding.".to_owned(),
        ),
    ] {
        user.put(&format!("packages/{name}"), &body).refused(status, &text);
    }
    // Pointed elsewhere it follows; {} and absence keep it.
    assert_eq!(
        user.put("packages/bound?overwrite=true", &to("_", "mine")).ok()["binding"],
        json!({"namespace": "it-binder", "name": "mine"})
    );
    assert_eq!(user.put("packages/bound?overwrite=true", &json!({"binding": {}})).ok()["binding"]["name"], "mine");
    user.get("actions/bound/act").refused(404, "The requested resource does not exist.");
    user.put("packages/bound?overwrite=true", &to("it-provider", "open")).ok();
    user.get("actions/bound/act").ok();

    // The provider closes its package: the binding is named, not what is behind it.
    provider.put("packages/open?overwrite=true", &json!({"publish": false})).ok();
    for (method, path) in [
        ("GET", "packages/bound"),
        ("GET", "actions/bound/act"),
        ("POST", "actions/bound/act"),
        ("GET", "actions/bound/"),
    ] {
        user.send(method, path, &[], None).refused(403, &format!("{FORBIDDEN} 'it-binder/bound'."));
    }
    user.put("packages/dangling", &to("_", "mine")).ok();
    user.delete("packages/mine").ok();
    user.put("packages/b", &to("_", "dangling")).refused(400, "Binding references a package that does not exist.");
    user.get("packages/dangling").refused(404, "The requested resource 'it-binder/dangling' does not exist.");
    user.get("actions/dangling/act").refused(404, "The requested resource does not exist.");
    user.delete("packages/dangling").ok();
    user.delete("packages/bound").ok();
}

#[test]
fn what_others_see() {
    let (owner, other) = (user("it-sharer"), user("it-guest"));
    owner.put("packages/open", &json!({"publish": true})).ok();
    owner.put("packages/closed", &json!({})).ok();
    owner.put("packages/alias", &json!({"binding": {"namespace": "_", "name": "open"}, "publish": true})).ok();
    owner.action("open/act", &action());
    owner.action("closed/act", &action());
    owner.action("plain", &json!({"exec": {"kind": "nodejs:20", "code": "x"}, "publish": true}));
    let at = |path: &str| format!("/api/v1/namespaces/it-sharer/{path}");

    assert_eq!(other.get(&at("packages/open")).ok()["actions"][0]["name"], "act");
    assert_eq!(other.get(&at("actions/open/act")).ok()["namespace"], "it-sharer/open");
    assert_eq!(other.get(&at("actions/open/")).ok()[0]["name"], "act");
    let run = other.post(&at("actions/open/act?blocking=true"), &json!({})).ok();
    assert_eq!((&run["namespace"], &run["subject"]), (&json!("it-guest"), &json!("it-guest")));
    let listed = other.get(&at("packages")).ok();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("open")));
    assert_eq!(other.get(&at("packages?count=true")).ok(), json!({"packages": 1}));
    assert_eq!(other.get("/api/v1/namespaces/nobody-knows/packages").ok(), json!([]));

    for (method, path, named) in [
        ("GET", "packages/closed", "closed"),
        ("GET", "packages/none", "none"),
        ("GET", "packages/alias", "alias"),
        ("GET", "packages/plain", "plain"),
        ("PUT", "packages/open", "open"),
        ("DELETE", "packages/open", "open"),
        ("GET", "actions/closed/act", "closed"),
        ("POST", "actions/closed/act", "closed"),
        ("GET", "actions/alias/act", "alias"),
        ("GET", "actions/none/act", "none"),
        ("PUT", "actions/open/act", "open/act"),
        ("DELETE", "actions/open/act", "open/act"),
        ("GET", "actions/plain", "plain"),
        ("POST", "actions/plain", "plain"),
        ("POST", "actions/none", "none"),
    ] {
        other
            .send(method, &at(path), &[("Content-Type", "application/json")], Some(b"{}"))
            .refused(403, &format!("{FORBIDDEN} 'it-sharer/{named}'."));
    }
    other.get(&at("actions/open/none")).refused(404, "The requested resource does not exist.");
}
