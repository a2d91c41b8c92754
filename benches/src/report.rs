//! The outcome: rows of latency and rate with ratios to their floor, facts, and budgets met or missed.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{load::Sample, machine::Machine};

/// Everything a run found, as it is written to the JSON file.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub quick: bool,
    pub sections: Vec<Section>,
    pub seconds: f64,
}

/// The answer to one question.
#[derive(Debug, Serialize)]
pub struct Section {
    pub name: &'static str,
    /// What was done, for people.
    pub title: String,
    pub rows: Vec<Row>,
    pub facts: Vec<Fact>,
    pub budgets: Vec<Budget>,
    /// What makes the numbers less than they seem, such as failed calls.
    pub warnings: Vec<String>,
}

/// Latency and rate of one system under one load; medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub system: String,
    pub load: String,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Smallest and largest p50 of a round: how far to trust the median.
    pub p50_range_us: (f64, f64),
    pub calls: u64,
    pub failures: u64,
    /// Processor time of the node per call, on all its threads, what it does after the answer included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_cpu_us: Option<f64>,
    /// `None`: this is a floor.
    pub over_floor: Option<OverFloor>,
}

/// A row against its floor.
#[derive(Debug, Clone, Serialize)]
pub struct OverFloor {
    pub floor: String,
    pub p50_ratio: f64,
    pub added_p50_us: f64,
    pub added_p99_us: f64,
    pub rate_ratio: f64,
}

/// A number that is neither latency nor rate.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
}

/// A promise of the design and what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Budget {
    pub what: String,
    pub measured: f64,
    pub limit: f64,
    /// Whether `measured` must be at least `limit`; otherwise at most.
    pub at_least: bool,
    pub unit: &'static str,
    pub met: bool,
}

