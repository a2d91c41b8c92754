//! `node/openapi.json`: it describes what is served, and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{anonymous, http::ROUTES, user};

const NAMESPACE: &str = "/api/v1/namespaces/{namespace}/";
const NO_ROUTE: &str = "The requested resource could not be found.";
const METHODS: [&str; 6] = ["get", "put", "post", "delete", "patch", "head"];

fn document() -> Value {
    anonymous().get("/api/v1/api-docs").ok()
}

/// Method and path of every operation.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys().filter(|key| METHODS.contains(&key.as_str()));
        methods.map(move |method| (method.clone(), path.clone()))
    });
    operations.collect()
}

/// The documented path that a path of [`ROUTES`] is an example of.
fn template(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').collect();
    let path = match segments[..] {
        ["actions", "p", ""] => "actions/{packageName}/".to_owned(),
        ["actions", "p", _] => "actions/{packageName}/{actionName}".to_owned(),
        ["actions", "a"] => "actions/{actionName}".to_owned(),
        ["packages", "p"] => "packages/{packageName}".to_owned(),
        ["activations", id, ref part @ ..] if id.len() == 32 => {
            let part = part.iter().filter(|part| !part.is_empty()).map(|part| format!("/{part}"));
            format!("activations/{{activationId}}{}", part.collect::<String>())
        }
        // A slash behind it changes nothing.
        _ => path.trim_end_matches('/').to_owned(),
    };
    format!("{NAMESPACE}{path}")
}

#[test]
fn it_is_where_clients_look_for_it() {
    let document = document();
    assert_eq!(
        (&document["openapi"], &document["info"]["version"]),
        (&json!("3.1.0"), &json!(env!("CARGO_PKG_VERSION")))
    );
    for path in ["/api/v1/api-docs/", "/api-docs", "/api-docs/"] {
        let answer = anonymous().get(path);
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
        assert_eq!(answer.ok(), document, "{path}");
    }
    user("it-docs").get("/api/v1/docs/x").refused(404, NO_ROUTE);
}

