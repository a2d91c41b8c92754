//! Documents of whole entities, their round trips, and the bytes that stored entities must keep.

use proptest::prelude::*;

use super::{
    action::{ActionContent, ActionDocument, ActionSettings, ActionSummary},
    exec::{CodeBody, KindRules},
    package::{PackageBody, PackageDocument, PackageSummary},
    *,
};
use crate::{
    codec,
    json::{Members, RawJson},
    names::{EntityName, EntityPath, FullyQualifiedName},
};

struct AnyKind;

impl Kinds for AnyKind {
    fn rules(&self, kind: &str) -> Option<KindRules> {
        Some(KindRules { kind: kind.into(), attached: true, require_main: false })
    }

    fn names(&self) -> Vec<&str> {
        vec![]
    }
}

fn name(text: &str) -> EntityName {
    EntityName::new(text).unwrap()
}

fn parameters(json: &str) -> Parameters {
    Parameters::from_json(serde_json::from_str(json).unwrap()).unwrap()
}

fn action() -> Action {
    Action {
        path: EntityPath::package(name("guest"), name("pkg")),
        name: name("hello"),
        version: SemVer { major: 0, minor: 1, patch: 2 },
        publish: false,
        exec: Exec::Managed {
            kind: "nodejs:20".into(),
            main: Some("run".into()),
            code: CodeRef { sha256: [7; 32], size: 5, binary: false, inline: true },
        },
        parameters: parameters(r#"[{"key":"p","value":{"x":null},"init":true}]"#),
        annotations: parameters(r#"[{"key":"exec","value":"nodejs:20"}]"#),
        limits: ActionLimits { instances: Some(3), ..ActionLimits::default() },
        updated_ms: 1_700_000_000_000,
    }
}

fn binding() -> Package {
    let binding = Binding { namespace: name("whisk.system"), name: name("utils") };
    Package {
        namespace: name("guest"),
        name: name("bound"),
        version: SemVer::FIRST,
        publish: true,
        parameters: parameters(r#"[{"key":"p","value":"v"}]"#),
        annotations: [Parameter::new("binding", binding.annotation())].into_iter().collect(),
        binding: Some(binding),
        updated_ms: 1_700_000_000_000,
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

#[test]
fn actions_as_shown() {
    let action = action();
    assert_eq!(
        json(&ActionDocument::new(&action, Some(b"x(\"\")")).unwrap()),
        concat!(
            r#"{"namespace":"guest/pkg","name":"hello","version":"0.1.2","publish":false,"#,
            r#""exec":{"kind":"nodejs:20","code":"x(\"\")","binary":false,"main":"run"},"#,
            r#""parameters":[{"key":"p","value":{"x":null},"init":true}],"#,
            r#""limits":{"timeout":60000,"memory":256,"logs":10,"concurrency":1,"instances":3},"#,
            r#""annotations":[{"key":"exec","value":"nodejs:20"}],"updated":1700000000000}"#
        )
    );
    let bound = FullyQualifiedName::parse("guest/bound").unwrap();
    let none = Parameters::default();
    let document = ActionDocument::new(&action, None).unwrap().with_parameters(&none).through(Some(&bound));
    assert_eq!(
        json(&document),
        concat!(
            r#"{"namespace":"guest/pkg","name":"hello","version":"0.1.2","publish":false,"#,
            r#""exec":{"kind":"nodejs:20","binary":false,"main":"run"},"parameters":[],"#,
            r#""limits":{"timeout":60000,"memory":256,"logs":10,"concurrency":1,"instances":3},"#,
            r#""annotations":[{"key":"exec","value":"nodejs:20"}],"updated":1700000000000,"binding":"guest/bound"}"#
        )
    );
    assert_eq!(
        json(&ActionSummary::from(&action)),
        concat!(
            r#"{"namespace":"guest/pkg","name":"hello","version":"0.1.2","publish":false,"#,
            r#""annotations":[{"key":"exec","value":"nodejs:20"}],"#,
            r#""limits":{"timeout":60000,"memory":256,"logs":10,"concurrency":1,"instances":3},"#,
            r#""exec":{"binary":false},"updated":1700000000000}"#
        )
    );
    assert!(ActionDocument::new(&action, Some(b"\xff")).is_err());
}

#[test]
fn sequences_show_their_components() {
    let components = vec![FullyQualifiedName::parse("guest/a").unwrap(), FullyQualifiedName::parse("o/p/b").unwrap()];
    let action = Action { exec: Exec::Sequence { components }, ..action() };
    let document = json(&ActionDocument::new(&action, None).unwrap());
    assert!(document.contains(r#""exec":{"kind":"sequence","components":["/guest/a","/o/p/b"]},"#), "{document}");
    assert!(json(&ActionSummary::from(&action)).contains(r#""exec":{"binary":false}"#));
}

#[test]
fn packages_as_shown() {
    let binding = binding();
    assert_eq!(
        json(&PackageDocument::from(&binding)),
        concat!(
            r#"{"namespace":"guest","name":"bound","binding":{"namespace":"whisk.system","name":"utils"},"#,
            r#""parameters":[{"key":"p","value":"v"}],"version":"0.0.1","publish":true,"#,
            r#""annotations":[{"key":"binding","value":{"namespace":"whisk.system","name":"utils"}}],"#,
            r#""updated":1700000000000}"#
        )
    );
    assert!(
        json(&PackageSummary::from(&binding)).ends_with(r#""binding":{"namespace":"whisk.system","name":"utils"}}"#)
    );
    let package = Package { binding: None, annotations: Parameters::default(), ..binding };
    assert_eq!(
        json(&PackageSummary::from(&package)),
        concat!(
            r#"{"namespace":"guest","name":"bound","version":"0.0.1","publish":true,"annotations":[],"#,
            r#""updated":1700000000000,"binding":false}"#
        )
    );
    let feed = Action { annotations: parameters(r#"[{"key":"feed","value":false}]"#), ..action() };
    let merged = Parameters::default();
    assert_eq!(
        json(&PackageDocument::from(&package).with_contents(&merged, &[action(), feed])),
        concat!(
            r#"{"namespace":"guest","name":"bound","binding":{},"parameters":[],"version":"0.0.1","publish":true,"#,
            r#""annotations":[],"updated":1700000000000,"#,
            r#""actions":[{"name":"hello","version":"0.1.2","annotations":[{"key":"exec","value":"nodejs:20"}]}],"#,
            r#""feeds":[{"name":"hello","version":"0.1.2","annotations":[{"key":"feed","value":false}]}]}"#
        )
    );
}

#[test]
fn package_bodies() {
    let read = |json: &str| -> Result<PackageBody, crate::error::Malformed> {
        let members = Members::parse(json).unwrap();
        PackageBody::content(&members)?.with_settings(&members)
    };
    assert_eq!(read("{}").unwrap(), PackageBody::default());
    assert_eq!(read(r#"{"binding":{},"publish":null,"x":1}"#).unwrap(), PackageBody::default());
    let binding = read(r#"{"binding":{"namespace":"_","name":"p"}}"#).unwrap().binding.unwrap();
    assert_eq!(binding.fqn().to_string(), "_/p");
    for wrong in [
        r#"{"binding":null}"#,
        r#"{"binding":"a/b"}"#,
        r#"{"binding":{"name":"p"}}"#,
        r#"{"binding":{"namespace":"$","name":"p"}}"#,
        r#"{"publish":"yes"}"#,
        r#"{"version":"x"}"#,
        r#"{"parameters":{}}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn action_bodies_ignore_what_they_do_not_know_and_null() {
    let body = r#"{"name":"x","namespace":"_","exec":null,"parameters":null,"limits":{},"version":"1","publish":true,
        "delAnnotations":["a"],"updated":3}"#;
    let members = Members::parse(body).unwrap();
    assert_eq!(ActionContent::from_json(&members, &AnyKind).unwrap(), ActionContent::default());
    let settings = ActionSettings::from_json(&members).unwrap();
    assert_eq!(settings.version.unwrap().to_string(), "1.0.0");
    assert_eq!((settings.publish, settings.del_annotations), (Some(true), vec!["a".to_owned()]));
    for wrong in [r#"{"delAnnotations":"a"}"#, r#"{"delAnnotations":[1]}"#, r#"{"publish":1}"#, r#"{"limits":3}"#] {
        assert!(ActionSettings::from_json(&Members::parse(wrong).unwrap()).is_err(), "{wrong}");
    }
}

proptest! {
    /// A client that reads an action and puts it back changes nothing.
    #[test]
    fn what_is_shown_reads_back(code in prop::collection::vec(any::<u8>(), 0..40), text in ".*", as_text in any::<bool>(),
                                value in ".*", main in any::<Option<u16>>()) {
        use base64::Engine;
        let sent = if as_text { text } else { base64::engine::general_purpose::STANDARD.encode(code) };
        let main = main.map(|n| format!("main{n}"));
        let body = CodeBody::new(sent.clone());
        let stored = CodeRef { sha256: [0; 32], size: body.bytes.len() as u64, binary: body.binary, inline: true };
        let exec = Exec::Managed { kind: "nodejs:20".into(), main: main.clone(), code: stored };
        let parameters: Parameters = [Parameter::new("k", RawJson::string(&value))].into_iter().collect();
        let action = Action { exec, parameters, ..action() };
        let document = json(&ActionDocument::new(&action, Some(&body.bytes)).unwrap());
        let members = Members::parse(&document).unwrap();
        let content = ActionContent::from_json(&members, &AnyKind).unwrap();
        let settings = ActionSettings::from_json(&members).unwrap();
        let Some(ExecBody::Managed { kind, main: read_main, code: read_code }) = content.exec else { panic!("{document}") };
        prop_assert_eq!((kind.as_str(), read_main), ("nodejs:20", main));
        prop_assert_eq!((read_code.bytes, read_code.binary), (body.bytes, body.binary));
        prop_assert_eq!(content.parameters, Some(action.parameters));
        prop_assert_eq!(content.annotations, Some(action.annotations));
        prop_assert_eq!(settings.limits.unwrap().over(ActionLimits::default()), action.limits);
        prop_assert_eq!(settings.version, Some(action.version));
    }
}

/// What nodes have on disk. These bytes never change; a new layout is a new version beside them.
#[test]
fn stored_entities_keep_their_bytes() {
    for (entity, frozen) in [
        (Entity::Action(action()), include_str!("fixtures/action.hex")),
        (Entity::Package(binding()), include_str!("fixtures/binding.hex")),
    ] {
        let hex: String = codec::encode(&entity).iter().map(|byte| format!("{byte:02x}")).collect();
        let frozen: String = frozen.split_whitespace().collect();
        assert_eq!(hex, frozen);
        let bytes: Vec<u8> = frozen
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(codec::decode::<Entity>(&bytes).unwrap(), entity);
    }
}
