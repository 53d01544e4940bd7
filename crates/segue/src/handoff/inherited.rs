//! What a predecessor has left: read once, at the start. Whoever takes something up takes it out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use segue_sys::memory;
use segue_wire::handoff::keeper::STATE;
use segue_wire::handoff::{Contents, LogError, log};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// Values and descriptors of a predecessor, by name.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) contents: Contents,
    descriptors: BTreeMap<String, OwnedFd>,
}

/// Why what was left cannot be taken up.
#[derive(Debug, Error)]
pub(crate) enum InheritError {
    #[error("the state of the supervisor cannot be read: {0}")]
    Memory(#[from] io::Error),
    #[error("the state of the supervisor cannot be read: {0}")]
    Log(#[from] LogError),
    #[error("the state of the supervisor cannot be understood: {name}: {what}")]
    Value { name: String, what: String },
}

impl InheritError {
    pub(crate) fn value(name: &str, what: impl ToString) -> Self {
        Self::Value {
            name: name.to_owned(),
            what: what.to_string(),
        }
    }
}

impl Inherited {
    /// What these descriptors are. `None` where none of them is a state: there was nobody before.
    ///
    /// # Errors
    /// The state is not one that this release can read.
    pub(crate) fn of(
        mut descriptors: BTreeMap<String, OwnedFd>,
    ) -> Result<Option<Self>, InheritError> {
        let Some(state) = descriptors.remove(STATE) else {
            return Ok(None);
        };
        let contents = Self::read(&File::from(state))?;
        Ok(Some(Self {
            contents,
            descriptors,
        }))
    }

    /// Values alone.
    pub(crate) fn values_of(contents: Contents) -> Self {
        Self {
            contents,
            descriptors: BTreeMap::new(),
        }
    }

    /// The contents of a journal's file.
    ///
    /// # Errors
    /// It is not one that this release can read.
    pub(crate) fn read(file: &File) -> Result<Contents, InheritError> {
        Ok(log::read(&memory::read_all(file)?)?)
    }

    /// The value of a name, if it has one.
    ///
    /// # Errors
    /// It is of another kind.
    pub(crate) fn value<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, InheritError> {
        let Some(value) = self.contents.values.get(name) else {
            return Ok(None);
        };
        understand(name, value).map(Some)
    }

    /// The value of a name that must have one.
    ///
    /// # Errors
    /// It has none, or one of another kind.
    pub(crate) fn needed<T: DeserializeOwned>(&self, name: &str) -> Result<T, InheritError> {
        self.value(name)?
            .ok_or_else(|| InheritError::value(name, "missing"))
    }

    /// Every value whose name begins so, with the rest of its name.
    ///
    /// # Errors
    /// One is of another kind.
    pub(crate) fn values<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, InheritError> {
        let from = self.contents.values.range(prefix.to_owned()..);
        from.map_while(|(name, value)| Some((name, name.strip_prefix(prefix)?, value)))
            .map(|(name, rest, value)| Ok((rest.to_owned(), understand(name, value)?)))
            .collect()
    }

    /// The items of a list, none if there is no such list.
    pub(crate) fn list(&self, name: &str) -> &[Value] {
        self.contents.lists.get(name).map_or(&[], Vec::as_slice)
    }

    /// The descriptor of this name.
    pub(crate) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    /// Those that nobody has taken.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (&str, &OwnedFd)> {
        let named = self.descriptors.iter();
        named.map(|(name, descriptor)| (name.as_str(), descriptor))
    }

    /// Names of descriptors that nobody has taken.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        self.descriptors.keys().map(String::as_str)
    }
}

fn understand<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, InheritError> {
    T::deserialize(value).map_err(|error| InheritError::value(name, error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inherited() -> Inherited {
        let values = [
            ("web/worker/1", json!(1)),
            ("web/worker/2", json!(2)),
            ("web/x", json!("text")),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        Inherited {
            contents: Contents {
                values: values.into(),
                ..Contents::default()
            },
            descriptors: BTreeMap::new(),
        }
    }

    #[test]
    fn values_are_found_by_name_and_by_the_start_of_it() {
        let inherited = inherited();
        assert_eq!(inherited.value::<String>("web/x").unwrap().unwrap(), "text");
        assert_eq!(inherited.value::<String>("web/y").unwrap(), None);
        let workers = inherited.values::<u32>("web/worker/").unwrap();
        assert_eq!(workers, [("1".to_owned(), 1), ("2".to_owned(), 2)]);
        let error = inherited.needed::<u32>("web/x").unwrap_err();
        assert!(error.to_string().contains("web/x: invalid type"), "{error}");
        let error = inherited.needed::<u32>("web/y").unwrap_err();
        assert!(error.to_string().ends_with("web/y: missing"), "{error}");
    }
}
