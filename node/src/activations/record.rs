//! Puts a record together.
//!
//! Source: apache/openwhisk `ContainerProxy.constructWhiskActivation`; reference `execution.md` 5.

use protocol::{
    Activation, RawJson,
    activation::Response,
    command::AcceptedWork,
    entity::{ActionLimits, Parameter, Parameters, SemVer},
};
use serde_json::json;

use crate::entities::resolved::ResolvedAction;

/// When things happened in one activation; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Since the epoch. `end - start` is the duration: a gap between init and run does not count.
    pub start_ms: u64,
    pub end_ms: u64,
    /// From the request's arrival to the start of init or run.
    pub wait_ms: u64,
    /// Only if `/init` was called.
    pub init_ms: Option<u64>,
    pub timed_out: bool,
}

impl Times {
    /// Of an activation that ended before any container ran it.
    pub fn never_ran(received_ms: u64, now_ms: u64) -> Self {
        Self { start_ms: now_ms, end_ms: now_ms, wait_ms: now_ms.saturating_sub(received_ms), ..Self::default() }
    }
}

/// The record of `work`, which ran `action` and answered `response`. Its logs come later.
pub fn record(work: &AcceptedWork, action: &ResolvedAction, response: Response, times: &Times) -> Activation {
    let stored = &action.action;
    let mut annotations = vec![
        annotation("path", json!(stored.fqn().to_string())),
        annotation("waitTime", json!(times.wait_ms)),
        annotation("kind", json!(stored.exec.kind())),
        annotation("timeout", json!(times.timed_out)),
        annotation("limits", limits(&stored.limits)),
    ];
    if let Some(init_ms) = times.init_ms {
        annotations.push(annotation("initTime", json!(init_ms)));
    }
    if let Some(binding) = &action.binding {
        annotations.push(annotation("binding", json!(binding.to_string())));
    }
    if work.cause.is_some() {
        annotations.push(annotation("causedBy", json!("sequence")));
    }
    Activation {
        namespace: work.namespace.clone(),
        name: stored.name.clone(),
        version: stored.version,
        subject: work.subject.clone(),
        activation_id: work.activation_id,
        cause: work.cause,
        start_ms: times.start_ms,
        end_ms: Some(times.end_ms),
        duration_ms: Some(times.end_ms.saturating_sub(times.start_ms)),
        response,
        logs: Vec::new(),
        annotations: Parameters(annotations),
        publish: false,
        filter_name: action.filter_name(),
    }
}

/// The record of `work` whose action is not there any more, cannot be read, or is not to run. `version`: the action's,
/// where it is known.
pub fn fallback(work: &AcceptedWork, version: Option<SemVer>, response: Response, now_ms: u64) -> Activation {
    let mut annotations =
        vec![annotation("path", json!(work.action.to_string())), annotation("kind", json!("unknown"))];
    if work.cause.is_some() {
        annotations.push(annotation("causedBy", json!("sequence")));
    }
    let package = work.binding.as_ref().map(|binding| &binding.name).or(work.action.path.package.as_ref());
    Activation {
        namespace: work.namespace.clone(),
        name: work.action.name.clone(),
        version: version.unwrap_or(SemVer::FIRST),
        subject: work.subject.clone(),
        activation_id: work.activation_id,
        cause: work.cause,
        start_ms: now_ms,
        end_ms: Some(now_ms),
        duration_ms: Some(0),
        response,
        logs: Vec::new(),
        annotations: Parameters(annotations),
        publish: false,
        filter_name: match package {
            Some(package) => format!("{package}/{}", work.action.name),
            None => work.action.name.to_string(),
        },
    }
}

fn limits(limits: &ActionLimits) -> serde_json::Value {
    let mut shown = json!({
        "timeout": limits.timeout_ms,
        "memory": limits.memory_mb,
        "logs": limits.logs_mb,
        "concurrency": limits.concurrency,
    });
    if let Some(instances) = limits.instances {
        shown["instances"] = json!(instances);
    }
    shown
}

fn annotation(key: &str, value: serde_json::Value) -> Parameter {
    Parameter { key: key.to_owned(), value: RawJson::from(value), init: false, encryption: None }
}
