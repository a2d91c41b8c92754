//! Proposals to one shard: all that wait become one log entry, and a few entries are under way at once.
//!
//! An entry costs Raft the same whether it holds one op or five hundred: a sync, and a dozen wake-ups of threads. So
//! under load ops travel together. Records, whose callers have their answers already, wait a little for company; all
//! else goes at once and takes them along.

use std::{sync::Arc, time::Duration};

use openraft::{impls::ProgressResponder, type_config::alias::OneshotReceiverOf};
use protocol::{
    codec,
    command::{Command, CommandBody, Reply, ShardOp, ShardReply},
};
use raft_store::{Raft, TypeConfig};
use tokio::{
    sync::{
        Notify, OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, sleep_until, timeout_at},
};

use super::raft::{MAX_COMMAND, PROPOSE_TIMEOUT, ProposeError};
use crate::clock;

/// Most ops in one entry.
const MAX_OPS: usize = 512;
/// An entry is closed once its ops take this many bytes, so that large ones do not delay the small.
const FULL_ENTRY: usize = 512 << 10;
/// Entries of one shard under way at once: enough to hide the flush, few enough to let entries fill.
const ENTRIES_IN_FLIGHT: usize = 4;
/// How long a record waits for others. A record must be proposed within 10 ms of its logs.
const COMPANY: Duration = Duration::from_millis(4);
/// Bytes of ops that may be under way before callers are held back.
const QUEUE_BYTES: usize = 32 << 20;
/// What an op takes in memory beside its encoded bytes, so that small ones are bounded too.
const OP_BYTES: usize = 1 << 10;
/// Ops without a waiting caller that may wait; those who submit them bound their number themselves, mostly to less.
const TOLD: usize = 8192;

/// What became of an op.
pub type Outcome = Result<ShardReply, ProposeError>;
type Written = openraft::raft::ClientWriteResult<TypeConfig>;

struct Proposal {
    op: ShardOp,
    /// When it is to be proposed at the latest.
    due: Instant,
    /// Encoded size.
    bytes: usize,
    hearer: Hearer,
}

/// Who hears what becomes of an op.
enum Hearer {
    /// Waits for it, and may give up; has the room until then.
    Caller(oneshot::Sender<Outcome>, #[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    /// Is told, however long it takes. That wakes no other thread.
    Told(Box<dyn FnOnce(Outcome) + Send>),
}

impl Hearer {
    fn has_given_up(&self) -> bool {
        matches!(self, Self::Caller(reply, _) if reply.is_closed())
    }

    fn hear(self, outcome: Outcome) {
        match self {
            // A proposer that went away does not want its answer.
            Self::Caller(reply, _) => drop(reply.send(outcome)),
            Self::Told(tell) => tell(outcome),
        }
    }
}

/// Handle to the proposer of one shard.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Proposal>,
    /// What bounds the ops of callers; those of which somebody is told have bounds of their own.
    room: Arc<Semaphore>,
    /// Told of each op that cannot wait: records alone do not wake anybody before they are due.
    urgent: Arc<Notify>,
}

