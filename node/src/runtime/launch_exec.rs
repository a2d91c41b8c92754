//! Runs one action that is an executable: `whisp launch-exec loop|skeleton`, the container's process for compiled code.
//! The OpenWhisk action-proxy contract comes in on descriptor 3; the action gets the protocol it was built for.
//!
//! - `loop` is the ActionLoop protocol: one process for all activations, a line on its stdin per activation, a line on
//!   its descriptor 3 as the answer.
//! - `skeleton` is that of `openwhisk/dockerskeleton`: a process per activation, arguments in `argv[1]` and on stdin,
//!   the last line of stdout as the answer.
//!
//! Blocking and single-threaded: a container runs one activation at a time.
//!
//! Source: apache/openwhisk-runtime-go `initHandler.go`, `runHandler.go`, `executor.go`; apache/openwhisk-runtime-docker
//! `actionproxy.py`.

mod action_loop;
mod server;
mod skeleton;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::ExitCode,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use protocol::messages::{CANNOT_START, COMMAND_EXITED};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use self::{action_loop::ActionLoop, server::Server, skeleton::Skeleton};
use super::archive::{self, Format, Limits};
use crate::activations::logs::SENTINEL;

const NO_BINARY: &str = "The action failed to generate or locate a binary. See logs for details.";
const NO_CODE: &str = "Missing main/no code to execute.";
const TWICE: &str = "Cannot initialize the action more than once.";
const NO_DICTIONARY: &str = "The action did not return a dictionary or array.";

/// Name of the executable in the working directory.
const EXECUTABLE: &str = "exec";

/// What `openwhisk/dockerskeleton` runs when it gets no code.
const STUB: &str = "#!/bin/sh
echo 'This is a stub action that should be replaced with user code (e.g., script or compatible binary).'
echo '{ \"error\": \"This is a stub action. Replace it with custom logic.\" }'
";

/// An answer: status and body.
type Answer = (u16, Vec<u8>);

