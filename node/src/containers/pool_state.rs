//! Who gets which container, what is started, evicted, paused and removed: all decisions of a node's pools. Plain
//! state: no clock, no I/O, no actor; what is to be done comes back as [`Effect`]s.
//!
//! The rules, in the order in which a waiter meets them:
//! 1. A container of its action: one that others use and that has room for one more, where the action allows several in
//!    one, the fullest first; an idle one, the hottest first; then one that is on its way with room to spare, or being
//!    initialized; a paused one; one being paused.
//! 2. A stem cell of exactly its kind and memory.
//! 3. A start, if the memory is there or can be made by evicting idle containers of any action, the least recently
//!    used first, but only if that is enough.
//! 4. The run buffer: first come first served over all actions. While anyone waits there nothing overtakes, not even
//!    on the warm path, so that a large need is not starved by small ones. Only in a long line the newest are served, too:
//!    see [`RunBuffer`].
//!
//! Whoever was promised a container that is on its way is *admitted*; a container that becomes free goes to the first
//! admitted waiter of its action, and a start that thereby is in excess is called off if it has not begun.
//!
//! Source: apache/openwhisk `ContainerPool.scala`, `ContainerPoolTests`.

mod action;
mod admission;
mod decision;
mod lifecycle;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Instant};

pub use action::{ActionId, Idle};
use action::{Actions, Left, Waiter};
pub use decision::{ContainerId, Effect, Effects, Held, Limits, Refusal, Share, WaiterId};
use protocol::ByteSize;

use super::{
    Need, PoolKey, StartKind,
    memory::{Memory, RunBuffer, Ticket},
    prewarm::{CellId, Cells, Failed, StemCell},
    report::{ActionReport, PoolReport, PrewarmReport},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No new waiters; those there are still served.
    Draining,
    /// Everything that comes back is destroyed.
    Closed,
}

/// The pools of one node. `C`: a container; `W`: where a waiter is answered; `E`: why a creation failed.
#[derive(Debug)]
pub struct PoolState<C, W, E> {
    limits: Limits,
    phase: Phase,
    memory: Memory,
    buffer: RunBuffer<ActionId>,
    actions: Actions<C, W>,
    cells: Cells<C>,
    /// Decided starts, waiting for the memory of what is being destroyed or for other creations to end.
    starts: VecDeque<ActionId>,
    creating: usize,
    next_container: u64,
    next_ticket: u64,
    effects: Vec<Effect<C, W, E>>,
}

impl<C: Share, W, E> PoolState<C, W, E> {
    pub fn new(limits: Limits, cells: Vec<StemCell>) -> Self {
        Self {
            phase: Phase::Open,
            memory: Memory::new(limits.memory.bytes()),
            buffer: RunBuffer::new(limits.run_buffer),
            actions: Actions::new(),
            cells: Cells::new(cells),
            starts: VecDeque::new(),
            creating: 0,
            next_container: 0,
            next_ticket: 0,
            effects: Vec::new(),
            limits,
        }
    }

    /// An idle container of `key` in use from now on: the warm path. `None` if there is none, or others wait.
    pub fn take_warm(&mut self, key: &PoolKey) -> Option<(ActionId, Held<C>)> {
        if !self.buffer.is_empty() || self.phase != Phase::Open {
            return None;
        }
        let id = self.actions.find(key)?;
        let action = self.actions.get(id);
        let held = match action.join_in() {
            Some(held) => held,
            None => {
                let held = action.idle.pop()?.held;
                self.memory.not_idle(held.bytes);
                action.lend(held)
            }
        };
        action.busy += 1;
        Some((id, held))
    }

