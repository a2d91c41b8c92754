//! Which image runs a container, and when it is pulled.
//!
//! Source: apache/openwhisk `DockerContainer.create`, `ExecManifest.skipDockerPull`, `DockerClientWithFileAccess.pull`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::{
    FutureExt, TryStreamExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;

use super::{
    credentials::Credentials,
    engine::{Call, Engine, EngineError},
};
use crate::{
    containers::backend::{ContainerSpec, CreateError},
    entities::manifest::Manifest,
};

/// An image of the runtimes manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedImage {
    /// As it is pulled: `openwhisk/action-nodejs-v20:nightly`.
    pub name: String,
    /// It writes a line after each activation by which the end of its logs is known.
    pub sentinelled: bool,
}

/// What is known of images before any is used.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// By kind.
    pub managed: BTreeMap<String, ManagedImage>,
    /// The manifest's `blackboxes`.
    pub blackboxes: Vec<String>,
    /// Goes before the manifest's images that name no registry; empty: Docker's own.
    pub runtimes_registry: String,
    /// The same for users' images.
    pub user_images_registry: String,
    /// Users' images that begin with this folder are taken as they lie here.
    pub local_images_prefix: Option<String>,
}

/// The image of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub name: String,
    pub sentinelled: bool,
    /// A user named it, and answers for it.
    pub is_users: bool,
    /// It is pulled before every new container, although it may be here. One that is missing is pulled in any case.
    pub always_pulled: bool,
}

impl Image {
    /// It may be somebody else's by now, so an old copy does not do.
    pub fn must_be_pulled(&self) -> bool {
        self.always_pulled && matches!(tag(&self.name), None | Some("latest"))
    }
}

impl ImageConfig {
    /// What `manifest` says, and nothing else.
    pub fn new(manifest: &Manifest) -> Self {
        let managed = manifest.runtimes.values().flatten().map(|runtime| {
            let image = ManagedImage { name: runtime.image.pull_name(), sentinelled: runtime.is_sentinelled };
            (runtime.kind.clone(), image)
        });
        let blackboxes = manifest.blackboxes.iter().map(|image| image.pull_name()).collect();
        Self { managed: managed.collect(), blackboxes, ..Self::default() }
    }

    /// The image of `spec`.
    pub(super) fn of(&self, spec: &ContainerSpec) -> Result<Image, CreateError> {
        let Some(image) = &spec.image else {
            let missing = || CreateError::Developer(format!("The kind '{}' cannot run on this node.", spec.kind));
            let managed = self.managed.get(&spec.kind).ok_or_else(missing)?;
            return Ok(Image {
                name: from_registry(&self.runtimes_registry, &managed.name),
                sentinelled: managed.sentinelled,
                is_users: false,
                always_pulled: false,
            });
        };
        let listed = self.blackboxes.iter().any(|listed| are_same(listed, image));
        let folder = |prefix: &String| image.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let local = self.local_images_prefix.as_ref().is_some_and(folder);
        let registry = if listed { &self.runtimes_registry } else { &self.user_images_registry };
        Ok(Image {
            name: if local { image.clone() } else { from_registry(registry, image) },
            sentinelled: listed || local,
            is_users: true,
            always_pulled: !listed && !local,
        })
    }
}

/// `name` from the registry `prefix`, unless it names one itself.
fn from_registry(prefix: &str, name: &str) -> String {
    match prefix.trim_end_matches('/') {
        "" => name.to_owned(),
        _ if registry(name).is_some() => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}

/// The registry that an image names; `None`: Docker's own.
pub(super) fn registry(name: &str) -> Option<&str> {
    let (first, _) = name.split_once('/')?;
    (first.contains(['.', ':']) || first == "localhost").then_some(first)
}

/// The tag of `[registry:port/]name[:tag]`.
fn tag(name: &str) -> Option<&str> {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].split_once(':').map(|(_, tag)| tag)
}

/// `name` without tag, and the tag that it has or stands for.
fn parts(name: &str) -> (&str, &str) {
    match tag(name) {
        Some(tag) => (&name[..name.len() - tag.len() - 1], tag),
        None => (name, "latest"),
    }
}

fn are_same(one: &str, other: &str) -> bool {
    parts(one) == parts(other)
}

type Pull = Shared<BoxFuture<'static, Result<(), EngineError>>>;

/// Pulls images; containers that need the same one at the same time share a pull.
#[derive(Clone)]
pub(super) struct Pulls {
    engine: Engine,
    credentials: Option<Credentials>,
    running: Arc<Mutex<HashMap<String, Pull>>>,
}

impl Pulls {
    pub fn new(engine: Engine, credentials: Option<Credentials>) -> Self {
        Self { engine, credentials, running: Arc::default() }
    }

    /// Brings the newest image `name`.
    pub async fn pull(&self, name: &str) -> Result<(), EngineError> {
        let pull = {
            let mut running = self.running.lock();
            let begin = || self.begin(name.to_owned());
            running.entry(name.to_owned()).or_insert_with(begin).clone()
        };
        pull.await
    }