/// `whisp launch-exec loop|skeleton`. Ends when the node closes the connection.
pub fn main(arguments: &[String]) -> ExitCode {
    let protocol = match arguments {
        [mode] if mode == "loop" => Protocol::Loop(None),
        [mode] if mode == "skeleton" => Protocol::Skeleton(Skeleton::default()),
        _ => {
            eprintln!("usage: whisp launch-exec loop|skeleton, with a connection as descriptor 3");
            return ExitCode::from(2);
        }
    };
    let mut launcher = Launcher { protocol, initialized: false };
    let served = Server::inherited().and_then(|mut server| {
        while let Some(request) = server.next()? {
            let (status, body) = launcher.handle(&request.path, &request.body);
            server.answer(status, &body)?;
        }
        Ok(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the connection to the node failed: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Launcher {
    protocol: Protocol,
    initialized: bool,
}

enum Protocol {
    /// The process, once it is started.
    Loop(Option<ActionLoop>),
    Skeleton(Skeleton),
}

#[derive(Deserialize)]
struct InitBody {
    #[serde(default)]
    value: InitValue,
}

#[derive(Deserialize, Default)]
struct InitValue {
    #[serde(default)]
    code: String,
    #[serde(default)]
    binary: bool,
    #[serde(default)]
    env: BTreeMap<String, Value>,
}

impl Launcher {
    fn handle(&mut self, path: &str, body: &[u8]) -> Answer {
        match path {
            "/init" => self.init(body).unwrap_or_else(|refusal| refusal),
            "/run" => self.run(body),
            _ => error(404, "404 page not found"),
        }
    }

    fn init(&mut self, body: &[u8]) -> Result<Answer, Answer> {
        if self.initialized {
            eprintln!("{TWICE}");
            return Err(error(403, TWICE));
        }
        let InitBody { value } = serde_json::from_slice(body)
            .map_err(|cause| error(400, &format!("Error unmarshaling request: {cause}")))?;
        let mut code = if value.binary {
            STANDARD.decode(&value.code).map_err(|cause| error(400, &format!("cannot decode the request: {cause}")))?
        } else {
            value.code.into_bytes()
        };
        if code.is_empty() {
            match self.protocol {
                Protocol::Loop(_) => return Err(error(403, NO_CODE)),
                Protocol::Skeleton(_) => code = STUB.as_bytes().to_vec(),
            }
        }
        let variables = value.env.into_iter().map(|(name, value)| (name, as_variable(value)));
        place(code).map_err(|reason| failed_init(&reason, NO_BINARY))?;
        match &mut self.protocol {
            Protocol::Loop(action) => {
                let started = ActionLoop::start(EXECUTABLE, variables);
                *action = Some(started.map_err(|reason| failed_init(&reason, CANNOT_START))?);
            }
            Protocol::Skeleton(skeleton) => skeleton.set_variables(variables),
        }
        self.initialized = true;
        Ok((200, b"{\"ok\":true}\n".to_vec()))
    }

    fn run(&mut self, body: &[u8]) -> Answer {
        let answer = match &mut self.protocol {
            Protocol::Loop(None) => return error(500, "no action defined yet"),
            Protocol::Loop(Some(action)) if action.has_exited() => return error(500, COMMAND_EXITED),
            Protocol::Loop(Some(action)) => match action.interact(body) {
                Ok(line) => checked_line(line),
                Err(reason) => {
                    eprintln!("{reason}");
                    error(400, COMMAND_EXITED)
                }
            },
            Protocol::Skeleton(_) if !self.initialized => return error(502, NO_BINARY),
            Protocol::Skeleton(skeleton) => skeleton.run(body),
        };
        end_logs();
        answer
    }
}

/// Strings as they are, everything else as JSON.
fn as_variable(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// A `line` is an answer if it is an object, an array, or `null`, which the platform refuses in its own words.
fn checked_line(line: Vec<u8>) -> Answer {
    let valid = serde_json::from_slice::<&RawValue>(&line);
    match valid.as_ref().map(|raw| raw.get().as_bytes()[0]) {
        Ok(b'{' | b'[' | b'n') => (200, line),
        _ => error(502, NO_DICTIONARY),
    }
}

/// Makes `code` the executable of the working directory.
fn place(code: Vec<u8>) -> Result<(), String> {
    let folder = Path::new(".");
    if let Some(format) = Format::of(&code) {
        archive::unpack(format, io::Cursor::new(code), folder, Limits::default()).map_err(|error| error.to_string())?;
    } else if code.starts_with(b"\x7fELF") || code.starts_with(b"#!") {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(EXECUTABLE);
        file.and_then(|mut file| file.write_all(&code)).map_err(|error| format!("cannot write the action: {error}"))?;
    } else {
        return Err(
            "the code is neither an executable nor an archive that holds `exec`, and cannot be compiled here".into()
        );
    }
    let executable = fs::metadata(EXECUTABLE).map_err(|_| "the archive holds no `exec`".to_owned())?;
    let mode = executable.permissions().mode() | 0o500;
    fs::set_permissions(EXECUTABLE, fs::Permissions::from_mode(mode))
        .map_err(|error| format!("cannot make `exec` executable: {error}"))
}

/// `reason` goes to the logs, `text` into the answer.
fn failed_init(reason: &str, text: &str) -> Answer {
    eprintln!("{reason}");
    end_logs();
    error(502, text)
}

fn error(status: u16, text: &str) -> Answer {
    (status, format!("{}\n", serde_json::json!({ "error": text })).into_bytes())
}

/// Ends the activation's output, before its answer: whoever reads the answer finds all lines in the pipes.
fn end_logs() {
    // An action may have closed them: then nothing can be said there.
    let _ = writeln!(io::stdout().lock(), "{SENTINEL}").and_then(|()| io::stdout().flush());
    let _ = writeln!(io::stderr().lock(), "{SENTINEL}");
}
