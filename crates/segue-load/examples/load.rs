//! Loads a server for some seconds and prints the report:
//! `cargo run -p segue-load --example load -- 127.0.0.1:3000 10` for an app that keeps the
//! contract; a third argument, `any`, requires nothing of it.

#![expect(
    clippy::print_stdout,
    reason = "the report is the purpose of the program"
)]

use std::error::Error;
use std::time::Duration;

use segue_load::{Contract, Fresh, KeepAlive, Load, Think};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: std::net::SocketAddr = arguments.next().ok_or("which address?")?.parse()?;
    let seconds: u64 = arguments.next().ok_or("for how many seconds?")?.parse()?;
    let contract = match arguments.next().as_deref() {
        Some("any") => Contract::any_app(),
        _ => Contract::full(),
    };
    let running = Load::builder()
        .with(Fresh::default())
        .with(KeepAlive::default())
        .with(Think::default())
        .contract(contract)
        .start(address);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let report = running.stop().await;
    print!("{report}");
    if report.failed() == 0 {
        Ok(())
    } else {
        Err("requests failed".into())
    }
}
