//! segue against Node's own cluster primary: connections/s, keep-alive requests/s, processor time
//! for each request, memory of the supervisor, time of a reload, an upgrade and a take-over; and what its preload script
//! costs. And lines of output, against PM2.
//! `cargo bench -p segue`.
//!
//! All contenders run the same app on the same machine in turn, launch by launch, so that a busy
//! minute hits all of them; medians of all launches are shown with their spread.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "the tables are the purpose of the program"
)]

mod boots;
mod client;
mod contender;
mod lines;
mod preload;
mod proc;
mod takeover;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};

use client::{Client, Task};
use contender::{Contender, Launched, SEGUE, boot_time};
use proc::{available_memory, cpu, pss, pss_of_binary, rss};

/// Memory in KiB that a small Node process needs.
const WORKER_NEEDS: u64 = 50 * 1024;

#[derive(Debug, Parser)]
struct Args {
    /// Launches of each contender
    #[arg(long, default_value_t = 5)]
    launches: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// End with 1 if a ratio is below what is promised
    #[arg(long)]
    check: bool,
    /// One part instead of all
    #[arg(long)]
    only: Option<Part>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Throughput,
    Preload,
    Memory,
    Reload,
    Boots,
    Takeover,
    Lines,
}

/// What one launch gave.
#[derive(Clone, Copy, Debug)]
struct Sample {
    connections: f64,
    connection_cpu: f64,
    requests: f64,
    request_cpu: f64,
    failed: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let client = Client::find();
    println!(
        "{} launches of each, {} workers, {} s each; client: {}; on the same {} CPUs as the servers",
        args.launches,
        args.workers,
        args.seconds,
        client.name(),
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    let runs = |part| args.only.is_none_or(|only| only == part);
    let is_met = !runs(Part::Throughput) || report(&throughput(&args, client)?);
    if runs(Part::Preload) {
        let time = Duration::from_secs(args.seconds);
        preload::compare(2 * args.launches, time, client)?;
    }
    if runs(Part::Memory) {
        memory()?;
    }
    if runs(Part::Reload) {
        reloads(args.launches, args.workers)?;
    }
    if runs(Part::Boots) {
        boots::compare(args.launches, args.workers)?;
    }
    if runs(Part::Takeover) {
        takeover::measure(args.launches)?;
    }
    if runs(Part::Lines) {
        lines::compare(args.launches)?;
    }
    let fails = args.check && !is_met;
    Ok(if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn throughput(args: &Args, client: Client) -> anyhow::Result<[Vec<Sample>; 4]> {
    let mut samples = [const { Vec::new() }; 4];
    for launch in 0..args.launches {
        for turn in 0..Contender::ALL.len() {
            // Another one begins in each round.
            let index = (launch + turn) % Contender::ALL.len();
            let contender = Contender::ALL[index];
            let sample = measure(contender, args, client)
                .with_context(|| format!("{}, launch {}", contender.name(), launch + 1))?;
            samples[index].push(sample);
        }
    }
    Ok(samples)
}

fn measure(contender: Contender, args: &Args, client: Client) -> anyhow::Result<Sample> {
    let server = contender.launch(args.workers)?;
    // The first second is the JIT compiler's.
    client.ask(Task::KeepAlive, server.address, Duration::from_secs(1))?;
    let time = Duration::from_secs(args.seconds);
    let (connections, connection_cpu, failed) = ask(&server, client, Task::Connections, time)?;
    let (requests, request_cpu, failed_too) = ask(&server, client, Task::KeepAlive, time)?;
    Ok(Sample {
        connections,
        connection_cpu,
        requests,
        request_cpu,
        failed: failed + failed_too,
    })
}

/// Answers per second, microseconds of the server's processor time for each, and failures.
fn ask(
    server: &Launched,
    client: Client,
    task: Task,
    time: Duration,
) -> anyhow::Result<(f64, f64, u64)> {
    let processes = server.processes();
    let before = cpu(&processes);
    let counted = client.ask(task, server.address, time)?;
    let used = cpu(&processes).saturating_sub(before);
    let each = used.as_secs_f64() * 1e6 / counted.answers.max(1.0);
    Ok((counted.answers / counted.seconds, each, counted.failed))
}

/// Prints the tables; says whether every promised ratio is reached.
fn report(samples: &[Vec<Sample>; 4]) -> bool {
    println!(
        "\n{:<17} {:>26} {:>20} {:>26} {:>20} {:>7}",
        "", "connections/s", "CPU us each", "keep-alive requests/s", "CPU us each", "failed"
    );
    for (contender, samples) in Contender::ALL.iter().zip(samples) {
        println!(
            "{:<17} {:>26} {:>20} {:>26} {:>20} {:>7}",
            contender.name(),
            spread(samples, |sample| sample.connections),
            spread(samples, |sample| sample.connection_cpu),
            spread(samples, |sample| sample.requests),
            spread(samples, |sample| sample.request_cpu),
            samples.iter().map(|sample| sample.failed).sum::<u64>(),
        );
    }
    let connections = samples
        .each_ref()
        .map(|one| median(one.iter().map(|sample| sample.connections)));
    let requests = samples
        .each_ref()
        .map(|one| median(one.iter().map(|sample| sample.requests)));
    let [spread, shared, round_robin, none] = connections;
    println!("\nratios of the medians");
    let mut is_met = true;
    let mut ratio = |what: &str, value: f64, promised: Option<f64>| {
        let verdict = match promised {
            None => String::new(),
            Some(promised) => {
                is_met &= value >= promised;
                let word = if value >= promised { "met" } else { "MISSED" };
                format!("promised {promised:.2}: {word}")
            }
        };
        println!("{what:<50} {value:>6.2}  {verdict}");
    };
    ratio(
        "connections/s: segue spread / node SCHED_RR",
        spread / round_robin,
        Some(1.8),
    );
    ratio(
        "connections/s: segue shared / node SCHED_NONE",
        shared / none,
        Some(0.95),
    );
    ratio(
        "connections/s: segue spread / node SCHED_NONE",
        spread / none,
        None,
    );
    let [spread, shared, round_robin, none] = requests;
    ratio(
        "keep-alive: segue spread / node SCHED_RR",
        spread / round_robin,
        Some(1.0),
    );
    ratio(
        "keep-alive: segue spread / node SCHED_NONE",
        spread / none,
        Some(1.0),
    );
    ratio(
        "keep-alive: segue shared / node SCHED_NONE",
        shared / none,
        None,
    );
    is_met
}

fn memory() -> anyhow::Result<()> {
    println!("\nmemory without the workers (PSS)");
    for workers in [2, 16, 64] {
        if available_memory() < WORKER_NEEDS * workers as u64 {
            println!(
                "{workers:>3} workers: not measured, too little memory for so many Node processes"
            );
            continue;
        }
        let segue = Contender::SegueSpread.launch(workers)?;
        let ours = pss_of_binary(&segue.processes(), Path::new(SEGUE))?;
        let keeper = rss(segue.main_process())?;
        drop(segue);
        let node = Contender::NodeNone.launch(workers)?;
        let theirs = pss(node.main_process())?;
        println!(
            "{workers:>3} workers: segue {:.1} MiB (keeper and supervisor; the keeper's RSS {:.1} MiB), node's primary {:.1} MiB",
            ours as f64 / 1024.0,
            keeper as f64 / 1024.0,
            theirs as f64 / 1024.0
        );
    }
    Ok(())
}

fn reloads(launches: usize, workers: usize) -> anyhow::Result<()> {
    let mut boots = Vec::new();
    let mut reloads = Vec::new();
    let server = Contender::SegueSpread.launch(workers)?;
    for _ in 0..launches {
        boots.push(boot_time()?.as_secs_f64() * 1000.0);
        reloads.push(server.reload()?.as_secs_f64() * 1000.0);
    }
    println!("\nreload of {workers} workers, to the commit, --min-uptime 0s");
    println!("the app's own boot {} ms", spread(&boots, |time| *time));
    println!("segue reload       {} ms", spread(&reloads, |time| *time));
    let ratio = median(reloads.into_iter()) / median(boots.into_iter());
    println!("ratio of the medians {ratio:.2}");
    Ok(())
}

/// Median, and in brackets the smallest and the largest.
fn spread<T>(samples: &[T], value: impl Fn(&T) -> f64) -> String {
    let values = || samples.iter().map(&value);
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.0} ({least:.0}-{most:.0})", median(values()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => {
            f64::midpoint(*lower, *upper)
        }
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}
