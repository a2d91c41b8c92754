//! A back end that only counts: what exists, and whether that ever exceeded the memory it was given.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    containers::backend::{
        Backend, CollectedLogs, Connection, Container, ContainerSpec, CreateError, LogRequest, Loss,
    },
    runtime::Endpoint,
};

#[derive(Debug, Default)]
pub struct Counts {
    /// Containers and their bytes, from the call of `create` to the end of `destroy`.
    pub alive: AtomicUsize,
    pub bytes: AtomicU64,
    pub most_bytes: AtomicU64,
    pub created: AtomicUsize,
    pub resumed: AtomicUsize,
    /// Dropped without `destroy`: allowed, but nothing the pools should do.
    pub dropped: AtomicUsize,
    pub shutdowns: AtomicUsize,
    pub names: Mutex<Vec<String>>,
}

#[derive(Debug, Default, Clone)]
pub struct Fake {
    pub counts: Arc<Counts>,
    pub create_takes: Duration,
    pub destroy_takes: Duration,
    pub switches: Arc<Switches>,
}

#[derive(Debug, Default)]
pub struct Switches {
    /// Every how many creations fails; 0: none.
    pub fail_every: AtomicUsize,
    pub panic_in_create: AtomicBool,
    pub panic_in_destroy: AtomicBool,
    pub fail_resume: AtomicBool,
    pub fail_pause: AtomicBool,
}

struct FakeContainer {
    fake: Fake,
    name: String,
    bytes: u64,
    destroyed: bool,
    paused: bool,
}

#[async_trait]
impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn kinds(&self) -> Vec<String> {
        vec!["nodejs:20".into()]
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Box<dyn Container>, CreateError> {
        let number = self.counts.created.fetch_add(1, SeqCst) + 1;
        let bytes = spec.memory.bytes();
        self.counts.names.lock().push(spec.name.clone());
        let container = FakeContainer { fake: self.clone(), name: spec.name, bytes, destroyed: false, paused: false };
        self.counts.alive.fetch_add(1, SeqCst);
        let total = self.counts.bytes.fetch_add(bytes, SeqCst) + bytes;
        self.counts.most_bytes.fetch_max(total, SeqCst);
        tokio::time::sleep(self.create_takes).await;
        assert!(!self.switches.panic_in_create.load(SeqCst), "asked to panic");
        let fail_every = self.switches.fail_every.load(SeqCst);
        if fail_every > 0 && number.is_multiple_of(fail_every) {
            return Err(CreateError::Platform(format!("creation {number} failed")));
        }
        Ok(Box::new(container))
    }

    async fn shutdown(&self) {
        self.counts.shutdowns.fetch_add(1, SeqCst);
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        if !self.destroyed {
            self.fake.counts.dropped.fetch_add(1, SeqCst);
        }
        self.fake.counts.alive.fetch_sub(1, SeqCst);
        self.fake.counts.bytes.fetch_sub(self.bytes, SeqCst);
    }
}

#[async_trait]
impl Container for FakeContainer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&mut self) -> std::io::Result<Connection> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn drain_logs(&mut self) -> Infallible {
        std::future::pending().await
    }

    async fn collect_logs(&mut self, _: LogRequest) -> CollectedLogs {
        CollectedLogs::default()
    }

    async fn why_lost(&mut self, _: Endpoint) -> Loss {
        Loss::Unexplained
    }

    async fn pause(&mut self) -> std::io::Result<()> {
        assert!(!self.paused, "paused twice");
        if self.fake.switches.fail_pause.load(SeqCst) {
            return Err(std::io::Error::other("asked to fail"));
        }
        self.paused = true;
        Ok(())
    }

    async fn resume(&mut self) -> std::io::Result<()> {
        assert!(self.paused, "resumed without being paused");
        if self.fake.switches.fail_resume.load(SeqCst) {
            return Err(std::io::Error::other("asked to fail"));
        }
        self.fake.counts.resumed.fetch_add(1, SeqCst);
        self.paused = false;
        Ok(())
    }

    async fn destroy(mut self: Box<Self>) {
        tokio::time::sleep(self.fake.destroy_takes).await;
        self.destroyed = true;
        assert!(!self.fake.switches.panic_in_destroy.load(SeqCst), "asked to panic");
    }
}
