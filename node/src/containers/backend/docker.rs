//! Containers of a Docker engine on this machine, with OpenWhisk's arguments: its own runtime images and any other that keeps
//! the contract.
//!
//! | file | what |
//! | --- | --- |
//! | `docker/engine.rs` | the engine: bounds on calls, its version, its absence |
//! | `docker/images.rs` | which image, and when it is pulled |
//! | `docker/credentials.rs` | what registries want to be told before |
//! | `docker/arguments.rs` | what a container is created with |
//! | `docker/extra.rs` | what the operator adds to that |
//! | `docker/network.rs` | the network that containers are on |
//! | `docker/container.rs` | one container |
//! | `docker/logs.rs` | its log |
//! | `docker/metrics.rs` | what calls take |
//! | `docker/removal.rs` | its end, and that of what a crashed node left |

mod arguments;
mod container;
mod credentials;
mod engine;
mod extra;
mod images;
mod logs;
mod metrics;
mod network;
mod removal;

use std::{
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use protocol::{ByteSize, messages};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use self::{
    arguments::{Common, arguments},
    container::{DockerContainer, Parts},
    credentials::Credentials,
    engine::{Call, Engine},
    extra::Extra,
    images::{Image, Pulls},
    logs::Logs,
    network::Network,
    removal::{Claim, Removal},
};
pub use self::{
    credentials::CredentialsError,
    engine::EngineError,
    extra::{ExtraArguments, ExtraError},
    images::{ImageConfig, ManagedImage},
    metrics::DockerMetrics,
};
use super::{Backend, Container, ContainerSpec, CreateError};

/// Says whose a container or network is, so that a node removes what its predecessor on the same data directory left.
const OWNER: &str = "whisp.owner";

/// How a Docker engine runs containers for this node.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Path of the engine's socket.
    pub socket: String,
    /// The node's own; exists.
    pub data_dir: PathBuf,
    /// A network that is there; else the node makes one.
    pub network: Option<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Cores that all containers share in proportion to their memory; without it only their weights are in proportion.
    pub cpus: Option<f64>,
    /// Memory of all containers together.
    pub memory: ByteSize,
    /// Arguments of `docker run` for all containers.
    pub extra_args: ExtraArguments,
    pub images: ImageConfig,
    /// A `config.json` of a Docker client with the credentials for registries.
    pub credentials: Option<PathBuf>,
    /// The largest log limit of any action: more is never kept.
    pub log_capacity: ByteSize,
    pub metrics: DockerMetrics,
}

/// Why the back end does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the Docker network '{name}' cannot be used: {reason}")]
    Network { name: String, reason: String },
    #[error("extra arguments of containers: {0}")]
    ExtraArguments(#[from] ExtraError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("{path}: {source}")]
    DataDir { path: PathBuf, source: io::Error },
}

/// The back end.
pub struct DockerBackend {
    shared: Arc<Shared>,
    #[allow(dead_code, reason = "held for its Drop")]
    sweeper: AbortOnDropHandle<()>,
}

struct Shared {
    engine: Engine,
    images: ImageConfig,
    pulls: Pulls,
    network: Network,
    removal: Removal,
    common: Common,
    log_capacity: ByteSize,
    /// Begins the names of containers: unique among all nodes and their starts.
    instance: String,
}

impl DockerBackend {
    /// Finds the engine, removes what an earlier process of this data directory left, and makes the containers' network.
    ///
    /// # Errors
    /// If the engine does not answer, or refuses that.
    pub async fn start(config: DockerConfig) -> Result<Self, StartError> {
        let owner = owner(&config.data_dir).map_err(|source| StartError::DataDir { path: config.data_dir, source })?;
        let extra = Extra::new(&config.extra_args)?;
        let credentials = match config.credentials {
            None => None,
            Some(path) => Some(Credentials::open(path).await?),
        };
        let engine = Engine::new(config.socket, Handle::current(), config.metrics);
        let version = engine.version().await?;
        tracing::info!(engine = version.engine, api = version.api, "Docker answers");
        let (removal, sweeper) = Removal::start(engine.clone(), (OWNER, owner.clone())).await;
        let name = format!("whisp-{}", &hex(&Sha256::digest(&owner))[..8]);
        let network = Network::start(engine.clone(), config.network, name, (OWNER, owner.clone())).await?;
        let common = Common {
            label: (OWNER, owner),
            network: network.name().to_owned(),
            dns: config.dns,
            dns_search: config.dns_search,
            dns_options: config.dns_options,
            cpus: config.cpus,
            pool: config.memory,
            extra,
        };
        let shared = Shared {
            pulls: Pulls::new(engine.clone(), credentials),
            engine,
            images: config.images,
            network,
            removal,
            common,
            log_capacity: config.log_capacity,
            instance: hex(&rand::random::<[u8; 4]>()),
        };
        Ok(Self { shared: Arc::new(shared), sweeper })
    }
}

