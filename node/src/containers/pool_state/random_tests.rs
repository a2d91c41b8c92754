//! Random histories against a second, naive account of where every container and every waiter is.
//!
//! After each event: no memory limit is exceeded and the books agree to the byte; every container is in one place, and no
//! more activations are in one than its action allows, nor any in one that is not initialized or was found unfit but those
//! that were there before; every waiter is answered at most once; whoever waits really has to. At the end everybody is served and all memory is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use protocol::{ByteSize, EntityName, EntityPath, FullyQualifiedName, Revision};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{action::Door, *};
use crate::entities::manifest::Reactive;

/// A container in this model is its number, a waiter is its own.
type State = PoolState<u64, u64, &'static str>;

#[derive(Debug, Clone)]
struct Setup {
    seed: u64,
    steps: usize,
    memory_mb: u64,
    /// Memory of each action's containers, and how many activations may be in one.
    actions: Vec<(u64, usize)>,
    run_buffer: usize,
    creations: usize,
    cells: usize,
    /// Their number follows the cold starts.
    reactive: bool,
    pauses: bool,
}

fn setups() -> impl Strategy<Value = Setup> {
    let memory = prop::sample::select(vec![64u64, 128, 256, 512]);
    let actions = prop::collection::vec((memory, prop::sample::select(vec![1usize, 1, 2, 3, 8])), 1..6);
    (any::<u64>(), 512u64..2048, actions, 1usize..30, 1usize..6, 0usize..3, any::<[bool; 2]>()).prop_map(
        |(seed, memory_mb, actions, run_buffer, creations, cells, [reactive, pauses])| Setup {
            seed,
            steps: 400,
            memory_mb,
            actions,
            run_buffer,
            creations,
            cells,
            reactive,
            pauses,
        },
    )
}

/// The world around the state: what it was told to do and has not reported yet.
struct World {
    state: State,
    random: StdRng,
    now: Instant,
    needs: Vec<Need>,
    creations: usize,
    creating: Vec<(ActionId, ContainerId, u64)>,
    cells: Vec<(CellId, ContainerId, u64)>,
    leases: Vec<(ActionId, Held<u64>)>,
    /// Activations that may be in a container, of those that are leased.
    slots: BTreeMap<u64, usize>,
    /// Containers that have their code, and those that a user found unfit.
    initialized: BTreeSet<u64>,
    unfit: BTreeSet<u64>,
    pausing: Vec<(ActionId, Idle<u64>)>,
    resuming: Vec<(ActionId, Idle<u64>)>,
    /// Number and bytes.
    destroying: Vec<(u64, u64)>,
    /// Waiters not answered yet, and their action's index.
    waiting: BTreeMap<u64, usize>,
    next_waiter: u64,
    /// Containers created so far and not destroyed, and their bytes.
    alive: BTreeMap<u64, u64>,
    served: usize,
    /// Leases of containers that others used, too.
    shared: usize,
    evicted: usize,
}

impl World {
    fn new(setup: &Setup) -> Self {
        let name = |text: &str| EntityName::new(text).expect("a legal name");
        let needs = setup.actions.iter().enumerate().map(|(index, (memory_mb, slots))| {
            let action = FullyQualifiedName::new(EntityPath::namespace(name("ns")), name(&format!("a{index}")));
            let key = PoolKey { namespace: name("guest"), action, revision: Revision(1) };
            Need { key, kind: "nodejs:20".into(), image: None, memory: ByteSize::mib(*memory_mb), slots: *slots }
        });
        let ttl = Duration::from_secs(20);
        let reactive =
            setup.reactive.then_some(Reactive { min_count: 0, max_count: 3, ttl, threshold: 2, increment: 1 });
        let cell = StemCell { kind: "nodejs:20".into(), memory: ByteSize::mib(128), count: setup.cells, reactive };
        let limits = Limits {
            memory: ByteSize::mib(setup.memory_mb),
            run_buffer: setup.run_buffer,
            creations: setup.creations,
            pause_grace: setup.pauses.then_some(Duration::from_secs(10)),
            idle_timeout: Duration::from_secs(60),
        };
        let mut world = Self {
            state: PoolState::new(limits, vec![cell]),
            random: StdRng::seed_from_u64(setup.seed),
            now: Instant::now(),
            needs: needs.collect(),
            creations: setup.creations,
            creating: Vec::new(),
            cells: Vec::new(),
            leases: Vec::new(),
            slots: BTreeMap::new(),
            initialized: BTreeSet::new(),
            unfit: BTreeSet::new(),
            pausing: Vec::new(),
            resuming: Vec::new(),
            destroying: Vec::new(),
            waiting: BTreeMap::new(),
            next_waiter: 0,
            alive: BTreeMap::new(),
            served: 0,
            shared: 0,
            evicted: 0,
        };
        let effects = world.state.open();
        world.take_in(effects);
        world
    }

