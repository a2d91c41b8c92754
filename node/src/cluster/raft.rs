//! The Raft groups of this node, and the one way to write to them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    ServerState,
    async_runtime::WatchReceiver,
    error::{ClientWriteError, Fatal, InitializeError, RaftError},
};
use protocol::{
    EntityName, NodeId, SessionId, ShardId, codec,
    command::{
        Command, CommandBody, Condition, MAX_ENTRY, MetaCommand, MetaKey, MetaOp, MetaReply, MetaTxn, Origin, Reply,
        ShardOp, ShardReply,
    },
};
use raft_store::{GroupId, Observer, Raft, Store, Timers};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    proposer::{Outcome, Proposer},
    raft_network::NoPeers,
};
use crate::clock;

/// Largest command or op, bytes as encoded: its entry has something around it.
pub const MAX_COMMAND: usize = MAX_ENTRY - 1024;
/// A write that is not answered by then is refused with 503; its outcome is unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Patience with groups that recover their state at start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses between proposals of an op that has to be answered.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// How often it is looked whether a group has failed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Under this key `meta` holds what was fixed at bootstrap.
const CLUSTER_SETTING: &str = "cluster";

/// What is fixed when a cluster is bootstrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// UUID text; two clusters never merge.
    pub cluster_id: String,
    /// Number of activations groups, 1 to 64.
    pub shards: u16,
}

/// Raft timers of the groups.
#[derive(Debug, Clone, Copy)]
pub struct GroupTimers {
    pub meta: Timers,
    pub shards: Timers,
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    #[error("no leader takes the proposal: {0}")]
    NotLeader(String),
    #[error("not committed within {PROPOSE_TIMEOUT:?}; the outcome is unknown")]
    Timeout,
    /// The disk is slower than what is written: the op did not leave the queue.
    #[error("too much is to be written before it; nothing was proposed")]
    Busy,
    #[error("{bytes} bytes do not fit into one log entry")]
    TooLarge { bytes: usize },
    #[error("the group has failed: {0}")]
    Fatal(String),
    #[error("the node is stopping")]
    Stopped,
}

impl ProposeError {
    /// May the same proposal have an answer later? Then nobody knows whether it was written.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Timeout | Self::Busy | Self::NotLeader(_))
    }
}

/// Why the groups did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] raft_store::OpenError),
    #[error(transparent)]
    Store(#[from] raft_store::StoreError),
    #[error("group {group} did not start: {reason}")]
    Group { group: GroupId, reason: String },
    #[error("the cluster's settings: {0}")]
    Settings(String),
}

/// All groups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Groups(Arc<Inner>);

struct Inner {
    node: NodeId,
    store: Store,
    settings: ClusterSettings,
    meta: Raft,
    shards: Vec<(Raft, Proposer)>,
    session: OnceLock<SessionId>,
    sequence: AtomicU64,
}

