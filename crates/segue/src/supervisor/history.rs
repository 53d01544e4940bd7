//! What is remembered of an app's reloads and restarts, for `segue why`. Bounded in number and in
//! bytes: the oldest are forgotten. A successor remembers the same.

use std::collections::VecDeque;

use segue_core::{Generation, ReloadId, RequestId, Time};
use segue_wire::control::{
    Asked, Failure, ReloadOutcome, ReloadRecord, RestartCount, RestartRecord, Revision, Step,
};
use serde::{Deserialize, Serialize};

use super::succession::by_name;
use crate::handoff::{InheritError, Inherited, Journal};

/// So many reloads, and as many bytes of JSON.
const RELOADS: usize = 50;
const RELOAD_BYTES: usize = 256 << 10;

/// So many restarts of one slot, of all of them, and as many bytes of JSON.
const RESTARTS_OF_A_SLOT: usize = 20;
const RESTARTS: usize = 400;
const RESTART_BYTES: usize = 512 << 10;

/// Steps of one reload; a slot after another makes many.
const STEPS: usize = 64;

/// Of a failure's last words.
const WORDS: usize = 4 << 10;

/// Causes that are counted apart.
const CAUSES: usize = 64;

const RELOAD_PREFIX: &str = "history/reload/";
const RESTART_PREFIX: &str = "history/restart/";
const COUNTS: &str = "history/counts";
const ASKED: &str = "history/asked";

#[derive(Debug)]
pub(super) struct History {
    journal: Journal,
    reloads: VecDeque<Entry<Reload>>,
    restarts: VecDeque<Entry<RestartRecord>>,
    last_restart: u64,
    counts: Vec<RestartCount>,
    /// Whose request the core is about to be told of.
    asked: Option<Request>,
    /// Who asked last for what became no reload: a rollback may have ended one.
    declined: Option<Asked>,
}

/// A request for a reload.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Request {
    request: u64,
    kind: String,
    asked: Asked,
    at_ms: u64,
    /// By the monotonic clock.
    at: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Reload {
    record: ReloadRecord,
    /// When it was asked for, and when its last step began, by the monotonic clock.
    asked_at: u64,
    step_at: u64,
}

/// Something with its number, and its size as it is written down.
#[derive(Debug)]
struct Entry<T> {
    number: u64,
    bytes: usize,
    it: T,
}

/// How a reload ended, for its record.
#[derive(Debug)]
pub(super) struct End {
    pub(super) outcome: ReloadOutcome,
    pub(super) text: String,
    pub(super) failure: Option<Failure>,
    pub(super) by: Option<ReloadId>,
}

