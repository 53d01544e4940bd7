//! The way that a path takes through links: what could be turned to lead it elsewhere.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Links in a path, as many as the kernel follows.
const LINKS: usize = 40;

/// The way to a path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Approach {
    /// Links on it, and the first part that is not there: each a directory without links, and the name in it.
    pub(super) turns: Vec<(PathBuf, OsString)>,
    /// Where it ends, if it does.
    pub(super) real: Option<PathBuf>,
}

impl Approach {
    pub(super) fn of(path: &Path) -> Self {
        let mut way = Self::default();
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = parts(path).collect();
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            match fs::read_link(&next) {
                Ok(target) if way.turns.len() < LINKS => {
                    way.turns.push((at.clone(), part));
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                Ok(_) => return way,
                // It is no link.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => at = next,
                Err(_) => {
                    way.turns.push((at, part));
                    return way;
                }
            }
        }
        way.real = Some(at);
        way
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