impl Groups {
    /// Opens `meta` and the shards on `store`, creating a cluster of one with `shards` activations groups if there is
    /// none yet, and waits until this node leads them. Idempotent: a bootstrap that was cut off goes on.
    ///
    /// Runs on the Raft runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        node: NodeId,
        store: Store,
        shards: u16,
        timers: GroupTimers,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let meta = start_group(node, &store, GroupId::Meta, timers.meta, &observer).await?;
        let settings = settings(&meta, &store, shards).await?;
        let mut groups = Vec::with_capacity(settings.shards.into());
        for shard in 0..settings.shards {
            let raft = start_group(node, &store, GroupId::Shard(ShardId(shard)), timers.shards, &observer).await?;
            let proposer = Proposer::start(raft.clone());
            groups.push((raft, proposer));
        }
        let inner = Inner {
            node,
            store,
            settings,
            meta,
            shards: groups,
            session: OnceLock::new(),
            sequence: AtomicU64::new(0),
        };
        Ok(Self(Arc::new(inner)))
    }

    pub fn node(&self) -> NodeId {
        self.0.node
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub fn settings(&self) -> &ClusterSettings {
        &self.0.settings
    }

    /// The shard of all activations of `namespace`. Stable for the life of the cluster: taken from SHA-256.
    pub fn shard_of(&self, namespace: &EntityName) -> ShardId {
        let digest = Sha256::digest(namespace.as_str());
        let hash = digest.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
        ShardId((hash % u64::from(self.0.settings.shards)) as u16)
    }

    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.0.settings.shards).map(ShardId)
    }

    /// From now on proposals carry this session, so that a repeated one is not done twice.
    pub(super) fn opened(&self, session: SessionId) {
        // A process opens one session; a second call would be a bug of ours and keeps the first.
        let _ = self.0.session.set(session);
    }

    /// Writes to `meta` and waits until this node has applied it.
    ///
    /// # Errors
    /// [`ProposeError`]; after [`ProposeError::Timeout`] the outcome is unknown.
    pub async fn propose_meta(&self, command: MetaCommand) -> Result<MetaReply, ProposeError> {
        let bytes = codec::encoded_len(&command) as usize;
        if bytes > MAX_COMMAND {
            return Err(ProposeError::TooLarge { bytes });
        }
        let origin = self
            .0
            .session
            .get()
            .map(|session| Origin { session: *session, sequence: self.0.sequence.fetch_add(1, Ordering::Relaxed) });
        match write(&self.0.meta, CommandBody::Meta { origin, command }).await? {
            Reply::Meta(reply) => Ok(reply),
            other => Err(ProposeError::Fatal(format!("a meta command was answered with {other:?}"))),
        }
    }

    /// Writes to a shard and waits until this node has applied it.
    ///
    /// # Errors
    /// [`ProposeError`]; after [`ProposeError::Timeout`] the outcome is unknown, after [`ProposeError::Busy`] nothing was
    /// proposed. The op may be proposed again.
    pub async fn propose_shard(&self, shard: ShardId, op: ShardOp) -> Result<ShardReply, ProposeError> {
        let (_, proposer) = &self.0.shards[usize::from(shard.0)];
        proposer.propose(op).await
    }

    /// The same, proposed again until its outcome is known: for all that must come to its end, since a repeated op does
    /// nothing.
    ///
    /// # Errors
    /// [`ProposeError`], but none that another attempt may get over.
    pub async fn insist_shard(&self, shard: ShardId, op: ShardOp) -> Result<ShardReply, ProposeError> {
        let mut pause = FIRST_RETRY;
        loop {
            match self.propose_shard(shard, op.clone()).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(%shard, %error, "an op is not committed yet, proposing it again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_RETRY);
                }
                outcome => return outcome,
            }
        }
    }

    /// Writes to a shard without waiting: `tell` hears of the outcome when it is known, however long that takes. Not here:
    /// on the Raft runtime, or at once if there is nothing to wait for.
    pub fn submit_shard(&self, shard: ShardId, op: ShardOp, tell: impl FnOnce(Outcome) + Send + 'static) {
        let (_, proposer) = &self.0.shards[usize::from(shard.0)];
        proposer.submit(op, tell);
    }

    /// State of each group, for status and metrics.
    pub fn report(&self) -> Vec<GroupReport> {
        self.all().map(|(group, raft)| GroupReport::of(group, raft)).collect()
    }

    /// Waits until a group has failed, and says which and why: the disk, or an entry that cannot be applied. None
    /// recovers while the process lives. Looks once a second.
    pub async fn failed(&self) -> String {
        loop {
            for (group, raft) in self.all() {
                match &raft.metrics().borrow_watched().running_state {
                    Ok(()) | Err(Fatal::Stopped) => {}
                    Err(fatal) => return format!("{group}: {fatal}"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends all groups. What was acknowledged is on disk already.
    pub async fn shutdown(&self) {
        for (_, raft) in self.all() {
            if let Err(error) = raft.shutdown().await {
                tracing::warn!(%error, "a Raft group did not end cleanly");
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = (GroupId, &Raft)> {
        let shards = self.0.shards.iter().zip(0..).map(|((raft, _), shard)| (GroupId::Shard(ShardId(shard)), raft));
        std::iter::once((GroupId::Meta, &self.0.meta)).chain(shards)
    }
}

/// What `whisp status` shows of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupReport {
    /// `meta` or `shard N`.
    pub group: String,
    pub leader: Option<u64>,
    pub term: u64,
    pub last_log: u64,
    pub applied: u64,
}

impl GroupReport {
    fn of(group: GroupId, raft: &Raft) -> Self {
        let metrics = raft.metrics().borrow_watched().clone();
        Self {
            group: group.to_string(),
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.map_or(0, |id| id.index),
        }
    }
}

async fn start_group(
    node: NodeId,
    store: &Store,
    group: GroupId,
    timers: Timers,
    observer: &Arc<dyn Observer>,
) -> Result<Raft, StartError> {
    let failed = |reason: String| StartError::Group { group, reason };
    // The only voter needs no ticks: nothing ever times out.
    let config = raft_store::config(group, timers, true).map_err(|error| failed(error.to_string()))?;
    let state_machine = store.state_machine(group, Arc::clone(observer));
    let raft = Raft::new(node.0, Arc::new(config), NoPeers, store.log(group), state_machine)
        .await
        .map_err(|error| failed(error.to_string()))?;

    let members = BTreeMap::from([(node.0, openraft::BasicNode::default())]);
    match raft.initialize(members).await {
        // A new group elects its first leader at once.
        Ok(()) => {}
        // One that is there has its ticks off, so it must be told to.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
            raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        }
        Err(error) => return Err(failed(error.to_string())),
    }
    raft.wait(Some(START_TIMEOUT))
        .state(ServerState::Leader, "the only voter leads")
        .await
        .map_err(|error| failed(error.to_string()))?;
    // Its first entry commits everything before it, so state is what it was when the earlier process ended.
    raft.wait_for_recovery(Some(START_TIMEOUT)).await.map_err(|error| failed(error.to_string()))?;
    tokio::spawn(raft_store::keep_log_short(store.clone(), group, raft.clone()));
    Ok(raft)
}

async fn settings(meta: &Raft, store: &Store, shards: u16) -> Result<ClusterSettings, StartError> {
    let key = MetaKey::Setting(CLUSTER_SETTING.to_owned());
    let wanted = ClusterSettings { cluster_id: uuid::Uuid::new_v4().to_string(), shards };
    let txn = MetaTxn {
        conditions: vec![Condition::Absent(key.clone())],
        ops: vec![MetaOp::Put { key: key.clone(), value: codec::encode(&wanted), list: None }],
    };
    // Refused if there are settings; those hold then. Also proves that the group takes writes.
    write(meta, CommandBody::Meta { origin: None, command: MetaCommand::Write(txn) })
        .await
        .map_err(|error| StartError::Settings(error.to_string()))?;
    let stored =
        store.meta().get(&key)?.ok_or_else(|| StartError::Settings("not there after they were written".into()))?;
    codec::decode(&stored.value).map_err(|error| StartError::Settings(error.to_string()))
}

async fn write(raft: &Raft, body: CommandBody) -> Result<Reply, ProposeError> {
    let command = Command { now_ms: clock::unix_ms(), body };
    match tokio::time::timeout(PROPOSE_TIMEOUT, raft.client_write(command)).await {
        Err(_) => Err(ProposeError::Timeout),
        Ok(Ok(response)) => Ok(response.data),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(ProposeError::NotLeader(forward.to_string()))
        }
        Ok(Err(error)) => Err(ProposeError::Fatal(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use protocol::{
        Activation, ActivationId, ActivationStatus,
        activation::Response,
        command::{Accept, Finish},
        entity::{Parameters, SemVer},
    };
    use raft_store::{MetaChange, Options, ShardChange};

    use super::*;
    use crate::cluster::session;

    struct NobodyListens;

    impl Observer for NobodyListens {
        fn meta_applied(&self, _changes: &[MetaChange]) {}
        fn shard_applied(&self, _shard: ShardId, _changes: &[ShardChange]) {}
    }

    async fn start(dir: &std::path::Path) -> Groups {
        start_with(dir, Options::default(), Arc::new(NobodyListens)).await
    }

    async fn start_with(dir: &std::path::Path, options: Options, observer: Arc<dyn Observer>) -> Groups {
        let store = Store::open(dir, options).expect("a fresh or closed store");
        let timers = GroupTimers { meta: Timers::META, shards: Timers::SHARD };
        Groups::start(NodeId(1), store, 4, timers, observer).await.expect("the groups start")
    }

    /// Ends `groups` so that their directory can be opened again.
    async fn stop(groups: Groups) {
        groups.shutdown().await;
        let store = groups.store().clone();
        drop(groups);
        // Tasks of the groups hold it for some moments more.
        let closed = tokio::task::spawn_blocking(move || store.close(Duration::from_secs(30)));
        closed.await.expect("no panic").expect("nobody keeps the store");
    }

    fn name() -> EntityName {
        EntityName::new("guest").expect("a name")
    }

    fn record() -> Activation {
        let now_ms = clock::unix_ms();
        Activation {
            namespace: name(),
            name: name(),
            version: SemVer::FIRST,
            subject: "guest".to_owned(),
            activation_id: ActivationId::new(now_ms),
            cause: None,
            start_ms: now_ms,
            end_ms: Some(now_ms),
            duration_ms: Some(0),
            response: Response { status: ActivationStatus::Success, result: None, size: None },
            logs: Vec::new(),
            annotations: Parameters::default(),
            publish: false,
            filter_name: "guest".into(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_of_one_keeps_its_settings_and_fences_its_earlier_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = start(dir.path()).await;
        let settings = first.settings().clone();
        assert_eq!(settings.shards, 4);
        let opened = session::open(&first, "one").await.expect("a session");
        stop(first).await;

        let second = start(dir.path()).await;
        assert_eq!(second.settings(), &settings);
        let next = session::open(&second, "one").await.expect("a session");
        assert!(next.session.incarnation > opened.session.incarnation);
        assert!(next.taken_over.is_empty());
        second.shutdown().await;
    }

    /// From the first session on, its disk takes longer than any proposal waits.
    struct StallsOnSession(Arc<AtomicBool>);

    impl Observer for StallsOnSession {
        fn meta_applied(&self, changes: &[MetaChange]) {
            if changes.iter().any(|change| matches!(change, MetaChange::SessionOpened(_))) {
                self.0.store(true, Ordering::SeqCst);
                let stalled = Arc::clone(&self.0);
                std::thread::spawn(move || {
                    std::thread::sleep(PROPOSE_TIMEOUT + Duration::from_millis(500));
                    stalled.store(false, Ordering::SeqCst);
                });
            }
        }

        fn shard_applied(&self, _shard: ShardId, _changes: &[ShardChange]) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_disk_delays_the_take_over_of_accepted_work_and_does_not_end_the_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = start(dir.path()).await;
        let owner = session::open(&first, "one").await.expect("a session").session;
        let shard = first.shard_of(&name());
        let mut accepted = Vec::new();
        for _ in 0..3 {
            let if_lost = record();
            accepted.push(if_lost.activation_id);
            let accept = Accept { owner, work: b"work".to_vec(), if_lost, started: false, backlog_limit: 100 };
            let reply = first.propose_shard(shard, ShardOp::Accept(Arc::new(accept))).await;
            assert!(matches!(reply, Ok(ShardReply::Accepted)), "{reply:?}");
        }
        stop(first).await;

        let options = Options::default();
        let stalls = StallsOnSession(Arc::clone(&options.faults.stalled));
        let second = start_with(dir.path(), options, Arc::new(stalls)).await;
        let opened = session::open(&second, "one").await.expect("a session, though late");
        let mut taken_over: Vec<_> = opened.taken_over.iter().map(|waiting| (waiting.id, waiting.attempt)).collect();
        taken_over.sort();
        accepted.sort();
        assert_eq!(taken_over, accepted.into_iter().map(|id| (id, 1)).collect::<Vec<_>>());
        second.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_stands_still_bounds_what_waits_and_what_was_given_up_is_not_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options::default();
        let stalled = Arc::clone(&options.faults.stalled);
        let groups = start_with(dir.path(), options, Arc::new(NobodyListens)).await;
        let owner = session::open(&groups, "one").await.expect("a session").session;
        let shard = groups.shard_of(&name());
        let accept = |bytes: usize| {
            let accept = Accept { owner, work: vec![0; bytes], if_lost: record(), started: false, backlog_limit: 1000 };
            let (groups, op) = (groups.clone(), ShardOp::Accept(Arc::new(accept)));
            async move { groups.propose_shard(shard, op).await }
        };
        let last_log = || groups.report()[1 + usize::from(shard.0)].last_log;
        stalled.store(true, Ordering::SeqCst);
        // As many entries as may be under way, none of which is durable.
        let mut given_up = Vec::new();
        for _ in 0..4 {
            let before = last_log();
            given_up.push(tokio::spawn(accept(1)));
            while last_log() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        given_up.extend((0..20).map(|_| tokio::spawn(accept(MAX_COMMAND - 4096))));
        let (mut timeouts, mut busy) = (0, 0);
        for reply in given_up {
            match reply.await.expect("no panic") {
                Err(ProposeError::Timeout) => timeouts += 1,
                Err(ProposeError::Busy) => busy += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((timeouts, busy), (4 + 16, 4), "32 MiB wait at most");
        stalled.store(false, Ordering::SeqCst);
        let reply = accept(1).await;
        assert!(matches!(reply, Ok(ShardReply::Accepted)), "{reply:?}");
        assert_eq!(groups.store().shard(shard).backlog(&name()).expect("it can be read"), 4 + 1);
        groups.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_fails_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut options = Options::default();
        options.faults.fail_flush = Some(100);
        let groups = start_with(dir.path(), options, Arc::new(NobodyListens)).await;
        let session = session::open(&groups, "one").await.expect("a session").session;
        let well = tokio::time::timeout(Duration::from_millis(50), groups.failed()).await;
        assert!(well.is_err(), "{well:?}");
        let shard = groups.shard_of(&name());
        let start = || ShardOp::Start { id: ActivationId::new(clock::unix_ms()), session, attempt: 0 };
        while groups.propose_shard(shard, start()).await.is_ok() {}
        let cause = tokio::time::timeout(Duration::from_secs(10), groups.failed()).await.expect("it is seen");
        assert!(cause.contains("a test asked for a failure"), "{cause}");
        groups.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_wait_for_company_and_nothing_else_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let groups = start(dir.path()).await;
        let session = session::open(&groups, "one").await.expect("a session").session;
        let shard = groups.shard_of(&name());
        let finish =
            || ShardOp::Finish(Arc::new(Finish { session, record: record().into(), log_parts: 0, store: true }));
        let entries = || groups.store().flush_stats().entries;
        let before = entries();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (groups, op) = (groups.clone(), finish());
            waiting.spawn(async move { groups.propose_shard(shard, op).await });
        }
        while let Some(reply) = waiting.join_next().await {
            assert!(matches!(reply.expect("no panic"), Ok(ShardReply::Finished)));
        }
        assert!(entries() - before < 50, "{} entries for 100 records", entries() - before);

        // What cannot wait goes at once and takes the records along: both are in one entry.
        let mut together = false;
        for _ in 0..20 {
            let before = entries();
            let unknown = ShardOp::Start { id: ActivationId::new(clock::unix_ms()), session, attempt: 0 };
            let (record, start) =
                tokio::join!(groups.propose_shard(shard, finish()), groups.propose_shard(shard, unknown));
            assert!(matches!(record, Ok(ShardReply::Finished)));
            assert!(start.is_ok());
            together |= entries() - before == 1;
        }
        assert!(together, "a record never travelled with a start");
        groups.shutdown().await;
    }
}
