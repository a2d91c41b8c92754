//! The containers' network as root: one veth pair per sandbox, routed, never bridged, so no two containers share a wire.
//!
//! The host's end has no address. The gateway address sits on `lo`, answers on every pair, and is where the node's API listens too. Rules are
//! made once at start and match interfaces by prefix. What comes from a container is judged in `mangle`, before other tools' port
//! forwarding could give it another destination.

use std::{
    fs, io,
    io::Write,
    net::Ipv4Addr,
    process::{Command, Output, Stdio},
};

use super::{
    control::Address,
    netlink::Netlink,
    spec::{Ipv4Subnet, SandboxConfig, SandboxError},
};

/// Never to be reached: this network and loopback, link-local with the usual metadata service, other clouds' metadata services
/// (Alibaba, Azure, Oracle), multicast, reserved and broadcast.
pub(super) const FORBIDDEN: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

const LAYER: &str = "network";
const REMEDY: &str = "install iptables and iproute2, and load the kernel modules for veth, NAT and conntrack";

/// The rules, the gateway and the addresses of one node's containers.
#[derive(Debug)]
pub(super) struct Network {
    /// Begins every name: `w3fa2b1`.
    name: String,
    subnet: Ipv4Subnet,
    gateway: Ipv4Addr,
}

impl Network {
    /// Removes what a crashed node of this name left, then sets everything up.
    pub(super) fn start(
        name: &str,
        seed: u64,
        config: &SandboxConfig,
        name_servers: &[Ipv4Addr],
    ) -> Result<Self, SandboxError> {
        remove(name);
        let subnet = match config.network {
            Some(subnet) if subnet.size() < 4 => {
                return Err(missing(format!("{subnet} has no room: a gateway and a container need a /30 or more")));
            }
            Some(subnet) => subnet,
            None => {
                free_subnet(seed).ok_or_else(|| missing("no free network in 10.128.0.0/9; configure one".to_owned()))?
            }
        };
        let network = Self { name: name.to_owned(), subnet, gateway: subnet.nth(1) };
        network.set_up(config, name_servers).inspect_err(|_| remove(name))?;
        Ok(network)
    }

