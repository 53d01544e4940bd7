//! What clients feel of boots: the slowest answers while a reload boots workers that compute a lot, with
//! and without a lower priority. Who may not raise a priority again does not lower it, which is how
//! the second is had.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use segue_load::{Contract, Load, Phase, Think};

use crate::contender::{Contender, Launched, reload};
use crate::spread;

const CLIENTS: u32 = 30;

/// Before the reload.
const STEADY: Duration = Duration::from_secs(3);

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Felt {
    steady: f64,
    median: f64,
    slow: f64,
    slowest: f64,
    took: f64,
}

pub(crate) fn compare(launches: usize, workers: usize) -> anyhow::Result<()> {
    println!("\nanswers while {workers} workers boot that compute for 1.5 s each, in ms");
    let contenders = [Contender::GentleBoots, Contender::HarshBoots];
    let mut felt = [const { Vec::new() }; 2];
    for _ in 0..launches {
        for (contender, felt) in contenders.iter().zip(&mut felt) {
            let launched = contender.launch(workers)?;
            felt.push(measure(&launched)?);
        }
    }
    for (contender, felt) in contenders.iter().zip(&felt) {
        println!(
            "{:26} p50 {}  p99 {}  max {}  (before: p99 {}); the reload {}",
            contender.name(),
            spread(felt, |felt| felt.median),
            spread(felt, |felt| felt.slow),
            spread(felt, |felt| felt.slowest),
            spread(felt, |felt| felt.steady),
            spread(felt, |felt| felt.took),
        );
    }
    Ok(())
}

fn measure(launched: &Launched) -> anyhow::Result<Felt> {
    let load = Load::builder()
        .with(Think {
            clients: CLIENTS,
            ..Think::default()
        })
        .contract(Contract::any_app())
        .number_in_query(false)
        .build();
    let address: SocketAddr = launched.address;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    runtime.block_on(async {
        let running = load.start(address);
        tokio::time::sleep(STEADY).await;
        running.mark("boots", Phase::Reload);
        let control = launched.control.clone();
        let took = tokio::task::spawn_blocking(move || reload(&control)).await??;
        running.mark("after", Phase::Steady);
        let report = running.stop().await;
        anyhow::ensure!(report.failed() == 0, "{} requests failed", report.failed());
        let latency = |name: &str| {
            let window = report.windows.iter().find(|window| window.name == name);
            window.map(|window| window.latency).unwrap_or_default()
        };
        let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1000.0;
        let boots = latency("boots");
        Ok(Felt {
            steady: millis(latency("start").p99_us),
            median: millis(boots.p50_us),
            slow: millis(boots.p99_us),
            slowest: millis(boots.max_us),
            took: took.as_secs_f64() * 1000.0,
        })
    })
}
