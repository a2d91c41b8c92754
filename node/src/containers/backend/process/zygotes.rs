//! The zygotes of a node: one per version of Python, started when first needed, replaced when broken.

use std::{collections::HashMap, io, os::fd::AsFd, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::{Failure, platform};
use crate::{
    containers::backend::{
        interpreters::Interpreter,
        sandbox::{Payload, Sandbox},
    },
    runtime::zygote::{ForkError, Order, Zygote},
};

/// A place for one zygote. Its lock is held while it starts or forks: milliseconds, on a blocking thread.
pub(super) type Slot = Arc<Mutex<Option<Zygote>>>;

pub(super) struct Zygotes {
    program: PathBuf,
    /// As seen from inside containers.
    unpacker: PathBuf,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Zygotes {
    pub fn new(program: PathBuf, unpacker: PathBuf) -> Self {
        Self { program, unpacker, slots: Mutex::default() }
    }

    /// Starts `interpreter`'s zygote beside whatever else goes on.
    pub fn warm(self: &Arc<Self>, interpreter: Interpreter) {
        let zygotes = self.clone();
        tokio::spawn(async move {
            if let Err(error) = zygotes.get(&interpreter).await {
                warn!(kind = interpreter.kind, %error, "cannot warm an interpreter");
            }
        });
    }

    /// The slot of `interpreter`'s zygote, filled.
    pub async fn get(&self, interpreter: &Interpreter) -> io::Result<Slot> {
        let slot = self.slots.lock().entry(interpreter.kind.clone()).or_default().clone();
        if slot.try_lock().is_some_and(|zygote| zygote.is_some()) {
            return Ok(slot);
        }
        let (program, unpacker) = (self.program.clone(), self.unpacker.clone());
        let (python, kind) = (interpreter.program.clone(), interpreter.kind.clone());
        let filled = tokio::task::spawn_blocking(move || {
            let mut zygote = slot.lock();
            if zygote.is_none() {
                let started = Zygote::start(&python, &program, &unpacker)?;
                info!(kind, pid = started.id(), "interpreter warmed");
                *zygote = Some(started);
            }
            drop(zygote);
            Ok(slot)
        });
        filled.await.map_err(io::Error::other)?
    }

    /// Ends all of them.
    pub async fn stop(&self) {
        let slots = std::mem::take(&mut *self.slots.lock());
        let ended = tokio::task::spawn_blocking(move || slots.values().for_each(|slot| *slot.lock() = None));
        if let Err(error) = ended.await {
            warn!(%error, "cannot end the zygotes");
        }
    }
}

/// Forks a process that becomes `sandbox`'s payload.
pub(super) async fn fork(slot: Slot, sandbox: &mut Sandbox, payload: Payload) -> Result<(), Failure> {
    let join = sandbox.join().await.map_err(platform)?;
    let forked = tokio::task::spawn_blocking(move || {
        let mut zygote = slot.lock();
        let step_fds = join.borrowed_fds();
        let Payload { env, stdin, stdout, stderr, connection, .. } = &payload;
        let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), connection.as_fd()];
        let order = Order { env, steps: &join.steps, step_fds: &step_fds, stdio };
        let forked = match zygote.as_mut() {
            Some(zygote) => zygote.fork(&order),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the zygote was ended").into()),
        };
        if let Err(ForkError::Zygote(error)) = &forked {
            // The next container starts another one.
            warn!(%error, "giving up a zygote");
            *zygote = None;
        }
        forked
    });
    match forked.await.map_err(platform)? {
        Ok(pid) => Ok(sandbox.joined(pid).map_err(platform)?),
        Err(ForkError::Zygote(error)) => Err(Failure::ZygoteBroke(error)),
        Err(error @ ForkError::Step(_)) => Err(platform(error).into()),
    }
}
