//! The bodies that a container's action proxy is sent: `POST /init` and `POST /run`.
//!
//! They are put together from texts that are JSON already, so an argument's value is copied once and never parsed.
//!
//! Source: apache/openwhisk `docs/actions-new.md`, `ContainerProxy.scala` (`initializeAndRun`),
//! `WhiskAction.scala` (`containerInitializer`).

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::json::{ObjectWriter, push_string};

/// What `/init` is told.
#[derive(Debug, Clone, Copy)]
pub struct Init<'a> {
    /// The bare name of the action.
    pub name: &'a str,
    /// The entry point; `main` if none is given.
    pub main: Option<&'a str>,
    /// Absent for an image that brings its own.
    pub code: Option<InitCode<'a>>,
    /// Init parameters and `__OW_…` names, in this order; every value is text.
    pub env: &'a [(String, String)],
}

/// Code as it is stored.
#[derive(Debug, Clone, Copy)]
pub enum InitCode<'a> {
    /// Source text.
    Text(&'a str),
    /// Bytes of a zip, jar or executable; sent as base64.
    Binary(&'a [u8]),
}

impl Init<'_> {
    /// The JSON body.
    pub fn body(&self) -> String {
        let code_length = match self.code {
            None => 0,
            Some(InitCode::Text(text)) => text.len() + text.len() / 16,
            Some(InitCode::Binary(bytes)) => bytes.len().div_ceil(3) * 4,
        };
        let mut body = String::with_capacity(code_length + 1024);
        body.push_str("{\"value\":");
        let mut value = ObjectWriter::new(body);
        value.string("name", self.name);
        value.string("main", self.main.unwrap_or("main"));
        match self.code {
            None => {}
            Some(InitCode::Text(text)) => value.string("code", text),
            Some(InitCode::Binary(bytes)) => {
                // The base64 alphabet needs no escapes.
                let text = value.value("code");
                text.push('"');
                STANDARD.encode_string(bytes, text);
                text.push('"');
            }
        }
        value.raw("binary", if matches!(self.code, Some(InitCode::Binary(_))) { "true" } else { "false" });
        let env = value.value("env");
        env.push('{');
        for (index, (name, text)) in self.env.iter().enumerate() {
            if index > 0 {
                env.push(',');
            }
            push_string(env, name);
            env.push(':');
            push_string(env, text);
        }
        env.push('}');
        let mut body = value.finish();
        body.push('}');
        body
    }
}

/// What `/run` is told. Every member but the value is a JSON string: some launchers crash on numbers.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// JSON text of an object or array: the merged arguments without init parameters.
    pub value: &'a str,
    /// The invoker's.
    pub namespace: &'a str,
    /// `/ns[/package]/action` of the resolved action.
    pub action_name: &'a str,
    pub action_version: &'a str,
    pub activation_id: &'a str,
    pub transaction_id: &'a str,
    /// Milliseconds since the epoch.
    pub deadline_ms: u64,
    /// `uuid:key`; absent if the action does not get its key.
    pub api_key: Option<&'a str>,
}

impl Run<'_> {
    /// The JSON body.
    pub fn body(&self) -> String {
        let mut body = ObjectWriter::new(String::with_capacity(self.value.len() + 512));
        body.raw("value", self.value);
        body.string("namespace", self.namespace);
        body.string("action_name", self.action_name);
        body.string("action_version", self.action_version);
        body.string("activation_id", self.activation_id);
        body.string("transaction_id", self.transaction_id);
        body.string("deadline", &self.deadline_ms.to_string());
        if let Some(key) = self.api_key {
            body.string("api_key", key);
        }
        body.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_of_source_text() {
        let env = [("__OW_NAMESPACE".to_owned(), "guest".to_owned()), ("quote".to_owned(), "\"\n".to_owned())];
        let init = Init { name: "hello", main: None, code: Some(InitCode::Text("a \"b\"\n")), env: &env };
        assert_eq!(
            init.body(),
            r#"{"value":{"name":"hello","main":"main","code":"a \"b\"\n","binary":false,"env":{"__OW_NAMESPACE":"guest","quote":"\"\n"}}}"#
        );
    }

    #[test]
    fn init_of_binary_code_and_of_none() {
        let binary = Init { name: "n", main: Some("Main"), code: Some(InitCode::Binary(b"PK\x03\x04")), env: &[] };
        assert_eq!(binary.body(), r#"{"value":{"name":"n","main":"Main","code":"UEsDBA==","binary":true,"env":{}}}"#);
        let none = Init { name: "n", main: None, code: None, env: &[] };
        assert_eq!(none.body(), r#"{"value":{"name":"n","main":"main","binary":false,"env":{}}}"#);
    }

    #[test]
    fn run_holds_only_strings_beside_the_value() {
        let run = Run {
            value: r#"{"a": [1.0]}"#,
            namespace: "guest",
            action_name: "/guest/hello",
            action_version: "0.0.1",
            activation_id: "0123456789abcdef0123456789abcdef",
            transaction_id: "t\"1",
            deadline_ms: 1_700_000_000_000,
            api_key: None,
        };
        assert_eq!(
            run.body(),
            r#"{"value":{"a": [1.0]},"namespace":"guest","action_name":"/guest/hello","action_version":"0.0.1","activation_id":"0123456789abcdef0123456789abcdef","transaction_id":"t\"1","deadline":"1700000000000"}"#
        );
        let keyed = Run { value: "{}", api_key: Some("u:k"), ..run };
        assert!(keyed.body().ends_with(r#""deadline":"1700000000000","api_key":"u:k"}"#));
    }
}
