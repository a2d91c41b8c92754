//! Puts a record together.
//!
//! Source: apache/openwhisk `ContainerProxy.constructWhiskActivation`; reference `execution.md` 5.

use std::sync::Arc;

use protocol::{
    Activation, RawJson,
    activation::Response,
    command::AcceptedWork,
    entity::{Parameter, Parameters, SemVer},
};

use crate::entities::resolved::{ResolvedAction, filter_name};

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
    let (stored, recorded) = (&action.action, &action.recorded);
    let mut annotations = vec![
        Parameter::new("path", recorded.path.clone()),
        Parameter::new("waitTime", times.wait_ms),
        Parameter::new("kind", recorded.kind.clone()),
        Parameter::new("timeout", times.timed_out),
        Parameter::new("limits", recorded.limits.clone()),
    ];
    if let Some(init_ms) = times.init_ms {
        annotations.push(Parameter::new("initTime", init_ms));
    }
    if let Some(binding) = &recorded.binding {
        annotations.push(Parameter::new("binding", binding.clone()));
    }
    annotations.extend(caused_by(work));
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
        filter_name: Arc::clone(&recorded.filter_name),
    }
}

/// The record of `work` whose action is not there any more, cannot be read, or is not to run. `version`: the action's,
/// where it is known.
pub fn fallback(work: &AcceptedWork, version: Option<SemVer>, response: Response, now_ms: u64) -> Activation {
    let mut annotations = vec![
        Parameter::new("path", RawJson::string(&work.action.to_string())),
        Parameter::new("kind", RawJson::string("unknown")),
    ];
    annotations.extend(caused_by(work));
    let package = work.action.path.package.as_ref();
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
        filter_name: filter_name(package, work.binding.as_ref(), &work.action.name),
    }
}

/// The annotation of work that is part of other work.
fn caused_by(work: &AcceptedWork) -> Option<Parameter> {
    work.cause.map(|_| Parameter::new("causedBy", RawJson::string("sequence")))
}

#[cfg(test)]
mod tests {
    use protocol::{
        ActivationId, ActivationStatus, EntityName, FullyQualifiedName, Revision,
        entity::{Action, ActionLimits, CodeRef, Exec},
    };

    use super::*;

    fn name(text: &str) -> FullyQualifiedName {
        FullyQualifiedName::parse(text).expect("a name")
    }

    fn work(cause: Option<ActivationId>) -> AcceptedWork {
        AcceptedWork {
            activation_id: ActivationId::new(1_700_000_000_000),
            action: name("prov/pkg/act"),
            binding: Some(name("me/bound")),
            revision: Revision(3),
            subject: "me".to_owned(),
            namespace: EntityName::new("me").expect("a name"),
            key_uuid: String::new(),
            transaction_id: String::new(),
            arguments: "{}".to_owned(),
            init_env: Vec::new(),
            cause,
            received_ms: 1_700_000_000_000,
            extra_logging: false,
        }
    }

    fn action(binding: Option<&str>) -> ResolvedAction {
        let FullyQualifiedName { path, name: action } = name("prov/pkg/act");
        let code = CodeRef { sha256: [0; 32], size: 0, binary: false, inline: true };
        let action = Action {
            path,
            name: action,
            version: SemVer::FIRST,
            publish: false,
            exec: Exec::Managed { kind: "nodejs:20".into(), main: None, code },
            parameters: Parameters::default(),
            annotations: Parameters::default(),
            limits: ActionLimits { instances: Some(2), ..ActionLimits::default() },
            updated_ms: 1,
        };
        ResolvedAction::new(action, Revision(3), None, None, binding.map(name))
    }

    fn annotations(record: &Activation) -> String {
        serde_json::to_string(&record.annotations).expect("JSON")
    }

    #[test]
    fn records_say_what_ran_and_for_how_long() {
        let response = || Response { status: ActivationStatus::Success, result: None, size: None };
        let limits = r#"{"concurrency":1,"instances":2,"logs":10,"memory":256,"timeout":60000}"#;
        let times = Times { start_ms: 5, end_ms: 9, wait_ms: 7, ..Times::default() };
        let warm = record(&work(None), &action(None), response(), &times);
        assert_eq!((warm.start_ms, warm.end_ms, warm.duration_ms), (5, Some(9), Some(4)));
        assert_eq!((&*warm.filter_name, warm.name.as_str()), ("pkg/act", "act"));
        assert_eq!(
            annotations(&warm),
            format!(
                concat!(
                    r#"[{{"key":"path","value":"prov/pkg/act"}},{{"key":"waitTime","value":7}},"#,
                    r#"{{"key":"kind","value":"nodejs:20"}},{{"key":"timeout","value":false}},"#,
                    r#"{{"key":"limits","value":{limits}}}]"#
                ),
                limits = limits
            )
        );

        let times = Times { init_ms: Some(3), timed_out: true, ..times };
        let cause = Some(ActivationId::new(1_700_000_000_000));
        let cold = record(&work(cause), &action(Some("me/bound")), response(), &times);
        assert_eq!(&*cold.filter_name, "bound/act");
        assert_eq!(
            annotations(&cold),
            format!(
                concat!(
                    r#"[{{"key":"path","value":"prov/pkg/act"}},{{"key":"waitTime","value":7}},"#,
                    r#"{{"key":"kind","value":"nodejs:20"}},{{"key":"timeout","value":true}},"#,
                    r#"{{"key":"limits","value":{limits}}},{{"key":"initTime","value":3}},"#,
                    r#"{{"key":"binding","value":"me/bound"}},{{"key":"causedBy","value":"sequence"}}]"#
                ),
                limits = limits
            )
        );
    }

    #[test]
    fn an_action_that_is_gone_is_named_as_it_was_called() {
        let response = Response { status: ActivationStatus::ApplicationError, result: None, size: None };
        let record = fallback(&work(None), None, response, 5);
        assert_eq!(&*record.filter_name, "bound/act");
        assert_eq!(annotations(&record), r#"[{"key":"path","value":"prov/pkg/act"},{"key":"kind","value":"unknown"}]"#);
    }
}