    /// Someone needs a container and found no idle one.
    pub fn acquire(&mut self, need: Need, waiter: WaiterId, reply: W, now: Instant) -> Effects<C, W, E> {
        let largest = self.memory.limit().saturating_sub(self.cells.bytes_withheld_from(&need));
        if self.phase != Phase::Open {
            self.effects.push(Effect::Refuse { reply, refusal: Refusal::ShuttingDown });
        } else if need.memory.bytes() > largest {
            let refusal = Refusal::TooLarge { needed: need.memory, largest: ByteSize(largest) };
            self.effects.push(Effect::Refuse { reply, refusal });
        } else {
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let id = self.actions.find_or_insert(need);
            self.actions.get(id).waiters.push_back(Waiter { id: waiter, ticket, reply, since: now });
            self.buffer.push(ticket, id, now);
            self.serve();
            // If any is beyond the bound, it is this one, unless it was served at once and others came back to their places.
            if self.buffer.is_over_full() && self.buffer.remove(ticket) {
                let waiters = &mut self.actions.get(id).waiters;
                let at = waiters.iter().rposition(|waiter| waiter.ticket == ticket);
                if let Some(refused) = at.and_then(|at| waiters.remove(at)) {
                    self.effects.push(Effect::Refuse { reply: refused.reply, refusal: Refusal::Full });
                }
                // In a long line it was the head; what it could not have may be enough for the next.
                self.serve();
                self.forget_if_unused(id);
            }
        }
        self.take_effects()
    }

    /// A waiter does not wait any more. Nothing happens if it has been answered.
    pub fn cancel(&mut self, key: &PoolKey, waiter: WaiterId) -> Effects<C, W, E> {
        let Some(id) = self.actions.find(key) else { return Vec::new() };
        let action = self.actions.get(id);
        let Some(at) = action.waiters.iter().position(|other| other.id == waiter) else { return Vec::new() };
        if let Some(gone) = action.waiters.remove(at) {
            if at < action.admitted {
                action.admitted -= 1;
            } else {
                self.buffer.remove(gone.ticket);
            }
        }
        self.call_off_excess(id);
        self.serve();
        self.forget_if_unused(id);
        self.take_effects()
    }

    /// A lease ended well: its container has its code and is ready for the next.
    pub fn give_back(&mut self, id: ActionId, mut held: Held<C>, now: Instant) -> Effects<C, W, E> {
        held.start = StartKind::Warm;
        self.hand_back(id, held, now)
    }

    /// A container that was handed over is unused: whoever waited for it has gone.
    pub fn hand_back(&mut self, id: ActionId, held: Held<C>, now: Instant) -> Effects<C, W, E> {
        let action = self.actions.get(id);
        action.busy -= 1;
        match action.leave(held, false) {
            Left::Free(held) => self.offer(id, held, now),
            Left::InUse => self.room_made(id),
            Left::Condemned(held) => return self.end(id, held),
        }
        self.take_effects()
    }

    /// A container that several may use has its code: `held` is one more handle to it, from who initialized it.
    pub fn opened(&mut self, id: ActionId, mut held: Held<C>) -> Effects<C, W, E> {
        held.start = StartKind::Warm;
        self.actions.get(id).open(held);
        self.room_made(id);
        self.take_effects()
    }

    /// A lease ended with a container that must not be used again. Others who use it may end what they do there.
    pub fn discard(&mut self, id: ActionId, held: Held<C>) -> Effects<C, W, E> {
        let action = self.actions.get(id);
        action.busy -= 1;
        match action.leave(held, true) {
            Left::Free(held) | Left::Condemned(held) => self.end(id, held),
            Left::InUse => self.take_effects(),
        }
    }

    fn end(&mut self, id: ActionId, held: Held<C>) -> Effects<C, W, E> {
        self.destroy(held, false);
        // Others may have been promised room in it, if it was not initialized yet.
        self.break_promises(id);
        self.serve();
        self.forget_if_unused(id);
        self.take_effects()
    }

    pub fn started(&mut self, id: ActionId, container: ContainerId, value: C, now: Instant) -> Effects<C, W, E> {
        let action = self.actions.get(id);
        action.creating -= 1;
        self.creating -= 1;
        let held = Held { id: container, bytes: action.bytes(), start: StartKind::Cold, container: value };
        self.offer(id, held, now);
        self.begin_starts();
        self.take_effects()
    }

