//! `whisp user`: the commands and lines of OpenWhisk's `wskadmin user`.

use clap::Subcommand;
use serde_json::json;

use super::{CliError, Target, client, print};
use crate::{
    admin::{BlockUser, DeleteUser, Done, GetUser, ListUsers, Whois},
    auth::{Credentials, IdentityEntry, NamespaceCredentials, NewUser},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a subject, or another namespace for one, and print its key
    Create {
        /// The person or system, at least 5 characters
        subject: String,
        /// Key to use, instead of a new random one
        #[arg(short = 'u', long = "auth", value_name = "UUID:KEY", value_parser = Credentials::parse)]
        credentials: Option<Credentials>,
        /// Namespace to create [default: named like the subject]
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Replace the key of a namespace that exists already
        #[arg(short, long)]
        revoke: bool,
        /// Only print a new key; create nothing
        #[arg(short, long, conflicts_with_all = ["revoke", "silent"])]
        generate: bool,
        /// Do not print the key
        #[arg(short, long)]
        silent: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Print the key of a subject
    Get {
        /// The subject
        subject: String,
        /// The namespace to print the key of [default: named like the subject]
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Print all namespaces of the subject
        #[arg(short, long, conflicts_with = "namespace")]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Tell whose key this is
    Whois {
        /// The key
        #[arg(value_name = "UUID:KEY", value_parser = Credentials::parse)]
        credentials: Credentials,
        #[command(flatten)]
        target: Target,
    },
    /// List who can use a namespace
    List {
        /// The namespace
        namespace: String,
        /// Print at most so many
        #[arg(short, long, value_name = "N", default_value_t = 1)]
        pick: usize,
        /// Print all
        #[arg(short, long, conflicts_with = "pick")]
        all: bool,
        /// Print keys without subjects
        #[arg(short, long)]
        key: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a subject, or one of its namespaces; entities stay
    Delete {
        /// The subject
        subject: String,
        /// Delete only this namespace of it
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Block subjects: their keys fail until they are unblocked
    Block {
        /// The subjects
        #[arg(required = true)]
        subjects: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Unblock subjects: the same keys work again
    Unblock {
        /// The subjects
        #[arg(required = true)]
        subjects: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
}

pub fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Create { generate: true, credentials: None, target, .. } => {
            let new = Credentials::random();
            print(&target, &new.to_string(), &json!({ "credentials": new }))
        }
        Command::Create { generate: true, .. } => {
            Err(CliError::Usage("--generate makes a new key: --auth cannot be given too".to_owned()))
        }
        Command::Create { subject, credentials, namespace, revoke, silent, target, .. } => {
            let new = NewUser { subject, namespace, credentials, revoke };
            let made: NamespaceCredentials = client::post(&target.data_dir, "/users/create", &new)?;
            if silent { Ok(()) } else { print(&target, &made.credentials.to_string(), &made) }
        }
        Command::Get { subject, namespace, all, target } => {
            let query = GetUser { subject, namespace, all };
            let found: Vec<NamespaceCredentials> = client::post(&target.data_dir, "/users/get", &query)?;
            let line = |entry: &NamespaceCredentials| {
                if all {
                    format!("{}\t{}\n", entry.namespace, entry.credentials)
                } else {
                    entry.credentials.to_string()
                }
            };
            print(&target, &found.iter().map(line).collect::<String>(), &found)
        }
        Command::Whois { credentials, target } => {
            let found: IdentityEntry = client::post(&target.data_dir, "/users/whois", &Whois { credentials })?;
            print(&target, &format!("subject: {}\nnamespace: {}", found.subject, found.namespace), &found)
        }
        Command::List { namespace, pick, all, key, target } => {
            let query = ListUsers { namespace, pick: (!all).then_some(pick) };
            let found: Vec<IdentityEntry> = client::post(&target.data_dir, "/users/list", &query)?;
            let line = |entry: &IdentityEntry| {
                if key {
                    format!("{}\n", entry.credentials)
                } else {
                    format!("{}\t{}\n", entry.credentials, entry.subject)
                }
            };
            print(&target, &found.iter().map(line).collect::<String>(), &found)
        }
        Command::Delete { subject, namespace, target } => {
            let line = if namespace.is_some() { "Namespace deleted" } else { "Subject deleted" };
            let json = json!({ "deleted": { "subject": subject, "namespace": namespace } });
            let _: Done = client::post(&target.data_dir, "/users/delete", &DeleteUser { subject, namespace })?;
            print(&target, line, &json)
        }
        Command::Block { subjects, target } => block(&target, &subjects, true),
        Command::Unblock { subjects, target } => block(&target, &subjects, false),
    }
}

/// Every subject gets its line, also after one failed; then the command as a whole has failed.
fn block(target: &Target, subjects: &[String], blocked: bool) -> Result<(), CliError> {
    let verb = if blocked { "block" } else { "unblock" };
    let mut results = Vec::new();
    let mut failure = None;
    for subject in subjects.iter().map(|subject| subject.trim()).filter(|subject| !subject.is_empty()) {
        let request = BlockUser { subject: subject.to_owned(), blocked };
        let done = client::post::<Done>(&target.data_dir, "/users/block", &request);
        let error = match done {
            Ok(Done {}) => None,
            Err(error @ CliError::NoNode(_)) => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        let text = match &error {
            None => format!("\"{subject}\" {verb}ed successfully"),
            Some(error) => format!("Failed to {verb} \"{subject}\" ({error})"),
        };
        if error.is_some() {
            failure = Some(text.clone());
        }
        results.push((text, json!({ "subject": subject, "error": error })));
    }
    let (lines, json): (Vec<_>, Vec<_>) =
        results.into_iter().filter(|(text, _)| Some(text) != failure.as_ref() || target.json).unzip();
    print(target, &lines.join("\n"), &json)?;
    failure.map_or(Ok(()), |text| Err(CliError::Refused(text)))
}
