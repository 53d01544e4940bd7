//! The journal: everything that a successor must know, by name, in transactions. Written as it
//! happens, so that a supervisor may end at any moment; what it was in the middle of is then as if
//! it had not begun, or is done again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_sys::memory;
use segue_wire::handoff::keeper::STATE;
use segue_wire::handoff::log::{self, Transaction};
use segue_wire::handoff::{Contents, Entry};
use serde::Serialize;

/// Bytes that are not worth writing afresh, and how many times what counts may be written.
const SMALL: u64 = 256 << 10;
const WASTE: u64 = 4;

/// Whoever holds descriptors beyond this process's end.
pub(crate) trait Hold: Send + Sync + std::fmt::Debug {
    /// Holds a copy under this name, instead of what is held there.
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>);

    fn release(&self, name: &str);
}

/// The journal of this supervisor. Clones write to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    inner: Arc<Mutex<Inner>>,
    /// What every name written through this one begins with.
    prefix: Arc<str>,
}

#[derive(Debug)]
struct Inner {
    holder: Option<Box<dyn Hold>>,
    file: Option<File>,
    /// Bytes written.
    length: u64,
    /// JSON texts of everything that counts.
    kept: BTreeMap<String, Kept>,
    /// Their bytes, roughly.
    live: u64,
    pending: Transaction,
    /// Names of descriptors that are not needed once that is written.
    released: BTreeSet<String>,
    has_failed: bool,
    /// Nothing is appended, so that a test's holder sees every commit.
    #[cfg(test)]
    is_always_whole: bool,
}

#[derive(Debug)]
enum Kept {
    Value(String),
    List(Vec<String>),
}

impl Journal {
    /// One that nobody will read.
    pub(crate) fn nowhere() -> Self {
        Self::with(None)
    }

    /// Begins one, for a supervisor without a predecessor, or with what its predecessor left.
    ///
    /// # Errors
    /// That there is no memory or descriptor for it.
    pub(crate) fn begin(holder: Box<dyn Hold>, contents: &Contents) -> io::Result<Self> {
        let journal = Self::with(Some(holder));
        let mut inner = journal.lock();
        for (name, value) in &contents.values {
            inner.keep(name, Kept::Value(value.to_string()));
        }
        for (name, list) in &contents.lists {
            let list = list.iter().map(ToString::to_string).collect();
            inner.keep(name, Kept::List(list));
        }
        inner.rewrite()?;
        drop(inner);
        Ok(journal)
    }

    /// Writes everything at each commit, where its holder sees it.
    #[cfg(test)]
    pub(crate) fn always_whole(self) -> Self {
        self.lock().is_always_whole = true;
        self
    }

