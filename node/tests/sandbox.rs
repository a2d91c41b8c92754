//! The sandbox of the process back end, with real processes. As root; the unprivileged half runs these programs again as `nobody`.
//!
//! Each test has a network namespace of its own that stands for the host's, so nothing touches this machine's network.

mod sandbox {
    pub mod escapes;
    pub mod exhaustion;
    pub mod join;
    pub mod lifecycle;
    pub mod support;
    pub mod unprivileged;
}
