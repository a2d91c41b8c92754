//! Entity writes: a PUT is answered when it is durable and applied, so the floor is a synced append.

use std::{rc::Rc, time::Duration};

use serde_json::json;

use super::{Bench, clients};
use crate::{
    floor::Runtime,
    load::{Target, closed_loop},
    machine::Appends,
    report::{Rounds, Row, Section},
    whisp::{Backend, Setup, Whisp},
};

const CLIENTS: [u32; 3] = [1, 16, 64];
/// Actions that each client writes in turn.
const NAMES: u64 = 50;
const SETTLE: Duration = Duration::from_millis(150);
const MEASURE: Duration = Duration::from_millis(900);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut appends = Appends::open(&bench.folder.join("entities-appends"))?;
    let node = bench.start("entities", Setup::new(Backend::Simulated)).await?;
    let target = node.as_ref().map(puts);
    let mut cells = CLIENTS.map(|count| Rounds::new("whisp, PUT action", clients(count)));
    let rounds = bench.rounds(5, 2);
    for _ in 0..rounds {
        for (count, cell) in CLIENTS.into_iter().zip(&mut cells) {
            appends.round(if bench.quick { 100 } else { 300 })?;
            if let Some(target) = &target {
                cell.add(closed_loop(target, count, SETTLE, bench.time(MEASURE)).await?);
            }
        }
    }
    let floor = Row::of_timings("append 320 bytes, fdatasync", "1 writer", &appends.latency);
    let mut rows = vec![floor.clone()];
    if let Some(node) = node {
        rows.extend(cells.iter().map(|cell| cell.row(Some(&floor))));
        node.stop()?;
    }
    Ok(Section {
        name: "entities",
        title: format!("updates of actions, medians of {rounds} rounds"),
        rows,
        facts: Vec::new(),
        // The design's budget compares three nodes with etcd.
        budgets: Vec::new(),
        warnings: cells.iter().filter_map(Rounds::warning).collect(),
    })
}

/// Clients write actions of their own, so that no write waits for another one's outcome.
fn puts(node: &Whisp) -> Target {
    let body = json!({ "exec": { "kind": "nodejs:default", "code": Runtime::Nodejs.noop() } }).to_string();
    let template = node.request("PUT", "/actions/c000n000?overwrite=true", body.as_bytes());
    let at = template.windows(8).position(|window| window == b"c000n000").expect("the path is part of the request");
    let request = move |client: u32, turn: u64, out: &mut Vec<u8>| {
        out.extend_from_slice(&template);
        out[at..at + 8].copy_from_slice(format!("c{client:03}n{:03}", turn % NAMES).as_bytes());
    };
    Target { address: node.address(), request: Rc::new(request), expect: 200 }
}