    fn begin(&self, name: String) -> Pull {
        let pulls = self.clone();
        let pull = async move {
            let began = std::time::Instant::now();
            let pulled = pulls.carry_out(&name).await;
            pulls.running.lock().remove(&name);
            // Why one failed is said by whoever wanted it.
            if pulled.is_ok() {
                tracing::info!(image = name, seconds = began.elapsed().as_secs_f64(), "image pulled");
            }
            pulled
        };
        pull.boxed().shared()
    }

    async fn carry_out(&self, name: &str) -> Result<(), EngineError> {
        let credentials = match &self.credentials {
            None => None,
            Some(credentials) => {
                credentials.of(name).await.map_err(|error| EngineError::NotAsked(error.to_string()))?
            }
        };
        let (image, tag) = parts(name);
        let options = CreateImageOptionsBuilder::new().from_image(image).tag(tag).build();
        let pulled = self.engine.call(Call::Pull, |docker| async move {
            let progress = docker.create_image(Some(options), None, credentials);
            progress.try_for_each(|_| std::future::ready(Ok(()))).await
        });
        pulled.await
    }
}

#[cfg(test)]
mod tests {
    use protocol::ByteSize;

    use super::*;

    fn spec(kind: &str, image: Option<&str>) -> ContainerSpec {
        let (kind, image) = (kind.to_owned(), image.map(str::to_owned));
        ContainerSpec { name: "wsk0_1_guest_hello".into(), kind, image, memory: ByteSize::mib(256), env: Vec::new() }
    }

    fn config() -> ImageConfig {
        let node = ManagedImage { name: "openwhisk/action-nodejs-v20:nightly".into(), sentinelled: true };
        let old = ManagedImage { name: "quay.io/x/old".into(), sentinelled: false };
        ImageConfig {
            managed: BTreeMap::from([("nodejs:20".to_owned(), node), ("old:1".to_owned(), old)]),
            blackboxes: vec!["openwhisk/dockerskeleton:nightly".into(), "openwhisk/example".into()],
            local_images_prefix: Some("whisk".into()),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn managed_images_are_not_pulled_anew_and_those_of_users_are() {
        let config = config();
        let image = |kind: &str, image: Option<&str>| config.of(&spec(kind, image)).unwrap();
        let image_of =
            |name: &str| (image("blackbox", Some(name)).always_pulled, image("blackbox", Some(name)).sentinelled);
        let node = image("nodejs:20", None);
        assert_eq!((node.name.as_str(), node.sentinelled), ("openwhisk/action-nodejs-v20:nightly", true));
        assert!(!node.is_users && !node.always_pulled && !node.must_be_pulled());
        assert!(!image("old:1", None).sentinelled);
        // Listed ones; an absent tag is `latest`.
        for listed in ["openwhisk/dockerskeleton:nightly", "openwhisk/example", "openwhisk/example:latest"] {
            assert_eq!(image_of(listed), (false, true), "{listed}");
        }
        assert_eq!(image_of("whisk/mine"), (false, true), "of the local folder");
        for foreign in ["openwhisk/dockerskeleton", "whiskey/mine", "whisk", "me/it:1"] {
            assert_eq!(image_of(foreign), (true, false), "{foreign}");
        }
        let error = config.of(&spec("cobol:60", None)).unwrap_err();
        assert_eq!(error.to_string(), "The kind 'cobol:60' cannot run on this node.");
    }

    #[test]
    fn only_an_untagged_or_latest_image_must_be_had_anew() {
        let config = config();
        let must = |name: &str| config.of(&spec("blackbox", Some(name))).unwrap().must_be_pulled();
        assert!(must("me/it") && must("me/it:latest") && must("localhost:5000/it"));
        assert!(!must("me/it:1") && !must("localhost:5000/it:1") && !must("openwhisk/example"));
    }

    #[test]
    fn registries_go_before_names_that_have_none() {
        let mut config = config();
        config.runtimes_registry = "mirror.example/".into();
        config.user_images_registry = "users.example:5000".into();
        let name = |kind: &str, image: Option<&str>| config.of(&spec(kind, image)).unwrap().name;
        assert_eq!(name("nodejs:20", None), "mirror.example/openwhisk/action-nodejs-v20:nightly");
        assert_eq!(name("old:1", None), "quay.io/x/old");
        assert_eq!(name("blackbox", Some("openwhisk/example")), "mirror.example/openwhisk/example");
        assert_eq!(name("blackbox", Some("it")), "users.example:5000/it");
        assert_eq!(name("blackbox", Some("me/it:1")), "users.example:5000/me/it:1");
        assert_eq!(name("blackbox", Some("localhost/it")), "localhost/it");
        assert_eq!(name("blackbox", Some("whisk/it")), "whisk/it", "it lies here");
    }

    #[test]
    fn names_in_parts() {
        assert_eq!(parts("localhost:5000/a/b"), ("localhost:5000/a/b", "latest"));
        assert_eq!(parts("localhost:5000/a/b:1"), ("localhost:5000/a/b", "1"));
        assert_eq!(parts("b:1"), ("b", "1"));
    }
}
