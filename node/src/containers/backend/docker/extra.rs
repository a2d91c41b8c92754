//! Arguments of `docker run` that the operator adds to those of every container. The engine knows members of a body where its
//! command line has flags; these are translated as that does it.
//!
//! Source: apache/openwhisk `application.conf`, `container-args.extra-args`; docker/cli `cli/command/container/opts.go`.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{DeviceMapping, HostConfig, ResourcesUlimits};

/// Flags and their values.
pub type ExtraArguments = BTreeMap<String, Vec<String>>;

/// Why a flag cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtraError {
    #[error("--{0} is none of those that can be given: {known}", known = KNOWN.join(", "))]
    Unknown(String),
    #[error("--{flag} {value}: {reason}")]
    Invalid { flag: String, value: String, reason: String },
}

/// What they make of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Extra {
    pub env: Vec<String>,
    pub labels: HashMap<String, String>,
    pub user: Option<String>,
    pub host: HostConfig,
}

/// Those that do not change what the node must rely on: names, networks, limits and logs are its own.
const KNOWN: [&str; 23] = [
    "add-host",
    "cap-add",
    "cap-drop",
    "cgroup-parent",
    "cpuset-cpus",
    "cpuset-mems",
    "device",
    "env",
    "group-add",
    "init",
    "ipc",
    "label",
    "oom-score-adj",
    "read-only",
    "runtime",
    "security-opt",
    "shm-size",
    "storage-opt",
    "sysctl",
    "tmpfs",
    "ulimit",
    "user",
    "volume",
];

impl Extra {
    /// # Errors
    /// [`ExtraError`] names the first that cannot be used.
    pub fn new(written: &ExtraArguments) -> Result<Self, ExtraError> {
        let mut extra = Self::default();
        for (flag, values) in written {
            if !KNOWN.contains(&flag.as_str()) {
                return Err(ExtraError::Unknown(flag.clone()));
            }
            for value in values {
                extra.add(flag, value).map_err(|reason| ExtraError::Invalid {
                    flag: flag.clone(),
                    value: value.clone(),
                    reason,
                })?;
            }
        }
        Ok(extra)
    }

    fn add(&mut self, flag: &str, value: &str) -> Result<(), String> {
        let host = &mut self.host;
        match flag {
            "add-host" => push(&mut host.extra_hosts, value.replacen('=', ":", 1)),
            "cap-add" => push(&mut host.cap_add, value.to_owned()),
            "cap-drop" => push(&mut host.cap_drop, value.to_owned()),
            "cgroup-parent" => host.cgroup_parent = Some(value.to_owned()),
            "cpuset-cpus" => host.cpuset_cpus = Some(value.to_owned()),
            "cpuset-mems" => host.cpuset_mems = Some(value.to_owned()),
            "device" => host.devices.get_or_insert_default().push(device(value)?),
            "env" => self.env.push(if value.contains('=') { value.to_owned() } else { format!("{value}=") }),
            "group-add" => push(&mut host.group_add, value.to_owned()),
            "init" => host.init = Some(boolean(value)?),
            "ipc" => host.ipc_mode = Some(value.to_owned()),
            "label" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                self.labels.insert(key.to_owned(), value.to_owned());
            }
            "oom-score-adj" => host.oom_score_adj = Some(number(value)?),
            "read-only" => host.readonly_rootfs = Some(boolean(value)?),
            "runtime" => host.runtime = Some(value.to_owned()),
            "security-opt" => push(&mut host.security_opt, security(value)?),
            "shm-size" => host.shm_size = Some(size(value)?),
            "storage-opt" => insert(&mut host.storage_opt, pair(value)?),
            "sysctl" => insert(&mut host.sysctls, pair(value)?),
            "tmpfs" => insert(&mut host.tmpfs, value.split_once(':').unwrap_or((value, ""))),
            "ulimit" => host.ulimits.get_or_insert_default().push(ulimit(value)?),
            "user" => self.user = Some(value.to_owned()),
            "volume" => push(&mut host.binds, value.to_owned()),
            _ => return Err("it is not known how".to_owned()),
        }
        Ok(())
    }
}

fn push(list: &mut Option<Vec<String>>, value: String) {
    list.get_or_insert_default().push(value);
}

fn insert(map: &mut Option<HashMap<String, String>>, (key, value): (&str, &str)) {
    map.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn pair(value: &str) -> Result<(&str, &str), String> {
    value.split_once('=').ok_or_else(|| "it must be NAME=VALUE".to_owned())
}

/// A flag without value is on.
fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

fn number(value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| "it must be a number".to_owned())
}

/// `64m`: bytes with a unit of Docker's.
fn size(value: &str) -> Result<i64, String> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let unit: i64 = match value[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return Err("it must be a size such as 64m".to_owned()),
    };
    number(&value[..digits])?.checked_mul(unit).ok_or_else(|| "it is too large".to_owned())
}

/// `HOST[:CONTAINER[:rwm]]`, where the second may be the third.
fn device(value: &str) -> Result<DeviceMapping, String> {
    let is_permissions = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let (host, container, permissions) = match value.split(':').collect::<Vec<_>>()[..] {
        [host] => (host, host, "rwm"),
        [host, permissions] if is_permissions(permissions) => (host, host, permissions),
        [host, container] => (host, container, "rwm"),
        [host, container, permissions] if is_permissions(permissions) => (host, container, permissions),
        _ => return Err("it must be HOST[:CONTAINER[:rwm]]".to_owned()),
    };
    Ok(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(permissions.to_owned()),
    })
}

