//! When images are pulled, seen by a registry of the test's own. Docker speaks to those on loopback without TLS.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use node::containers::backend::{CreateError, docker::DockerBackend};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Fixture, config, contract_server};
use crate::images::{Engine, Image, program_files};

/// Serves one image, `test/image`, under the tags that it is told.
struct Registry {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    tags: Vec<&'static str>,
    manifest: Vec<u8>,
    /// Of manifest, configuration and layer.
    blobs: HashMap<String, Vec<u8>>,
    /// Manifests that were asked for by tag.
    asked: Vec<String>,
    /// Before each of them is answered.
    delay: Duration,
    /// What it wants to be told by `Authorization`; `None`: nothing.
    authorization: Option<String>,
}

impl Registry {
    fn start(files: &[u8]) -> Self {
        let mut layer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        layer.write_all(files).expect("memory");
        let layer = layer.finish().expect("memory");
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/server"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(files)]},
        })
        .to_string()
        .into_bytes();
        let kind = |name: &str| format!("application/vnd.docker.{name}");
        let blob =
            |kind: String, bytes: &[u8]| json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind("distribution.manifest.v2+json"),
            "config": blob(kind("container.image.v1+json"), &config),
            "layers": [blob(kind("image.rootfs.diff.tar.gzip"), &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let blobs = [config, layer].into_iter().map(|bytes| (digest(&bytes), bytes)).collect();
        let shared = Arc::new(Mutex::new(Shared { manifest, blobs, ..Shared::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("an address");
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                // The engine may leave at any time.
                std::thread::spawn(move || drop(serve(connection, &shared)));
            }
        });
        Self { address, shared }
    }

    fn offer(&self, tags: &[&'static str]) {
        self.shared.lock().expect("no panic").tags = tags.to_vec();
    }

    fn delay(&self, delay: Duration) {
        self.shared.lock().expect("no panic").delay = delay;
    }

    /// How often `tag` was asked for since the last call.
    fn asked(&self, tag: &str) -> usize {
        let asked = std::mem::take(&mut self.shared.lock().expect("no panic").asked);
        asked.iter().filter(|other| *other == tag).count()
    }

    /// Its image, removed from the engine at the end of the test.
    fn image(&self, tag: &str) -> Image {
        Image { name: format!("{}/test/image{tag}", self.address) }
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn serve(mut connection: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut line, mut authorization) = (String::new(), None);
        while reader.read_line(&mut line)? > 2 {
            let header = line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
            authorization = header.map(|(_, value)| value.trim().to_owned()).or(authorization);
            line.clear();
        }
        let wanted = shared.lock().expect("no panic").authorization.clone();
        if wanted.is_some() && wanted != authorization {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            write!(
                connection,
                "HTTP/1.1 401 x\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            )?;
            if !request.starts_with("HEAD ") {
                connection.write_all(body.as_bytes())?;
            }
            continue;
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let json = "application/json";
        let (status, kind, body) = if let Some(tag) = path.strip_prefix("/v2/test/image/manifests/") {
            let (known, manifest, delay) = {
                let mut shared = shared.lock().expect("no panic");
                let by_digest = digest(&shared.manifest) == tag;
                if !by_digest {
                    shared.asked.push(tag.to_owned());
                }
                (by_digest || shared.tags.contains(&tag), shared.manifest.clone(), shared.delay)
            };
            std::thread::sleep(delay);
            match known {
                true => (200, "application/vnd.docker.distribution.manifest.v2+json", manifest),
                false => {
                    (404, json, br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec())
                }
            }
        } else if let Some(blob) = path.strip_prefix("/v2/test/image/blobs/") {
            let blob = shared.lock().expect("no panic").blobs.get(blob).cloned();
            blob.map_or((404, json, b"{}".to_vec()), |blob| (200, "application/octet-stream", blob))
        } else {
            (if path == "/v2/" { 200 } else { 404 }, json, b"{}".to_vec())
        };
        let head = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\n\r\n",
            body.len(),
            digest(&body)
        );
        connection.write_all(head.as_bytes())?;
        if !request.starts_with("HEAD ") {
            connection.write_all(&body)?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_users_are_pulled_before_each_container() {
    let Some(engine) = Engine::find("images_of_users_are_pulled_before_each_container") else { return };
    let registry = Registry::start(&program_files(&contract_server()));
    let fixture = Fixture::start(engine, &[]).await;
    let (latest, tagged) = (registry.image(""), registry.image(":1"));
    let create = |image: &Image| {
        let name = image.name.clone();
        let fixture = &fixture;
        async move {
            let container = fixture.create("blackbox", Some(&name)).await?;
            container.destroy().await;
            Ok::<_, CreateError>(())
        }
    };
    let refused = |outcome: Result<(), CreateError>, image: &Image| match outcome {
        Err(CreateError::Developer(text)) => {
            assert_eq!(text, format!("Failed to pull container image '{}'.", image.name));
        }
        other => panic!("{other:?}"),
    };
    for image in [&latest, &tagged] {
        refused(create(image).await, image);
    }

    registry.offer(&["latest", "1"]);
    registry.asked("");
    for (image, tag) in [(&latest, "latest"), (&tagged, "1")] {
        for _ in 0..2 {
            create(image).await.expect("it is there");
            assert!(registry.asked(tag) > 0, "{tag}");
        }
    }
    // Two that start at once share a pull: it takes no more requests than that of one did.
    create(&latest).await.expect("it is there");
    let one = registry.asked("latest");
    registry.delay(Duration::from_millis(500));
    let (first, second) = tokio::join!(create(&latest), create(&latest));
    first.and(second).expect("both start");
    assert_eq!(registry.asked("latest"), one);
    registry.delay(Duration::ZERO);

    // What was pulled is still here. That does for a tag of its own, and not for the latest.
    registry.offer(&[]);
    refused(create(&latest).await, &latest);
    create(&tagged).await.expect("a copy is here");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_images_are_pulled_once() {
    let Some(engine) = Engine::find("runtime_images_are_pulled_once") else { return };
    let registry = Registry::start(&program_files(&contract_server()));
    let image = Image { name: "test/image:nightly".to_owned() };
    let pulled = registry.image(":nightly");
    let fixture = Fixture::with(engine, &[("rust:1.34", &image)], |config| {
        config.images.runtimes_registry = registry.address.to_string();
    })
    .await;
    match fixture.create("rust:1.34", None).await.err() {
        Some(CreateError::Platform(text)) => assert!(text.contains("could not pull the image"), "{text}"),
        other => panic!("{other:?}"),
    }
    registry.offer(&["nightly"]);
    registry.asked("");
    fixture.create("rust:1.34", None).await.expect("it can be had").destroy().await;
    assert!(registry.asked("nightly") > 0);
    fixture.create("rust:1.34", None).await.expect("it is here").destroy().await;
    assert_eq!(registry.asked("nightly"), 0);
    fixture.stop().await;
    drop(pulled);
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_are_told_the_credentials_that_are_in_the_file_now() {
    let Some(engine) = Engine::find("registries_are_told_the_credentials_that_are_in_the_file_now") else { return };
    let registry = Registry::start(&program_files(&contract_server()));
    // In base64 it has both characters that are not those of URLs.
    let pair = STANDARD.encode("user:>>>???~~~ \u{ff}\u{fe}");
    registry.shared.lock().expect("no panic").authorization = Some(format!("Basic {pair}"));
    registry.offer(&["latest"]);
    let image = registry.image("");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    let write = |text: String| std::fs::write(&file, text).expect("a file");
    let auths = |key: String, pair: &str| json!({"auths": {key: {"auth": pair}}}).to_string();
    write(auths("other.example".to_owned(), &pair));
    let fixture = Fixture::with(engine, &[], |config| config.credentials = Some(file.clone())).await;
    let create = async || {
        let container = fixture.create("blackbox", Some(&image.name)).await.map_err(|error| error.to_string())?;
        container.destroy().await;
        Ok::<_, String>(())
    };
    let failed = Err(format!("Failed to pull container image '{}'.", image.name));
    assert_eq!(create().await, failed, "none for this one");
    write(auths(registry.address.to_string(), &pair));
    assert_eq!(create().await, Ok(()));
    write(auths(registry.address.to_string(), &STANDARD.encode("user:wrong")));
    assert_eq!(create().await, failed);
    write(auths(format!("http://{}/v1/", registry.address), &pair));
    assert_eq!(create().await, Ok(()), "as old clients wrote it");
    write("{".to_owned());
    let error = create().await.expect_err("it cannot be read");
    assert!(error.contains("config.json are not those of a Docker client"), "{error}");
    fixture.stop().await;
    let mut config = config(folder.path());
    config.credentials = Some(file);
    let error = DockerBackend::start(config).await.err().expect("no node starts so").to_string();
    assert!(error.contains("config.json are not those of a Docker client"), "{error}");
}
