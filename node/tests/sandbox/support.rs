//! A small world to test in: a host in a network namespace, a data directory, payloads in Python, and a check that nothing is left.

use std::{
    fs,
    future::Future,
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use node::containers::backend::sandbox::{Payload, Sandbox, SandboxConfig, SandboxHost, SandboxSpec};
use protocol::ByteSize;

pub const PYTHON: &str = "/usr/bin/python3";

/// Port of the node's API in these tests; a test's namespace has all ports free.
pub const API_PORT: u16 = 3233;

/// Runs `test` in a network namespace of its own, unless the machine or user cannot make one.
pub fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    // SAFETY: takes flags. Only this thread, and those it will start, change their network.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    tool("ip", &["link", "set", "lo", "up"]);
    run(test());
}

/// Runs `test` on a runtime whose threads inherit this thread's namespaces.
pub fn run(test: impl Future<Output = ()>) {
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A data directory with a host in it.
pub struct World {
    pub data: tempfile::TempDir,
    pub host: Arc<SandboxHost>,
}

impl World {
    pub async fn start(adjust: impl FnOnce(&mut SandboxConfig)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = SandboxConfig::new(data.path().join("sandbox"), API_PORT);
        config.init_program = init_program();
        config.ready = 1;
        adjust(&mut config);
        let host = SandboxHost::start(config).await.unwrap();
        Self { data, host }
    }

    pub async fn create(&self, name: &str, memory: ByteSize) -> Sandbox {
        self.host.create(SandboxSpec { name: name.to_owned(), memory, cpu_shares: Some(128) }).await.unwrap()
    }

    /// Ends the host and asserts that nothing is left of it.
    pub async fn end(self) {
        self.host.shutdown().await;
        assert_nothing_left(self.data.path()).await;
    }
}

/// The binary, or its copy where `nobody` can read it.
pub fn init_program() -> PathBuf {
    std::env::var_os("WHISP_TEST_INIT").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_whisp")), PathBuf::from)
}

/// Processes, mounts, interfaces, rules, control groups and files: none that began in `data`.
pub async fn assert_nothing_left(data: &Path) {
    eventually("no process is left", || processes_with(&data.display().to_string()).is_empty()).await;
    let files: Vec<_> = fs::read_dir(data.join("sandbox")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "{files:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&data.display().to_string()), "{mounts}");
    // Not `tool`: groups of other tests come and go while it looks, which it reports as failures.
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("whisp-{}", node_name(data))])
        .output()
        .unwrap();
    let groups = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(groups, "");
    if rustix::process::geteuid().is_root() {
        let name = node_name(data);
        eventually("no interface is left", || !tool("ip", &["address"]).contains(&name)).await;
        let rules = tool("iptables-save", &[]);
        assert!(!rules.contains(&name), "{rules}");
    }
}

/// How interfaces, rules and control groups of the node with this data directory begin.
pub fn node_name(data: &Path) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(data.join("sandbox").canonicalize().unwrap().as_os_str().as_encoded_bytes());
    format!("w{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
}

/// Processes, of whatever namespace, whose command line or environment contains `text`.
pub fn processes_with(text: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid != own);
    pids.filter(|pid| {
        ["cmdline", "environ"].iter().any(|file| {
            let content = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&content).contains(text)
        })
    })
    .collect()
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A running payload: what it writes, and the node's end of its connection.
pub struct Running {
    pub stdout: fs::File,
    pub connection: UnixStream,
}

impl Running {
    /// Everything that it writes until it closes its output.
    pub async fn output(self) -> String {
        let Self { mut stdout, connection } = self;
        let read = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            stdout.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let text = tokio::time::timeout(Duration::from_secs(60), read).await.expect("the payload is silent").unwrap();
        drop(connection);
        text
    }

    /// Its next line.
    pub async fn line(&mut self) -> String {
        let mut stdout = self.stdout.try_clone().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let (mut line, mut byte) = (Vec::new(), [0]);
            while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            String::from_utf8_lossy(&line).into_owned()
        });
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the payload is silent").unwrap()
    }
}

/// Starts a Python program with its errors on its output.
pub async fn python(sandbox: &mut Sandbox, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Running {
    let argv = [PYTHON, "-I", "-S", "-c", program].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    start(sandbox, argv, env).await.unwrap()
}

pub async fn start(
    sandbox: &mut Sandbox,
    argv: Vec<String>,
    env: &[(&str, &str)],
) -> Result<Running, node::containers::backend::sandbox::SandboxError> {
    let (stdout, theirs) = pipe();
    let (connection, launcher) = UnixStream::pair().unwrap();
    let payload = Payload {
        argv,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        stdin: fs::File::open("/dev/null").unwrap().into(),
        stdout: theirs.try_clone().unwrap(),
        stderr: theirs,
        connection: launcher.into(),
    };
    sandbox.spawn(payload).await?;
    Ok(Running { stdout: stdout.into(), connection })
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}
