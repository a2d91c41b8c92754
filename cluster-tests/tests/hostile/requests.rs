//! Requests that are made up.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::{collection::vec, prelude::*, sample::select};

use super::answers::Answer;

/// Several requests on one connection, and how their bytes come.
#[derive(Clone)]
pub struct Conversation {
    requests: Vec<Vec<u8>>,
    /// Each request is a whole one, and HTTP.
    is_valid: bool,
    /// What was done to the bytes.
    damage: Damage,
    /// Bytes that are sent at once.
    piece: usize,
    /// Between two of them.
    pub pause: Duration,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    /// Only so many thousandths are sent.
    Cut(usize),
    /// A byte is another one: where, in thousandths, and which.
    Replaced(usize, u8),
    /// So many are missing there.
    Removed(usize, usize),
    Inserted(usize, u8, usize),
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_valid, damage, piece, pause, .. } = self;
        writeln!(f, "valid: {is_valid}, {damage:?}, {piece} bytes each {pause:?}")?;
        for request in &self.requests {
            let shown = &request[..request.len().min(1500)];
            writeln!(f, "{} bytes: {}", request.len(), shown.escape_ascii())?;
        }
        Ok(())
    }
}

impl Conversation {
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.piece.max(self.bytes.len() / 200 + 1))
    }

    /// # Errors
    /// What of the answers must not be.
    pub fn check(&self, answers: Result<Vec<Answer>, String>) -> Result<(), String> {
        let answers = answers?;
        answers.iter().try_for_each(Answer::check)?;
        if let Some((_, before)) = answers.split_last()
            && before.iter().any(Answer::is_last)
        {
            return Err(format!("answers behind the last one: {answers:?}"));
        }
        let closed = answers.last().is_some_and(Answer::is_last);
        if self.is_valid && self.damage == Damage::None && !closed && answers.len() != self.requests.len() {
            return Err(format!("{} answers to {} requests: {answers:?}", answers.len(), self.requests.len()));
        }
        Ok(())
    }
}

pub fn conversation(key: String) -> impl Strategy<Value = Conversation> {
    let damage = prop_oneof![
        4 => Just(Damage::None),
        1 => (0..1000_usize).prop_map(Damage::Cut),
        1 => (0..1000_usize, any::<u8>()).prop_map(|(at, byte)| Damage::Replaced(at, byte)),
        1 => (0..1000_usize, 1..50_usize).prop_map(|(at, count)| Damage::Removed(at, count)),
        1 => (0..1000_usize, any::<u8>(), 1..50_usize).prop_map(|(at, byte, count)| Damage::Inserted(at, byte, count)),
    ];
    let pace = prop_oneof![
        6 => Just((usize::MAX, 0)),
        1 => (1..200_usize, 0..3_u64),
        1 => (500..5000_usize, 0..20_u64),
    ];
    (vec(request(key), 1..6), any::<bool>(), damage, pace).prop_map(
        |(requests, says_close, damage, (piece, pause_ms))| {
            let is_valid = requests.iter().all(|(_, is_valid)| *is_valid);
            let mut requests: Vec<Vec<u8>> = requests.into_iter().map(|(bytes, _)| bytes).collect();
            if let Some(last) = requests.last_mut().filter(|_| says_close) {
                // Behind the request line.
                let at = last.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                last.splice(at..at, *b"Connection: close\r\n");
            }
            let mut bytes = requests.concat();
            let place = |thousandths: usize| bytes.len() * thousandths / 1000;
            match damage {
                Damage::None => {}
                Damage::Cut(at) => bytes.truncate(place(at)),
                Damage::Replaced(at, byte) => {
                    let at = place(at);
                    bytes[at] = byte;
                }
                Damage::Removed(at, count) => {
                    let at = place(at);
                    bytes.drain(at..(at + count).min(bytes.len()));
                }
                Damage::Inserted(at, byte, count) => {
                    let at = place(at);
                    bytes.splice(at..at, std::iter::repeat_n(byte, count));
                }
            }
            Conversation {
                requests,
                is_valid,
                damage,
                piece: piece.min(bytes.len().max(1)),
                pause: Duration::from_millis(pause_ms),
                bytes,
            }
        },
    )
}