    fn take_in(&mut self, effects: Effects<u64, u64, &'static str>) {
        for effect in effects {
            match effect {
                Effect::HandOver { reply, action, held } => {
                    let index = self.waiting.remove(&reply).expect("a waiter is answered once");
                    assert_eq!(held.bytes, self.needs[index].memory.bytes());
                    assert_eq!(self.alive.get(&held.container), Some(&held.bytes), "a living container is handed over");
                    self.lease(index, action, held);
                }
                Effect::Refuse { reply, .. } => {
                    self.waiting.remove(&reply).expect("a waiter is answered once");
                }
                Effect::Start { action, id, need } => self.creating.push((action, id, need.memory.bytes())),
                Effect::CreateCell { cell, id, config } => self.cells.push((cell, id, config.memory.bytes())),
                Effect::Pause { action, idle, .. } => self.pausing.push((action, idle)),
                Effect::Resume { action, idle, .. } => self.resuming.push((action, idle)),
                Effect::Destroy { held, evicted } => {
                    self.evicted += usize::from(evicted);
                    let bytes = self.alive.remove(&held.container).expect("a container is destroyed once");
                    self.destroying.push((held.container, bytes));
                }
                Effect::RetryCell { .. } | Effect::CellDoesNotFit { .. } | Effect::ActionGone { .. } => {}
            }
        }
    }

    /// Index of a random element.
    fn pick<T>(random: &mut StdRng, of: &[T]) -> Option<usize> {
        (!of.is_empty()).then(|| random.random_range(0..of.len()))
    }

    fn acquire(&mut self) {
        let index = self.random.random_range(0..self.needs.len());
        let need = self.needs[index].clone();
        if self.random.random_bool(0.7)
            && let Some((action, held)) = self.state.take_warm(&need.key)
        {
            return self.lease(index, action, held);
        }
        let waiter = self.next_waiter;
        self.next_waiter += 1;
        self.waiting.insert(waiter, index);
        let effects = self.state.acquire(need, WaiterId(waiter), waiter, self.now);
        self.take_in(effects);
    }

    fn lease(&mut self, index: usize, action: ActionId, held: Held<u64>) {
        let slots = self.needs[index].slots;
        let container = held.container;
        let others = self.leases.iter().filter(|(_, other)| other.container == container).count();
        assert!(others < slots, "{others} are in it and {slots} may be");
        assert!(others == 0 || self.initialized.contains(&container), "it is being initialized for another");
        assert!(!self.unfit.contains(&container), "it takes nobody any more");
        assert_eq!(held.start == StartKind::Warm, self.initialized.contains(&container), "{held:?}");
        self.shared += usize::from(others > 0);
        self.served += 1;
        self.slots.insert(container, slots);
        self.leases.push((action, held));
    }

    /// A lease's `/init` succeeds.
    fn initialize(&mut self) {
        let new = |(_, held): &(ActionId, Held<u64>)| !self.initialized.contains(&held.container);
        if let Some(at) = self.leases.iter().position(new) {
            self.initialize_at(at);
        }
    }

    fn initialize_at(&mut self, at: usize) {
        let (action, held) = &self.leases[at];
        let (action, container) = (*action, held.container);
        if self.initialized.insert(container) && self.slots[&container] > 1 {
            let held = Held { id: held.id, bytes: held.bytes, start: held.start, container };
            let effects = self.state.opened(action, held);
            self.take_in(effects);
        }
    }

