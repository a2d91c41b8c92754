//! What all requests have in common: credentials, headers, paths, content types.

use serde_json::json;

use super::{anonymous, golden, user};

/// Every route: method and path below the namespace, and whether another namespace's owner is refused with 403.
pub const ROUTES: &[(&str, &str, bool)] = &[
    ("GET", "actions", true),
    ("GET", "actions/", true),
    ("GET", "actions/a", true),
    ("PUT", "actions/a", true),
    ("POST", "actions/a", true),
    ("DELETE", "actions/a", true),
    ("GET", "actions/p/", true),
    ("GET", "actions/p/a", true),
    ("PUT", "actions/p/a", true),
    ("POST", "actions/p/a", true),
    ("DELETE", "actions/p/a", true),
    // Anybody may list what is published.
    ("GET", "packages", false),
    ("GET", "packages/", false),
    ("GET", "packages/p", true),
    ("PUT", "packages/p", true),
    ("DELETE", "packages/p", true),
    ("GET", "activations", true),
    ("GET", "activations/", true),
    ("GET", "activations/0123456789abcdef0123456789abcdef", true),
    ("GET", "activations/0123456789abcdef0123456789abcdef/", true),
    ("GET", "activations/0123456789abcdef0123456789abcdef/logs", true),
    ("GET", "activations/0123456789abcdef0123456789abcdef/result", true),
    ("GET", "limits", true),
    ("GET", "limits/", true),
];

#[test]
fn every_route_wants_its_owner() {
    let (stranger, _owner) = (user("it-stranger"), user("it-owner"));
    for (method, path, forbidden) in ROUTES {
        let path = format!("/api/v1/namespaces/it-owner/{path}");
        anonymous()
            .send(method, &path, &[], None)
            .refused(401, "The resource requires authentication, which was not supplied with the request");
        let answer = stranger.send(method, &path, &[("Content-Type", "application/json")], Some(b"{}"));
        if *forbidden {
            let named = path.trim_start_matches("/api/v1/namespaces/it-owner").trim_end_matches('/');
            let named = named.trim_end_matches("/logs").trim_end_matches("/result");
            // A list names the namespace, a package's actions the package, if they are only to be read.
            let resource = match (*method, named) {
                (_, "/actions" | "/activations" | "/limits") => "it-owner".to_owned(),
                ("GET" | "POST", "/actions/p" | "/actions/p/a") => "it-owner/p".to_owned(),
                (_, named) => {
                    format!("it-owner{}", named.splitn(3, '/').nth(2).map_or(String::new(), |n| format!("/{n}")))
                }
            };
            answer.refused(403, &format!("The supplied authentication is not authorized to access '{resource}'."));
        } else {
            assert_eq!((answer.status, answer.body.as_str()), (200, "[]"), "{method} {path}");
        }
    }
}