    fn with(holder: Option<Box<dyn Hold>>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                holder,
                file: None,
                length: 0,
                kept: BTreeMap::new(),
                live: 0,
                pending: Transaction::default(),
                released: BTreeSet::new(),
                has_failed: false,
                #[cfg(test)]
                is_always_whole: false,
            })),
            prefix: "".into(),
        }
    }

    /// The same journal, where every name begins so.
    pub(crate) fn under(&self, prefix: &str) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            prefix: self.full(prefix).into(),
        }
    }

    /// A name as a successor finds it.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The value of a name, from the next [`commit`](Self::commit) on.
    pub(crate) fn put(&self, name: &str, value: &impl Serialize) {
        let mut inner = self.lock();
        if inner.holder.is_none() {
            return;
        }
        let name = &self.full(name);
        let Some(text) = inner.text(name, value) else {
            return;
        };
        if matches!(inner.kept.get(name), Some(Kept::Value(present)) if *present == text) {
            return;
        }
        inner.pending.push_put(name, &text);
        inner.keep(name, Kept::Value(text));
    }

    /// One more item of a name's list.
    pub(crate) fn append(&self, name: &str, value: &impl Serialize) {
        let mut inner = self.lock();
        if inner.holder.is_none() {
            return;
        }
        let name = &self.full(name);
        let Some(text) = inner.text(name, value) else {
            return;
        };
        inner.pending.push_append(name, &text);
        inner.live += text.len() as u64;
        match inner.kept.get_mut(name) {
            Some(Kept::List(list)) => list.push(text),
            _ => inner.keep(name, Kept::List(vec![text])),
        }
    }

    /// The name counts no more.
    pub(crate) fn drop(&self, name: &str) {
        self.lock().strike(&self.full(name));
    }

    /// The same for every name that begins so.
    pub(crate) fn drop_all(&self, prefix: &str) {
        let prefix = self.full(prefix);
        let mut inner = self.lock();
        let from = inner.kept.range(prefix.clone()..);
        let names: Vec<String> = from
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(&prefix))
            .collect();
        for name in names {
            inner.strike(&name);
        }
    }

    /// What was put, appended and dropped since the last time takes effect, all of it or nothing.
    pub(crate) fn commit(&self) {
        self.lock().commit();
    }

    /// How many items a list has.
    pub(crate) fn length(&self, name: &str) -> usize {
        match self.lock().kept.get(&self.full(name)) {
            Some(Kept::List(list)) => list.len(),
            Some(Kept::Value(_)) | None => 0,
        }
    }

    /// Has a descriptor held, from now on.
    pub(crate) fn hold(&self, name: &str, descriptor: impl AsFd) {
        let name = self.full(name);
        let mut inner = self.lock();
        inner.released.remove(&name);
        if let Some(holder) = &inner.holder {
            holder.hold(&name, descriptor.as_fd());
        }
    }

    /// It need not be held any more, from the next [`commit`](Self::commit) on: a successor that reads of
    /// it until then is to find it.
    pub(crate) fn release(&self, name: &str) {
        let name = self.full(name);
        self.lock().released.insert(name);
    }

    /// The same at once, for a connection: as long as it is held its client does not see it end. A
    /// successor that reads of it and does not find it knows that it was on its way out.
    pub(crate) fn release_now(&self, name: &str) {
        if let Some(holder) = &self.lock().holder {
            holder.release(&self.full(name));
        }
    }

    /// A copy of all that counts, for a probe to read.
    ///
    /// # Errors
    /// That there is no memory or descriptor for it.
    pub(crate) fn copy(&self) -> io::Result<File> {
        let file = memory::create("segue-state-copy")?;
        file.write_all_at(&self.lock().whole(), 0)?;
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn text(&mut self, name: &str, value: &impl Serialize) -> Option<String> {
        match serde_json::to_string(value) {
            Ok(text) => Some(text),
            Err(error) => {
                tracing::error!(%error, name, "cannot be written down for a successor; this is a bug in segue");
                None
            }
        }
    }

    fn keep(&mut self, name: &str, kept: Kept) {
        self.forget(name);
        self.live += (name.len() + kept.len()) as u64;
        self.kept.insert(name.to_owned(), kept);
    }

    fn strike(&mut self, name: &str) {
        if self.forget(name) {
            let drop = name.to_owned();
            self.pending.push(&Entry::Drop { drop });
        }
    }

    fn forget(&mut self, name: &str) -> bool {
        let forgotten = self.kept.remove(name);
        if let Some(kept) = &forgotten {
            self.live = self.live.saturating_sub((name.len() + kept.len()) as u64);
        }
        forgotten.is_some()
    }

    fn commit(&mut self) {
        self.write_pending();
        let released = std::mem::take(&mut self.released);
        if let Some(holder) = &self.holder {
            for name in &released {
                holder.release(name);
            }
        }
    }

    fn write_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let written = if self.is_wasteful() || self.file.is_none() {
            self.pending = Transaction::default();
            self.rewrite()
        } else {
            let bytes = std::mem::take(&mut self.pending).finish();
            self.write(&bytes).or_else(|_| self.rewrite())
        };
        match written {
            Ok(()) => self.has_failed = false,
            Err(error) => {
                // The next commit writes everything.
                self.file = None;
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::error!(%error, "state cannot be written down: a supervisor that took over now would not know what has happened since");
                }
            }
        }
    }

    /// Most of what has been written does not count any more.
    fn is_wasteful(&self) -> bool {
        #[cfg(test)]
        if self.is_always_whole {
            return true;
        }
        self.length > SMALL.max(self.live * WASTE)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes all that counts into a new file, which takes the old one's place.
    fn rewrite(&mut self) -> io::Result<()> {
        let Some(holder) = &self.holder else {
            return Ok(());
        };
        let bytes = self.whole();
        let file = memory::create("segue-state")?;
        file.write_all_at(&bytes, 0)?;
        holder.hold(STATE, file.as_fd());
        self.file = Some(file);
        self.length = bytes.len() as u64;
        Ok(())
    }

    fn whole(&self) -> Vec<u8> {
        let mut transaction = Transaction::default();
        for (name, kept) in &self.kept {
            match kept {
                Kept::Value(text) => transaction.push_put(name, text),
                Kept::List(list) => {
                    for text in list {
                        transaction.push_append(name, text);
                    }
                }
            }
        }
        let mut bytes = log::header(env!("CARGO_PKG_VERSION"));
        bytes.extend(transaction.finish());
        bytes
    }
}

