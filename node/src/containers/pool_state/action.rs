//! What the pool knows of one action, and where it keeps all of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{ContainerId, Effect, Effects, Held, Share, WaiterId};
use crate::containers::{Need, PoolKey, StartKind, memory::Ticket};

/// Place of an action's state. A stale id finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionId {
    index: u32,
    generation: u32,
}

/// A container nobody uses.
#[derive(Debug)]
pub struct Idle<C> {
    pub held: Held<C>,
    pub last_used: Instant,
}

/// Who waits for a container.
#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub id: WaiterId,
    pub ticket: Ticket,
    pub reply: W,
    pub since: Instant,
}

/// A container that several activations use at once.
#[derive(Debug)]
pub(super) struct Shared<C> {
    /// The pool's own handle.
    pub held: Held<C>,
    pub users: usize,
    pub door: Door,
}

/// Who may still come into a shared container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Its only user initializes it. There will be room for others afterwards.
    Closed,
    Open,
    /// One of its users found it unfit: it is destroyed when the last has left.
    Condemned,
}

/// What a container is that a user has left.
#[derive(Debug)]
pub(super) enum Left<C> {
    /// Others are still in it.
    InUse,
    Free(Held<C>),
    Condemned(Held<C>),
}

/// One action of one invoking namespace. Exists as long as it has anything of the below.
#[derive(Debug)]
pub(super) struct Action<C, W> {
    pub need: Arc<Need>,
    /// Hottest last. Empty while someone is admitted: a container that becomes free goes to the first waiter.
    pub idle: Vec<Idle<C>>,
    /// Frozen, hottest last, with the time of freezing.
    pub paused: VecDeque<(Idle<C>, Instant)>,
    /// Activations that have a container.
    pub busy: usize,
    /// Containers that they share; empty if the action allows one activation in a container.
    pub shared: Vec<Shared<C>>,
    /// Being frozen: cannot be stopped, but a waiter may claim one, to be thawed as soon as it is frozen.
    pub pausing: usize,
    pub pausing_claimed: usize,
    pub resuming: usize,
    /// Starts that are decided but not begun.
    pub queued: usize,
    /// Starts that have begun.
    pub creating: usize,
    /// In order of arrival, apart from those that a long line let pass. The first `admitted` were promised a part of
    /// [`Action::room_coming`]; the others have a ticket in the run buffer.
    pub waiters: VecDeque<Waiter<W>>,
    pub admitted: usize,
}

impl<C, W> Action<C, W> {
    fn new(need: Need) -> Self {
        Self {
            need: Arc::new(need),
            idle: Vec::new(),
            paused: VecDeque::new(),
            busy: 0,
            shared: Vec::new(),
            pausing: 0,
            pausing_claimed: 0,
            resuming: 0,
            queued: 0,
            creating: 0,
            waiters: VecDeque::new(),
            admitted: 0,
        }
    }

    /// Puts who has `ticket` before all who are not admitted.
    pub fn let_pass(&mut self, ticket: Ticket) {
        let mut others = self.waiters.iter().skip(self.admitted);
        if let Some(before @ 1..) = others.position(|waiter| waiter.ticket == ticket)
            && let Some(waiter) = self.waiters.remove(self.admitted + before)
        {
            self.waiters.insert(self.admitted, waiter);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.need.memory.bytes()
    }

    /// Containers that will become free without anyone giving one back.
    pub fn coming(&self) -> usize {
        self.queued + self.creating + self.resuming + self.pausing_claimed
    }

    /// Activations that there will be room for without anyone giving a container back: in those that are coming, and in
    /// those that are being initialized. At least `admitted`.
    pub fn room_coming(&self) -> usize {
        let closed = self.shared.iter().filter(|shared| shared.door == Door::Closed);
        self.coming() * self.need.slots + closed.map(|shared| self.need.slots - shared.users).sum::<usize>()
    }

    /// Containers in use.
    pub fn used(&self) -> usize {
        if self.need.slots == 1 { self.busy } else { self.shared.len() }
    }

    /// Decided starts that nobody needs any more.
    pub fn excess(&self) -> usize {
        let others = self.room_coming() - self.queued * self.need.slots;
        self.queued - self.admitted.saturating_sub(others).div_ceil(self.need.slots)
    }

    /// Takes the idle or paused container `id`.
    pub fn take_idle(&mut self, id: ContainerId) -> Option<Held<C>> {
        if let Some(at) = self.idle.iter().position(|idle| idle.held.id == id) {
            return Some(self.idle.remove(at).held);
        }
        let at = self.paused.iter().position(|(idle, _)| idle.held.id == id)?;
        self.paused.remove(at).map(|(idle, _)| idle.held)
    }

    /// Whether a container in use has room for one more.
    #[cfg(test)]
    pub fn has_room(&self) -> bool {
        self.shared.iter().any(|shared| shared.has_room(self.need.slots))
    }

    pub fn owns_nothing(&self) -> bool {
        self.idle.is_empty()
            && self.paused.is_empty()
            && self.waiters.is_empty()
            && self.busy + self.pausing + self.coming() == 0
    }
}

impl<C: Share, W> Action<C, W> {
    /// A handle to the fullest container that has room: emptier ones may become idle.
    pub fn join_in(&mut self) -> Option<Held<C>> {
        let slots = self.need.slots;
        let open = self.shared.iter().enumerate().filter(|(_, shared)| shared.has_room(slots));
        let (at, _) = open.max_by_key(|(_, shared)| shared.users)?;
        let Shared { held, users, door } = self.shared.swap_remove(at);
        let (kept, given) = held.split();
        self.shared.push(Shared { held: kept, users: users + 1, door });
        Some(given)
    }