impl Shared {
    async fn create(&self, spec: ContainerSpec) -> Result<DockerContainer, CreateError> {
        let image = self.images.of(&spec)?;
        let pulled = if image.always_pulled { self.pulls.pull(&image.name).await } else { Ok(()) };
        match &pulled {
            Err(error) if !error.is_refusal() => return Err(CreateError::Platform(error.to_string())),
            Err(error) if image.must_be_pulled() => {
                tracing::info!(image = image.name, %error, "image not pulled");
                return Err(CreateError::Developer(messages::image_pull_error(&image.name)));
            }
            _ => {}
        }
        let name = format!("wsk{}_{}", self.instance, spec.name.strip_prefix("wsk").unwrap_or(&spec.name));
        let claim = self.removal.claim(name);
        let (claim, error) = match self.create_and_start(&spec, &image, claim.name()).await {
            Ok(()) => match DockerContainer::new(self.parts(claim, &image)).await {
                Ok(container) => return Ok(container),
                Err(failed) => failed,
            },
            Err(error) => (claim, error),
        };
        // Else who asked for it says so. Of the user's own fault the user is told less than is known.
        if image.is_users {
            tracing::info!(container = claim.name(), image = image.name, %error, "container not created");
        }
        if error.is_refusal() {
            claim.remove().await
        } else {
            claim.remove_in_doubt().await
        }
        Err(match &error {
            // The attempt to run what is here was the last resort.
            EngineError::Refused { .. } if pulled.is_err() => {
                CreateError::Developer(messages::image_pull_error(&image.name))
            }
            EngineError::Refused { message, .. } if image.is_users && lacks_command(message) => {
                CreateError::Developer(messages::executable_not_found(&image.name))
            }
            _ => CreateError::Platform(error.to_string()),
        })
    }

    async fn create_and_start(&self, spec: &ContainerSpec, image: &Image, name: &str) -> Result<(), EngineError> {
        match self.create_container(spec, image, name).await {
            // As `docker run` does: an image that is not here is pulled once, whoever should have seen to it.
            Err(error) if error.is_not_found() && !image.always_pulled => {
                self.pulls.pull(&image.name).await?;
                self.create_container(spec, image, name).await?;
            }
            created => created?,
        }
        match self.start_container(name).await {
            Err(error) if error.is_not_found() => {
                self.network.repair().await?;
                self.start_container(name).await
            }
            started => started,
        }
    }

    async fn create_container(&self, spec: &ContainerSpec, image: &Image, name: &str) -> Result<(), EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let body = arguments(&self.common, spec, &image.name);
        let created = self
            .engine
            .call(Call::Create, |docker| async move { docker.create_container(Some(options), body).await.map(drop) });
        created.await
    }

    async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        let name = name.to_owned();
        let started = self.engine.call(Call::Start, |docker| async move { docker.start_container(&name, None).await });
        started.await
    }

    fn parts(&self, claim: Claim, image: &Image) -> Parts {
        Parts {
            engine: self.engine.clone(),
            network: self.network.name().to_owned(),
            logs: Logs::new(self.engine.clone(), claim.name().to_owned(), self.log_capacity),
            claim,
            sentinelled: image.sentinelled,
            is_users: image.is_users,
        }
    }
}

#[async_trait]
impl Backend for DockerBackend {
    fn name(&self) -> &'static str {
        "docker"
    }

    /// What an image makes of it is its own business; those of OpenWhisk that cannot do it refuse the second activation.
    fn overlaps(&self, _: &str) -> bool {
        true
    }

    fn kinds(&self) -> Vec<String> {
        self.shared.images.managed.keys().cloned().chain(["blackbox".to_owned()]).collect()
    }

    fn gateway(&self) -> Option<IpAddr> {
        self.shared.network.gateway()
    }

    fn warnings(&self) -> Vec<String> {
        self.shared.network.warnings()
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Box<dyn Container>, CreateError> {
        let shared = Arc::clone(&self.shared);
        // A task: if nobody waits any more, the container is dropped, and thus removed, whenever it is there.
        let created = self.shared.engine.runtime().spawn(async move { shared.create(spec).await });
        match created.await {
            Ok(created) => created.map(|container| Box::new(container) as Box<dyn Container>),
            Err(aborted) => Err(CreateError::Platform(aborted.to_string())),
        }
    }

    async fn shutdown(&self) {
        self.shared.removal.end().await;
        if let Err(error) = self.shared.network.remove().await {
            tracing::warn!(%error, "the containers' network is left for the next start");
        }
    }
}

/// Whose containers those of `data_dir` are. The inode tells apart what only looks alike: folders of the same path in several
/// containers or mount namespaces that share an engine, and a copy of a data directory from its original.
fn owner(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.canonicalize()?;
    Ok(format!("{}:{}", path.metadata()?.ino(), path.display()))
}

/// The engine's words when the command of an image is not in it.
///
/// Source: docker/cli `cli/command/container/run.go`, `toStatusError`.
fn lacks_command(message: &str) -> bool {
    ["executable file not found", "no such file or directory"].iter().any(|words| message.contains(words))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_data_directory_owns_nothing_of_the_original() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(owner(one.path()).unwrap(), owner(&one.path().join(".")).unwrap());
        assert_ne!(owner(one.path()).unwrap(), owner(other.path()).unwrap());
        assert!(owner(&one.path().join("missing")).is_err());
    }
}
