//! Every attempt to get out succeeds without a sandbox, or it would prove nothing, and fails with one.

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use protocol::ByteSize;
use serde_json::{Value, json};

use super::support::{API_PORT, PYTHON, World, in_own_network, python, tool};

pub const ESCAPES: &str = include_str!("escapes.py");
const SECRET: &str = "the-secret-of-the-node-7d1c";
const SIBLING_PORT: u16 = 4711;

/// Attempts that need root without a sandbox, or that root alone could make.
const WHAT_ROOT_MAY: [&str; 6] =
    ["change_the_system", "change_the_kernel", "interpose_a_device", "hostname", "mount", "metadata_service"];

/// The machine around the node: everything that a container must not find.
pub struct Surroundings {
    neighbour: Child,
    shared_memory: i32,
    run_socket: PathBuf,
    left: Vec<PathBuf>,
    listener: TcpListener,
    abstract_name: String,
    /// What the sibling calls the files that it leaves.
    sibling_file: String,
    _sockets: Vec<UnixListener>,
}

impl Surroundings {
    pub fn make(data: &Path) -> Self {
        let unique = format!("{}-{}", std::process::id(), data.file_name().unwrap().to_string_lossy().replace('.', ""));
        fs::write(data.join("key"), SECRET).unwrap();
        let mut left: Vec<_> =
            ["/tmp", "/dev/shm"].iter().map(|folder| Path::new(folder).join(format!("whisp-left-{unique}"))).collect();
        left.iter().for_each(|path| fs::write(path, SECRET).unwrap());
        // Without a sandbox `/dev/shm` is the machine's.
        let sibling_file = format!("whisp-left-{unique}-sibling");
        left.push(Path::new("/dev/shm").join(&sibling_file));
        // SAFETY: a segment of one page, written once and detached.
        let shared_memory = unsafe {
            let key = 0x5700_0000 | (std::process::id() as i32 & 0xffff);
            let segment = libc::shmget(key, 4096, libc::IPC_CREAT | 0o666);
            assert!(segment >= 0, "{}", std::io::Error::last_os_error());
            let place = libc::shmat(segment, std::ptr::null(), 0);
            std::ptr::copy_nonoverlapping(SECRET.as_ptr(), place.cast(), SECRET.len());
            libc::shmdt(place);
            segment
        };
        let neighbour = Command::new("/bin/sleep")
            .arg("1000")
            .env("NEIGHBOUR", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let run = if rustix::process::geteuid().is_root() { Path::new("/run") } else { Path::new("/tmp") };
        let run_socket = run.join(format!("whisp-left-{unique}.sock"));
        let abstract_name = format!("whisp-test-{unique}");
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let sockets = vec![
            UnixListener::bind(data.join("admin.sock")).unwrap(),
            UnixListener::bind(&run_socket).unwrap(),
            UnixListener::bind_addr(&abstract_address).unwrap(),
        ];
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        Self { neighbour, shared_memory, run_socket, left, listener, abstract_name, sibling_file, _sockets: sockets }
    }

    /// What `escapes.py` wants to know. An attacker would have to guess all this.
    pub fn described(&self, data: &Path, other_files: Value, siblings: Value, host_addresses: Value) -> String {
        // SAFETY: `info` is written by the call.
        let key = unsafe {
            let mut info: libc::shmid_ds = std::mem::zeroed();
            assert_eq!(libc::shmctl(self.shared_memory, libc::IPC_STAT, &raw mut info), 0);
            info.shm_perm.__key
        };
        json!({
            "secret": SECRET,
            "data_file": data.join("key"),
            "other_files": other_files,
            "neighbour": self.neighbour.id(),
            "host_port": self.listener.local_addr().unwrap().port(),
            "host_addresses": host_addresses,
            "sibling_port": SIBLING_PORT,
            "sibling_addresses": siblings,
            "unix_socket": data.join("admin.sock"),
            "abstract_socket": self.abstract_name,
            "run_socket": self.run_socket,
            "shared_memory": key,
        })
        .to_string()
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let _ = self.neighbour.kill();
        let _ = self.neighbour.wait();
        // SAFETY: removes the segment made above.
        unsafe { libc::shmctl(self.shared_memory, libc::IPC_RMID, std::ptr::null_mut()) };
        for path in self.left.iter().chain([&self.run_socket]) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A machine next door, behind the test's host: it has an address of the internet's and that of a metadata service.
pub struct NextDoor(Child);

impl NextDoor {
    pub fn make() -> Self {
        let child = Command::new("unshare").args(["-n", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id().to_string();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        while fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        tool("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        tool("ip", &["address", "add", "203.0.113.2/24", "dev", "uplink"]);
        tool("ip", &["link", "set", "uplink", "up"]);
        tool("ip", &["route", "add", "default", "via", "203.0.113.1"]);
        let serve = "import socket,time\nfor a in (('203.0.113.1', 80), ('169.254.169.254', 80)):\n  s = socket.socket(); s.bind(a); s.listen(64); globals()[a[0]] = s\nprint('up', flush=True)\ntime.sleep(1000)";
        let inside = [
            "ip address add 203.0.113.1/24 dev eth0",
            "ip address add 169.254.169.254/32 dev eth0",
            "ip link set eth0 up",
        ];
        for command in inside {
            tool("nsenter", &[&["-n", "-t", &pid][..], &command.split(' ').collect::<Vec<_>>()].concat());
        }
        let mut server = Command::new("nsenter")
            .args(["-n", "-t", &pid, PYTHON, "-I", "-S", "-c", serve])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0; 2];
        std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut told).unwrap();
        // One process is enough to hold the namespace.
        let mut first = child;
        first.kill().unwrap();
        first.wait().unwrap();
        Self(server)
    }
}

impl Drop for NextDoor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SIBLING: &str = "
import socket, os, sys
for folder in (os.getcwd(), os.environ['TMPDIR'], '/dev/shm'):
    open(folder + '/' + sys.argv[3], 'w').write(sys.argv[1])
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('0.0.0.0', int(sys.argv[2]))); s.listen()
try:
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('203.0.113.1', 1)); print(u.getsockname()[0], flush=True)
except OSError:
    print('127.0.0.1', flush=True)
socket.socket(fileno=3).recv(1)
";

/// Runs all attempts in a container beside a sibling.
pub async fn attempt_all(world: &World, around: &Surroundings) -> Value {
    let mut sibling = world.create("sibling", ByteSize::mib(128)).await;
    let mut running = python(
        &mut sibling,
        SIBLING,
        &[SECRET, &SIBLING_PORT.to_string(), &around.sibling_file],
        &[("SIBLING", SECRET)],
    )
    .await;
    let address = running.line().await;
    assert!(!address.contains("Trace"), "{}", running.output().await);
    let mut host = vec!["127.0.0.1".to_owned(), "203.0.113.2".to_owned()];
    host.extend(world.host.gateway().map(|gateway| gateway.ip().to_string()));
    // Each guess at where the sibling's file could be.
    let names: Vec<_> =
        [sibling.work_dir().to_owned(), world.data.path().join("sandbox/plain/sibling"), "/proc/1/root/action".into()]
            .iter()
            .map(|folder| folder.join(&around.sibling_file))
            .collect();
    let described = around.described(world.data.path(), json!(names), json!([address, "127.0.0.1"]), json!(host));
    let mut sandbox = world.create("attacker", ByteSize::mib(128)).await;
    let output = python(&mut sandbox, ESCAPES, &[&described], &[]).await.output().await;
    drop(running);
    sandbox.destroy().await;
    sibling.destroy().await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Without a sandbox every attempt must succeed, apart from those named.
pub fn assert_open(results: &Value, excepted: &[&str]) {
    for (name, result) in results.as_object().unwrap() {
        assert!(!result[0].is_null() || excepted.contains(&name.as_str()), "{name} proves nothing: {result}");
    }
}

/// With one none may.
pub fn assert_closed(results: &Value) {
    let results = results.as_object().unwrap();
    assert!(results.len() > 20);
    for (name, result) in results {
        assert!(result[0].is_null() && result[1].is_string(), "{name} succeeded: {result}");
    }
}

pub fn without_root() -> &'static [&'static str] {
    &WHAT_ROOT_MAY
}

#[test]
fn what_succeeds_without_a_sandbox_fails_in_one() {
    in_own_network(|| async {
        let next_door = NextDoor::make();
        for unsafe_no_sandbox in [true, false] {
            let world = World::start(|config| config.unsafe_no_sandbox = unsafe_no_sandbox).await;
            let around = Surroundings::make(world.data.path());
            let results = attempt_all(&world, &around).await;
            eprintln!("sandbox: {}\n{}", !unsafe_no_sandbox, serde_json::to_string_pretty(&results).unwrap());
            if unsafe_no_sandbox {
                assert!(world.host.warnings().iter().any(|warning| warning.contains("no sandbox")));
                assert_open(&results, &[]);
            } else {
                assert_closed(&results);
            }
            drop(around);
            world.end().await;
        }
        drop(next_door);
    });
}

pub const CALLS: &str = "
import json, socket, sys
result = {}
for name, address in json.loads(sys.argv[1]).items():
    s = socket.socket(); s.settimeout(2)
    try:
        s.connect(tuple(address)); result[name] = s.getpeername()[0]
    except OSError as error:
        result[name] = None
print(json.dumps(result))
";

#[test]
fn the_api_and_the_internet_are_reached_and_the_rest_of_the_gateway_is_not() {
    in_own_network(|| async {
        let next_door = NextDoor::make();
        let world = World::start(|config| config.denied_networks.push("203.0.113.77/32".parse().unwrap())).await;
        let gateway = world.host.gateway().unwrap();
        assert_eq!(world.host.api_host(), Some(gateway));
        let api = TcpListener::bind(gateway).unwrap();
        let admin = TcpListener::bind((gateway.ip(), API_PORT + 1)).unwrap();
        let mut sandbox = world.create("caller", ByteSize::mib(128)).await;
        let calls = json!({
            "api": [gateway.ip(), API_PORT],
            "admin": [gateway.ip(), API_PORT + 1],
            "internet": ["203.0.113.1", 80],
            "metadata": ["169.254.169.254", 80],
            "api elsewhere": ["203.0.113.2", API_PORT],
        });
        let output = python(&mut sandbox, CALLS, &[&calls.to_string()], &[]).await.output().await;
        let results: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        assert_eq!(results["api"], gateway.ip().to_string());
        assert_eq!(results["internet"], "203.0.113.1");
        for closed in ["admin", "metadata", "api elsewhere"] {
            assert!(results[closed].is_null(), "{closed}: {results}");
        }
        sandbox.destroy().await;
        drop((api, admin, next_door));
        world.end().await;
    });
}
