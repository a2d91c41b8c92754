//! Bodies of requests: any bytes are a document, arguments of an action, or a refusal with a text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use node::entities::resolved::ResolvedAction;
use protocol::{
    EntityName, EntityPath, Revision,
    entity::{
        Action, ActionLimits, Exec, Parameters, SemVer,
        action::{ActionContent, ActionSettings},
        exec::{KindRules, Kinds},
        package::PackageBody,
    },
    json::{self, Members},
    limits::{EffectiveLimits, SystemLimits},
};
use serde_json::value::RawValue;

struct SomeKinds;

impl Kinds for SomeKinds {
    fn rules(&self, kind: &str) -> Option<KindRules> {
        let (family, _) = kind.split_once(':')?;
        Some(KindRules { kind: kind.to_owned(), attached: family != "go", require_main: family == "java" })
    }

    fn names(&self) -> Vec<&str> {
        vec!["nodejs:20", "java:8", "go:1.20"]
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(members) = Members::parse(text) else { return };
    let raw: &RawValue = serde_json::from_str(text).expect("what was parsed is JSON");
    let compact = json::compact(raw.get());
    assert!(Members::parse(&compact).is_ok(), "{compact}");
    put_action(&members);
    put_package(&members);
    invoke(text);
});

fn put_action(members: &Members<'_>) {
    if let Ok(content) = ActionContent::from_json(members, &SomeKinds) {
        if let Some(exec) = &content.exec {
            exec.size();
        }
        for entries in [&content.parameters, &content.annotations].into_iter().flatten() {
            check(entries);
        }
    }
    if let Ok(settings) = ActionSettings::from_json(members)
        && let Some(limits) = settings.limits
    {
        let effective = EffectiveLimits::of(&SystemLimits::default(), None);
        if effective.check_body(&limits).is_ok() {
            let stored = limits.over(ActionLimits::default());
            assert_eq!(effective.check_stored(&stored), Ok(()), "{limits:?}");
        }
    }
}

fn put_package(members: &Members<'_>) {
    if let Ok(content) = PackageBody::content(members) {
        for entries in [&content.parameters, &content.annotations].into_iter().flatten() {
            check(entries);
        }
        // Refusals have texts; that is all that is asked of them here.
        let _ = content.with_settings(members).map_err(|error| error.to_string());
    }
}

/// What is shown of entries is what they came from.
fn check(entries: &Parameters) {
    let shown = serde_json::to_string(entries).expect("entries are JSON");
    let raw: &RawValue = serde_json::from_str(&shown).expect("what is shown is JSON");
    assert_eq!(&Parameters::from_json(raw).expect("what is shown can be read"), entries, "{shown}");
    assert!(entries.size() <= shown.len() as u64, "{shown}");
}

/// The arguments of an invocation are one JSON object, whose members are the payload's over the action's.
fn invoke(payload: &str) {
    let Ok(arguments) = action().arguments(payload) else { return };
    let run = arguments.run.as_str();
    let merged = Members::parse(run).unwrap_or_else(|error| panic!("{error}: {run}"));
    assert!(merged.get("secret").is_none(), "{run}");
    let given = Members::parse(payload).expect("it was read before");
    for (key, _) in given.iter().filter(|(key, _)| *key != "secret") {
        assert_eq!(merged.get(key).map(RawValue::get), given.get(key).map(RawValue::get), "{key} in {run}");
    }
    if given.get("a").is_none() {
        assert_eq!(merged.get("a").map(RawValue::get), Some("1"), "{run}");
    }
}

fn action() -> ResolvedAction {
    let read = |json: &str| {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        Parameters::from_json(raw).expect("parameters")
    };
    let name = |name: &str| EntityName::new(name).expect("a name");
    let action = Action {
        path: EntityPath::namespace(name("guest")),
        name: name("a"),
        version: SemVer::FIRST,
        publish: false,
        exec: Exec::Blackbox { image: "i".into(), main: None, code: None },
        parameters: read(r#"[{"key":"a","value":1},{"key":"secret","value":"s","init":true}]"#),
        annotations: read("[]"),
        limits: ActionLimits::default(),
        updated_ms: 0,
    };
    ResolvedAction::new(action, Revision(1), None, None, None)
}
