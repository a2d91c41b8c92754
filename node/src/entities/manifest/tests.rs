use super::*;

fn family(entries: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(&format!(r#"{{"runtimes":{{"a":[{entries}]}}}}"#))
}

#[test]
fn upstreams_manifest_has_every_family() {
    let manifest = Manifest::upstream();
    let families: Vec<(&str, Vec<&str>, &str)> = manifest
        .runtimes
        .iter()
        .map(|(family, runtimes)| {
            let default = runtimes.iter().find(|runtime| runtime.default).map_or("", |runtime| &runtime.kind);
            (family.as_str(), runtimes.iter().map(|runtime| runtime.kind.as_str()).collect(), default)
        })
        .collect();
    assert_eq!(
        families,
        [
            ("dotnet", vec!["dotnet:3.1", "dotnet:6.0"], "dotnet:3.1"),
            ("go", vec!["go:1.20"], "go:1.20"),
            ("java", vec!["java:8"], "java:8"),
            ("nodejs", vec!["nodejs:18", "nodejs:20"], "nodejs:20"),
            ("php", vec!["php:8.1"], "php:8.1"),
            ("python", vec!["python:3.10", "python:3.11"], "python:3.10"),
            ("ruby", vec!["ruby:2.5"], "ruby:2.5"),
            ("rust", vec!["rust:1.34"], "rust:1.34"),
            ("swift", vec!["swift:5.3", "swift:5.7"], "swift:5.3"),
        ]
    );
    let all = manifest.runtimes.values().flatten();
    for runtime in all.clone() {
        assert!(runtime.is_attached && !runtime.deprecated, "{runtime:?}");
        assert_eq!(runtime.require_main, ["java", "dotnet"].iter().any(|family| runtime.kind.starts_with(family)));
        assert!(runtime.image.pull_name().starts_with("openwhisk/") && runtime.image.pull_name().ends_with(":nightly"));
    }
    let reactive = Reactive { min_count: 1, max_count: 4, ttl: Duration::from_secs(120), threshold: 1, increment: 1 };
    let cells = StemCells { initial_count: 2, memory: ByteSize::mib(256), reactive: Some(reactive) };
    assert_eq!(manifest.stem_cells().collect::<Vec<_>>(), [("nodejs:20", &cells)]);
    assert_eq!(
        manifest.blackboxes.iter().map(Image::pull_name).collect::<Vec<_>>(),
        ["openwhisk/dockerskeleton:nightly"]
    );
}

#[test]
fn what_may_be_left_out_or_null() {
    let manifest = Manifest::parse(
        r#"{"description":["text"],"bypassPullForLocalImages":true,"runtimes":{
            "old":[{"kind":"old","image":{"name":"oldaction"},"sentinelledLogs":false}],
            "new":[{"kind":"new:1","default":null,"deprecated":null,"attached":null,"requireMain":null,"stemCells":null,"sentinelledLogs":null,
                    "image":{"registry":"r.example/","prefix":"","name":"n","tag":""}}],
            "none":[]}}"#,
    )
    .unwrap();
    let [old, new] = ["old", "new"].map(|family| &manifest.runtimes[family][0]);
    assert!(old.default && new.default, "the only one of its family is its default");
    assert!(!new.deprecated && !new.is_attached && !new.require_main && new.stem_cells.is_empty());
    assert!(!old.is_sentinelled && new.is_sentinelled);
    assert_eq!((old.image.pull_name().as_str(), new.image.pull_name().as_str()), ("oldaction", "r.example/n"));
    assert!(manifest.blackboxes.is_empty());
}

#[test]
fn stem_cells_of_deprecated_kinds_are_not_kept() {
    let cells = r#""stemCells":[{"count":1,"memory":"128 MB"},{"initialCount":2,"memory":"1GB"}]"#;
    let manifest = family(&format!(
        r#"{{"kind":"a:1","default":true,"image":{{"name":"i"}},{cells}}},
           {{"kind":"a:0","deprecated":true,"image":{{"name":"i"}},{cells}}}"#
    ))
    .unwrap();
    let cell = |initial_count, mib| StemCells { initial_count, memory: ByteSize::mib(mib), reactive: None };
    assert_eq!(manifest.stem_cells().collect::<Vec<_>>(), [("a:1", &cell(1, 128)), ("a:1", &cell(2, 1024))]);
}

#[test]
fn manifests_that_are_refused() {
    let one = r#"{"kind":"a:1","image":{"name":"i"}}"#;
    let two = r#"{"kind":"a:2","image":{"name":"i"}}"#;
    let default = r#"{"kind":"a:3","default":true,"image":{"name":"i"}}"#;
    let other = r#"{"kind":"a:4","default":true,"image":{"name":"i"}}"#;
    assert!(family(one).is_ok() && family(&format!("{one},{default}")).is_ok());
    let cells = |cells: &str| format!(r#"{{"kind":"a:1","image":{{"name":"i"}},"stemCells":[{{{cells}}}]}}"#);
    let reactive = |min: i32, max: i32, ttl: &str, threshold: i32, increment: i32| {
        cells(&format!(
            r#""initialCount":1,"memory":"256 MB","reactive":{{"minCount":{min},"maxCount":{max},"ttl":"{ttl}",
               "threshold":{threshold},"increment":{increment}}}"#
        ))
    };
    assert!(family(&reactive(0, 1, "5 mins", 1, 1)).is_ok());
    for (entries, text) in [
        (format!("{one},{two}"), "a has multiple versions, but no default."),
        (format!("{default},{other}"), "Found more than one default for a: a:3, a:4"),
        (format!("{one},{one},{default}"), "a:1 is there more than once"),
        (r#"{"kind":"a:1"}"#.to_owned(), "missing field `image`"),
        (r#"{"image":{"name":"i"}}"#.to_owned(), "missing field `kind`"),
        (cells(r#""initialCount":0,"memory":"256 MB""#), "stem cells of a:1: initialCount must be positive"),
        (cells(r#""initialCount":-1,"memory":"256 MB""#), "invalid value: integer `-1`"),
        (cells(r#""initialCount":1,"memory":"256""#), "Size Unit not supported."),
        (cells(r#""initialCount":1,"memory":"1 B""#), "memory must be at least 1 MB"),
        (reactive(0, 0, "1 s", 1, 1), "maxCount must be positive"),
        (reactive(2, 1, "1 s", 1, 1), "minCount must be at most maxCount"),
        (reactive(0, 1, "0 s", 1, 1), "ttl must be positive"),
        (reactive(0, 1, "1 fortnight", 1, 1), "\"1 fortnight\" is no duration such as \"2 minutes\""),
        (reactive(0, 1, "s", 1, 1), "\"s\" is no duration"),
        (reactive(0, 1, "1 s", 0, 1), "threshold must be positive"),
        (reactive(0, 1, "1 s", 1, 0), "increment must be positive and at most maxCount"),
        (reactive(0, 1, "1 s", 1, 2), "increment must be positive and at most maxCount"),
    ] {
        let error = family(&entries).unwrap_err().to_string();
        assert!(error.contains(text), "{entries} gives {error:?}");
    }
    assert!(Manifest::parse("{}").unwrap_err().to_string().contains("missing field `runtimes`"));
    let absent = Manifest::read(Path::new("/nonexistent/runtimes.json")).unwrap_err().to_string();
    assert!(absent.starts_with("the runtimes manifest /nonexistent/runtimes.json cannot be read: "), "{absent}");
}
