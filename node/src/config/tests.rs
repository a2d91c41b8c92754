use super::*;

const EXAMPLE: &str = include_str!("../../whisp.example.toml");

pub(crate) fn parse(text: &str) -> Result<Config, String> {
    let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
    written.checked().map_err(|error| error.to_string())
}

#[test]
fn the_example_holds_the_defaults() {
    let example = parse(EXAMPLE).unwrap();
    assert_eq!(format!("{example:?}"), format!("{:?}", parse("").unwrap()));
}

/// Keys whose default depends on the machine stand in the example as comments.
#[test]
fn the_example_names_every_key() {
    let all = EXAMPLE.lines().map(|line| {
        let assignment = line.strip_prefix("# ").filter(|rest| {
            rest.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        });
        assignment.unwrap_or(line)
    });
    let table: toml::Table = toml::from_str(&all.collect::<Vec<_>>().join("\n")).unwrap();
    parse(&table.to_string()).unwrap();
    // serde names all fields of a struct when it refuses an unknown one.
    fn check(table: &toml::Table, prefix: &str) {
        if prefix == "containers.docker.extra_args" {
            return; // its keys are flags of another program
        }
        let unknown = toml::from_str::<Written>(&if prefix.is_empty() {
            "nonsense = 1".to_owned()
        } else {
            format!("[{prefix}]\nnonsense = 1")
        });
        let message = unknown.unwrap_err().message().to_owned();
        let expected = message.split_once("expected").unwrap().1;
        for key in expected.split('`').skip(1).step_by(2) {
            assert!(table.contains_key(key), "whisp.example.toml lacks {prefix}.{key}");
        }
        for (key, value) in table {
            if let Some(inner) = value.as_table() {
                check(inner, &if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") });
            }
        }
    }
    check(&table, "");
}

#[test]
fn flags_and_environment_win_over_the_file() {
    let written: Written =
        toml::from_str("data_dir = \"a\"\nlog_format = \"json\"\n[containers]\nmemory = \"1GB\"").unwrap();
    let over = Overrides {
        data_dir: Some("b".into()),
        memory: Some("4GB".parse().unwrap()),
        backend: Some(BackendChoice::Simulated),
        ..Overrides::default()
    };
    let config = written.overridden(over).checked().unwrap();
    assert_eq!(config.data_dir, PathBuf::from("b"));
    assert_eq!(config.containers.memory, protocol::ByteSize::mib(4096));
    assert_eq!(config.containers.backend, BackendChoice::Simulated);
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn nonsense_is_refused_by_name() {
    for (text, part) in [
        ("nonsense = 1", "unknown field `nonsense`"),
        ("[http]\nport = 1", "unknown field `port`"),
        ("[http]\nworkers = 0", "http.workers"),
        ("[http]\nhead_timeout = \"0s\"", "http.head_timeout"),
        ("[http]\nbody_timeout = \"0s\"", "http.body_timeout"),
        ("[http]\nworkers = 513", "http.workers"),
        ("[http]\nconnections_per_worker = 0", "http.connections_per_worker"),
        ("[http]\nkeep_alive = \"70\"", "is not a duration"),
        ("[raft]\nshards = 65", "raft.shards"),
        ("[raft]\nmeta = { heartbeat = \"300ms\" }", "raft.meta"),
        ("[containers]\nbackend = \"podman\"", "unknown variant `podman`"),
        ("[containers.docker]\ncpus = 0.0", "containers.docker.cpus"),
        ("[containers]\nmemory = \"2 chairs\"", "is not a size"),
        ("[containers]\nmemory = \"64MB\"\nprewarm = []", "containers.memory"),
        ("[containers]\nmemory = \"512MB\"\nprewarm = [{ kind = \"nodejs:20\", count = 3 }]", "containers.prewarm"),
        ("[containers]\ncreations = 0", "containers.creations"),
        ("[containers]\nprewarm_interval = \"0s\"", "containers.prewarm_interval"),
        ("[[containers.prewarm]]\nkind = \"node\"", "containers.prewarm"),
        ("[[containers.prewarm]]\nkind = \"nodejs:20\"\nmemory = \"0MB\"", "containers.prewarm"),
        ("[limits]\nmemory = { min = \"1GB\" }", "limits.memory"),
        ("[limits]\nmemory = { min = \"100KB\" }", "limits.memory"),
        ("[limits]\nconcurrency = { min = 0 }", "limits.concurrency"),
        ("[limits]\nconcurrency = { max = 501 }", "limits.concurrency"),
        ("[limits]\ncode_size = \"1GB\"", "limits.code_size"),
        ("[limits]\npayload_size = \"2MB\"", "limits.payload_size: must be at most 1 MB"),
        ("[limits]\ntruncation_size = \"2MB\"", "limits.truncation_size: must be at most 1 MB"),
        ("[activations]\nretention = \"1h\"", "activations.retention"),
        ("[activations]\nbacklog = 0", "activations.backlog"),
        ("[activations]\nstore_blocking_result_level = \"ALL\"", "unknown variant `ALL`"),
        ("[parameter_storage]\ncurrent = \"aes-256\"", "parameter_storage.current: there is no key 'aes-256'"),
        (
            "[parameter_storage]\nkeys = { \"aes-128\" = \"c2hvcnQ=\" }",
            "parameter_storage.keys: the key 'aes-128' is not base64 of 16 bytes",
        ),
        ("min_free_disk = \"31MB\"", "min_free_disk: must be at least 32 MB"),
        ("node_name = \"\"", "node_name"),
        ("dev = true\n[http]\napi_addr = \"0.0.0.0:3233\"", "loopback"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(part), "{text:?} gives {error:?}");
    }
    assert!(parse("dev = true\n[http]\napi_addr = \"[::1]:3233\"").is_ok());
}

#[test]
fn each_store_level_leaves_out_what_its_name_says() {
    use protocol::ActivationStatus::{ApplicationError, DeveloperError, Success, WhiskError};
    for (name, stored) in [
        ("STORE_ALWAYS", &[Success, ApplicationError, DeveloperError, WhiskError][..]),
        ("STORE_FAILURES", &[ApplicationError, DeveloperError, WhiskError]),
        ("STORE_FAILURES_NOT_APPLICATION_ERRORS", &[DeveloperError, WhiskError]),
    ] {
        let level = |key| parse(&format!("[activations]\n{key} = \"{name}\"")).unwrap().activations;
        for level in [
            level("store_blocking_result_level").store_blocking_result_level,
            level("store_non_blocking_result_level").store_non_blocking_result_level,
        ] {
            for status in [Success, ApplicationError, DeveloperError, WhiskError] {
                assert_eq!(level.stores(status), stored.contains(&status), "{name} {status:?}");
            }
        }
    }
    let one = parse("[activations]\nstore_blocking_result_level = \"STORE_FAILURES\"").unwrap().activations;
    assert_eq!(one.store_non_blocking_result_level, StoreLevel::StoreAlways, "each key is its own");
}

#[test]
fn a_zero_pause_grace_means_never() {
    assert_eq!(parse("[containers]\npause_grace = \"0s\"").unwrap().containers.pause_grace, None);
}

#[test]
fn an_absent_or_broken_file_is_named() {
    let absent = Config::load(Some(Path::new("/nonexistent/whisp.toml")), Overrides::default());
    assert!(absent.unwrap_err().to_string().contains("/nonexistent/whisp.toml"));
}
