//! The rules of the pool, one by one.

use std::time::{Duration, Instant};

use protocol::{ByteSize, EntityName, EntityPath, FullyQualifiedName, Revision};

use super::*;

/// Stem cells.
mod cells;

type State = PoolState<&'static str, u32, &'static str>;
type Did = Effect<&'static str, u32, &'static str>;

fn need(action: &str, memory_mb: u64) -> Need {
    let name = |text: &str| EntityName::new(text).expect("a legal name");
    let action = FullyQualifiedName::new(EntityPath::namespace(name("ns")), name(action));
    let key = PoolKey { namespace: name("guest"), action, revision: Revision(1) };
    Need { key, kind: "nodejs:20".into(), image: None, memory: ByteSize::mib(memory_mb), slots: 1 }
}

fn limits(memory_mb: u64) -> Limits {
    Limits { memory: ByteSize::mib(memory_mb), run_buffer: 4, creations: 2, ..Limits::default() }
}

fn state(memory_mb: u64) -> State {
    PoolState::new(limits(memory_mb), Vec::new())
}

/// A state that drives itself: starts succeed when asked for, destructions wait for `end_destructions`.
struct Node {
    state: State,
    now: Instant,
    /// Everything that was done, as short texts.
    log: Vec<String>,
    starting: Vec<(ActionId, ContainerId, String)>,
    leases: Vec<(u32, ActionId, Held<&'static str>)>,
    destroying: Vec<u64>,
    pausing: Vec<(ActionId, Idle<&'static str>)>,
    resuming: Vec<(ActionId, Idle<&'static str>)>,
    cells: Vec<(CellId, ContainerId, u64)>,
    waiters: u32,
}

impl Node {
    fn new(state: State) -> Self {
        let now = Instant::now();
        let empty = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (log, starting, leases, destroying, pausing, resuming, cells) = empty;
        let mut node = Self { state, now, log, starting, leases, destroying, pausing, resuming, cells, waiters: 0 };
        let effects = node.state.open();
        node.did(effects);
        node
    }

    fn did(&mut self, effects: Vec<Did>) {
        for effect in effects {
            match effect {
                Effect::HandOver { reply, action, held } => {
                    self.log.push(format!("{reply} gets {:?} {:?}", held.id.0, held.start));
                    self.leases.push((reply, action, held));
                }
                Effect::Refuse { reply, refusal } => self.log.push(format!("{reply} refused {refusal:?}")),
                Effect::Start { action, id, need } => {
                    self.log.push(format!("start {} for {}", id.0, need.key.action.name));
                    self.starting.push((action, id, need.key.action.name.to_string()));
                }
                Effect::Pause { action, idle, .. } => {
                    self.log.push(format!("pause {}", idle.held.id.0));
                    self.pausing.push((action, idle));
                }
                Effect::Resume { action, idle, .. } => {
                    self.log.push(format!("resume {}", idle.held.id.0));
                    self.resuming.push((action, idle));
                }
                Effect::Destroy { held, evicted } => {
                    let why = if evicted { "evict" } else { "destroy" };
                    self.log.push(format!("{why} {}", held.id.0));
                    self.destroying.push(held.bytes);
                }
                Effect::CreateCell { cell, id, config } => {
                    self.log.push(format!("create cell {}", id.0));
                    self.cells.push((cell, id, config.memory.bytes()));
                }
                Effect::RetryCell { after, news, .. } => {
                    self.log
                        .push(format!("try a cell again after {after:?} {}", news.as_deref().unwrap_or("as known")));
                }
                Effect::CellDoesNotFit { config } => self.log.push(format!("no room for a cell of {}", config.kind)),
                Effect::ActionGone { need } => self.log.push(format!("{} is gone", need.key.action.name)),
            }
        }
    }

    /// What happened since the last look.
    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn acquire(&mut self, need: &Need) -> WaiterId {
        self.waiters += 1;
        let waiter = WaiterId(self.waiters.into());
        let effects = self.state.acquire(need.clone(), waiter, self.waiters, self.now);
        self.did(effects);
        waiter
    }

    /// Ends the first start.
    fn started(&mut self) {
        let (action, id, _) = self.starting.remove(0);
        let effects = self.state.started(action, id, "container", self.now);
        self.did(effects);
    }

    fn give_back(&mut self, waiter: u32) {
        self.now += Duration::from_millis(1);
        let at = self.leases.iter().position(|lease| lease.0 == waiter).expect("it has a lease");
        let (_, action, held) = self.leases.remove(at);
        let effects = self.state.give_back(action, held, self.now);
        self.did(effects);
    }

    /// Its `/init` succeeds.
    fn initialized(&mut self, waiter: u32) {
        let (_, action, held) = self.leases.iter().find(|lease| lease.0 == waiter).expect("it has a lease");
        let held = Held { ..*held };
        let effects = self.state.opened(*action, held);
        self.did(effects);
    }

    fn discard(&mut self, waiter: u32) {
        let at = self.leases.iter().position(|lease| lease.0 == waiter).expect("it has a lease");
        let (_, action, held) = self.leases.remove(at);
        let effects = self.state.discard(action, held);
        self.did(effects);
    }

    fn end_destructions(&mut self) {
        for bytes in std::mem::take(&mut self.destroying) {
            let effects = self.state.destroyed(bytes);
            self.did(effects);
        }
    }

    /// One warm idle container of each, the first the least recently used.
    fn warm_up(&mut self, needs: &[&Need]) {
        for need in needs {
            self.acquire(need);
            self.started();
            self.give_back(self.waiters);
        }
        self.log();
    }

    fn tick(&mut self, need: &Need, after: Duration) {
        self.now += after;
        let effects = self.state.tick(&need.key, self.now);
        self.did(effects);
    }
}

#[test]
fn the_hottest_idle_container_is_taken_first() {
    let a = need("a", 100);
    let mut node = Node::new(state(1000));
    node.acquire(&a);
    node.acquire(&a);
    node.started();
    node.started();
    assert_eq!(node.log(), ["start 0 for a", "start 1 for a", "1 gets 0 Cold", "2 gets 1 Cold"]);
    node.give_back(2);
    node.give_back(1);
    let (action, held) = node.state.take_warm(&a.key).expect("a warm one");
    assert_eq!((held.id, held.start), (ContainerId(0), StartKind::Warm));
    let effects = node.state.give_back(action, held, node.now);
    assert!(effects.is_empty(), "nothing else happens on the warm path");
    assert!(node.state.take_warm(&need("b", 100).key).is_none(), "never of another action");
    let mut other = a.clone();
    other.key.namespace = EntityName::new("other").expect("a legal name");
    assert!(node.state.take_warm(&other.key).is_none(), "never across invoking namespaces");
    other = a.clone();
    other.key.revision = Revision(2);
    assert!(node.state.take_warm(&other.key).is_none(), "never of another revision");
}

#[test]
fn a_returned_container_goes_to_the_first_waiter_and_its_start_is_called_off() {
    let a = need("a", 100);
    let mut node = Node::new(state(1000));
    for _ in 0..4 {
        node.acquire(&a);
    }
    // Two creations at a time: the other two starts are decided but not begun.
    assert_eq!(node.log(), ["start 0 for a", "start 1 for a"]);
    assert_eq!(node.state.memory().committed(), 400 << 20);
    node.started();
    assert_eq!(node.log(), ["1 gets 0 Cold", "start 2 for a"]);
    node.give_back(1);
    assert_eq!(node.log(), ["2 gets 0 Warm"]);
    assert_eq!(node.state.memory().committed(), 300 << 20, "the fourth start was called off");
    node.started();
    node.started();
    assert_eq!(node.log(), ["3 gets 1 Cold", "4 gets 2 Cold"]);
    assert!(node.starting.is_empty());
}

#[test]
fn a_start_whose_waiter_left_serves_the_next_or_is_kept() {
    let a = need("a", 100);
    let mut node = Node::new(state(1000));
    let first = node.acquire(&a);
    let effects = node.state.cancel(&a.key, first);
    assert!(effects.is_empty(), "it has begun and goes on");
    node.acquire(&a);
    assert_eq!(node.log(), ["start 0 for a"], "the second claims it");
    node.started();
    assert_eq!(node.log(), ["2 gets 0 Cold"]);
    let third = node.acquire(&a);
    let effects = node.state.cancel(&a.key, third);
    node.did(effects);
    node.started();
    node.give_back(2);
    let kept: Vec<_> = std::iter::from_fn(|| node.state.take_warm(&a.key)).map(|(_, held)| held.start).collect();
    assert_eq!(kept, [StartKind::Warm, StartKind::Prewarmed], "the one with its code is taken first");
}

#[test]
fn idle_containers_of_any_action_are_evicted_least_recently_used_first() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| need(name, 100));
    let mut node = Node::new(state(300));
    node.warm_up(&[&a, &b, &c]);
    let (action, held) = node.state.take_warm(&a.key).expect("a warm one");
    node.now += Duration::from_millis(1);
    let effects = node.state.give_back(action, held, node.now);
    node.did(effects);
    node.acquire(&d);
    assert_eq!(node.log(), ["evict 1", "b is gone"], "b is the coldest now; d begins when it is destroyed");
    assert_eq!(node.state.memory().occupied(), 300 << 20);
    node.end_destructions();
    assert_eq!(node.log(), ["start 3 for d"]);
    node.started();
    assert_eq!(node.log(), ["4 gets 3 Cold"]);
}

#[test]
fn nothing_is_evicted_if_it_would_not_be_enough() {
    let (a, b, big) = (need("a", 100), need("b", 100), need("big", 250));
    let mut node = Node::new(state(300));
    node.warm_up(&[&a]);
    node.acquire(&b);
    node.started();
    node.log();
    node.acquire(&big);
    assert_eq!(node.log(), [""; 0]);
    assert_eq!(node.state.report().run_buffer, 1);
    node.give_back(2);
    assert_eq!(node.log(), ["evict 0", "a is gone", "evict 1", "b is gone"]);
    node.end_destructions();
    node.started();
    assert_eq!(node.log(), ["start 2 for big", "3 gets 2 Cold"]);
}

#[test]
fn nobody_overtakes_the_head_of_the_run_buffer() {
    let (a, small, big) = (need("a", 100), need("small", 100), need("big", 300));
    let mut node = Node::new(state(300));
    node.acquire(&a);
    node.started();
    node.acquire(&a);
    node.started();
    node.acquire(&big);
    node.acquire(&small);
    node.log();
    assert_eq!(node.state.report().run_buffer, 2, "100 MB are free, but the small one waits behind the big one");
    node.give_back(1);
    assert_eq!(node.log(), [""; 0]);
    assert!(node.state.take_warm(&a.key).is_none(), "not even on the warm path");
    node.acquire(&a);
    node.give_back(2);
    assert_eq!(node.log(), ["evict 0", "evict 1", "a is gone",][..2], "the idle ones make room for the big one");
}

#[test]
fn the_run_buffer_is_bounded() {
    let a = need("a", 100);
    let mut node = Node::new(state(100));
    for _ in 0..6 {
        node.acquire(&a);
    }
    assert_eq!(node.log(), ["start 0 for a", "6 refused Full"]);
    assert_eq!(node.state.report().run_buffer, 4);
}

#[test]
fn in_a_long_line_the_newest_are_served_too() {
    let a = need("a", 100);
    let mut node = Node::new(state(100));
    node.acquire(&a);
    node.started();
    node.acquire(&a);
    node.acquire(&a);
    node.now += Duration::from_secs(1);
    node.acquire(&a);
    node.acquire(&a);
    node.log();
    let order: Vec<_> = (1..=4)
        .scan(1, |holder, _| {
            node.give_back(*holder);
            *holder = node.leases.first().expect("somebody has it").0;
            Some(*holder)
        })
        .collect();
    assert_eq!(order, [2, 5, 3, 4]);
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut node = Node::new(PoolState::new(limits(512), vec![cells::fixed(1)]));
    node.acquire(&need("huge", 513));
    node.acquire(&need("large", 512));
    assert_eq!(
        node.log(),
        [
            "create cell 0",
            "1 refused TooLarge { needed: ByteSize(537919488), largest: ByteSize(268435456) }",
            "2 refused TooLarge { needed: ByteSize(536870912), largest: ByteSize(268435456) }"
        ],
        "stem cells are never evicted, so that their memory is not to be had"
    );
    node.acquire(&need("fits", 256));
    assert_eq!(node.log(), ["start 1 for fits"]);
}

#[test]
fn a_failed_start_fails_one_waiter_and_the_others_go_on() {
    let a = need("a", 100);
    let mut node = Node::new(state(1000));
    node.acquire(&a);
    node.acquire(&a);
    let (action, ..) = node.starting.remove(0);
    let effects = node.state.start_failed(action, "no image");
    node.did(effects);
    node.started();
    assert_eq!(node.log(), ["start 0 for a", "start 1 for a", "1 refused Create(\"no image\")", "2 gets 1 Cold"]);
    assert_eq!(node.state.memory().occupied(), 100 << 20);
}

#[test]
fn idle_containers_are_paused_then_removed() {
    let a = need("a", 100);
    let mut node = Node::new(state(1000));
    node.warm_up(&[&a]);
    assert_eq!(node.state.next_tick(&a.key, node.now), Some(node.now + Duration::from_secs(10)));
    node.tick(&a, Duration::from_secs(9));
    assert_eq!(node.log(), [""; 0]);
    node.tick(&a, Duration::from_secs(1));
    assert_eq!(node.log(), ["pause 0"]);
    let (action, idle) = node.pausing.remove(0);
    let effects = node.state.paused(action, idle, node.now);
    node.did(effects);
    assert!(node.state.take_warm(&a.key).is_none(), "a paused one is not for the warm path");
    assert_eq!(node.state.next_tick(&a.key, node.now), Some(node.now + Duration::from_secs(600)));
    node.tick(&a, Duration::from_secs(599));
    assert_eq!(node.log(), [""; 0]);
    node.tick(&a, Duration::from_secs(1));
    assert_eq!(node.log(), ["destroy 0", "a is gone"]);
    node.end_destructions();
    assert_eq!(node.state.next_tick(&a.key, node.now), None);
    assert_eq!((node.state.memory().committed(), node.state.memory().occupied()), (0, 0));
}

#[test]
fn without_pausing_idle_containers_are_removed_in_time() {
    let a = need("a", 100);
    let never = Limits { pause_grace: None, ..limits(1000) };
    let mut node = Node::new(PoolState::new(never, Vec::new()));
    node.warm_up(&[&a]);
    node.tick(&a, Duration::from_secs(599));
    assert_eq!(node.log(), [""; 0]);
    node.tick(&a, Duration::from_secs(1));
    assert_eq!(node.log(), ["destroy 0", "a is gone"]);
}

/// A node with a paused container of `a`.
fn with_a_paused_one(a: &Need) -> Node {
    let mut node = Node::new(state(1000));
    node.warm_up(&[a]);
    node.tick(a, Duration::from_secs(10));
    let (action, idle) = node.pausing.remove(0);
    let effects = node.state.paused(action, idle, node.now);
    node.did(effects);
    node.log();
    node
}

#[test]
fn a_paused_container_is_resumed_for_a_waiter() {
    let a = need("a", 100);
    let mut node = with_a_paused_one(&a);
    node.acquire(&a);
    let (action, idle) = node.resuming.remove(0);
    let effects = node.state.resumed(action, idle, node.now);
    node.did(effects);
    assert_eq!(node.log(), ["resume 0", "2 gets 0 Warm"]);
}

#[test]
fn a_container_that_cannot_be_resumed_is_replaced() {
    let a = need("a", 100);
    let mut node = with_a_paused_one(&a);
    node.acquire(&a);
    let (action, idle) = node.resuming.remove(0);
    let effects = node.state.resume_failed(action, Some(idle.held));
    node.did(effects);
    assert_eq!(node.log(), ["resume 0", "destroy 0", "start 1 for a"]);
    node.started();
    assert_eq!(node.log(), ["2 gets 1 Cold"]);
}

#[test]
fn a_container_lost_while_resuming_frees_its_memory() {
    let a = need("a", 100);
    let mut node = with_a_paused_one(&a);
    let waiter = node.acquire(&a);
    let (action, _) = node.resuming.remove(0);
    let effects = node.state.resume_failed(action, None);
    node.did(effects);
    node.started();
    assert_eq!(node.log(), ["resume 0", "start 1 for a", "2 gets 1 Cold"]);
    assert_eq!(node.state.memory().occupied(), 100 << 20);
    assert!(node.state.cancel(&a.key, waiter).is_empty(), "too late to cancel");
}

#[test]
fn a_container_being_paused_is_claimed_and_resumed() {
    let a = need("a", 100);
    let mut node = Node::new(state(1000));
    node.warm_up(&[&a]);
    node.tick(&a, Duration::from_secs(10));
    node.acquire(&a);
    assert_eq!(node.log(), ["pause 0"], "nothing is started");
    let (action, idle) = node.pausing.remove(0);
    let effects = node.state.paused(action, idle, node.now);
    node.did(effects);
    assert_eq!(node.log(), ["resume 0"]);
    // And if pausing fails, the waiter gets another.
    let (action, idle) = node.resuming.remove(0);
    let effects = node.state.resumed(action, idle, node.now);
    node.did(effects);
    node.give_back(2);
    node.log();
    node.tick(&a, Duration::from_secs(10));
    node.acquire(&a);
    let (action, idle) = node.pausing.remove(0);
    let effects = node.state.pause_failed(action, Some(idle.held));
    node.did(effects);
    assert_eq!(node.log(), ["pause 0", "destroy 0", "start 1 for a"]);
}

#[test]
fn a_container_nobody_took_goes_to_the_next() {
    let a = need("a", 100);
    let mut node = Node::new(state(100));
    node.acquire(&a);
    node.acquire(&a);
    node.started();
    let (_, action, held) = node.leases.remove(0);
    let effects = node.state.hand_back(action, held, node.now);
    node.did(effects);
    assert_eq!(node.log(), ["start 0 for a", "1 gets 0 Cold", "2 gets 0 Prewarmed"]);
}

#[test]
fn a_closed_pool_destroys_everything_that_comes_back() {
    let [a, b, c] = ["a", "b", "c"].map(|name| need(name, 100));
    let mut node = Node::new(state(400));
    node.warm_up(&[&a, &b]);
    node.tick(&b, Duration::from_secs(10));
    let leased = node.state.take_warm(&a.key).expect("a warm one");
    node.acquire(&c);
    node.state.drain();
    node.acquire(&c);
    assert_eq!(node.log(), ["pause 1", "start 2 for c", "4 refused ShuttingDown"]);
    let effects = node.state.close();
    node.did(effects);
    assert_eq!(node.log(), ["3 refused ShuttingDown"]);
    node.started();
    let (action, idle) = node.pausing.remove(0);
    let effects = node.state.paused(action, idle, node.now);
    node.did(effects);
    let effects = node.state.give_back(leased.0, leased.1, node.now);
    node.did(effects);
    assert_eq!(node.log(), ["destroy 2", "c is gone", "destroy 1", "b is gone", "destroy 0", "a is gone"]);
    node.end_destructions();
    assert_eq!((node.state.memory().committed(), node.state.memory().occupied()), (0, 0));
}

#[test]
fn discarded_containers_free_their_memory_when_destroyed() {
    let a = need("a", 100);
    let mut node = Node::new(state(100));
    node.acquire(&a);
    node.acquire(&a);
    node.started();
    let (_, action, held) = node.leases.remove(0);
    let effects = node.state.discard(action, held);
    node.did(effects);
    assert_eq!(node.log(), ["start 0 for a", "1 gets 0 Cold", "destroy 0"]);
    node.end_destructions();
    assert_eq!(node.log(), ["start 1 for a"]);
}

#[test]
fn as_many_as_an_action_allows_share_a_container_once_it_is_initialized() {
    let a = Need { slots: 3, ..need("a", 100) };
    let mut node = Node::new(state(1000));
    for _ in 0..4 {
        node.acquire(&a);
    }
    assert_eq!(node.log(), ["start 0 for a", "start 1 for a"], "three fit into the first");
    node.started();
    assert_eq!(node.log(), ["1 gets 0 Cold"]);
    node.initialized(1);
    assert_eq!(node.log(), ["2 gets 0 Warm", "3 gets 0 Warm"]);
    assert_eq!(node.state.memory().committed(), 200 << 20, "memory is the containers', not the activations'");
    node.give_back(2);
    assert_eq!(node.log(), ["4 gets 0 Warm"], "room for the next is room of the first who waits");
    node.started();
    assert!(node.log().is_empty(), "the second is idle: nobody needs it any more");
    let report = node.state.report();
    assert_eq!((report.actions[0].busy, report.actions[0].idle, node.state.in_use().0), (1, 1, 3));
    assert_eq!(report.memory_idle, 100 << 20);

    // The fullest first, so that others become idle.
    assert!(node.state.take_warm(&a.key).is_some_and(|(_, held)| held.id == ContainerId(1)));
    node.give_back(1);
    assert!(node.state.take_warm(&a.key).is_some_and(|(_, held)| held.id == ContainerId(0)));
    assert!(node.state.take_warm(&a.key).is_none(), "the one is full, the other without its code");
}

#[test]
fn an_initialization_that_fails_sends_who_waited_for_it_elsewhere() {
    let a = Need { slots: 2, ..need("a", 100) };
    let mut node = Node::new(state(1000));
    node.acquire(&a);
    node.started();
    node.acquire(&a);
    assert_eq!(node.log(), ["start 0 for a", "1 gets 0 Cold"], "the second waits for the first one's");
    node.discard(1);
    assert_eq!(node.log(), ["destroy 0", "start 1 for a"]);
    node.started();
    assert_eq!(node.log(), ["2 gets 1 Cold"]);
}

#[test]
fn a_container_that_one_found_unfit_takes_nobody_and_ends_with_its_last() {
    let a = Need { slots: 3, ..need("a", 100) };
    let mut node = Node::new(state(200));
    for _ in 0..3 {
        node.acquire(&a);
    }
    node.started();
    node.initialized(1);
    node.log();
    node.discard(2);
    assert!(node.log().is_empty(), "two are still in it");
    assert!(node.state.take_warm(&a.key).is_none());
    node.acquire(&a);
    node.started();
    assert_eq!(node.log(), ["start 1 for a", "4 gets 1 Cold"]);
    node.give_back(1);
    assert!(node.log().is_empty());
    node.give_back(3);
    assert_eq!(node.log(), ["destroy 0"], "though the last found nothing wrong with it");
}

#[test]
fn a_creation_that_fails_fails_one_and_lets_the_others_try_again() {
    let a = Need { slots: 3, ..need("a", 100) };
    let mut node = Node::new(state(100));
    for _ in 0..3 {
        node.acquire(&a);
    }
    let (action, _, _) = node.starting.remove(0);
    let effects = node.state.start_failed(action, "broken");
    node.did(effects);
    assert_eq!(node.log(), ["start 0 for a", "1 refused Create(\"broken\")", "start 1 for a"]);
    node.started();
    node.initialized(2);
    assert_eq!(node.log(), ["2 gets 1 Cold", "3 gets 1 Warm"]);
}