/// `NAME=SOFT[:HARD]`
fn ulimit(value: &str) -> Result<ResourcesUlimits, String> {
    let (name, limits) = pair(value)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(number(soft)?), hard: Some(number(hard)?) })
}

/// The engine wants the profile itself where the command line has its file.
fn security(value: &str) -> Result<String, String> {
    match value.strip_prefix("seccomp=") {
        None | Some("unconfined" | "builtin") => Ok(value.to_owned()),
        Some(file) => {
            let profile = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
            let profile: serde_json::Value = serde_json::from_str(&profile).map_err(|error| error.to_string())?;
            Ok(format!("seccomp={profile}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn extra(written: &[(&str, &[&str])]) -> Result<Extra, String> {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let written = written.iter().map(|(flag, values)| ((*flag).to_owned(), owned(values))).collect();
        Extra::new(&written).map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_has_its_member() {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("profile.json");
        std::fs::write(&profile, "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }").unwrap();
        let seccomp = format!("seccomp={}", profile.display());
        let all: [(&str, &[&str]); 23] = [
            ("add-host", &["a:10.0.0.1", "b=::1"]),
            ("cap-add", &["SYS_PTRACE"]),
            ("cap-drop", &["MKNOD"]),
            ("cgroup-parent", &["/actions"]),
            ("cpuset-cpus", &["0-3"]),
            ("cpuset-mems", &["0"]),
            ("device", &["/dev/a", "/dev/b:r", "/dev/c:/dev/d", "/dev/e:/dev/f:rw"]),
            ("env", &["A=b=c", "D"]),
            ("group-add", &["video"]),
            ("init", &[""]),
            ("ipc", &["none"]),
            ("label", &["team=x", "plain"]),
            ("oom-score-adj", &["500"]),
            ("read-only", &["false"]),
            ("runtime", &["runsc"]),
            ("security-opt", &["no-new-privileges", &seccomp]),
            ("shm-size", &["64m"]),
            ("storage-opt", &["size=1G"]),
            ("sysctl", &["net.core.somaxconn=1024"]),
            ("tmpfs", &["/run:rw,size=1m", "/scratch"]),
            ("ulimit", &["nofile=2048:4096", "core=0"]),
            ("user", &["1000:1000"]),
            ("volume", &["/data:/data:ro"]),
        ];
        assert_eq!(all.map(|(flag, _)| flag), KNOWN);
        let extra = extra(&all).unwrap();
        assert_eq!(extra.env, ["A=b=c", "D="]);
        assert_eq!(extra.user.as_deref(), Some("1000:1000"));
        assert_eq!(serde_json::to_value(&extra.labels).unwrap(), json!({"team": "x", "plain": ""}));
        let device = |host: &str, inside: &str, permissions: &str| json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions});
        assert_eq!(
            serde_json::to_value(&extra.host).unwrap(),
            json!({
                "ExtraHosts": ["a:10.0.0.1", "b:::1"],
                "CapAdd": ["SYS_PTRACE"],
                "CapDrop": ["MKNOD"],
                "CgroupParent": "/actions",
                "CpusetCpus": "0-3",
                "CpusetMems": "0",
                "Devices": [
                    device("/dev/a", "/dev/a", "rwm"), device("/dev/b", "/dev/b", "r"),
                    device("/dev/c", "/dev/d", "rwm"), device("/dev/e", "/dev/f", "rw"),
                ],
                "GroupAdd": ["video"],
                "Init": true,
                "IpcMode": "none",
                "OomScoreAdj": 500,
                "ReadonlyRootfs": false,
                "Runtime": "runsc",
                "SecurityOpt": ["no-new-privileges", "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"],
                "ShmSize": 64 << 20,
                "StorageOpt": {"size": "1G"},
                "Sysctls": {"net.core.somaxconn": "1024"},
                "Tmpfs": {"/run": "rw,size=1m", "/scratch": ""},
                "Ulimits": [{"Name": "nofile", "Soft": 2048, "Hard": 4096}, {"Name": "core", "Soft": 0, "Hard": 0}],
                "Binds": ["/data:/data:ro"],
            })
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (flag, value, text) in [
            ("network", "host", "--network is none of those that can be given: add-host, cap-add"),
            ("sysctl", "x", "--sysctl x: it must be NAME=VALUE"),
            ("init", "perhaps", "--init perhaps: it must be true or false"),
            ("oom-score-adj", "x", "--oom-score-adj x: it must be a number"),
            ("shm-size", "64 chairs", "--shm-size 64 chairs: it must be a size such as 64m"),
            ("shm-size", "9223372036854775807g", "it is too large"),
            ("device", "a:b:c:d", "--device a:b:c:d: it must be HOST[:CONTAINER[:rwm]]"),
            ("ulimit", "nofile=many", "--ulimit nofile=many: it must be a number"),
            ("security-opt", "seccomp=/nonexistent", "No such file"),
        ] {
            let error = extra(&[(flag, &[value])]).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
