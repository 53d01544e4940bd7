//! Words, names and paths of the system as JSON: a text, or where they are not UTF-8 their bytes.
//! The modules are for `#[serde(with = …)]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Word(OsString);

impl Word {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(OsStr::from_bytes(bytes).to_owned())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

impl From<&OsStr> for Word {
    fn from(text: &OsStr) -> Self {
        Self(text.to_owned())
    }
}

impl From<Word> for OsString {
    fn from(word: Word) -> Self {
        word.0
    }
}

impl From<Word> for PathBuf {
    fn from(word: Word) -> Self {
        word.0.into()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into(),
            Written::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

/// A word or a path.
pub(crate) mod word {
    use super::{Deserialize, Deserializer, OsStr, OsString, Serialize, Serializer, Word};

    pub(crate) fn serialize<S: Serializer>(
        word: impl AsRef<OsStr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Word::from(word.as_ref()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Ok(Word::deserialize(deserializer)?.0.into())
    }
}

/// A word or a path that may be absent.
pub(crate) mod optional_word {
    use super::{Deserialize, Deserializer, OsStr, OsString, Serialize, Serializer, Word};

    pub(crate) fn serialize<S: Serializer, T: AsRef<OsStr>>(
        word: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let word = word.as_ref().map(|word| Word::from(word.as_ref()));
        word.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let word = Option::<Word>::deserialize(deserializer)?;
        Ok(word.map(|word| word.0.into()))
    }
}

/// Words or paths.
pub(crate) mod words {
    use super::{Deserialize, Deserializer, OsStr, OsString, Serializer, Word};

    pub(crate) fn serialize<S: Serializer, T: AsRef<OsStr>>(
        words: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(words.iter().map(|word| Word::from(word.as_ref())))
    }

    pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        let words = Vec::<Word>::deserialize(deserializer)?;
        Ok(words.into_iter().map(|word| word.0.into()).collect())
    }
}

/// Names with their values, in a list or a map.
pub(crate) mod pairs {
    use super::{Deserialize, Deserializer, OsString, Serializer, Word};

    /// What can be gone through in pairs.
    pub(crate) trait Pairs {
        fn pairs(&self) -> impl Iterator<Item = (&OsString, &OsString)>;
    }

    impl Pairs for Vec<(OsString, OsString)> {
        fn pairs(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
            self.iter().map(|(name, value)| (name, value))
        }
    }

    impl Pairs for std::collections::BTreeMap<OsString, OsString> {
        fn pairs(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
            self.iter()
        }
    }

    pub(crate) fn serialize<S: Serializer>(
        pairs: &impl Pairs,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let word = |word: &OsString| Word::from(word.as_os_str());
        let pairs = pairs.pairs();
        serializer.collect_seq(pairs.map(|(name, value)| (word(name), word(value))))
    }

    pub(crate) fn deserialize<'de, C: FromIterator<(OsString, OsString)>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<C, D::Error> {
        let pairs = Vec::<(Word, Word)>::deserialize(deserializer)?;
        Ok(pairs
            .into_iter()
            .map(|(name, value)| (name.0, value.0))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    struct All {
        #[serde(with = "word")]
        path: PathBuf,
        #[serde(with = "words")]
        list: Vec<OsString>,
        #[serde(with = "pairs")]
        map: BTreeMap<OsString, OsString>,
        #[serde(with = "optional_word", default)]
        perhaps: Option<PathBuf>,
    }

    #[test]
    fn every_word_comes_back() {
        for bytes in [&b"plain"[..], b"", b"\xff\x00x", "gr\u{fc}n".as_bytes()] {
            let word = OsStr::from_bytes(bytes).to_owned();
            let all = All {
                path: word.clone().into(),
                list: vec![word.clone(), "b".into()],
                map: BTreeMap::from([(word.clone(), word.clone())]),
                perhaps: Some(word.into()),
            };
            let json = serde_json::to_string(&all).unwrap();
            assert_eq!(serde_json::from_str::<All>(&json).unwrap(), all, "{json}");
            let none = All {
                perhaps: None,
                ..all
            };
            let json = serde_json::to_string(&none).unwrap();
            assert_eq!(serde_json::from_str::<All>(&json).unwrap(), none, "{json}");
            let short = json.replace(r#","perhaps":null"#, "");
            assert_eq!(
                serde_json::from_str::<All>(&short).unwrap(),
                none,
                "{short}"
            );
        }
    }
}
