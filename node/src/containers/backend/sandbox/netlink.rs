//! The six requests to the kernel's routing socket that sandboxes need; `ip` would cost a process for each.

use std::{
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER: usize = 16;

/// A connection to the routing socket of the network namespace in which it was opened.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // Protocol 0 is `NETLINK_ROUTE`.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a pair: `name` here, `eth0` in the network namespace of `peer_pid`; this end is up.
    pub(super) fn add_veth(&mut self, name: &str, peer_pid: i32) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.link(0, libc::IFF_UP as u32);
        request.text(libc::IFLA_IFNAME, name)?;
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.bytes(libc::IFLA_INFO_KIND, b"veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                const VETH_INFO_PEER: u16 = 1;
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.link(0, 0);
                    peer.bytes(libc::IFLA_IFNAME, b"eth0\0");
                    peer.bytes(libc::IFLA_NET_NS_PID, &peer_pid.to_ne_bytes());
                });
            });
        });
        self.ask(request)
    }

    pub(super) fn link_up(&mut self, name: &str) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0);
        request.link(index(name)?, libc::IFF_UP as u32);
        self.ask(request)
    }

    /// Removes an interface, and with it its peer, addresses and routes. One that is gone is no error.
    pub(super) fn delete_link(&mut self, name: &str) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_DELLINK, 0);
        match index(name) {
            Ok(index) => request.link(index, 0),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.ask(request) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    pub(super) fn add_address(&mut self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        // struct ifaddrmsg
        request.0.extend_from_slice(&[libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE]);
        request.0.extend_from_slice(&index(name)?.to_ne_bytes());
        request.bytes(libc::IFA_LOCAL, &address.octets());
        request.bytes(libc::IFA_ADDRESS, &address.octets());
        self.ask(request)
    }

    /// Routes `to/prefix` through `name`, straight or `via` a gateway that is there.
    pub(super) fn add_route(&mut self, to: Ipv4Addr, prefix: u8, name: &str, via: Option<Ipv4Addr>) -> io::Result<()> {
        const RTPROT_STATIC: u8 = 4;
        let scope = if via.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let mut request = Request::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        // struct rtmsg
        request.0.extend_from_slice(&[
            libc::AF_INET as u8,
            prefix,
            0,
            0,
            libc::RT_TABLE_MAIN,
            RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
        ]);
        request.0.extend_from_slice(&0_u32.to_ne_bytes());
        request.bytes(libc::RTA_DST, &to.octets());
        request.bytes(libc::RTA_OIF, &index(name)?.to_ne_bytes());
        if let Some(via) = via {
            request.bytes(libc::RTA_GATEWAY, &via.octets());
        }
        self.ask(request)
    }

    /// Sends a request and waits for the kernel's verdict.
    fn ask(&mut self, request: Request) -> io::Result<()> {
        self.sequence += 1;
        send(self.socket.as_fd(), &request.finish(self.sequence), SendFlags::empty())?;
        let mut answer = [0_u8; 8192];
        loop {
            let (length, _) = recv(self.socket.as_fd(), &mut answer[..], RecvFlags::empty())?;
            let Some(verdict) = verdict(&answer[..length], self.sequence) else { continue };
            return if verdict == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-verdict)) };
        }
    }
}

/// The code in an `NLMSG_ERROR` that answers request `sequence`: 0 or a negative errno.
fn verdict(answer: &[u8], sequence: u32) -> Option<i32> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]))?;
    if i32::from(kind) != libc::NLMSG_ERROR || u32::from_ne_bytes(word(8)?) != sequence {
        return None;
    }
    word(HEADER).map(i32::from_ne_bytes)
}

/// Index of an interface, or `ENODEV`.
fn index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the text ends with a zero byte and lives until the end of the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A message being built; its header is filled in at the end.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    /// `struct ifinfomsg`: interface and the flags to set.
    fn link(&mut self, index: u32, flags: u32) {
        self.0.extend_from_slice(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
        self.0.extend_from_slice(&index.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |inner| inner.0.extend_from_slice(value));
    }

    fn text(&mut self, kind: u16, value: &str) -> io::Result<()> {
        self.bytes(kind, CString::new(value)?.as_bytes_with_nul());
        Ok(())
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        // An attribute's length is that of its content; the next begins at a multiple of four.
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}