    fn cancel(&mut self) {
        let waiters: Vec<_> = self.waiting.iter().map(|(waiter, index)| (*waiter, *index)).collect();
        let Some((waiter, index)) = waiters.choose(&mut self.random).copied() else { return };
        let key = self.needs[index].key.clone();
        let effects = self.state.cancel(&key, WaiterId(waiter));
        self.waiting.remove(&waiter);
        self.take_in(effects);
    }

    fn end_lease(&mut self, well: bool) {
        let Some(at) = Self::pick(&mut self.random, &self.leases) else { return };
        let held = &self.leases[at].1;
        let used = held.start != StartKind::Warm && self.initialized.contains(&held.container);
        let unused = !used && self.random.random_bool(0.1);
        if well && !unused {
            self.initialize_at(at);
        }
        let (action, held) = self.leases.swap_remove(at);
        let effects = match (well, unused) {
            (true, true) => self.state.hand_back(action, held, self.now),
            (true, false) => self.state.give_back(action, held, self.now),
            (false, _) => {
                self.unfit.insert(held.container);
                self.state.discard(action, held)
            }
        };
        self.take_in(effects);
    }

    fn end_creation(&mut self, well: bool) {
        if let Some(at) = Self::pick(&mut self.random, &self.creating) {
            let (action, id, bytes) = self.creating.swap_remove(at);
            let effects = if well {
                self.alive.insert(id.0, bytes);
                self.state.started(action, id, id.0, self.now)
            } else {
                self.state.start_failed(action, "failed")
            };
            self.take_in(effects);
        }
        if let Some(at) = Self::pick(&mut self.random, &self.cells) {
            let (cell, id, bytes) = self.cells.swap_remove(at);
            let effects = if well {
                self.alive.insert(id.0, bytes);
                self.state.cell_created(cell, id, bytes, id.0, self.now)
            } else {
                let mut effects = self.state.cell_failed(cell, "failed".to_owned());
                effects.extend(self.state.retry_cell(cell));
                effects
            };
            self.take_in(effects);
        }
    }

    fn end_pause_or_resume(&mut self, well: bool) {
        let lost = self.random.random_bool(0.3);
        if let Some(at) = Self::pick(&mut self.random, &self.pausing) {
            let (action, idle) = self.pausing.swap_remove(at);
            let effects = match (well, lost) {
                (true, _) => self.state.paused(action, idle, self.now),
                (false, false) => self.state.pause_failed(action, Some(idle.held)),
                (false, true) => {
                    self.alive.remove(&idle.held.container);
                    self.state.pause_failed(action, None)
                }
            };
            self.take_in(effects);
        }
        if let Some(at) = Self::pick(&mut self.random, &self.resuming) {
            let (action, idle) = self.resuming.swap_remove(at);
            let effects = match (well, lost) {
                (true, _) => self.state.resumed(action, idle, self.now),
                (false, false) => self.state.resume_failed(action, Some(idle.held)),
                (false, true) => {
                    self.alive.remove(&idle.held.container);
                    self.state.resume_failed(action, None)
                }
            };
            self.take_in(effects);
        }
    }

    fn end_destruction(&mut self) {
        if let Some(at) = Self::pick(&mut self.random, &self.destroying) {
            let (_, bytes) = self.destroying.swap_remove(at);
            let effects = self.state.destroyed(bytes);
            self.take_in(effects);
        }
    }

    fn tick(&mut self) {
        for need in self.needs.clone() {
            let effects = self.state.tick(&need.key, self.now);
            self.take_in(effects);
        }
    }