/// The bytes of a request, and whether it is one.
fn request(key: String) -> impl Strategy<Value = (Vec<u8>, bool)> {
    let parts = (method(), path(), query(), authorization(key), headers(), framing(), body());
    parts.prop_map(|(method, path, query, authorization, headers, framing, body)| {
        let mut head =
            format!("{method} {path}{query} HTTP/1.1\r\nHost: whisp\r\n{authorization}{headers}").into_bytes();
        // Nobody sends a body with these.
        let body = if ["GET", "OPTIONS", "DELETE"].contains(&method) { Vec::new() } else { body };
        let length = body.len();
        let is_valid = match framing {
            Framing::Length => {
                if length > 0 {
                    head.extend(format!("Content-Length: {length}\r\n").bytes());
                }
                head.extend(b"\r\n");
                head.extend(body);
                true
            }
            Framing::Chunked(size) => {
                head.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(size.max(length / 100 + 1)) {
                    head.extend(format!("{:x}\r\n", piece.len()).bytes());
                    head.extend(piece);
                    head.extend(b"\r\n");
                }
                head.extend(b"0\r\n\r\n");
                true
            }
            Framing::WrongLength(wrong) => {
                head.extend(format!("Content-Length: {wrong}\r\n\r\n").bytes());
                head.extend(body);
                false
            }
            Framing::Both => {
                head.extend(format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n").bytes());
                head.extend(body);
                false
            }
            Framing::BrokenChunks => {
                head.extend(b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n");
                head.extend(body);
                false
            }
        };
        (head, is_valid)
    })
}

#[derive(Debug, Clone)]
enum Framing {
    Length,
    Chunked(usize),
    WrongLength(u64),
    Both,
    BrokenChunks,
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        12 => Just(Framing::Length),
        4 => (1..5000_usize).prop_map(Framing::Chunked),
        1 => prop_oneof![0..100_u64, Just(u64::MAX), Just(60 << 20)].prop_map(Framing::WrongLength),
        1 => Just(Framing::Both),
        1 => Just(Framing::BrokenChunks),
    ]
}

fn method() -> impl Strategy<Value = &'static str> {
    // Answers to HEAD have no body, which whoever reads damaged conversations cannot know.
    select(vec![
        "GET", "GET", "GET", "PUT", "PUT", "PUT", "POST", "POST", "POST", "DELETE", "OPTIONS", "PATCH", "WHISK",
    ])
}

