//! A log of named values, one JSON line each, in transactions. What is read back is what was
//! committed: a writer that dies in the middle of a transaction has not written it.
//!
//! ```text
//! {"segue_state":1,"readable_by":1,"release":"0.1.0"}     first line
//! {"put":"web/core","value":{…}}                          the value of a name
//! {"append":"web/events","value":{…}}                     one more item of its list
//! {"drop":"web/worker/3"}                                 the name and its list are gone
//! {"commit":3,"sum":"91ab…"}                              so many entries, and their FNV-1a-64
//! ```
//!
//! Readers ignore names and members that they do not know. A change that an older release could
//! not live with raises `readable_by` to the first format whose readers can.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// The format that this release writes.
pub const FORMAT: u32 = 1;

/// The first format whose readers can live with what this release writes.
pub const READABLE_BY: u32 = 1;

/// The oldest format that this release reads.
pub const OLDEST: u32 = 1;

/// What was committed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The release that wrote it.
    pub release: String,
    pub format: u32,
    pub values: BTreeMap<String, Value>,
    pub lists: BTreeMap<String, Vec<Value>>,
    /// Bytes up to the last commit.
    pub length: usize,
    /// Bytes after it, of a transaction that was never committed.
    pub torn: usize,
}

/// Why a log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    #[error("it does not begin as the state of a supervisor")]
    NoState,
    #[error(
        "it was written by segue {release} in format {format}, which only releases that know format {readable_by} can read; this one knows {FORMAT}"
    )]
    TooNew {
        release: String,
        format: u32,
        readable_by: u32,
    },
    #[error(
        "it was written by segue {release} in format {format}, which this release no longer reads: the oldest it reads is {OLDEST}"
    )]
    TooOld { release: String, format: u32 },
}

#[derive(Debug, Deserialize, Serialize)]
struct Header {
    segue_state: u32,
    readable_by: u32,
    release: String,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Entry {
    Put { put: String, value: Value },
    Append { append: String, value: Value },
    Drop { drop: String },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Commit {
    commit: u32,
    sum: String,
}

/// The first line of a log.
#[must_use]
pub fn header(release: &str) -> Vec<u8> {
    line(&Header {
        segue_state: FORMAT,
        readable_by: READABLE_BY,
        release: release.to_owned(),
    })
}

/// Entries that take effect together.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    bytes: Vec<u8>,
    entries: u32,
}

impl Transaction {
    pub fn push(&mut self, entry: &Entry) {
        self.bytes.extend(line(entry));
        self.entries += 1;
    }

    /// The same, with the value's JSON text.
    pub fn push_put(&mut self, name: &str, json: &str) {
        self.push_text("put", name, json);
    }

    /// The same, with the value's JSON text.
    pub fn push_append(&mut self, name: &str, json: &str) {
        self.push_text("append", name, json);
    }

    fn push_text(&mut self, verb: &str, name: &str, json: &str) {
        let name = serde_json::to_string(name).unwrap_or_default();
        self.bytes
            .extend(format!("{{\"{verb}\":{name},\"value\":{json}}}\n").into_bytes());
        self.entries += 1;
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The bytes to write, with the commit.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let Self { mut bytes, entries } = self;
        let commit = Commit {
            commit: entries,
            sum: sum(&bytes),
        };
        bytes.extend(line(&commit));
        bytes
    }
}

/// Reads a log as far as it is committed.
///
/// # Errors
/// It is of another kind, or of a format that cannot be read.
pub fn read(bytes: &[u8]) -> Result<Contents, LogError> {
    let mut lines = Lines { bytes, at: 0 };
    let first = lines.next().ok_or(LogError::NoState)?;
    let header: Header = serde_json::from_slice(first).map_err(|_| LogError::NoState)?;
    let Header {
        segue_state: format,
        readable_by,
        release,
    } = header;
    if readable_by > FORMAT {
        return Err(LogError::TooNew {
            release,
            format,
            readable_by,
        });
    }
    if format < OLDEST {
        return Err(LogError::TooOld { release, format });
    }
    let mut contents = Contents {
        release,
        format,
        length: lines.at,
        ..Contents::default()
    };
    let mut pending = Vec::new();
    let mut from = lines.at;
    while let Some(text) = lines.next() {
        let start = lines.at - text.len() - 1;
        if let Ok(commit) = serde_json::from_slice::<Commit>(text) {
            let written = bytes.get(from..start).unwrap_or_default();
            if usize::try_from(commit.commit) != Ok(pending.len()) || commit.sum != sum(written) {
                break;
            }
            contents.apply(std::mem::take(&mut pending));
            contents.length = lines.at;
            from = lines.at;
        } else if let Ok(entry) = serde_json::from_slice::<Entry>(text) {
            pending.push(entry);
        } else {
            break;
        }
    }
    contents.torn = bytes.len() - contents.length;
    Ok(contents)
}

impl Contents {
    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match entry {
                Entry::Put { put, value } => {
                    self.values.insert(put, value);
                }
                Entry::Append { append, value } => {
                    self.lists.entry(append).or_default().push(value);
                }
                Entry::Drop { drop } => {
                    self.values.remove(&drop);
                    self.lists.remove(&drop);
                }
            }
        }
    }
}

