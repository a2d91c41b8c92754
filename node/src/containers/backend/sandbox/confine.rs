//! Gives up everything that a payload must not have. Runs inside the sandbox, after the root is entered.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use super::{control::Layer, landlock, seccomp, spec::User, sys};

/// Raised so that the kernel, when the machine itself is out of memory, takes a container before the node.
const OOM_SCORE: &str = "500";

pub(super) type Step = (Layer, &'static str, io::Error);

/// Limits, then the user, capabilities, Landlock and seccomp, from which there is no way back.
///
/// `user`: absent where the process already is the user (user namespace) or must stay who it is (process 1).
pub(super) fn give_up_privileges(user: Option<User>, ruleset: Option<BorrowedFd<'_>>) -> Result<(), Step> {
    if let Some(User { uid, gid }) = user {
        sys::become_user(uid, gid).map_err(|error| (Layer::Identity, "become the container's user", error))?;
    }
    sys::drop_capabilities().map_err(|error| (Layer::Identity, "drop the capabilities", error))?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(|error| (Layer::Identity, "set no_new_privs", error))?;
    if let Some(ruleset) = ruleset {
        landlock::restrict(ruleset).map_err(|error| (Layer::Landlock, "restrict the process", error))?;
    }
    seccomp::install().map_err(|error| (Layer::Seccomp, "install the filter", error))
}

/// Limits of a payload.
pub(super) fn limit(nofile: u32, nproc: u32) -> Result<(), Step> {
    let failed = |error| (Layer::Identity, "set the limits", error);
    sys::limit(libc::RLIMIT_NOFILE, nofile.into()).map_err(failed)?;
    // Per user; the container has a user, or a user namespace, of its own.
    sys::limit(libc::RLIMIT_NPROC, nproc.into()).map_err(failed)?;
    sys::limit(libc::RLIMIT_CORE, 0).map_err(failed)?;
    // Not a protection of the container: without /proc/self being writable, all goes on.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    Ok(())
}

/// Makes `fds` the descriptors from 0 on; moves `keep` to the number after them and closes everything else.
pub(super) fn arrange_descriptors(fds: &[OwnedFd], keep: [OwnedFd; 2]) -> io::Result<[OwnedFd; 2]> {
    let first = fds.len() as i32;
    // First out of the way: a source may sit on a number that is another's target.
    let out_of_way = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, first + keep.len() as i32 + 8);
    let sources = fds.iter().map(|fd| out_of_way(std::os::fd::AsFd::as_fd(fd))).collect::<Result<Vec<_>, _>>()?;
    let kept = [&keep[0], &keep[1]].map(|fd| out_of_way(std::os::fd::AsFd::as_fd(fd)));
    for (number, source) in sources.iter().enumerate() {
        // SAFETY: replaces whatever is at that number; the originals are forgotten below, not closed twice.
        if unsafe { libc::dup2(source.as_raw_fd(), number as i32) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let [one, two] = kept;
    let (one, two) = (one?, two?);
    for (offset, fd) in [&one, &two].into_iter().enumerate() {
        // SAFETY: as above.
        if unsafe { libc::dup3(fd.as_raw_fd(), first + offset as i32, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // Everything above is closed at once; the objects that believe to own it must not close it again.
    std::mem::forget((sources, one, two, keep));
    sys::close_from(first as u32 + 2)?;
    use std::os::fd::FromRawFd;
    // SAFETY: these two numbers were just made and nothing else owns them.
    Ok(unsafe { [OwnedFd::from_raw_fd(first), OwnedFd::from_raw_fd(first + 1)] })
}
