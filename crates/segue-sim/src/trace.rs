//! A run as text: one line for each fact (`>`), order (`<`) and thing that happened in the world.

use std::fmt::Debug;

use segue_core::{SocketIndex, Time};

pub(crate) fn line(now: u64, mark: char, what: String) -> String {
    format!("{:>9} {mark} {what}", Time(now).to_string())
}

pub(crate) fn socket(place: u32, index: SocketIndex) -> String {
    format!("address {place}{index}")
}

/// A fact or an order without the ceremony of its type names: `Spawn worker 1, slot 0`.
pub(crate) fn of(what: &impl Debug) -> String {
    let text = format!("{what:?}");
    let mut plain = String::with_capacity(text.len());
    let mut word = String::new();
    // The name of an id, or of what holds two of them, says nothing that the field's name has not said.
    let mut closes: Vec<bool> = Vec::new();
    for letter in text.chars() {
        match letter {
            '(' => {
                let is_id = IDS.contains(&word.as_str());
                if !is_id {
                    plain.push_str(&word);
                    plain.push('(');
                }
                closes.push(!is_id);
                word.clear();
            }
            ')' => {
                plain.push_str(&word);
                word.clear();
                if closes.pop().unwrap_or(true) {
                    plain.truncate(plain.trim_end().len());
                    plain.push(')');
                }
            }
            '{' | '}' | ':' | ' ' | ',' | '[' | ']' => {
                if !IDS.contains(&word.as_str()) {
                    plain.push_str(&word);
                }
                word.clear();
                match letter {
                    '{' | '}' | ':' => {}
                    ' ' if plain.ends_with(' ') => {}
                    ',' => {
                        plain.truncate(plain.trim_end().len());
                        plain.push(',');
                    }
                    other => plain.push(other),
                }
            }
            other => word.push(other),
        }
    }
    plain.push_str(&word);
    // What is not confined need not say so.
    for nothing in [", listen []", ", covers []"] {
        plain = plain.replace(nothing, "");
    }
    plain.trim_end().to_owned()
}

const IDS: [&str; 10] = [
    "SlotId",
    "WorkerId",
    "Generation",
    "AddressId",
    "SocketIndex",
    "RequestId",
    "AskId",
    "ReloadId",
    "SocketRef",
    "Notify",
];

#[cfg(test)]
mod tests {
    use super::*;
    use segue_core::{Action, AddressId, Notice, SlotId, WorkerId};

    #[test]
    fn type_names_are_left_out() {
        let steer = Action::Steer {
            address: AddressId(0),
            set: vec![(SocketIndex(1), 1), (SocketIndex(2), 1)],
        };
        assert_eq!(of(&steer), "Steer address 0, set [(1, 1), (2, 1)]");
        let killed = Action::Notify(Notice::WorkerKilled {
            worker: WorkerId(3),
            slot: SlotId(1),
        });
        assert_eq!(of(&killed), "WorkerKilled worker 3, slot 1");
    }
}
