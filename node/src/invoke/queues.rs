//! Accepted work that waits for a container of its action, and when one more container is worth asking for.
//!
//! A container that has run accepted work goes on with what waits for the same action. One more is asked for while none
//! serves the action, and once its work has waited for [`STALE`] nevertheless: to start a container takes the processor time
//! of hundreds of short activations, which would be missing for these very activations.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use protocol::{EntityName, FullyQualifiedName};

use crate::cluster::session::Waiting;

/// Work that has waited for so long needs more containers than there are.
const STALE: Duration = Duration::from_millis(50);
/// Containers that one action asks for at once on behalf of accepted work. More would only wait in line.
const ASKING: usize = 16;
/// Containers that all actions together ask for, beyond one each: callers that wait stand in the same line.
const ASKING_TOGETHER: usize = 64;

/// The invoking namespace and the action.
pub(super) type QueueKey = (EntityName, FullyQualifiedName);

/// What waits on this node, by [`QueueKey`].
#[derive(Default)]
pub(super) struct Queues(Mutex<State>);

#[derive(Default)]
struct State {
    queues: HashMap<QueueKey, Queue>,
    /// Sum over all queues.
    asking: usize,
}

#[derive(Default)]
struct Queue {
    /// And since when.
    waiting: VecDeque<(Waiting, Instant)>,
    /// Tasks that ask for a container.
    asking: usize,
    /// Containers that run its accepted work and go on with it.
    serving: usize,
    /// Somebody calls [`Queues::look`] in time.
    watched: bool,
}

/// What is to be done after work came to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pushed {
    /// A task should ask for a container.
    pub ask: bool,
    /// Somebody should begin to look.
    pub watch: bool,
}

/// What whoever watches a queue is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// So many tasks should ask for a container now; look again at the time named.
    Ask(usize, Instant),
    /// Nothing waits any more.
    Leave,
}

impl Queues {
    pub fn len(&self) -> usize {
        self.0.lock().queues.values().map(|queue| queue.waiting.len()).sum()
    }

    /// True if somebody waits for this action: newcomers go behind them.
    pub fn has_waiting(&self, key: &QueueKey) -> bool {
        self.0.lock().queues.get(key).is_some_and(|queue| !queue.waiting.is_empty())
    }

    pub fn push(&self, key: &QueueKey, waiting: Waiting, now: Instant) -> Pushed {
        let State { queues, asking } = &mut *self.0.lock();
        let queue = queues.entry(key.clone()).or_default();
        queue.waiting.push_back((waiting, now));
        let ask = queue.is_unattended();
        queue.asking += usize::from(ask);
        *asking += usize::from(ask);
        let watch = !std::mem::replace(&mut queue.watched, true);
        Pushed { ask, watch }
    }

    /// For who watches: whether the containers that serve are enough.
    pub fn look(&self, key: &QueueKey, now: Instant) -> Look {
        let State { queues, asking } = &mut *self.0.lock();
        let Some(queue) = queues.get_mut(key) else { return Look::Leave };
        let Some((_, since)) = queue.waiting.front() else {
            queue.watched = false;
            forget_if_unused(queues, key);
            return Look::Leave;
        };
        let stale_at = *since + STALE;
        if now < stale_at {
            return Look::Ask(0, stale_at);
        }
        let room = ASKING.saturating_sub(queue.asking).min(ASKING_TOGETHER.saturating_sub(*asking));
        let more = queue.serving.max(1).min(room);
        queue.asking += more;
        *asking += more;
        Look::Ask(more, now + STALE)
    }

    /// The next to run, for who has a container already.
    pub fn next(&self, key: &QueueKey) -> Option<Waiting> {
        self.0.lock().queues.get_mut(key)?.waiting.pop_front().map(|(waiting, _)| waiting)
    }

    /// A container begins to run accepted work of this action.
    pub fn serves(&self, key: &QueueKey) {
        self.0.lock().queues.entry(key.clone()).or_default().serving += 1;
    }

    /// A container ends to do so. True: a task should ask for another.
    pub fn served(&self, key: &QueueKey) -> bool {
        self.leave(key, |queue| queue.serving -= 1)
    }

    /// A task does not ask any more. True: another should.
    pub fn asked(&self, key: &QueueKey) -> bool {
        self.leave(key, |queue| queue.asking -= 1)
    }

    /// True: nobody is left for what waits, and who hears that is now one who asks.
    fn leave(&self, key: &QueueKey, leave: impl FnOnce(&mut Queue)) -> bool {
        let State { queues, asking } = &mut *self.0.lock();
        let Some(queue) = queues.get_mut(key) else { return false };
        *asking -= queue.asking;
        leave(queue);
        let ask = !queue.waiting.is_empty() && queue.is_unattended();
        queue.asking += usize::from(ask);
        *asking += queue.asking;
        forget_if_unused(queues, key);
        ask
    }
}

impl Queue {
    fn is_unattended(&self) -> bool {
        self.serving == 0 && self.asking == 0
    }
}

