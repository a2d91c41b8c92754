//! Containers nobody needs: paused, removed, and the end of the pools.

use std::time::Instant;

use super::{ActionId, Effect, Effects, Held, Idle, Phase, PoolState, Refusal, Share};
use crate::containers::PoolKey;

impl<C: Share, W, E> PoolState<C, W, E> {
    /// Pauses and removes what has been idle for long enough.
    pub fn tick(&mut self, key: &PoolKey, now: Instant) -> Effects<C, W, E> {
        let Some(id) = self.actions.find(key) else { return Vec::new() };
        let grace = self.limits.pause_grace;
        let action = self.actions.get(id);
        let mut removed = Vec::new();
        while action.paused.front().is_some_and(|(_, since)| now.duration_since(*since) >= self.limits.idle_timeout) {
            removed.extend(action.paused.pop_front().map(|(idle, _)| idle.held));
        }
        let due = |idle: &mut Idle<C>| now.duration_since(idle.last_used) >= grace.unwrap_or(self.limits.idle_timeout);
        for idle in action.idle.extract_if(.., due) {
            if grace.is_some() {
                action.pausing += 1;
                self.memory.not_idle(idle.held.bytes);
                self.effects.push(Effect::Pause { action: id, need: action.need.clone(), idle });
            } else {
                removed.push(idle.held);
            }
        }
        for held in removed {
            self.memory.not_idle(held.bytes);
            self.destroy(held, false);
        }
        self.serve();
        self.forget_if_unused(id);
        self.take_effects()
    }

    /// When [`PoolState::tick`] may have something to do for `key`; `None`: not before someone acquires again.
    pub fn next_tick(&mut self, key: &PoolKey, now: Instant) -> Option<Instant> {
        let id = self.actions.find(key)?;
        let action = self.actions.get(id);
        let wait = self.limits.pause_grace.unwrap_or(self.limits.idle_timeout);
        let due = action.idle.iter().map(|idle| idle.last_used + wait).min();
        let removal = action.paused.front().map(|(_, since)| *since + self.limits.idle_timeout);
        // What is in use now becomes idle without any message.
        let later = (action.busy + action.pausing + action.coming() > 0).then(|| now + wait);
        due.into_iter().chain(removal).chain(later).min()
    }

    /// From now on nobody new is served.
    pub fn drain(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
        }
    }

    /// Refuses all who wait and destroys all that is not leased; the rest when it comes back.
    pub fn close(&mut self) -> Effects<C, W, E> {
        self.phase = Phase::Closed;
        let ids: Vec<_> = self.actions.iter().map(|(id, _)| id).collect();
        for id in ids {
            let action = self.actions.get(id);
            action.admitted = 0;
            for waiter in action.waiters.drain(..) {
                self.buffer.remove(waiter.ticket);
                self.effects.push(Effect::Refuse { reply: waiter.reply, refusal: Refusal::ShuttingDown });
            }
            action.pausing_claimed = 0;
            let paused = action.paused.drain(..).map(|(idle, _)| idle);
            let unused: Vec<_> = action.idle.drain(..).chain(paused).collect();
            for idle in unused {
                self.memory.not_idle(idle.held.bytes);
                self.destroy(idle.held, false);
            }
            self.call_off_excess(id);
            self.forget_if_unused(id);
        }
        for held in self.cells.take_all() {
            self.destroy(held, false);
        }
        self.take_effects()
    }

    pub fn paused(&mut self, id: ActionId, idle: Idle<C>, now: Instant) -> Effects<C, W, E> {
        let action = self.actions.get(id);
        action.pausing -= 1;
        if self.phase == Phase::Closed {
            self.destroy(idle.held, false);
        } else if action.pausing_claimed > 0 {
            action.pausing_claimed -= 1;
            action.resuming += 1;
            self.effects.push(Effect::Resume { action: id, need: action.need.clone(), idle });
        } else {
            self.memory.idle(idle.held.bytes);
            action.paused.push_back((idle, now));
            self.serve();
        }
        self.forget_if_unused(id);
        self.take_effects()
    }

    /// `held`: what is left of it, to be destroyed; `None`: it is gone already.
    pub fn pause_failed(&mut self, id: ActionId, held: Option<Held<C>>) -> Effects<C, W, E> {
        let action = self.actions.get(id);
        action.pausing -= 1;
        action.pausing_claimed = action.pausing_claimed.min(action.pausing);
        self.lost(id, held)
    }

    pub fn resumed(&mut self, id: ActionId, idle: Idle<C>, now: Instant) -> Effects<C, W, E> {
        self.actions.get(id).resuming -= 1;
        self.offer(id, idle.held, now);
        self.take_effects()
    }

    /// `held`: as in [`PoolState::pause_failed`]. Its waiter finds another container.
    pub fn resume_failed(&mut self, id: ActionId, held: Option<Held<C>>) -> Effects<C, W, E> {
        self.actions.get(id).resuming -= 1;
        self.lost(id, held)
    }

    /// A container failed while it was paused or resumed; whoever had its promise finds another.
    fn lost(&mut self, id: ActionId, held: Option<Held<C>>) -> Effects<C, W, E> {
        let bytes = self.actions.get(id).bytes();
        match held {
            Some(held) => self.destroy(held, false),
            None => {
                self.memory.uncommit(bytes);
                self.memory.vacate(bytes);
            }
        }
        self.break_promises(id);
        self.serve();
        self.forget_if_unused(id);
        self.take_effects()
    }

    /// Whoever was promised room that will not come, the last first, is back at their place in the run buffer.
    pub(super) fn break_promises(&mut self, id: ActionId) {
        let action = self.actions.get(id);
        while action.room_coming() < action.admitted {
            action.admitted -= 1;
            let waiter = &action.waiters[action.admitted];
            self.buffer.put_back(waiter.ticket, id, waiter.since);
        }
    }
}
