//! What a container is created with. Pure.
//!
//! Source: apache/openwhisk `DockerContainer.create`, `DockerContainerFactory.createContainer`.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use protocol::ByteSize;

use super::extra::Extra;
use crate::containers::backend::ContainerSpec;

/// Size at which the engine begins another log file, and how many it keeps: an action that floods its logs must not fill
/// the disk. Lines are read while an activation runs, so that none of those which count is lost.
const LOG_FILE: &str = "64m";
const LOG_FILES: &str = "2";

/// What all containers of a node have in common.
#[derive(Debug, Clone)]
pub(super) struct Common {
    /// Label that says whose container it is.
    pub label: (&'static str, String),
    pub network: String,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Cores that are shared out by memory.
    pub cpus: Option<f64>,
    /// Memory of all containers together.
    pub pool: ByteSize,
    pub extra: Extra,
}

/// The body of `POST /containers/create`.
pub(super) fn arguments(common: &Common, spec: &ContainerSpec, image: &str) -> ContainerCreateBody {
    let memory = i64::try_from(spec.memory.bytes()).unwrap_or(i64::MAX);
    let shares = shares(common.pool, spec.memory);
    let extra = &common.extra;
    let host_config = HostConfig {
        cpu_shares: Some((1024 / shares).max(2) as i64),
        nano_cpus: common.cpus.map(|cpus| nano_cpus(cpus, shares)),
        memory: Some(memory),
        // Equal: no swap.
        memory_swap: Some(memory),
        network_mode: Some(common.network.clone()),
        dns: some(&common.dns),
        dns_search: some(&common.dns_search),
        dns_options: some(&common.dns_options),
        cap_drop: Some(joined(["NET_RAW", "NET_ADMIN"].map(str::to_owned), extra.host.cap_drop.as_deref())),
        ulimits: Some(ulimits(extra.host.ulimits.as_deref().unwrap_or_default())),
        pids_limit: Some(1024),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_FILE.to_owned()),
                ("max-file".to_owned(), LOG_FILES.to_owned()),
            ])),
        }),
        ..extra.host.clone()
    };
    let (key, value) = &common.label;
    let mut labels = extra.labels.clone();
    labels.insert((*key).to_owned(), value.clone());
    ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(joined(spec.env.iter().map(|(name, value)| format!("{name}={value}")), Some(&extra.env))),
        user: extra.user.clone(),
        labels: Some(labels),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

/// The operator's own after those of every container.
fn joined(own: impl IntoIterator<Item = String>, extra: Option<&[String]>) -> Vec<String> {
    own.into_iter().chain(extra.into_iter().flatten().cloned()).collect()
}

/// The operator may raise or lower the one that every container has.
fn ulimits(extra: &[ResourcesUlimits]) -> Vec<ResourcesUlimits> {
    let files = ResourcesUlimits { name: Some("nofile".to_owned()), soft: Some(1024), hard: Some(1024) };
    let replaced = extra.iter().any(|limit| limit.name == files.name);
    Some(files).filter(|_| !replaced).into_iter().chain(extra.iter().cloned()).collect()
}

/// Containers of this memory that the node has room for, the divisor of whatever is shared out.
fn shares(pool: ByteSize, memory: ByteSize) -> u64 {
    (pool.as_mib() / memory.as_mib().max(1)).max(1)
}

/// To five digits, and never less than a hundredth of a core.
fn nano_cpus(cpus: f64, shares: u64) -> i64 {
    let cores = (cpus / shares as f64 * 1e5).round() / 1e5;
    (cores.max(0.01) * 1e9).round() as i64
}