fn forget_if_unused(queues: &mut HashMap<QueueKey, Queue>, key: &QueueKey) {
    let unused = |queue: &Queue| queue.waiting.is_empty() && queue.is_unattended() && !queue.watched;
    if queues.get(key).is_some_and(unused) {
        queues.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use protocol::{ActivationId, ShardId};

    use super::*;

    fn key(action: usize) -> QueueKey {
        let name = FullyQualifiedName::parse(&format!("guest/action-{action}")).expect("a name");
        (EntityName::new("guest").expect("a name"), name)
    }

    const WAITING: Waiting = Waiting { id: ActivationId::from_bytes([1; 16]), shard: ShardId(0), attempt: 0 };

    /// Asks and looks until nothing waits; every task that asks finds nothing more.
    fn leave(queues: &Queues, key: &QueueKey, asking: usize, now: Instant) {
        while queues.next(key).is_some() {}
        (0..asking).for_each(|_| assert!(!queues.asked(key), "nothing waits"));
        assert_eq!(queues.look(key, now), Look::Leave);
    }

    fn is_empty(queues: &Queues) -> bool {
        let state = queues.0.lock();
        state.queues.is_empty() && state.asking == 0
    }

    #[test]
    fn what_is_served_in_time_asks_for_no_more_containers() {
        let (queues, key, start) = (Queues::default(), key(0), Instant::now());
        assert_eq!(queues.push(&key, WAITING, start), Pushed { ask: true, watch: true });
        queues.next(&key).expect("it waits");
        queues.serves(&key);
        assert!(!queues.asked(&key), "one serves");
        let mut now = start;
        for _ in 0..100 {
            now += STALE / 2;
            assert_eq!(queues.push(&key, WAITING, now), Pushed { ask: false, watch: false });
            assert_eq!(queues.look(&key, now), Look::Ask(0, now + STALE));
            queues.next(&key).expect("it waits");
        }
        assert!(!queues.served(&key), "nothing waits");
        leave(&queues, &key, 0, now);
        assert!(is_empty(&queues));
    }

    #[test]
    fn what_waits_too_long_asks_for_twice_as_many_again_and_again() {
        let (queues, key, start) = (Queues::default(), key(0), Instant::now());
        assert_eq!((0..1000).filter(|_| queues.push(&key, WAITING, start).ask).count(), 1);
        let (mut now, mut asked) = (start, Vec::new());
        for _ in 0..6 {
            now += STALE;
            let Look::Ask(more, again) = queues.look(&key, now) else { panic!("work waits") };
            assert_eq!(again, now + STALE);
            asked.push(more);
            for _ in 0..more {
                queues.serves(&key);
                assert!(!queues.asked(&key), "one serves");
            }
        }
        assert_eq!(asked, [1, 1, 2, 4, 8, 15], "never more than sixteen ask, with the first who still does");
        (0..31).for_each(|_| assert!(!queues.served(&key), "others serve, or ask"));
        leave(&queues, &key, 1, now);
        assert!(is_empty(&queues));
    }

    #[test]
    fn the_last_container_that_ends_its_turn_makes_someone_ask() {
        let (queues, key, now) = (Queues::default(), key(0), Instant::now());
        queues.serves(&key);
        queues.serves(&key);
        assert_eq!(queues.push(&key, WAITING, now), Pushed { ask: false, watch: true });
        assert!(!queues.served(&key), "another serves");
        assert!(queues.served(&key), "nobody would");
        leave(&queues, &key, 1, now);
        assert!(is_empty(&queues));
    }

    #[test]
    fn what_comes_while_the_last_who_asked_leaves_makes_someone_ask() {
        let (queues, key, now) = (Queues::default(), key(0), Instant::now());
        assert!(queues.push(&key, WAITING, now).ask);
        queues.next(&key).expect("it waits");
        assert_eq!(queues.push(&key, WAITING, now), Pushed { ask: false, watch: false });
        assert!(queues.asked(&key), "nobody would");
        leave(&queues, &key, 1, now);
        assert!(is_empty(&queues));
    }

    #[test]
    fn accepted_work_of_many_actions_does_not_fill_the_line_for_containers() {
        let (queues, start) = (Queues::default(), Instant::now());
        let mut asking = [0; 100];
        for (action, asking) in asking.iter_mut().enumerate() {
            *asking += usize::from(queues.push(&key(action), WAITING, start).ask);
        }
        for round in 1..=100 {
            for (action, asking) in asking.iter_mut().enumerate() {
                let Look::Ask(more, _) = queues.look(&key(action), start + STALE * round) else { panic!("work waits") };
                *asking += more;
            }
        }
        assert!(asking.iter().all(|asking| *asking == 1), "each has one, and together they have enough: {asking:?}");
        asking.iter().enumerate().for_each(|(action, asking)| leave(&queues, &key(action), *asking, start));
        assert!(is_empty(&queues));
    }
}
