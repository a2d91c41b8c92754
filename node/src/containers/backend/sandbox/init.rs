//! `whisp sandbox-init`: the process that becomes process 1 of a sandbox, from its start to its end.
//!
//! Started by the node with the control socket as descriptor 0, nothing else open and an empty environment.

use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    confine,
    control::{self, Address, Answer, Failure, Layer, Order, Setup},
    landlock, netlink, root,
    spec::{User, WORK_DIR},
    sys,
};

/// The namespaces of a sandbox, in the order in which others must enter them: the user namespace gives the right to the rest, and
/// the mount namespace comes last because it changes what paths mean.
const NAMESPACES: [&str; 6] = ["user", "net", "uts", "ipc", "pid", "mnt"];

/// Exit code where process 1 could not tell the reason.
const SILENT: u8 = 125;

/// The whole life of `whisp sandbox-init`. `main` calls it before it starts a thread.
pub fn init_main() -> ExitCode {
    // The control socket is descriptor 0, whatever else a careless parent left open.
    if sys::close_from(3).is_err() {
        return ExitCode::from(SILENT);
    }
    // SAFETY: descriptor 0 is the control socket by contract, and nothing else in this process uses it.
    let control = unsafe { OwnedFd::from_raw_fd(0) };
    match begin(control.as_fd()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // If the node is gone nobody wants to know.
            let _ = control::send(control.as_fd(), &Answer::Failed(failure), &[]);
            ExitCode::from(SILENT)
        }
    }
}

fn failed<E: Into<io::Error>>(layer: Layer, step: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure { layer, step: step.to_owned(), why: error.into().to_string() }
}

/// Enters the namespaces and forks process 1, whose parent is the node.
fn begin(control: BorrowedFd<'_>) -> Result<u8, Failure> {
    let Some((setup, _)) = control::receive::<Setup>(control).map_err(failed(Layer::Namespaces, "read the set-up"))?
    else {
        return Ok(SILENT);
    };
    if setup.user_namespace {
        enter_user_namespace(setup.user)?;
    }
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET)?;
    prepare_network(setup.rules.as_deref()).map_err(failed(Layer::Network, "close the network"))?;
    // Last: the next process to be forked is process 1.
    unshare(libc::CLONE_NEWPID)?;
    match sys::fork(true).map_err(failed(Layer::Namespaces, "fork process 1"))? {
        sys::Fork::Child => live(control, &setup),
        sys::Fork::Parent { child, pidfd } => {
            let fds: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
            control::send(control, &Answer::Started { pid: child }, &fds)
                .map_err(failed(Layer::Namespaces, "tell of process 1"))?;
            Ok(0)
        }
    }
}

fn unshare(flags: i32) -> Result<(), Failure> {
    // SAFETY: takes flags; this process has one thread.
    if unsafe { libc::unshare(flags) } < 0 {
        return Err(failed(Layer::Namespaces, "make the namespaces")(io::Error::last_os_error()));
    }
    Ok(())
}

/// The calling user becomes `user` inside and gets all capabilities over what is made inside.
fn enter_user_namespace(user: User) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: takes flags; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } < 0 {
        return Err(failed(Layer::UserNamespace, "make the user namespace")(io::Error::last_os_error()));
    }
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} {uid} 1", user.uid)),
        ("gid_map", format!("{} {gid} 1", user.gid)),
    ] {
        fs::write(format!("/proc/self/{file}"), line).map_err(failed(Layer::UserNamespace, "map the user"))?;
    }
    Ok(())
}

