//! TLS session tickets across workers: every TLS server of an address is told the ticket keys of
//! the first one, so a session begun in one worker is resumed in any other, later generations included.

use serde_json::Value;

const MEMBER: &str = "ticketKeys";
/// Node's keys are 48 bytes, in hexadecimal.
const LENGTH: usize = 96;

/// The ticket keys of one address: those that the first worker came with.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TicketKeys(Option<String>);

impl TicketKeys {
    /// What to answer to a question that came with `asked` as its `data`: the same shape, with
    /// the kept keys in it. Anything but a TLS server's data is given back as it is.
    pub fn answer(&mut self, asked: &Value) -> Value {
        let mut answer = asked.clone();
        if let Some(Value::String(keys)) = answer.get_mut(MEMBER)
            && keys.len() == LENGTH
            && keys.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            let kept = self.0.get_or_insert_with(|| keys.clone());
            keys.clone_from(kept);
        }
        answer
    }

    /// Those of before, as [`TicketKeys::text`] gave them.
    #[must_use]
    pub fn from_text(text: Option<String>) -> Self {
        Self(text)
    }

    /// The keys, to be kept as secret as a private key.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl std::fmt::Debug for TicketKeys {
    // The keys decrypt sessions: they belong in no log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TicketKeys")
            .field(&self.0.as_ref().map(|_| ".."))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_the_first_keys() {
        let (first, second) = ("0a".repeat(48), "ff".repeat(48));
        let mut keys = TicketKeys::default();
        assert_eq!(keys.answer(&Value::Null), Value::Null);
        assert_eq!(
            keys.answer(&json!({"ticketKeys": first})),
            json!({"ticketKeys": first})
        );
        assert_eq!(
            keys.answer(&json!({"ticketKeys": second, "more": 1})),
            json!({"ticketKeys": first, "more": 1})
        );
        assert!(!format!("{keys:?}").contains("0a"));
    }

    #[test]
    fn echoes_what_it_does_not_understand() {
        let mut keys = TicketKeys::default();
        keys.answer(&json!({"ticketKeys": "0a".repeat(48)}));
        for data in [
            Value::Null,
            json!(5),
            json!({"ticketKeys": null}),
            json!({"ticketKeys": "0a"}),
            json!({"ticketKeys": "zz".repeat(48)}),
            json!(["ticketKeys"]),
        ] {
            assert_eq!(keys.answer(&data), data);
        }
    }
}