    fn set_up(&self, config: &SandboxConfig, name_servers: &[Ipv4Addr]) -> Result<(), SandboxError> {
        let failed = |error: io::Error| missing(error.to_string());
        run("ip", &["address", "add", &format!("{}/32", self.gateway), "dev", "lo", "label", &label(&self.name)], None)
            .map_err(failed)?;
        const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
        if fs::read_to_string(FORWARD).map_err(failed)?.trim() != "1" {
            // A host that did not forward must not start to forward for everybody; Docker does the same.
            run("iptables", &["-w", "-P", "FORWARD", "DROP"], None).map_err(failed)?;
            fs::write(FORWARD, "1").map_err(failed)?;
            tracing::info!("forwarding of IPv4 is on now, for containers only: the policy of FORWARD is DROP");
        }
        run("iptables-restore", &["-w", "--noflush"], Some(&self.rules(config, name_servers))).map_err(failed)?;
        Ok(())
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Containers that have room: network, gateway and broadcast addresses are not given out.
    pub(super) fn capacity(&self) -> u64 {
        self.subnet.size() - 3
    }

    /// Plugs sandbox number `slot`, whose process 1 is `pid`.
    pub(super) fn plug(&self, slot: u64, pid: i32) -> io::Result<Address> {
        let (name, own) = (self.interface(slot), self.subnet.nth(slot + 2));
        let mut socket = Netlink::open()?;
        // A predecessor's may still be there if it could not be removed then.
        socket.delete_link(&name)?;
        socket.add_veth(&name, pid)?;
        socket.add_route(own, 32, &name, None).inspect_err(|_| self.unplug(slot))?;
        Ok(Address { own, gateway: self.gateway })
    }

    /// Cuts sandbox number `slot` off.
    pub(super) fn unplug(&self, slot: u64) {
        if let Err(error) = Netlink::open().and_then(|mut socket| socket.delete_link(&self.interface(slot))) {
            tracing::warn!(interface = self.interface(slot), %error, "a container's network interface cannot be removed");
        }
    }

    pub(super) fn stop(&self) {
        remove(&self.name);
    }

    fn interface(&self, slot: u64) -> String {
        format!("{}v{slot}", self.name)
    }

    /// Input of `iptables-restore`. Chains are this node's own; a jump to each stands first.
    fn rules(&self, config: &SandboxConfig, name_servers: &[Ipv4Addr]) -> String {
        let Self { name, subnet, gateway } = self;
        let (ours, port) = (interfaces(name), config.api_port);
        let mut may = format!("-d {gateway}/32 -p tcp -m tcp --dport {port} -j VERDICT\n");
        for server in name_servers {
            for protocol in ["udp", "tcp"] {
                may += &format!("-d {server}/32 -p {protocol} -m {protocol} --dport 53 -j VERDICT\n");
            }
        }
        let allow = |chain: &str, verdict: &str| {
            may.lines()
                .map(|rule| format!("-A {name}-{chain} {}\n", rule.replace("VERDICT", verdict)))
                .collect::<String>()
        };
        let mut forbidden = String::new();
        for net in FORBIDDEN
            .iter()
            .map(|net| (*net).to_owned())
            .chain(config.denied_networks.iter().map(Ipv4Subnet::to_string))
        {
            forbidden += &format!("-A {name}-PRE -d {net} -j DROP\n");
        }
        format!(
            "*mangle\n:{name}-PRE - [0:0]\n:{name}-MID - [0:0]\n\
             -A {name}-PRE ! -s {subnet} -j DROP\n{}-A {name}-PRE -m addrtype --dst-type LOCAL -j DROP\n{forbidden}\
             -A {name}-MID -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP\n\
             -I PREROUTING 1 -i {ours} -j {name}-PRE\n-I FORWARD 1 -o {ours} -j {name}-MID\nCOMMIT\n\
             *nat\n:{name}-POST - [0:0]\n-A {name}-POST -s {subnet} ! -o {ours} -j MASQUERADE\n-I POSTROUTING 1 -j {name}-POST\nCOMMIT\n\
             *filter\n:{name}-IN - [0:0]\n:{name}-FWD - [0:0]\n{}-A {name}-IN -j DROP\n\
             -A {name}-FWD -i {ours} -o {ours} -j DROP\n-A {name}-FWD -j ACCEPT\n\
             -I INPUT 1 -i {ours} -j {name}-IN\n-I FORWARD 1 -i {ours} -j {name}-FWD\n-I FORWARD 1 -o {ours} -j {name}-FWD\nCOMMIT\n",
            allow("PRE", "RETURN"),
            allow("IN", "ACCEPT"),
        )
    }
}

fn missing(why: String) -> SandboxError {
    SandboxError::Missing { layer: LAYER, why, remedy: REMEDY }
}

/// Of the gateway's address.
fn label(name: &str) -> String {
    format!("lo:{name}")
}

/// Matches the host's ends.
fn interfaces(name: &str) -> String {
    format!("{name}v+")
}

/// Removes interfaces, rules and address of the node `name`. What is not there is no error, so nothing is reported.
fn remove(name: &str) {
    let ours = interfaces(name);
    let jumps: [(&str, &str, Vec<&str>, &str); 6] = [
        ("mangle", "PREROUTING", vec!["-i", &ours], "PRE"),
        ("mangle", "FORWARD", vec!["-o", &ours], "MID"),
        ("nat", "POSTROUTING", vec![], "POST"),
        ("filter", "INPUT", vec!["-i", &ours], "IN"),
        ("filter", "FORWARD", vec!["-i", &ours], "FWD"),
        ("filter", "FORWARD", vec!["-o", &ours], "FWD"),
    ];
    for (table, from, condition, to) in &jumps {
        let chain = format!("{name}-{to}");
        let mut arguments = vec!["-w", "-t", table, "-D", from];
        arguments.extend(condition);
        arguments.extend(["-j", &chain]);
        // A node that crashed while it was starting may have left two.
        for _ in 0..4 {
            if run("iptables", &arguments, None).is_err() {
                break;
            }
        }
    }
    for (table, _, _, to) in &jumps {
        let chain = format!("{name}-{to}");
        let _ = run("iptables", &["-w", "-t", table, "-F", &chain], None);
        let _ = run("iptables", &["-w", "-t", table, "-X", &chain], None);
    }
    for (label_of, address) in local_addresses() {
        if label_of == label(name) {
            let _ = run("ip", &["address", "delete", &format!("{address}/32"), "dev", "lo"], None);
        }
    }
    for interface in interface_names().iter().filter(|other| other.starts_with(&format!("{name}v"))) {
        let _ = Netlink::open().and_then(|mut socket| socket.delete_link(interface));
    }
}

/// Runs a tool; its words on stderr are the error.
pub(super) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> io::Result<Output> {
    // Administrators' tools are not on every user's path.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A tool that does not read to the end says why on stderr.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// The first /18 of 10.128.0.0/9, from a place that differs from node to node, that no route or address of this machine touches.
fn free_subnet(seed: u64) -> Option<Ipv4Subnet> {
    let taken = taken_networks();
    let block =
        |number: u64| Ipv4Subnet::containing(Ipv4Addr::from_bits((0x0A80_0000 + (number % 512) * 0x4000) as u32), 18);
    (0..512)
        .filter_map(|step| block(seed.wrapping_add(step)))
        .find(|subnet| !taken.iter().any(|other| other.overlaps(subnet)))
}

fn taken_networks() -> Vec<Ipv4Subnet> {
    let table = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok().map(u32::swap_bytes);
        let (to, mask) = (number(1)?, number(7)?);
        // The default route touches everything and says nothing.
        (mask != 0).then(|| Ipv4Subnet::containing(Ipv4Addr::from_bits(to), mask.count_ones() as u8))?
    });
    routes.chain(local_addresses().into_iter().filter_map(|(_, address)| Ipv4Subnet::containing(address, 32))).collect()
}

