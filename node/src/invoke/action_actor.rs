//! One actor per action and invoking namespace that has containers here: it brings the misses of its action to the
//! pools' state, does what is decided about the action's containers, and pauses and removes idle ones in time.
//!
//! It decides nothing and does no I/O on its thread: I/O runs on the main runtime, and its end comes back to the actor.
//! All actors share one arbiter of their own, so that no worker that serves requests runs them. An actor leaves when
//! nothing of its action is left.

use std::{collections::HashMap, io, sync::mpsc, time::Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use actix_rt::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;

use crate::containers::{AcquireError, Need, PoolKey, Pools, container::Task, pool::Reply, pool_state::WaiterId};

/// A container for `need`, which found no idle one. Answered through `reply`, perhaps much later.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Acquire {
    pub need: Need,
    pub waiter: WaiterId,
    pub reply: Reply,
}

/// Something to be done with a container of the action.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Perform(Task);

/// Nothing of the action was left a moment ago.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct NothingLeft;

struct ActionActor {
    key: PoolKey,
    pools: Pools,
    timer: Option<(Instant, SpawnHandle)>,
    /// It left the directory, where another actor may have taken its place.
    left: bool,
}

impl Actor for ActionActor {
    type Context = Context<Self>;
}

impl Handler<Acquire> for ActionActor {
    type Result = ();

    fn handle(&mut self, message: Acquire, ctx: &mut Context<Self>) {
        self.pools.enqueue(message);
        self.pools.actors().one_read(&self.key);
        self.set_timer_or_leave(ctx);
    }
}

impl Handler<Perform> for ActionActor {
    type Result = ();

    fn handle(&mut self, Perform(task): Perform, ctx: &mut Context<Self>) {
        let end = self.pools.perform(task).into_actor(self);
        ctx.spawn(end.map(|outcome, actor, ctx| {
            actor.pools.settle(outcome);
            actor.set_timer_or_leave(ctx);
        }));
    }
}

impl Handler<NothingLeft> for ActionActor {
    type Result = ();

    fn handle(&mut self, _: NothingLeft, ctx: &mut Context<Self>) {
        self.set_timer_or_leave(ctx);
    }
}

impl ActionActor {
    fn set_timer_or_leave(&mut self, ctx: &mut Context<Self>) {
        if self.left {
            return;
        }
        let now = Instant::now();
        let Some(due) = self.pools.next_tick(&self.key, now) else {
            self.left = self.pools.actors().leave(&self.pools, &self.key);
            if self.left {
                ctx.stop();
            }
            return;
        };
        match self.timer {
            Some((at, _)) if at <= due => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let handle = ctx.run_later(due.saturating_duration_since(now), |actor, ctx| {
            actor.timer = None;
            actor.pools.tick(&actor.key);
            actor.set_timer_or_leave(ctx);
        });
        self.timer = Some((due, handle));
    }
}

/// The actors of a node and the thread they live on.
#[derive(Debug)]
pub struct Actors {
    system: System,
    arbiter: ArbiterHandle,
    /// How many `Acquire` may be on their way to one actor.
    bound: usize,
    entries: Mutex<HashMap<PoolKey, Entry>>,
}

#[derive(Debug)]
struct Entry {
    actor: Addr<ActionActor>,
    /// `Acquire` sent and not read yet: an actor does not leave before it has read them.
    unread: usize,
}

impl Actors {
    /// Starts the thread. `bound`: how many misses may be on their way to one actor.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(bound: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new().name("action-actors".into()).spawn(move || {
            let runner = System::new();
            // Nobody hears it if the starting thread is gone; then the system is never stopped but idle.
            let _ = sender.send((System::current(), Arbiter::current()));
            runner.run()
        })?;
        let (system, arbiter) = receiver.recv().map_err(|_| io::Error::other("the thread of the actors ended"))?;
        Ok(Self { system, arbiter, bound, entries: Mutex::new(HashMap::new()) })
    }

    /// Sends a miss to the action's actor, which is started if need be.
    pub fn acquire(&self, pools: &Pools, message: Acquire) -> Result<(), AcquireError> {
        let mut entries = self.entries.lock();
        let entry = self.entry(&mut entries, pools, &message.need.key);
        if entry.unread >= self.bound.max(1) {
            return Err(AcquireError::Full);
        }
        entry.unread += 1;
        entry.actor.do_send(message);
        Ok(())
    }

    /// Has the action's actor do something. Never refused: what is decided has to be told.
    pub fn perform(&self, pools: &Pools, key: &PoolKey, task: Task) {
        let mut entries = self.entries.lock();
        self.entry(&mut entries, pools, key).actor.do_send(Perform(task));
    }

    pub fn nothing_left(&self, key: &PoolKey) {
        if let Some(entry) = self.entries.lock().get(key) {
            entry.actor.do_send(NothingLeft);
        }
    }

    /// Actors alive.
    pub fn count(&self) -> usize {
        self.entries.lock().len()
    }

    /// Ends all actors and their thread.
    pub fn stop(&self) {
        self.system.stop();
    }

    fn entry<'a>(&self, entries: &'a mut HashMap<PoolKey, Entry>, pools: &Pools, key: &PoolKey) -> &'a mut Entry {
        entries.entry(key.clone()).or_insert_with(|| {
            let (key, pools) = (key.clone(), pools.clone());
            let start = move |_: &mut Context<ActionActor>| ActionActor { key, pools, timer: None, left: false };
            Entry { actor: ActionActor::start_in_arbiter(&self.arbiter, start), unread: 0 }
        })
    }

    fn one_read(&self, key: &PoolKey) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.unread -= 1;
        }
    }

    /// Removes the actor if nothing of its action is left or on its way. New misses start a new one.
    fn leave(&self, pools: &Pools, key: &PoolKey) -> bool {
        let mut entries = self.entries.lock();
        let wanted = entries.get(key).is_some_and(|entry| entry.unread > 0) || pools.knows(key);
        if !wanted {
            entries.remove(key);
        }
        !wanted
    }
}
