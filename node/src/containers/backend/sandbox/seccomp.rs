//! The system calls that payloads do not get: one BPF program, built by hand because it needs a ceiling.
//!
//! A list of denials alone is open to what it does not know: calls of newer kernels and x86's second numbering (x32). So everything
//! above the newest call reviewed here is answered `ENOSYS`, and a foreign architecture kills the process.

use std::io;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JUMP, BPF_K, BPF_LD, BPF_RET, BPF_STMT, BPF_W, c_long,
    sock_filter,
};

/// Denied with `EPERM`: observing and controlling others, the kernel's own interfaces, mounts, keys, time, namespaces.
const DENIED: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Large surfaces of the kernel.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
    // Keys are not in any namespace.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    STATMOUNT,
    LISTMOUNT,
    // The machine.
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

// The same numbers on all architectures; not in every version of libc.
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = 320;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;

/// The newest call reviewed: `mseal`. Later ones (`setxattrat` and so on, `open_tree_attr`) do not exist for payloads.
const CEILING: c_long = 462;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// Flags of `clone` that make namespaces; without `CLONE_NEWTIME`, whose bit is part of the exit signal there.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Address families that payloads may use. Others reach beyond the network namespace (`AF_VSOCK`) or are surface (`AF_ALG`).
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

// Offsets in `struct seccomp_data`; arguments have 64 bits, of which the low half comes first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const fn errno(code: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | (code as u32)
}

/// The program, in the form in which `seccomp(2)` takes it.
pub(super) fn program() -> Vec<sock_filter> {
    let mut code = Program(Vec::with_capacity(2 * DENIED.len() + 64));
    code.load(ARCH);
    code.unless_equal_return(ARCHITECTURE, libc::SECCOMP_RET_KILL_PROCESS);
    code.load(NUMBER);
    code.if_greater_return(CEILING as u32, errno(libc::ENOSYS));
    // Its flags are in memory, out of a filter's sight; libc falls back to `clone`.
    code.if_equal_return(libc::SYS_clone3 as u32, errno(libc::ENOSYS));
    for number in DENIED {
        code.if_equal_return(*number as u32, errno(libc::EPERM));
    }
    code.for_call(libc::SYS_clone, |code| {
        code.load(argument(0));
        code.and(NEW_NAMESPACES);
        code.if_equal_return(0, ALLOW);
        code.ret(errno(libc::EPERM));
    });
    code.for_call(libc::SYS_personality, |code| {
        code.load(argument(0));
        code.if_equal_return(0, ALLOW);
        code.if_equal_return(u32::MAX, ALLOW); // asks only
        code.ret(errno(libc::EPERM));
    });
    code.for_call(libc::SYS_ioctl, |code| {
        code.load(argument(1));
        code.if_equal_return(libc::TIOCSTI as u32, errno(libc::EPERM));
        code.if_equal_return(libc::TIOCLINUX as u32, errno(libc::EPERM));
        code.ret(ALLOW);
    });
    code.for_call(libc::SYS_socket, |code| {
        code.load(argument(0));
        for family in FAMILIES {
            code.if_equal_return(*family as u32, ALLOW);
        }
        code.unless_equal_return(libc::AF_NETLINK as u32, errno(libc::EAFNOSUPPORT));
        // Name resolution asks the routing family for addresses.
        code.load(argument(2));
        code.if_equal_return(libc::NETLINK_ROUTE as u32, ALLOW);
        code.ret(errno(libc::EAFNOSUPPORT));
    });
    code.for_call(libc::SYS_socketpair, |code| {
        code.load(argument(0));
        code.if_equal_return(libc::AF_UNIX as u32, ALLOW);
        code.ret(errno(libc::EAFNOSUPPORT));
    });
    code.ret(ALLOW);
    code.0
}

/// The program as bytes in the machine's order, for those who install it without this crate.
pub(super) fn program_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in program() {
        bytes.extend_from_slice(&step.code.to_ne_bytes());
        bytes.extend_from_slice(&[step.jt, step.jf]);
        bytes.extend_from_slice(&step.k.to_ne_bytes());
    }
    bytes
}

