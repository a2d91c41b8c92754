//! A prepared sandbox, seen from the node: made, adopted, used once, removed.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use super::{
    cgroup::Cgroup,
    control::{self, Answer, Failure, Layer, Order, Setup},
    host::Shared,
    spec::{SandboxError, SandboxSpec, User},
    watch::processes,
};

/// Longest that a step inside may take; a machine under heavy load included.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the removal waits for the kernel to end a process tree before it says so, and how often it does.
const END_PATIENCE: Duration = Duration::from_secs(10);
const END_ATTEMPTS: u32 = 6;

/// The user inside a user namespace, where there is only one.
const USER_INSIDE: User = User { uid: 1000, gid: 1000 };

/// A sandbox whose process 1 waits for orders.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) slot: u64,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) cgroup: Cgroup,
    orders: Orders,
    user: User,
    inside: Inside,
    /// Dropped, and with it the traffic ended, after the processes.
    plug: super::host::Plug,
}

/// Handles of the sandbox's own objects, each closed when it is of no more use: a node has many containers.
#[derive(Debug)]
pub(super) struct Inside {
    /// Until the sandbox is used.
    pub(super) door: Option<Door>,
    /// Until it is adopted.
    pub(super) scratch: Option<OwnedFd>,
    /// A `/proc` with all its processes; for those that others join.
    pub(super) processes: Option<OwnedFd>,
}

/// What those need who enter by themselves.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) ruleset: OwnedFd,
    pub(super) namespaces: Vec<OwnedFd>,
}

impl Shell {
    /// Makes one. Blocks for some milliseconds; on an error nothing is left.
    pub(super) fn make(shared: &Arc<Shared>) -> Result<Self, SandboxError> {
        let slot = shared.take_slot()?;
        Self::make_in(shared, slot).inspect_err(|_| shared.free_slot(slot))
    }

    fn make_in(shared: &Arc<Shared>, slot: u64) -> Result<Self, SandboxError> {
        let user = if shared.as_root { shared.user(slot) } else { USER_INSIDE };
        let (control, theirs) = control::pair().map_err(SandboxError::step("make the control socket"))?;
        control::set_timeout(control.as_fd(), PATIENCE).map_err(SandboxError::step("bound the waiting"))?;
        let setup = Setup {
            user,
            user_namespace: !shared.as_root,
            mount_point: shared.mount_point.clone(),
            read_only: shared.config.read_only.clone(),
            rules: shared.inner_rules(),
            resolv_conf: shared.resolv_conf.clone(),
        };
        let mut first = Command::new(&shared.config.init_program)
            .arg(super::INIT_COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(SandboxError::step("start `whisp sandbox-init`"))?;
        let started = control::send(control.as_fd(), &setup, &[])
            .map_err(SandboxError::step("send the set-up"))
            .and_then(|()| expect(&control));
        // It has forked process 1 or failed; either way it ends by itself.
        let ended = first.wait().map_err(SandboxError::step("wait for `whisp sandbox-init`"));
        let (answer, mut fds) = started?;
        ended?;
        let (Answer::Started { pid }, Some(pidfd)) = (answer, fds.pop()) else {
            return Err(SandboxError::step("hear of process 1")(io::ErrorKind::InvalidData.into()));
        };
        let unfinished = Unfinished { pidfd: Some(pidfd) };
        let cgroup =
            shared.cgroups.create(&format!("s{slot}")).map_err(SandboxError::step("make the control groups"))?;
        let rest = cgroup.add(pid).map_err(SandboxError::step("enter the control groups")).and_then(|()| {
            let (plug, address) = shared.plug(slot, pid)?;
            control::send(control.as_fd(), &Order::Network(address), &[])
                .map_err(SandboxError::step("send the network"))?;
            let (answer, fds) = expect(&control)?;
            Ok((plug, answer, fds))
        });
        let (plug, mut fds) = match rest {
            Ok((plug, Answer::Ready, fds)) if fds.len() > 3 => (plug, fds),
            other => {
                drop(unfinished);
                cgroup.remove();
                return Err(other
                    .err()
                    .unwrap_or_else(|| SandboxError::step("hear of readiness")(io::ErrorKind::InvalidData.into())));
            }
        };
        let namespaces = fds.split_off(3);
        let (Some(processes), Some(scratch), Some(ruleset)) = (fds.pop(), fds.pop(), fds.pop()) else {
            return Err(SandboxError::step("hear of readiness")(io::ErrorKind::InvalidData.into()));
        };
        let pidfd = unfinished.finish();
        let orders = Orders { control: Arc::new(control) };
        Ok(Self {
            slot,
            pid,
            pidfd,
            cgroup,
            orders,
            user,
            inside: Inside {
                door: Some(Door { ruleset, namespaces }),
                scratch: Some(scratch),
                processes: Some(processes),
            },
            plug,
        })
    }

    /// Gives the sandbox to a container: its name, its limits.
    pub(super) fn adopt(&self, spec: &SandboxSpec, scratch_bytes: u64) -> Result<(), SandboxError> {
        self.cgroup.limit(spec.memory.bytes(), spec.cpu_shares).map_err(SandboxError::step("limit memory"))?;
        self.orders.send(&Order::Adopt { host_name: spec.name.replace('_', "-"), scratch_bytes }, &[])
    }

    /// The way to give it orders, also from another thread.
    pub(super) fn orders(&self) -> Orders {
        self.orders.clone()
    }

    pub(super) fn user(&self) -> User {
        self.user
    }

    pub(super) fn inside(&mut self) -> &mut Inside {
        &mut self.inside
    }

    /// How many processes it has, process 1 included; `None` once nobody wants to know.
    pub(super) fn processes(&self) -> Option<usize> {
        self.inside.processes.as_ref().map(|proc| processes(proc).len())
    }

    /// Whether process 1 lives.
    pub(super) fn is_alive(&self) -> bool {
        !ended_within(&self.pidfd, Duration::ZERO)
    }

    /// Sends the signal that ends everything inside.
    pub(super) fn kill(&self) {
        // An error says that it is dead already.
        let _ = pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
        // A frozen process dies when it thaws, and not a moment later than the signal that waits for it.
        self.cgroup.thaw_soon();
    }

    /// Closes the control socket and removes nothing; see `Sandbox::abandon`.
    pub(super) fn abandon(self) {
        let Self { orders, .. } = self;
        drop(orders);
    }

    /// Ends everything inside and takes all of it away. Blocks.
    pub(super) fn remove(self, shared: &Shared) {
        self.kill();
        for attempt in 1.. {
            if ended_within(&self.pidfd, END_PATIENCE) {
                break;
            }
            tracing::warn!(slot = self.slot, pid = self.pid, attempt, "a killed container does not end");
            if attempt == END_ATTEMPTS {
                // Its slot is lost until the node starts again, which removes what is left of it.
                tracing::error!(slot = self.slot, pid = self.pid, "a killed container is given up");
                shared.unplug(self.slot);
                return;
            }
            self.kill();
        }
        reap(&self.pidfd);
        shared.unplug(self.slot);
        drop(self.plug);
        self.cgroup.remove();
        shared.free_slot(self.slot);
    }
}

/// The node's end of the control socket. One order at a time: the sandbox's state sees to that.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    control: Arc<OwnedFd>,
}

