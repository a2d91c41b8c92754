//! What the node and the first process of a sandbox say to each other: JSON messages with descriptors over a sequenced-packet socket.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::spec::{ReadOnlyPath, User};

/// Most descriptors in one message; Linux allows 253.
const MAX_FDS: usize = 16;

/// The node's first message: how to prepare.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    /// Whom the payload runs as, inside.
    pub user: User,
    /// Make a user namespace in which `user` is the calling user.
    pub user_namespace: bool,
    /// An empty folder to build the root on.
    pub mount_point: PathBuf,
    pub read_only: Vec<ReadOnlyPath>,
    /// Input of `iptables-restore` for the sandbox's own network, loaded before anything is plugged in.
    pub rules: Option<String>,
    /// Lines of `/etc/resolv.conf`.
    pub resolv_conf: String,
}

/// The node's later messages.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The network is connected from outside. `None`: there is only loopback.
    Network(Option<Address>),
    /// The sandbox has got its container.
    Adopt { host_name: String, scratch_bytes: u64 },
    /// Start this with the four descriptors that come along; then give up all privileges.
    Exec { argv: Vec<String>, env: Vec<(String, String)>, nproc: u32, nofile: u32 },
    /// Others enter by themselves: give up all privileges.
    AwaitJoin,
    /// Stop all processes where they are, or let them go on. After `Exec` or `AwaitJoin`.
    Stop(bool),
}

/// Of a container's end of a veth pair.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Address {
    pub own: Ipv4Addr,
    pub gateway: Ipv4Addr,
}

/// Answers to [`Setup`] (two: `Started`, later `Ready`) and to each [`Order`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The first process exists; its pidfd comes along. The namespaces are there, the mounts are not.
    Started {
        pid: i32,
    },
    /// Prepared. Descriptors: the Landlock ruleset, the scratch folder, a `/proc` that shows all processes, then the namespaces in the order
    /// in which to enter them.
    Ready,
    Done,
    Failed(Failure),
}

/// A step that failed inside. `layer`: what a person would have to provide.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    pub layer: Layer,
    pub step: String,
    pub why: String,
}

/// Layers that are set up inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Layer {
    UserNamespace,
    Namespaces,
    Mounts,
    Network,
    Landlock,
    Seccomp,
    Identity,
    Exec,
}

/// A connected pair; both ends close on exec.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Makes every later [`receive`] on `socket` fail after `timeout`.
pub(super) fn set_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(timeout))?;
    Ok(sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(timeout))?)
}

/// Sends one message whole.
pub(super) fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message. `None`: the other side is gone.
pub(super) fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let length = loop {
        match rustix::net::recv(socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC) {
            Ok((_, length)) => break length,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost in a control message (is the table of open files full?)"));
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_carry_descriptors_and_end_with_the_peer() {
        let (here, there) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(here.as_fd(), &Answer::Started { pid: 7 }, &[file.as_fd()]).unwrap();
        let (answer, fds) = receive::<Answer>(there.as_fd()).unwrap().unwrap();
        assert!(matches!(answer, Answer::Started { pid: 7 }));
        assert_eq!(fds.len(), 1);
        drop(here);
        assert!(receive::<Answer>(there.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_silent_peer_times_out() {
        let (here, _there) = pair().unwrap();
        set_timeout(here.as_fd(), Duration::from_millis(10)).unwrap();
        assert_eq!(receive::<Answer>(here.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