    fn adjust(&mut self) {
        let effects = self.state.adjust_cells(self.now);
        self.take_in(effects);
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.random_range(0..500));
        match self.random.random_range(0..100) {
            0..35 => self.acquire(),
            35..39 => self.cancel(),
            39..42 => self.initialize(),
            42..65 => self.end_lease(true),
            65..69 => self.end_lease(false),
            69..80 => self.end_creation(true),
            80..82 => self.end_creation(false),
            82..89 => self.end_destruction(),
            89..94 => self.end_pause_or_resume(true),
            94..95 => self.end_pause_or_resume(false),
            95..97 => self.tick(),
            97..98 => self.adjust(),
            _ => self.now += Duration::from_secs(self.random.random_range(1..30)),
        }
        self.check();
    }

    /// Compares the state's books with the world's.
    fn check(&mut self) {
        let memory = self.state.memory();
        let (limit, committed, occupied) = (memory.limit(), memory.committed(), memory.occupied());
        let evictable = memory.evictable();
        let being_created: u64 = self.creating.iter().map(|entry| entry.2).sum::<u64>()
            + self.cells.iter().map(|entry| entry.2).sum::<u64>();
        let living: u64 = self.alive.values().sum();
        let dying: u64 = self.destroying.iter().map(|entry| entry.1).sum();
        assert!(occupied <= limit && committed <= limit, "{committed} or {occupied} of {limit}");
        assert_eq!(occupied, being_created + living + dying, "what really exists");
        assert!(self.creating.len() + self.cells.len() <= self.creations, "creations are bounded");

        let mut places = BTreeSet::new();
        let (mut queued_bytes, mut idle_bytes, mut waiters, mut admitted) = (0, 0, 0, 0);
        for (_, action) in self.state.actions.iter() {
            queued_bytes += action.queued as u64 * action.bytes();
            waiters += action.waiters.len();
            admitted += action.admitted;
            let paused = action.paused.iter().map(|(idle, _)| idle);
            for idle in action.idle.iter().chain(paused) {
                idle_bytes += idle.held.bytes;
                assert!(places.insert(idle.held.container), "one place");
                assert!(!self.unfit.contains(&idle.held.container), "what is unfit is destroyed");
            }
            assert!(action.admitted <= action.room_coming(), "a promise is backed by room on its way");
            assert!(action.admitted <= action.waiters.len());
            let without_one = action.room_coming() - action.need.slots.min(action.room_coming());
            assert!(action.queued == 0 || without_one < action.admitted, "no start in excess is begun");
            let room = !action.idle.is_empty() || action.has_room();
            assert!(action.admitted == 0 || !room, "what is free goes to who has a promise");
            for shared in &action.shared {
                let users = self.leases.iter().filter(|(_, held)| held.container == shared.held.container).count();
                assert_eq!((users, users > 0), (shared.users, true), "who is in it");
                let (unfit, new) = (&self.unfit, !self.initialized.contains(&shared.held.container));
                assert_eq!(shared.door == Door::Condemned, unfit.contains(&shared.held.container));
                assert!(shared.door == Door::Condemned || (shared.door == Door::Closed) == new);
            }
        }
        assert_eq!(committed, being_created + living + queued_bytes, "what is meant to live");
        assert_eq!(evictable, idle_bytes);
        assert_eq!(waiters, self.waiting.len(), "nobody is forgotten");
        assert_eq!(self.state.buffer.len(), waiters - admitted, "who has no promise has a ticket");
        let leased: BTreeSet<u64> = self.leases.iter().map(|(_, held)| held.container).collect();
        let elsewhere = leased.into_iter().chain(self.pausing.iter().map(|(_, idle)| idle.held.container));
        let elsewhere = elsewhere.chain(self.resuming.iter().map(|(_, idle)| idle.held.container));
        for container in elsewhere {
            assert!(places.insert(container), "one place");
        }
        let in_cells: usize = self.state.cells.counts().map(|(_, _, ready, _)| ready).sum();
        assert_eq!(places.len() + in_cells, self.alive.len(), "no container is lost");

        // Nobody waits in vain: the head needs more than there is, even if all that is idle were evicted.
        if let Some((_, id)) = self.state.buffer.head() {
            let action = self.state.actions.get(id);
            assert!(action.idle.is_empty() && action.paused.is_empty() && action.pausing == action.pausing_claimed);
            assert!(!action.has_room());
            assert_eq!(action.room_coming(), action.admitted);
            let bytes = action.bytes();
            assert!(!self.state.memory.fits_by_evicting(bytes));
        }
        if let Some(id) = self.state.starts.front().copied() {
            let bytes = self.state.actions.get(id).bytes();
            let slots_used = self.creating.len() + self.cells.len();
            assert!(
                slots_used == self.creations || !self.state.memory.has_room(bytes),
                "a start does not wait in vain"
            );
        }
    }

    /// Ends everything that is under way, well, until nobody waits.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.waiting.is_empty() && self.leases.is_empty() && self.creating.is_empty() {
                return;
            }
            self.end_creation(true);
            self.end_destruction();
            self.end_pause_or_resume(true);
            self.end_lease(true);
            // Somebody may wait for the memory of stem cells that are not needed for long.
            self.now += Duration::from_secs(1);
            self.adjust();
            self.check();
        }
        panic!("{} still wait, report {:?}", self.waiting.len(), self.state.report());
    }

    fn close(&mut self) {
        let effects = self.state.close();
        self.take_in(effects);
        assert!(self.waiting.is_empty(), "all are refused");
        for _ in 0..10_000 {
            let under_way = self.creating.len() + self.cells.len() + self.pausing.len() + self.resuming.len();
            if under_way + self.leases.len() + self.destroying.len() == 0 {
                break;
            }
            self.end_creation(true);
            self.end_destruction();
            self.end_pause_or_resume(true);
            self.end_lease(true);
        }
        assert_eq!((self.state.memory().committed(), self.state.memory().occupied()), (0, 0));
        assert!(self.alive.is_empty());
        assert!(self.state.actions.iter().next().is_none(), "nothing is left of any action");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_books_agree_whatever_happens(setup in setups()) {
        let mut world = World::new(&setup);
        for _ in 0..setup.steps {
            world.step();
        }
        world.settle();
        world.close();
    }

    #[test]
    fn a_pool_closes_in_the_middle_of_anything(setup in setups(), steps in 0usize..200) {
        let mut world = World::new(&setup);
        for _ in 0..steps {
            world.step();
        }
        world.close();
    }
}

