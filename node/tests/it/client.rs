//! A client that hides nothing: every request is one connection, every byte of the answer is there to look at.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

#[derive(Clone)]
pub struct Client {
    addr: SocketAddr,
    credentials: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// All values of a header, joined as HTTP joins them.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.headers.iter().filter(|(key, _)| key == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body, if the status is 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The same, as text: `serde_json::Value` is never deeper than 128 levels.
    #[track_caller]
    pub fn ok_text(self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    /// Asserts a refusal: its status, its text, and that it has the form of all refusals.
    #[track_caller]
    pub fn refused(&self, status: u16, text: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["error"], text, "{self:?}");
        assert_eq!(body["code"].as_str(), self.header("x-request-id").as_deref(), "{self:?}");
        assert_eq!(body.as_object().map(|members| members.len()), Some(2), "{self:?}");
    }
}

impl Client {
    pub fn new(addr: SocketAddr, credentials: Option<String>) -> Self {
        Self { addr, credentials }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None)
    }

    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[("Content-Type", "application/json")], Some(body.to_string().as_bytes()))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("Content-Type", "application/json")], Some(body.to_string().as_bytes()))
    }

    /// Sends JSON that may be none.
    pub fn put_text(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, &[("Content-Type", "application/json")], Some(body.as_bytes()))
    }

    /// `path`: below the caller's namespace, or absolute if it begins with a slash.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
        let mut head = self.head(method, path, headers);
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.exchange(&[head.as_bytes(), body.unwrap_or_default()].concat())
    }

    /// The request line and headers, without the empty line at their end.
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/namespaces/_/{path}") };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n");
        if let Some(credentials) = &self.credentials {
            head.push_str(&format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials)));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head
    }

    /// Sends bytes as they are and reads to the end.
    pub fn exchange(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.addr).expect("the node listens");
        stream.set_read_timeout(Some(Duration::from_secs(70))).expect("a timeout");
        // A refusal may come before all was sent; then the rest cannot be written, and the answer counts.
        let _ = stream.write_all(request);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {read:?}, {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let header = |line: &str| line.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
        let headers: Vec<(String, String)> = lines.filter_map(header).collect();
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        Answer { status, headers, body }
    }

    /// Creates or overwrites an action.
    #[track_caller]
    pub fn action(&self, name: &str, body: &Value) -> Value {
        self.put(&format!("actions/{name}?overwrite=true"), body).ok()
    }

    /// The record of an activation, which may take a while to be there.
    #[track_caller]
    pub fn record(&self, id: &str) -> Value {
        let text = self.stored(&format!("activations/{id}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Waits until the metrics have `line`.
    #[track_caller]
    pub fn until_metrics_have(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let metrics = self.get("/metrics").body;
            if metrics.lines().any(|told| told == line) {
                return;
            }
            assert!(Instant::now() < deadline, "no {line} in {metrics}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `path` answers once it is there.
    #[track_caller]
    pub fn stored(&self, path: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path);
            if answer.status == 200 {
                return answer.body;
            }
            assert!(answer.status == 404 && Instant::now() < deadline, "{answer:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The body without the marks of its chunks.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").expect("the length of a chunk");
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            return body;
        }
        body.push_str(&after[..length]);
        rest = after[length..].strip_prefix("\r\n").expect("the end of a chunk");
    }
}
