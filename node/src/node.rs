//! The whole node, put together in one place: what is started, in which order, and how it ends.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use prometheus_client::registry::Registry;
use protocol::{ByteSize, NodeId, ShardId};
use raft_store::{MetaChange, Observer, ShardChange, Store};
use tokio::runtime::{Builder, Runtime};

use crate::{
    activations::{metrics::ActivationMetrics, query::Activations, retention, store::Records},
    admin::{self, Admin, StatusSource},
    api::{self, AppState, Serving},
    auth::{self, Authenticator, DataKey, Directory, Users},
    clock,
    cluster::{
        raft::{GroupTimers, Groups, StartError},
        session::{self, SessionError},
    },
    config::{BackendChoice, Config},
    containers::{
        PoolConfig, Pools,
        backend::{
            Backend,
            docker::{self, DockerBackend, DockerConfig, DockerMetrics, ImageConfig},
            process::{self, ProcessBackend, ProcessConfig},
            sandbox::SandboxConfig,
            simulated::{SimulatedBackend, SimulatedConfig},
        },
        metrics::PoolMetrics,
        prewarm::StemCell,
    },
    entities::{
        Entities, EntityCaches,
        code::{BlobError, Blobs},
        collect,
        kinds::Kinds,
        manifest::{Manifest, ManifestError},
    },
    invoke::{InvokeConfig, Invoker, Parts},
    metrics,
};

/// The id of the only node of a cluster.
const ONLY_NODE: NodeId = NodeId(1);
/// Containers that are still leased when a node stops are given this long before they are killed.
const LEASES_END: Duration = Duration::from_secs(2);

