//! One file per question. Each starts the nodes it needs, takes turns between the compared systems in rounds, floor
//! first, and stops them.

mod accept;
mod cold;
mod docker;
mod entities;
mod history;
mod memory;
mod warm;

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

use crate::{
    floor::{Interpreter, Runtime},
    report::Section,
    whisp::{Setup, Whisp},
};

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Blocking invocations of a warm no-op at 1, 8 and 32 clients, against a direct call of a bare function
    Warm,
    /// First invocations, cold and prewarmed, against the start of a bare interpreter
    Cold,
    /// First and warm invocations in Docker containers, against making and calling a container by hand
    Docker,
    /// 202s per second and their latency, against a synced append
    Accept,
    /// PUTs of actions per second, against a synced append
    Entities,
    /// Memory of the node, empty and with many actions stored, and what it does when nobody calls
    Memory,
    /// Getting, listing and counting records of a long history, at rest and while it grows; its restart
    History,
}

impl Question {
    pub const ALL: [Question; 7] = [
        Question::Warm,
        Question::Cold,
        Question::Docker,
        Question::Accept,
        Question::Entities,
        Question::Memory,
        Question::History,
    ];

    /// # Errors
    /// If the section could not be measured.
    pub async fn answer(self, bench: &Bench) -> anyhow::Result<Section> {
        match self {
            Question::Warm => warm::measure(bench).await,
            Question::Cold => cold::measure(bench).await,
            Question::Docker => docker::measure(bench).await,
            Question::Accept => accept::measure(bench).await,
            Question::Entities => entities::measure(bench).await,
            Question::Memory => memory::measure(bench).await,
            Question::History => history::measure(bench).await,
        }
    }
}

/// What every section needs to know.
#[derive(Debug)]
pub struct Bench {
    /// The program under test; `None`: only floors are measured.
    pub whisp: Option<PathBuf>,
    /// Holds data of nodes, sockets and floors of this run; removed at its end.
    pub folder: PathBuf,
    pub quick: bool,
    /// Actions to store for the memory section.
    pub stored: u32,
    /// Activation records to store for the history section.
    pub records: u64,
}

impl Bench {
    /// `None` if only floors are measured.
    async fn start(&self, name: &str, setup: Setup) -> anyhow::Result<Option<Whisp>> {
        match &self.whisp {
            Some(binary) => Whisp::start(binary, &self.folder, name, setup).await.map(Some),
            None => Ok(None),
        }
    }

    fn interpreters(&self) -> anyhow::Result<[Interpreter; 2]> {
        let [nodejs, python] = Runtime::ALL.map(|runtime| Interpreter::find(runtime, &self.folder));
        Ok([nodejs?, python?])
    }

    /// `full`, or a third of it in a quick run.
    fn time(&self, full: Duration) -> Duration {
        if self.quick { full / 3 } else { full }
    }

    fn rounds(&self, full: u32, quick: u32) -> u32 {
        if self.quick { quick } else { full }
    }
}

fn clients(count: u32) -> String {
    if count == 1 { "1 client".to_owned() } else { format!("{count} clients") }
}
