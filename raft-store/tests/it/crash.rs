//! A process that writes and acknowledges is killed, again and again, with and without the power going too. This binary runs
//! itself as that process.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::{
    ActivationId, ShardId,
    command::{MetaKey, Reply, ShardReply},
};
use raft_store::{Faults, GroupId, Options};

use crate::{
    network::{Net, Node, SHARDS},
    support::{accept, fqn, id, put, session, shard},
};

const DIR: &str = "WHISP_CRASH_DIR";
const ROUND: &str = "WHISP_CRASH_ROUND";
const NO_SYNC: &str = "WHISP_CRASH_NO_SYNC";

const KILLS: u64 = 50;
const ACKNOWLEDGED: usize = 500;
const WRITERS: u64 = 16;

/// Small buffers, so that the files of the log and the tables turn over between kills. Without the sync they are large: a
/// table that is written is synced, and would save what the test wants to see lost.
fn options(no_sync: bool) -> Options {
    if no_sync {
        return Options { faults: Faults { no_sync, ..Faults::default() }, ..Options::default() };
    }
    Options { write_buffer: 256 << 10, max_wal: 512 << 10, ..Options::default() }
}

/// Not a test: what the tests here run and kill. Writes from many tasks to all groups, and prints a line for each write that
/// was acknowledged, after it was.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let round: u64 = std::env::var(ROUND).expect("set by the parent").parse().expect("a number");
    let no_sync = std::env::var_os(NO_SYNC).is_some();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let node = Node::start(1, Path::new(&dir), options(no_sync), &Net::default(), true).await.expect("a node");
        node.lead_alone().await.expect("leads");
        let node = Arc::new(node);
        let out = Arc::new(Mutex::new(std::io::stdout()));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (node, out) = (node.clone(), out.clone());
            writers.spawn(async move {
                for n in 0.. {
                    let line = write_one(&node, round, writer, n).await;
                    let mut out = out.lock().expect("no writer panicked");
                    // The parent may be gone; then so are we soon.
                    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
                }
            });
        }
        writers.join_all().await;
    });
}

async fn write_one(node: &Node, round: u64, writer: u64, n: u64) -> String {
    if writer.is_multiple_of(4) {
        let name = format!("r{round}-{writer}-{n}");
        node.write(GroupId::Meta, put(&name, 400)).await.expect("written");
        format!("\nack meta {name}\n")
    } else {
        let id = id(0, (round << 40) | (writer << 32) | n);
        let group = GroupId::Shard(ShardId(u16::try_from(writer).expect("few writers") % SHARDS));
        let reply = node.write(group, shard(vec![accept("ns", id, session(1, 1))])).await.expect("written");
        assert_eq!(reply, Reply::Shard(vec![ShardReply::Accepted]));
        format!("\nack {} {id}\n", writer % u64::from(SHARDS))
    }
}

/// Writes that were acknowledged.
#[derive(Default)]
struct Acknowledged {
    meta: HashSet<String>,
    shards: HashSet<(u16, ActivationId)>,
}

impl Acknowledged {
    fn len(&self) -> usize {
        self.meta.len() + self.shards.len()
    }

    fn note(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if words.next() != Some("ack") {
            return;
        }
        match (words.next(), words.next()) {
            (Some("meta"), Some(name)) => drop(self.meta.insert(name.to_owned())),
            (Some(shard), Some(id)) => {
                self.shards.insert((shard.parse().expect("a shard"), id.parse().expect("an id")));
            }
            _ => panic!("a broken line: {line:?}"),
        }
    }

    /// How many of them are not there any more.
    async fn lost(&self, dir: &Path) -> anyhow::Result<usize> {
        let net = Net::default();
        let node = Node::start(1, dir, options(false), &net, true).await?;
        node.lead_alone().await?;
        for raft in node.rafts.values() {
            // Its blank entry comes after all that was committed before.
            raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex).await?;
        }
        let mut lost = 0;
        for name in &self.meta {
            lost += usize::from(node.store.meta().get(&MetaKey::Entity(fqn("ns", None, name)))?.is_none());
        }
        for (shard, id) in &self.shards {
            lost += usize::from(node.store.shard(ShardId(*shard)).unfinished_one(id)?.is_none());
        }
        node.stop(&net).await?;
        Ok(lost)
    }
}