impl History {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            reloads: VecDeque::new(),
            restarts: VecDeque::new(),
            last_restart: 0,
            counts: Vec::new(),
            asked: None,
            declined: None,
        }
    }

    /// That of a predecessor.
    ///
    /// # Errors
    /// Something is of another kind.
    pub(super) fn restore(journal: Journal, inherited: &Inherited) -> Result<Self, InheritError> {
        let reloads: Vec<Reload> = by_name(inherited, &journal.full(RELOAD_PREFIX))?;
        let prefix = journal.full(RESTART_PREFIX);
        let mut restarts = Vec::new();
        for (rest, it) in inherited.values::<RestartRecord>(&prefix)? {
            let number = rest
                .parse()
                .map_err(|error| InheritError::value(&format!("{prefix}{rest}"), error))?;
            restarts.push(Entry::new(number, it));
        }
        restarts.sort_by_key(|entry| entry.number);
        let mut reloads: Vec<_> = reloads
            .into_iter()
            .map(|it| Entry::new(it.record.reload.into(), it))
            .collect();
        reloads.sort_by_key(|entry| entry.number);
        Ok(Self {
            last_restart: restarts.last().map_or(0, |entry| entry.number),
            reloads: reloads.into(),
            restarts: restarts.into(),
            counts: inherited.value(&journal.full(COUNTS))?.unwrap_or_default(),
            asked: inherited.value(&journal.full(ASKED))?,
            declined: None,
            journal,
        })
    }

    /// Somebody asks for a reload; the core is told next. To be written down together.
    pub(super) fn asked(&mut self, request: RequestId, kind: &str, asked: Asked, at: (Time, u64)) {
        let (Time(at), at_ms) = at;
        let request = Request {
            request: request.0,
            kind: kind.to_owned(),
            asked,
            at_ms,
            at,
        };
        self.journal.put(ASKED, &request);
        self.asked = Some(request);
    }

    /// The core knows of a request: as a reload with this number, or as none.
    pub(super) fn numbered(&mut self, request: RequestId, reload: Option<ReloadId>) {
        let is_it = |asked: &mut Request| asked.request == request.0;
        if let Some(asked) = self.asked.take_if(is_it) {
            self.journal.drop(ASKED);
            match reload {
                Some(reload) => self.add(reload, asked),
                None => self.declined = Some(asked.asked),
            }
        }
    }

    /// Who has just asked for what became no reload.
    pub(super) const fn declined(&self) -> Option<&Asked> {
        self.declined.as_ref()
    }

    /// A request that a predecessor may not have seen numbered.
    pub(super) fn unnumbered(&self) -> Option<RequestId> {
        let asked = self.asked.as_ref()?;
        Some(RequestId(asked.request))
    }

    fn add(&mut self, reload: ReloadId, asked: Request) {
        let Request {
            kind,
            asked,
            at_ms,
            at,
            ..
        } = asked;
        self.reloads
            .retain(|entry| entry.it.record.reload != reload.0);
        let it = Reload {
            record: ReloadRecord {
                reload: reload.0,
                kind,
                asked,
                at_ms,
                outcome: ReloadOutcome::UnderWay,
                ..ReloadRecord::default()
            },
            asked_at: at,
            step_at: at,
        };
        self.reloads.push_back(Entry::new(reload.0.into(), it));
        self.note_reload(reload);
    }

    /// It has its turn.
    pub(super) fn began(&mut self, reload: ReloadId, generation: Generation, at: (Time, u64)) {
        if self.find(reload).is_none() {
            // Of a release that kept no records.
            let asked = Request {
                request: 0,
                kind: "reload".to_owned(),
                asked: Asked::default(),
                at_ms: at.1,
                at: at.0.0,
            };
            self.add(reload, asked);
        }
        self.change(reload, |it| it.record.generation = Some(generation.0));
        self.step(reload, "preparing", at.0);
    }

    /// What it runs is known.
    pub(super) fn resolved(
        &mut self,
        generation: Generation,
        release: String,
        revision: Option<&Revision>,
    ) {
        let reload = self.reloads.iter().rev().find(|entry| {
            let record = &entry.it.record;
            record.generation == Some(generation.0) && record.outcome == ReloadOutcome::UnderWay
        });
        if let Some(reload) = reload.map(|entry| ReloadId(entry.it.record.reload)) {
            self.change(reload, |it| {
                it.record.release = Some(release);
                it.record.revision = revision.cloned();
            });
        }
    }

    /// A step of it begins, which ends the one before.
    pub(super) fn step(&mut self, reload: ReloadId, step: &str, now: Time) {
        self.change(reload, |it| {
            let is_same = |last: &Step| last.step == step && last.took_ms.is_none();
            if it.record.steps.last().is_some_and(is_same) {
                return;
            }
            it.end_step(now);
            if it.record.steps.len() < STEPS {
                it.record.steps.push(Step {
                    step: step.to_owned(),
                    took_ms: None,
                });
            }
        });
    }

    pub(super) fn ended(&mut self, reload: ReloadId, now: Time, end: End) {
        self.change(reload, |it| {
            it.end_step(now);
            let record = &mut it.record;
            record.took_ms = Some(now.0.saturating_sub(it.asked_at));
            record.outcome = end.outcome;
            record.text = end.text;
            record.failure = end.failure.map(shortened);
            record.by = end.by.map(|by| by.0);
        });
    }

    /// A worker that should have stayed is replaced. `cause` says why without saying who.
    pub(super) fn restarted(&mut self, mut record: RestartRecord, cause: String) {
        // It has failed, and is replaced for that.
        let worker = record.failure.worker;
        let mut known = self.restarts.iter().rev();
        if worker.is_some() && known.any(|known| known.it.failure.worker == worker) {
            return;
        }
        record.failure = shortened(record.failure);
        self.count(&record.failure.cause, cause);
        let slot = record.failure.slot;
        self.last_restart += 1;
        let entry = Entry::new(self.last_restart, record);
        self.journal
            .put(&format!("{RESTART_PREFIX}{}", entry.number), &entry.it);
        self.restarts.push_back(entry);
        let same = |entry: &&Entry<RestartRecord>| entry.it.failure.slot == slot;
        if self.restarts.iter().filter(same).count() > RESTARTS_OF_A_SLOT
            && let Some(oldest) = self.restarts.iter().position(|entry| same(&entry))
        {
            self.forget_restart(oldest);
        }
        while self.restarts.len() > RESTARTS || bytes_of(&self.restarts) > RESTART_BYTES {
            self.forget_restart(0);
        }
    }

    fn forget_restart(&mut self, index: usize) {
        if let Some(forgotten) = self.restarts.remove(index) {
            self.journal
                .drop(&format!("{RESTART_PREFIX}{}", forgotten.number));
        }
    }

    fn count(&mut self, cause: &str, text: String) {
        let index = self
            .counts
            .iter()
            .position(|count| count.cause == cause && count.text == text);
        let has_room = self.counts.len() < CAUSES;
        if let Some(count) = index.and_then(|index| self.counts.get_mut(index)) {
            count.count += 1;
        } else if has_room {
            self.counts.push(RestartCount {
                cause: cause.to_owned(),
                text,
                count: 1,
            });
        }
        self.journal.put(COUNTS, &self.counts);
    }

    pub(super) fn counts(&self) -> &[RestartCount] {
        &self.counts
    }

    pub(super) fn reloads(&self) -> Vec<ReloadRecord> {
        let reloads = self.reloads.iter();
        reloads.map(|entry| entry.it.record.clone()).collect()
    }

    pub(super) fn restarts(&self) -> Vec<RestartRecord> {
        self.restarts.iter().map(|entry| entry.it.clone()).collect()
    }

    /// The newest one that has ended.
    pub(super) fn last_reload(&self) -> Option<&ReloadRecord> {
        let reloads = self.reloads.iter().rev().map(|entry| &entry.it.record);
        reloads
            .into_iter()
            .find(|record| record.outcome != ReloadOutcome::UnderWay)
    }

    fn find(&self, reload: ReloadId) -> Option<usize> {
        let number = u64::from(reload.0);
        self.reloads.iter().position(|entry| entry.number == number)
    }

    fn change(&mut self, reload: ReloadId, change: impl FnOnce(&mut Reload)) {
        let index = self.find(reload);
        if let Some(entry) = index.and_then(|index| self.reloads.get_mut(index)) {
            change(&mut entry.it);
            entry.bytes = size_of_json(&entry.it);
            self.note_reload(reload);
        }
    }

    fn note_reload(&mut self, reload: ReloadId) {
        if let Some(entry) = self.find(reload).and_then(|index| self.reloads.get(index)) {
            self.journal
                .put(&format!("{RELOAD_PREFIX}{}", reload.0), &entry.it);
        }
        while self.reloads.len() > RELOADS || bytes_of(&self.reloads) > RELOAD_BYTES {
            if let Some(oldest) = self.reloads.pop_front() {
                self.journal
                    .drop(&format!("{RELOAD_PREFIX}{}", oldest.number));
            }
        }
    }
}

