//! The node's side as a whole: what is made once at start, the prepared sandboxes, and the end of it all.

use std::{
    collections::HashSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::task::TaskTracker;

use super::{
    cgroup::Cgroups,
    control::Address,
    handle::Sandbox,
    network::{self, Network},
    pasta::{Pasta, PastaProcess},
    plain::Plain,
    shell::Shell,
    spec::{SandboxConfig, SandboxError, SandboxSpec, User, visible_path},
    watch::Watch,
};

/// Uids of containers: the part of the 32 bits that systemd's conventions leave to nobody, 65,536 for each node.
const FIRST_UID: u32 = 0x7000_0000;
const UIDS: u64 = 65_536;

/// Sandboxes in user namespaces are bounded by memory, not by names.
const UNPRIVILEGED_SLOTS: u64 = 65_536;

/// After a sandbox could not be prepared, the next attempt off the request path.
const RETRY: Duration = Duration::from_secs(1);

/// Longest that [`SandboxHost::shutdown`] waits for sandboxes that are being removed.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// Sandboxes of one node. Dropping it without [`SandboxHost::shutdown`] kills its containers but leaves rules for the next start.
#[derive(Debug)]
pub struct SandboxHost {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What sandboxes and the host have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SandboxConfig,
    pub(super) as_root: bool,
    pub(super) mount_point: PathBuf,
    pub(super) resolv_conf: String,
    pub(super) cgroups: Cgroups,
    pub(super) watch: Arc<Watch>,
    /// Removals under way, so that a shutdown can wait for them.
    pub(super) removals: TaskTracker,
    pub(super) runtime: Handle,
    network: Connection,
    first_uid: u32,
    slots: Mutex<Slots>,
    ready: Mutex<Vec<Shell>>,
    wanted: Notify,
    stopping: AtomicBool,
}

/// How containers reach the world.
#[derive(Debug)]
enum Connection {
    Veth(Network),
    Pasta(Pasta),
    /// Loopback only, or the host's own without a sandbox.
    None,
}

/// One sandbox's part of the connection.
#[derive(Debug)]
#[allow(dead_code, reason = "held for its Drop")]
pub(super) enum Plug {
    Pasta(PastaProcess),
    None,
}

#[derive(Debug)]
struct Slots {
    taken: HashSet<u64>,
    next: u64,
    count: u64,
}

impl SandboxHost {
    /// Sets up everything that is made once, tries every layer with a sandbox, and starts to keep some ready.
    ///
    /// # Errors
    /// [`SandboxError::Missing`] names what this machine or user lacks.
    pub async fn start(config: SandboxConfig) -> Result<Arc<Self>, SandboxError> {
        let runtime = Handle::current();
        let shared = spawn_blocking(move || Shared::set_up(config, runtime)).await.map_err(panicked)??;
        let shared = Arc::new(shared);
        let mut tasks = Vec::new();
        if !shared.cgroups.limits_memory() {
            tasks.push(tokio::spawn(Arc::clone(&shared.watch).run()));
        }
        if !shared.config.unsafe_no_sandbox {
            let probe = Arc::clone(&shared);
            let shell = spawn_blocking(move || Shell::make(&probe)).await.map_err(panicked)?;
            match shell {
                Ok(shell) => shared.ready.lock().push(shell),
                Err(error) => {
                    tasks.iter().for_each(JoinHandle::abort);
                    let _ = spawn_blocking(move || shared.tear_down()).await;
                    return Err(error);
                }
            }
            tasks.push(tokio::spawn(refill(Arc::clone(&shared))));
        }
        Ok(Arc::new(Self { shared, tasks: Mutex::new(tasks) }))
    }

    /// What containers of this node lack, in words for `whisp status`.
    pub fn warnings(&self) -> Vec<String> {
        let shared = &self.shared;
        let mut warnings = Vec::new();
        if shared.config.unsafe_no_sandbox {
            warnings.push(
                "no sandbox: actions can read the node's data and harm this machine (--unsafe-no-sandbox)".to_owned(),
            );
        }
        if !shared.cgroups.limits_memory() {
            warnings
                .push("no writable memory control group: the memory of containers is watched, not limited".to_owned());
        }
        if !shared.config.unsafe_no_sandbox && matches!(shared.network, Connection::None) {
            warnings.push(
                "containers have no network: install `pasta` (Debian: passt) and allow /dev/net/tun, or run as root"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Where the node must listen with its API, and nothing else, for its containers; beside its own addresses. `None`: nowhere else.
    pub fn gateway(&self) -> Option<SocketAddr> {
        match &self.shared.network {
            Connection::Veth(network) => Some((network.gateway(), self.shared.config.api_port).into()),
            // Reached through the host's loopback.
            Connection::Pasta(_) | Connection::None => None,
        }
    }

    /// The address at which containers reach the node's API, for `__OW_API_HOST`. `None`: not at all.
    pub fn api_host(&self) -> Option<SocketAddr> {
        let port = self.shared.config.api_port;
        match &self.shared.network {
            Connection::Veth(_) => self.gateway(),
            Connection::Pasta(_) => Some((std::net::Ipv4Addr::LOCALHOST, port).into()),
            Connection::None if self.shared.config.unsafe_no_sandbox => {
                Some((std::net::Ipv4Addr::LOCALHOST, port).into())
            }
            Connection::None => None,
        }
    }

    /// The path under which payloads see a path of the host; without a sandbox they see the same.
    pub fn visible(&self, host: &Path) -> PathBuf {
        if self.shared.config.unsafe_no_sandbox {
            host.to_owned()
        } else {
            visible_path(&self.shared.config.read_only, host)
        }
    }

    /// Takes a prepared sandbox, or makes one, and gives it to a container.
    ///
    /// # Errors
    /// If a step fails; nothing is left behind.
    pub async fn create(&self, spec: SandboxSpec) -> Result<Sandbox, SandboxError> {
        let shared = Arc::clone(&self.shared);
        if shared.stopping.load(Ordering::Acquire) {
            return Err(SandboxError::Gone);
        }
        if shared.config.unsafe_no_sandbox {
            let plain = spawn_blocking(move || Plain::make(&shared, &spec)).await.map_err(panicked)??;
            return Ok(Sandbox::plain(Arc::clone(&self.shared), plain));
        }
        let ready = self.take_ready();
        self.shared.wanted.notify_one();
        // A closure that is not cancelled with us: whatever it makes ends up in a `Sandbox`, whose drop removes it.
        spawn_blocking(move || {
            let shell = match ready {
                Some(shell) => shell,
                None => Shell::make(&shared)?,
            };
            Sandbox::adopting(shared, shell, &spec).adopt(&spec)
        })
        .await
        .map_err(panicked)?
    }

    /// Ends the upkeep, removes prepared sandboxes, waits for removals, then takes down what was made at start.
    pub async fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        let shared = Arc::clone(&self.shared);
        for shell in std::mem::take(&mut *shared.ready.lock()) {
            shared.discard(shell);
        }
        shared.removals.close();
        if tokio::time::timeout(SHUTDOWN_PATIENCE, shared.removals.wait()).await.is_err() {
            tracing::error!("some containers are still being removed; the next start removes what they leave");
        }
        let _ = spawn_blocking(move || shared.tear_down()).await;
    }

    /// A prepared one that lives: an idle one may have fallen to the machine's lack of memory.
    fn take_ready(&self) -> Option<Shell> {
        loop {
            let shell = self.shared.ready.lock().pop()?;
            if shell.is_alive() {
                return Some(shell);
            }
            self.shared.discard(shell);
        }
    }
}

impl Drop for SandboxHost {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.tasks.lock().iter().for_each(JoinHandle::abort);
        for shell in std::mem::take(&mut *self.shared.ready.lock()) {
            self.shared.discard(shell);
        }
    }
}

/// Keeps `config.ready` sandboxes prepared.
async fn refill(shared: Arc<Shared>) {
    loop {
        while shared.ready.lock().len() < shared.config.ready {
            let making = Arc::clone(&shared);
            let made = spawn_blocking(move || {
                // Not lost if this task is aborted meanwhile: the shell goes to the pool, or away.
                Shell::make(&making).map(|shell| {
                    if making.stopping.load(Ordering::Acquire) {
                        making.discard(shell);
                    } else {
                        making.ready.lock().push(shell);
                    }
                })
            });
            match made.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a sandbox cannot be prepared");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::error!(%error, "preparing a sandbox panicked");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        shared.wanted.notified().await;
    }
}

fn panicked(error: tokio::task::JoinError) -> SandboxError {
    SandboxError::step("run a blocking step")(io::Error::other(error))
}

impl Shared {
    fn set_up(config: SandboxConfig, runtime: Handle) -> Result<Self, SandboxError> {
        let failed = |step: &str| SandboxError::step(format!("{step} {}", config.state_dir.display()));
        fs::create_dir_all(&config.state_dir).map_err(failed("make the folder"))?;
        let state_dir = config.state_dir.canonicalize().map_err(failed("find the folder"))?;
        let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
        let seed = u64::from_be_bytes([0, 0, 0, 0, digest[0], digest[1], digest[2], digest[3]]);
        // Interfaces have 15 characters: these 7, a `v` and a slot.
        let name = format!("w{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2]);
        let as_root = rustix::process::geteuid().is_root();
        let mount_point = state_dir.join("root");
        Plain::remove_leftovers(&state_dir);
        fs::create_dir_all(&mount_point).map_err(failed("make a folder in"))?;
        Cgroups::remove_leftovers(&format!("whisp-{name}"));
        let cgroups = Cgroups::find(&format!("whisp-{name}"));
        let (name_servers, resolv_conf) = network::name_servers();
        let network = if config.unsafe_no_sandbox {
            Connection::None
        } else if as_root {
            Connection::Veth(Network::start(&name, seed, &config, &name_servers)?)
        } else {
            Pasta::find(&config, &name_servers).map_or(Connection::None, Connection::Pasta)
        };
        let count = match &network {
            Connection::Veth(network) => network.capacity().min(UIDS),
            _ => UNPRIVILEGED_SLOTS,
        };
        Ok(Self {
            config: SandboxConfig { state_dir, ..config },
            as_root,
            mount_point,
            resolv_conf,
            cgroups,
            watch: Arc::default(),
            removals: TaskTracker::new(),
            runtime,
            network,
            first_uid: FIRST_UID + ((seed % 4096) as u32) * UIDS as u32,
            // A random start would hide reuse of names in tests; what matters is that a slot is not reused soon.
            slots: Mutex::new(Slots { taken: HashSet::new(), next: 0, count }),
            ready: Mutex::default(),
            wanted: Notify::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Takes down what [`Shared::set_up`] made.
    fn tear_down(&self) {
        if let Connection::Veth(network) = &self.network {
            network.stop();
        }
        self.cgroups.remove();
        let _ = fs::remove_dir(&self.mount_point);
        Plain::remove_leftovers(&self.config.state_dir);
    }

    pub(super) fn user(&self, slot: u64) -> User {
        let id = self.first_uid + slot as u32;
        User { uid: id, gid: id }
    }

    /// A number that no living sandbox has and none had for as long as possible: an address of the network must not
    /// get to a successor while packets for its predecessor are under way.
    pub(super) fn take_slot(&self) -> Result<u64, SandboxError> {
        let mut slots = self.slots.lock();
        for _ in 0..slots.count {
            let slot = slots.next;
            slots.next = (slot + 1) % slots.count;
            if slots.taken.insert(slot) {
                return Ok(slot);
            }
        }
        Err(SandboxError::Full("uid or address"))
    }

    pub(super) fn free_slot(&self, slot: u64) {
        self.slots.lock().taken.remove(&slot);
    }

    /// Connects the network of process 1 `pid`; the address is for it to set up inside.
    pub(super) fn plug(&self, slot: u64, pid: i32) -> Result<(Plug, Option<Address>), SandboxError> {
        match &self.network {
            Connection::Veth(network) => {
                let address = network.plug(slot, pid).map_err(SandboxError::step("connect the network"))?;
                Ok((Plug::None, Some(address)))
            }
            Connection::Pasta(pasta) => {
                let process = pasta.connect(pid).map_err(SandboxError::step("connect the network through pasta"))?;
                Ok((Plug::Pasta(process), None))
            }
            Connection::None => Ok((Plug::None, None)),
        }
    }

    /// Rules that stand inside, where the host's cannot.
    pub(super) fn inner_rules(&self) -> Option<String> {
        match &self.network {
            Connection::Pasta(pasta) => Some(pasta.rules()),
            Connection::Veth(_) | Connection::None => None,
        }
    }

    pub(super) fn unplug(&self, slot: u64) {
        if let Connection::Veth(network) = &self.network {
            network.unplug(slot);
        }
    }

    /// Removes a sandbox in the background; it is killed at once.
    pub(super) fn discard(self: &Arc<Self>, shell: Shell) -> JoinHandle<()> {
        shell.kill();
        let shared = Arc::clone(self);
        self.removals.spawn_blocking_on(move || shell.remove(&shared), &self.runtime)
    }

    /// Bound of what a container may store: half of its memory, so that a full disk is an error and not the end.
    pub(super) fn scratch_bytes(&self, spec: &SandboxSpec) -> u64 {
        spec.memory.bytes() / 2
    }
}
