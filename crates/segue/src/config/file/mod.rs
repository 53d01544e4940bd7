//! `segue.toml`: what it says, with the place of everything in it. The table of settings says which
//! keys there are; this reads them, and lays nothing over anything: `file::app` does.

pub(crate) mod app;
mod complaint;
mod expand;
pub(crate) mod print;
pub(crate) mod procfile;
pub(crate) mod schema;
mod shape;
pub(crate) mod verify;
mod walk;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) use complaint::{Complaint, FileError, Refused};

use super::written::Written;

/// The file that is looked for where none is named.
pub(crate) const NAME: &str = "segue.toml";
/// The same for those who come from elsewhere.
pub(crate) const PROCFILE: &str = "Procfile";

/// A file that has been read. It has at least one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// As it is to be opened again: absolute, by the links it was reached by.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// In the order of the file.
    pub(crate) apps: Vec<FileApp>,
    pub(crate) control: Option<String>,
    /// Where metrics are served, if they are.
    pub(crate) metrics: Option<SocketAddr>,
}

/// One table `[app.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileApp {
    pub(crate) name: String,
    /// A script or a program, and what follows it.
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    /// A whole command line instead, as a Procfile has it.
    pub(crate) line: Option<String>,
    pub(crate) settings: Written,
    /// Where the values are.
    pub(crate) spans: BTreeMap<String, Range<usize>>,
}

/// How a variable is looked up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl File {
    /// Reads a file: a Procfile if it is called so, else TOML.
    ///
    /// # Errors
    /// It cannot be read, or everything that is wrong in it.
    pub(crate) fn read(path: &Path, lookup: Lookup<'_>) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text, lookup)
    }

    /// Reads its text.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub(crate) fn parse(path: &Path, text: &str, lookup: Lookup<'_>) -> Result<Self, FileError> {
        let read = match path.file_name().is_some_and(|name| name == PROCFILE) {
            true => procfile::parse(path, text),
            false => walk::parse(path, text, lookup),
        };
        read.map_err(|complaints| {
            FileError::Refused(Box::new(Refused::new(path, text, complaints)))
        })
    }

    /// The file that a directory has, if it has one.
    pub(crate) fn of_directory(directory: &Path) -> Option<PathBuf> {
        let paths = [NAME, PROCFILE].map(|name| directory.join(name));
        paths.into_iter().find(|path| path.is_file())
    }

    /// The directory that it stands in.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The app of that name, or the only one.
    ///
    /// # Errors
    /// There is none of that name, or there are several.
    pub(crate) fn app(&self, name: Option<&str>) -> Result<&FileApp, FileError> {
        let apps = || {
            let names = self.apps.iter().map(|app| app.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        match (name, self.apps.as_slice()) {
            (None, [only]) => Ok(only),
            (None, all) => Err(FileError::Several {
                path: self.path.clone(),
                apps: apps(),
                first: all.first().map(|app| app.name.clone()).unwrap_or_default(),
            }),
            (Some(name), all) => {
                all.iter()
                    .find(|app| app.name == name)
                    .ok_or_else(|| FileError::NoSuchApp {
                        path: self.path.clone(),
                        app: name.to_owned(),
                        apps: apps(),
                    })
            }
        }
    }
}
