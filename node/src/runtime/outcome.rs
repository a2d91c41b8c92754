//! What a container's answers mean: pure tables from a [`CallOutcome`] to an activation's response.
//!
//! The HTTP status decides, never the language: Node.js answers a throw with 502 and Python with 200, and the records
//! differ accordingly.
//!
//! Source: apache/openwhisk `ActivationResponse.scala` (`processInitResponseContent`, `processRunResponseContent`),
//! `ContainerProxy.scala`.

use std::{borrow::Cow, fmt, time::Duration};

use protocol::{ActivationStatus, RawJson, activation::Response, command::LONGEST_RESULT, messages};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::proxy_client::{AnswerBody, CallOutcome, Observed};
use crate::containers::backend::Loss;

/// What `/init` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitVerdict {
    Initialized,
    /// The container had no part in it, or asked for it (503): the work belongs into another container, this one away.
    /// The caller bounds how often, since a container may die at every start.
    Reschedule,
    /// The activation ends here and the container is destroyed.
    Failed {
        response: Response,
        timed_out: bool,
    },
}

/// What `/run` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunVerdict {
    /// As with [`InitVerdict::Reschedule`]; nothing of the user's has run.
    Reschedule,
    Finished {
        response: Response,
        timed_out: bool,
        /// Developer and platform errors end the container.
        keep_container: bool,
    },
}

/// Reads the outcome of `/init`. `timeout`: the action's. `loss`: why there is no answer, looked at after
/// [`Observed::Lost`] only.
///
/// A 200 is a success however long it took.
pub fn classify_init(outcome: &CallOutcome, timeout: Duration, loss: Loss) -> InitVerdict {
    let timed_out = || InitVerdict::Failed {
        response: failed(developer_error(messages::timed_out_initializing(timeout.as_millis())), None),
        timed_out: true,
    };
    let response = match &outcome.observed {
        // It never listened.
        Observed::NotSent(_) if outcome.elapsed >= timeout => return timed_out(),
        Observed::NotSent(_) => return InitVerdict::Reschedule,
        Observed::TimedOut => return timed_out(),
        Observed::Lost(_) if loss == Loss::OutOfMemory => failed(developer_error(messages::MEMORY_EXHAUSTED), None),
        Observed::Lost(_) if outcome.elapsed >= timeout => return timed_out(),
        Observed::Lost(_) if loss == Loss::CommandExited => told_by_proxy(messages::CANNOT_START),
        Observed::Lost(_) if loss == Loss::NodeStopped => platform_error(),
        Observed::Lost(_) => failed(developer_error(messages::ABNORMAL_INITIALIZATION), None),
        Observed::Answer(answer) => match (answer.status, &answer.body) {
            (503, _) => return InitVerdict::Reschedule,
            (200, AnswerBody::Whole(_)) => return InitVerdict::Initialized,
            (_, AnswerBody::TooLong { length, limit, prefix }) => {
                let text = messages::truncated_response(*length, limit.bytes(), &preview(prefix));
                failed(developer_error(text), Some(*length))
            }
            (_, AnswerBody::Whole(body)) => {
                let text = String::from_utf8_lossy(body);
                let error = match scan(&text) {
                    Some(Shape::Object { error: Some(error) }) => RawJson::checked(error.get()),
                    _ => json_string(&messages::invalid_init_response(&text)),
                };
                failed((ActivationStatus::DeveloperError, error), Some(characters(&text)))
            }
        },
    };
    InitVerdict::Failed { response, timed_out: false }
}

/// Reads the outcome of `/run`; arguments as for [`classify_init`].
///
/// An answer that came after the timeout is still a timeout.
pub fn classify_run(outcome: &CallOutcome, timeout: Duration, loss: Loss) -> RunVerdict {
    let response = match &outcome.observed {
        Observed::NotSent(_) => return RunVerdict::Reschedule,
        Observed::Answer(answer) if answer.status == 503 => return RunVerdict::Reschedule,
        Observed::Lost(_) if loss == Loss::OutOfMemory => failed(developer_error(messages::MEMORY_EXHAUSTED), None),
        Observed::TimedOut | Observed::Lost(_) | Observed::Answer(_)
            if outcome.elapsed >= timeout || matches!(outcome.observed, Observed::TimedOut) =>
        {
            return RunVerdict::Finished {
                response: failed(developer_error(messages::timed_out(timeout.as_millis())), None),
                timed_out: true,
                keep_container: false,
            };
        }
        Observed::Lost(_) if loss == Loss::CommandExited => told_by_proxy(messages::COMMAND_EXITED),
        Observed::Lost(_) if loss == Loss::NodeStopped => platform_error(),
        Observed::TimedOut | Observed::Lost(_) => failed(developer_error(messages::ABNORMAL_RUN), None),
        Observed::Answer(answer) => match &answer.body {
            AnswerBody::TooLong { length, limit, prefix } => {
                let text = messages::truncated_response(*length, limit.bytes(), &preview(prefix));
                failed((ActivationStatus::ApplicationError, json_string(&text)), Some(*length))
            }
            AnswerBody::Whole(body) => result_of(answer.status, body),
        },
    };
    let keep_container = matches!(response.status, ActivationStatus::Success | ActivationStatus::ApplicationError);
    RunVerdict::Finished { response, timed_out: false, keep_container }
}

