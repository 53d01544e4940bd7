//! What the preload script costs before a drain: the same app with it and without it, in launches
//! side by side. A second launch without it shows how far two launches of the same are apart.

use std::time::Duration;

use anyhow::Context;

use crate::client::{Client, Task};
use crate::contender::Contender;
use crate::{ask, median};

/// With one worker the client leaves it a processor of its own.
const WORKERS: usize = 1;

const TURNS: [Contender; 3] = [
    Contender::SegueSpread,
    Contender::SegueWithoutPreload,
    Contender::SegueWithoutPreload,
];

/// Of one launch: answers per second, and microseconds of processor time for each.
#[derive(Clone, Copy, Debug)]
struct Cost {
    requests: f64,
    request_cpu: f64,
    connections: f64,
    connection_cpu: f64,
}

pub(crate) fn compare(rounds: usize, time: Duration, client: Client) -> anyhow::Result<()> {
    println!(
        "\nthe preload script, {rounds} rounds of one launch with it and two without, 1 worker"
    );
    let mut rows = Vec::new();
    for round in 0..rounds {
        let mut costs = [None; TURNS.len()];
        for turn in 0..TURNS.len() {
            // Another one begins in each round.
            let index = (round + turn) % TURNS.len();
            let cost = measure(TURNS[index], time, client)
                .with_context(|| format!("{}, round {}", TURNS[index].name(), round + 1))?;
            costs[index] = Some(cost);
        }
        if let [Some(with), Some(without), Some(again)] = costs {
            rows.push([with, without, again]);
        }
    }
    println!(
        "{:<30} {:>24} {:>24} {:>24} {:>24}",
        "", "with it", "without it", "with / without", "without / without"
    );
    show("keep-alive requests/s", &rows, |cost| cost.requests);
    show("CPU us each", &rows, |cost| cost.request_cpu);
    show("connections/s", &rows, |cost| cost.connections);
    show("CPU us each", &rows, |cost| cost.connection_cpu);
    Ok(())
}

fn measure(contender: Contender, time: Duration, client: Client) -> anyhow::Result<Cost> {
    let server = contender.launch(WORKERS)?;
    // The first seconds are the JIT compiler's.
    client.ask(Task::KeepAlive, server.address, Duration::from_secs(2))?;
    let (requests, request_cpu, failed) = ask(&server, client, Task::KeepAlive, time)?;
    let (connections, connection_cpu, failed_too) = ask(&server, client, Task::Connections, time)?;
    anyhow::ensure!(
        failed + failed_too == 0,
        "{failed} requests and {failed_too} connections failed"
    );
    Ok(Cost {
        requests,
        request_cpu,
        connections,
        connection_cpu,
    })
}

fn show(what: &str, rows: &[[Cost; 3]], value: impl Fn(&Cost) -> f64) {
    let column = |of: &dyn Fn(&[Cost; 3]) -> f64, digits: usize| {
        let values: Vec<f64> = rows.iter().map(of).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let middle = median(values.into_iter());
        format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})")
    };
    println!(
        "{what:<30} {:>24} {:>24} {:>24} {:>24}",
        column(&|[with, ..]| value(with), 0),
        column(&|[_, without, _]| value(without), 0),
        column(&|[with, without, _]| value(with) / value(without), 3),
        column(&|[_, without, again]| value(again) / value(without), 3),
    );
}
