//! A zygote's child enters a prepared sandbox by itself; from then on it is a container like any other.

use std::{
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use node::containers::backend::sandbox::Sandbox;
use protocol::ByteSize;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, sendmsg,
    socketpair,
};
use serde_json::{Value, json};

use super::{
    escapes::{self, Surroundings},
    exhaustion::EAT,
    support::{PYTHON, Running, World, eventually, in_own_network, pipe, processes_with},
};

const ZYGOTE: &str = include_str!("join.py");

/// One zygote for one child; it lives as long as this.
pub struct Zygote(Child, #[allow(dead_code, reason = "its end ends the zygote")] std::os::fd::OwnedFd);

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `program` in a child of a zygote that joins `sandbox`.
pub async fn join(sandbox: &mut Sandbox, program: &str, arguments: &[&str], env: Value) -> (Zygote, Running) {
    let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let join = sandbox.join().await.unwrap();
    let mut command = Command::new(PYTHON);
    command.args(["-I", "-S", "-c", ZYGOTE]).env_clear().stdin(Stdio::null());
    let fd = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    // SAFETY: one system call between fork and exec.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            if fd == 3 {
                libc::fcntl(3, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd, 3)
            };
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    drop(theirs);
    let (stdout, out) = pipe();
    let (connection, launcher) = UnixStream::pair().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let mut fds = join.borrowed_fds();
    fds.extend([null.as_fd(), out.as_fd(), out.as_fd(), launcher.as_fd()]);
    let order = json!({ "steps": join.steps, "env": env, "program": program, "arguments": arguments }).to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&control, &[IoSlice::new(order.as_bytes())], &mut ancillary, SendFlags::empty()).unwrap();
    let mut answer = [0; 32];
    let (length, _) = recv(&control, &mut answer[..], rustix::net::RecvFlags::empty()).unwrap();
    let pid = std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap();
    sandbox.joined(pid).unwrap();
    (Zygote(child, control), Running { stdout: stdout.into(), connection })
}

#[test]
fn a_joined_child_gets_out_no_better() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let around = Surroundings::make(world.data.path());
        let described = around.described(world.data.path(), json!([]), json!(["127.0.0.1"]), json!(["127.0.0.1"]));
        let mut sandbox = world.create("joins", ByteSize::mib(128)).await;
        let (zygote, running) = join(&mut sandbox, escapes::ESCAPES, &[&described], json!({ "MARKER": "x" })).await;
        let output = running.output().await;
        let results: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        escapes::assert_closed(&results);
        drop(zygote);
        sandbox.destroy().await;
        drop(around);
        world.end().await;
    });
}

#[test]
fn a_joined_child_is_confined_frozen_limited_and_killed() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let mut sandbox = world.create("joins", ByteSize::mib(64)).await;
        let status = "
import os, subprocess
lines = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(*(lines[k].strip() for k in ('CapEff', 'NoNewPrivs', 'Seccomp')), os.getcwd(), os.getpid() != 1, flush=True)
# An orphan that ends is reaped and ends nobody else.
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)
    os._exit(0)
os.wait()
print(sorted(map(int, os.listdir('/proc/self/fd'))), flush=True)
";
        let (zygote, mut running) = join(&mut sandbox, &format!("{status}\n{EAT}"), &[], json!({})).await;
        assert_eq!(running.line().await, "0000000000000000 1 2 /action True");
        assert_eq!(running.line().await, "[0, 1, 2, 3, 4]");
        assert_eq!(running.line().await, "eating");
        sandbox.freeze().await.unwrap();
        sandbox.thaw().await.unwrap();
        eventually("it is killed for its memory", || sandbox.killed_for_memory()).await;
        drop((zygote, running));
        sandbox.destroy().await;

        let marker = format!("{}-joined", world.data.path().display());
        let mut sandbox = world.create("stays", ByteSize::mib(64)).await;
        let (zygote, mut running) = join(
            &mut sandbox,
            "print('in', flush=True)\nimport time\nwhile True: time.sleep(1)",
            &[&marker],
            json!({}),
        )
        .await;
        assert_eq!(running.line().await, "in");
        drop(running);
        tokio::time::timeout(Duration::from_secs(10), sandbox.destroy())
            .await
            .expect("a zygote's child does not hold up the end");
        drop(zygote);
        assert_eq!(processes_with(&marker), Vec::<i32>::new());
        world.end().await;
    });
}
