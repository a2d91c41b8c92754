//! A node as a process of its own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::Api,
    proc::{self, Process},
    wait,
};

/// How long a node may take until it serves, in a debug build on a busy machine.
const READY: Duration = Duration::from_secs(60);
/// How long a node may take to stop while nothing runs on it.
const STOP: Duration = Duration::from_secs(30);

/// The program under test: `WHISP_BIN`, else what Cargo built beside the test.
pub fn program(built: &str) -> PathBuf {
    std::env::var_os("WHISP_BIN").map_or_else(|| built.into(), PathBuf::from)
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--memory`.
    pub memory: &'static str,
    pub unsafe_no_sandbox: bool,
    /// `--backend`.
    pub backend: &'static str,
    /// Open files that it begins with; `None`: as this process has them.
    pub soft_descriptors: Option<u32>,
    /// Lines of the configuration file. Tables must not be those of other options.
    pub config: String,
    /// The user that runs the node; only root can choose.
    pub user: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: "2GB",
            unsafe_no_sandbox: false,
            backend: "process",
            soft_descriptors: None,
            config: String::new(),
            user: None,
        }
    }
}

/// A node and its data directory. Dropping it kills the process and whatever it started, and removes the directory.
pub struct TestNode {
    program: PathBuf,
    options: Options,
    folder: TempDir,
    address: SocketAddr,
    child: Option<Child>,
    /// `uuid:key` of the user that tests act as.
    key: String,
    /// Processes that a killed node left; they must end by themselves or be ended by the next start.
    orphans: Vec<Process>,
}

impl TestNode {
    /// Starts a node on a free port of loopback, waits until it serves, and creates the user `tester` on it.
    ///
    /// # Panics
    /// If it does not start; its log is shown.
    pub fn start(program: PathBuf, options: Options) -> Self {
        become_subreaper();
        let folder = tempfile::Builder::new().prefix("whisp-test-").tempdir().expect("a folder in the temporary one");
        let mut node = Self {
            program,
            options,
            folder,
            address: free_address(),
            child: None,
            key: String::new(),
            orphans: vec![],
        };
        node.prepare_folder().expect("the data directory can be made");
        node.start_again();
        node.key = node.create_user("tester");
        node
    }

    /// The data directory and a configuration file, the user's own.
    fn prepare_folder(&mut self) -> std::io::Result<()> {
        let data = self.data_dir();
        fs::create_dir(&data)?;
        fs::write(self.config_file(), &self.options.config)?;
        if let Some(user) = self.options.user {
            // The program may lie in a folder that the user cannot enter.
            let program = self.folder.path().join("whisp");
            // By a process of its own: while this one had the copy open for writing, a child that another test starts would
            // inherit that, and the copy could not be executed ("text file busy").
            let copied = Command::new("cp").arg(&self.program).arg(&program).status()?;
            assert!(copied.success(), "cp ended with {copied}");
            self.program = program;
            for path in [self.folder.path(), &data] {
                std::os::unix::fs::chown(path, Some(user), Some(user))?;
            }
        }
        Ok(())
    }

    /// Gives it another configuration file, for its next start.
    ///
    /// # Panics
    /// If that cannot be written.
    pub fn configure(&mut self, config: &str) {
        fs::write(self.config_file(), config).expect("a configuration file can be written");
    }

    /// Starts the process on what lies in the data directory, and waits until it serves. Returns how long that took.
    ///
    /// # Panics
    /// If it runs already, or does not start.
    pub fn start_again(&mut self) -> Duration {
        assert!(self.child.is_none(), "the node runs already");
        let began = Instant::now();
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log file can be made");
        let mut command = match self.options.soft_descriptors {
            None => Command::new(&self.program),
            Some(number) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -Sn {number} && exec \"$0\" \"$@\"")]).arg(&self.program);
                shell
            }
        };
        command
            .arg("start")
            .arg("--config")
            .arg(self.config_file())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--api-addr", &self.address.to_string()])
            .args([
                "--node-name",
                "node-under-test",
                "--backend",
                self.options.backend,
                "--memory",
                self.options.memory,
            ])
            .args(self.options.unsafe_no_sandbox.then_some("--unsafe-no-sandbox"))
            .env_clear()
            .env("PATH", path_variable(self.options.user.is_some()))
            .env("RUST_BACKTRACE", "1")
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log)
            .process_group(0);
        if self.options.user.is_none_or(|user| user == 0) {
            command.env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
        }
        if let Some(user) = self.options.user {
            command.uid(user).gid(user).env("HOME", self.folder.path());
        }
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display())));
        self.wait_ready();
        began.elapsed()
    }

    fn wait_ready(&mut self) {
        let anyone = Api::new(self.address, "");
        let deadline = Instant::now() + READY;
        while anyone.request("GET", "//ready", None).map_or(0, |reply| reply.status) != 200 {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                self.child = None;
                panic!("the node ended at its start with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not ready within {READY:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `whisp ARGUMENTS` for this node's data directory, and returns what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .current_dir(self.folder.path())
            .output()
            .expect("the program can be run");
        assert!(
            output.status.success(),
            "whisp {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Creates a user with a namespace of the same name, and returns `uuid:key`.
    pub fn create_user(&self, name: &str) -> String {
        self.command(&["user", "create", name])
    }

    /// What `whisp status --json` says.
    pub fn status(&self) -> Value {
        let text = self.command(&["status", "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("status is not JSON: {error}: {text}"))
    }

    /// The sum over all labels of the metric `name`; 0 if there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.api().get("//metrics").text;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn api(&self) -> Api {
        Api::new(self.address, &self.key)
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("whisp.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    /// Everything the node has written to stdout and stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// # Panics
    /// If the node does not run.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("the node runs").id().cast_signed()
    }

    /// Ends the process as a power cut would: at once, whatever it does. Its containers are not touched.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        self.orphans.extend(proc::descendants(self.pid()));
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Asks the node to stop, as Ctrl-C and SIGTERM do.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a child's number is not 0");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// If it has not ended `within` that time.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let log = self.log_file();
        let child = self.child.as_mut().expect("the node runs");
        let status = wait::eventually(within, "the node's end", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it runs:\n{}", tail(&fs::read_to_string(&log).unwrap_or_default()))),
            Err(error) => Err(error.to_string()),
        });
        self.child = None;
        status
    }

    /// SIGTERM, then waits: the node must end with exit code 0 and leave no process and no control group.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self) {
        let started = proc::descendants(self.pid());
        let label = proc::cgroup_label(self.pid());
        self.signal(Signal::TERM);
        let status = self.ended(STOP);
        assert!(
            status.success(),
            "the node ended with {status} (signal {:?}):\n{}",
            status.signal(),
            tail(&self.log())
        );
        let left: Vec<_> = started.iter().filter(|process| process.is_alive()).collect();
        assert!(left.is_empty(), "the stopped node left {left:?}");
        let groups = label.map_or_else(Vec::new, |label| proc::cgroups(&label));
        assert!(groups.is_empty(), "the stopped node left {groups:?}:\n{}", tail(&self.log()));
    }

    /// Processes of killed nodes that are still there.
    pub fn orphans(&self) -> Vec<Process> {
        proc::reap_adopted();
        self.orphans.iter().filter(|process| process.is_alive()).cloned().collect()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the node's log:\n{}", tail(&self.log()));
        }
        if let Some(mut child) = self.child.take() {
            self.orphans.extend(proc::descendants(child.id().cast_signed()));
            // A clean end removes what a killed node leaves to the next start: cgroups, interfaces, rules.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        for process in self.orphans() {
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Processes whose parents die become children of the test, so that none escapes its looks.
fn become_subreaper() {
    // A number that is not 0 turns it on.
    rustix::process::set_child_subreaper(Pid::from_raw(1)).expect("Linux has subreapers since 3.4");
}

fn path_variable(other_user: bool) -> std::ffi::OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    // Interpreters in root's home are of no use to others.
    if other_user { "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into() } else { own }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a listener has an address")
}

/// One node for all tests of a program that need nothing special of it. It ends with the last test that holds it.
pub fn shared(place: &Mutex<Weak<TestNode>>, start: impl FnOnce() -> TestNode) -> Arc<TestNode> {
    // A test that failed to start it leaves nothing half-done here.
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(node) = place.upgrade() {
        return node;
    }
    let node = Arc::new(start());
    *place = Arc::downgrade(&node);
    node
}

/// The folder of this crate, with its inputs.
pub fn inputs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/inputs"))
}
