//! The containers' network as another user than root: `pasta` copies packets between the sandbox and ordinary sockets of this user.
//!
//! Its sockets are the host's, so what containers must not reach is forbidden inside, in the sandbox's own network namespace, whose rules only
//! its owner can change: the payload has no capabilities. The node's API is forwarded from the container's loopback.

use std::{
    io,
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    network::{FORBIDDEN, local_addresses, run},
    spec::{Ipv4Subnet, SandboxConfig},
};

/// How long `pasta` may take to make the interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// `pasta` and the rules for each sandbox.
#[derive(Debug)]
pub(super) struct Pasta {
    api_port: u16,
    denied: Vec<Ipv4Subnet>,
    name_servers: Vec<Ipv4Addr>,
}

/// One sandbox's `pasta`, ended when it is dropped.
#[derive(Debug)]
pub(super) struct PastaProcess(Child);

impl Pasta {
    /// `None` if it cannot work here: the program, `iptables` or the tun device is missing.
    pub(super) fn find(config: &SandboxConfig, name_servers: &[Ipv4Addr]) -> Option<Self> {
        let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let usable = run("pasta", &["--version"], None)
            .map(drop)
            .and(run("iptables", &["--version"], None).map(drop))
            .and(tun.map(drop));
        if let Err(error) = usable {
            tracing::info!(%error, "containers will have no network");
            return None;
        }
        Some(Self {
            api_port: config.api_port,
            denied: config.denied_networks.clone(),
            name_servers: name_servers.to_vec(),
        })
    }

    /// Connects the network namespace of process 1 `pid`, whose rules stand already.
    pub(super) fn connect(&self, pid: i32) -> io::Result<PastaProcess> {
        let api = self.api_port.to_string();
        let mut command = Command::new("pasta");
        command
            .args([
                "--foreground",
                "--quiet",
                "--config-net",
                "--ipv4-only",
                "--no-map-gw",
                "-t",
                "none",
                "-u",
                "none",
                "-U",
                "none",
            ])
            .args(["-T", &api, "--ns-ifname", "eth0"])
            .args(["--userns", &format!("/proc/{pid}/ns/user"), "--netns", &format!("/proc/{pid}/ns/net")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let mut process = PastaProcess(command.spawn()?);
        let deadline = Instant::now() + PATIENCE;
        let ready = || -> io::Result<bool> {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{file}"));
            let routed = read("route")?.lines().any(|line| line.starts_with("eth0\t00000000"));
            // The route comes before the port that is forwarded. State 0A listens; with IPv6 one socket may serve both.
            let listens = |table: &str| {
                table.lines().any(|line| line.contains(&format!(":{:04X} ", self.api_port)) && line.contains(" 0A "))
            };
            Ok(routed && (listens(&read("tcp")?) || read("tcp6").is_ok_and(|table| listens(&table))))
        };
        loop {
            if ready()? {
                return Ok(process);
            }
            if let Some(status) = process.0.try_wait()? {
                return Err(io::Error::other(format!("pasta ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "pasta did not connect"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Rules for the inside. The machine's addresses are those of now: a sandbox is made shortly before it is used.
    pub(super) fn rules(&self) -> String {
        let mut rules = "*filter\n-A OUTPUT -o lo -j ACCEPT\n".to_owned();
        for server in &self.name_servers {
            for protocol in ["udp", "tcp"] {
                rules += &format!("-A OUTPUT -d {server}/32 -p {protocol} -m {protocol} --dport 53 -j ACCEPT\n");
            }
        }
        let own = local_addresses().into_iter().map(|(_, address)| format!("{address}/32"));
        let denied = self.denied.iter().map(Ipv4Subnet::to_string);
        for net in FORBIDDEN.iter().map(|net| (*net).to_owned()).chain(own).chain(denied) {
            rules += &format!("-A OUTPUT -d {net} -j DROP\n");
        }
        rules + "COMMIT\n"
    }
}

impl Drop for PastaProcess {
    fn drop(&mut self) {
        // It ends by itself when the namespace does; this is for those who hold on to that.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
