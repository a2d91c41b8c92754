//! Serving the run buffer: what the waiter at its head gets, and what has to be started or evicted for it.

use std::time::Instant;

use super::{ActionId, ContainerId, Effect, Held, Idle, Phase, PoolState, Share};
use crate::containers::{StartKind, memory::Ticket};

impl<C: Share, W, E> PoolState<C, W, E> {
    /// A container of the action is free: the first admitted waiter gets it, else it is idle. On the way back from the
    /// warm path nothing else happens, unless someone waits.
    pub(super) fn offer(&mut self, id: ActionId, held: Held<C>, now: Instant) {
        if self.phase == Phase::Closed {
            self.destroy(held, false);
            self.forget_if_unused(id);
            return;
        }
        let action = self.actions.get(id);
        if action.admitted > 0 {
            action.admitted -= 1;
            let held = action.lend(held);
            self.hand_to_first(id, held);
            self.fill(id);
        } else {
            self.make_idle(id, held, now);
        }
        self.go_on(id);
    }

    /// There may be room in containers that are in use: it is for those who were promised some, then for others.
    pub(super) fn room_made(&mut self, id: ActionId) {
        self.fill(id);
        self.go_on(id);
    }

    /// Whoever was promised room gets what there is in containers that are in use.
    fn fill(&mut self, id: ActionId) {
        let action = self.actions.get(id);
        while action.admitted > 0
            && let Some(held) = action.join_in()
        {
            action.admitted -= 1;
            action.hand_to_first(id, held, &mut self.effects);
        }
    }

    /// Somebody got a container: what was meant for them is for others.
    fn go_on(&mut self, id: ActionId) {
        if !self.starts.is_empty() {
            self.call_off_excess(id);
        }
        if !self.starts.is_empty() || !self.buffer.is_empty() {
            self.serve();
        }
    }

    /// Gives the head of the run buffer what it needs, again and again, until one has to wait.
    pub(super) fn serve(&mut self) {
        while let Some((ticket, id)) = self.buffer.head() {
            if !self.admit(ticket, id) {
                break;
            }
        }
        self.begin_starts();
    }

    /// The waiter with `ticket`, which is not admitted, gets a container or the promise of one.
    fn admit(&mut self, ticket: Ticket, id: ActionId) -> bool {
        let action = self.actions.get(id);
        action.let_pass(ticket);
        if let Some(held) = action.join_in() {
            self.hand_to_first(id, held);
        } else if let Some(idle) = action.idle.pop() {
            self.memory.not_idle(idle.held.bytes);
            let held = action.lend(idle.held);
            self.hand_to_first(id, held);
        } else if action.room_coming() > action.admitted {
            // In a container that will be shared, or a start whose waiter has left or was served by another container.
            action.admitted += 1;
        } else if let Some((idle, _)) = action.paused.pop_back() {
            action.resuming += 1;
            action.admitted += 1;
            self.memory.not_idle(idle.held.bytes);
            let need = action.need.clone();
            self.effects.push(Effect::Resume { action: id, need, idle });
        } else if action.pausing > action.pausing_claimed {
            action.pausing_claimed += 1;
            action.admitted += 1;
        } else if let Some(held) = self.cells.take(&action.need) {
            // It goes to the action's first waiter; if that one was admitted, this one has its promise now.
            let held = action.lend(held);
            self.hand_to_first(id, held);
        } else {
            let bytes = action.bytes();
            if !self.memory.fits(bytes) && !self.evict_for(bytes) {
                return false;
            }
            self.memory.commit(bytes);
            self.starts.push_back(id);
            let action = self.actions.get(id);
            action.queued += 1;
            action.admitted += 1;
        }
        self.buffer.serve(ticket);
        true
    }

    fn hand_to_first(&mut self, id: ActionId, held: Held<C>) {
        self.actions.get(id).hand_to_first(id, held, &mut self.effects);
    }