/// Installs the program for this thread and its descendants. Needs `no_new_privs`.
pub(super) fn install() -> io::Result<()> {
    let mut code = program();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: `program` points to `code`, which lives until the end of the call; the kernel copies it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

struct Program(Vec<sock_filter>);

impl Program {
    fn statement(&mut self, code: u32, k: u32) {
        // SAFETY: fills in a struct of integers.
        self.0.push(unsafe { BPF_STMT(code as u16, k) });
    }

    fn jump(&mut self, code: u32, k: u32, if_true: u8, if_false: u8) {
        // SAFETY: fills in a struct of integers.
        self.0.push(unsafe { BPF_JUMP((BPF_JMP | code | BPF_K) as u16, k, if_true, if_false) });
    }

    fn load(&mut self, offset: u32) {
        self.statement(BPF_LD | BPF_W | BPF_ABS, offset);
    }

    fn and(&mut self, mask: u32) {
        self.statement(BPF_ALU | BPF_AND | BPF_K, mask);
    }

    fn ret(&mut self, action: u32) {
        self.statement(BPF_RET | BPF_K, action);
    }

    fn if_equal_return(&mut self, value: u32, action: u32) {
        self.jump(BPF_JEQ, value, 0, 1);
        self.ret(action);
    }

    fn unless_equal_return(&mut self, value: u32, action: u32) {
        self.jump(BPF_JEQ, value, 1, 0);
        self.ret(action);
    }

    fn if_greater_return(&mut self, value: u32, action: u32) {
        self.jump(BPF_JGT, value, 0, 1);
        self.ret(action);
    }

    /// `body` runs for call `number` and returns on every path: afterwards the number is loaded no more.
    fn for_call(&mut self, number: c_long, body: impl FnOnce(&mut Self)) {
        let mut block = Self(Vec::new());
        body(&mut block);
        self.jump(BPF_JEQ, number as u32, 0, block.0.len() as u8);
        self.0.append(&mut block.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers; interprets the few instructions that it uses.
    fn run(number: i64, arguments: [u64; 3]) -> u32 {
        let mut data = Vec::new();
        data.extend_from_slice(&(number as u32).to_ne_bytes());
        data.extend_from_slice(&ARCHITECTURE.to_ne_bytes());
        data.extend_from_slice(&[0; 8]);
        for argument in arguments {
            data.extend_from_slice(&argument.to_ne_bytes());
        }
        let (code, mut at, mut register) = (program(), 0, 0_u32);
        loop {
            let step = code[at];
            at += 1;
            let jump = |condition: bool| usize::from(if condition { step.jt } else { step.jf });
            match u32::from(step.code) {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    let offset = step.k as usize;
                    register = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                c if c == BPF_ALU | BPF_AND | BPF_K => register &= step.k,
                c if c == BPF_JMP | BPF_JEQ | BPF_K => at += jump(register == step.k),
                c if c == BPF_JMP | BPF_JGT | BPF_K => at += jump(register > step.k),
                c if c == BPF_RET | BPF_K => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn denials_hold_and_ordinary_calls_pass() {
        let nothing = [0; 3];
        for number in DENIED {
            assert_eq!(run(*number, nothing), errno(libc::EPERM), "{number}");
            assert!(*number <= CEILING);
        }
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_epoll_wait,
            libc::SYS_kill,
            libc::SYS_memfd_create,
        ] {
            assert_eq!(run(number, nothing), ALLOW, "{number}");
        }
        assert_eq!(run(libc::SYS_clone3, nothing), errno(libc::ENOSYS));
        assert_eq!(run(CEILING + 1, nothing), errno(libc::ENOSYS));
        assert_eq!(run(0x4000_0000 | libc::SYS_read, nothing), errno(libc::ENOSYS), "x32");
    }

    #[test]
    fn arguments_decide_where_a_call_has_two_faces() {
        let clone = |flags: i32| run(libc::SYS_clone, [flags as u64, 0, 0]);
        assert_eq!(clone(libc::CLONE_VM | libc::CLONE_THREAD | libc::SIGCHLD), ALLOW);
        assert_eq!(clone(libc::CLONE_NEWUSER | libc::SIGCHLD), errno(libc::EPERM));
        assert_eq!(clone(libc::CLONE_VM | libc::CLONE_NEWNET), errno(libc::EPERM));
        let socket = |family: i32, protocol: i32| run(libc::SYS_socket, [family as u64, 0, protocol as u64]);
        assert_eq!(socket(libc::AF_INET, 0), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_ROUTE), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_NETFILTER), errno(libc::EAFNOSUPPORT));
        assert_eq!(socket(libc::AF_VSOCK, 0), errno(libc::EAFNOSUPPORT));
        assert_eq!(run(libc::SYS_personality, [0xffff_ffff, 0, 0]), ALLOW);
        assert_eq!(run(libc::SYS_personality, [0x0040_0000, 0, 0]), errno(libc::EPERM));
        assert_eq!(run(libc::SYS_ioctl, [0, 0x5412, 0]), errno(libc::EPERM));
        assert_eq!(run(libc::SYS_socketpair, [libc::AF_UNIX as u64, 0, 0]), ALLOW);
    }
}
