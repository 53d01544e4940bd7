//! The strict load client, running beside a test that reloads and kills; and `ab`.

use std::fmt::Write as _;
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use segue_load::{Builder, Report, Running, Target};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::nodes::on_path;
use super::output::{Log, Stream};
use super::process::Process;
use super::run::Run;

/// How long a wait for answers may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A load under way on a thread of its own.
#[derive(Debug)]
pub(crate) struct Clients {
    running: Option<Running>,
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// Starts the load and waits for the first answers.
    pub(crate) fn start(builder: Builder, target: impl Into<Target>) -> Self {
        let target = target.into();
        let (end, ended) = oneshot::channel::<()>();
        let (started, start) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("make a runtime").block_on(async move {
                let running = builder.start(target);
                started
                    .send((running, Handle::current()))
                    .expect("the test waits for the load");
                // A test that fails drops its end; the load is over in both cases.
                let _ = ended.await;
            });
        });
        let (running, handle) = start.recv().expect("the load has started");
        Self {
            running: Some(running),
            handle,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Connections that the server's system has let in so far. A request is counted as in flight
    /// from before its connection is, so that says less.
    pub(crate) fn opened(&self) -> u64 {
        let report = self.snapshot();
        report
            .classes
            .iter()
            .map(|class| class.connections.opened)
            .sum()
    }

    /// Waits for so many answers from now on.
    pub(crate) fn wait_for_answers(&self, more: u64) {
        let wanted = self.snapshot().answers() + more;
        let waited = self
            .handle
            .block_on(async { timeout(LIMIT, self.answered(wanted)).await });
        assert!(
            waited.is_ok(),
            "{wanted} answers did not come within {LIMIT:?}:\n{}",
            render(&self.snapshot())
        );
    }

    /// Lets every client end what it has begun.
    pub(crate) fn stop(mut self) -> Report {
        let running = self.running.take().expect("stopped once");
        let report = self.handle.block_on(running.stop());
        self.join();
        report
    }

    /// Waits until the number of requests that the load was given is reached.
    pub(crate) fn finish(mut self, limit: Duration) -> Report {
        let running = self.running.take().expect("finished once");
        let report = self.handle.block_on(running.finish(limit));
        self.join();
        report
    }

    fn join(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

impl Deref for Clients {
    type Target = Running;

    fn deref(&self) -> &Running {
        self.running.as_ref().expect("it runs until it is stopped")
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.running.take());
        self.join();
    }
}

/// Fails the test, with the supervisor's output, unless every request was answered as it should be.
pub(crate) fn assert_flawless(report: &Report, run: &Run) {
    assert_eq!(
        report.failed() + report.in_flight + report.stale,
        0,
        "{}\nthe supervisor said\n{}",
        render(report),
        run.log.render()
    );
    assert!(report.answers() > 0, "nothing was asked");
}

/// A report as a few lines.
pub(crate) fn render(report: &Report) -> String {
    let mut text = format!(
        "{} requests, {} answers, {} failed ({} excused), {} stale, {} in flight, {} ms; versions {:?}\n",
        report.requests(),
        report.answers(),
        report.failed(),
        report.excused(),
        report.stale,
        report.in_flight,
        report.elapsed_ms,
        report.versions,
    );
    for class in &report.classes {
        let _ = writeln!(
            text,
            "  {}: {:?}; {} lost echoes, {} streams safe to retry",
            class.name, class.connections, class.lost_echoes, class.safe_to_retry
        );
    }
    for failure in report.first_failures.iter().take(50) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {failure}");
    }
    text
}

/// What `ab` counted.
#[derive(Debug)]
pub(crate) struct ApacheBench {
    pub(crate) complete: u64,
    pub(crate) failed: u64,
    pub(crate) output: String,
}

/// Runs `ab` to its end; `meanwhile` runs beside it and can wait for its progress. None if it is not installed.
pub(crate) fn apache_bench(
    arguments: &[&str],
    url: &str,
    meanwhile: impl FnOnce(&Log),
) -> Option<ApacheBench> {
    let ab = on_path("ab")?;
    let mut child = Command::new(ab)
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start ab");
    let log = Log::new();
    log.follow(Stream::Out, child.stdout.take().expect("stdout is a pipe"));
    log.follow(Stream::Err, child.stderr.take().expect("stderr is a pipe"));
    meanwhile(&log);
    let process = Process::open(child.id()).expect("ab has not been reaped");
    if !process.ends_within(Duration::from_secs(240)) {
        process.signal(Signal::KILL);
    }
    child.wait().expect("reap ab");
    log.wait_for_end(2, LIMIT);
    let output: Vec<String> = log.lines().into_iter().map(|line| line.text).collect();
    let number = |name: &str| {
        let line = output.iter().find(|line| line.starts_with(name))?;
        line.split_whitespace().last()?.parse().ok()
    };
    Some(ApacheBench {
        complete: number("Complete requests:").unwrap_or(0),
        failed: number("Failed requests:").unwrap_or(u64::MAX),
        output: output.join("\n"),
    })
}
