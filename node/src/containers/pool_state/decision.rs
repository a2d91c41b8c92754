//! The words of the pool's decisions: what comes in and what is to be done.

use std::{sync::Arc, time::Duration};

use protocol::ByteSize;

use super::{ActionId, Idle};
use crate::containers::{
    Need, StartKind,
    prewarm::{CellId, StemCell},
};

/// A container of this node in this process; also the counter in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub u64);

/// One call of `acquire`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// All that is known here of a container: that several may hold it.
pub trait Share: Sized {
    /// Two handles to one container.
    fn split(self) -> (Self, Self);
    /// One handle again. What `other` learned of the container, this one knows now.
    fn join(self, other: Self) -> Self;
}

#[cfg(test)]
impl<T: Copy + Eq + std::fmt::Debug> Share for T {
    fn split(self) -> (Self, Self) {
        (self, self)
    }

    fn join(self, other: Self) -> Self {
        assert_eq!(self, other, "handles to one container");
        self
    }
}

/// A container as this state passes it on. Where several activations share one, each has a handle.
#[derive(Debug)]
pub struct Held<C> {
    pub id: ContainerId,
    pub bytes: u64,
    /// How it starts its next activation; [`StartKind::Warm`] only if it has its code.
    pub start: StartKind,
    pub container: C,
}

impl<C: Share> Held<C> {
    pub(super) fn split(self) -> (Self, Self) {
        let Self { id, bytes, start, container } = self;
        let (kept, given) = container.split();
        (Self { id, bytes, start, container: kept }, Self { id, bytes, start, container: given })
    }

    pub(super) fn join(self, other: Self) -> Self {
        // One that has its code keeps it.
        let start = if other.start == StartKind::Warm { StartKind::Warm } else { self.start };
        Self { start, container: self.container.join(other.container), ..self }
    }
}

/// Bounds and times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For all containers of the node together.
    pub memory: ByteSize,
    /// How many activations may wait for memory.
    pub run_buffer: usize,
    /// How many creations may be under way.
    pub creations: usize,
    /// Idle for so long, a container is paused; `None`: never.
    pub pause_grace: Option<Duration>,
    /// Paused (or idle, if there is no pausing) for so long, it is removed.
    pub idle_timeout: Duration,
}

/// Why a waiter gets none.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal<E> {
    Full,
    /// `largest`: what a container can have at most here.
    TooLarge {
        needed: ByteSize,
        largest: ByteSize,
    },
    ShuttingDown,
    Create(E),
}

/// What the caller of a method of [`PoolState`](super::PoolState) has to carry out, in order, after it has released the lock.
#[derive(Debug)]
#[must_use]
pub enum Effect<C, W, E> {
    /// Give the container to the waiter; [`PoolState::hand_back`](super::PoolState::hand_back) if it has gone.
    HandOver {
        reply: W,
        action: ActionId,
        held: Held<C>,
    },
    Refuse {
        reply: W,
        refusal: Refusal<E>,
    },
    /// Then [`PoolState::started`](super::PoolState::started) or [`PoolState::start_failed`](super::PoolState::start_failed).
    Start {
        action: ActionId,
        id: ContainerId,
        need: Arc<Need>,
    },
    /// Then [`PoolState::paused`](super::PoolState::paused) or [`PoolState::pause_failed`](super::PoolState::pause_failed).
    Pause {
        action: ActionId,
        need: Arc<Need>,
        idle: Idle<C>,
    },
    /// Then [`PoolState::resumed`](super::PoolState::resumed) or [`PoolState::resume_failed`](super::PoolState::resume_failed).
    Resume {
        action: ActionId,
        need: Arc<Need>,
        idle: Idle<C>,
    },
    /// Then [`PoolState::destroyed`](super::PoolState::destroyed).
    Destroy {
        held: Held<C>,
        evicted: bool,
    },
    /// Then [`PoolState::cell_created`](super::PoolState::cell_created) or [`PoolState::cell_failed`](super::PoolState::cell_failed).
    CreateCell {
        cell: CellId,
        id: ContainerId,
        config: StemCell,
    },
    /// Call [`PoolState::retry_cell`](super::PoolState::retry_cell) after a while.
    RetryCell {
        cell: CellId,
        after: Duration,
        /// For the log: why it failed, unless that is known.
        news: Option<String>,
    },
    /// For the log: a stem cell is not created for want of memory.
    CellDoesNotFit {
        config: StemCell,
    },
    /// Nothing of the action is left: its actor may leave.
    ActionGone {
        need: Arc<Need>,
    },
}

/// What one event leads to.
pub type Effects<C, W, E> = Vec<Effect<C, W, E>>;
