//! The bounds of one generation's workers: which user they are, how many files they may open, whether
//! they may gain rights. Found out once, and pinned with their release.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{getegid, geteuid};
use segue_sys::privileges::Identity;
use segue_sys::process::{self, Rlimit};
use serde::{Deserialize, Serialize};

use crate::config::accounts::{Account, Accounts, NoAccount};
use crate::config::confine::Confinement;

/// Variables of our user's session and service: of no use to another user, or a way into it.
const OF_OUR_SESSION: [&str; 15] = [
    "CREDENTIALS_DIRECTORY",
    "DBUS_SESSION_BUS_ADDRESS",
    "MAIL",
    "SSH_AUTH_SOCK",
    "SUDO_COMMAND",
    "SUDO_GID",
    "SUDO_HOME",
    "SUDO_UID",
    "SUDO_USER",
    "XAUTHORITY",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// Why workers cannot be bounded like this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoBounds {
    #[error("cannot run workers as {who}: {source}")]
    Account { who: String, source: NoAccount },
    #[error(
        "cannot run workers as {who}: only root can change the user, and this is user {uid}, group {gid}; start segue as root, or without user and group"
    )]
    NotRoot { who: String, uid: u32, gid: u32 },
    #[error(
        "cannot give workers {wanted} open files: {source}, and the hard limit here is {}; lower limits.nofile (--nofile), or raise the limit (ulimit -Hn, LimitNOFILE= in a systemd unit)",
        hard.map_or("none".to_owned(), |hard| hard.to_string())
    )]
    Descriptors {
        wanted: u64,
        hard: Option<u64>,
        source: io::Error,
    },
}

/// What a generation's workers may, and who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Bounds {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<Account>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nofile: Option<u64>,
    /// False of releases that a segue without these bounds has written down.
    #[serde(default)]
    no_new_privs: bool,
}

impl Bounds {
    /// Looks up users, and whether this process may do it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn of(confinement: &Confinement) -> Result<Self, NoBounds> {
        let account = account(confinement)?;
        if let Some(wanted) = confinement.nofile {
            let refused = |source| NoBounds::Descriptors {
                wanted,
                hard: process::descriptor_limit().maximum,
                source,
            };
            process::may_have_descriptors(wanted).map_err(refused)?;
        }
        Ok(Self {
            account,
            nofile: confinement.nofile,
            no_new_privs: confinement.no_new_privs,
        })
    }

    /// Who workers become, if that is somebody else.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let account = self.account.as_ref().filter(|account| !is_us(account))?;
        Identity::new(account.uid, account.gid, &account.groups)
    }

    /// The limit of open files; `ours` if nothing is said. Both limits: node raises its soft one.
    pub(crate) fn descriptor_limit(&self, ours: Option<Rlimit>) -> Option<Rlimit> {
        match self.nofile {
            Some(count) => Some(Rlimit {
                current: Some(count),
                maximum: Some(count),
            }),
            None => ours,
        }
    }

    pub(crate) const fn no_new_privileges(&self) -> bool {
        self.no_new_privs
    }

    /// Whether a variable of ours is nothing for them.
    pub(super) fn keeps_back(&self, name: &std::ffi::OsStr) -> bool {
        let changes_user = self
            .account
            .as_ref()
            .is_some_and(|account| account.uid != geteuid().as_raw());
        changes_user && OF_OUR_SESSION.iter().any(|own| name == *own)
    }

    /// The variables that say who they are.
    pub(super) fn variables(&self) -> Vec<(OsString, OsString)> {
        let Some(account) = &self.account else {
            return Vec::new();
        };
        let mut variables = vec![("HOME".into(), account.home.clone().into_os_string())];
        if let Some(name) = &account.name {
            variables.push(("LOGNAME".into(), name.into()));
            variables.push(("USER".into(), name.into()));
        }
        variables
    }

    /// Whether they can read a file; by the modes of it and of every directory above it.
    pub(crate) fn can_read(&self, file: &Path) -> bool {
        let Some(account) = self.account.as_ref().filter(|account| !is_us(account)) else {
            return true;
        };
        let grants = |path: &Path, bit: u32| {
            path.metadata().is_ok_and(|found| {
                let shift = if account.uid == found.uid() {
                    6
                } else if account.groups.contains(&found.gid()) {
                    3
                } else {
                    0
                };
                account.uid == 0 || found.mode() >> shift & bit != 0
            })
        };
        grants(file, 4) && file.ancestors().skip(1).all(|above| grants(above, 1))
    }
}