/// What must hold before the network gets an interface.
fn prepare_network(rules: Option<&str>) -> io::Result<()> {
    // New interfaces have no IPv6, so nothing can leave through it; `::1` stays. Absent if the kernel has no IPv6 at all.
    let file = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    if fs::exists(file)? {
        fs::write(file, "1")?;
    }
    let Some(rules) = rules else { return Ok(()) };
    let mut command = Command::new("iptables-restore");
    command
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: system calls only; this process has one thread.
    unsafe { command.pre_exec(sys::keep_network_administration) };
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it does not read to the end it says why.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("iptables-restore: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Process 1: prepares, obeys orders, then reaps until there is nothing left to do.
fn live(control: BorrowedFd<'_>, setup: &Setup) -> Result<u8, Failure> {
    let namespaces = namespaces(setup.user_namespace).map_err(failed(Layer::Namespaces, "open the namespaces"))?;
    connect_network(control)?;
    let processes = root::enter(setup).map_err(|(step, error)| failed(Layer::Mounts, step)(error))?;
    let ruleset = landlock::ruleset().map_err(failed(Layer::Landlock, "make the rules"))?;
    let scratch = fs::File::open("/tmp").map_err(failed(Layer::Mounts, "open the scratch folder"))?;
    // From here on no other process of this user may look into this one or steer it.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(failed(Layer::Identity, "close process 1 to others"))?;
    let mut fds = vec![ruleset.as_fd(), scratch.as_fd(), processes.as_fd()];
    fds.extend(namespaces.iter().map(AsFd::as_fd));
    control::send(control, &Answer::Ready, &fds).map_err(failed(Layer::Namespaces, "tell that it is ready"))?;
    drop((scratch, processes, namespaces));
    // A user namespace has just this one user, who cannot become another.
    let user = (!setup.user_namespace).then_some(setup.user);
    let mut payload = None;
    loop {
        let Some((order, fds)) =
            control::receive::<Order>(control).map_err(failed(Layer::Namespaces, "read an order"))?
        else {
            return Ok(SILENT);
        };
        let done = match order {
            Order::Network(_) | Order::Stop(_) => {
                Err(failed(Layer::Network, "obey an order out of turn")(io::Error::from(io::ErrorKind::InvalidInput)))
            }
            Order::Adopt { host_name, scratch_bytes } => adopt(&host_name, scratch_bytes).map(|()| false),
            Order::Exec { argv, env, nproc, nofile } => {
                let exec = Exec { argv: &argv, env: &env, nproc, nofile, owner: setup.user };
                start(&exec, fds, user, &ruleset).map(|pid| {
                    payload = Some(pid);
                    true
                })
            }
            Order::AwaitJoin => Ok(true),
        };
        let leave = match done {
            Ok(leave) => leave,
            Err(failure) => {
                let _ = control::send(control, &Answer::Failed(failure), &[]);
                return Ok(SILENT);
            }
        };
        if leave {
            // Signals first: the filter of the next line has no reason to allow more than payloads need.
            let signals = sys::child_signals().map_err(failed(Layer::Identity, "watch children"))?;
            // No Landlock here: its rules end signals at the border of a domain, and this process must be able to stop the others.
            confine::give_up_privileges(None, None).map_err(|(layer, step, error)| failed(layer, step)(error))?;
            drop(ruleset);
            control::send(control, &Answer::Done, &[]).map_err(failed(Layer::Namespaces, "answer"))?;
            return Ok(reap(control, signals.as_fd(), payload));
        }
        control::send(control, &Answer::Done, &[]).map_err(failed(Layer::Namespaces, "answer"))?;
    }
}

fn namespaces(with_user: bool) -> io::Result<Vec<OwnedFd>> {
    NAMESPACES
        .iter()
        .filter(|name| with_user || **name != "user")
        .map(|name| Ok(fs::File::open(format!("/proc/self/ns/{name}"))?.into()))
        .collect()
}

/// Loopback, and what the node has plugged in.
fn connect_network(control: BorrowedFd<'_>) -> Result<(), Failure> {
    let error = |error: io::Error| failed(Layer::Network, "set up the network inside")(error);
    let mut socket = netlink::Netlink::open().map_err(error)?;
    socket.link_up("lo").map_err(error)?;
    match control::receive::<Order>(control).map_err(error)? {
        Some((Order::Network(None), _)) => Ok(()),
        Some((Order::Network(Some(Address { own, gateway })), _)) => {
            socket.link_up("eth0").map_err(error)?;
            socket.add_address("eth0", own, 32).map_err(error)?;
            socket.add_route(gateway, 32, "eth0", None).map_err(error)?;
            socket.add_route(Ipv4Addr::UNSPECIFIED, 0, "eth0", Some(gateway)).map_err(error)
        }
        Some(_) => Err(error(io::ErrorKind::InvalidInput.into())),
        None => Err(error(io::ErrorKind::BrokenPipe.into())),
    }
}

fn adopt(host_name: &str, scratch_bytes: u64) -> Result<(), Failure> {
    let name = &host_name.as_bytes()[..host_name.len().min(63)];
    rustix::system::sethostname(name).map_err(failed(Layer::Namespaces, "name the host"))?;
    root::resize_scratch(scratch_bytes).map_err(failed(Layer::Mounts, "bound the scratch folders"))
}

struct Exec<'a> {
    argv: &'a [String],
    env: &'a [(String, String)],
    nproc: u32,
    nofile: u32,
    owner: User,
}

/// Forks and executes the payload; returns its process id when the new program runs.
fn start(exec: &Exec<'_>, fds: Vec<OwnedFd>, user: Option<User>, ruleset: &OwnedFd) -> Result<i32, Failure> {
    let invalid = |what: &str| failed(Layer::Exec, what)(io::Error::from(io::ErrorKind::InvalidInput));
    if fds.len() != 4 {
        return Err(invalid("take four descriptors"));
    }
    if exec.argv.is_empty() {
        return Err(invalid("take a program"));
    }
    let text = |text: String| CString::new(text).map_err(failed(Layer::Exec, "take arguments without zero bytes"));
    let argv = exec.argv.iter().map(|word| text(word.clone())).collect::<Result<Vec<_>, _>>()?;
    let env = exec.env.iter().map(|(name, value)| text(format!("{name}={value}"))).collect::<Result<Vec<_>, _>>()?;
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed(Layer::Exec, "make a pipe"))?;
    match sys::fork(false).map_err(failed(Layer::Exec, "fork the payload"))? {
        sys::Fork::Child => {
            drop(reader);
            let failure = execute(exec, &argv, &env, fds, user, ruleset, writer);
            // Could not even tell: the exit code has to do.
            drop(failure);
            // SAFETY: leaves without running destructors of the parent's copies.
            unsafe { libc::_exit(SILENT.into()) }
        }
        sys::Fork::Parent { child, .. } => {
            drop((writer, fds));
            let mut told = String::new();
            io::Read::read_to_string(&mut fs::File::from(reader), &mut told)
                .map_err(failed(Layer::Exec, "hear of the payload"))?;
            if told.is_empty() {
                return Ok(child);
            }
            let failure =
                serde_json::from_str(&told).map_err(failed::<serde_json::Error>(Layer::Exec, "hear of the payload"))?;
            Err(failure)
        }
    }
}

