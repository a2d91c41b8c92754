//! The session of this process: opened once at start, after which nothing counts that an earlier process of this node
//! still has under way.

use std::ops::ControlFlow;

use futures_util::{StreamExt, stream};
use protocol::{
    ActivationId, SessionId, ShardId,
    command::{MetaCommand, MetaReply, ShardOp, ShardReply},
};

use super::raft::{Groups, ProposeError};

/// How many pieces of work are assigned at once: enough to fill entries, few enough to be answered in time.
const ASSIGNING: usize = 1024;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Store(#[from] raft_store::StoreError),
    #[error("{command} was answered with {reply}")]
    UnexpectedReply { command: &'static str, reply: String },
    #[error("this process's session {0} is fenced already: another process runs as this node")]
    Fenced(SessionId),
}

/// A session, and what it took over from the one before.
pub struct Opened {
    pub session: SessionId,
    /// Accepted work that is this session's now, oldest first of each shard.
    pub taken_over: Vec<Waiting>,
    /// Activations that ran when the earlier process died; each has its record now.
    pub lost: u64,
}

/// One accepted activation that is this session's to place. What it runs lies in the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub id: ActivationId,
    pub shard: ShardId,
    pub attempt: u32,
}

/// Opens the session of this process, fences its predecessors in every shard, and takes over what they had accepted
/// and not started. A node is ready only after this.
///
/// # Errors
/// [`SessionError`]; it may be called again.
pub async fn open(groups: &Groups, node_name: &str) -> Result<Opened, SessionError> {
    let command = MetaCommand::OpenSession { node: groups.node(), node_name: node_name.to_owned() };
    let session = match groups.propose_meta(command).await? {
        MetaReply::SessionOpened { session, closed } => {
            tracing::info!(%session, closed = closed.map(tracing::field::display), "session opened");
            session
        }
        reply => return Err(unexpected("OpenSession", &reply)),
    };
    groups.opened(session);

    let mut lost = 0;
    let mut taken_over = Vec::new();
    for shard in groups.shards() {
        if let Some(incarnation) = session.incarnation.checked_sub(1) {
            let before = SessionId { node: session.node, incarnation };
            let fence = ShardOp::Fence { session: before, node_name: node_name.to_owned() };
            match groups.insist_shard(shard, fence).await? {
                ShardReply::Fenced { lost: here, .. } => lost += here,
                reply => return Err(unexpected("Fence", &reply)),
            }
        }
        take_over(groups, session, shard, &mut taken_over).await?;
    }
    Ok(Opened { session, taken_over, lost })
}

/// Assigns to `session` what has no owner in `shard`.
async fn take_over(
    groups: &Groups,
    session: SessionId,
    shard: ShardId,
    taken_over: &mut Vec<Waiting>,
) -> Result<(), SessionError> {
    let reader = groups.store().shard(shard);
    let unowned = tokio::task::spawn_blocking(move || {
        let mut unowned = Vec::new();
        reader.unowned(&mut |id, attempt| {
            unowned.push(Waiting { id, shard, attempt });
            ControlFlow::Continue(())
        })?;
        Ok::<_, raft_store::StoreError>(unowned)
    })
    .await
    .map_err(|_| ProposeError::Stopped)??;

    // Not all at once: a backlog of any size must not outlast the patience for a single answer.
    let assign = |waiting: Waiting| async move {
        let op = ShardOp::Assign { id: waiting.id, session, attempt: waiting.attempt };
        (waiting, groups.insist_shard(shard, op).await)
    };
    let mut assigned = stream::iter(unowned).map(assign).buffered(ASSIGNING);
    while let Some((waiting, reply)) = assigned.next().await {
        match reply? {
            ShardReply::Assigned => taken_over.push(waiting),
            // Finished or taken meanwhile: not ours.
            ShardReply::NotAssigned => {}
            ShardReply::SessionFenced => return Err(SessionError::Fenced(session)),
            reply => return Err(unexpected("Assign", &reply)),
        }
    }
    Ok(())
}

/// Asks whether attempt `attempt` of `id` may run here, until there is an answer: an unanswered question is asked
/// again, never decided.
pub async fn may_start(groups: &Groups, shard: ShardId, id: ActivationId, session: SessionId, attempt: u32) -> bool {
    matches!(groups.insist_shard(shard, ShardOp::Start { id, session, attempt }).await, Ok(ShardReply::Granted))
}

fn unexpected(command: &'static str, reply: &impl std::fmt::Debug) -> SessionError {
    SessionError::UnexpectedReply { command, reply: format!("{reply:?}") }
}
