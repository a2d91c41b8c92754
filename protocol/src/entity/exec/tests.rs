use super::*;

struct Shop;

impl Kinds for Shop {
    fn rules(&self, kind: &str) -> Option<KindRules> {
        let (kind, attached, require_main) = match kind {
            "nodejs:20" | "nodejs:default" => ("nodejs:20", true, false),
            "java:8" => ("java:8", true, true),
            "plain:1" => ("plain:1", false, false),
            _ => return None,
        };
        Some(KindRules { kind: kind.into(), attached, require_main })
    }

    fn names(&self) -> Vec<&str> {
        vec!["nodejs:20", "java:8"]
    }
}

fn read(json: &str) -> Result<ExecBody, String> {
    ExecBody::from_json(serde_json::from_str(json).unwrap(), &Shop).map_err(|error| error.0)
}

#[test]
fn kinds_are_trimmed_lowered_and_resolved() {
    let exec = read(r#"{"kind":" NodeJS:Default ","code":"","binary":true,"main":null}"#).unwrap();
    let code = CodeBody { bytes: vec![], binary: false, sent: 0 };
    assert_eq!(exec, ExecBody::Managed { kind: "nodejs:20".into(), main: None, code });
    assert!(matches!(read(r#"{"kind":"java:8","jar":"UEsDBA==","main":"M"}"#), Ok(ExecBody::Managed { code, .. })
        if code == CodeBody { bytes: b"PK\x03\x04".to_vec(), binary: true, sent: 8 }));
}

#[test]
fn binary_is_computed_from_the_text() {
    for (text, binary) in [
        ("main", true),
        ("code", true),
        ("abc=", true),
        ("ab==", true),
        (" main\n", true),
        ("a===", false),
        ("main1", false),
        ("", false),
        ("   ", false),
        ("ma in", false),
        ("mai-", false),
        ("function main() {}", false),
    ] {
        assert_eq!(CodeBody::new(text.into()).binary, binary, "{text:?}");
    }
}

#[test]
fn what_is_refused() {
    for (json, text) in [
        ("3", "'kind' must be a string defined in 'exec'"),
        ("{}", "'kind' must be a string defined in 'exec'"),
        (r#"{"kind":1}"#, "'kind' must be a string defined in 'exec'"),
        (
            r#"{"kind":"x:default","code":""}"#,
            "The specified runtime 'x:default' is not supported by this platform. Valid values are: 'nodejs:20', 'java:8'.",
        ),
        (
            r#"{"kind":"nodejs:20"}"#,
            "'code' must be a string or attachment object defined in 'exec' for 'nodejs:20' actions",
        ),
        (
            r#"{"kind":" NodeJS:default "}"#,
            "'code' must be a string or attachment object defined in 'exec' for 'nodejs:default' actions",
        ),
        (r#"{"kind":"nodejs:20","code":null}"#, "Could not deserialize as attachment record: null"),
        (
            r#"{"kind":"nodejs:20","code":3,"main":1}"#,
            "if defined, 'main' be a string in 'exec' for 'nodejs:20' actions",
        ),
        (r#"{"kind":"java:8","code":3}"#, "'main' must be a string defined in 'exec' for 'java:8' actions"),
        (r#"{"kind":"plain:1","jar":"x"}"#, "'code' must be a string defined in 'exec' for 'plain:1' actions"),
        (r#"{"kind":"plain:1","code":null}"#, "'code' must be a string defined in 'exec' for 'plain:1' actions"),
        (r#"{"kind":"nodejs:20","code":3}"#, "Could not deserialize as attachment record: 3"),
        (r#"{"kind":"java:8","code":"x"}"#, "'main' must be a string defined in 'exec' for 'java:8' actions"),
        (
            r#"{"kind":"nodejs:20","code":"x","main":1}"#,
            "if defined, 'main' be a string in 'exec' for 'nodejs:20' actions",
        ),
        (r#"{"kind":"blackbox"}"#, "'image' must be a string defined in 'exec' for 'blackbox' actions"),
        (r#"{"kind":"blackbox","image":"a b"}"#, "could not parse image name"),
        (r#"{"kind":"sequence"}"#, "'components' must be defined for sequence kind"),
        (r#"{"kind":"sequence","components":{}}"#, "'components' must be an array"),
    ] {
        assert_eq!(read(json), Err(text.to_owned()), "{json}");
    }
}

#[test]
fn images_are_echoed_without_digest() {
    let digest = "0123456789abcdefABCDEF9876543210";
    for (image, echoed) in [
        ("image", Some("image")),
        ("openwhisk/dockerskeleton:nightly", Some("openwhisk/dockerskeleton:nightly")),
        ("localhost/a", Some("localhost/a")),
        ("localhost:5000/a/b:1", Some("localhost:5000/a/b:1")),
        (&format!("r.example/a@sha256:{digest}"), Some("r.example/a")),
        (&format!("r.example/a:t_1.x-y@sha2+b64.u:{digest}"), Some("r.example/a:t_1.x-y")),
        ("R.Example:8/a", Some("R.Example:8/a")),
        ("a__b/c.d/e--f/g_h1", Some("a__b/c.d/e--f/g_h1")),
        ("Image", None),
        ("Localhost/a", None),
        ("a//b", None),
        ("/a", None),
        ("a/", None),
        ("", None),
        ("a:", None),
        ("a:b:c", None),
        ("a:.b", None),
        ("a:-b", None),
        (&format!("a:{}", "t".repeat(129)), None),
        ("r.example:x/a", None),
        ("r..example/a", None),
        ("a_/b", None),
        ("_a", None),
        ("a___b", None),
        ("a..b", None),
        ("a.-b", None),
        ("a b", None),
        ("a@sha256", None),
        ("a@sha256:0f", None),
        (&format!("a@256:{digest}"), None),
        (&format!("a@sha256:{}x", &digest[1..]), None),
    ] {
        assert_eq!(parse_image(image).as_deref(), echoed, "{image:?}");
    }
}

#[test]
fn blackbox_without_code_shows_none() {
    let exec = read(r#"{"kind":"blackbox","image":"me/img","code":"  "}"#).unwrap();
    assert_eq!(exec, ExecBody::Blackbox { image: "me/img".into(), main: None, code: None });
    let stored = Exec::Blackbox { image: "me/img".into(), main: None, code: None };
    let json = serde_json::to_string(&ExecDocument::new(&stored, None).unwrap()).unwrap();
    assert_eq!(json, r#"{"kind":"blackbox","image":"me/img","binary":false}"#);
}

#[test]
fn sizes_count_what_was_sent() {
    assert_eq!(read(r#"{"kind":"nodejs:20","code":"UEsDBA==","main":"ab"}"#).unwrap().size(), 10);
    assert_eq!(read(r#"{"kind":"blackbox","image":"me/img","code":"xyz"}"#).unwrap().size(), 9);
    assert_eq!(read(r#"{"kind":"sequence","components":["/a/b","a/c/d"]}"#).unwrap().size(), 8);
}