impl Reload {
    fn end_step(&mut self, now: Time) {
        if let Some(last) = self.record.steps.last_mut()
            && last.took_ms.is_none()
        {
            last.took_ms = Some(now.0.saturating_sub(self.step_at));
        }
        self.step_at = now.0;
    }
}

impl<T: Serialize> Entry<T> {
    fn new(number: u64, it: T) -> Self {
        Self {
            number,
            bytes: size_of_json(&it),
            it,
        }
    }
}

fn bytes_of<T>(entries: &VecDeque<Entry<T>>) -> usize {
    entries.iter().map(|entry| entry.bytes).sum()
}

fn size_of_json(it: &impl Serialize) -> usize {
    serde_json::to_string(it).map_or(0, |text| text.len())
}

/// The last of its last words.
fn shortened(mut failure: Failure) -> Failure {
    let mut left = WORDS;
    let mut kept = VecDeque::new();
    for line in failure.stderr.iter().rev() {
        let end = line.floor_char_boundary(left.min(line.len()));
        let Some(part) = line.get(..end).filter(|_| left > 0) else {
            break;
        };
        left = left.saturating_sub(part.len() + 1);
        kept.push_front(part.to_owned());
    }
    failure.stderr = kept.into();
    failure
}

#[cfg(test)]
mod tests {
    use segue_wire::handoff::Contents;

