//! What a busy supervisor writes down for its successors: the names that docs/keeper.md lists, and
//! samples of it for the releases to come.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use segue_wire::control::{Worker, WorkerPhase};
use segue_wire::handoff::{Contents, log};
use serde_json::Value;

use crate::harness::everything::{self, Everything};
use crate::harness::lasting;
use crate::harness::nodes::installed;
use crate::harness::run::{LIMIT, Run};

/// Variables of a sample's environment; the others say something of the machine that it was made on.
const VARIABLES: [&str; 3] = ["PATH", "NODE_ENV", "LANG"];

/// What the keeper holds under the name `state`.
fn read(run: &Run) -> Option<Contents> {
    let descriptors = format!("/proc/{}/fd", run.main.pid);
    let entries = std::fs::read_dir(&descriptors).expect("it runs");
    let paths = entries.flatten().map(|entry| entry.path());
    let states = paths.filter(|path| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:segue-state ")
    });
    // One is put in the place of another now and then.
    let bytes = states.filter_map(|path| std::fs::read(path).ok());
    bytes.filter_map(|bytes| log::read(&bytes).ok()).last()
}

/// `app/web/worker/3/record` is of the kind `app/NAME/worker/W/record`.
fn kind(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    if let ["app", name, ..] = &mut parts[..] {
        *name = "NAME";
    }
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    let parts = parts
        .iter()
        .map(|part| if is_number(part) { "N" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

fn kinds(contents: &Contents) -> BTreeSet<String> {
    let names = contents.values.keys().chain(contents.lists.keys());
    names.map(|name| kind(name)).collect()
}

/// Every kind of thing that a release may have left for the next one.
const EXPECTED: [&str; 14] = [
    "app/NAME/core",
    "app/NAME/counts",
    "app/NAME/dead/N",
    "app/NAME/events",
    "app/NAME/listen/N",
    "app/NAME/place/N",
    "app/NAME/plan",
    "app/NAME/records",
    "app/NAME/release/N",
    "app/NAME/request/N",
    "app/NAME/worker/N/channel",
    "app/NAME/worker/N/record",
    "control",
    "supervisor",
];

#[test]
fn a_busy_supervisor_has_written_down_every_kind_of_thing() {
    let _turn = lasting();
    let run = everything::app(&installed()).start();
    let victim = *run.ready_pids().first().expect("a worker");
    let victim = Pid::from_raw(victim.cast_signed()).expect("a pid");
    kill_process(victim, Signal::KILL).expect("kill it");
    run.until("another one has come", |app| {
        let is_ready = |worker: &&Worker| worker.phase == WorkerPhase::Ready;
        app.workers.iter().filter(is_ready).count() == 2
            && app.workers.iter().any(|worker| worker.worker == 3)
    });
    // What it has decided by then is in one piece after that.
    run.upgrade().expect(0);
    let clients = Everything::start(&run);
    clients.wait_for_answers(100);
    run.segue(&["scale", "2"]).expect(0);
    run.site.deploy("v2", "everything.js");
    let reload = run.segue_beside(&["reload", "--wait", "drained"]);
    let expected = BTreeSet::from(EXPECTED.map(str::to_owned));
    let busiest = RefCell::new(Contents::default());
    run.until("all of it is there, while a generation leaves", |app| {
        let Some(contents) = read(&run) else {
            return false;
        };
        let is_whole = kinds(&contents).is_superset(&expected);
        busiest.replace(contents);
        is_whole && app.workers.len() > 2 && app.generation == 2
    });
    let contents = busiest.into_inner();
    let documented = include_str!("../../../../docs/keeper.md");
    for kind in kinds(&contents) {
        let last = kind.trim_end_matches("/N").rsplit('/').next();
        let last = last.expect("a name");
        assert!(documented.contains(last), "{kind} is not documented");
    }
    reload.wait(LIMIT).expect(0);
    clients.committed("v2");
    clients.stop(&run);
    run.finish();
    if let Ok(path) = std::env::var("SEGUE_STATE_SAMPLE") {
        write_sample(Path::new(&path), &contents);
    }
}

fn write_sample(path: &Path, contents: &Contents) {
    let mut transaction = log::Transaction::default();
    for (name, value) in &contents.values {
        let mut value = value.clone();
        strip(&mut value);
        transaction.push_put(name, &value.to_string());
    }
    for (name, list) in &contents.lists {
        for value in list {
            transaction.push_append(name, &value.to_string());
        }
    }
    let mut bytes = log::header(&contents.release);
    bytes.extend(transaction.finish());
    std::fs::write(path, bytes).expect("write the sample");
}

/// Leaves only a few variables in every environment.
fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for environment in ["env", "caller_env"] {
                if let Some(Value::Array(variables)) = members.get_mut(environment) {
                    variables.retain(|pair| {
                        let name = pair.get(0).and_then(Value::as_str);
                        name.is_some_and(|name| VARIABLES.contains(&name))
                    });
                }
            }
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