fn account(confinement: &Confinement) -> Result<Option<Account>, NoBounds> {
    let (user, group) = (confinement.user.as_deref(), confinement.group.as_deref());
    let who = match (user, group) {
        (None, None) => return Ok(None),
        (Some(user), None) => format!("user {user}"),
        (None, Some(group)) => format!("group {group}"),
        (Some(user), Some(group)) => format!("user {user}, group {group}"),
    };
    let (uid, gid) = (geteuid(), getegid());
    let found = match Accounts::of_system().find(user, group, uid.as_raw()) {
        Ok(found) => found,
        Err(source) => return Err(NoBounds::Account { who, source }),
    };
    if !uid.is_root() && !is_us(&found) {
        return Err(NoBounds::NotRoot {
            who,
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        });
    }
    Ok(Some(found))
}

fn is_us(account: &Account) -> bool {
    (account.uid, account.gid) == (geteuid().as_raw(), getegid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bounds(uid: u32, groups: &[u32]) -> Bounds {
        Bounds {
            account: Some(Account {
                name: None,
                uid,
                gid: groups[0],
                groups: groups.to_vec(),
                home: "/".into(),
            }),
            ..Bounds::default()
        }
    }

    #[test]
    fn what_another_user_can_read() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let stranger = bounds(uid + 4321, &[gid + 4321]);
        let relative = bounds(uid + 4321, &[gid + 4321, gid]);
        for (directory, mode, by_stranger, by_relative) in [
            (0o755, 0o644, true, true),
            (0o711, 0o644, true, true),
            (0o700, 0o644, false, false),
            (0o755, 0o640, false, true),
            (0o750, 0o644, false, true),
            (0o755, 0o604, true, false),
        ] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(directory)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let seen = (stranger.can_read(&file), relative.can_read(&file));
            assert_eq!(seen, (by_stranger, by_relative), "{directory:o} {mode:o}");
            assert!(Bounds::default().can_read(&file));
        }
        assert!(!stranger.can_read(Path::new("/no/such/file")));
    }

    #[test]
    fn a_limit_that_cannot_be_is_refused() {
        // More than the kernel allows anybody.
        let refused = Bounds::of(&Confinement {
            nofile: Some(1 << 30),
            ..Confinement::none()
        });
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("1073741824 open files"), "{refused}");
        assert!(refused.contains("--nofile"), "{refused}");
        let limit = |nofile| Bounds {
            nofile,
            ..Bounds::default()
        };
        let given = limit(Some(100)).descriptor_limit(None);
        assert_eq!(given.and_then(|limit| limit.maximum), Some(100));
        assert_eq!(limit(None).descriptor_limit(None), None);
    }

    #[test]
    fn only_root_changes_the_user() {
        let other = Confinement {
            user: Some("4321".into()),
            group: Some("4321".into()),
            ..Confinement::none()
        };
        let found = Bounds::of(&other);
        match geteuid().is_root() {
            true => {
                let found = found.unwrap();
                assert!(found.identity().is_some());
                assert!(found.keeps_back("XDG_RUNTIME_DIR".as_ref()));
                assert_eq!(found.variables(), [("HOME".into(), "/".into())]);
            }
            false => assert!(found.unwrap_err().to_string().contains("only root")),
        }
        let us = Bounds::of(&Confinement {
            user: Some(geteuid().as_raw().to_string()),
            group: Some(getegid().as_raw().to_string()),
            ..Confinement::none()
        });
        assert_eq!(us.unwrap().identity(), None);
    }
}