    use super::*;
    use crate::handoff::cupboard::Cupboard;

    fn history(cupboard: &Cupboard) -> History {
        History::new(cupboard.begin(&Contents::default()))
    }

    /// What a successor remembers.
    fn succeed(cupboard: &Cupboard, history: &History) -> History {
        history.journal.commit();
        let contents = cupboard.contents();
        let journal = cupboard.begin(&contents);
        History::restore(journal, &Inherited::values_of(contents)).unwrap()
    }

    fn asked(by: &str) -> Asked {
        Asked {
            by: by.to_owned(),
            ..Asked::default()
        }
    }

    fn failed(slot: u32, cause: &str, stderr: &[String]) -> RestartRecord {
        RestartRecord {
            at_ms: 1,
            generation: 1,
            failure: Failure {
                slot: Some(slot),
                cause: cause.to_owned(),
                stderr: stderr.to_vec(),
                ..Failure::default()
            },
        }
    }

    fn end(outcome: ReloadOutcome) -> End {
        End {
            outcome,
            text: "so it was".to_owned(),
            failure: None,
            by: None,
        }
    }

    #[test]
    fn a_reload_is_followed_across_a_take_over() {
        let cupboard = Cupboard::default();
        let mut first = history(&cupboard);
        first.asked(RequestId(7), "reload", asked("cli"), (Time(1_000), 99));
        // Whoever takes over now numbers it as the first one would have.
        let mut first = succeed(&cupboard, &first);
        assert_eq!(first.unnumbered(), Some(RequestId(7)));
        first.numbered(RequestId(6), Some(ReloadId(1)));
        assert!(first.reloads().is_empty());
        first.numbered(RequestId(7), Some(ReloadId(3)));
        first.began(ReloadId(3), Generation(4), (Time(1_500), 599));
        let revision = Revision {
            id: "v2".to_owned(),
            branch: None,
        };
        first.resolved(Generation(4), "/srv/web/2".to_owned(), Some(&revision));
        first.step(ReloadId(3), "booting", Time(1_600));
        let mut second = succeed(&cupboard, &first);
        second.step(ReloadId(3), "booting", Time(1_700));
        second.step(ReloadId(3), "cutting_over", Time(2_600));
        second.ended(ReloadId(3), Time(2_700), end(ReloadOutcome::Committed));
        let third = succeed(&cupboard, &second);
        let step = |step: &str, took| Step {
            step: step.to_owned(),
            took_ms: Some(took),
        };
        let expected = ReloadRecord {
            reload: 3,
            kind: "reload".to_owned(),
            generation: Some(4),
            asked: asked("cli"),
            at_ms: 99,
            release: Some("/srv/web/2".to_owned()),
            revision: Some(revision),
            steps: vec![
                step("preparing", 100),
                step("booting", 1_000),
                step("cutting_over", 100),
            ],
            outcome: ReloadOutcome::Committed,
            text: "so it was".to_owned(),
            took_ms: Some(1_700),
            ..ReloadRecord::default()
        };
        assert_eq!(third.reloads(), [expected]);
        assert_eq!(third.last_reload().map(|last| last.reload), Some(3));
    }

