//! The command line: `whisp start` runs a node, the other commands ask one over its admin socket.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no node answers.

mod client;
mod limits;
mod start;
mod status;
mod user;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::DEFAULT_DATA_DIR;

/// A clustered serverless platform that speaks OpenWhisk.
#[derive(Debug, Parser)]
#[command(name = "whisp", version, about, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no node answers.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until it is stopped by Ctrl-C or SIGTERM
    Start(Box<start::Arguments>),
    /// Show how the node is doing
    Status(Target),
    /// Create, show, block and delete users and their keys
    #[command(subcommand)]
    User(user::Command),
    /// Set, show and delete the limits of a namespace
    #[command(subcommand)]
    Limits(limits::Command),
}

/// Which node to ask, and how to answer.
#[derive(Debug, clap::Args)]
struct Target {
    /// Data directory of the node, which must run on this machine
    #[arg(long, value_name = "DIR", env = "WHISP_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The node says no.
    #[error("{0}")]
    Refused(String),
    /// There is nobody to ask.
    #[error("{0}")]
    NoNode(String),
    #[error("{}", told(.0))]
    Failed(anyhow::Error),
    /// The arguments fit the grammar and still make no sense.
    #[error("{0}")]
    Usage(String),
}

/// The error and its causes on one line. Our own errors tell their cause already, others do not.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NoNode(_) => 3,
        }
    }
}

/// Runs the command that `arguments` (with the program's name) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // To stdout with 0 for --help, to stderr with 2 for mistakes. A closed pipe changes nothing.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let ran_a_node = matches!(cli.command, Command::Start(_));
    let done = match cli.command {
        Command::Start(arguments) => start::run(*arguments),
        Command::Status(target) => status::run(&target),
        Command::User(command) => user::run(command),
        Command::Limits(command) => limits::run(command),
    };
    let code = match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("whisp: {error}");
            error.exit_code()
        }
    };
    if ran_a_node {
        leave(code);
    }
    code.into()
}

/// Ends the process of a node at once. An orderly exit would destroy RocksDB's static locks under those of its threads that
/// compact just now, and such a thread aborts the process. What matters is on the disk by then.
fn leave(code: u8) -> ! {
    use std::io::Write;
    // Nobody is left to hear of a failure.
    let _ = std::io::stdout().flush();
    // SAFETY: it ends the process and touches nothing of it.
    unsafe { libc::_exit(code.into()) }
}

/// Prints lines for people, or `json`. A reader that went away (`| head`) is no failure.
fn print(target: &Target, lines: &str, json: &impl serde::Serialize) -> Result<(), CliError> {
    let text = if target.json {
        serde_json::to_string_pretty(json).map_err(|error| CliError::Failed(error.into()))?
    } else {
        lines.trim_end().to_owned()
    };
    if text.is_empty() {
        return Ok(());
    }
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::Failed(error.into())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    /// Help is for people: every command and every argument that is shown says what it is.
    #[test]
    fn everything_has_a_help_text() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
