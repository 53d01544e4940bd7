//! Users and groups, by /etc/passwd and /etc/group alone (passwd(5), group(5)). Other directories of
//! users need libraries of the system that may ask a network; their users can be given by numbers.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::handoff::text::word;

/// A user that workers run as.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Account {
    /// None for a number that has no name.
    pub(crate) name: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Every group, its own first.
    pub(crate) groups: Vec<u32>,
    #[serde(with = "word")]
    pub(crate) home: PathBuf,
}

/// Why nobody is meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAccount {
    #[error("there is no {what} {name} in {}; check the name, or write a number", file.display())]
    Unknown {
        what: &'static str,
        name: String,
        file: PathBuf,
    },
    #[error(
        "the user {0} is not in /etc/passwd, so nobody knows its group; give one too, with --group"
    )]
    NoGroup(u32),
    #[error("{0} is no number of a user or group")]
    Number(u32),
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        file: PathBuf,
        source: std::io::Error,
    },
}

/// The two files.
#[derive(Debug)]
pub(crate) struct Accounts {
    passwd: PathBuf,
    group: PathBuf,
}

impl Accounts {
    /// Those of this system.
    pub(crate) fn of_system() -> Self {
        Self::below(Path::new("/etc"))
    }

    fn below(directory: &Path) -> Self {
        Self {
            passwd: directory.join("passwd"),
            group: directory.join("group"),
        }
    }

    /// The user and its groups. Without a user it is `present`, in that group and no other.
    ///
    /// # Errors
    /// There is no such user or group.
    pub(crate) fn find(
        &self,
        user: Option<&str>,
        group: Option<&str>,
        present: u32,
    ) -> Result<Account, NoAccount> {
        let passwd = read(&self.passwd)?;
        let known = match user {
            Some(user) => {
                users(&passwd).find(|known| known.name == user || is_number(user, known.uid))
            }
            None => users(&passwd).find(|known| known.uid == present),
        };
        let uid = match (&known, user) {
            (Some(known), _) => known.uid,
            (None, None) => present,
            (None, Some(user)) => number(user).ok_or_else(|| NoAccount::Unknown {
                what: "user",
                name: user.to_owned(),
                file: self.passwd.clone(),
            })?,
        };
        let listed = read(&self.group)?;
        let gid = match (group, &known) {
            (Some(group), _) => self.group_number(&listed, group)?,
            (None, Some(known)) => known.gid,
            (None, None) => return Err(NoAccount::NoGroup(uid)),
        };
        let mut all = vec![gid];
        if let Some(known) = known.as_ref().filter(|_| user.is_some()) {
            let own =
                groups(&listed).filter(|group| group.members.split(',').any(|it| it == known.name));
            all.extend(own.map(|group| group.gid));
            all.push(known.gid);
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|gid| seen.insert(*gid));
        if let Some(nobody) = [uid].iter().chain(&all).find(|id| **id == u32::MAX) {
            return Err(NoAccount::Number(*nobody));
        }
        Ok(Account {
            name: known.as_ref().map(|known| known.name.to_owned()),
            uid,
            gid,
            groups: all,
            home: match &known {
                Some(known) if known.home.starts_with('/') => known.home.into(),
                _ => "/".into(),
            },
        })
    }

    fn group_number(&self, listed: &str, group: &str) -> Result<u32, NoAccount> {
        let known = groups(listed).find(|known| known.name == group);
        known
            .map(|known| known.gid)
            .or_else(|| number(group))
            .ok_or_else(|| NoAccount::Unknown {
                what: "group",
                name: group.to_owned(),
                file: self.group.clone(),
            })
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn read(file: &Path) -> Result<String, NoAccount> {
    let bytes = fs::read(file).map_err(|source| NoAccount::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    // Comments of users may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines that are none are passed over, as the system does.
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| is_name(name))?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1)?;
        Some(User {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(listed: &str) -> impl Iterator<Item = Group<'_>> {
    listed.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| is_name(name))?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default().trim();
        Some(Group { name, gid, members })
    })
}

/// Lines that begin like this are comments, or of NIS.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['#', '+', '-'])
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

fn is_number(text: &str, uid: u32) -> bool {
    number(text) == Some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# web:x:1:1::/:\n+@nis\n\nbroken:x:y\n\
                          web:x:33:44:Web, \u{e4}:/var/www:/usr/sbin/nologin\nodd:x:34:44::relative:\n";
    const GROUP: &str =
        "root:x:0:\nwww:x:44:\ntls:x:55:other,web\nlogs:x:56:web\nnone:x:57:webb,\n";

    fn check(user: Option<&str>, group: Option<&str>) -> Result<Account, String> {
        let etc = tempfile::tempdir().unwrap();
        fs::write(etc.path().join("passwd"), PASSWD).unwrap();
        fs::write(etc.path().join("group"), GROUP).unwrap();
        let found = Accounts::below(etc.path()).find(user, group, 0);
        found.map_err(|error| error.to_string())
    }

    #[test]
    fn users_with_their_groups() {
        let web = Account {
            name: Some("web".into()),
            uid: 33,
            gid: 44,
            groups: vec![44, 55, 56],
            home: "/var/www".into(),
        };
        assert_eq!(check(Some("web"), None), Ok(web.clone()));
        assert_eq!(check(Some("33"), None), Ok(web.clone()));
        let other_group = Account {
            gid: 56,
            groups: vec![56, 55, 44],
            ..web
        };
        assert_eq!(check(Some("web"), Some("logs")), Ok(other_group));
        let odd = check(Some("odd"), None).unwrap();
        assert_eq!((odd.home, odd.groups), (PathBuf::from("/"), vec![44]));
    }

    #[test]
    fn numbers_and_groups_alone() {
        let unnamed = check(Some("4321"), Some("99")).unwrap();
        assert_eq!(
            (unnamed.name, unnamed.uid, unnamed.groups),
            (None, 4321, vec![99])
        );
        let group_only = check(None, Some("www")).unwrap();
        assert_eq!(
            (group_only.uid, group_only.gid, group_only.groups),
            (0, 44, vec![44])
        );
    }

    #[test]
    fn nobody() {
        for (user, group, why) in [
            (Some("wbe"), None, "there is no user wbe in"),
            (Some("#"), None, "there is no user #"),
            (Some("web"), Some("wwww"), "there is no group wwww in"),
            (Some("4321"), None, "--group"),
            (Some("4294967295"), Some("1"), "no number of a user"),
            (Some("1"), Some("4294967295"), "no number of a user"),
        ] {
            let refused = check(user, group).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
