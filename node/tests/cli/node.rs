//! A node as a process of its own.

use std::{
    fs::File,
    process::{Child, Command, Output, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub const WHISP: &str = env!("CARGO_BIN_EXE_whisp");
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node with the simulated back end; killed when dropped.
pub struct Node {
    child: Child,
    data: Rc<tempfile::TempDir>,
    log: tempfile::NamedTempFile,
}

impl Node {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_on(Rc::new(tempfile::tempdir().unwrap()), arguments)
    }

    /// Starts on data that is there already, and waits until it answers.
    pub fn start_on(data: Rc<tempfile::TempDir>, arguments: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new(WHISP)
            .args(["start", "--backend", "simulated", "--api-addr", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .args(arguments)
            .env_remove("WHISP_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log.path()).unwrap())
            .spawn()
            .expect("the program starts");
        let mut node = Self { child, data, log };
        let deadline = Instant::now() + PATIENCE;
        while !node.ask(&["status"]).status.success() {
            if let Some(status) = node.child.try_wait().unwrap() {
                panic!("the node ended with {status}:\n{}", node.log());
            }
            assert!(Instant::now() < deadline, "the node does not answer:\n{}", node.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    /// Runs a command against this node.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(WHISP).args(arguments).arg("--data-dir").arg(self.data.path()).output().expect("the program runs")
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).expect("JSON")
    }

    /// Shared, so that the data can outlive the process.
    pub fn data_dir(&self) -> &Rc<tempfile::TempDir> {
        &self.data
    }

    /// Stops the node as an operator would. Returns its exit code (`None`: it was killed) and its log.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the node does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        (self.child.wait().unwrap().code(), self.log())
    }

    /// As a crash would: nothing is tidied up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