impl Proposer {
    /// Starts the proposer on the current runtime; it ends when all handles are dropped.
    pub fn start(raft: Raft) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_BYTES / OP_BYTES + TOLD);
        let urgent = Arc::new(Notify::new());
        tokio::spawn(run(raft, receiver, Arc::clone(&urgent)));
        Self { queue: sender, room: Arc::new(Semaphore::new(QUEUE_BYTES)), urgent }
    }

    /// Proposes `op` and waits until it is applied, at most [`PROPOSE_TIMEOUT`]. Every op may be proposed again.
    ///
    /// # Errors
    /// [`ProposeError`]; after [`ProposeError::Timeout`] the outcome is unknown, after [`ProposeError::Busy`] nothing was
    /// proposed.
    pub async fn propose(&self, op: ShardOp) -> Result<ShardReply, ProposeError> {
        let bytes = codec::encoded_len(&op) as usize;
        if bytes > MAX_COMMAND {
            return Err(ProposeError::TooLarge { bytes });
        }
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        // An op is far below 4 GiB.
        let room = Arc::clone(&self.room).acquire_many_owned((bytes + OP_BYTES) as u32);
        let room = timeout_at(deadline, room).await.map_err(|_| ProposeError::Busy)?;
        let room = room.map_err(|_| ProposeError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.enqueue(op, bytes, Hearer::Caller(reply, room));
        match timeout_at(deadline, answer).await {
            Ok(answered) => answered.map_err(|_| ProposeError::Stopped)?,
            Err(_elapsed) => Err(ProposeError::Timeout),
        }
    }

    /// Proposes `op` and returns at once; `tell` hears of the outcome, on the proposer's runtime. The caller sees to it
    /// that few ops wait, else it hears [`ProposeError::Busy`]; it never hears [`ProposeError::Timeout`].
    pub fn submit(&self, op: ShardOp, tell: impl FnOnce(Outcome) + Send + 'static) {
        let bytes = codec::encoded_len(&op) as usize;
        if bytes > MAX_COMMAND {
            return tell(Err(ProposeError::TooLarge { bytes }));
        }
        self.enqueue(op, bytes, Hearer::Told(Box::new(tell)));
    }

    fn enqueue(&self, op: ShardOp, bytes: usize, hearer: Hearer) {
        let patience = if can_wait(&op) { COMPANY } else { Duration::ZERO };
        let proposal = Proposal { op, due: Instant::now() + patience, bytes, hearer };
        match self.queue.try_send(proposal) {
            Ok(()) if patience.is_zero() => self.urgent.notify_one(),
            Ok(()) => {}
            Err(TrySendError::Full(refused)) => refused.hearer.hear(Err(ProposeError::Busy)),
            Err(TrySendError::Closed(refused)) => refused.hearer.hear(Err(ProposeError::Stopped)),
        }
    }
}

/// Does nobody wait for the reply to this op?
fn can_wait(op: &ShardOp) -> bool {
    matches!(op, ShardOp::Finish(_))
}

async fn run(raft: Raft, mut queue: mpsc::Receiver<Proposal>, urgent: Arc<Notify>) {
    let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    let mut held: Option<Proposal> = None;
    loop {
        // A place first, then the ops: what arrives while all places are taken fills the next entry.
        let Ok(place) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let first = match held.take() {
            Some(proposal) => proposal,
            None => match queue.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        // Who proposed it has given up: it would only keep the others waiting.
        if first.hearer.has_given_up() {
            continue;
        }
        if first.due > Instant::now() {
            // An old permit of `urgent` only ends this early.
            tokio::select! {
                () = sleep_until(first.due) => {}
                () = urgent.notified() => {}
            }
        }
        let mut bytes = first.bytes;
        let mut ops = vec![first.op];
        let mut hearers = vec![first.hearer];
        while ops.len() < MAX_OPS && bytes < FULL_ENTRY {
            let Ok(next) = queue.try_recv() else { break };
            if bytes + next.bytes > MAX_COMMAND {
                held = Some(next);
                break;
            }
            bytes += next.bytes;
            ops.push(next.op);
            hearers.push(next.hearer);
        }

        let command = Command { now_ms: clock::unix_ms(), body: CommandBody::Shard(ops) };
        let (responder, written) = ProgressResponder::complete_only();
        let submitted = raft.client_write_ff(command, Some(responder)).await;
        match submitted {
            Ok(()) => {
                tokio::spawn(async move {
                    answer(written, hearers).await;
                    drop(place);
                });
            }
            Err(fatal) => {
                let error = ProposeError::Fatal(fatal.to_string());
                hearers.into_iter().for_each(|hearer| hearer.hear(Err(error.clone())));
            }
        }
    }
}

async fn answer(written: OneshotReceiverOf<TypeConfig, Written>, hearers: Vec<Hearer>) {
    let outcome = match written.await {
        Ok(Ok(response)) => match response.data {
            Reply::Shard(answers) if answers.len() == hearers.len() => Ok(answers),
            other => Err(ProposeError::Fatal(format!("{} ops were answered with {other:?}", hearers.len()))),
        },
        Ok(Err(refused)) => Err(ProposeError::NotLeader(refused.to_string())),
        Err(_) => Err(ProposeError::Stopped),
    };
    match outcome {
        Ok(answers) => hearers.into_iter().zip(answers).for_each(|(hearer, answer)| hearer.hear(Ok(answer))),
        Err(error) => hearers.into_iter().for_each(|hearer| hearer.hear(Err(error.clone()))),
    }
}
