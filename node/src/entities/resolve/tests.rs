use std::collections::HashMap;

use protocol::{
    ErrorCode, Revision,
    entity::{Action, ActionLimits, Binding, CodeRef, Exec, Package, Parameters, SemVer},
};

use super::*;

#[derive(Default)]
struct Stored(HashMap<String, Entity>);

impl Source for Stored {
    fn entity(&self, name: &FullyQualifiedName) -> Result<Option<(Revision, Entity)>, EntityError> {
        Ok(self.0.get(&name.to_string()).map(|entity| (Revision(1), entity.clone())))
    }

    fn inline_code(&self, _: &FullyQualifiedName) -> Result<Option<Vec<u8>>, EntityError> {
        Ok(Some(b"code".to_vec()))
    }
}

fn name(text: &str) -> FullyQualifiedName {
    FullyQualifiedName::parse(text).unwrap()
}

fn parameters(entries: &[(&'static str, &str)]) -> Parameters {
    entries.iter().map(|(key, value)| protocol::entity::Parameter::new(*key, serde_json::Value::from(*value))).collect()
}

impl Stored {
    fn action(mut self, text: &str) -> Self {
        let fqn = name(text);
        let code = CodeRef { sha256: super::super::code::sha256(b"code"), size: 4, binary: false, inline: true };
        let action = Action {
            path: fqn.path,
            name: fqn.name,
            version: SemVer::FIRST,
            publish: false,
            exec: Exec::Managed { kind: "nodejs:20".into(), main: None, code },
            parameters: parameters(&[("c", "action")]),
            annotations: Parameters::default(),
            limits: ActionLimits::default(),
            updated_ms: 0,
        };
        self.0.insert(text.into(), Entity::Action(action));
        self
    }

    fn package(mut self, text: &str, publish: bool, binding: Option<&str>) -> Self {
        let fqn = name(text);
        let of = if binding.is_some() { "binding" } else { "package" };
        let package = Package {
            namespace: fqn.path.namespace,
            name: fqn.name,
            version: SemVer::FIRST,
            publish,
            binding: binding.map(|to| {
                let to = name(to);
                Binding { namespace: to.path.namespace, name: to.name }
            }),
            parameters: match binding {
                None => parameters(&[("a", of), ("b", of), ("c", of)]),
                Some(_) => parameters(&[("b", of), ("c", of)]),
            },
            annotations: Parameters::default(),
            updated_ms: 0,
        };
        self.0.insert(text.into(), Entity::Package(package));
        self
    }

    fn read(&self, caller: &str, text: &str) -> Result<(Resolved, Vec<FullyQualifiedName>), (ErrorCode, String)> {
        read(self, &EntityName::new(caller).unwrap(), &name(text)).map_err(|e| (e.code(), e.text().to_owned()))
    }
}

#[test]
fn parameters_of_the_package_lie_below_the_bindings_and_the_actions() {
    let stored = Stored::default()
        .package("prov/pkg", true, None)
        .package("me/bound", false, Some("prov/pkg"))
        .action("prov/pkg/act");
    let (bound, made_of) = stored.read("me", "me/bound/act").unwrap();
    let shown = serde_json::to_string(&bound.action.parameters).unwrap();
    assert_eq!(shown, r#"[{"key":"a","value":"package"},{"key":"b","value":"binding"},{"key":"c","value":"action"}]"#);
    assert_eq!(bound.action.binding, Some(name("me/bound")));
    assert_eq!(&*bound.action.recorded.filter_name, "bound/act");
    assert_eq!(bound.action.action.fqn(), name("prov/pkg/act"));
    assert!(!bound.is_shared, "a binding is its owner's only");
    for document in ["me/bound", "prov/pkg", "prov/pkg/act"] {
        assert!(made_of.contains(&name(document)), "a change of {document} matters");
    }
    let (direct, _) = stored.read("me", "prov/pkg/act").unwrap();
    assert!(direct.is_shared);
    assert_eq!(&*direct.action.recorded.filter_name, "pkg/act");
    assert!(direct.action.provides_api_key, "absent counts as true");
}

#[test]
fn who_is_told_what() {
    let stored = Stored::default()
        .package("me/pkg", false, None)
        .action("me/pkg/act")
        .action("me/plain")
        .package("me/dangling", false, Some("me/gone"))
        .package("me/circle", false, Some("me/circle"))
        .package("me/lost", false, Some("prov/private"))
        .package("prov/private", false, None)
        .action("prov/private/act")
        .package("prov/public", true, None)
        .action("prov/public/act")
        .package("prov/bound", true, Some("prov/public"));
    let forbidden = |name: &str| {
        (ErrorCode::Forbidden, format!("The supplied authentication is not authorized to access '{name}'."))
    };
    let missing = || (ErrorCode::NotFound, "The requested resource does not exist.".to_owned());
    let wrong = || (ErrorCode::Conflict, messages::WRONG_COLLECTION.to_owned());
    for (asked, refusal) in [
        ("me/pkg/act", None),
        ("me/plain", None),
        ("prov/public/act", None),
        ("me/none", Some(missing())),
        ("me/none/act", Some(missing())),
        ("me/pkg/none", Some(missing())),
        ("me/pkg", Some(wrong())),
        ("me/plain/act", Some(wrong())),
        ("me/dangling/act", Some(missing())),
        ("me/circle/act", Some((ErrorCode::Unprocessable, messages::circular_binding("me/circle")))),
        ("me/lost/act", Some(forbidden("me/lost"))),
        ("prov/private/act", Some(forbidden("prov/private"))),
        ("prov/none/act", Some(forbidden("prov/none"))),
        ("prov/bound/act", Some(forbidden("prov/bound"))),
        ("prov/public/none", Some(missing())),
    ] {
        assert_eq!(stored.read("me", asked).map(|_| ()).err(), refusal, "{asked}");
    }
}

#[test]
fn code_that_is_not_what_the_action_names_is_noticed() {
    let mut stored = Stored::default().action("me/act");
    if let Some(Entity::Action(Action { exec: Exec::Managed { code, .. }, .. })) = stored.0.get_mut("me/act") {
        code.sha256 = [0; 32];
    }
    assert_eq!(stored.read("me", "me/act").unwrap_err().1, messages::CORRUPTED);
}