#[test]
fn it_has_every_route_and_no_other() {
    let document = document();
    let documented = operations(&document);
    let owned = |(_, path): &&(String, String)| path.starts_with(NAMESPACE) && !path.contains("/limits/");
    let table = ROUTES.iter().map(|(method, path, _)| (method.to_lowercase(), template(path)));
    assert_eq!(table.collect::<BTreeSet<_>>(), documented.iter().filter(owned).cloned().collect());

    // What is answered decides: each path with each method, and with something more or less behind it.
    let user = user("it-openapi");
    let id = "0123456789abcdef0123456789abcdef";
    let concrete = |path: &str| {
        let path = path.replace("{namespace}", "_").replace("{activationId}", id).replace("{entityName}", "x");
        path.replace("{packageName}", "p").replace("{actionName}", "a")
    };
    let slash_allowed = |path: &str| {
        let last = path.rsplit('/').next().unwrap_or_default();
        ["actions", "packages", "activations", "limits", "namespaces", "v1", "api-docs", "{activationId}"]
            .contains(&last)
    };
    let paths: BTreeSet<&String> = documented.iter().map(|(_, path)| path).collect();
    // In a path a name is a name, whatever the document calls it.
    let unnamed = |path: &str| -> String {
        path.split('/')
            .map(|segment| if segment.starts_with('{') { "/{}".to_owned() } else { format!("/{segment}") })
            .collect()
    };
    let unnamed_operations: BTreeSet<(&str, String)> =
        documented.iter().map(|(method, path)| (method.as_str(), unnamed(path))).collect();
    let mut tried = 0;
    for path in paths {
        let parent = path.trim_end_matches('/').rsplit_once('/').map_or("/", |(parent, _)| parent);
        for variant in [path.clone(), format!("{path}/"), format!("{path}/nothing/more/there"), parent.to_owned()] {
            for method in METHODS {
                let is = |path: &str| unnamed_operations.contains(&(method, unnamed(path)));
                let slashless = variant.strip_suffix('/').filter(|path| slash_allowed(path)).unwrap_or(&variant);
                let expected = is(&variant) || is(slashless);
                // An empty name is none, whatever stands before it.
                let path = concrete(&variant);
                if path.contains("//") || path.is_empty() {
                    continue;
                }
                let answer =
                    user.send(&method.to_uppercase(), &path, &[("Content-Type", "application/json")], Some(b"{}"));
                let routed = answer.status != 404 || (method != "head" && answer.json()["error"] != NO_ROUTE);
                assert_eq!(routed, expected, "{method} {path} gives {answer:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn its_references_and_names_are_sound() {
    let document = document();
    let mut references = Vec::new();
    visit(&document, &mut |value| references.extend(value["$ref"].as_str().map(str::to_owned)));
    for reference in references.iter().collect::<BTreeSet<_>>() {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    for (kind, entries) in document["components"].as_object().unwrap() {
        for name in entries.as_object().unwrap().keys().filter(|_| kind != "securitySchemes") {
            let reference = format!("#/components/{kind}/{name}");
            assert!(references.contains(&reference), "{reference} is not used");
        }
    }
    let mut ids = BTreeSet::new();
    for (method, path) in operations(&document) {
        let item = &document["paths"][&path];
        assert!(ids.insert(item[&method]["operationId"].as_str().unwrap()), "{method} {path}");
        let named: Vec<&str> = path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let declared = item["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let declared: Vec<&str> =
            declared.iter().map(|parameter| parameter["$ref"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
        assert_eq!(named, declared, "{path}");
    }
}

fn visit(value: &Value, seen: &mut impl FnMut(&Value)) {
    seen(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| visit(item, seen)),
        Value::Object(members) => members.values().for_each(|member| visit(member, seen)),
        _ => {}
    }
}

/// The golden bodies are what is answered; each must be of the form that is documented for it.
#[test]
fn answers_are_of_its_forms() {
    let document = document();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (schema, is_list) = match name {
            "action" | "action_updated" | "action_through_binding" => ("Action", false),
            "actions" => ("ActionSummary", true),
            "activation" | "activation_blocking" => ("Activation", false),
            "activations" => ("ActivationSummary", true),
            "api" => ("ApiInfo", false),
            "binding" | "package" => ("Package", false),
            "binding_contents" | "package_contents" => ("PackageContents", false),
            "bindings" | "packages" => ("PackageSummary", true),
            "limits" | "limits_own" => ("NamespaceLimits", false),
            "root" => ("Root", false),
            // No whole answer.
            "activation_beyond_limits" => continue,
            other => panic!("which form has {other}.json?"),
        };
        let body: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        let schema = if is_list { json!({"type": "array", "items": schema}) } else { schema };
        if let Err(fault) = fits(&document, &schema, &body) {
            panic!("{name}.json: {fault}");
        }
        // The check finds what should not be there.
        let mut other = if is_list { body[0].clone() } else { body };
        other["undocumented"] = json!(1);
        let other = if is_list { json!([other]) } else { other };
        assert!(fits(&document, &schema, &other).is_err(), "{name}");
    }
    let refusal = user("it-refusal").get("actions/none").json();
    fits(&document, &json!({"$ref": "#/components/schemas/Error"}), &refusal).unwrap();
}

/// Does `value` have the form `schema`? As much of JSON Schema as the document uses, but for patterns.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).expect("it is there");
        fits(document, schema, value).map_err(|fault| format!("{reference}: {fault}"))?;
    }
    for schema in schema["allOf"].as_array().into_iter().flatten() {
        fits(document, schema, value)?;
    }
    if let Some(any) = schema["anyOf"].as_array()
        && !any.iter().any(|schema| fits(document, schema, value).is_ok())
    {
        return Err(format!("{value} is none of {any:?}"));
    }
    let allowed = schema["enum"].as_array();
    if allowed.is_some_and(|allowed| !allowed.contains(value)) || schema.get("const").is_some_and(|only| only != value)
    {
        return Err(format!("{value} is not {schema}"));
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // As golden files write what differs.
        "integer" => value.is_u64() || value == "<number>",
        other => panic!("no type {other}"),
    };
    if schema["type"].as_str().is_some_and(|kind| !is(kind)) {
        return Err(format!("{value} is no {}", schema["type"]));
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate().filter(|_| schema.get("items").is_some()) {
        fits(document, &schema["items"], item).map_err(|fault| format!("[{at}]: {fault}"))?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(required) {
            return Err(format!("{required} is missing"));
        }
    }
    for (key, member) in members {
        let schema = match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(schema), _) => schema,
            (None, Value::Bool(false)) => return Err(format!("{key} is not documented")),
            (None, others) => others,
        };
        fits(document, schema, member).map_err(|fault| format!("{key}: {fault}"))?;
    }
    Ok(())
}
