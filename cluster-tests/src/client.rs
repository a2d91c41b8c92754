//! The API of one node, as HTTP clients see it.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use ureq::http::Request;

use crate::wait;

/// A client with one key. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Api {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub text: String,
}

impl Reply {
    /// The body as JSON; a string if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| Value::String(self.text.clone()))
    }

    /// The body, if the status is `status`.
    ///
    /// # Panics
    /// With the whole answer, if it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    /// The id in a 202, or that of a record.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn activation_id(&self) -> String {
        let body = self.json();
        match body["activationId"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("no activation id in {}: {body}", self.status),
        }
    }
}

/// What an action is stored with beyond its code.
#[derive(Debug, Clone, Default)]
pub struct ActionOptions {
    pub main: Option<&'static str>,
    pub timeout_ms: Option<u64>,
    pub memory_mb: Option<u64>,
    pub logs_mb: Option<u64>,
    pub parameters: Option<Value>,
    pub annotations: Option<Value>,
}

impl Api {
    /// `address`: `127.0.0.1:3233`; `key`: `uuid:key`.
    pub fn new(address: std::net::SocketAddr, key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .max_idle_connections(256)
            .max_idle_connections_per_host(256)
            .build();
        Self {
            agent: config.into(),
            base: format!("http://{address}"),
            authorization: format!("Basic {}", STANDARD.encode(key)),
        }
    }

    /// `path` begins with a slash; below `/api/v1/namespaces/_` unless it begins with `//`.
    ///
    /// # Errors
    /// If no whole answer came.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply, ureq::Error> {
        let url = match path.strip_prefix('/') {
            Some(absolute) if absolute.starts_with('/') => format!("{}{absolute}", self.base),
            _ => format!("{}/api/v1/namespaces/_{path}", self.base),
        };
        let request = Request::builder().method(method).uri(url).header("Authorization", &self.authorization);
        let mut response = match body {
            Some(body) => self.agent.run(request.header("Content-Type", "application/json").body(body.to_string())?)?,
            None => self.agent.run(request.body(())?)?,
        };
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let bytes = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Reply { status: response.status().as_u16(), headers, text })
    }

    /// # Panics
    /// If no whole answer came.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.answered("GET", path, None)
    }

    /// # Panics
    /// If no whole answer came.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Reply {
        self.answered("PUT", path, Some(body))
    }

    /// # Panics
    /// If no whole answer came.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.answered("POST", path, Some(body))
    }

    /// # Panics
    /// If no whole answer came.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.answered("DELETE", path, None)
    }

    #[track_caller]
    fn answered(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        match self.request(method, path, body) {
            Ok(reply) => reply,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// Stores an action, over an older one.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn put_action(&self, name: &str, kind: &str, code: &str, options: ActionOptions) {
        let mut body = json!({ "exec": { "kind": kind, "code": code }, "limits": {} });
        let mut put = |path: &str, value: Option<Value>| {
            if let (Some(value), Some(place)) = (value, body.pointer_mut(path)) {
                *place = value;
            }
        };
        put("/exec", options.main.map(|main| json!({ "kind": kind, "code": code, "main": main })));
        let limits: serde_json::Map<_, _> =
            [("timeout", options.timeout_ms), ("memory", options.memory_mb), ("logs", options.logs_mb)]
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), json!(value?))))
                .collect();
        put("/limits", Some(Value::Object(limits)));
        for (key, value) in [("parameters", options.parameters), ("annotations", options.annotations)] {
            if let Some(value) = value {
                body[key] = value;
            }
        }
        self.put(&format!("/actions/{name}?overwrite=true"), &body).expect(200);
    }

    /// Invokes and waits for the record.
    #[track_caller]
    pub fn invoke(&self, name: &str, arguments: &Value) -> Reply {
        self.post(&format!("/actions/{name}?blocking=true"), arguments)
    }

    /// Invokes without waiting, and returns the id.
    ///
    /// # Panics
    /// If it is not accepted.
    #[track_caller]
    pub fn fire(&self, name: &str, arguments: &Value) -> String {
        let reply = self.post(&format!("/actions/{name}"), arguments);
        assert_eq!(reply.status, 202, "{}", reply.text);
        reply.activation_id()
    }

    /// The stored record, once it is there.
    ///
    /// # Panics
    /// If it is not there `within` that time.
    #[track_caller]
    pub fn record(&self, id: &str, within: Duration) -> Value {
        wait::eventually(within, &format!("the record of {id}"), || {
            let reply = self.get(&format!("/activations/{id}"));
            if reply.status == 200 { Ok(reply.json()) } else { Err(format!("{}: {}", reply.status, reply.text)) }
        })
    }

    /// Invokes, waits for the answer, and returns the stored record with its logs.
    #[track_caller]
    pub fn invoke_to_record(&self, name: &str, arguments: &Value) -> Value {
        let id = self.invoke(name, arguments).activation_id();
        self.record(&id, Duration::from_secs(30))
    }

    /// All records of the namespace, summaries, from page to page.
    ///
    /// # Panics
    /// If the API refuses.
    #[track_caller]
    pub fn all_activations(&self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            match self.get(&format!("/activations?limit=200&skip={}", all.len())).expect(200) {
                Value::Array(page) if page.is_empty() => return all,
                Value::Array(page) => all.extend(page),
                other => panic!("not a list: {other}"),
            }
        }
    }
}

/// The value of one of a record's annotations.
pub fn annotation<'a>(record: &'a Value, key: &str) -> Option<&'a Value> {
    record["annotations"].as_array()?.iter().find(|entry| entry["key"] == key).map(|entry| &entry["value"])
}
