//! What the workers themselves wrote down: which request each of them handled, and whose each
//! connection was. The clients' word is compared with theirs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use segue_load::{Failure, Report};

use super::run::Run;

/// The records of all workers of a run, those that died included.
#[derive(Debug)]
pub(crate) struct Record {
    /// By number: the workers that began with the request, in the order of time.
    begun: BTreeMap<u64, Vec<String>>,
    /// By number: who handed the whole answer to the kernel.
    finished: BTreeMap<u64, Vec<String>>,
    /// By the client's port: when who was given the connection, in the order of time. A port whose
    /// connection is gone may soon be another one's.
    owners: BTreeMap<u16, Vec<(u64, String)>>,
    /// When each worker wrote its last line.
    last: BTreeMap<String, u64>,
}

impl Record {
    /// Reads what `run`, launched with [`super::run::Launch::recording`], has written so far.
    pub(crate) fn read(run: &Run) -> Self {
        let mut lines: Vec<(u64, String, String)> = Vec::new();
        for entry in std::fs::read_dir(run.site.path("record")).expect("read the records") {
            let entry = entry.expect("read the directory of records");
            let worker = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).expect("read a record");
            for line in text.lines() {
                let (at, what) = line.split_once(' ').expect("a time and what happened");
                let at = at.parse().expect("nanoseconds");
                lines.push((at, worker.clone(), what.to_owned()));
            }
        }
        lines.sort();
        let mut record = Self {
            begun: BTreeMap::new(),
            finished: BTreeMap::new(),
            owners: BTreeMap::new(),
            last: BTreeMap::new(),
        };
        for (at, worker, what) in lines {
            record.last.insert(worker.clone(), at);
            let mut words = what.split(' ');
            let kind = words.next();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            match (kind, number) {
                (Some("c"), Some(port)) => {
                    let port = u16::try_from(port).expect("a port");
                    record.owners.entry(port).or_default().push((at, worker));
                }
                (Some(">"), Some(number)) => record.begun.entry(number).or_default().push(worker),
                (Some("<"), Some(number)) => {
                    record.finished.entry(number).or_default().push(worker);
                }
                // A client that reached the app without a port has no place in the table.
                _ => assert_eq!(
                    kind,
                    Some("c"),
                    "an unknown line in the record of {worker}: {what}"
                ),
            }
        }
        record
    }

    /// Fails the test if a request was handled twice, or a number of them that is not `requests`.
    #[track_caller]
    pub(crate) fn expect_each_once(&self, requests: u64, run: &Run) {
        let twice: Vec<_> = self
            .begun
            .iter()
            .filter(|(_, workers)| workers.len() > 1)
            .take(20)
            .collect();
        assert!(
            twice.is_empty(),
            "handled twice: {twice:?}\n{}",
            run.log.render()
        );
        assert_eq!(
            self.begun.len() as u64,
            requests,
            "requests that the workers handled, and that the client had answered\n{}",
            run.log.render()
        );
    }

    /// Fails the test unless each failed request was lost with one of these workers: on a connection that was its own,
    /// by its own record not answered, and handled by nobody else. Says how many of them it had begun with.
    #[track_caller]
    pub(crate) fn expect_lost_only_with(
        &self,
        victims: &[String],
        report: &Report,
        run: &Run,
    ) -> u64 {
        assert_eq!(
            report.first_failures.len() as u64,
            report.failed(),
            "more failures than are kept"
        );
        let mut inside = 0;
        let mut wrong = String::new();
        for failure in &report.first_failures {
            match self.explain(victims, failure) {
                Ok(begun) => inside += u64::from(begun),
                Err(why) => {
                    // Writing to a String cannot fail.
                    let _ = writeln!(wrong, "{failure}: {why}");
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}\n{}", run.log.render());
        inside
    }

    /// Whether a victim had begun with the request; why not even that explains it.
    fn explain(&self, victims: &[String], failure: &Failure) -> Result<bool, String> {
        if !failure.kind.is_cut_off() {
            return Err("a death does not explain it".to_owned());
        }
        let death = victims
            .iter()
            .filter_map(|victim| self.last.get(victim))
            .max();
        let owners = failure.local_port.and_then(|port| self.owners.get(&port));
        let owner = owners.and_then(|owners| {
            let before = owners.iter().rev().find(|(at, _)| Some(at) <= death);
            before.map(|(_, worker)| worker)
        });
        if !owner.is_some_and(|owner| victims.contains(owner)) {
            return Err(format!("the connection was {owner:?}'s"));
        }
        if let Some(by) = self.finished.get(&failure.request) {
            return Err(format!("{by:?} had answered it"));
        }
        match self.begun.get(&failure.request).map(Vec::as_slice) {
            None => Ok(false),
            Some([by]) if victims.contains(by) => Ok(true),
            Some(by) => Err(format!("{by:?} had begun with it")),
        }
    }
}
