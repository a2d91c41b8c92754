use proptest::prelude::*;

use super::*;

#[test]
fn members_keep_values_as_they_came() {
    let members = Members::parse(r#" {"a" : 1.50, "b\u0041": [ 1 ], "a": null} "#).unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(members.get("bA").unwrap().get(), "[ 1 ]");
    assert_eq!(members.get("a").unwrap().get(), "null", "the last of equal keys counts");
    assert!(members.optional("a").is_none());
}

#[test]
fn what_is_no_object_says_why() {
    assert!(matches!(Members::parse("[1]"), Err(ObjectError::NotAnObject)));
    assert!(matches!(Members::parse("3"), Err(ObjectError::NotAnObject)));
    assert!(matches!(Members::parse("[1"), Err(ObjectError::Syntax(_))));
    assert!(matches!(Members::parse("{\"a\":}"), Err(ObjectError::Syntax(_))));
    assert!(matches!(Members::parse(""), Err(ObjectError::Syntax(_))));
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(Members::parse(&deep(MAX_DEPTH - 1)).is_ok());
    assert!(matches!(Members::parse(&deep(MAX_DEPTH)), Err(ObjectError::TooDeep)));
    assert!(Members::parse(&format!("{{\"a\":\"{}\"}}", "[".repeat(9999))).is_ok(), "brackets in strings");
}

#[test]
fn truthiness_is_openwhisks() {
    for (json, truthy) in [
        ("true", true),
        ("false", false),
        ("0", false),
        ("-0.0", false),
        ("0.1", true),
        ("\"\"", false),
        ("\"0\"", true),
        ("null", false),
        ("{}", true),
        ("[]", true),
    ] {
        assert_eq!(RawJson::parse(json).unwrap().is_truthy(), truthy, "{json}");
    }
}

#[test]
fn members_of_an_object_are_added_as_they_are() {
    let mut writer = ObjectWriter::new(String::new());
    writer.members_of("{ }");
    writer.raw("a", "1");
    writer.members_of(r#"{ "b": {} }"#);
    writer.members_of("{}");
    assert_eq!(writer.finish(), r#"{"a":1,"b": {}}"#);
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(".*", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn strings_read_back(text in ".*") {
        let json = RawJson::string(&text);
        prop_assert_eq!(json.read::<String>().unwrap(), text);
    }

    #[test]
    fn compact_drops_only_whitespace(value in any_json()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(compact(&pretty), serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn members_of_never_breaks_an_object(value in any_json()) {
        let object = serde_json::json!({ "x": value });
        let mut writer = ObjectWriter::new(String::new());
        writer.members_of(&serde_json::to_string_pretty(&object).unwrap());
        let written: serde_json::Value = serde_json::from_str(&writer.finish()).unwrap();
        prop_assert_eq!(written, object);
    }
}
