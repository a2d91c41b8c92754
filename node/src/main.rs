use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = node::runtime::run_helper(&arguments) {
        return code;
    }
    ExitCode::SUCCESS
}