/// In the child: everything up to `execve`, which does not return. Failures go through the pipe.
fn execute(
    exec: &Exec<'_>,
    argv: &[CString],
    env: &[CString],
    fds: Vec<OwnedFd>,
    user: Option<User>,
    ruleset: &OwnedFd,
    writer: OwnedFd,
) -> io::Result<()> {
    let ruleset = ruleset.try_clone()?;
    own_pipes(&fds, exec.owner, user.is_some());
    let [ruleset, writer] = confine::arrange_descriptors(&fds, [ruleset, writer])?;
    // Their numbers belong to the payload now.
    fds.into_iter().for_each(|fd| {
        let _ = std::os::fd::IntoRawFd::into_raw_fd(fd);
    });
    let prepared = (|| {
        rustix::process::setsid().map_err(|error| (Layer::Exec, "start a session", error.into()))?;
        sys::reset_signals();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        confine::limit(exec.nofile, exec.nproc)?;
        // Before the user changes there may be no right to look, after it no root: the folder is the container's, so afterwards.
        confine::give_up_privileges(user, Some(ruleset.as_fd()))?;
        std::env::set_current_dir(WORK_DIR).map_err(|error| (Layer::Exec, "enter the work folder", error))
    })();
    let failure = match prepared {
        Ok(()) => {
            let pointers = |texts: &[CString]| {
                texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
            };
            let (arguments, environment) = (pointers(argv), pointers(env));
            // SAFETY: both arrays end with null and point to texts that live until the process is replaced.
            unsafe { libc::execve(argv[0].as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
            failed(Layer::Exec, &format!("execute `{}`", exec.argv[0]))(io::Error::last_os_error())
        }
        Err((layer, step, error)) => failed(layer, step)(error),
    };
    fs::File::from(writer).write_all(&serde_json::to_vec(&failure)?)
}

/// Pipes made by root become the container's, so that `/dev/stdout` can be opened by name.
fn own_pipes(fds: &[OwnedFd], owner: User, needed: bool) {
    if !needed {
        return;
    }
    for fd in &fds[..3] {
        if rustix::fs::fstat(fd)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo)
        {
            // A convenience: programs that write to their descriptors do not notice.
            // SAFETY: a call without pointers.
            let _ = unsafe { libc::fchown(fd.as_raw_fd(), owner.uid, owner.gid) };
        }
    }
}

/// Reaps children, stops and continues everything at the node's word, until the payload is dead or the node is gone. Returns the payload's
/// exit code.
///
/// Without a payload only the node ends it: a process that joined is the child of a process outside.
fn reap(control: BorrowedFd<'_>, signals: BorrowedFd<'_>, payload: Option<i32>) -> u8 {
    loop {
        loop {
            let mut status = 0;
            // SAFETY: `status` is valid for writing.
            let child = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if child <= 0 {
                break;
            }
            if payload == Some(child) {
                let code =
                    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
                return u8::try_from(code).unwrap_or(SILENT);
            }
        }
        let mut events =
            [PollFd::from_borrowed_fd(control, PollFlags::IN), PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return SILENT,
        }
        if !events[0].revents().is_empty() && !obey(control) {
            return SILENT;
        }
        // Signals that came together are one; `waitpid` above asks for all.
        if !events[1].revents().is_empty() {
            let _ = rustix::io::read(signals, &mut [0_u8; 128]);
        }
    }
}

/// The orders that are left once all privileges are gone. `false`: the node is gone, or not itself.
fn obey(control: BorrowedFd<'_>) -> bool {
    let Ok(Some((Order::Stop(stop), _))) = control::receive::<Order>(control) else { return false };
    // SAFETY: a call without pointers. All processes of the namespace but this one, in one sweep that none can escape by forking.
    let sent = unsafe { libc::kill(-1, if stop { libc::SIGSTOP } else { libc::SIGCONT }) };
    let error = io::Error::last_os_error();
    // Nobody to stop is no failure.
    let answer = if sent == 0 || error.raw_os_error() == Some(libc::ESRCH) {
        Answer::Done
    } else {
        Answer::Failed(failed(Layer::Identity, "stop the processes")(error))
    };
    control::send(control, &answer, &[]).is_ok()
}
