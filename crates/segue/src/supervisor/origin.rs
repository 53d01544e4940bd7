//! Who asks: what the kernel says of the other end of a connection, or of a signal's sender, in words.

use std::fs;
use std::fs::File;
use std::io::Read;

use segue_wire::control::Asked;

use crate::control::command::Peer;

/// The most that is read of the list of users.
const LIST: u64 = 1 << 20;

/// The most that is shown of a name.
const LONGEST: usize = 32;

/// By a request.
pub(super) fn of_caller(peer: Peer, command: &str) -> Asked {
    let Peer {
        uid,
        pid,
        is_command,
    } = peer;
    let user = user_of(uid);
    let name = user.clone().unwrap_or_else(|| format!("uid {uid}"));
    let (by, text) = match (is_command, pid) {
        (true, Some(pid)) => ("cli", format!("`segue {command}` by {name} (pid {pid})")),
        (true, None) => ("cli", format!("`segue {command}` by {name}")),
        (false, Some(pid)) => {
            let program =
                program_of(pid).map_or_else(String::new, |program| format!(", {program}"));
            (
                "api",
                format!("the control API, by {name} (pid {pid}{program})"),
            )
        }
        (false, None) => ("api", format!("the control API, by {name}")),
    };
    Asked {
        by: by.to_owned(),
        text,
        uid: Some(uid),
        user,
        pid,
    }
}

/// By a signal; `sender` is a process and its user, where they are known.
pub(super) fn of_signal(signal: &str, sender: Option<(u32, u32)>) -> Asked {
    let blank = Asked {
        by: "signal".to_owned(),
        ..Asked::default()
    };
    let Some((pid, uid)) = sender else {
        return Asked {
            text: format!("{signal}, sent by nobody knows whom"),
            ..blank
        };
    };
    let user = user_of(uid);
    let name = user.clone().unwrap_or_else(|| format!("uid {uid}"));
    let program = program_of(pid).map_or_else(String::new, |program| format!(", {program}"));
    Asked {
        text: format!("{signal} from {name} (pid {pid}{program})"),
        uid: Some(uid),
        user,
        pid: Some(pid),
        ..blank
    }
}

/// What a process calls itself; it may have ended.
fn program_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    plain(name.trim_end())
}

/// A user's name by /etc/passwd. Services that keep users elsewhere are not asked: that may take long.
fn user_of(uid: u32) -> Option<String> {
    let mut text = String::new();
    let file = File::open("/etc/passwd").ok()?;
    file.take(LIST).read_to_string(&mut text).ok()?;
    name_in(&text, uid)
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| plain(name))?
    })
}

/// What can be shown as it is.
fn plain(name: &str) -> Option<String> {
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n# nonsense\nweb:x:1000:1000::/srv:/bin/false\n:x:7:7\n";
        for (uid, name) in [(0, Some("root")), (1000, Some("web")), (7, None), (8, None)] {
            assert_eq!(name_in(passwd, uid).as_deref(), name);
        }
    }

    #[test]
    fn whoever_asks_is_named() {
        let peer = |pid, is_command| Peer {
            uid: 4_000_000_000,
            pid,
            is_command,
        };
        for (asked, by, text) in [
            (
                of_caller(peer(Some(u32::MAX), true), "reload"),
                "cli",
                "`segue reload` by uid 4000000000 (pid 4294967295)",
            ),
            (
                of_caller(peer(Some(u32::MAX), false), "reload"),
                "api",
                "the control API, by uid 4000000000 (pid 4294967295)",
            ),
            (
                of_caller(peer(None, false), "reload"),
                "api",
                "the control API, by uid 4000000000",
            ),
            (
                of_signal("HUP", Some((u32::MAX, 4_000_000_000))),
                "signal",
                "HUP from uid 4000000000 (pid 4294967295)",
            ),
            (
                of_signal("HUP", None),
                "signal",
                "HUP, sent by nobody knows whom",
            ),
        ] {
            assert_eq!((asked.by.as_str(), asked.text.as_str()), (by, text));
        }
        let own = std::process::id();
        let text = of_signal("HUP", Some((own, 4_000_000_000))).text;
        assert!(text.contains(&format!("(pid {own}, ")), "{text}");
    }
}