/// The random histories must reach the corners, or the properties say little.
#[test]
fn histories_reach_evictions_queues_and_service() {
    let actions = vec![(128, 1), (256, 3), (256, 1), (512, 2)];
    let setup = Setup {
        seed: 7,
        steps: 5000,
        memory_mb: 1024,
        actions,
        run_buffer: 20,
        creations: 3,
        cells: 1,
        reactive: true,
        pauses: true,
    };
    let mut world = World::new(&setup);
    let mut queued = 0;
    for _ in 0..setup.steps {
        world.step();
        queued += usize::from(!world.state.buffer.is_empty());
    }
    assert!(world.served > 300, "{} served", world.served);
    assert!(world.shared > 50, "{} came to others", world.shared);
    assert!(world.evicted > 50, "{} evicted", world.evicted);
    assert!(queued > 500, "{queued} steps with a queue");
}

/// With leases that end well, waiters are served in the order in which they came, over all actions.
#[test]
fn admission_is_first_come_first_served() {
    for seed in 0..200 {
        let actions = vec![(128, 1), (256, 2), (512, 3)];
        let setup = Setup {
            seed,
            steps: 300,
            memory_mb: 700,
            actions,
            run_buffer: 50,
            creations: 4,
            cells: 0,
            reactive: false,
            pauses: false,
        };
        let mut world = World::new(&setup);
        let mut highest_admitted = None;
        for _ in 0..setup.steps {
            match world.random.random_range(0..5) {
                0 => world.acquire(),
                1 => world.end_lease(true),
                4 => world.initialize(),
                2 => world.end_creation(true),
                _ => world.end_destruction(),
            }
            world.now += Duration::from_millis(1);
            world.check();
            let in_buffer = world.state.buffer.head().map(|(ticket, _)| ticket);
            let actions = world.state.actions.iter();
            let admitted = actions.flat_map(|(_, action)| action.waiters.iter().take(action.admitted));
            highest_admitted = admitted.map(|waiter| waiter.ticket).max().max(highest_admitted);
            if let (Some(head), Some(admitted)) = (in_buffer, highest_admitted) {
                assert!(admitted < head, "seed {seed}: {admitted:?} overtook {head:?}");
            }
        }
        world.settle();
    }
}
