//! `[containers.docker]`: how a Docker engine runs containers.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::ConfigError;

/// Where Debian and others put it.
const SOCKET: &str = "/var/run/docker.sock";

#[derive(Debug, Clone, PartialEq)]
pub struct Docker {
    /// Path of the engine's socket; the engine is on this machine. Default `/var/run/docker.sock`.
    pub socket: String,
    /// A network that is there. Default: one that the node makes for itself, where containers cannot reach each other.
    pub network: Option<String>,
    /// Name servers of containers, domains to search, and options of the resolver. Default: the engine's.
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Cores that containers share in proportion to their memory. Default: no bound, but weights in that proportion.
    pub cpus: Option<f64>,
    /// Registry of the runtimes manifest's images that name none. Default: Docker's own.
    pub runtimes_registry: String,
    /// The same for the images of users.
    pub user_images_registry: String,
    /// Images of users in this folder (`whisk` for `whisk/example`) are used as they lie here and never pulled anew; they
    /// must write the line that ends an activation's logs. Default: none.
    pub local_images_prefix: Option<String>,
    /// A `config.json` as `docker login` writes it, whose `auths` go with pulls; read again for each. Default: none.
    pub credentials: Option<PathBuf>,
    /// Arguments of `docker run` (without `--`) that all containers get beside their own, with their values. Default: none.
    pub extra_args: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    socket: Option<String>,
    network: Option<String>,
    dns: Vec<String>,
    dns_search: Vec<String>,
    dns_options: Vec<String>,
    cpus: Option<f64>,
    runtimes_registry: String,
    user_images_registry: String,
    local_images_prefix: Option<String>,
    credentials: Option<PathBuf>,
    extra_args: BTreeMap<String, OneOrMore>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Written {
    pub fn checked(self) -> Result<Docker, ConfigError> {
        if self.cpus.is_some_and(|cpus| !(0.01..=1e6).contains(&cpus)) {
            return Err(ConfigError::invalid("containers.docker.cpus", "must be at least 0.01"));
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Docker {
            socket: given(self.socket).unwrap_or_else(|| SOCKET.to_owned()),
            network: given(self.network),
            dns: self.dns,
            dns_search: self.dns_search,
            dns_options: self.dns_options,
            cpus: self.cpus,
            runtimes_registry: self.runtimes_registry,
            user_images_registry: self.user_images_registry,
            local_images_prefix: given(self.local_images_prefix).map(|prefix| prefix.trim_end_matches('/').to_owned()),
            credentials: self.credentials,
            extra_args: self.extra_args.into_iter().map(|(flag, values)| (flag, values.into_list())).collect(),
        })
    }
}

impl OneOrMore {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(value) => vec![value],
            Self::More(values) => values,
        }
    }
}
