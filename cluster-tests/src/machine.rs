//! A machine of the test's own, as far as network and mounts go: whatever it listens on, mounts or configures there is
//! nobody else's, and gone with it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    panic::resume_unwind,
    process::Command,
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Another machine's address, on a network meant for documentation (RFC 5737).
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// This machine's address on that network.
pub const HERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Where clouds answer questions about a machine, its credentials among them.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Runs `test` in a thread with network, mount and IPC namespaces of its own, which all processes and threads
/// started there share. It has loopback, with [`METADATA`] as one of its addresses, an empty `/run`, and a link to
/// another machine, [`OUTSIDE`]. Needs root.
///
/// # Panics
/// If `test` does, or the namespaces cannot be made.
pub fn own(test: impl FnOnce() + Send + 'static) {
    let done = thread::spawn(|| {
        // SAFETY: the flags change what later calls of this thread refer to; no memory or descriptor table is split off.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWIPC) }
            .expect("root may have namespaces");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("mounts can be private");
        mount("none", "/run", "tmpfs", MountFlags::empty(), c"mode=755").expect("a tmpfs can be mounted");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["address", "add", "169.254.169.254/32", "dev", "lo"]);
        // `ip` and `iptables` keep locks there.
        std::fs::create_dir_all("/run/lock").expect("a tmpfs takes folders");
        test();
    })
    .join();
    if let Err(panic) = done {
        resume_unwind(panic);
    }
}

/// Makes the other machine, and returns a listener on it. Call it from within [`own`], once.
///
/// # Panics
/// If it cannot be made.
pub fn outside() -> TcpListener {
    let (made, ready) = std::sync::mpsc::channel();
    let (linked, link) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        // SAFETY: as above.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may have namespaces");
        made.send(rustix::thread::gettid()).expect("the caller waits");
        link.recv().expect("the caller makes the link");
        run("ip", &["address", "add", &format!("{OUTSIDE}/24"), "dev", "outside1"]);
        run("ip", &["link", "set", "outside1", "up"]);
        run("ip", &["link", "set", "lo", "up"]);
        // The listener keeps the namespace.
        TcpListener::bind(SocketAddr::from((OUTSIDE, 0))).expect("the address was just added")
    });
    let thread_id = ready.recv().expect("the other thread says so").as_raw_nonzero().to_string();
    run("ip", &["link", "add", "outside0", "type", "veth", "peer", "name", "outside1", "netns", &thread_id]);
    run("ip", &["address", "add", &format!("{HERE}/24"), "dev", "outside0"]);
    run("ip", &["link", "set", "outside0", "up"]);
    run("ip", &["route", "add", "default", "via", &OUTSIDE.to_string()]);
    linked.send(()).expect("the other thread waits");
    other.join().expect("the other machine could be made")
}

/// Runs a program of the system.
///
/// # Panics
/// If it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