#[test]
fn credentials_that_are_refused() {
    let user = user("it-credentials");
    let with = |value: &str| anonymous().send("GET", "/api/v1/namespaces", &[("Authorization", value)], None);
    let none = "The resource requires authentication, which was not supplied with the request";
    with("Bearer abc").refused(401, none);
    let wrong = anonymous().send("GET", "/api/v1/nonsense", &[], None);
    wrong.refused(401, none);
    assert_eq!(wrong.header("www-authenticate").unwrap(), r#"Basic realm="OpenWhisk secure realm",charset=UTF-8"#);
    with("Basic !!!").refused(401, "The supplied authentication is invalid");
    with("Basic dXVpZDprZXk=").refused(401, "The supplied authentication is invalid");
    assert_eq!(user.get("/api/v1/namespaces").ok(), json!(["it-credentials"]));
    assert_eq!(user.get("/api/v1/namespaces/").ok(), json!(["it-credentials"]));
}

#[test]
fn what_is_not_there_is_404_and_never_405() {
    let user = user("it-routes");
    for (method, path) in [
        ("PATCH", "actions/a"),
        ("HEAD", "/ping"),
        ("POST", "/ping"),
        ("GET", "/nothing"),
        ("PUT", "actions/"),
        ("PUT", "actions"),
        ("DELETE", "actions/"),
        ("POST", "actions/p/"),
        ("DELETE", "actions/p/"),
        ("GET", "actions/p/a/"),
        ("GET", "actions/p/a/b"),
        ("GET", "packages/p/"),
        ("POST", "packages/p"),
        ("PUT", "activations/0123456789abcdef0123456789abcdef"),
        ("GET", "activations/0123456789abcdef0123456789abcdef/logs/"),
        ("GET", "activations/0123456789abcdef0123456789abcdef/other"),
        ("POST", "limits"),
        ("POST", "/api/v1"),
        ("PUT", "/api/v1/"),
        ("POST", "/api/v1/namespaces"),
        ("GET", "/api/v1/namespaces/it-routes"),
        ("GET", "/api/v1/namespaces/it-routes/"),
        ("GET", "/api/v1/nonsense"),
        ("GET", "/api/v1//namespaces"),
        ("GET", "/api/v1/namespaces//actions"),
        ("GET", "actions//a"),
        ("PUT", "packages//"),
        ("GET", "/api/v2/namespaces"),
        ("GET", "/api/v11"),
        // Not in this build, and nothing pretends that it were.
        ("GET", "triggers"),
        ("POST", "triggers/t"),
        ("PUT", "rules/r"),
        ("GET", "/api/v1/web/guest/default/a.json"),
    ] {
        let answer = user.send(method, path, &[("Content-Type", "application/json")], Some(b"{}"));
        if method == "HEAD" {
            assert_eq!(answer.status, 404, "{method} {path}");
        } else {
            assert_eq!(
                (answer.status, &answer.json()["error"]),
                (404, &json!("The requested resource could not be found.")),
                "{method} {path}"
            );
        }
    }
}

#[test]
fn names_that_are_refused() {
    let user = user("it-names");
    let long = "a".repeat(257);
    let illegal = "The name of the entity contains illegal characters.";
    for name in ["hi+there", "$hola", "dora%3F", "%7Cdora%7Cdora%3F", "%20", "a%20", "%FF", "%zz", "a%2Fb"] {
        user.put(&format!("actions/{name}"), &json!({})).refused(400, illegal);
        user.get(&format!("packages/{name}")).refused(400, illegal);
    }
    user.get(&format!("actions/{long}")).refused(400, "Name segement longer than allowed: 257 > 256.");
    user.get(&format!("actions/p/{long}")).refused(400, "Name segement longer than allowed: 257 > 256.");
    let namespace = |name: &str| user.get(&format!("/api/v1/namespaces/{name}/actions"));
    namespace(&long).refused(400, "Namespace longer than allowed: 257 > 256.");
    namespace("$x").refused(400, "The namespace contains illegal characters.");
    for name in ["name%20with%20spaces", "foo@bar", "a&b", "_under"] {
        user.get(&format!("actions/{name}")).refused(404, "The requested resource does not exist.");
    }
}

#[test]
fn every_answer_names_its_request() {
    let user = user("it-request-id");
    for (method, path, given) in [
        ("GET", "/ping", "mine-1"),
        ("GET", "actions", "mine-2"),
        ("GET", "actions/none", "mine-3"),
        ("OPTIONS", "/api/v1/anything", "mine-4"),
        ("GET", "/nothing", "mine-5"),
    ] {
        let answer = user.send(method, path, &[("X-Request-ID", given)], None);
        assert_eq!(answer.header("x-request-id").as_deref(), Some(given), "{method} {path}");
        let made = user.send(method, path, &[("X-Request-ID", "sid_1")], None).header("x-request-id").unwrap();
        assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{made}");
    }
    assert!(anonymous().get("actions").header("x-request-id").is_some());
}

#[test]
fn cors_headers_are_exact() {
    let user = user("it-cors");
    let allowed = "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent";
    for (method, path, methods) in [
        ("OPTIONS", "/api/v1/namespaces/_/nowhere", "GET, DELETE, POST, PUT, HEAD"),
        ("GET", "/api/v1/namespaces", "GET, DELETE, POST, PUT, HEAD"),
        ("POST", "/api/v1/namespaces/_/actions/none", "GET, DELETE, POST, PUT, HEAD"),
        ("GET", "/ping", "OPTIONS, GET, POST"),
        ("OPTIONS", "/", "OPTIONS, GET, POST"),
    ] {
        let answer = user.send(method, path, &[], None);
        assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("*"), "{path}");
        assert_eq!(answer.header("access-control-allow-headers").as_deref(), Some(allowed), "{path}");
        assert_eq!(answer.header("access-control-allow-methods").as_deref(), Some(methods), "{path}");
    }
    let options = anonymous().send("OPTIONS", "/api/v1/namespaces/_/actions/a", &[], None);
    assert_eq!((options.status, options.body.as_str()), (200, "OK"));
}

