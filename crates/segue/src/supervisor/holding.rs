//! Has descriptors held by the keeper, and goes on without one: when the keeper dies this process
//! becomes it, with everything that it held, and a new supervisor takes over.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_sys::{exec, memory, process};
use segue_wire::handoff::ToKeeper;

use super::run::Supervisor;
use crate::handoff::Hold;
use crate::keeper::{Estate, HELD_FD, KEEPER_ARGUMENT, KEEPER_FD, Sender};
use crate::telemetry::lines::PREFIX;

/// How long what is being written to our output may take.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

/// Copies of everything that the keeper holds, for the case that it dies.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    keeper: Sender,
    held: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl Holder {
    pub(super) fn new(keeper: Sender) -> Self {
        Self {
            keeper,
            held: Arc::default(),
        }
    }

    /// The keeper has this already, from a predecessor.
    pub(super) fn note_held(&self, name: &str, descriptor: BorrowedFd<'_>) {
        match descriptor.try_clone_to_owned() {
            Ok(copy) => drop(self.held().insert(name.to_owned(), copy)),
            Err(error) => {
                tracing::error!(%error, name, "a descriptor cannot be kept at hand for another keeper");
            }
        }
    }

    /// Nothing whose name begins so is needed any more.
    pub(super) fn release_all(&self, prefix: &str) {
        let held = self.held();
        let names = held.keys().filter(|name| name.starts_with(prefix));
        let names: Vec<String> = names.cloned().collect();
        drop(held);
        for name in names {
            self.release(&name);
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold for Holder {
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.note_held(name, descriptor);
        self.keeper
            .say(ToKeeper::Store(name.to_owned()), Some(descriptor));
    }

    fn release(&self, name: &str) {
        self.held().remove(name);
        self.keeper.say(ToKeeper::Drop(name.to_owned()), None);
    }
}

impl Supervisor {
    /// The main process has died.
    pub(super) fn hear_keeper_gone(&mut self) {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            // The service manager ends what is left of a service without its main process.
            self.lost_keeper = true;
            for shell in self.apps.values_mut() {
                shell.pool.leave_kept();
            }
            self.host.say(format!(
                "{PREFIX}the main process is gone: draining, then ending"
            ));
            self.hear_stop("the main process is gone");
            return;
        }
        self.host.say(format!(
            "{PREFIX}the main process is gone: process {} takes its place, and another supervisor this one's; the app goes on serving",
            std::process::id()
        ));
        match self.become_keeper() {
            Ok(never) => match never {},
            Err(error) => {
                self.lost_keeper = true;
                self.host.say(format!(
                    "{PREFIX}cannot take the main process's place: {error}: draining, then ending"
                ));
                self.hear_stop("the main process is gone");
            }
        }
    }

    fn become_keeper(&mut self) -> io::Result<Infallible> {
        // Children of children that end from now on are ours to collect.
        process::become_subreaper()?;
        let leftovers = self.pause_output(OUTPUT_WAIT);
        self.site.commit();
        let changed = self.exec_keeper();
        self.resume_output(leftovers);
        changed
    }

    fn exec_keeper(&self) -> io::Result<Infallible> {
        let held = self.holder.held();
        let estate = Estate {
            held: held
                .iter()
                .map(|(name, descriptor)| (name.clone(), descriptor.as_raw_fd()))
                .collect(),
            leaders: self.leaders(),
            limit: (
                self.host.descriptor_limit.current,
                self.host.descriptor_limit.maximum,
            ),
        };
        let mut list = memory::create("segue-held")?;
        list.write_all(&serde_json::to_vec(&estate)?)?;
        let list = OwnedFd::from(list);
        let mut argv: Vec<OsString> = std::env::args_os().collect();
        if let Some(word) = argv.get_mut(1) {
            *word = KEEPER_ARGUMENT.into();
        }
        let mut env: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|(name, _)| name != KEEPER_FD && name != HELD_FD)
            .collect();
        env.push((HELD_FD.into(), list.as_raw_fd().to_string().into()));
        let keep: Vec<&OwnedFd> = held.values().chain([&list]).collect();
        exec::exec(Path::new("/proc/self/exe"), &argv, &env, &keep)
    }

    fn leaders(&self) -> Vec<u32> {
        let members = self.apps.values().flat_map(|shell| shell.crew.members());
        members.map(|(_, member)| member.pid).collect()
    }
}
