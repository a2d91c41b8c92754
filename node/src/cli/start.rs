//! `whisp start`.

use std::{net::SocketAddr, path::PathBuf};

use super::CliError;
use crate::{
    config::{BackendChoice, Config, HumanSize, LogFormat, Overrides},
    node::Node,
    telemetry,
};

/// A flag wins over its environment variable, which wins over the configuration file.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Configuration file (TOML); a key for every flag and more is in whisp.example.toml
    #[arg(long, value_name = "FILE", env = "WHISP_CONFIG")]
    config: Option<PathBuf>,
    /// Where the node keeps everything [default: whisp-data]
    #[arg(long, value_name = "DIR", env = "WHISP_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// What this node is called [default: the host name]
    #[arg(long, value_name = "NAME", env = "WHISP_NODE_NAME")]
    node_name: Option<String>,
    /// For trying out: the well-known guest key works, and gaps in the sandbox are only warned of. Loopback only
    #[arg(long, env = "WHISP_DEV", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    dev: Option<bool>,
    /// Address of the API [default: 127.0.0.1:3233]
    #[arg(long, value_name = "HOST:PORT", env = "WHISP_API_ADDR")]
    api_addr: Option<SocketAddr>,
    /// What runs actions [default: process]
    #[arg(long, value_enum, env = "WHISP_BACKEND")]
    backend: Option<BackendChoice>,
    /// Run actions even if a layer of the sandbox is missing here: they may then read what the node reads
    #[arg(long, env = "WHISP_UNSAFE_NO_SANDBOX", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    unsafe_no_sandbox: Option<bool>,
    /// Sum of the memory limits of all containers [default: 2GB]
    #[arg(long, value_name = "SIZE", env = "WHISP_MEMORY")]
    memory: Option<HumanSize>,
    /// How log lines look; WHISP_LOG=debug shows more of them [default: text]
    #[arg(long, value_enum, env = "WHISP_LOG_FORMAT")]
    log_format: Option<LogFormat>,

    #[arg(long, hide = true, env = "WHISP_CLUSTER_ADDR")]
    cluster_addr: Option<String>,
    #[arg(long, hide = true, env = "WHISP_ADVERTISE_ADDR")]
    advertise_addr: Option<String>,
    #[arg(long, hide = true, env = "WHISP_JOIN")]
    join: Option<String>,
    #[arg(long, hide = true, env = "WHISP_BOOTSTRAP_EXPECT")]
    bootstrap_expect: Option<String>,
    #[arg(long, hide = true, env = "WHISP_TOKEN")]
    token: Option<String>,
}

impl Arguments {
    fn config(self) -> Result<Config, CliError> {
        let of_clusters = [
            ("--cluster-addr", self.cluster_addr.is_some()),
            ("--advertise-addr", self.advertise_addr.is_some()),
            ("--join", self.join.is_some()),
            ("--bootstrap-expect", self.bootstrap_expect.is_some()),
            ("--token", self.token.is_some()),
        ];
        if let Some((flag, _)) = of_clusters.iter().find(|(_, given)| *given) {
            return Err(CliError::Usage(format!("this version runs clusters of one node: {flag} cannot be used yet")));
        }
        let overrides = Overrides {
            data_dir: self.data_dir,
            node_name: self.node_name,
            dev: self.dev,
            log_format: self.log_format,
            api_addr: self.api_addr,
            backend: self.backend,
            unsafe_no_sandbox: self.unsafe_no_sandbox,
            memory: self.memory,
        };
        Config::load(self.config.as_deref(), overrides).map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// Runs a node until it is told to stop.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config()?;
    telemetry::init(config.log_format).map_err(|error| CliError::Usage(error.to_string()))?;
    Node::run(config).map_err(|error| CliError::Failed(error.into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["start"].iter().chain(arguments);
        let alone = Alone::try_parse_from(arguments).map_err(|error| error.to_string())?;
        alone.arguments.config().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_reach_the_configuration() {
        let config = config(&[
            "--data-dir",
            "d",
            "--node-name",
            "n",
            "--dev",
            "--api-addr",
            "127.0.0.1:0",
            "--backend",
            "simulated",
            "--unsafe-no-sandbox",
            "--memory",
            "3GB",
            "--log-format",
            "json",
        ])
        .unwrap();
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.node_name, "n");
        assert!(config.dev && config.containers.unsafe_no_sandbox);
        assert_eq!(config.http.api_addr, "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.containers.backend, BackendChoice::Simulated);
        assert_eq!(config.containers.memory, protocol::ByteSize::mib(3072));
        assert_eq!(config.log_format, LogFormat::Json);
        assert!(!self::config(&["--dev=false"]).unwrap().dev);
    }

    #[test]
    fn what_cannot_be_is_said() {
        assert!(config(&["--dev", "--api-addr", "0.0.0.0:3233"]).unwrap_err().contains("loopback"));
        assert!(config(&["--join", "a:1"]).unwrap_err().contains("--join cannot be used yet"));
        assert!(config(&["--memory", "2"]).unwrap_err().contains("is not a size"));
        assert!(config(&["--backend", "podman"]).unwrap_err().contains("invalid value 'podman'"));
    }
}