    fn make_idle(&mut self, id: ActionId, mut held: Held<C>, now: Instant) {
        self.memory.idle(held.bytes);
        let action = self.actions.get(id);
        if held.start == StartKind::Warm {
            action.idle.push(Idle { held, last_used: now });
        } else {
            // Started for a waiter that left: it still has to be initialized, so the warm ones are taken before it.
            held.start = StartKind::Prewarmed;
            action.idle.insert(0, Idle { held, last_used: now });
        }
    }

    /// Calls off starts that nobody needs any more, as long as they have not begun.
    pub(super) fn call_off_excess(&mut self, id: ActionId) {
        let action = self.actions.get(id);
        let excess = action.excess();
        let bytes = action.bytes();
        action.queued -= excess;
        for _ in 0..excess {
            // The latest of them; the number of this action's entries equals `queued`.
            if let Some(at) = self.starts.iter().rposition(|other| *other == id) {
                self.starts.remove(at);
            }
            self.memory.uncommit(bytes);
        }
    }

    /// Begins decided starts in order, then refills the stem cells if nobody waits.
    pub(super) fn begin_starts(&mut self) {
        while self.creating < self.limits.creations {
            let Some(id) = self.starts.front().copied() else { break };
            let action = self.actions.get(id);
            if !self.memory.has_room(action.bytes()) {
                break;
            }
            self.starts.pop_front();
            action.queued -= 1;
            action.creating += 1;
            self.creating += 1;
            self.memory.occupy(action.bytes());
            let (need, id_of_new) = (action.need.clone(), ContainerId(self.next_container));
            self.cells.cold_start(&need);
            self.next_container += 1;
            self.effects.push(Effect::Start { action: id, id: id_of_new, need });
        }
        if self.phase == Phase::Open && self.buffer.is_empty() && self.starts.is_empty() {
            self.refill_cells();
        }
    }

    fn refill_cells(&mut self) {
        while self.creating < self.limits.creations {
            let memory = &self.memory;
            let Some((cell, bytes)) = self.cells.wanted().find(|(_, bytes)| memory.fits(*bytes)) else { break };
            if !memory.has_room(bytes) {
                // It fits as soon as something is destroyed.
                return;
            }
            self.memory.commit(bytes);
            self.memory.occupy(bytes);
            self.creating += 1;
            let config = self.cells.creating(cell).clone();
            self.effects.push(Effect::CreateCell { cell, id: ContainerId(self.next_container), config });
            self.next_container += 1;
        }
        let short: Vec<_> = self.cells.wanted().filter(|(_, bytes)| !self.memory.fits(*bytes)).collect();
        for (cell, _) in short {
            if let Some(config) = self.cells.is_short(cell) {
                self.effects.push(Effect::CellDoesNotFit { config });
            }
        }
    }

    /// Evicts idle containers, least recently used first, until one more of `bytes` may be decided. If all of them
    /// would not be enough, none is touched.
    fn evict_for(&mut self, bytes: u64) -> bool {
        if !self.memory.fits_by_evicting(bytes) {
            return false;
        }
        let mut candidates: Vec<(Instant, ActionId, ContainerId)> = Vec::new();
        for (id, action) in self.actions.iter() {
            let paused = action.paused.iter().map(|(idle, _)| idle);
            candidates.extend(action.idle.iter().chain(paused).map(|idle| (idle.last_used, id, idle.held.id)));
        }
        candidates.sort_unstable();
        for (_, id, container) in candidates {
            if self.memory.fits(bytes) {
                break;
            }
            if let Some(held) = self.actions.get(id).take_idle(container) {
                self.memory.not_idle(held.bytes);
                self.destroy(held, true);
                self.forget_if_unused(id);
            }
        }
        self.memory.fits(bytes)
    }

    /// A living container makes way; its memory is occupied until [`PoolState::destroyed`].
    pub(super) fn destroy(&mut self, held: Held<C>, evicted: bool) {
        self.memory.uncommit(held.bytes);
        self.effects.push(Effect::Destroy { held, evicted });
    }

    pub(super) fn forget_if_unused(&mut self, id: ActionId) {
        if let Some(need) = self.actions.remove_if_unused(id) {
            self.effects.push(Effect::ActionGone { need });
        }
    }
}