impl Orders {
    /// Sends an order and waits until it is obeyed. Blocks.
    pub(super) fn send(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        match control::send(self.control.as_fd(), order, fds) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(SandboxError::Gone),
            other => other.map_err(SandboxError::step("send an order"))?,
        }
        match expect(&self.control)? {
            (Answer::Done, _) => Ok(()),
            _ => Err(SandboxError::step("read an answer")(io::ErrorKind::InvalidData.into())),
        }
    }
}

/// Kills and reaps process 1 if the making ends early.
struct Unfinished {
    pidfd: Option<OwnedFd>,
}

impl Unfinished {
    fn finish(mut self) -> OwnedFd {
        // Set at construction and taken only here, which consumes it.
        self.pidfd.take().unwrap_or_else(|| unreachable!("a pidfd is taken once"))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            if ended_within(pidfd, END_PATIENCE) {
                reap(pidfd);
            }
        }
    }
}

/// A pidfd is readable when its process has ended.
pub(super) fn ended_within(pidfd: &OwnedFd, patience: Duration) -> bool {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Takes the zombie away, if it is ours.
pub(super) fn reap(pidfd: &OwnedFd) {
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// A pidfd of a process that is certainly alive or a zombie of ours.
pub(super) fn pidfd_of(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Receives an answer; a failure becomes the error that names its layer.
fn expect(control: &OwnedFd) -> Result<(Answer, Vec<OwnedFd>), SandboxError> {
    match control::receive::<Answer>(control.as_fd()) {
        Ok(Some((Answer::Failed(failure), _))) => Err(explain(failure)),
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(SandboxError::Gone),
        Err(source) => Err(SandboxError::step("wait for an answer")(source)),
    }
}

fn explain(failure: Failure) -> SandboxError {
    let Failure { layer, step, why } = failure;
    let (layer, remedy) = match layer {
        Layer::UserNamespace => (
            "user namespace",
            "allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns) or run as root",
        ),
        Layer::Namespaces => {
            ("namespaces", "run on Linux 5.13 or later, outside of a container that forbids namespaces")
        }
        Layer::Mounts => ("mounts", "run on Linux 5.13 or later with a /proc that nothing is mounted over"),
        Layer::Network => ("network", "allow the user to set up interfaces in a new network namespace"),
        Layer::Landlock => ("Landlock", "run on Linux 5.13 or later with `landlock` in the kernel parameter lsm="),
        Layer::Seccomp => ("seccomp", "run on a kernel with CONFIG_SECCOMP_FILTER"),
        Layer::Identity => {
            ("privileges", "run as root with CAP_SETUID, CAP_SETGID and CAP_SYS_ADMIN, or as another user")
        }
        Layer::Exec => {
            return SandboxError::Step { step, source: io::Error::other(why) };
        }
    };
    SandboxError::Missing { layer, why: format!("{step}: {why}"), remedy }
}
