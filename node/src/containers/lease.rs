//! A container in use by one activation.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use super::{
    container::Live,
    pool::Pools,
    pool_state::{ActionId, ContainerId, Held, Share},
};

/// How an activation came by its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartKind {
    /// It was created for the activation.
    Cold,
    /// It was there, without code.
    Prewarmed,
    /// It was there, with its code.
    Warm,
}

/// A container in use, by one activation, or the part of one of them in a container that several use. Dereferences to [`Live`]: for disjoint borrows write
/// `let Live { container, connection, .. } = &mut *lease;`.
///
/// Dropped, it is destroyed, as soon as nobody else uses it: only [`Lease::give_back`] vouches for the container. Neither blocks; both may be called
/// on any thread.
#[derive(Debug)]
pub struct Lease {
    /// How it came to this activation.
    pub start: StartKind,
    pools: Pools,
    action: ActionId,
    id: ContainerId,
    bytes: u64,
    /// `None` once it was passed on.
    live: Option<Live>,
}

impl Lease {
    pub(super) fn new(pools: Pools, action: ActionId, held: Held<Live>) -> Self {
        let Held { id, bytes, start, container } = held;
        Self { start, pools, action, id, bytes, live: Some(container) }
    }

    /// `/init` succeeded. Where an action allows several activations in one container, others may come in from now on.
    pub fn set_initialized(&mut self) {
        self.initialized = true;
        let Some(live) = self.live.take() else { return };
        if live.is_shared() {
            let (mine, more) = live.split();
            self.live = Some(mine);
            self.pools.opened(self.action, self.held(more));
        } else {
            self.live = Some(live);
        }
    }

    /// The activation is over and the container is as good as before: the next one may have it. One without code
    /// (`initialized` is false) is destroyed.
    ///
    /// Source: reference `execution.md` 4.4 says when.
    pub fn give_back(self) {
        if self.initialized {
            let pools = self.pools.clone();
            let (action, held) = self.into_parts();
            pools.give_back(action, held);
        }
    }

    /// The container must not be used again. It is killed beside the path.
    pub fn destroy(self) {
        drop(self);
    }

    /// Nobody used it: whoever waited has gone.
    pub(super) fn hand_back(self) {
        let pools = self.pools.clone();
        let (action, held) = self.into_parts();
        pools.hand_back(action, held);
    }

    pub(super) fn into_parts(mut self) -> (ActionId, Held<Live>) {
        let live = self.live.take().expect(PRESENT);
        (self.action, self.held(live))
    }

    fn held(&self, container: Live) -> Held<Live> {
        Held { id: self.id, bytes: self.bytes, start: self.start, container }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            let held = self.held(live);
            self.pools.discard(self.action, held);
        }
    }
}

const PRESENT: &str = "a lease has its container until it is consumed";

impl Deref for Lease {
    type Target = Live;

    fn deref(&self) -> &Live {
        self.live.as_ref().expect(PRESENT)
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Live {
        self.live.as_mut().expect(PRESENT)
    }
}
