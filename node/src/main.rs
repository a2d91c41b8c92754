//! The program `whisp`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // What runs inside containers comes first: it must not start a thread, and needs nothing of the node.
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    if let Some(code) = node::runtime::run_helper(&arguments) {
        return code;
    }
    node::cli::run(std::env::args_os())
}
