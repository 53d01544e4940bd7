//! State as plain data, so that it can be written down by whoever knows a format, and the shapes
//! of the types of this crate in it.
//!
//! A struct is a record of its fields. A choice without content is its name; one with fields is a
//! record of them with its name under `is`; one that wraps a value has that under `of`. Names are
//! those of the source: renaming a field or a variant changes what older and newer releases can
//! read, which recorded samples notice. A field that was added later has a default.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// A piece of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    Nothing,
    Flag(bool),
    /// Of all widths, signed or not.
    Number(i128),
    Text(Cow<'static, str>),
    List(Vec<Self>),
    Record(BTreeMap<Cow<'static, str>, Self>),
}

/// Why a [`Datum`] is not the state of anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// From the inside out.
    path: Vec<String>,
    what: String,
}

impl Unreadable {
    fn new(what: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            what: what.into(),
        }
    }

    fn within(mut self, place: impl fmt::Display) -> Self {
        self.path.push(place.to_string());
        self
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, place) in self.path.iter().rev().enumerate() {
            if depth > 0 {
                f.write_str(".")?;
            }
            f.write_str(place)?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Unreadable {}

/// What has a shape as plain data.
pub(crate) trait Portable: Sized {
    fn save(&self) -> Datum;

    /// The value of a field that is not there.
    fn absent() -> Option<Self> {
        None
    }

    /// # Errors
    /// Where the data has another shape.
    fn load(datum: &Datum) -> Result<Self, Unreadable>;
}

impl Datum {
    pub(crate) fn record<const N: usize>(fields: [(&'static str, Self); N]) -> Self {
        let fields = fields
            .into_iter()
            .filter(|(_, datum)| *datum != Self::Nothing)
            .map(|(name, datum)| (Cow::Borrowed(name), datum));
        Self::Record(fields.collect())
    }

    pub(crate) const fn name(name: &'static str) -> Self {
        Self::Text(Cow::Borrowed(name))
    }

    /// The name of a choice.
    pub(crate) fn choice(&self) -> Result<&str, Unreadable> {
        let name = match self {
            Self::Record(fields) => fields.get("is"),
            other => Some(other),
        };
        match name {
            Some(Self::Text(name)) => Ok(name),
            _ => Err(self.is_no("choice")),
        }
    }

    pub(crate) fn field<T: Portable>(&self, name: &str) -> Result<T, Unreadable> {
        self.field_or(name, T::absent())
    }

    pub(crate) fn field_or<T: Portable>(
        &self,
        name: &str,
        default: Option<T>,
    ) -> Result<T, Unreadable> {
        let Self::Record(fields) = self else {
            return Err(self.is_no("record"));
        };
        match (fields.get(name), default) {
            (Some(datum), _) => T::load(datum).map_err(|error| error.within(name)),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Unreadable::new("missing").within(name)),
        }
    }

    pub(crate) fn is_no(&self, wanted: &str) -> Unreadable {
        let found = match self {
            Self::Nothing => "nothing",
            Self::Flag(_) => "a flag",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Record(_) => "a record",
        };
        Unreadable::new(format!("{found} where a {wanted} is expected"))
    }
}

/// A struct: every field by its name; `name = default` for one that older releases do not write.
macro_rules! portable_record {
    ($type:ident { $($field:ident $(= $default:expr)?),* $(,)? }) => {
        impl $crate::datum::Portable for $type {
            fn save(&self) -> $crate::datum::Datum {
                let Self { $($field),* } = self;
                $crate::datum::Datum::record([
                    $((stringify!($field), $crate::datum::Portable::save($field))),*
                ])
            }

            fn load(
                datum: &$crate::datum::Datum,
            ) -> Result<Self, $crate::datum::Unreadable> {
                Ok(Self {
                    $($field: portable_record!(@load datum, $field $(, $default)?)),*
                })
            }
        }
    };
    (@load $datum:ident, $field:ident) => {
        $datum.field(stringify!($field))?
    };
    (@load $datum:ident, $field:ident, $default:expr) => {
        $datum.field_or(stringify!($field), Some($default))?
    };
}

/// An enum: its variants without content, those with fields, and those that wrap one value; a field
/// that older releases do not write has a default.
macro_rules! portable_choice {
    (
        $type:ident
        [$($unit:ident),* $(,)?]
        $({ $($variant:ident { $($field:ident $(= $default:expr)?),* $(,)? }),* $(,)? })?
        $(( $($wrapper:ident),* $(,)? ))?
    ) => {
        impl $crate::datum::Portable for $type {
            fn save(&self) -> $crate::datum::Datum {
                use $crate::datum::Datum;
                match self {
                    $(Self::$unit => Datum::name(stringify!($unit)),)*
                    $($(Self::$variant { $($field),* } => Datum::record([
                        ("is", Datum::name(stringify!($variant))),
                        $((stringify!($field), $crate::datum::Portable::save($field))),*
                    ]),)*)?
                    $($(Self::$wrapper(inner) => Datum::record([
                        ("is", Datum::name(stringify!($wrapper))),
                        ("of", $crate::datum::Portable::save(inner)),
                    ]),)*)?
                }
            }

            fn load(
                datum: &$crate::datum::Datum,
            ) -> Result<Self, $crate::datum::Unreadable> {
                match datum.choice()? {
                    $(stringify!($unit) => Ok(Self::$unit),)*
                    $($(stringify!($variant) => Ok(Self::$variant {
                        $($field: $crate::datum::portable_record!(@load datum, $field $(, $default)?)),*
                    }),)*)?
                    $($(stringify!($wrapper) => Ok(Self::$wrapper(datum.field("of")?)),)*)?
                    _ => Err(datum.is_no(concat!("known ", stringify!($type)))),
                }
            }
        }
    };
}

pub(crate) use {portable_choice, portable_record};

macro_rules! portable_number {
    ($($number:ty),*) => {$(
        impl Portable for $number {
            fn save(&self) -> Datum {
                Datum::Number(i128::from(*self))
            }

            fn load(datum: &Datum) -> Result<Self, Unreadable> {
                match datum {
                    Datum::Number(number) => Self::try_from(*number)
                        .map_err(|_| Unreadable::new(format!("{number} is out of range"))),
                    _ => Err(datum.is_no("number")),
                }
            }
        }
    )*};
}

portable_number!(u8, u16, u32, u64, i32, i64);

impl Portable for bool {
    fn save(&self) -> Datum {
        Datum::Flag(*self)
    }

    fn load(datum: &Datum) -> Result<Self, Unreadable> {
        match datum {
            Datum::Flag(flag) => Ok(*flag),
            _ => Err(datum.is_no("flag")),
        }
    }
}

/// In nanoseconds.
impl Portable for Duration {
    fn save(&self) -> Datum {
        Datum::Number(i128::try_from(self.as_nanos()).unwrap_or(i128::MAX))
    }

    fn load(datum: &Datum) -> Result<Self, Unreadable> {
        match datum {
            Datum::Number(nanos) => match u128::try_from(*nanos) {
                Ok(nanos) => Ok(Self::from_nanos_u128(nanos)),
                Err(_) => Err(Unreadable::new("a negative duration")),
            },
            _ => Err(datum.is_no("number")),
        }
    }
}

impl<T: Portable> Portable for Option<T> {
    fn save(&self) -> Datum {
        self.as_ref().map_or(Datum::Nothing, Portable::save)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn load(datum: &Datum) -> Result<Self, Unreadable> {
        match datum {
            Datum::Nothing => Ok(None),
            datum => T::load(datum).map(Some),
        }
    }
}

fn save_all<'a, T: Portable + 'a>(items: impl IntoIterator<Item = &'a T>) -> Datum {
    Datum::List(items.into_iter().map(Portable::save).collect())
}

fn load_all<T: Portable, C: FromIterator<T>>(datum: &Datum) -> Result<C, Unreadable> {
    let Datum::List(items) = datum else {
        return Err(datum.is_no("list"));
    };
    let items = items.iter().enumerate();
    items
        .map(|(at, item)| T::load(item).map_err(|error| error.within(at)))
        .collect()
}

macro_rules! portable_list {
    ($($list:ident $(: $bound:ident)?),*) => {$(
        impl<T: Portable $(+ $bound)?> Portable for $list<T> {
            fn save(&self) -> Datum {
                save_all(self)
            }

            fn load(datum: &Datum) -> Result<Self, Unreadable> {
                load_all(datum)
            }
        }
    )*};
}

portable_list!(Vec, VecDeque, BTreeSet: Ord);

/// A pair is a list of two.
impl<A: Portable, B: Portable> Portable for (A, B) {
    fn save(&self) -> Datum {
        Datum::List(vec![self.0.save(), self.1.save()])
    }

    fn load(datum: &Datum) -> Result<Self, Unreadable> {
        match datum {
            Datum::List(pair) => match &pair[..] {
                [first, second] => Ok((A::load(first)?, B::load(second)?)),
                _ => Err(datum.is_no("pair")),
            },
            _ => Err(datum.is_no("pair")),
        }
    }
}

/// A map is a list of pairs: its keys need not be texts.
impl<K: Portable + Ord, V: Portable> Portable for BTreeMap<K, V> {
    fn save(&self) -> Datum {
        let pairs = self.iter();
        Datum::List(
            pairs
                .map(|(key, value)| Datum::List(vec![key.save(), value.save()]))
                .collect(),
        )
    }

    fn load(datum: &Datum) -> Result<Self, Unreadable> {
        load_all::<(K, V), Self>(datum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Record {
        number: u64,
        maybe: Option<u16>,
        choices: Vec<Choice>,
        map: BTreeMap<u32, bool>,
        added: Duration,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Choice {
        Unit,
        Fields { code: i32 },
        Wraps(bool),
    }

    portable_record!(Record {
        number,
        maybe,
        choices,
        map,
        added = Duration::from_secs(1),
    });

    portable_choice!(Choice [Unit] { Fields { code } } (Wraps));

    fn sample() -> Record {
        Record {
            number: u64::MAX,
            maybe: Some(7),
            choices: vec![
                Choice::Unit,
                Choice::Fields { code: -9 },
                Choice::Wraps(true),
            ],
            map: BTreeMap::from([(1, true), (9, false)]),
            added: Duration::from_nanos(1_500),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        assert_eq!(Record::load(&sample().save()), Ok(sample()));
        let without = Record {
            maybe: None,
            ..sample()
        };
        assert_eq!(Record::load(&without.save()), Ok(without));
    }

    fn changed(change: impl FnOnce(&mut BTreeMap<Cow<'static, str>, Datum>)) -> Datum {
        let mut datum = sample().save();
        if let Datum::Record(fields) = &mut datum {
            change(fields);
        }
        datum
    }

    #[test]
    fn what_another_release_adds_or_lacks_is_no_trouble() {
        let datum = changed(|fields| {
            fields.insert("unheard-of".into(), Datum::Flag(true));
            fields.remove("added");
        });
        let expected = Record {
            added: Duration::from_secs(1),
            ..sample()
        };
        assert_eq!(Record::load(&datum), Ok(expected));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |datum: Datum, expected: &str| {
            let error = Record::load(&datum).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(
            changed(|fields| {
                fields.remove("number");
            }),
            "number: missing",
        );
        check(
            changed(|fields| {
                fields.insert("maybe".into(), Datum::Number(70_000));
            }),
            "maybe: 70000 is out of range",
        );
        check(
            changed(|fields| {
                let list = vec![Datum::name("Unit"), Datum::name("Other")];
                fields.insert("choices".into(), Datum::List(list));
            }),
            "choices.1: a text where a known Choice is expected",
        );
        check(Datum::Flag(true), ": a flag where a record is expected");
    }
}