impl Budget {
    #[must_use]
    pub fn at_most(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Budget {
        Budget { what: what.into(), measured, limit, at_least: false, unit, met: measured <= limit }
    }

    #[must_use]
    pub fn at_least(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Budget {
        Budget { what: what.into(), measured, limit, at_least: true, unit, met: measured >= limit }
    }

    /// How many times the limit is missed; at most 1 if it is met.
    fn times(&self) -> f64 {
        if self.at_least { self.limit / self.measured } else { self.measured / self.limit }
    }
}

/// One system under one load, round after round.
pub struct Rounds {
    system: String,
    load: String,
    rounds: Vec<Round>,
    calls: u64,
    failures: u64,
    first_failure: Option<String>,
    /// Processor time of the node, and the calls it was used for.
    cpu: Duration,
    cpu_calls: u64,
}

struct Round {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Rounds {
    #[must_use]
    pub fn new(system: impl Into<String>, load: impl Into<String>) -> Rounds {
        let (system, load) = (system.into(), load.into());
        Rounds {
            system,
            load,
            rounds: Vec::new(),
            calls: 0,
            failures: 0,
            first_failure: None,
            cpu: Duration::ZERO,
            cpu_calls: 0,
        }
    }

    /// Adds a round during which the node used `cpu`.
    pub fn add_with_cpu(&mut self, sample: Sample, cpu: Duration) {
        self.cpu += cpu;
        self.cpu_calls += sample.answered;
        self.add(sample);
    }

    pub fn add(&mut self, sample: Sample) {
        self.calls += sample.latency.len();
        self.failures += sample.failures;
        self.first_failure = self.first_failure.take().or_else(|| sample.first_failure.clone());
        self.rounds.push(Round {
            per_second: sample.rate(),
            p50_us: microseconds(&sample.latency, 0.5),
            p99_us: microseconds(&sample.latency, 0.99),
        });
    }

    #[must_use]
    pub fn row(&self, floor: Option<&Row>) -> Row {
        let of = |field: fn(&Round) -> f64| self.rounds.iter().map(field).collect::<Vec<_>>();
        let p50 = of(|round| round.p50_us);
        let row = Row {
            system: self.system.clone(),
            load: self.load.clone(),
            per_second: median(of(|round| round.per_second)),
            p50_us: median(p50.clone()),
            p99_us: median(of(|round| round.p99_us)),
            p50_range_us: range(&p50),
            calls: self.calls,
            failures: self.failures,
            node_cpu_us: Some(self.cpu.as_secs_f64() * 1e6 / self.cpu_calls as f64).filter(|_| self.cpu_calls > 0),
            over_floor: None,
        };
        row.over(floor)
    }

    /// What went wrong, if anything did.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let first = self.first_failure.as_deref()?;
        Some(format!("{} at {}: {} calls failed, the first: {first}", self.system, self.load, self.failures))
    }
}

impl Row {
    /// A row from single timings rather than rounds.
    #[must_use]
    pub fn of_timings(system: impl Into<String>, load: impl Into<String>, timings: &Histogram<u64>) -> Row {
        let p50_us = microseconds(timings, 0.5);
        Row {
            system: system.into(),
            load: load.into(),
            per_second: 1e6 / p50_us,
            p50_us,
            p99_us: microseconds(timings, 0.99),
            p50_range_us: (microseconds(timings, 0.0), microseconds(timings, 1.0)),
            calls: timings.len(),
            failures: 0,
            node_cpu_us: None,
            over_floor: None,
        }
    }

    /// This row beside `floor`.
    #[must_use]
    pub fn over(mut self, floor: Option<&Row>) -> Row {
        self.over_floor = floor.map(|floor| OverFloor {
            floor: floor.system.clone(),
            p50_ratio: self.p50_us / floor.p50_us,
            added_p50_us: self.p50_us - floor.p50_us,
            added_p99_us: self.p99_us - floor.p99_us,
            rate_ratio: self.per_second / floor.per_second,
        });
        self
    }
}

fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

impl Display for Section {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}: {}", self.name, self.title)?;
        if !self.rows.is_empty() {
            let width = self.rows.iter().map(|row| row.system.chars().count()).max().unwrap_or_default();
            let head = ["load", "per second", "p50 us", "p99 us", "range of p50"];
            let [load, rate, p50, p99, spread] = head;
            writeln!(
                f,
                "  {:width$} {load:>14} {rate:>10} {p50:>9} {p99:>9} {spread:>15}  against its floor",
                "system"
            )?;
            for row in &self.rows {
                write_row(f, row, width)?;
            }
        }
        for fact in &self.facts {
            writeln!(f, "  {}: {} {}", fact.what, number(fact.value), fact.unit)?;
        }
        for budget in &self.budgets {
            writeln!(f, "  {budget}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}

fn write_row(f: &mut Formatter<'_>, row: &Row, width: usize) -> fmt::Result {
    let spread = format!("{}..{}", number(row.p50_range_us.0), number(row.p50_range_us.1));
    let (rate, p50, p99) = (number(row.per_second), number(row.p50_us), number(row.p99_us));
    write!(f, "  {:width$} {:>14} {rate:>10} {p50:>9} {p99:>9} {spread:>15}  ", row.system, row.load)?;
    match &row.over_floor {
        None => write!(f, "floor")?,
        Some(over) => {
            write!(f, "p50 {:+.0} us ({:.2} x), rate {:.2} x", over.added_p50_us, over.p50_ratio, over.rate_ratio)?
        }
    }
    if let Some(cpu) = row.node_cpu_us {
        write!(f, ", node {cpu:.0} us of CPU")?;
    }
    if row.failures > 0 {
        write!(f, ", {} FAILED", row.failures)?;
    }
    writeln!(f)
}

impl Display for Budget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sign = if self.at_least { ">=" } else { "<=" };
        let (limit, measured) = (number(self.limit), number(self.measured));
        write!(f, "budget: {} {sign} {limit} {}: {measured}, ", self.what, self.unit)?;
        if self.met { write!(f, "met") } else { write!(f, "MISSED ({:.1} times)", self.times()) }
    }
}

/// Three digits that matter, thousands apart.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let decimals = match value.abs() {
        small if small >= 100.0 || small == 0.0 => 0,
        small if small >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), None), |(a, b)| (a, Some(b)));
    let mut out = String::new();
    let digits = whole.trim_start_matches('-');
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    let sign = if whole.starts_with('-') { "-" } else { "" };
    fraction.map_or_else(|| format!("{sign}{out}"), |fraction| format!("{sign}{out}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        let shown = [1_234_567.0, 999.4, 56.25, 0.078, 0.0, -1234.0, f64::NAN].map(number);
        assert_eq!(shown, ["1,234,567", "999", "56.2", "0.08", "0", "-1,234", "-"]);
    }

    #[test]
    fn the_median_is_the_middle_of_the_rounds() {
        assert!((median(vec![5.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn a_budget_says_by_how_much_it_is_missed() {
        assert!(Budget::at_most("latency", 80.0, 80.0, "us").met);
        let missed = Budget::at_least("rate", 10_000.0, 20_000.0, "calls/s");
        assert!(!missed.met);
        assert_eq!(missed.to_string(), "budget: rate >= 20,000 calls/s: 10,000, MISSED (2.0 times)");
    }
}