fn some(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{containers::backend::docker::ImageConfig, entities::manifest::Manifest};

    fn common() -> Common {
        Common {
            label: ("whisp.owner", "1:/data".to_owned()),
            network: "whisp-1".to_owned(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            cpus: None,
            pool: ByteSize::mib(2048),
            extra: Extra::default(),
        }
    }

    fn spec(mib: u64) -> ContainerSpec {
        ContainerSpec {
            name: "wsk0_1_guest_hello".into(),
            kind: "nodejs:20".into(),
            image: None,
            memory: ByteSize::mib(mib),
            env: vec![("__OW_API_HOST".into(), "http://172.18.0.1:3233".into()), ("EMPTY".into(), String::new())],
        }
    }

    #[test]
    fn a_container_has_openwhisks_arguments() {
        let body = serde_json::to_value(arguments(&common(), &spec(256), "image:tag")).unwrap();
        assert_eq!(
            body,
            json!({
                "Image": "image:tag",
                "Env": ["__OW_API_HOST=http://172.18.0.1:3233", "EMPTY="],
                "Labels": {"whisp.owner": "1:/data"},
                "HostConfig": {
                    "CpuShares": 128,
                    "Memory": 268_435_456, "MemorySwap": 268_435_456,
                    "NetworkMode": "whisp-1",
                    "CapDrop": ["NET_RAW", "NET_ADMIN"],
                    "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}],
                    "PidsLimit": 1024,
                    "LogConfig": {"Type": "json-file", "Config": {"max-size": "64m", "max-file": "2"}},
                },
            })
        );
    }

    #[test]
    fn the_operators_arguments_are_added() {
        let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let written = [
            ("cap-drop", list(&["MKNOD"])),
            ("ulimit", list(&["nofile=4096", "core=0"])),
            ("env", list(&["__OW_ALLOW_CONCURRENT=true"])),
            ("label", list(&["team=x", "whisp.owner=me"])),
            ("runtime", list(&["runsc"])),
            ("user", list(&["1000"])),
        ];
        let written = written.into_iter().map(|(flag, values)| (flag.to_owned(), values)).collect();
        let common = Common { extra: Extra::new(&written).unwrap(), ..common() };
        let body = serde_json::to_value(arguments(&common, &spec(256), "i")).unwrap();
        let host = &body["HostConfig"];
        assert_eq!(host["CapDrop"], json!(["NET_RAW", "NET_ADMIN", "MKNOD"]));
        let ulimit = |name: &str, number: i64| json!({"Name": name, "Soft": number, "Hard": number});
        assert_eq!(host["Ulimits"], json!([ulimit("nofile", 4096), ulimit("core", 0)]));
        assert_eq!((&host["Runtime"], &host["PidsLimit"]), (&json!("runsc"), &json!(1024)));
        assert_eq!(
            body["Env"],
            json!(["__OW_API_HOST=http://172.18.0.1:3233", "EMPTY=", "__OW_ALLOW_CONCURRENT=true"])
        );
        assert_eq!(body["Labels"], json!({"team": "x", "whisp.owner": "1:/data"}), "whose it is stays");
        assert_eq!(body["User"], "1000");
    }

    /// OpenWhisk's list, as reference and release have it: every kind with the image that its container is created from.
    const UPSTREAM: [(&str, &str); 13] = [
        ("nodejs:18", "action-nodejs-v18"),
        ("nodejs:20", "action-nodejs-v20"),
        ("python:3.10", "action-python-v3.10"),
        ("python:3.11", "action-python-v3.11"),
        ("swift:5.3", "action-swift-v5.3"),
        ("swift:5.7", "action-swift-v5.7"),
        ("java:8", "java8action"),
        ("php:8.1", "action-php-v8.1"),
        ("ruby:2.5", "action-ruby-v2.5"),
        ("go:1.20", "action-golang-v1.20"),
        ("dotnet:3.1", "action-dotnet-v3.1"),
        ("dotnet:6.0", "action-dotnet-v6.0"),
        ("rust:1.34", "action-rust-v1.34"),
    ];

    #[test]
    fn every_kind_of_upstreams_list_is_created_from_its_image() {
        let manifest = Manifest::upstream();
        let mut config = ImageConfig::new(&manifest);
        assert_eq!(config.managed.len(), UPSTREAM.len());
        for registry in ["", "mirror.example:5000"] {
            config.runtimes_registry = registry.to_owned();
            let prefix = if registry.is_empty() { String::new() } else { format!("{registry}/") };
            let mut created: Vec<(ContainerSpec, String)> = Vec::new();
            for (kind, image) in UPSTREAM {
                created.push((
                    ContainerSpec { kind: kind.into(), ..spec(256) },
                    format!("{prefix}openwhisk/{image}:nightly"),
                ));
            }
            let skeleton = "openwhisk/dockerskeleton:nightly";
            let blackbox = ContainerSpec { kind: "blackbox".into(), image: Some(skeleton.into()), ..spec(256) };
            created.push((blackbox, format!("{prefix}{skeleton}")));
            for (spec, name) in created {
                let image = config.of(&spec).unwrap();
                assert!(image.sentinelled && !image.always_pulled, "{image:?}");
                let body = |image: &str| serde_json::to_value(arguments(&common(), &spec, image)).unwrap();
                assert_eq!(body(&image.name)["Image"], name);
                assert_eq!(
                    body(&image.name)["HostConfig"],
                    body("any")["HostConfig"],
                    "they differ in their image alone"
                );
            }
        }
    }

    #[test]
    fn processors_are_shared_by_memory() {
        let host = |common: &Common, mib| arguments(common, &spec(mib), "i").host_config.unwrap();
        let mut common = common();
        let weights = [128, 256, 300, 512, 2048, 4096].map(|mib| host(&common, mib).cpu_shares.unwrap());
        assert_eq!(weights, [64, 128, 170, 256, 1024, 1024]);
        assert_eq!(host(&common, 256).nano_cpus, None);
        common.cpus = Some(2.0);
        assert_eq!(host(&common, 256).nano_cpus, Some(250_000_000));
        assert_eq!(host(&common, 300).nano_cpus, Some(333_330_000));
        common.pool = ByteSize::mib(1 << 30);
        assert_eq!((host(&common, 128).nano_cpus, host(&common, 128).cpu_shares), (Some(10_000_000), Some(2)));
    }

    #[test]
    fn name_service_is_what_was_configured() {
        let mut common = common();
        common.dns = vec!["10.0.0.1".into()];
        common.dns_search = vec!["example".into()];
        common.dns_options = vec!["ndots:1".into()];
        let host = arguments(&common, &spec(256), "i").host_config.unwrap();
        assert_eq!((host.dns, host.dns_search, host.dns_options), {
            let of = |text: &str| Some(vec![text.to_owned()]);
            (of("10.0.0.1"), of("example"), of("ndots:1"))
        });
    }
}