    /// The handle for the first user of a container that nobody uses.
    pub fn lend(&mut self, held: Held<C>) -> Held<C> {
        if self.need.slots == 1 {
            return held;
        }
        let door = if held.start == StartKind::Warm { Door::Open } else { Door::Closed };
        let (kept, given) = held.split();
        self.shared.push(Shared { held: kept, users: 1, door });
        given
    }

    /// A user of a container has initialized it. `held`: one more handle, which knows that.
    pub fn open(&mut self, held: Held<C>) {
        if let Some(at) = self.shared.iter().position(|shared| shared.held.id == held.id) {
            let Shared { held: kept, users, door } = self.shared.swap_remove(at);
            let door = if door == Door::Closed { Door::Open } else { door };
            self.shared.push(Shared { held: kept.join(held), users, door });
        }
    }

    /// A user has left, and found it unfit if `condemned`.
    pub fn leave(&mut self, held: Held<C>, condemned: bool) -> Left<C> {
        let at = self.shared.iter().position(|shared| shared.held.id == held.id);
        let Some(Shared { held: kept, users, mut door }) = at.map(|at| self.shared.swap_remove(at)) else {
            return if condemned { Left::Condemned(held) } else { Left::Free(held) };
        };
        if condemned {
            door = Door::Condemned;
        }
        let held = kept.join(held);
        match (users - 1, door) {
            (0, Door::Condemned) => Left::Condemned(held),
            (0, Door::Closed | Door::Open) => Left::Free(held),
            (users, door) => {
                self.shared.push(Shared { held, users, door });
                Left::InUse
            }
        }
    }
}

impl<C, W> Action<C, W> {
    pub fn hand_to_first<E>(&mut self, id: ActionId, held: Held<C>, effects: &mut Effects<C, W, E>) {
        if let Some(first) = self.waiters.pop_front() {
            self.busy += 1;
            effects.push(Effect::HandOver { reply: first.reply, action: id, held });
        }
    }
}

impl<C> Shared<C> {
    fn has_room(&self, slots: usize) -> bool {
        self.door == Door::Open && self.users < slots
    }
}

/// All actions: found by key at the door and by id from then on.
#[derive(Debug)]
pub(super) struct Actions<C, W> {
    by_key: HashMap<PoolKey, ActionId>,
    slots: Vec<(u32, Option<Action<C, W>>)>,
    free: Vec<u32>,
}

impl<C, W> Actions<C, W> {
    pub fn new() -> Self {
        Self { by_key: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }

    pub fn find(&self, key: &PoolKey) -> Option<ActionId> {
        self.by_key.get(key).copied()
    }

    pub fn find_or_insert(&mut self, need: Need) -> ActionId {
        if let Some(id) = self.find(&need.key) {
            return id;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, slot) = &mut self.slots[index as usize];
        let id = ActionId { index, generation: *generation };
        self.by_key.insert(need.key.clone(), id);
        *slot = Some(Action::new(need));
        id
    }

    /// # Panics
    /// If `id` is stale. Whatever holds an id (a lease, a start, a waiter, an idle container) also keeps its action
    /// from being removed, so that a stale one is an error of this module.
    pub fn get(&mut self, id: ActionId) -> &mut Action<C, W> {
        let (generation, slot) = &mut self.slots[id.index as usize];
        match slot {
            Some(action) if *generation == id.generation => action,
            _ => panic!("action {id:?} was removed while something of it was left"),
        }
    }

    /// Removes the action if nothing of it is left, and returns what it was.
    pub fn remove_if_unused(&mut self, id: ActionId) -> Option<Arc<Need>> {
        let (generation, slot) = &mut self.slots[id.index as usize];
        if *generation != id.generation || !slot.as_ref().is_some_and(Action::owns_nothing) {
            return None;
        }
        let action = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.index);
        self.by_key.remove(&action.need.key);
        Some(action.need)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ActionId, &Action<C, W>)> {
        let indexed = (0..).zip(&self.slots);
        indexed.filter_map(|(index, (generation, slot))| {
            slot.as_ref().map(|action| (ActionId { index, generation: *generation }, action))
        })
    }
}
