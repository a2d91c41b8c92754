//! The record that every activation ends in.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use crate::{
    entity::{parameters::Parameters, version::SemVer},
    ids::ActivationId,
    json::RawJson,
    names::EntityName,
};

/// How an activation ended. The numbers are OpenWhisk's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActivationStatus {
    Success,
    ApplicationError,
    DeveloperError,
    WhiskError,
}

impl ActivationStatus {
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The status as records show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ApplicationError => "application error",
            Self::DeveloperError => "action developer error",
            Self::WhiskError => "whisk internal error",
        }
    }
}

/// What an activation answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub status: ActivationStatus,
    pub result: Option<RawJson>,
    /// Characters of the container's answer, or its declared length when it was cut.
    pub size: Option<u64>,
}

/// A stored activation.
///
/// Source: apache/openwhisk `WhiskActivation.scala`, `ActivationResult.scala`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The invoker's namespace.
    pub namespace: EntityName,
    pub name: EntityName,
    pub version: SemVer,
    pub subject: String,
    pub activation_id: ActivationId,
    pub cause: Option<ActivationId>,
    pub start_ms: u64,
    /// Absent for triggers.
    pub end_ms: Option<u64>,
    pub duration_ms: Option<u64>,
    pub response: Response,
    pub logs: Vec<String>,
    pub annotations: Parameters,
    pub publish: bool,
    /// What the `name` filter of lists matches: `action`, or `package/action` with the binding's name if invoked
    /// through one.
    pub filter_name: Arc<str>,
}

impl Response {
    /// A failure whose result is `{"error": text}`.
    pub fn failure(status: ActivationStatus, text: &str) -> Self {
        Self { status, result: Some(RawJson::object([("error", &RawJson::string(text))])), size: None }
    }
}

/// The member `response` of a record, and the answer of `GET …/activations/{id}/result`. Never shows `statusCode`.
#[derive(Debug, Serialize)]
pub struct ResponseDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    success: bool,
    status: &'static str,
}

impl<'a> From<&'a Response> for ResponseDocument<'a> {
    fn from(response: &'a Response) -> Self {
        Self {
            result: response.result.as_ref(),
            size: response.size,
            success: response.status == ActivationStatus::Success,
            status: response.status.as_str(),
        }
    }
}

/// A record as `GET …/activations/{id}`, lists with `docs=true` and blocking invocations show it.
#[derive(Debug)]
pub struct ActivationDocument<'a>(pub &'a Activation);

impl Serialize for ActivationDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("namespace", &record.namespace)?;
        map.serialize_entry("name", &record.name)?;
        map.serialize_entry("subject", &record.subject)?;
        map.serialize_entry("activationId", &record.activation_id)?;
        times(&mut map, record)?;
        map.serialize_entry("response", &ResponseDocument::from(&record.response))?;
        map.serialize_entry("logs", &record.logs)?;
        map.serialize_entry("version", &record.version)?;
        map.serialize_entry("publish", &record.publish)?;
        map.serialize_entry("annotations", &record.annotations)?;
        map.end()
    }
}

/// A record as lists show it.
#[derive(Debug)]
pub struct ActivationSummary<'a>(pub &'a Activation);

impl Serialize for ActivationSummary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("namespace", &record.namespace)?;
        map.serialize_entry("name", &record.name)?;
        map.serialize_entry("version", &record.version)?;
        map.serialize_entry("publish", &record.publish)?;
        map.serialize_entry("annotations", &record.annotations)?;
        map.serialize_entry("activationId", &record.activation_id)?;
        times(&mut map, record)?;
        // Triggers, which have no end, have no status here either.
        if record.end_ms.is_some() {
            map.serialize_entry("statusCode", &record.response.status.code())?;
        }
        map.end()
    }
}

/// `start`, and `end`, `duration` and `cause` where they are.
fn times<M: SerializeMap>(map: &mut M, record: &Activation) -> Result<(), M::Error> {
    map.serialize_entry("start", &record.start_ms)?;
    if let Some(end) = record.end_ms {
        map.serialize_entry("end", &end)?;
    }
    if let Some(duration) = record.duration_ms {
        map.serialize_entry("duration", &duration)?;
    }
    match &record.cause {
        Some(cause) => map.serialize_entry("cause", cause),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Activation {
        let name = |text| EntityName::new(text).unwrap();
        let mut annotations = Parameters::default();
        annotations.set("path", RawJson::string("guest/hello"));
        Activation {
            namespace: name("guest"),
            name: name("hello"),
            version: SemVer::FIRST,
            subject: "guest".into(),
            activation_id: "0190163de7c47d0f9ff1a2b3c4d5e6f7".parse().unwrap(),
            cause: None,
            start_ms: 1_700_000_000_000,
            end_ms: Some(1_700_000_000_123),
            duration_ms: Some(123),
            response: Response {
                status: ActivationStatus::Success,
                result: Some(RawJson::parse(r#"{"a":1.0}"#).unwrap()),
                size: Some(9),
            },
            logs: vec!["line \"1\"".into()],
            annotations,
            publish: false,
            filter_name: "hello".into(),
        }
    }

    #[test]
    fn records_and_summaries() {
        let record = record();
        assert_eq!(
            serde_json::to_string(&ActivationDocument(&record)).unwrap(),
            concat!(
                r#"{"namespace":"guest","name":"hello","subject":"guest","#,
                r#""activationId":"0190163de7c47d0f9ff1a2b3c4d5e6f7","start":1700000000000,"end":1700000000123,"#,
                r#""duration":123,"response":{"result":{"a":1.0},"size":9,"success":true,"status":"success"},"#,
                r#""logs":["line \"1\""],"version":"0.0.1","publish":false,"#,
                r#""annotations":[{"key":"path","value":"guest/hello"}]}"#
            )
        );
        assert_eq!(
            serde_json::to_string(&ActivationSummary(&record)).unwrap(),
            concat!(
                r#"{"namespace":"guest","name":"hello","version":"0.0.1","publish":false,"#,
                r#""annotations":[{"key":"path","value":"guest/hello"}],"#,
                r#""activationId":"0190163de7c47d0f9ff1a2b3c4d5e6f7","start":1700000000000,"end":1700000000123,"#,
                r#""duration":123,"statusCode":0}"#
            )
        );
    }

    #[test]
    fn triggers_have_no_end_no_duration_and_no_status_code() {
        let record = Activation {
            end_ms: None,
            duration_ms: None,
            annotations: Parameters::default(),
            cause: Some("0190163de7c47d0f9ff1a2b3c4d5e6f8".parse().unwrap()),
            response: Response { result: None, size: None, ..record().response },
            ..record()
        };
        assert_eq!(
            serde_json::to_string(&ActivationSummary(&record)).unwrap(),
            concat!(
                r#"{"namespace":"guest","name":"hello","version":"0.0.1","publish":false,"annotations":[],"#,
                r#""activationId":"0190163de7c47d0f9ff1a2b3c4d5e6f7","start":1700000000000,"#,
                r#""cause":"0190163de7c47d0f9ff1a2b3c4d5e6f8"}"#
            )
        );
        let document = serde_json::to_string(&ActivationDocument(&record)).unwrap();
        assert!(document.contains(r#""response":{"success":true,"status":"success"},"logs""#), "{document}");
    }

    #[test]
    fn a_failure_holds_its_text() {
        let failure = Response::failure(ActivationStatus::WhiskError, "it \"broke\"");
        assert_eq!(
            serde_json::to_string(&ResponseDocument::from(&failure)).unwrap(),
            r#"{"result":{"error":"it \"broke\""},"success":false,"status":"whisk internal error"}"#
        );
    }
}
