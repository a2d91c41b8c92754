//! System calls that no crate of ours wraps, each as a function that returns `io::Result`.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

fn check(result: impl Into<i64>) -> io::Result<i64> {
    let result = result.into();
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes the mount at `path` (and, with `recursive`, those below it) read-only, without set-uid programs and without devices.
pub(super) fn make_read_only(path: &Path, recursive: bool) -> io::Result<()> {
    /// `struct mount_attr` of Linux 5.12.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: both pointers are valid for the call and the size is that of the struct.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    Child,
    Parent { child: i32, pidfd: Option<OwnedFd> },
}

/// Forks a process that has one thread. With `as_sibling` the child's parent is this process's parent, and a pidfd comes back.
pub(super) fn fork(as_sibling: bool) -> io::Result<Fork> {
    let mut pidfd: i32 = -1;
    let mut flags = libc::SIGCHLD;
    if as_sibling {
        flags |= libc::CLONE_PARENT | libc::CLONE_PIDFD;
    }
    // SAFETY: without CLONE_VM and with no new stack this is fork(2): the child has a copy of everything, and there is one thread,
    // so no lock is held by another. The pointer outlives the call. (x86_64 and aarch64 agree on the first three arguments.)
    let child = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?;
    if child == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Fork::Parent { child: child as i32, pidfd })
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: closes descriptors that no Rust object uses afterwards; the callers are about to execute or have just started.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// `prctl` with one argument.
pub(super) fn prctl(option: i32, argument: libc::c_ulong) -> io::Result<i64> {
    // SAFETY: only options without pointers are passed.
    check(unsafe { libc::prctl(option, argument, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}

/// Of `capget` and `capset`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Empties the capability sets and, as far as permitted, the bounding set.
pub(super) fn drop_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        // Fails beyond the last capability and without CAP_SETPCAP; no_new_privs makes the bounding set irrelevant anyway.
        if prctl(libc::PR_CAPBSET_DROP, capability).is_err() {
            break;
        }
    }
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let sets = [0_u32; 6];
    // SAFETY: version 3 reads two triples of 32 bits.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })?;
    Ok(())
}

/// Lets the next program that this process executes keep `CAP_NET_ADMIN` although its user is not root.
pub(super) fn keep_network_administration() -> io::Result<()> {
    const CAP_NET_ADMIN: u32 = 12;
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // Effective, permitted, inheritable: the low 32 capabilities, then the high ones.
    let mut sets = [0_u32; 6];
    // SAFETY: version 3 writes and reads two triples of 32 bits.
    unsafe {
        check(libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()))?;
        sets[2] |= 1 << CAP_NET_ADMIN;
        check(libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()))?;
        check(libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            CAP_NET_ADMIN as libc::c_ulong,
            0,
            0,
        ))?;
    }
    Ok(())
}

/// Sets both limits, or lowers them to what is allowed.
pub(super) fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` is valid for writing.
    check(unsafe { libc::getrlimit(resource, &raw mut old) })?;
    let value = value.min(old.rlim_max);
    let new = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `new` is valid for reading.
    check(unsafe { libc::setrlimit(resource, &raw const new) })?;
    Ok(())
}

/// Supplementary groups, group and user of this process, for good.
pub(super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // Raw calls: libc's wrappers signal all threads, and there is one.
    // SAFETY: no pointers but a null one with length 0.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Blocks `SIGCHLD` and returns a descriptor that tells of it.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialized by `sigemptyset` before use; the descriptor is new.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// What a fresh process expects: nothing blocked, everything at its default. (Rust ignores `SIGPIPE`.)
pub(super) fn reset_signals() {
    // SAFETY: sets default handlers and an empty mask.
    unsafe {
        for signal in 1..=64 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}
