//! What a foreground `run` says when its app is ready.

use std::time::Duration;

use super::lines::PREFIX;
use crate::config::quantity::human;

/// Everything the banner tells.
#[derive(Clone, Debug)]
pub(crate) struct Banner<'a> {
    pub(crate) app: &'a str,
    /// The main process, which takes signals.
    pub(crate) pid: u32,
    pub(crate) workers: u32,
    /// From the start to the last worker's readiness.
    pub(crate) took: Duration,
    pub(crate) addresses: &'a [String],
    /// `None` when there is no control socket.
    pub(crate) control: Option<&'a str>,
}

impl Banner<'_> {
    /// Three or four lines, each with the supervisor's prefix.
    pub(crate) fn lines(&self) -> Vec<String> {
        let version = env!("CARGO_PKG_VERSION");
        let plural = if self.workers == 1 { "" } else { "s" };
        let mut lines = vec![format!(
            "{PREFIX}{} is ready: {} worker{plural} after {}",
            self.app,
            self.workers,
            human(self.took)
        )];
        if !self.addresses.is_empty() {
            lines.push(format!(
                "{PREFIX}listening at {}",
                self.addresses.join(", ")
            ));
        }
        lines.push(format!("{PREFIX}version {version}, pid {}", self.pid));
        if let Some(control) = self.control {
            lines.push(format!(
                "{PREFIX}control socket {control}; new code: segue reload {}",
                self.app
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banner_of_a_server() {
        let addresses = ["0.0.0.0:3000".to_owned(), "[::]:3001".to_owned()];
        let banner = Banner {
            app: "web",
            pid: 4711,
            workers: 2,
            took: Duration::from_millis(340),
            addresses: &addresses,
            control: Some("/run/user/1000/segue/web.sock"),
        };
        let expected = format!(
            "segue: web is ready: 2 workers after 340 ms\n\
             segue: listening at 0.0.0.0:3000, [::]:3001\n\
             segue: version {}, pid 4711\n\
             segue: control socket /run/user/1000/segue/web.sock; new code: segue reload web",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(banner.lines().join("\n"), expected);
    }

    #[test]
    fn banner_of_a_queue_worker() {
        let banner = Banner {
            app: "jobs",
            pid: 1,
            workers: 1,
            took: Duration::from_secs(2),
            addresses: &[],
            control: None,
        };
        let lines = banner.lines();
        assert_eq!(
            lines.first().map(String::as_str),
            Some("segue: jobs is ready: 1 worker after 2 s")
        );
        assert_eq!(lines.len(), 2);
    }
}