    #[test]
    fn a_reload_that_nobody_noted_is_noted_when_it_begins() {
        let cupboard = Cupboard::default();
        let mut history = history(&cupboard);
        // This one was refused.
        history.asked(RequestId(1), "reload", asked("cli"), (Time(1), 1));
        history.numbered(RequestId(1), None);
        assert!(history.reloads().is_empty());
        history.began(ReloadId(1), Generation(2), (Time(5), 5));
        let records = history.reloads();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].asked, Asked::default());
        assert!(history.last_reload().is_none());
    }

    #[test]
    fn reloads_are_bounded() {
        let cupboard = Cupboard::default();
        let mut history = history(&cupboard);
        for number in 1..=60 {
            let request = RequestId(number);
            let reload = ReloadId(u32::try_from(number).unwrap());
            history.asked(request, "reload", asked("api"), (Time(0), 0));
            history.numbered(request, Some(reload));
            let mut end = end(ReloadOutcome::Failed);
            if number > 50 {
                end.text = "x".repeat(100 << 10);
            }
            history.ended(reload, Time(1), end);
        }
        let numbers = |history: &History| -> Vec<u32> {
            history.reloads().iter().map(|it| it.reload).collect()
        };
        // Two of 100 KiB fit beside nothing else.
        assert_eq!(numbers(&history), [59, 60]);
        assert_eq!(numbers(&succeed(&cupboard, &history)), [59, 60]);
        for number in 61..=200 {
            history.began(ReloadId(number), Generation(number), (Time(0), 0));
        }
        assert_eq!(history.reloads().len(), RELOADS);
        assert_eq!(succeed(&cupboard, &history).reloads().len(), RELOADS);
    }

    #[test]
    fn restarts_are_bounded_and_counted() {
        let cupboard = Cupboard::default();
        let mut history = history(&cupboard);
        let words = vec!["x".repeat(2_000); 20];
        for round in 0..100 {
            history.restarted(failed(0, "exited_ready", &words), "exit code 1".to_owned());
            history.restarted(failed(1, "exited_ready", &[]), format!("exit code {round}"));
        }
        let of = |history: &History, slot: u32| {
            let restarts = history.restarts();
            let restarts = restarts.iter();
            restarts.filter(|it| it.failure.slot == Some(slot)).count()
        };
        let history = succeed(&cupboard, &history);
        assert_eq!((of(&history, 0), of(&history, 1)), (20, 20));
        assert!(bytes_of(&history.restarts) <= RESTART_BYTES);
        let kept = &history.restarts()[0].failure.stderr;
        assert!(kept.iter().map(String::len).sum::<usize>() <= WORDS);
        assert_eq!(kept.last().map(String::len), Some(2_000), "the last words");
        assert_eq!(history.counts()[0].count, 101, "two causes are one");
        assert_eq!(history.counts().len(), CAUSES);
        let mut history = history;
        for slot in 0..1_000 {
            history.restarted(failed(slot, "wrapper", &words), "wrapper".to_owned());
        }
        assert!(history.restarts.len() <= RESTARTS);
        assert!(bytes_of(&history.restarts) <= RESTART_BYTES);
        assert_eq!(
            succeed(&cupboard, &history).restarts().len(),
            history.restarts.len()
        );
    }
}
