//! The core's plain data as JSON, and back. A number of the core is a number of JSON where that
//! has room for it.

use std::borrow::Cow;

use segue_core::Datum;
use serde_json::{Number, Value};

pub(crate) fn to_json(datum: &Datum) -> Value {
    match datum {
        Datum::Nothing => Value::Null,
        Datum::Flag(flag) => Value::Bool(*flag),
        Datum::Number(number) => Value::Number(to_number(*number)),
        Datum::Text(text) => Value::String(text.clone().into_owned()),
        Datum::List(items) => Value::Array(items.iter().map(to_json).collect()),
        Datum::Record(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, datum)| (name.clone().into_owned(), to_json(datum)))
                .collect(),
        ),
    }
}

fn to_number(number: i128) -> Number {
    match (u64::try_from(number), i64::try_from(number)) {
        (Ok(number), _) => number.into(),
        (Err(_), Ok(number)) => number.into(),
        (Err(_), Err(_)) if number > 0 => u64::MAX.into(),
        (Err(_), Err(_)) => i64::MIN.into(),
    }
}

pub(crate) fn from_json(value: Value) -> Datum {
    match value {
        Value::Null => Datum::Nothing,
        Value::Bool(flag) => Datum::Flag(flag),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Datum::Number(number.into()),
            (None, Some(number)) => Datum::Number(number.into()),
            // The core has no fractions.
            (None, None) => Datum::Nothing,
        },
        Value::String(text) => Datum::Text(Cow::Owned(text)),
        Value::Array(items) => Datum::List(items.into_iter().map(from_json).collect()),
        Value::Object(fields) => Datum::Record(
            fields
                .into_iter()
                .map(|(name, value)| (Cow::Owned(name), from_json(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use segue_core::{App, Event, RequestId, Settings, Time, load_event, save_event};

    #[test]
    fn a_state_comes_back() {
        let mut app = App::new(Settings::default());
        let request = RequestId(u64::MAX);
        let event = Event::StartRequested { request };
        let _ = app.handle(Time(1), event.clone());
        let json = to_json(&app.snapshot());
        let restored = App::restore(Settings::default(), &from_json(json.clone())).unwrap();
        assert_eq!(restored.snapshot(), app.snapshot(), "{json}");
        let saved = to_json(&save_event(Time(7), &event));
        assert_eq!(load_event(&from_json(saved)), Ok((Time(7), event)));
    }

    #[test]
    fn numbers_are_as_large_as_json_has_them() {
        let check = |number, expected| {
            let back = from_json(to_json(&Datum::Number(number)));
            assert_eq!(back, Datum::Number(expected));
        };
        check(-9, -9);
        check(u64::MAX.into(), u64::MAX.into());
        check(i128::MAX, u64::MAX.into());
        check(i128::MIN, i64::MIN.into());
    }
}
