//! The same without being root: these tests run again as `nobody`, in a process of their own.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use protocol::ByteSize;
use serde_json::{Value, json};

use super::{
    escapes::{self, CALLS, NextDoor, Surroundings},
    exhaustion::EAT,
    join::join,
    support::{
        World, assert_nothing_left, eventually, in_own_network, init_program, processes_with, python, run, tool,
    },
};

const NOBODY: &str = "65534";

/// Copies a program, by a process of its own: while this one had the copy open for writing, a child that another test
/// starts would inherit that, and the copy could not be executed ("text file busy").
fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// Runs ignored tests of this binary as `nobody`.
fn as_nobody(tests: &str, passed: usize) {
    // Neither the binaries nor the temporary folder of root's are for others to read.
    let folder = tempfile::Builder::new().prefix("whisp-nobody").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (binary, init) = (folder.path().join("tests"), folder.path().join("whisp"));
    copy(&std::env::current_exe().unwrap(), &binary);
    copy(&init_program(), &init);
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    std::os::unix::fs::chown(&temporary, Some(65534), Some(65534)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all"])
        .arg(&binary)
        .args(["--ignored", "--nocapture", "--test-threads=1", tests])
        .env("WHISP_TEST_INIT", &init)
        .env("TMPDIR", &temporary)
        .current_dir("/")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("{stdout}\n{stderr}");
    assert!(output.status.success());
    assert!(stdout.contains(&format!("{passed} passed")), "{stdout}");
}

#[test]
fn another_user_has_the_same_walls() {
    in_own_network(|| async { as_nobody("sandbox::unprivileged::as_nobody::", 4) });
}

#[test]
fn another_user_has_a_network_through_pasta() {
    in_own_network(|| async {
        let next_door = NextDoor::make();
        // This machine may keep its tun device to root; elsewhere it is everybody's. Only this thread and its children see the change.
        // SAFETY: takes flags.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", std::io::Error::last_os_error());
        tool("mount", &["--make-rprivate", "/"]);
        tool("mount", &["-t", "tmpfs", "none", "/dev/net"]);
        tool("mknod", &["-m", "666", "/dev/net/tun", "c", "10", "200"]);
        as_nobody("sandbox::unprivileged::connected::", 1);
        drop(next_door);
    });
}

/// For tests that must not touch the machine as root, whoever asks for the ignored ones.
fn run_as_nobody(test: impl Future<Output = ()>) {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: runs as another user only");
        return;
    }
    run(test);
}

mod connected {
    use super::*;

    #[test]
    #[ignore = "run by `another_user_has_a_network_through_pasta`"]
    fn the_internet_and_the_api_are_reached_and_the_host_is_not() {
        run_as_nobody(async {
            let world = World::start(|config| config.denied_networks.push("203.0.113.77/32".parse().unwrap())).await;
            assert_eq!(world.host.warnings().len(), 1, "only the memory is watched: {:?}", world.host.warnings());
            let api = TcpListener::bind(world.host.api_host().unwrap()).unwrap();
            let other = TcpListener::bind("0.0.0.0:0").unwrap();
            let port = other.local_addr().unwrap().port();
            let mut sandbox = world.create("caller", ByteSize::mib(128)).await;
            let calls = json!({
                "api": [api.local_addr().unwrap().ip(), api.local_addr().unwrap().port()],
                "internet": ["203.0.113.1", 80],
                "metadata": ["169.254.169.254", 80],
                "loopback of the host": ["127.0.0.1", port],
                "address of the host": ["203.0.113.2", port],
                "gateway": ["203.0.113.1", port],
            });
            let output = python(&mut sandbox, CALLS, &[&calls.to_string()], &[]).await.output().await;
            let results: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
            eprintln!("{results}");
            assert_eq!(results["api"], "127.0.0.1");
            assert_eq!(results["internet"], "203.0.113.1");
            for closed in ["metadata", "loopback of the host", "address of the host", "gateway"] {
                assert!(results[closed].is_null(), "{closed}: {results}");
            }
            sandbox.destroy().await;

            let around = Surroundings::make(world.data.path());
            let results = escapes::attempt_all(&world, &around).await;
            escapes::assert_closed(&results);
            drop((api, other, around));
            world.end().await;
            let own = rustix::process::getuid().as_raw();
            let pastas = || {
                let output = Command::new("ps").args(["-u", &own.to_string(), "-o", "comm="]).output().unwrap();
                String::from_utf8_lossy(&output.stdout)
                    .lines()
                    .filter(|line| line.starts_with("pasta") || line.starts_with("passt"))
                    .count()
            };
            eventually("no pasta is left", || pastas() == 0).await;
        });
    }
}