/// Runs the child until it acknowledged enough, kills it, and answers what it acknowledged.
fn run_and_kill(dir: &Path, round: u64, environment: &[(&str, &Path)]) -> anyhow::Result<Acknowledged> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "crash::child_process", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).env(ROUND, round.to_string()).envs(environment.iter().copied());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    let mut acknowledged = Acknowledged::default();
    while acknowledged.len() < ACKNOWLEDGED {
        let line = lines.next().ok_or_else(|| anyhow::anyhow!("the child ended by itself in round {round}"))??;
        acknowledged.note(&line);
    }
    child.0.kill()?; // SIGKILL
    child.0.wait()?;
    // What it acknowledged before it died counts too. The last line may be cut short.
    let rest: Vec<String> = lines.collect::<Result<_, _>>()?;
    for line in rest.iter().take(rest.len().saturating_sub(1)) {
        acknowledged.note(line);
    }
    Ok(acknowledged)
}

/// Ends the child also if the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_to_a_kill() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut all = Acknowledged::default();
    for round in 0..KILLS {
        let acknowledged = run_and_kill(dir.path(), round, &[])?;
        assert!(acknowledged.len() >= ACKNOWLEDGED);
        assert_eq!(acknowledged.lost(dir.path()).await?, 0, "in round {round}");
        all.meta.extend(acknowledged.meta);
        all.shards.extend(acknowledged.shards);
    }
    assert_eq!(all.lost(dir.path()).await?, 0);
    Ok(())
}

/// Compiles the shim that notes synced lengths.
fn shim(dir: &Path) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/power_loss.c");
    let library = dir.join("power_loss.so");
    let status =
        Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status()?;
    anyhow::ensure!(status.success(), "cc could not compile {}", source.display());
    Ok(library)
}

/// Cuts every file of the log to what was synced of it, as a power loss does. Answers how many bytes that took.
fn lose_power(dir: &Path, lengths: &Path) -> anyhow::Result<u64> {
    let mut cut = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let synced = match fs::read_to_string(lengths.join(path.file_name().expect("a file"))) {
            Ok(text) => text.trim().parse()?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
        let length = fs::metadata(&path)?.len();
        if length > synced {
            File::options().write(true).open(&path)?.set_len(synced)?;
            cut += length - synced;
        }
    }
    Ok(cut)
}

/// Runs, kills and cuts the power, several times; answers how many acknowledged writes were lost.
async fn power_losses(rounds: u64, no_sync: bool) -> anyhow::Result<usize> {
    let scratch = tempfile::tempdir()?;
    let library = shim(scratch.path())?;
    let (dir, lengths) = (scratch.path().join("data"), scratch.path().join("lengths"));
    let (mut lost, mut cut) = (0, 0);
    for round in 0..rounds {
        // Numbers of files come again after a restart that nobody noted.
        fs::remove_dir_all(&lengths).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::create_dir(&lengths)?;
        let mut environment = vec![("LD_PRELOAD", library.as_path()), ("SYNCED_LENGTHS", &lengths)];
        if no_sync {
            environment.push((NO_SYNC, Path::new("1")));
        }
        let acknowledged = run_and_kill(&dir, round, &environment)?;
        anyhow::ensure!(fs::read_dir(&lengths)?.next().is_some(), "the shim saw no sync of any log");
        cut += lose_power(&dir, &lengths)?;
        lost += acknowledged.lost(&dir).await?;
        tokio::time::sleep(Duration::ZERO).await;
    }
    anyhow::ensure!(cut > 0, "no power loss took anything: the test shows nothing");
    Ok(lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_to_a_power_loss() -> anyhow::Result<()> {
    assert_eq!(power_losses(10, false).await?, 0);
    Ok(())
}

/// The test above can fail: without the flush it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_flush_a_power_loss_takes_acknowledged_writes() -> anyhow::Result<()> {
    let lost = power_losses(1, true).await?;
    assert!(lost > ACKNOWLEDGED / 2, "only {lost} were lost");
    Ok(())
}
