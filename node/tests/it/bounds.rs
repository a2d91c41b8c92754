//! Every limit: exactly at it a request is served, one beyond it is refused with the reference's status and text.
//!
//! Source: reference `rest-api.md` 1.6, 5.2, 7.3, 24. Heads and the depth of JSON have limits of our own.

use std::{fmt::Write, time::Instant};

use serde_json::json;

use super::{
    client::{Answer, Client},
    invoke::script,
    user,
};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const MIB: usize = 1 << 20;

/// One limit. `request` is given how far to go: exactly to the limit, or one beyond.
struct Bound<'a> {
    what: &'static str,
    limit: usize,
    /// Of the answer to what is one beyond.
    status: u16,
    text: String,
    request: Box<dyn Fn(usize) -> Answer + 'a>,
}

fn larger(what: &str, limit: usize) -> String {
    format!("{what} larger than allowed: {} > {limit} bytes.", limit + 1)
}

/// `{"k":"xx…"}` of this many bytes.
fn object(bytes: usize) -> String {
    format!(r#"{{"k":"{}"}}"#, "x".repeat(bytes - r#"{"k":""}"#.len()))
}

/// Entries that count as this many bytes: a key, and a value with its quotes.
fn entries(bytes: usize) -> serde_json::Value {
    json!([{"key": "k", "value": "x".repeat(bytes - 3)}])
}

/// `depth` objects in one another.
fn nested(depth: usize) -> String {
    r#"{"a":"#.repeat(depth - 1) + "{}" + &"}".repeat(depth - 1)
}

fn chunked(user: &Client, method: &str, path: &str, body: &str) -> Answer {
    let mut request = user.head(method, path, &[JSON, ("Transfer-Encoding", "chunked")]) + "\r\n";
    for piece in body.as_bytes().chunks(50_000) {
        let piece = std::str::from_utf8(piece).expect("ASCII");
        write!(request, "{:x}\r\n{piece}\r\n", piece.len()).expect("a string takes all");
    }
    request.push_str("0\r\n\r\n");
    user.exchange(request.as_bytes())
}

/// `GET /ping` with a head of this many bytes in one header, or in many.
fn head(user: &Client, bytes: usize, headers: usize) -> Answer {
    let mut head = "GET /ping HTTP/1.1\r\nHost: it\r\nConnection: close\r\n".to_owned();
    for index in 3..headers {
        write!(head, "X-{index}: y\r\n").expect("a string takes all");
    }
    let rest = bytes.saturating_sub(head.len() + "X: \r\n\r\n".len());
    write!(head, "X: {}\r\n\r\n", "x".repeat(rest)).expect("a string takes all");
    user.exchange(head.as_bytes())
}

#[test]
fn every_limit_holds_exactly() {
    let user = &user("it-bounds-all");
    script(user, "echo", json!({}));
    script(user, "timed", json!({}));
    let action = |body: serde_json::Value| user.put("actions/a?overwrite=true", &body);
    let code = || json!({"kind": "nodejs:20", "code": ""});
    let limited = |name: &'static str| move |value: usize| action(json!({"exec": code(), "limits": {name: value}}));
    let uri = |length: usize| {
        let path = "/api/v1/namespaces/_/actions?x=";
        user.get(&format!("{path}{}", "x".repeat(length - path.len())))
    };
    let deeper = || "The request content was malformed:\nJSON is nested deeper than 512 levels".to_owned();
    let too_long = "The request URI is longer than the server is willing to interpret.";
    let head_too_large = "The server is unwilling to process the request because either an individual header field, or all the header fields collectively, are too large.";
    let above = |what: &str, unit: &str, limit: usize| {
        format!("requirement failed: {what} {}{unit} exceeds allowed threshold of {limit}{unit}", limit + 1)
    };
    let bound = |what, limit, status, text: String, request: Box<dyn Fn(usize) -> Answer>| Bound {
        what,
        limit,
        status,
        text,
        request,
    };
    let bounds: Vec<Bound<'_>> = vec![
        Bound {
            what: "payload, its length declared",
            limit: MIB,
            status: 413,
            text: larger("Request", MIB),
            request: Box::new(|bytes| {
                user.send("POST", "actions/echo?blocking=true", &[JSON], Some(object(bytes).as_bytes()))
            }),
        },
        Bound {
            what: "payload in chunks",
            limit: MIB,
            status: 413,
            text: larger("Request", MIB),
            request: Box::new(|bytes| chunked(user, "POST", "actions/echo?blocking=true", &object(bytes))),
        },
        Bound {
            what: "code and the name of its function",
            limit: 48 * MIB,
            status: 413,
            text: larger("exec", 48 * MIB),
            // As text: to build such a value and write it takes seconds of a processor that other tests want.
            request: Box::new(|bytes| {
                let code = "x".repeat(bytes - "main".len());
                let body = format!(r#"{{"exec":{{"kind":"nodejs:20","code":"{code}","main":"main"}}}}"#);
                user.put_text("actions/a?overwrite=true", &body)
            }),
        },
        Bound {
            what: "body, its length declared",
            limit: 50 * MIB,
            status: 413,
            text: larger("Request", 50 * MIB),
            request: Box::new(|bytes| {
                let body = format!("{}{}", json!({"exec": code()}), " ".repeat(bytes));
                user.send("PUT", "actions/a?overwrite=true", &[JSON], Some(&body.as_bytes()[..bytes]))
            }),
        },
        Bound {
            what: "body in chunks",
            limit: 50 * MIB,
            status: 413,
            text: larger("Request", 50 * MIB),
            request: Box::new(|bytes| {
                let body = format!("{}{}", json!({}), " ".repeat(bytes));
                chunked(user, "PUT", "packages/p?overwrite=true", &body[..bytes])
            }),
        },
        Bound {
            what: "parameters of an action",
            limit: MIB,
            status: 413,
            text: larger("parameters", MIB),
            request: Box::new(|bytes| action(json!({"exec": code(), "parameters": entries(bytes)}))),
        },
        Bound {
            what: "annotations of an action",
            limit: MIB,
            status: 413,
            text: larger("annotations", MIB),
            request: Box::new(|bytes| {
                action(json!({"exec": code(), "parameters": [], "annotations": entries(bytes)}))
            }),
        },
        Bound {
            what: "parameters of a package",
            limit: MIB,
            status: 413,
            text: larger("parameters", MIB),
            request: Box::new(|bytes| user.put("packages/p?overwrite=true", &json!({"parameters": entries(bytes)}))),
        },
        Bound {
            what: "annotations of a package",
            limit: MIB,
            status: 413,
            text: larger("annotations", MIB),
            request: Box::new(|bytes| {
                user.put("packages/p?overwrite=true", &json!({"parameters": [], "annotations": entries(bytes)}))
            }),
        },
        Bound { what: "URI", limit: 8 << 10, status: 414, text: too_long.to_owned(), request: Box::new(uri) },
        Bound {
            what: "head",
            limit: 32 << 10,
            status: 431,
            text: head_too_large.to_owned(),
            request: Box::new(|bytes| head(user, bytes, 3)),
        },
        Bound {
            what: "number of headers",
            limit: 96,
            status: 431,
            text: head_too_large.to_owned(),
            request: Box::new(|headers| head(user, 0, headers)),
        },
        Bound {
            what: "depth of a payload",
            limit: 512,
            status: 400,
            text: deeper(),
            request: Box::new(|depth| {
                user.send("POST", "actions/echo?blocking=true", &[JSON], Some(nested(depth).as_bytes()))
            }),
        },
        Bound {
            what: "depth of an action's body",
            limit: 512,
            status: 400,
            text: deeper(),
            // Entries stand three levels deep.
            request: Box::new(|depth| {
                let value = nested(depth - 3);
                let body = format!(
                    r#"{{"exec":{{"kind":"nodejs:20","code":"{{}}"}},"parameters":[{{"key":"k","value":{value}}}],"annotations":[{{"key":"k","value":{value}}}]}}"#
                );
                user.put_text("actions/deep?overwrite=true", &body)
            }),
        },
        Bound {
            what: "depth of a package's body",
            limit: 512,
            status: 400,
            text: deeper(),
            request: Box::new(|depth| {
                let body = format!(r#"{{"parameters":[{{"key":"k","value":{}}}]}}"#, nested(depth - 3));
                user.put_text("packages/deep-package?overwrite=true", &body)
            }),
        },
        bound("timeout", 300_000, 400, above("duration", " milliseconds", 300_000), Box::new(limited("timeout"))),
        bound("memory", 512, 400, above("memory size", " MB", 512), Box::new(limited("memory"))),
        bound("logs", 10, 400, above("log size", " MB", 10), Box::new(limited("logs"))),
        bound("concurrency", 1, 400, above("concurrency", "", 1), Box::new(limited("concurrency"))),
        bound(
            "instances",
            30,
            400,
            "Max action instance concurrency must not exceed your namespace concurrency of 30.".to_owned(),
            Box::new(limited("instances")),
        ),
        Bound {
            what: "wait for a result",
            limit: 60_000,
            status: 400,
            text: "The query parameter 'timeout' was malformed:\nTimeout must be number of milliseconds up to 60000."
                .to_owned(),
            request: Box::new(|ms| user.post(&format!("actions/echo?blocking=true&timeout={ms}"), &json!({}))),
        },
        Bound {
            what: "length of a list",
            limit: 200,
            status: 400,
            text: "The query parameter 'limit' was malformed:\nThe value '201' is not in the range of 0 to 200 for actions."
                .to_owned(),
            request: Box::new(|limit| user.get(&format!("actions?limit={limit}"))),
        },
        Bound {
            what: "name",
            limit: 256,
            status: 400,
            text: "Name segement longer than allowed: 257 > 256.".to_owned(),
            request: Box::new(|length| user.put(&format!("packages/{}", "n".repeat(length)), &json!({}))),
        },
    ];
    for Bound { what, limit, status, text, request } in bounds {
        let began = Instant::now();
        let at = request(limit);
        assert_eq!(at.status, 200, "{what} at {limit}: {}", shortened(&at));
        let beyond = request(limit + 1);
        assert_eq!(beyond.status, status, "{what} beyond {limit}: {}", shortened(&beyond));
        beyond.refused(status, &text);
        eprintln!("{what}: {limit} is served, one more is {status}, in {:?}", began.elapsed());
    }
    // Lower bounds.
    for (name, limit, text) in [
        ("timeout", 100, "requirement failed: duration 99 milliseconds below allowed threshold of 100 milliseconds"),
        ("memory", 128, "requirement failed: memory size 127 MB below allowed threshold of 128 MB"),
        ("concurrency", 1, "requirement failed: concurrency 0 below allowed threshold of 1"),
    ] {
        limited(name)(limit).ok();
        limited(name)(limit - 1).refused(400, text);
    }
    limited("logs")(0).ok();
    limited("instances")(0).ok();
    // Far beyond is refused in the same way.
    for length in [9_000, 60_000, 70_000, 200_000] {
        uri(length).refused(414, too_long);
    }
    for bytes in [100_000, 1_000_000] {
        head(user, bytes, 3).refused(431, head_too_large);
    }
}

/// What passed in at the greatest depth comes out wherever it is shown.
#[test]
fn what_is_nested_to_the_limit_is_stored_shown_and_passed_on() {
    let user = user("it-deep");
    let value = nested(509);
    let code = r#"{"exec":{"kind":"nodejs:20","code":"{}"}"#;
    user.put_text("actions/a", &format!(r#"{code},"parameters":[{{"key":"p","value":{value}}}]}}"#)).ok_text();
    user.put_text("packages/p", &format!(r#"{{"annotations":[{{"key":"k","value":{value}}}]}}"#)).ok_text();
    for path in ["actions/a", "packages/p", "packages"] {
        let shown = user.get(path).ok_text();
        assert!(shown.contains(&value), "{path}");
    }
    let payload = nested(512);
    let send = |query: &str| user.send("POST", &format!("actions/a{query}"), &[JSON], Some(payload.as_bytes()));
    let result = send("?blocking=true&result=true").ok_text();
    assert!(result.contains(&payload[1..]) && result.contains(&value), "{result}");
    let accepted = send("");
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.header("x-openwhisk-activation-id").expect("an id");
    let record = user.stored(&format!("activations/{id}"));
    assert!(record.contains(&payload[1..]) && record.contains(r#""status":"success""#), "{record}");
    let list = user.get("activations?docs=true").ok_text();
    assert!(list.contains(&payload[1..]), "{list}");
    // What an action answers may be deeper: it is no request.
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let script = json!({"run": {"then": {"raw": format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{{\"a\":{deep}}}", deep.len() + 6
    )}}});
    user.action("deep", &json!({"exec": {"kind": "nodejs:20", "code": script.to_string()}}));
    let answer = user.post("actions/deep?blocking=true", &json!({}));
    assert_eq!(answer.status, 200, "{}", shortened(&answer));
    let id = answer.header("x-openwhisk-activation-id").expect("an id");
    assert!(user.stored(&format!("activations/{id}")).contains(&deep));
}

/// The limits that hold for what runs.
#[test]
fn limits_of_what_runs() {
    let user = user("it-running");
    let run = |name: &str, run: serde_json::Value, limits: serde_json::Value| {
        let code = json!({"run": run}).to_string();
        user.action(name, &json!({"exec": {"kind": "nodejs:20", "code": code}, "limits": limits}));
        user.post(&format!("actions/{name}?blocking=true"), &json!({}))
    };
    let failed = |answer: Answer, text: &str| {
        assert_eq!((answer.status, &answer.json()["response"]["result"]["error"]), (502, &json!(text)));
    };
    run("in-time", json!({"after_ms": 100}), json!({"timeout": 2000})).ok();
    let late = run("late", json!({"after_ms": 3000}), json!({"timeout": 400}));
    failed(late, "The action exceeded its time limits of 400 milliseconds.");
    let hungry = run("hungry", json!({"then": "out_of_memory"}), json!({"memory": 128}));
    failed(hungry, "The action exhausted its memory and was aborted.");

    let answer = |bytes: usize| json!({"then": {"answer": {"status": 200, "body": {"k": "x".repeat(bytes - 8)}}}});
    run("result", answer(MIB), json!({})).ok();
    let too_long = run("long-result", answer(MIB + 1), json!({}));
    assert_eq!(too_long.status, 502);
    let text = too_long.json()["response"]["result"]["error"].as_str().unwrap_or_default().to_owned();
    let start =
        "The action produced a response that exceeded the allowed length: 1048577 > 1048576 bytes. The truncated";
    assert!(text.starts_with(start), "{}", &text[..200]);

    // How lines are counted is exact in `activations/logs/tests.rs`.
    for (lines, truncated) in [(90, false), (120, true)] {
        let name = format!("logs-{lines}");
        let line = "x".repeat(10_000);
        let id = run(&name, json!({"stdout": vec![line; lines]}), json!({"logs": 1}))
            .header("x-openwhisk-activation-id")
            .expect("an id");
        let logs = user.record(&id)["logs"].as_array().expect("logs").clone();
        let last = logs.last().and_then(|line| line.as_str()).unwrap_or_default();
        let told =
            last.ends_with("Logs were truncated because the total bytes size exceeds the limit of 1048576 bytes.");
        assert_eq!(told, truncated, "{lines}: {last}");
        assert!(if truncated { logs.len() < 110 } else { logs.len() == lines }, "{} of {lines}", logs.len());
    }
    let id = run("no-logs", json!({"stdout": ["x"]}), json!({"logs": 0}))
        .header("x-openwhisk-activation-id")
        .expect("an id");
    assert_eq!(user.record(&id)["logs"], json!([]));
}

fn shortened(answer: &Answer) -> String {
    answer.body.chars().take(400).collect()
}