#[test]
fn content_types() {
    let user = user("it-content");
    let unsupported =
        |found: &str| format!("The request's Content-Type [{found}] is not supported. Expected:\napplication/json");
    for path in ["actions/a", "packages/p"] {
        let send = |headers: &[(&str, &str)], body: Option<&[u8]>| user.send("PUT", path, headers, body);
        send(&[("Content-Type", "text/plain; charset=UTF-8")], Some(b"{}"))
            .refused(415, &unsupported("text/plain; charset=UTF-8"));
        send(&[("Content-Type", "text/plain")], None).refused(415, &unsupported("text/plain"));
        send(&[], Some(b"{}")).refused(415, &unsupported("application/octet-stream"));
        let empty = send(&[("Content-Type", "application/json")], Some(b""));
        assert!(empty.status == 400 && empty.body.contains("The request content was malformed:\\n"), "{empty:?}");
    }
    let charset = user.send("PUT", "packages/p", &[("Content-Type", "application/json; charset=utf-8")], Some(b"{}"));
    assert_eq!(charset.header("content-type").as_deref(), Some("application/json"));
    charset.ok();
    user.send("GET", "packages", &[("Accept", "text/plain")], None)
        .refused(406, "Resource representation is only available with these types:\napplication/json");
}

#[test]
fn what_everybody_is_told() {
    let root = anonymous().get("/");
    assert_eq!(root.header("content-type").as_deref(), Some("application/json"));
    golden("root", &root.ok());
    let ping = anonymous().get("/ping");
    assert_eq!((ping.status, ping.body.as_str()), (200, "pong"));
    assert_eq!(anonymous().get("/ready").status, 200);
    golden("api", &anonymous().get("/api/v1").ok());
    golden("api", &anonymous().get("/api/v1/").ok());
    let metrics = anonymous().get("/metrics");
    assert!(metrics.status == 200 && metrics.body.contains("# EOF"), "{metrics:?}");
}

