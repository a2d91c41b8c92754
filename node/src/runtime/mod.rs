//! Talking to what runs inside a container: the action-proxy contract over one connection, and what its answers mean.
//!
//! [`proxy_client`] exchanges bytes and tells exactly how far it got; [`outcome`] is the pure table from there to an
//! activation's response; [`http1`] is the framing of answers.
//!
//! [`archive`] and [`launch_exec`] are programs of the `whisp` binary that run *inside* containers: see [`run_helper`].

use std::process::ExitCode;

use crate::containers::backend::sandbox;

pub mod archive;
mod busy_poll;
pub mod http1;
pub mod launch_exec;
pub mod outcome;
pub mod proxy_client;
mod socket;
pub mod zygote;

pub use outcome::{InitVerdict, RunVerdict, classify_init, classify_run};
pub use proxy_client::{Answer, AnswerBody, AnswerLimits, CallOutcome, Endpoint, Observed, ProxyConnection};

/// Runs the program that `arguments` (without the binary's own name) ask for, if it is one of those that run inside
/// containers. `main` calls it before anything else: such a process must not set up a node's threads.
pub fn run_helper(arguments: &[String]) -> Option<ExitCode> {
    match arguments.split_first() {
        Some((program, _)) if program == sandbox::INIT_COMMAND => Some(sandbox::init_main()),
        Some((program, rest)) if program == "unpack" => Some(archive::main(rest)),
        Some((program, rest)) if program == "launch-exec" => Some(launch_exec::main(rest)),
        _ => None,
    }
}
