//! Landlock: a second wall behind the mounts. Even a writable mount that slipped into the root cannot be written.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};

use super::spec::WORK_DIR;

/// Where payloads may create, change and remove files.
const WRITABLE: [&str; 3] = [WORK_DIR, "/tmp", "/dev/shm"];

/// Devices that may be opened for writing.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The rules, for a process that sees the sandbox's root as `/`.
///
/// The newest rights that the kernel knows are handled; those of the first version (Linux 5.13) are demanded.
///
/// # Errors
/// If the kernel has no Landlock, or it is not enabled.
pub(super) fn ruleset() -> io::Result<OwnedFd> {
    let newest = ABI::V6;
    let all = AccessFs::from_all(newest);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(io::Error::other)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .map_err(io::Error::other)?
        // Signals and abstract sockets have namespaces of their own; this holds if those fail.
        .scope(Scope::from_all(newest))
        .map_err(io::Error::other)?
        .create()
        .map_err(io::Error::other)?;
    let readable = [("/", AccessFs::from_read(newest))].into_iter();
    let writable = WRITABLE.into_iter().map(|path| (path, all));
    let devices = DEVICES.into_iter().map(|path| (path, AccessFs::ReadFile | AccessFs::WriteFile));
    for (path, access) in readable.chain(writable).chain(devices) {
        let file = PathFd::new(path).map_err(io::Error::other)?;
        rules = rules.add_rule(PathBeneath::new(file, access)).map_err(io::Error::other)?;
    }
    Option::<OwnedFd>::from(rules).ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// Restricts this thread and its descendants. Needs `no_new_privs`.
pub(super) fn restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes two integers.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