#[test]
fn requests_that_are_too_large() {
    let user = user("it-large");
    let uri = format!("actions/a?x={}", "x".repeat(8 << 10));
    assert_eq!(user.get(&uri).status, 414);
    // Refused by what it declares, before it is sent.
    let declared = |method: &str, path: &str, length: u64| {
        let length = length.to_string();
        let headers = [("Content-Type", "application/json"), ("Content-Length", length.as_str())];
        user.exchange(format!("{}\r\n", user.head(method, path, &headers)).as_bytes())
    };
    declared("PUT", "actions/a", (50 << 20) + 1)
        .refused(413, "Request larger than allowed: 52428801 > 52428800 bytes.");
    user.action("a", &json!({"exec": {"kind": "nodejs:20", "code": ""}}));
    declared("POST", "actions/a", (1 << 20) + 1).refused(413, "Request larger than allowed: 1048577 > 1048576 bytes.");
    // Without a declared length it is refused as soon as it is too long, whoever goes on sending.
    let mut chunked =
        user.head("POST", "actions/a", &[("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]);
    chunked.push_str("\r\n");
    for _ in 0..20 {
        chunked.push_str(&format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16)));
    }
    let asked = std::time::Instant::now();
    let answer = user.exchange(chunked.as_bytes());
    assert!(asked.elapsed() < std::time::Duration::from_secs(30), "the connection was not closed");
    assert!(answer.status == 413 && answer.body.contains("> 1048576 bytes."), "{answer:?}");
    let entries = |bytes: usize| json!([{"key": "k", "value": "x".repeat(bytes)}]);
    // Key and quotes count too.
    user.put("actions/b", &json!({"exec": {"kind": "nodejs:20", "code": ""}, "parameters": entries((1 << 20) - 2)}))
        .refused(413, "parameters larger than allowed: 1048577 > 1048576 bytes.");
    user.put("actions/b", &json!({"exec": {"kind": "nodejs:20", "code": ""}, "annotations": entries(1 << 20)}))
        .refused(413, "annotations larger than allowed: 1048579 > 1048576 bytes.");
    user.put("packages/p", &json!({"parameters": entries(1 << 20)}))
        .refused(413, "parameters larger than allowed: 1048579 > 1048576 bytes.");
    // Both at their limit, with code beside them, is more than one entry of the log holds inline.
    let code = "// ".to_owned() + &"c".repeat(60_000);
    let both = json!({"exec": {"kind": "nodejs:20", "code": code}, "parameters": entries(1_000_000), "annotations": entries(1_000_000)});
    user.put("actions/b", &both).ok();
    assert_eq!(user.get("actions/b").ok()["exec"]["code"], json!(code));
}

/// Name, then entitlement, then size, then query, then body, then existence.
#[test]
fn of_several_mistakes_the_first_is_told() {
    let (user, _other) = (user("it-order"), user("it-order-other"));
    user.action("a", &json!({"exec": {"kind": "nodejs:20", "code": ""}}));
    user.put("packages/p", &json!({})).ok();
    let missing = "The requested resource does not exist.";
    let wrong = "Resource by this name exists but is not in this collection.";
    let forbidden = |name: &str| format!("The supplied authentication is not authorized to access '{name}'.");
    let query = |name: &str, value: &str| {
        format!("The query parameter '{name}' was malformed:\n'{value}' is not a valid Boolean value")
    };
    let unsupported = "The request's Content-Type [text/plain] is not supported. Expected:\napplication/json";
    let limit = "The query parameter 'limit' was malformed:\nThe value 'x' is not an integer for actions.";
    let large = "x".repeat((1 << 20) + 1);
    let too_large = "Request larger than allowed: 1048577 > 1048576 bytes.";
    let foreign = |path: &str| format!("/api/v1/namespaces/it-order-other/{path}");
    let (json_type, text_type) = (("Content-Type", "application/json"), ("Content-Type", "text/plain"));
    for (method, path, content_type, body, status, text) in [
        ("GET", "actions/$?code=x".to_owned(), None, "", 400, "The name of the entity contains illegal characters."),
        ("GET", foreign("actions/a?code=x"), None, "", 403, forbidden("it-order-other/a").as_str()),
        ("GET", foreign("actions/p/a?code=x"), None, "", 403, forbidden("it-order-other/p").as_str()),
        ("GET", foreign("actions?limit=x"), None, "", 403, forbidden("it-order-other").as_str()),
        ("GET", foreign("actions/p/?limit=x"), None, "", 403, forbidden("it-order-other/p").as_str()),
        ("GET", "actions/none/a?code=x".to_owned(), None, "", 404, missing),
        ("GET", "actions/none/?limit=x".to_owned(), None, "", 404, missing),
        ("GET", "actions/a/?limit=x".to_owned(), None, "", 409, wrong),
        ("GET", "actions/p/?limit=x".to_owned(), None, "", 400, limit),
        ("GET", "actions/none?code=x".to_owned(), None, "", 400, query("code", "x").as_str()),
        ("GET", "actions/p/none?code=x".to_owned(), None, "", 400, query("code", "x").as_str()),
        ("POST", foreign("actions/a?blocking=x"), Some(text_type), "[", 403, forbidden("it-order-other/a").as_str()),
        ("POST", "actions/none/a?blocking=x".to_owned(), Some(text_type), "[", 404, missing),
        ("POST", "actions/a/a?blocking=x".to_owned(), Some(text_type), "[", 409, wrong),
        ("POST", "actions/none?blocking=x".to_owned(), Some(text_type), "[", 400, query("blocking", "x").as_str()),
        ("POST", "actions/none?blocking=x".to_owned(), Some(json_type), large.as_str(), 413, too_large),
        ("POST", "actions/none".to_owned(), Some(text_type), "[", 415, unsupported),
        (
            "POST",
            "actions/p/none".to_owned(),
            Some(json_type),
            "1",
            400,
            "The request content was malformed:\nJSON object expected",
        ),
        ("POST", "actions/p/none".to_owned(), Some(json_type), "{}", 404, missing),
        ("PUT", "actions/none/a?overwrite=x".to_owned(), Some(text_type), "[", 404, missing),
        (
            "PUT",
            "actions/a?overwrite=x".to_owned(),
            Some(json_type),
            r#"{"exec":{}}"#,
            400,
            "The request content was malformed:\n'kind' must be a string defined in 'exec'",
        ),
        (
            "PUT",
            "actions/a?overwrite=x".to_owned(),
            Some(json_type),
            r#"{"limits":3}"#,
            400,
            query("overwrite", "x").as_str(),
        ),
        ("PUT", "actions/a".to_owned(), Some(json_type), "{}", 409, "resource already exists"),
    ] {
        let headers: Vec<_> = content_type.into_iter().collect();
        let body = (!body.is_empty()).then_some(body.as_bytes());
        let answer = user.send(method, &path, &headers, body);
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(text)), "{method} {path}");
    }
}