/// The table of statuses and bodies.
fn result_of(status: u16, body: &[u8]) -> Response {
    let text = String::from_utf8_lossy(body);
    let size = Some(characters(&text));
    match (status, scan(&text)) {
        (200, Some(Shape::Object { error: None } | Shape::Array)) => Response {
            status: ActivationStatus::Success,
            result: Some(RawJson::checked(text.trim_matches(JSON_SPACE))),
            size,
        },
        (200, Some(Shape::Object { error: Some(error) })) => {
            failed((ActivationStatus::ApplicationError, RawJson::checked(error.get())), size)
        }
        (_, Some(Shape::Object { error: Some(error) })) => {
            failed((ActivationStatus::DeveloperError, RawJson::checked(error.get())), size)
        }
        _ => failed(developer_error(messages::invalid_run_response(&text)), size),
    }
}

/// A response whose result is exactly `{"error": error}`.
fn failed((status, error): (ActivationStatus, RawJson), size: Option<u64>) -> Response {
    let result = format!("{{\"error\":{}}}", error.as_str());
    Response { status, result: Some(RawJson::checked(&result)), size }
}

/// A developer error as if a proxy had answered it: then it has the size of that answer.
fn told_by_proxy(text: &str) -> Response {
    let response = failed(developer_error(text), None);
    // The proxy ends its answer with a line end.
    let size = response.result.as_ref().map(|result| characters(result.as_str()) + 1);
    Response { size, ..response }
}

/// The action had no part in its end.
fn platform_error() -> Response {
    failed((ActivationStatus::WhiskError, json_string(messages::ABNORMAL_RUN)), None)
}

fn developer_error(text: impl AsRef<str>) -> (ActivationStatus, RawJson) {
    (ActivationStatus::DeveloperError, json_string(text.as_ref()))
}

/// `text` as JSON, cut where a record has no more room for it: escapes make it up to six times as long.
fn json_string(text: &str) -> RawJson {
    // For the object around it.
    let mut room = LONGEST_RESULT - 64;
    let escaped = |character: char| match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\x08' | '\x0c' => 2,
        '\0'..='\x1f' => 6,
        other => other.len_utf8(),
    };
    let end = match text.len() * 6 <= room {
        true => None,
        false => text.char_indices().find(|(_, character)| match room.checked_sub(escaped(*character)) {
            Some(left) => {
                room = left;
                false
            }
            None => true,
        }),
    };
    RawJson::string(&text[..end.map_or(text.len(), |(end, _)| end)])
}

fn characters(text: &str) -> u64 {
    // Counting is a scan of its own only where a character can take more than a byte.
    if text.is_ascii() { text.len() as u64 } else { text.chars().count() as u64 }
}

/// The text of a cut body, without a character that the cut halved.
fn preview(prefix: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(prefix) {
        Ok(text) => Cow::Borrowed(text),
        // `error_len` is absent when the text merely ends too early.
        Err(error) if error.error_len().is_none() => String::from_utf8_lossy(&prefix[..error.valid_up_to()]),
        Err(_) => String::from_utf8_lossy(prefix),
    }
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// What matters of a body: one scan finds it, and no value is built.
enum Shape<'a> {
    Object { error: Option<&'a RawValue> },
    Array,
    Scalar,
}

/// The shape of `text`; `None` if it is not one JSON value. Nesting costs no stack.
fn scan(text: &str) -> Option<Shape<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let shape = deserializer.deserialize_any(ShapeVisitor).ok()?;
    deserializer.end().ok()?;
    Some(shape)
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut error = None;
        while let Some(key) = map.next_key::<Key<'de>>()? {
            if key.0 == "error" {
                error = Some(map.next_value::<&'de RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Shape::Object { error })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::Array)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Shape::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Shape::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Shape::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Shape::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Shape::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Shape::Scalar)
    }
}

/// An object's key, borrowed unless it holds escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
