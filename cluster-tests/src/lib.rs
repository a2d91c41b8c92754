//! Tests of whole nodes: the real program as a process of its own, real clients, real functions.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`node`] | a node as a process: start, kill, restart, stop; gone with its value, whatever the test did |
//! | [`client`] | the API over HTTP |
//! | [`machine`] | network and file system of the test's own, where it may listen and mount as it likes |
//! | [`collector`] | what running actions report to, and wait at |
//! | [`packages`] | npm and Python packages, from the registries, once |
//! | [`archive`] | zips as users make them, compiled programs among them |
//! | [`proc`] | processes, sockets and memory, seen in `/proc` |
//! | [`wait`] | waiting for a predicate, with a deadline and a reason |
//!
//! `WHISP_BIN` names another program to test, such as the release binary.

pub mod archive;
pub mod client;
pub mod collector;
pub mod machine;
pub mod node;
pub mod packages;
pub mod proc;
pub mod wait;

/// Says why a test cannot run on this machine. `./dev test` collects these lines, and refuses them as root.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
}

/// May this process do what root does?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
