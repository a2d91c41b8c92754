//! `./dev bench`: measures a release build of Whisp beside the floors of this machine.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use benches::{
    machine::Machine,
    report::{Report, Section},
    sections::{Bench, Question},
};
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

/// What an invocation, a start and a write cost here, each beside what the machine itself charges for it.
///
/// Prints tables, then the same as one line of JSON. Ends with 1 if something could not be measured; a missed budget is
/// a finding, not a failure.
#[derive(Debug, Parser)]
#[command(name = "./dev bench")]
struct Arguments {
    /// What to measure; everything if none is named
    questions: Vec<Question>,
    /// A rough look: fewer and shorter rounds, under two minutes in all
    #[arg(long)]
    quick: bool,
    /// Only the floors: bare interpreters and the disk
    #[arg(long)]
    floors: bool,
    /// The program under test [default: beside this one]
    #[arg(long)]
    whisp: Option<PathBuf>,
    /// Where nodes keep their data while they are measured; its disk is the one that is measured
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Actions stored for the memory section [default: 100,000, or 10,000 in a quick run]
    #[arg(long)]
    stored: Option<u32>,
    /// Activation records stored for the history section [default: 200,000, or 20,000 in a quick run]
    #[arg(long, value_parser = clap::value_parser!(u64).range(20_000..=100_000_000))]
    records: Option<u64>,
    /// Where the report is written as JSON [default: bench.json beside this program]
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Err(error) = measure(Arguments::parse()) else { return ExitCode::SUCCESS };
    eprintln!("bench: {error:#}");
    ExitCode::FAILURE
}

fn measure(arguments: Arguments) -> anyhow::Result<()> {
    // One thread: the other cores are for what is measured. Children are started by it, and die with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            outcome = run(arguments) => outcome,
            // Dropping the run ends its nodes and removes its folder.
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let whisp = arguments.whisp.unwrap_or_else(|| beside.join("whisp"));
    let json = arguments.json.unwrap_or_else(|| beside.join("bench.json"));
    let folder = tempfile::Builder::new().prefix("whisp-bench-").tempdir_in(&arguments.dir);
    let folder = folder.with_context(|| format!("cannot write in {}", arguments.dir.display()))?;
    let mut machine = Machine::look(folder.path())?;
    machine.whisp = Some(whisp.display().to_string()).filter(|_| !arguments.floors);
    println!("{machine}");
    let bench = Bench {
        whisp: (!arguments.floors).then_some(whisp),
        folder: folder.path().to_owned(),
        quick: arguments.quick,
        records: arguments.records.unwrap_or(if arguments.quick { 20_000 } else { 200_000 }),
        stored: arguments.stored.unwrap_or(if arguments.quick { 10_000 } else { 100_000 }).clamp(1, 900_000),
    };
    let asked = if arguments.questions.is_empty() { Question::ALL.to_vec() } else { arguments.questions };
    let mut report = Report { machine, quick: bench.quick, sections: Vec::new(), seconds: 0.0 };
    let mut failed = 0;
    for question in asked {
        match question.answer(&bench).await {
            Ok(section) => {
                print!("{section}");
                report.sections.push(section);
            }
            Err(error) => {
                println!("\n{question:?}: not measured: {error:#}");
                failed += 1;
            }
        }
        std::io::stdout().flush()?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    summarize(&report.sections, started.elapsed());
    let text = serde_json::to_string(&report)?;
    std::fs::write(&json, format!("{text}\n")).with_context(|| format!("cannot write {}", json.display()))?;
    println!("{text}");
    anyhow::ensure!(failed == 0, "{failed} sections could not be measured");
    Ok(())
}

fn summarize(sections: &[Section], took: Duration) {
    let budgets: Vec<_> = sections.iter().flat_map(|section| &section.budgets).collect();
    let met = budgets.iter().filter(|budget| budget.met).count();
    println!("\n{met} of {} budgets met, in {} s\n", budgets.len(), took.as_secs());
}
