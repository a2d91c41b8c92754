//! Floors: the same function in the same runtime without a platform around it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::Serialize;

use crate::{
    http::{self, Address, Client},
    process::Owned,
};

/// How long a bare interpreter may take to answer.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts to reach a starting server: small against the fastest start (10 ms).
const RETRY: Duration = Duration::from_micros(100);

/// A language that actions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    Nodejs,
    Python,
}

impl Runtime {
    pub const ALL: [Runtime; 2] = [Runtime::Nodejs, Runtime::Python];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Nodejs => "nodejs",
            Runtime::Python => "python",
        }
    }

    /// An action that does what the bare function does.
    #[must_use]
    pub fn noop(self) -> &'static str {
        match self {
            Runtime::Nodejs => "const main = (params) => ({ ok: true })\n",
            Runtime::Python => "def main(params):\n    return {\"ok\": True}\n",
        }
    }

    fn server(self) -> (&'static str, &'static str) {
        match self {
            Runtime::Nodejs => ("bare.js", include_str!("floors/bare.js")),
            Runtime::Python => ("bare.py", include_str!("floors/bare.py")),
        }
    }
}

/// A runtime's interpreter and the bare server for it.
#[derive(Debug, Clone)]
pub struct Interpreter {
    pub runtime: Runtime,
    /// The program itself, never a shim that looks for it at each start (pyenv's takes 60 ms).
    pub program: PathBuf,
    pub version: String,
    server: PathBuf,
    folder: PathBuf,
}

impl Interpreter {
    /// Finds the interpreter by asking it for its own path, and writes the bare server into `folder`.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn find(runtime: Runtime, folder: &Path) -> anyhow::Result<Interpreter> {
        let (program, flag, question) = match runtime {
            Runtime::Nodejs => ("node", "-e", "console.log(process.execPath); console.log(process.version)"),
            Runtime::Python => ("python3", "-c", "import sys; print(sys.executable); print(sys.version.split()[0])"),
        };
        let answer = Command::new(program).args([flag, question]).output();
        let answer = answer.with_context(|| format!("{program} is not installed"))?;
        let text = String::from_utf8(answer.stdout)?;
        let (path, version) =
            text.trim().split_once('\n').with_context(|| format!("{program} does not say its path"))?;
        let (file, source) = runtime.server();
        let server = folder.join(file);
        std::fs::write(&server, source)?;
        Ok(Interpreter {
            runtime,
            program: Path::new(path).canonicalize()?,
            version: version.trim_start_matches('v').to_owned(),
            server,
            folder: folder.to_owned(),
        })
    }

    /// The kind of actions that this interpreter runs, such as `python:3.11`.
    #[must_use]
    pub fn kind(&self) -> String {
        let parts = if self.runtime == Runtime::Nodejs { 1 } else { 2 };
        let version: Vec<&str> = self.version.split('.').take(parts).collect();
        format!("{}:{}", self.runtime.name(), version.join("."))
    }

    fn command(&self, socket: &Path) -> Command {
        let mut command = Command::new(&self.program);
        if self.runtime == Runtime::Python {
            command.args(["-I", "-S"]);
        }
        command.arg(&self.server).arg(socket).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Starts the bare server on a Unix socket and on loopback.
    ///
    /// # Errors
    /// If it does not start.
    pub fn serve(&self) -> anyhow::Result<BareServer> {
        let socket = self.folder.join(format!("{}.sock", self.runtime.name()));
        let mut command = self.command(&socket);
        let mut process = Owned::spawn(command.arg("tcp").stdout(Stdio::piped()), Signal::KILL)?;
        let output = process.child().stdout.take().context("the output is a pipe")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let port: u16 = line.trim().parse().with_context(|| format!("{} did not start", self.server.display()))?;
        let tcp = Address::Tcp(([127, 0, 0, 1], port).into());
        Ok(BareServer { tcp, unix: Address::Unix(socket), _process: process })
    }

    /// Starts an interpreter with the bare server and waits for its first answer. Returns how long that took.
    ///
    /// # Errors
    /// If it does not answer within 10 s.
    pub async fn time_start(&self) -> anyhow::Result<Duration> {
        let socket = self.folder.join(format!("{}-start.sock", self.runtime.name()));
        let address = Address::Unix(socket.clone());
        let request = direct_call();
        let start = Instant::now();
        let _process = Owned::spawn(&mut self.command(&socket), Signal::KILL)?;
        let mut client = loop {
            match Client::open(&address).await {
                Ok(client) => break client,
                Err(_) if start.elapsed() < START_LIMIT => std::thread::sleep(RETRY),
                Err(error) => return Err(error).context("the bare server does not start"),
            }
        };
        let status = client.call(&request).await?.status;
        let took = start.elapsed();
        std::fs::remove_file(&socket)?;
        if status != 200 {
            bail!("the bare server answered {status}");
        }
        Ok(took)
    }
}

/// A bare function that answers on two addresses until it is dropped.
pub struct BareServer {
    pub unix: Address,
    pub tcp: Address,
    _process: Owned,
}

/// The call that a container gets from the platform, in shape and size.
#[must_use]
pub fn direct_call() -> Vec<u8> {
    let body = serde_json::json!({
        "value": { "name": "bench" },
        "namespace": "guest",
        "action_name": "/guest/noop",
        "action_version": "0.0.1",
        "api_host": "http://10.0.0.1:3233",
        "api_key": "23bc46b1-71f6-4ed5-8c54-816aa4f8c502:x",
        "activation_id": "01935a7c9f1e7d3b8f0a1b2c3d4e5f60",
        "transaction_id": "Zq3xkW1TgYpXv0nRb8dJ5mLh2cFsA9uE",
        "deadline": "1795262400000",
    });
    http::request("POST", "/run", None, body.to_string().as_bytes())
}