impl Kept {
    fn len(&self) -> usize {
        match self {
            Self::Value(text) => text.len(),
            Self::List(list) => list.iter().map(String::len).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::handoff::cupboard::Cupboard;

    #[test]
    fn a_successor_reads_what_was_committed() {
        let cupboard = Cupboard::default();
        let journal = cupboard.begin(&Contents::default());
        journal.put("a", &1);
        journal.append("b", &"x");
        journal.append("b", &"y");
        let workers = journal.under("worker/");
        workers.put("1", &true);
        workers.put("2", &true);
        journal.commit();
        journal.put("a", &2);
        journal.drop_all("worker/");
        assert_eq!(cupboard.contents().values.get("a"), Some(&json!(1)));
        journal.commit();
        let contents = cupboard.contents();
        assert_eq!(contents.values, BTreeMap::from([("a".into(), json!(2))]));
        assert_eq!(contents.lists.get("b"), Some(&vec![json!("x"), json!("y")]));
        assert_eq!((journal.length("a"), journal.length("b")), (0, 2));

        // Goes on where the other one ended, and a third one reads both.
        let journal = cupboard.begin(&contents);
        journal.append("b", &"z");
        journal.commit();
        assert_eq!(cupboard.contents().lists["b"].len(), 3);
        journal.drop("b");
        journal.commit();
        assert!(cupboard.contents().lists.is_empty());
        let copy = log::read(&memory::read_all(&journal.copy().unwrap()).unwrap()).unwrap();
        assert_eq!(copy.values, cupboard.contents().values);
    }

    #[test]
    fn what_is_released_is_there_until_that_is_written() {
        let cupboard = Cupboard::default();
        let journal = cupboard.begin(&Contents::default());
        let file = memory::create("test").unwrap();
        for name in ["worker", "connection", "log"] {
            journal.hold(name, &file);
        }
        journal.put("a", &1);
        journal.commit();
        let is_held = |name: &str| cupboard.names().iter().any(|held| held == name);
        journal.drop("a");
        journal.release("worker");
        journal.release("log");
        journal.hold("log", &file);
        journal.release_now("connection");
        assert!(is_held("worker") && !is_held("connection"));
        journal.commit();
        assert!(!is_held("worker") && is_held("log"));
        // Also where there is nothing else to write.
        journal.release("log");
        journal.commit();
        assert!(!is_held("log"));
    }

    #[test]
    fn it_stays_small() {
        let cupboard = Cupboard::default();
        let journal = cupboard.begin(&Contents::default());
        let text = "x".repeat(1000);
        for round in 0..2000 {
            journal.put("a", &(round, &text));
            journal.append("list", &round);
            if round % 100 == 99 {
                journal.drop("list");
            }
            journal.commit();
        }
        let contents = cupboard.contents();
        assert!(contents.length < 300 << 10, "{}", contents.length);
        assert_eq!(contents.values["a"][0], 1999);
    }

    #[test]
    fn what_has_not_changed_is_not_written() {
        let cupboard = Cupboard::default();
        let journal = cupboard.begin(&Contents::default());
        journal.put("a", &1);
        journal.commit();
        let length = cupboard.contents().length;
        journal.put("a", &1);
        journal.drop("b");
        journal.commit();
        assert_eq!(cupboard.contents().length, length);
    }
}
