use super::*;

fn name(text: &str) -> FullyQualifiedName {
    FullyQualifiedName::parse(text).unwrap()
}

fn to(text: &str) -> Binding {
    let provider = name(text);
    Binding { namespace: provider.path.namespace, name: provider.name }
}

fn annotations(json: &str) -> Option<Parameters> {
    Some(Parameters::from_json(serde_json::from_str(json).unwrap()).unwrap())
}

fn shown(package: &Package) -> String {
    serde_json::to_string(&package.annotations).unwrap()
}

fn plan_put(
    name: FullyQualifiedName,
    body: PackageBody,
    binding: Option<Binding>,
    known: Option<(Revision, Package)>,
    now_ms: u64,
) -> Result<(Package, MetaTxn), EntityError> {
    super::plan_put(name, body, binding, known, &Keyring::default(), now_ms)
}

#[test]
fn the_binding_annotation_is_the_servers() {
    let body = PackageBody {
        annotations: annotations(r#"[{"key":"binding","value":1},{"key":"a","value":2}]"#),
        ..PackageBody::default()
    };
    let (package, _) = plan_put(name("guest/p"), body.clone(), None, None, 1).unwrap();
    assert_eq!(shown(&package), r#"[{"key":"a","value":2}]"#);

    let (bound, txn) = plan_put(name("guest/b"), body, Some(to("o/p")), None, 1).unwrap();
    let expected = r#"[{"key":"a","value":2},{"key":"binding","value":{"namespace":"o","name":"p"}}]"#;
    assert_eq!(shown(&bound), expected);
    assert_eq!(
        txn.conditions,
        [Condition::Absent(MetaKey::Entity(name("guest/b"))), Condition::Exists(MetaKey::Entity(name("o/p")))]
    );

    // Pointed elsewhere, it names the new provider; annotations replace.
    let again = PackageBody { annotations: annotations("[]"), ..PackageBody::default() };
    let (moved, txn) = plan_put(name("guest/b"), again, Some(to("o/q")), Some((Revision(7), bound)), 2).unwrap();
    assert_eq!(shown(&moved), r#"[{"key":"binding","value":{"namespace":"o","name":"q"}}]"#);
    assert_eq!(moved.version.to_string(), "0.0.2");
    assert_eq!(txn.conditions[0], Condition::At(MetaKey::Entity(name("guest/b")), Revision(7)));
}

#[test]
fn a_package_stays_one_and_a_binding_stays_bound() {
    let (package, _) = plan_put(name("guest/p"), PackageBody::default(), None, None, 1).unwrap();
    let refused = plan_put(name("guest/p"), PackageBody::default(), Some(to("o/p")), Some((Revision(1), package)), 2);
    assert_eq!(refused.unwrap_err().text(), messages::PACKAGE_TO_BINDING);
    let (bound, _) = plan_put(name("guest/b"), PackageBody::default(), Some(to("o/p")), None, 1).unwrap();
    let kept = plan_put(name("guest/b"), PackageBody::default(), None, Some((Revision(1), bound)), 2).unwrap().0;
    assert_eq!(kept.binding, Some(to("o/p")));
}