/// All interfaces. (`/sys/class/net` would show those of the namespace in which it was mounted.)
fn interface_names() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// IPv4 addresses of this machine with their labels.
pub(super) fn local_addresses() -> Vec<(String, Ipv4Addr)> {
    let mut found = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `getifaddrs` fills in a list that is valid until `freeifaddrs`; an IPv4 entry's address is a `sockaddr_in`, the name ends with zero.
    unsafe {
        if libc::getifaddrs(&raw mut first) != 0 {
            return found;
        }
        let mut entry = first;
        while let Some(interface) = entry.as_ref() {
            if let Some(address) = interface.ifa_addr.as_ref()
                && i32::from(address.sa_family) == libc::AF_INET
            {
                let address = &*interface.ifa_addr.cast::<libc::sockaddr_in>();
                let name = std::ffi::CStr::from_ptr(interface.ifa_name).to_string_lossy().into_owned();
                found.push((name, Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr))));
            }
            entry = interface.ifa_next;
        }
        libc::freeifaddrs(first);
    }
    found
}

/// The machine's name servers that a container could reach, and the file that names them.
///
/// A stub on loopback is the host's alone: then systemd's list of real servers is taken.
pub(super) fn name_servers() -> (Vec<Ipv4Addr>, String) {
    for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let server =
            |line: &str| line.trim().strip_prefix("nameserver").and_then(|rest| rest.trim().parse::<Ipv4Addr>().ok());
        let servers: Vec<_> = text.lines().filter_map(server).filter(|address| !address.is_loopback()).collect();
        if !servers.is_empty() {
            let kept = text.lines().filter(|line| {
                !line.trim_start().starts_with("nameserver") || server(line).is_some_and(|a| !a.is_loopback())
            });
            return (servers, kept.collect::<Vec<_>>().join("\n") + "\n");
        }
    }
    (Vec::new(), "# This machine names no server that containers could reach.\n".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_allow_the_api_and_names_and_forbid_the_host_before_they_accept() {
        let mut config = SandboxConfig::new("/nowhere", 3233);
        config.denied_networks.push("192.168.7.0/24".parse().unwrap());
        let subnet: Ipv4Subnet = "10.200.0.0/18".parse().unwrap();
        let network = Network { name: "wabc".into(), subnet, gateway: subnet.nth(1) };
        let rules = network.rules(&config, &[Ipv4Addr::new(169, 254, 169, 253)]);
        let at = |text: &str| rules.find(text).unwrap_or_else(|| panic!("{text} in\n{rules}"));
        assert!(
            at("-A wabc-PRE -d 10.200.0.1/32 -p tcp -m tcp --dport 3233 -j RETURN")
                < at("-A wabc-PRE -m addrtype --dst-type LOCAL -j DROP")
        );
        assert!(
            at("-A wabc-PRE -d 169.254.169.253/32 -p udp -m udp --dport 53 -j RETURN")
                < at("-A wabc-PRE -d 169.254.0.0/16 -j DROP")
        );
        at("-A wabc-PRE -d 192.168.7.0/24 -j DROP");
        assert!(at("-A wabc-FWD -i wabcv+ -o wabcv+ -j DROP") < at("-A wabc-FWD -j ACCEPT"));
        assert!(!rules.contains("VERDICT"));
    }
}
