//! The sandbox of the process back end: what keeps user code from the node, the host and its neighbours.
//!
//! There is one mechanism. The host side ([`SandboxHost`]) starts the node's own binary as `whisp sandbox-init`, which
//! enters new namespaces, builds a root and becomes process 1 of the sandbox; then it waits. Such prepared sandboxes are kept
//! ready off the request path. A container takes one ([`SandboxHost::create`]) and then either
//!
//! - **spawns** a payload: process 1 forks, the child gives up all privileges and executes ([`Sandbox::spawn`]), or
//! - is **joined**: a child that a warmed zygote has forked outside enters by itself ([`Sandbox::join`]).
//!
//! When process 1 dies, the kernel kills everything in its pid namespace, and with the last of them go mounts, files and network.
//! It dies with its payload, when the node closes the control socket (so a killed node leaves no containers), or when it is killed.
//!
//! What user code sees: `/usr` and the libraries, a few files of `/etc`, and what [`SandboxConfig::read_only`] names, read-only; `/action`
//! (its folder), `/tmp`, `/dev/shm`, which share one bounded tmpfs that counts as its memory; its own processes; its own loopback.
//! There is no path of the host to those folders: the launcher unpacks code inside. Nothing that the container made exists after it.
//!
//! | layer | file |
//! | --- | --- |
//! | process 1: order of the set-up | `init.rs` |
//! | root file system | `root.rs` |
//! | uid, capabilities, limits, descriptors | `confine.rs` |
//! | Landlock, seccomp | `landlock.rs`, `seccomp.rs` |
//! | memory, processes, freezing | `cgroup.rs`, else `watch.rs` |
//! | network as root; as another user | `network.rs`, `netlink.rs`; `pasta.rs` |
//! | prepared sandboxes, containers, host | `shell.rs`, `handle.rs`, `host.rs` |
//! | without a sandbox | `plain.rs` |
//!
//! # Joining from a zygote
//!
//! The zygote receives [`JoinSteps`] as JSON and the descriptors of [`Join::fds`] in one message, forks, and closes its copies. The child
//! takes the steps in the order of the fields of [`JoinSteps`]; `node/tests/sandbox/join.py` does exactly this. If one fails the child must exit.
//! The zygote has one thread (`setns` into a user namespace asks for that) and holds no secrets: its memory is the child's memory.
//! Without a sandbox the lists are empty, and the node must tell the child's process id to [`Sandbox::joined`].

mod cgroup;
mod confine;
mod control;
mod handle;
mod host;
mod init;
mod landlock;
mod netlink;
mod network;
mod pasta;
mod plain;
mod root;
mod seccomp;
mod shell;
mod spec;
mod sys;
mod watch;

pub use handle::Sandbox;
pub use host::SandboxHost;
pub use init::init_main;
pub use spec::{
    Ipv4Subnet, Join, JoinSteps, NOFILE_LIMIT, PIDS_LIMIT, Payload, ReadOnlyPath, SandboxConfig, SandboxError,
    SandboxSpec, User, WORK_DIR,
};

/// The hidden subcommand of `whisp` that becomes a sandbox's process 1: `main` calls [`init_main`] for it before anything else.
pub const INIT_COMMAND: &str = "sandbox-init";