mod as_nobody {
    use super::*;

    #[test]
    #[ignore = "run by `another_user_has_the_same_walls`"]
    fn escapes() {
        run_as_nobody(async {
            for unsafe_no_sandbox in [true, false] {
                let world = World::start(|config| config.unsafe_no_sandbox = unsafe_no_sandbox).await;
                let around = Surroundings::make(world.data.path());
                let results = escapes::attempt_all(&world, &around).await;
                eprintln!("sandbox: {}\n{}", !unsafe_no_sandbox, serde_json::to_string_pretty(&results).unwrap());
                if unsafe_no_sandbox {
                    escapes::assert_open(&results, escapes::without_root());
                } else {
                    escapes::assert_closed(&results);
                }
                drop(around);
                world.end().await;
            }
        });
    }

    #[test]
    #[ignore = "run by `another_user_has_the_same_walls`"]
    fn a_joined_child() {
        run_as_nobody(async {
            let world = World::start(|_| {}).await;
            let around = Surroundings::make(world.data.path());
            let described = around.described(world.data.path(), json!([]), json!(["127.0.0.1"]), json!(["127.0.0.1"]));
            let mut sandbox = world.create("joins", ByteSize::mib(128)).await;
            let (zygote, running) = join(&mut sandbox, escapes::ESCAPES, &[&described], json!({})).await;
            let output = running.output().await;
            let results: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
            escapes::assert_closed(&results);
            drop(zygote);
            sandbox.destroy().await;

            // Its memory is watched although it is no descendant of process 1.
            let mut sandbox = world.create("eats", ByteSize::mib(64)).await;
            let hidden = format!("import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n{EAT}");
            let (zygote, mut running) = join(&mut sandbox, &hidden, &[], json!({})).await;
            assert_eq!(running.line().await, "eating");
            eventually("it is killed for its memory", || sandbox.killed_for_memory()).await;
            tokio::time::timeout(Duration::from_secs(10), sandbox.exited()).await.expect("with everything in it");
            drop((zygote, running));
            sandbox.destroy().await;
            drop(around);
            world.end().await;
        });
    }

    #[test]
    #[ignore = "run by `another_user_has_the_same_walls`"]
    fn limits_and_stopping() {
        run_as_nobody(async {
            let world = World::start(|_| {}).await;
            let marker = format!("{}-child", world.data.path().display());
            let mut sandbox = world.create("eats", ByteSize::mib(64)).await;
            let running = python(&mut sandbox, EAT, &[], &[("MARKER", &marker)]).await;
            tokio::time::timeout(Duration::from_secs(30), sandbox.exited()).await.expect("it is killed");
            assert!(sandbox.killed_for_memory());
            drop(running);
            sandbox.destroy().await;

            let mut sandbox = world.create("stops", ByteSize::mib(64)).await;
            let count = "import time\nwhile True:\n  print('tick', flush=True)\n  time.sleep(0.01)";
            let mut running = python(&mut sandbox, count, &[], &[("MARKER", &marker)]).await;
            assert_eq!(running.line().await, "tick");
            sandbox.freeze().await.unwrap();
            let state = |pid: i32| {
                fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit(") ").next().unwrap().chars().next()
            };
            let pids = processes_with(&marker);
            assert_eq!(pids.len(), 1);
            eventually("it stands still", || state(pids[0]) == Some('T')).await;
            sandbox.thaw().await.unwrap();
            eventually("it goes on", || state(pids[0]) != Some('T')).await;
            sandbox.freeze().await.unwrap();
            drop(running);
            sandbox.destroy().await;
            assert_eq!(processes_with(&marker), Vec::<i32>::new());
            world.end().await;
        });
    }

    #[test]
    #[ignore = "run by `another_user_has_the_same_walls`"]
    fn an_abandoned_container_dies() {
        run_as_nobody(async {
            let world = World::start(|_| {}).await;
            let marker = format!("{}-child", world.data.path().display());
            let mut sandbox = world.create("orphan", ByteSize::mib(64)).await;
            let running = python(&mut sandbox, "import time\ntime.sleep(1000)", &[], &[("MARKER", &marker)]).await;
            assert_eq!(processes_with(&marker).len(), 1);
            sandbox.abandon();
            eventually("the container has died with the node's socket", || processes_with(&marker).is_empty()).await;
            drop(running);
            let World { data, host } = world;
            host.shutdown().await;
            assert_nothing_left(data.path()).await;
        });
    }
}