/// Why a node does not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot create the data directory {path}: {source}")]
    DataDir { path: String, source: std::io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    DataKey(#[from] auth::DataKeyError),
    #[error(transparent)]
    Open(#[from] raft_store::OpenError),
    #[error(transparent)]
    Store(#[from] raft_store::StoreError),
    #[error(transparent)]
    Groups(#[from] StartError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Process(#[from] process::StartError),
    #[error(transparent)]
    Docker(#[from] docker::StartError),
    #[error("the sample user: {0}")]
    Guest(#[from] auth::UserError),
    #[error("a group of the store failed: {0}; once its cause is gone the node can be started again")]
    Failed(String),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl NodeError {
    fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Tells the caches what is applied, before it is answered.
struct Caches {
    entities: Arc<EntityCaches>,
    directory: Arc<Directory>,
}

impl Observer for Caches {
    fn meta_applied(&self, changes: &[MetaChange]) {
        self.directory.meta_applied(changes);
        self.entities.meta_applied(changes);
    }

    /// Work that is taken back is found again when it is assigned.
    fn shard_applied(&self, _shard: ShardId, _changes: &[ShardChange]) {}
}

/// A running node.
pub struct Node {
    config: Arc<Config>,
    api_addr: SocketAddr,
    serving: Serving,
    invoker: Invoker,
    pools: Pools,
    backend: Arc<dyn Backend>,
    groups: Groups,
    servers: Vec<ServerHandle>,
    admin: Admin,
    /// Dropped last: openraft and the proposers, which must never wait behind requests.
    raft: Threads,
    /// Accepted work, and all that containers need.
    work: Threads,
}

impl Node {
    /// Runs a node until SIGINT or SIGTERM, then drains it. One whose disk fails stops by itself: it can write nothing until
    /// it is started again, and must not go on answering as if it could.
    ///
    /// # Errors
    /// [`NodeError`] if it does not start, or its disk failed.
    pub fn run(config: Config) -> Result<(), NodeError> {
        small_pages();
        raise_file_limit();
        actix_web::rt::System::new().block_on(async {
            let node = Self::start(config).await?;
            node.announce();
            let outcome = tokio::select! {
                signal = stop_signal() => signal.map_err(NodeError::io("cannot listen for signals")),
                cause = node.groups.failed() => Err(NodeError::Failed(cause)),
            };
            if let Err(error) = &outcome {
                tracing::error!(%error, "the node cannot go on");
            }
            tracing::info!("stopping: running activations end first; a second signal stops at once");
            let drained = tokio::select! {
                () = node.drain() => true,
                signal = stop_signal() => {
                    signal.map_err(NodeError::io("cannot listen for signals"))?;
                    tracing::warn!("stopped at once");
                    false
                }
            };
            node.stop(drained).await;
            outcome
        })
    }

    /// Starts everything and returns once requests are served. Runs on an actix system.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let started_ms = clock::unix_ms();
        let config = Arc::new(config);
        let manifest = match &config.containers.runtimes_manifest {
            None => Manifest::upstream(),
            Some(path) => Manifest::read(path)?,
        };
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir)
            .map_err(|source| NodeError::DataDir { path: data_dir.display().to_string(), source })?;
        // The address first: whether it is free should be known before anything is changed.
        let listener = listen(config.http.api_addr)?;
        let api_addr = listener.local_addr().map_err(NodeError::io("the API's address"))?;
        let raft = runtime("raft", raft_threads())?;
        let work = runtime("work", 2)?;

        // State, and the caches that hear of all changes from the first entry on.
        let store_dir = data_dir.join("store");
        let key = DataKey::open(data_dir, store_dir.exists())?;
        let options = raft_store::Options { min_free: config.min_free_disk.bytes(), ..raft_store::Options::default() };
        let store = Store::open(&store_dir, options)?;
        let directory = Arc::new(Directory::load(store.meta())?);
        let entity_caches = Arc::new(EntityCaches::default());
        let observer = Arc::new(Caches { entities: Arc::clone(&entity_caches), directory: Arc::clone(&directory) });
        let timers = GroupTimers { meta: config.raft.meta, shards: config.raft.shard };
        let shards = config.raft.shards;
        let groups = on(&raft, Groups::start(ONLY_NODE, store.clone(), shards, timers, observer)).await?;
        // From here on nothing counts that an earlier process of this node still had under way.
        let opened = {
            let groups = groups.clone();
            let name = config.node_name.clone();
            on(&raft, async move { session::open(&groups, &name).await }).await?
        };

        // What runs actions.
        let mut registry = metrics::registry(&config.node_name, started_ms);
        metrics::register_store(&mut registry, store);
        let backend = backend(&config, &manifest, api_addr, &work, &mut registry).await?;
        let kinds = Kinds::new(&manifest, &backend.kinds()).with_executables_only(backend.executables_only());
        warn_of_missing(&manifest, &kinds);
        let usable_kinds = kinds.usable(backend.kinds());
        let blobs = Blobs::open(data_dir.join("blobs"))?;
        let (limits, keyring) = (config.limits.clone(), config.parameter_storage.clone());
        let entities = Entities::new(groups.clone(), entity_caches, kinds, limits, blobs, keyring);
        let api_host = backend.gateway().map_or(api_addr, |gateway| SocketAddr::new(gateway, api_addr.port()));
        let mut env = vec![("__OW_API_HOST".to_owned(), format!("http://{api_host}"))];
        if config.limits.concurrency.max > 1 {
            // OpenWhisk's images refuse a second activation without it.
            env.push(("__OW_ALLOW_CONCURRENT".to_owned(), "true".to_owned()));
        }
        let pool_config = PoolConfig {
            node: ONLY_NODE,
            limits: (&config.containers).into(),
            stem_cells: StemCell::configured(&config.containers, &manifest, entities.kinds()),
            prewarm_interval: config.containers.prewarm_interval,
            env,
        };
        let pool_metrics = PoolMetrics::register(&mut registry);
        let pools = Pools::start(pool_config, Arc::clone(&backend), work.handle().clone(), pool_metrics)
            .map_err(NodeError::io("cannot start the actors' thread"))?;

        // Invocation.
        let records = Records::new(groups.clone(), opened.session);
        metrics::list::RECORDS_DROPPED.register(&mut registry, records.dropped().clone());
        let keys = Arc::new(Authenticator::new(directory, key.clone(), config.auth.failed_logins_per_minute));
        let invoker = Invoker::new(Parts {
            config: InvokeConfig::new(&config.activations),
            groups: groups.clone(),
            session: opened.session,
            entities: entities.clone(),
            keys: keys.clone(),
            pools: pools.clone(),
            records,
            metrics: ActivationMetrics::register(&mut registry),
            background: work.handle().clone(),
        });
        if opened.lost > 0 || !opened.taken_over.is_empty() {
            let (lost, waiting) = (opened.lost, opened.taken_over.len());
            tracing::info!(lost, waiting, "taken over from the process before: recorded as lost, and placed now");
        }
        invoker.resume(opened.taken_over);
        work.spawn(retention::run(groups.clone(), config.activations.retention));
        work.spawn(collect::run(entities.clone()));

        // Administration, then the world.
        let users = Users::new(groups.clone(), key);
        if config.dev {
            auth::create_guest(&users).await?;
        } else {
            auth::remove_guest(&users).await?;
        }
        metrics::register_work(&mut registry, pools.clone(), invoker.clone());
        let registry = Arc::new(registry);
        let status = StatusSource {
            config: Arc::clone(&config),
            api_addr,
            started_ms,
            groups: groups.clone(),
            pools: pools.clone(),
            backend: Arc::clone(&backend),
            kinds: usable_kinds,
        };
        let admin = Admin { users, status: Arc::new(status), registry: Arc::clone(&registry) };
        let admin_server =
            admin::serve(data_dir, admin.clone()).map_err(NodeError::io("cannot make the admin socket"))?;
        let serving = Serving::default();
        let state = AppState {
            entities,
            activations: Activations::new(groups.clone()),
            invoker: invoker.clone(),
            keys,
            registry,
            serving: serving.clone(),
        };
        let mut listeners = vec![listener];
        if api_host.ip() != api_addr.ip() && !api_addr.ip().is_unspecified() {
            // The only door of this machine that containers find open.
            listeners.push(listen(api_host)?);
        }
        let api_server = api::serve(&config.http, state, listeners).map_err(NodeError::io("cannot serve the API"))?;
        let servers = vec![api_server.handle(), admin_server.handle()];
        actix_web::rt::spawn(api_server);
        actix_web::rt::spawn(admin_server);
        serving.ready();
        Ok(Self { config, api_addr, serving, invoker, pools, backend, groups, servers, admin, raft, work })
    }

    /// Where the API listens; the configured port may have been 0.
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// What administration does, for whoever runs the node in its own process.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    pub fn registry(&self) -> &Registry {
        &self.admin.registry
    }

    fn announce(&self) {
        for warning in self.backend.warnings() {
            tracing::warn!("{warning}");
        }
        tracing::info!(
            api = %self.api_addr,
            back_end = self.backend.name(),
            kinds = self.admin.status.kinds.join(" "),
            data_dir = %self.config.data_dir.display(),
            version = env!("CARGO_PKG_VERSION"),
            "ready"
        );
    }

    /// Takes no new invocations and waits until those under way have ended, at most the configured time. What was
    /// accepted and has not started stays in its shard for the next process.
    pub async fn drain(&self) {
        self.serving.drain();
        self.invoker.stop_placing();
        if tokio::time::timeout(self.config.drain_timeout, self.invoker.drained()).await.is_err() {
            tracing::warn!(running = self.invoker.running(), "activations were still running and are lost");
        }
    }

    /// Stops everything, in reverse order. [`Node::drain`] comes first if nothing is to be lost; else nothing that runs is
    /// waited for.
    pub async fn stop(self, drained: bool) {
        self.serving.drain();
        for server in &self.servers {
            server.stop(drained).await;
        }
        admin::remove_socket(&self.config.data_dir);
        let Self { pools, groups, raft, work, .. } = self;
        let left = pools.shutdown(if drained { LEASES_END } else { Duration::ZERO }).await;
        if drained && left > 0 {
            tracing::warn!(bytes = left, "containers were still in use and were killed");
        }
        on(&raft, async move { groups.shutdown().await }).await;
        drop(work);
        drop(raft);
    }
}

/// Runs `future` on `runtime` and waits for it.
async fn on<T: Send + 'static>(runtime: &Runtime, future: impl Future<Output = T> + Send + 'static) -> T {
    match runtime.spawn(future).await {
        Ok(value) => value,
        // Nobody aborts it, so it panicked: pass that on.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A runtime that ends without waiting, as it is dropped where others wait: also when a start fails halfway.
struct Threads(Option<Runtime>);

impl std::ops::Deref for Threads {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken only when dropped")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Threads of openraft and the proposers: their tasks wake each other all the time, which is cheapest on one thread; more
/// of them only where there are cores to spare. What takes long leaves them on its own.
fn raft_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, 4)
}

fn runtime(name: &str, threads: usize) -> Result<Threads, NodeError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(NodeError::io("cannot start threads"))?;
    Ok(Threads(Some(runtime)))
}

fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).map_err(|source| NodeError::Listen { address, source })
}

async fn backend(
    config: &Config,
    manifest: &Manifest,
    api_addr: SocketAddr,
    work: &Runtime,
    registry: &mut Registry,
) -> Result<Arc<dyn Backend>, NodeError> {
    let mut docker = async || {
        let config = docker_config(config, manifest);
        let metrics = config.metrics.clone();
        let backend = on(work, DockerBackend::start(config)).await?;
        metrics.register(registry);
        Ok::<_, docker::StartError>(backend)
    };
    match config.containers.backend {
        BackendChoice::Simulated => Ok(Arc::new(SimulatedBackend::new(SimulatedConfig::default()))),
        BackendChoice::Process => process_backend(config, api_addr, work).await,
        BackendChoice::Docker => Ok(Arc::new(docker().await?)),
        BackendChoice::Auto => match docker().await {
            Ok(backend) => Ok(Arc::new(backend)),
            Err(docker::StartError::Engine(error)) if !error.is_refusal() => {
                tracing::info!(%error, "no Docker here: actions run as processes");
                process_backend(config, api_addr, work).await
            }
            // One that answers and cannot be used as configured is not passed over.
            Err(error) => Err(error.into()),
        },
    }
}

async fn process_backend(config: &Config, api_addr: SocketAddr, work: &Runtime) -> Result<Arc<dyn Backend>, NodeError> {
    let mut sandbox = SandboxConfig::new(config.data_dir.join("sandbox"), api_addr.port());
    sandbox.unsafe_no_sandbox = config.containers.unsafe_no_sandbox;
    let mut process = ProcessConfig::from_environment(sandbox, config.data_dir.join("containers"))
        .map_err(NodeError::io("the path of this program"))?;
    process.log_capacity = ByteSize::mib(config.limits.logs_mb.max.into());
    process.overlap = config.limits.concurrency.max > 1;
    let backend = on(work, ProcessBackend::start(process)).await?;
    Ok(Arc::new(backend))
}

fn docker_config(config: &Config, manifest: &Manifest) -> DockerConfig {
    let docker = config.containers.docker.clone();
    DockerConfig {
        socket: docker.socket,
        data_dir: config.data_dir.clone(),
        network: docker.network,
        dns: docker.dns,
        dns_search: docker.dns_search,
        dns_options: docker.dns_options,
        cpus: docker.cpus,
        memory: config.containers.memory,
        images: ImageConfig {
            runtimes_registry: docker.runtimes_registry,
            user_images_registry: docker.user_images_registry,
            local_images_prefix: docker.local_images_prefix,
            ..ImageConfig::new(manifest)
        },
        extra_args: docker.extra_args,
        credentials: docker.credentials,
        log_capacity: ByteSize::mib(config.limits.logs_mb.max.into()),
        metrics: DockerMetrics::default(),
    }
}

/// An operator who lists kinds expects them to run.
fn warn_of_missing(manifest: &Manifest, kinds: &Kinds) {
    let listed = manifest.runtimes.values().flatten().filter(|_| manifest.is_own);
    let missing: Vec<&str> =
        listed.map(|runtime| runtime.kind.as_str()).filter(|kind| kinds.resolve(kind).is_none()).collect();
    if !missing.is_empty() {
        tracing::warn!(kinds = missing.join(" "), "the runtimes manifest lists kinds that cannot run here");
    }
}

/// Where the system gives huge pages unasked, the first bytes of each arena become two megabytes: an idle node takes three
/// times its memory, and so do containers, which inherit this and whose limits are small.
fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "the node takes more memory than it needs: huge pages cannot be turned off for it");
    }
}

/// Connections and containers (about six each) take descriptors; the soft limit that a login gives, often 1024, would end
/// both early. Containers get a limit of their own.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
