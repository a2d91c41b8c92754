//! The same without being root: these tests run again as `nobody`, in a process of their own.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use protocol::ByteSize;
use serde_json::{Value, json};

use super::{
    escapes::{self, Surroundings},
    exhaustion::EAT,
    join::join,
    support::{World, assert_nothing_left, eventually, in_own_network, init_program, processes_with, python, run},
};

const NOBODY: &str = "65534";

#[test]
fn another_user_has_the_same_walls() {
    in_own_network(|| async {
        // Neither the binaries nor the temporary folder of root's are for others to read.
        let folder = tempfile::Builder::new().prefix("whisp-nobody").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (tests, init) = (folder.path().join("tests"), folder.path().join("whisp"));
        fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
        fs::copy(init_program(), &init).unwrap();
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).unwrap();
        std::os::unix::fs::chown(&temporary, Some(65534), Some(65534)).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all"])
            .arg(&tests)
            .args(["--ignored", "--nocapture", "--test-threads=1", "sandbox::unprivileged::as_nobody"])
            .env("WHISP_TEST_INIT", &init)
            .env("TMPDIR", &temporary)
            .current_dir("/")
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        eprintln!("{stdout}\n{stderr}");
        assert!(output.status.success());
        assert!(stdout.contains("4 passed"), "{stdout}");
    });
}

mod as_nobody {
    use super::*;

    #[test]
    #[ignore = "run by `another_user_has_the_same_walls`"]
    fn escapes() {
        run(async {
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
        run(async {
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
        run(async {
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
        run(async {
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
