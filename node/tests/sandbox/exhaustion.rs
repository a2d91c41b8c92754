//! Containers that take all they can get: it ends at their limits, and with them.

use std::time::Duration;

use protocol::ByteSize;

use super::support::{World, eventually, in_own_network, processes_with, python};

const FORKS: &str = "
import os, signal
count = 0
try:
    while count < 5000:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError as error:
    print(count, error.errno, flush=True)
signal.pause()
";

const FILL: &str = "
import os
block, total = b'x' * (1 << 20), 0
for folder in ('/tmp', '/dev/shm', '/action'):
    try:
        with open(folder + '/big', 'wb', buffering=0) as file:
            while total < 1 << 30:
                total += file.write(block)
    except OSError as error:
        print(folder, error.errno, flush=True)
print(total, flush=True)
count = 0
try:
    while count < 1000000:
        open('/tmp/%d' % count, 'w').close(); count += 1
except OSError as error:
    print('files', error.errno, flush=True)
";

pub const EAT: &str = "
import time
print('eating', flush=True)
food = []
while True:
    food.append(bytearray(4 << 20))
    for at in range(0, 4 << 20, 4096):
        food[-1][at] = 1
    time.sleep(0.005)
";

const OUTLIVE: &str = "
import os, signal, sys, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            if sys.argv[1] == 'stop': os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
        os._exit(0)
time.sleep(0.3)
print('done', flush=True)
time.sleep(1000)
";

#[test]
fn a_fork_bomb_ends_at_its_limit_and_with_its_container() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let mut sandbox = world.create("bomb", ByteSize::mib(512)).await;
        let marker = world.data.path().display().to_string();
        let mut running = python(&mut sandbox, FORKS, &[], &[("MARKER", &marker)]).await;
        let line = running.line().await;
        let (count, errno) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!((900..1024).contains(&count.parse::<u32>().unwrap()), "{line}");
        assert_eq!(errno, libc::EAGAIN.to_string());
        // The machine and its other containers go on.
        let mut other = world.create("other", ByteSize::mib(128)).await;
        assert_eq!(python(&mut other, "print('alive')", &[], &[]).await.output().await, "alive\n");
        other.destroy().await;
        drop(running);
        sandbox.destroy().await;
        assert_eq!(processes_with(&marker), Vec::<i32>::new());
        world.end().await;
    });
}

#[test]
fn a_full_folder_is_an_error_and_bounded_by_the_memory() {
    in_own_network(|| async {
        let world = World::start(|_| {}).await;
        let mut sandbox = world.create("fills", ByteSize::mib(128)).await;
        let output = python(&mut sandbox, FILL, &[], &[]).await.output().await;
        let lines: Vec<_> = output.lines().collect();
        let enospc = libc::ENOSPC;
        assert_eq!(lines[0], format!("/tmp {enospc}"), "{output}");
        assert_eq!(lines[1], format!("/dev/shm {enospc}"));
        assert_eq!(lines[2], format!("/action {enospc}"));
        assert!(lines[3].parse::<u64>().unwrap() <= 64 << 20, "{output}");
        assert_eq!(lines[4], format!("files {enospc}"));
        assert!(!sandbox.killed_for_memory());
        sandbox.destroy().await;
        // Its successor starts with nothing.
        let mut next = world.create("next", ByteSize::mib(128)).await;
        let list = "import os\nprint([os.listdir(f) for f in ('/tmp', '/dev/shm', '/action')])";
        assert_eq!(python(&mut next, list, &[], &[]).await.output().await, "[[], [], []]\n");
        next.destroy().await;
        world.end().await;
    });
}

#[test]
fn too_much_memory_ends_the_container_alone_and_is_told() {
    in_own_network(|| async {
        for unsafe_no_sandbox in [false, true] {
            let world = World::start(|config| config.unsafe_no_sandbox = unsafe_no_sandbox).await;
            let mut sandbox = world.create("eats", ByteSize::mib(64)).await;
            let mut bystander = world.create("bystander", ByteSize::mib(64)).await;
            let mut still = python(
                &mut bystander,
                "import socket\nprint('here', flush=True)\nsocket.socket(fileno=3).recv(1)",
                &[],
                &[],
            )
            .await;
            assert_eq!(still.line().await, "here");
            let running = python(&mut sandbox, EAT, &[], &[]).await;
            tokio::time::timeout(Duration::from_secs(30), sandbox.exited()).await.expect("it is killed");
            eventually("the reason is known", || sandbox.killed_for_memory()).await;
            assert!(bystander.is_alive() && !bystander.killed_for_memory());
            drop((running, still));
            sandbox.destroy().await;
            bystander.destroy().await;
            world.end().await;
        }
    });
}

#[test]
fn nothing_outlives_its_container() {
    in_own_network(|| async {
        for unsafe_no_sandbox in [false, true] {
            for how in ["run", "stop"] {
                let world = World::start(|config| config.unsafe_no_sandbox = unsafe_no_sandbox).await;
                let marker = format!("{}-outlives", world.data.path().display());
                let mut sandbox = world.create("outlives", ByteSize::mib(256)).await;
                let mut running = python(&mut sandbox, OUTLIVE, &[how], &[("MARKER", &marker)]).await;
                assert_eq!(running.line().await, "done");
                assert_eq!(processes_with(&marker).len(), 6);
                drop(running);
                sandbox.destroy().await;
                eventually("all are gone", || processes_with(&marker).is_empty()).await;
                world.end().await;
            }
        }
    });
}
