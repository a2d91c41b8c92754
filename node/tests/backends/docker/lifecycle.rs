//! Containers from their creation to their end, and what other containers may not do to them.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use node::{
    containers::backend::{Backend, CreateError, docker::DockerBackend, has_ended},
    runtime::InitVerdict,
};
use serde_json::{Value, json};

use super::{Fixture, config, eventually, label, spec};
use crate::{
    images::{Engine, FOLDER, Image},
    suite::Running,
};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_created_with_openwhisks_arguments() {
    let Some(engine) = Engine::find("a_container_is_created_with_openwhisks_arguments") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::with(engine, &[("nodejs:20", &image)], |config| {
        config.cpus = Some(1.0);
        config.dns = vec!["192.0.2.53".to_owned()];
    })
    .await;
    let container = fixture.create("nodejs:20", None).await.expect("a container");
    let found = fixture.state(&*container);
    let host = &found["HostConfig"];
    let wanted = json!({
        "CpuShares": 128, "NanoCpus": 125_000_000, "Memory": 256 << 20, "MemorySwap": 256 << 20, "PidsLimit": 1024,
        "Privileged": false, "ReadonlyRootfs": false, "CapAdd": null, "Dns": ["192.0.2.53"], "Binds": null,
        "Ulimits": [{"Name": "nofile", "Hard": 1024, "Soft": 1024}],
    });
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&host[key], value, "{key}");
    }
    let dropped = host["CapDrop"].to_string();
    assert!(dropped.contains("NET_RAW") && dropped.contains("NET_ADMIN"), "{dropped}");
    assert_eq!(host["LogConfig"]["Type"], "json-file");
    assert_eq!(host["RestartPolicy"]["MaximumRetryCount"], 0);
    let env = found["Config"]["Env"].as_array().expect("a list");
    assert!(env.contains(&json!("__OW_API_HOST=http://10.0.0.1:3233")), "{env:?}");
    let name = container.name();
    assert!(name.starts_with("wsk") && name.ends_with("_guest_hello"), "{name}");
    assert_eq!(found["Name"], format!("/{name}"));
    container.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_arguments_reach_the_engine() {
    let Some(engine) = Engine::find("the_operators_arguments_reach_the_engine") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::with(engine, &[("nodejs:20", &image)], |config| {
        for (flag, value) in [
            ("add-host", "db=192.0.2.1"),
            ("cap-drop", "MKNOD"),
            ("env", "TEAM=x"),
            ("init", ""),
            ("label", "team=x"),
            ("security-opt", "no-new-privileges"),
            ("shm-size", "32m"),
            ("tmpfs", "/scratch:rw,size=1m"),
            ("ulimit", "nofile=2048"),
        ] {
            config.extra_args.insert(flag.to_owned(), vec![value.to_owned()]);
        }
    })
    .await;
    let code = "const fs = require('fs')
        main = () => ({ hosts: fs.readFileSync('/etc/hosts', 'utf8').includes('db'), team: process.env.TEAM,
                        scratch: fs.existsSync('/scratch') })";
    let mut running = Running::connect(fixture.create("nodejs:20", None).await.expect("a container")).await;
    assert_eq!(running.init(&(code.to_owned(), false), LONG).await, InitVerdict::Initialized);
    assert_eq!(running.run(json!({})).await.result(), json!({"hosts": true, "team": "x", "scratch": true}));
    let found = fixture.state(&*running.container);
    let host = &found["HostConfig"];
    assert_eq!((&host["ShmSize"], &host["Init"]), (&json!(32 << 20), &json!(true)));
    assert_eq!(host["Ulimits"], json!([{"Name": "nofile", "Hard": 2048, "Soft": 2048}]));
    assert!(host["CapDrop"].to_string().contains("MKNOD") && host["SecurityOpt"].to_string().contains("privileges"));
    assert_eq!(found["Config"]["Labels"]["team"], "x");
    running.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stem_cell_waits_frozen() {
    let Some(engine) = Engine::find("a_stem_cell_waits_frozen") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    let mut container = fixture.create("nodejs:20", None).await.expect("a container");
    container.rest().await;
    assert_eq!(fixture.state(&*container)["State"]["Paused"], true);
    // It has been listening before, so the first attempt succeeds.
    container.connect().await.expect("a connection");
    assert_eq!(fixture.state(&*container)["State"]["Paused"], false);
    let mut running = Running::connect(container).await;
    let code = ("main = () => ({ cell: true })".to_owned(), false);
    assert_eq!(running.init(&code, LONG).await, InitVerdict::Initialized);
    assert_eq!(running.run(json!({})).await.result(), json!({"cell": true}));
    running.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_crashed_node_are_removed_and_no_others() {
    let Some(engine) = Engine::find("containers_of_a_crashed_node_are_removed_and_no_others") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    let neighbour = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    let kept = neighbour.create("nodejs:20", None).await.expect("a container");
    let running = fixture.create("nodejs:20", None).await.expect("a container");
    let mut paused = fixture.create("nodejs:20", None).await.expect("a container");
    // On a busy machine an engine with cgroups of version 1 may fail to freeze one in time.
    let mut attempts = 0;
    while let Err(error) = paused.pause().await {
        attempts += 1;
        assert!(attempts < 10, "{error}");
    }
    let mut exited = fixture.create("nodejs:20", None).await.expect("a container");
    engine.must("POST", &format!("/containers/{}/kill", exited.name()), &Value::Null);
    while !has_ended(&exited.connect().await.expect_err("it was killed")) {}
    assert_eq!(fixture.containers().len(), 3);
    // As after `kill -9`: nobody removes anything.
    std::mem::forget((running, paused, exited));
    let Fixture { backend, folder, label, .. } = fixture;
    std::mem::forget(backend);

    let again = DockerBackend::start(config(folder.path())).await.expect("a back end");
    assert_eq!(engine.containers(&label), Vec::<Value>::new());
    assert_eq!(neighbour.containers().len(), 1);
    again.shutdown().await;
    kept.destroy().await;
    neighbour.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_nobody_waits_for_any_more_is_removed() {
    let Some(engine) = Engine::find("a_container_that_nobody_waits_for_any_more_is_removed") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    let creation = fixture.create("nodejs:20", None);
    // It is on its way when the one who asked leaves.
    assert!(tokio::time::timeout(Duration::from_millis(1), creation).await.is_err());
    eventually("the container", || !fixture.containers().is_empty()).await;
    eventually("its end", || fixture.containers().is_empty()).await;
    fixture.stop().await;
}

/// The address of a container that ended belongs to the next one, perhaps of another user.
#[tokio::test(flavor = "multi_thread")]
async fn an_inherited_address_is_not_connected_to() {
    let Some(engine) = Engine::find("an_inherited_address_is_not_connected_to") else { return };
    let image = Image::nodejs(engine);
    let Network(name) = &Network::for_one(engine);
    let fixture = Fixture::with(engine, &[("nodejs:20", &image)], |config| config.network = Some(name.clone())).await;
    let warnings = fixture.backend.warnings();
    assert!(warnings.iter().any(|warning| warning.contains("can reach each other")), "{warnings:?}");
    let mut first = fixture.create("nodejs:20", None).await.expect("a container");
    engine.must("POST", &format!("/containers/{}/kill", first.name()), &Value::Null);
    eventually("the end of the first", || fixture.state(&*first)["State"]["Running"] == false).await;
    let second = Running::connect(fixture.create("nodejs:20", None).await.expect("the address is free")).await;
    let error = first.connect().await.expect_err("the address is another's");
    assert!(has_ended(&error), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected, "it was not its own doing");
    first.destroy().await;
    second.destroy().await;
    fixture.stop().await;
}

/// Removed with this value, also if the test fails.
struct Network(String);

impl Network {
    /// Has room for the gateway and one container.
    fn for_one(engine: Engine) -> Self {
        let id = std::process::id();
        let name = format!("whisp-test-{id}");
        let place = json!({"Config": [{"Subnet": format!("10.213.{}.{}/30", id % 256, id / 256 % 64 * 4)}]});
        engine.must("POST", "/networks/create", &json!({"Name": name, "Driver": "bridge", "IPAM": place}));
        Self(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = Engine.ask("DELETE", &format!("/networks/{}", self.0), "", &[]) {
            eprintln!("network {} is left: {error}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_reach_the_gateway_and_not_each_other() {
    let Some(engine) = Engine::find("containers_reach_the_gateway_and_not_each_other") else { return };
    let image = Image::nodejs(engine);
    let fixture = Fixture::start(engine, &[("nodejs:20", &image)]).await;
    assert_eq!(fixture.backend.warnings(), Vec::<String>::new());
    let gateway = fixture.backend.gateway().expect("a gateway");
    let listener = TcpListener::bind((gateway, 0)).expect("it is this machine's");
    let port = listener.local_addr().expect("an address").port();
    let api = std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().expect("a caller");
        // All of it: a connection with unread bytes would be reset.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            caller.read_exact(&mut byte).expect("its request");
            request.extend(byte);
        }
        caller.write_all(b"HTTP/1.0 200 x\r\n\r\napi").expect("an answer");
    });

    let neighbour = Running::connect(fixture.create("nodejs:20", None).await.expect("a container")).await;
    let settings = fixture.state(&*neighbour.container)["NetworkSettings"]["Networks"].clone();
    let address = settings.as_object().expect("networks").values().next().expect("one")["IPAddress"].clone();
    let mut running = Running::connect(fixture.create("nodejs:20", None).await.expect("a container")).await;
    let code = "const http = require('http')
        const main = ({ url }) => new Promise((resolve) => {
            http.get(url, { timeout: 2000 }, async (answer) => resolve({ answer: String((await answer.toArray())[0]) }))
                .on('timeout', () => resolve({ failed: 'timeout' })).on('error', (error) => resolve({ failed: error.code }))
        })";
    assert_eq!(running.init(&(code.to_owned(), false), LONG).await, InitVerdict::Initialized);
    let answer = running.run(json!({ "url": format!("http://{gateway}:{port}/") })).await.result();
    assert_eq!(answer, json!({"answer": "api"}));
    api.join().expect("it was called");
    // The node reaches it there, as it has just done; a neighbour does not.
    let url = format!("http://{}:8080/run", address.as_str().expect("an address"));
    assert_eq!(running.run(json!({ "url": url })).await.result(), json!({"failed": "timeout"}));
    running.destroy().await;
    neighbour.destroy().await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_the_users_fault_or_ours() {
    let Some(engine) = Engine::find("what_cannot_start_is_the_users_fault_or_ours") else { return };
    let image = Image::import(engine, &empty_tar(), &[r#"CMD ["/no-such-program"]"#]);
    let silent = Image::import(engine, &empty_tar(), &[]);
    let fixture = Fixture::start(engine, &[("nodejs:20", &image), ("go:1.20", &silent)]).await;
    // Pulling it fails, too, but with a tag a copy that is here does.
    match fixture.create("blackbox", Some(&image.name)).await.err() {
        Some(CreateError::Developer(text)) => {
            assert_eq!(text, format!("Failed to pull container image '{}'.", image.name))
        }
        other => panic!("{other:?}"),
    }
    for kind in ["nodejs:20", "go:1.20"] {
        match fixture.create(kind, None).await.err() {
            Some(CreateError::Platform(_)) => {}
            other => panic!("{kind}: {other:?}"),
        }
    }
    assert_eq!(fixture.containers(), Vec::<Value>::new());
    let local = Fixture::with(engine, &[], |config| config.images.local_images_prefix = Some(FOLDER.into())).await;
    match local.create("blackbox", Some(&image.name)).await.err() {
        Some(CreateError::Developer(text)) => {
            assert_eq!(text, format!("executable file not found in image {}", image.name));
        }
        other => panic!("{other:?}"),
    }
    match local.backend.create(spec("cobol:60", None)).await.err() {
        Some(CreateError::Developer(text)) => assert_eq!(text, "The kind 'cobol:60' cannot run on this node."),
        other => panic!("{other:?}"),
    }
    local.stop().await;
    assert_eq!(label(fixture.folder.path()), fixture.label);
    fixture.stop().await;
}

fn empty_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    tar.append_data(&mut header, "nothing", std::io::empty()).expect("an entry");
    tar.into_inner().expect("a tar")
}