    pub fn start_failed(&mut self, id: ActionId, error: E) -> Effects<C, W, E> {
        let action = self.actions.get(id);
        action.creating -= 1;
        self.creating -= 1;
        let bytes = action.bytes();
        self.memory.uncommit(bytes);
        self.memory.vacate(bytes);
        // One that was in excess fails nobody.
        if action.room_coming() < action.admitted {
            action.admitted -= 1;
            if let Some(first) = action.waiters.pop_front() {
                self.effects.push(Effect::Refuse { reply: first.reply, refusal: Refusal::Create(error) });
            }
        }
        self.break_promises(id);
        self.serve();
        self.forget_if_unused(id);
        self.take_effects()
    }

    /// A container is destroyed: its memory is free.
    pub fn destroyed(&mut self, bytes: u64) -> Effects<C, W, E> {
        self.memory.vacate(bytes);
        self.begin_starts();
        self.take_effects()
    }

    pub fn cell_created(
        &mut self,
        cell: CellId,
        id: ContainerId,
        bytes: u64,
        value: C,
        now: Instant,
    ) -> Effects<C, W, E> {
        self.creating -= 1;
        let held = Held { id, bytes, start: StartKind::Prewarmed, container: value };
        if self.phase == Phase::Closed {
            self.cells.discard(cell);
            self.destroy(held, false);
        } else {
            self.cells.created(cell, held, now);
        }
        self.serve();
        self.take_effects()
    }

    /// `reason`: for the log.
    pub fn cell_failed(&mut self, cell: CellId, reason: String) -> Effects<C, W, E> {
        self.creating -= 1;
        let Failed { bytes, retry, is_news } = self.cells.failed(cell, reason.clone());
        self.memory.uncommit(bytes);
        self.memory.vacate(bytes);
        if let Some(after) = retry {
            self.effects.push(Effect::RetryCell { cell, after, news: is_news.then_some(reason) });
        }
        self.serve();
        self.take_effects()
    }

    pub fn retry_cell(&mut self, cell: CellId) -> Effects<C, W, E> {
        self.cells.retry(cell);
        self.begin_starts();
        self.take_effects()
    }

    /// Makes the number of stem cells follow the cold starts since the last call, and removes those whose time is over.
    pub fn adjust_cells(&mut self, now: Instant) -> Effects<C, W, E> {
        if self.phase == Phase::Open {
            for held in self.cells.adjust(now) {
                self.destroy(held, false);
            }
            self.serve();
        }
        self.take_effects()
    }

    /// Whether [`PoolState::adjust_cells`] is to be called from time to time.
    pub fn cells_are_reactive(&self) -> bool {
        self.cells.are_reactive()
    }

    /// Creates the first stem cells.
    pub fn open(&mut self) -> Effects<C, W, E> {
        self.begin_starts();
        self.take_effects()
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether anything of `key` is here.
    pub fn knows(&self, key: &PoolKey) -> bool {
        self.actions.find(key).is_some()
    }

    /// Leases out and callers waiting.
    pub fn in_use(&self) -> (usize, usize) {
        self.actions
            .iter()
            .fold((0, 0), |(busy, waiting), (_, action)| (busy + action.busy, waiting + action.waiters.len()))
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The state, for people and tests.
    pub fn report(&self) -> PoolReport {
        let actions = self.actions.iter().map(|(_, action)| ActionReport {
            namespace: action.need.key.namespace.to_string(),
            action: action.need.key.action.to_string(),
            revision: action.need.key.revision.0,
            kind: action.need.kind.clone(),
            memory_mb: action.need.memory.as_mib(),
            idle: action.idle.len(),
            paused: action.paused.len() + action.pausing,
            busy: action.used(),
            starting: action.queued + action.creating,
            waiters: action.waiters.len(),
        });
        let prewarmed = self.cells.counts().map(|(config, wanted, ready, creating)| PrewarmReport {
            kind: config.kind.clone(),
            memory_mb: config.memory.as_mib(),
            wanted,
            ready,
            creating,
        });
        PoolReport {
            memory_total: self.memory.limit(),
            memory_used: self.memory.occupied(),
            memory_idle: self.memory.evictable(),
            run_buffer: self.buffer.len(),
            draining: self.phase != Phase::Open,
            actions: actions.collect(),
            prewarmed: prewarmed.collect(),
        }
    }

    fn take_effects(&mut self) -> Effects<C, W, E> {
        std::mem::take(&mut self.effects)
    }
}