/// Whole lines, without their ends.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += end + 1;
        rest.get(..end)
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Texts, numbers and trees of them always have a JSON form.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// It tells a whole transaction from a torn one, no more.
fn sum(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{sum:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn put(name: &str, value: Value) -> Entry {
        Entry::Put {
            put: name.into(),
            value,
        }
    }

    fn append(name: &str, value: Value) -> Entry {
        Entry::Append {
            append: name.into(),
            value,
        }
    }

    fn transaction(entries: &[Entry]) -> Vec<u8> {
        let mut transaction = Transaction::default();
        for entry in entries {
            transaction.push(entry);
        }
        transaction.finish()
    }

    fn log(transactions: &[&[Entry]]) -> Vec<u8> {
        let mut log = header("0.1.0");
        for entries in transactions {
            log.extend(transaction(entries));
        }
        log
    }

    #[test]
    fn what_was_committed_is_read() {
        let bytes = log(&[
            &[put("a", json!(1)), append("b", json!("x"))],
            &[
                put("a", json!({"x": [1, 2]})),
                append("b", json!(null)),
                put("c", json!(true)),
            ],
            &[Entry::Drop { drop: "c".into() }],
        ]);
        let contents = read(&bytes).unwrap();
        assert_eq!(
            contents,
            Contents {
                release: "0.1.0".into(),
                format: FORMAT,
                values: BTreeMap::from([("a".into(), json!({"x": [1, 2]}))]),
                lists: BTreeMap::from([("b".into(), vec![json!("x"), json!(null)])]),
                length: bytes.len(),
                torn: 0,
            }
        );
    }

    #[test]
    fn texts_are_entries() {
        let mut as_text = Transaction::default();
        as_text.push_put("a\"b", "[1]");
        as_text.push_append("c", "{}");
        let entries = [put("a\"b", json!([1])), append("c", json!({}))];
        assert_eq!(as_text.finish(), transaction(&entries));
    }

    #[test]
    fn formats_that_cannot_be_read_are_refused() {
        let check = |header: &str, expected| {
            assert_eq!(read(format!("{header}\n").as_bytes()), Err(expected));
        };
        let release = || "9.9.9".to_owned();
        check(
            r#"{"segue_state":9,"readable_by":8,"release":"9.9.9"}"#,
            LogError::TooNew {
                release: release(),
                format: 9,
                readable_by: 8,
            },
        );
        check(
            r#"{"segue_state":0,"readable_by":0,"release":"9.9.9"}"#,
            LogError::TooOld {
                release: release(),
                format: 0,
            },
        );
        check("{}", LogError::NoState);
        assert_eq!(read(b""), Err(LogError::NoState));
        // A newer one that says that we can.
        let newer = b"{\"segue_state\":9,\"readable_by\":1,\"release\":\"9.9.9\",\"more\":1}\n";
        assert!(read(newer).is_ok());
    }

    proptest! {
        #[test]
        fn a_torn_transaction_has_not_happened(cut in 0usize..1000, flip in any::<u8>()) {
            let whole = log(&[&[put("a", json!("first"))]]);
            let mut bytes = whole.clone();
            bytes.extend(transaction(&[put("a", json!("second")), put("b", json!(2))]));
            let cut = whole.len() + cut % (bytes.len() - whole.len());
            let torn = bytes.get(..cut).unwrap();
            let contents = read(torn).unwrap();
            prop_assert_eq!(&contents.values, &BTreeMap::from([("a".to_owned(), json!("first"))]));
            prop_assert_eq!((contents.length, contents.torn), (whole.len(), cut - whole.len()));
            // Nor has one that is damaged.
            bytes[cut] ^= flip;
            if flip != 0 {
                let contents = read(&bytes).unwrap();
                prop_assert_eq!(contents.values.get("a"), Some(&json!("first")));
            }
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".*") {
            let _ = read(&bytes);
            let mut log = header("x");
            log.extend(text.bytes());
            let contents = read(&log).unwrap();
            prop_assert!(contents.length + contents.torn == log.len());
        }
    }
}
