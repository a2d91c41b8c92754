//! `whisp limits`: the commands and lines of OpenWhisk's `wskadmin limits`.

use clap::Subcommand;
use serde_json::json;

use super::{CliError, Target, client, print};
use crate::{
    admin::{Done, OfNamespace, SetLimits},
    auth::LimitsUpdate,
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set limits of a namespace; the others stay as they are
    Set(Box<Set>),
    /// Print the limits that a namespace has of its own
    Get {
        /// The namespace
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
    /// Delete the limits of a namespace: the system's hold again
    Delete {
        /// The namespace
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
}

/// The flags are named as in OpenWhisk's `wskadmin`.
#[derive(Debug, clap::Args)]
#[command(rename_all = "camelCase")]
pub struct Set {
    /// The namespace
    namespace: String,
    /// Invocations of actions in a minute
    #[arg(long, value_name = "N")]
    invocations_per_minute: Option<u32>,
    /// Fires of triggers in a minute
    #[arg(long, value_name = "N")]
    fires_per_minute: Option<u32>,
    /// Invocations at once
    #[arg(long, value_name = "N")]
    concurrent_invocations: Option<u32>,
    /// Kinds that actions may have, such as nodejs:20
    #[arg(long, value_name = "KIND", num_args = 1..)]
    allowed_kinds: Option<Vec<String>>,
    /// Whether activation records are stored
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    store_activations: Option<bool>,
    /// Least memory of an action
    #[arg(long, value_name = "MB")]
    min_action_memory: Option<u32>,
    /// Most memory of an action
    #[arg(long, value_name = "MB")]
    max_action_memory: Option<u32>,
    /// Least log size of an action
    #[arg(long, value_name = "MB")]
    min_action_logs: Option<u32>,
    /// Most log size of an action
    #[arg(long, value_name = "MB")]
    max_action_logs: Option<u32>,
    /// Least time limit of an action
    #[arg(long, value_name = "MS")]
    min_action_timeout: Option<u32>,
    /// Most time limit of an action
    #[arg(long, value_name = "MS")]
    max_action_timeout: Option<u32>,
    /// Least number of activations at once in one container
    #[arg(long, value_name = "N")]
    min_action_concurrency: Option<u32>,
    /// Most number of activations at once in one container
    #[arg(long, value_name = "N")]
    max_action_concurrency: Option<u32>,
    /// Size of an entity's parameters, such as "1 MB"
    #[arg(long, value_name = "SIZE")]
    max_parameter_size: Option<String>,
    /// Size of an invocation's arguments, such as "1 MB"
    #[arg(long, value_name = "SIZE")]
    max_payload_size: Option<String>,
    /// What is kept of a result that is too large, such as "1 MB"
    #[arg(long, value_name = "SIZE")]
    truncation_size: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Set {
    fn limits(&self) -> LimitsUpdate {
        LimitsUpdate {
            invocations_per_minute: self.invocations_per_minute,
            fires_per_minute: self.fires_per_minute,
            concurrent_invocations: self.concurrent_invocations,
            allowed_kinds: self.allowed_kinds.clone(),
            store_activations: self.store_activations,
            min_action_memory: self.min_action_memory,
            max_action_memory: self.max_action_memory,
            min_action_logs: self.min_action_logs,
            max_action_logs: self.max_action_logs,
            min_action_timeout: self.min_action_timeout,
            max_action_timeout: self.max_action_timeout,
            min_action_concurrency: self.min_action_concurrency,
            max_action_concurrency: self.max_action_concurrency,
            max_parameter_size: self.max_parameter_size.clone(),
            max_payload_size: self.max_payload_size.clone(),
            truncation_size: self.truncation_size.clone(),
        }
    }
}

pub fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Set(set) => {
            let (target, limits) = (&set.target, set.limits());
            if limits == LimitsUpdate::default() {
                return Err(CliError::Usage("no limit is given: see `whisp limits set --help`".to_owned()));
            }
            let request = SetLimits { namespace: set.namespace.clone(), limits };
            let _: Done = client::post(&target.data_dir, "/limits/set", &request)?;
            print(target, &format!("Limits successfully set for \"{}\"", set.namespace), &request)
        }
        Command::Get { namespace, target } => {
            let limits: LimitsUpdate = client::post(&target.data_dir, "/limits/get", &OfNamespace { namespace })?;
            print(&target, &limits.to_string(), &limits)
        }
        Command::Delete { namespace, target } => {
            let json = json!({ "deleted": { "limits": namespace } });
            let _: Done = client::post(&target.data_dir, "/limits/delete", &OfNamespace { namespace })?;
            print(&target, "Limits deleted", &json)
        }
    }
}
