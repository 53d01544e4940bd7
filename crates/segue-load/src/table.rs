//! The report as text for people.

use std::fmt;

use crate::report::{ClassReport, Latency, Report};

/// How many failures are shown; the report holds more.
const SHOWN_FAILURES: usize = 50;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:>9} {:>9} {:>7}  {:>8} {:>8} {:>8}  {:>11} {:>9} {:>11}",
            "load",
            "requests",
            "answers",
            "failed",
            "p50",
            "p99",
            "max",
            "connections",
            "announced",
            "unannounced"
        )?;
        for class in &self.classes {
            write_class(f, class)?;
        }
        write_latency(f, "steady", &self.steady)?;
        write_latency(f, "reload", &self.reload)?;
        for (version, answers) in &self.versions {
            writeln!(
                f,
                "version {version}: {} on new connections, {} on old ones",
                answers.on_new_connections, answers.on_old_connections
            )?;
        }
        if self.stale > 0 {
            writeln!(
                f,
                "answers by an old version on connections begun after the commit: {}",
                self.stale
            )?;
        }
        if self.in_flight > 0 {
            writeln!(f, "requests without an outcome: {}", self.in_flight)?;
        }
        writeln!(f, "failed requests: {}", self.failed())?;
        for failure in self.first_failures.iter().take(SHOWN_FAILURES) {
            writeln!(f, "  {failure}")?;
        }
        Ok(())
    }
}

fn write_class(f: &mut fmt::Formatter<'_>, class: &ClassReport) -> fmt::Result {
    writeln!(
        f,
        "{:<10} {:>9} {:>9} {:>7}  {:>8} {:>8} {:>8}  {:>11} {:>9} {:>11}",
        class.name,
        class.requests,
        class.answers,
        class.failed(),
        time(class.latency.p50_us),
        time(class.latency.p99_us),
        time(class.latency.max_us),
        class.connections.opened,
        class.connections.closed_announced + class.connections.announced_but_open,
        class.connections.closed_unannounced + class.connections.reset_idle,
    )?;
    for (kind, count) in &class.failures {
        writeln!(f, "{:<10} {count:>9} {kind}", "")?;
    }
    for (code, count) in &class.connections.close_codes {
        writeln!(f, "{:<10} {count:>9} closed with {code}", "")?;
    }
    for (count, what) in [
        (class.lost_echoes, "messages under way at a close"),
        (class.safe_to_retry, "streams refused, safe to retry"),
    ] {
        if count > 0 {
            writeln!(f, "{:<10} {count:>9} {what}", "")?;
        }
    }
    Ok(())
}

fn write_latency(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    if latency.count == 0 {
        return Ok(());
    }
    writeln!(
        f,
        "{name}: {} answers, p50 {} p90 {} p99 {} p99.9 {} max {}",
        latency.count,
        time(latency.p50_us),
        time(latency.p90_us),
        time(latency.p99_us),
        time(latency.p999_us),
        time(latency.max_us)
    )
}

fn time(micros: u64) -> String {
    if micros < 10_000 {
        format!("{}.{:02}ms", micros / 1000, micros % 1000 / 10)
    } else if micros < 1_000_000 {
        format!("{}ms", micros / 1000)
    } else {
        format!("{}.{:02}s", micros / 1_000_000, micros % 1_000_000 / 10_000)
    }
}
