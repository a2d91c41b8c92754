//! What goes into a sandbox and comes out of it: configuration, payloads, join instructions, errors.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    str::FromStr,
};

use protocol::ByteSize;
use serde::{Deserialize, Serialize};

/// The container's own folder and working directory: writable, private, empty at the start.
pub const WORK_DIR: &str = "/action";

/// Processes and threads that a container may have.
pub const PIDS_LIMIT: u32 = 1024;

/// Open files that a process in a container may have.
pub const NOFILE_LIMIT: u32 = 1024;

/// How one node sandboxes its containers.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// A folder inside the node's data directory, for this alone; created if missing. Names of interfaces, rules,
    /// cgroups and the range of uids derive from its path, so two nodes on a machine never touch each other's.
    pub state_dir: PathBuf,
    /// Start children plainly: own process group and folder, a memory limit if possible, nothing else.
    pub unsafe_no_sandbox: bool,
    /// Port of the node's API, the only port of this machine that containers reach.
    pub api_port: u16,
    /// IPv4 network of the containers, at least a /30. Default: a /18 of 10.128.0.0/9 that no route of this machine touches.
    pub network: Option<Ipv4Subnet>,
    /// Networks that containers must not reach, beyond this machine, its link-local and metadata addresses and other containers.
    pub denied_networks: Vec<Ipv4Subnet>,
    /// What containers see read-only beside the system: interpreters outside `/usr`, launchers.
    pub read_only: Vec<ReadOnlyPath>,
    /// Sandboxes kept prepared off the request path.
    pub ready: usize,
    /// The `whisp` binary, run as `whisp sandbox-init`. `/proc/self/exe` in the node itself.
    pub init_program: PathBuf,
}

impl SandboxConfig {
    /// The defaults for a node whose data directory contains `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>, api_port: u16) -> Self {
        Self {
            state_dir: state_dir.into(),
            unsafe_no_sandbox: false,
            api_port,
            network: None,
            denied_networks: Vec::new(),
            read_only: Vec::new(),
            ready: 2,
            init_program: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// A file or folder of the host that containers see, read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnlyPath {
    pub host: PathBuf,
    /// Absolute; must not lie in `/action`, `/tmp`, `/dev` or `/proc`.
    pub inside: PathBuf,
}

impl ReadOnlyPath {
    /// Seen under the same path as on the host.
    pub fn same(path: impl Into<PathBuf>) -> Self {
        let host = path.into();
        Self { inside: host.clone(), host }
    }
}

/// One container.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Unique on this node; becomes the host name inside, cut to 63 characters.
    pub name: String,
    /// Limit of the whole process tree, the files in its folders included.
    pub memory: ByteSize,
    /// Weight against other containers, as Docker's `--cpu-shares` (1024 is a plain process).
    pub cpu_shares: Option<u32>,
}

/// A program to start in a sandbox. It gets descriptors 0 to 3 and no others.
#[derive(Debug)]
pub struct Payload {
    /// Program (an absolute path as seen inside, see `SandboxHost::visible`) and arguments.
    pub argv: Vec<String>,
    /// The whole environment. `HOME`, `PWD` and `TMPDIR` are added where absent.
    pub env: Vec<(String, String)>,
    pub stdin: OwnedFd,
    /// A pipe's ownership goes to the container's user, so that `/dev/stdout` can be opened.
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Descriptor 3: the launcher's end of the socket pair.
    pub connection: OwnedFd,
}

/// All that a process forked by a zygote needs to enter a prepared sandbox; see the module documentation for the steps.
#[derive(Debug)]
pub struct Join {
    pub steps: JoinSteps,
    /// Descriptors that `steps` refers to by index.
    pub fds: Vec<OwnedFd>,
}

impl Join {
    /// The descriptors, to be sent with `SCM_RIGHTS`.
    pub fn borrowed_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }
}