fn path() -> impl Strategy<Value = String> {
    let action = select(vec![
        "echo",
        "p/echo",
        "fails",
        "breaks",
        "list",
        "text",
        "exits",
        "hungry",
        "hangs",
        "garbage",
        "not-json",
        "short",
        "chunks",
        "bad-chunks",
        "no-content",
        "endless-head",
        "new",
        "p/new",
        "none",
        "p/",
        "p",
        "none/none",
    ]);
    let name = prop_oneof![
        8 => action.prop_map(str::to_owned),
        1 => "[ -~]{0,20}".prop_map(|name| name.replace([' ', '?', '#'], "%20")),
        1 => "(%[0-9a-fA-F]{2}){1,10}",
        1 => "[a-z%/.]{0,300}",
    ];
    let namespace = select(vec!["_", "_", "_", "_", "client0", "client1", "nobody", "", "..", "%00", "$"]);
    let collection =
        select(vec!["actions", "actions", "actions", "packages", "activations", "limits", "triggers", "rules"]);
    let activation = "[0-9a-f]{32}(/logs|/result)?";
    prop_oneof![
        10 => (namespace, collection, name).prop_map(|(namespace, collection, name)| {
            format!("/api/v1/namespaces/{namespace}/{collection}/{name}")
        }),
        2 => select(vec!["actions", "actions/", "packages", "activations", "limits", "limits/x"])
            .prop_map(|list| format!("/api/v1/namespaces/_/{list}")),
        1 => activation.prop_map(|id| format!("/api/v1/namespaces/_/activations/{id}")),
        1 => select(vec!["/", "/ping", "/ready", "/metrics", "/api-docs", "/api/v1", "/api/v1/", "/api/v1/web/a/b/c", "//", "*"])
            .prop_map(str::to_owned),
        1 => (0..12_000_usize).prop_map(|length| format!("/{}", "x".repeat(length))),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let pair = select(vec![
        "blocking=true",
        "blocking=true",
        "blocking=true",
        "result=true",
        "overwrite=true",
        "overwrite=true",
        "timeout=200",
        "timeout=0",
        "timeout=99999999999999999999",
        "limit=0",
        "limit=200",
        "limit=-1",
        "skip=3",
        "skip=99999999999",
        "count=true",
        "count=x",
        "code=false",
        "docs=true",
        "since=0",
        "upto=-1",
        "name=echo",
        "name=%2F%2F",
        "force=true",
        "%",
        "=",
        "&",
        "a=%zz",
        "blocking",
        "blocking=%74rue",
        "",
    ]);
    vec(pair, 0..4).prop_map(|pairs| match pairs.as_slice() {
        [] => String::new(),
        pairs => format!("?{}", pairs.join("&")),
    })
}

fn authorization(key: String) -> impl Strategy<Value = String> {
    let encoded = STANDARD.encode(key);
    prop_oneof![
        12 => Just(format!("Authorization: Basic {encoded}\r\n")),
        1 => Just(String::new()),
        1 => Just("Authorization: Bearer x\r\n".to_owned()),
        1 => "Authorization: Basic [ -~]{0,100}\r\n",
    ]
}

fn headers() -> impl Strategy<Value = String> {
    let header = prop_oneof![
        6 => Just("Content-Type: application/json\r\n".to_owned()),
        1 => Just("Content-Type: text/plain\r\n".to_owned()),
        1 => Just("Accept: text/html\r\n".to_owned()),
        1 => Just("Expect: 100-continue\r\n".to_owned()),
        1 => Just("X-OW-EXTRA-LOGGING: on\r\n".to_owned()),
        1 => "X-Request-ID: [!-~]{1,100}\r\n",
        1 => "X-[a-z]{1,20}: [ -~]{0,200}\r\n",
        1 => (0..40_000_usize).prop_map(|length| format!("X-Long: {}\r\n", "y".repeat(length))),
    ];
    // No header twice: of some the framework wants one.
    vec(header, 0..4).prop_map(|headers| {
        let mut names: Vec<String> = Vec::new();
        let mut all = String::new();
        for header in headers {
            let name = header.split(':').next().unwrap_or_default().to_owned();
            if !names.contains(&name) {
                names.push(name);
                all.push_str(&header);
            }
        }
        all
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let script = select(vec![
        "{}",
        r#"{\"run\":{\"then\":\"exit\"}}"#,
        r#"{\"init\":{\"then\":\"exit\"}}"#,
        r#"{\"init\":{\"then\":\"out_of_memory\"}}"#,
        r#"{\"init\":{\"then\":{\"answer\":{\"status\":500,\"body\":{\"error\":1}}}}}"#,
        "",
        "function main() {}",
    ]);
    let kind = select(vec!["nodejs:20", "nodejs:default", "python:3.11", "blackbox", "sequence", "cobol:1", ""]);
    let entries = r#"\[(\{"key":"[a-c]","value":(1|null|"x"|\{"d":\[\]\})(,"init":(true|1))?\},){0,3}\{"key":"d","value":true\}\]"#;
    let limits = r#"\{("timeout":(100|200|99|0|1e3|"a"|-5),)?("memory":(128|256|1000000|-1|99999999999999999999),)?"logs":(0|1|10|11|0\.5)\}"#;
    let action = (kind, script, entries, entries, limits).prop_map(|(kind, code, parameters, annotations, limits)| {
        format!(
            r#"{{"exec":{{"kind":"{kind}","code":"{code}"}},"parameters":{parameters},"annotations":{annotations},"limits":{limits}}}"#
        )
    });
    let simulated = select(vec![
        r#"{"simulate":{"then":"exit"}}"#,
        r#"{"simulate":{"then":"hang"}}"#,
        r#"{"simulate":{"stdout":["x"],"after_ms":20}}"#,
        r#"{"simulate":{"then":{"raw":"HTTP/1.1 999 X\r\nContent-Length: 2\r\n\r\n{}"}}}"#,
        r#"{"simulate":1}"#,
    ]);
    prop_oneof![
        4 => Just(Vec::new()),
        6 => action.prop_map(String::into_bytes),
        4 => simulated.prop_map(|text| text.as_bytes().to_vec()),
        2 => json(),
        2 => vec(any::<u8>(), 0..300),
        1 => (1..1000_usize).prop_map(|depth| ("{\"a\":".repeat(depth) + "1" + &"}".repeat(depth)).into_bytes()),
        1 => (1_000_000..1_100_000_usize).prop_map(|length| format!(r#"{{"a":"{}"}}"#, "x".repeat(length)).into_bytes()),
        1 => Just(br#"{"binding":{"namespace":"_","name":"p"}}"#.to_vec()),
    ]
}

fn json() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<f64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[ -~]{0,20}".prop_map(|text| serde_json::Value::from(text).to_string()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let key = prop_oneof![
        select(vec![
            "exec",
            "kind",
            "code",
            "parameters",
            "annotations",
            "limits",
            "version",
            "publish",
            "binding",
            "error"
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    let value = leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            vec((key.clone(), inner), 0..6).prop_map(|members| {
                let members =
                    members.into_iter().map(|(key, value)| format!("{}:{value}", serde_json::Value::from(key)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(" , "))
            }),
        ]
    });
    value.prop_map(String::into_bytes)
}
