use protocol::{EntityName, EntityPath, entity::ActionLimits, limits::LimitsBody};

use super::*;

fn name() -> FullyQualifiedName {
    FullyQualifiedName::new(EntityPath::namespace(EntityName::new("guest").unwrap()), EntityName::new("a").unwrap())
}

fn parameters(json: &str) -> Parameters {
    Parameters::from_json(serde_json::from_str(json).unwrap()).unwrap()
}

fn exec(kind: &str) -> Exec {
    let code = CodeRef { sha256: [0; 32], size: 0, binary: false, inline: true };
    Exec::Managed { kind: kind.into(), main: None, code }
}

fn put(content: ActionContent, settings: ActionSettings) -> PutAction {
    PutAction { overwrite: true, content, settings }
}

fn merged(put: PutAction, exec: Option<Exec>, stored: Option<&Action>) -> Result<Action, EntityError> {
    merge(&name(), put, exec, stored, &SystemLimits::default(), 5)
}

fn json(parameters: &Parameters) -> String {
    serde_json::to_string(parameters).unwrap()
}

#[test]
fn a_new_action_gets_the_defaults() {
    let content = ActionContent {
        annotations: Some(parameters(r#"[{"key":"exec","value":"mine"},{"key":"x","value":1}]"#)),
        ..ActionContent::default()
    };
    let action = merged(put(content, ActionSettings::default()), Some(exec("nodejs:20")), None).unwrap();
    assert_eq!((action.version, action.publish, action.limits), (SemVer::FIRST, false, ActionLimits::default()));
    assert_eq!(action.updated_ms, 5);
    assert_eq!(
        json(&action.annotations),
        r#"[{"key":"exec","value":"nodejs:20"},{"key":"x","value":1},{"key":"provide-api-key","value":false}]"#
    );
    let refused = merged(put(ActionContent::default(), ActionSettings::default()), None, None).unwrap_err();
    assert_eq!((refused.code(), refused.text()), (ErrorCode::BadRequest, "exec undefined"));
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let stored = Action {
        version: SemVer { major: 1, minor: 2, patch: 3 },
        publish: true,
        parameters: parameters(r#"[{"key":"p","value":1}]"#),
        annotations: parameters(r#"[{"key":"a","value":1},{"key":"b","value":2},{"key":"exec","value":"nodejs:20"}]"#),
        limits: ActionLimits { memory_mb: 512, ..ActionLimits::default() },
        ..merged(put(ActionContent::default(), ActionSettings::default()), Some(exec("nodejs:20")), None).unwrap()
    };
    let same = merged(put(ActionContent::default(), ActionSettings::default()), None, Some(&stored)).unwrap();
    assert_eq!(same, Action { version: SemVer { major: 1, minor: 2, patch: 4 }, ..stored.clone() });

    let content = ActionContent {
        parameters: Some(parameters(r#"[{"key":"q","value":2}]"#)),
        annotations: Some(parameters(r#"[{"key":"b","value":3},{"key":"c","value":4}]"#)),
        ..ActionContent::default()
    };
    let settings = ActionSettings {
        del_annotations: vec!["a".into(), "exec".into()],
        limits: Some(LimitsBody { timeout_ms: Some(100), ..LimitsBody::default() }),
        version: Some(SemVer { major: 0, minor: 0, patch: 9 }),
        publish: Some(false),
    };
    let changed = merged(put(content, settings), Some(exec("python:3.11")), Some(&stored)).unwrap();
    assert_eq!(json(&changed.parameters), r#"[{"key":"q","value":2}]"#);
    assert_eq!(
        json(&changed.annotations),
        r#"[{"key":"b","value":3},{"key":"c","value":4},{"key":"exec","value":"python:3.11"}]"#
    );
    assert_eq!((changed.limits.timeout_ms, changed.limits.memory_mb), (100, 512));
    assert_eq!((changed.version.to_string().as_str(), changed.publish), ("0.0.9", false));
}

#[test]
fn what_this_build_does_not_run_is_refused() {
    let limits = EffectiveLimits::of(&SystemLimits::default(), None);
    let refused = |content: ActionContent| {
        check_content(&put(content, ActionSettings::default()), &limits, &SystemLimits::default())
            .err()
            .map(|e| e.text().to_owned())
    };
    let sequence = Some(ExecBody::Sequence { components: vec![name()] });
    assert_eq!(refused(ActionContent { exec: sequence, ..Default::default() }).unwrap(), messages::NO_SEQUENCES);
    let conductor = |value: &str| ActionContent {
        annotations: Some(parameters(&format!(r#"[{{"key":"conductor","value":{value}}}]"#))),
        ..ActionContent::default()
    };
    assert_eq!(refused(conductor(r#"{"type":"action"}"#)).unwrap(), messages::NO_COMPOSITIONS);
    assert_eq!(refused(conductor("false")), None);
}