/// The steps of a join in the order in which they must be taken. Serialize it as JSON for the zygote; numbers are indices into [`Join::fds`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinSteps {
    /// 1. Write `0` to each.
    pub cgroups: Vec<usize>,
    /// 2. `setns(fd, 0)` each, in this order. 3. If there are any: fork, the parent leaves with `_exit(0)` at once.
    pub namespaces: Vec<usize>,
    /// 4. `chdir`.
    pub work_dir: PathBuf,
    /// 5. `RLIMIT_NOFILE`, and `RLIMIT_NPROC` where given; `RLIMIT_CORE` 0.
    pub nofile: u32,
    pub nproc: Option<u32>,
    /// 6. `setgroups([])`, `setresgid`, `setresuid`; nothing if absent.
    pub user: Option<User>,
    /// 7. Empty all capability sets (`capset`), then `prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)`.
    pub drop_privileges: bool,
    /// 8. `landlock_restrict_self(fd, 0)`.
    pub ruleset: Option<usize>,
    /// 9. Close every descriptor except 0 to 3.
    /// 10. `seccomp(SECCOMP_SET_MODE_FILTER)`: `sock_filter`s in the machine's byte order, as base64.
    /// 11. `prctl(PR_SET_DUMPABLE, 1)`.
    pub seccomp: Option<String>,
    /// Variables to set, `HOME`, `PWD` and `TMPDIR`.
    pub env: Vec<(String, String)>,
}

/// The user that a container runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// An IPv4 network such as `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Subnet {
    /// The network of `prefix` bits that contains `address`. `prefix`: at most 32.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = Self::mask(prefix)?;
        Some(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), prefix })
    }

    fn mask(prefix: u8) -> Option<u32> {
        match prefix {
            0 => Some(0),
            1..=32 => Some(u32::MAX << (32 - prefix)),
            _ => None,
        }
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix)).unwrap_or(0);
        self.address.to_bits() & mask == other.address.to_bits() & mask
    }

    /// Addresses in it, the first and the last included.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address at `index`, which wraps around.
    pub fn nth(&self, index: u64) -> Ipv4Addr {
        // The remainder is below 2^32.
        Ipv4Addr::from_bits(self.address.to_bits().wrapping_add((index % self.size()) as u32))
    }
}

impl std::fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let wrong = || format!("`{text}` is not an IPv4 network such as 10.1.0.0/16");
        let address = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().map_err(|_| wrong())?;
        Self::containing(address, prefix).ok_or_else(wrong)
    }
}

/// Why containers cannot be sandboxed, or one could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine or user lacks a layer: the back end must not start.
    #[error("the sandbox lacks its layer `{layer}`: {why}; {remedy}, or start with --unsafe-no-sandbox")]
    Missing { layer: &'static str, why: String, remedy: &'static str },
    /// One step of making a sandbox failed; nothing is left behind.
    #[error("sandbox: {step}: {source}")]
    Step { step: String, source: io::Error },
    /// The sandbox's first process ended before the call.
    #[error("the sandbox is gone")]
    Gone,
    /// A sandbox takes one payload or one join.
    #[error("the sandbox is in use")]
    InUse,
    /// Tables of uids, addresses and the like are full.
    #[error("too many sandboxes: no free {0}")]
    Full(&'static str),
}

impl SandboxError {
    pub(super) fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }
}

/// Path `host` as processes in a sandbox see it, or itself where nothing maps it.
pub(super) fn visible_path(read_only: &[ReadOnlyPath], host: &Path) -> PathBuf {
    read_only
        .iter()
        .find_map(|entry| host.strip_prefix(&entry.host).ok().map(|rest| join_rest(&entry.inside, rest)))
        .unwrap_or_else(|| host.to_owned())
}

fn join_rest(base: &Path, rest: &Path) -> PathBuf {
    // `join("")` would append a slash, and a file with a slash does not exist.
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_parse_overlap_and_count() {
        let net: Ipv4Subnet = "10.1.2.3/18".parse().unwrap();
        assert_eq!(net.to_string(), "10.1.0.0/18");
        assert_eq!(net.size(), 16384);
        assert_eq!(net.nth(1), Ipv4Addr::new(10, 1, 0, 1));
        assert_eq!(net.nth(16385), Ipv4Addr::new(10, 1, 0, 1));
        assert!(net.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!(net.overlaps(&"0.0.0.0/0".parse().unwrap()));
        assert!(!net.overlaps(&"10.1.64.0/18".parse().unwrap()));
        for wrong in ["", "10.1.0.0/33", "10.1.0/8", "10.1.0.0/", "::/0"] {
            assert!(wrong.parse::<Ipv4Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn host_paths_map_to_paths_inside() {
        let table =
            [ReadOnlyPath { host: "/data/whisp".into(), inside: "/whisp".into() }, ReadOnlyPath::same("/opt/py")];
        assert_eq!(visible_path(&table, Path::new("/data/whisp")), Path::new("/whisp"));
        assert_eq!(visible_path(&table, Path::new("/opt/py/bin/python")), Path::new("/opt/py/bin/python"));
        assert_eq!(visible_path(&table, Path::new("/data/whisper")), Path::new("/data/whisper"));
    }
}
