//! The units that systemd runs an app by. Only text: nothing is looked up here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where systemd looks for programs by itself.
pub(crate) const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Descriptors that systemd keeps at most; see `listener::keep` for what they are.
const STORE: u32 = 1024;

/// Between the last worker's end and ours.
const MARGIN: Duration = Duration::from_secs(10);

/// An app as a service.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Of the background supervisor, which finds its apps itself.
    pub(crate) is_background: bool,
    pub(crate) name: String,
    /// This program.
    pub(crate) program: String,
    /// What follows `segue run`.
    pub(crate) words: Vec<String>,
    /// Absolute.
    pub(crate) directory: String,
    /// Where node is, if not where systemd looks.
    pub(crate) path: Option<String>,
    /// Of the user's own service manager.
    pub(crate) is_users: bool,
    /// Whose it is if not root's; always `None` for the user's own.
    pub(crate) account: Option<String>,
    /// The control socket, if the command line names one.
    pub(crate) control: Option<String>,
    /// How long a stop takes at most.
    pub(crate) stop: Duration,
    /// Where systemd is to listen in the app's place.
    pub(crate) sockets: Vec<String>,
}

impl Unit {
    pub(crate) fn service_name(&self) -> String {
        format!("{}.service", self.name)
    }

    pub(crate) fn socket_name(&self) -> String {
        format!("{}.socket", self.name)
    }

    /// The text of the service.
    pub(crate) fn service(&self) -> String {
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        line("[Unit]");
        match self.is_background {
            true => line("Description=segue, with the apps that were started by segue start"),
            false => line(&format!("Description={}, by segue", self.name)),
        }
        if !self.is_users {
            line("After=network.target");
        }
        if !self.sockets.is_empty() {
            line(&format!("Requires={0}\nAfter={0}", self.socket_name()));
        }
        line("\n[Service]\nType=notify");
        line("# The supervisor speaks to systemd, and is not the main process.\nNotifyAccess=all");
        line(&format!(
            "WorkingDirectory={}",
            self.directory.replace('%', "%%")
        ));
        let program = quoted(&self.program);
        let words = self.words.iter().map(|word| format!(" {}", quoted(word)));
        let command = match self.is_background {
            true => "start --foreground",
            false => "run",
        };
        line(&format!(
            "ExecStart={program} {command}{}",
            words.collect::<String>()
        ));
        line("# Fails when the reload fails, and ends when the new version serves.");
        match self.is_background {
            true => line(&format!("ExecReload={program} reload\nUMask=0077")),
            false => line(&format!("ExecReload={program} reload {}", self.name)),
        }
        if let Some(control) = self.control_path() {
            line(&format!("Environment={control}"));
        }
        if let Some(path) = &self.path {
            line(&format!(
                "Environment={}",
                quoted(&format!("PATH={path}:{USUAL_PATH}"))
            ));
        }
        line(
            "# Workers finish what is open before they end: none of them gets systemd's own SIGTERM.",
        );
        line("KillMode=mixed");
        line(&format!(
            "TimeoutStopSec={}",
            (self.stop + MARGIN).as_secs_f64().ceil()
        ));
        line(
            "Restart=on-failure\n# A command line that is wrong stays wrong.\nRestartPreventExitStatus=2",
        );
        line("# A worker that the kernel kills for its memory is replaced.\nOOMPolicy=continue");
        line(
            "# Each worker has a cgroup of its own: what it starts ends with it, and its memory can be limited.",
        );
        line("Delegate=yes");
        line("# Listening sockets outlive all processes: clients wait there during a restart.");
        line(&format!("FileDescriptorStoreMax={STORE}"));
        if let Some(account) = &self.account {
            line(&format!("\nUser={account}"));
            if self.control.is_none() {
                line(&format!(
                    "RuntimeDirectory={}\nRuntimeDirectoryMode=0700",
                    self.runtime_directory()
                ));
            }
            line("# New workers boot at a lower priority, and get the usual one back.");
            line("LimitNICE=+0");
            line("# Ports below 1024.");
            line("AmbientCapabilities=CAP_NET_BIND_SERVICE");
            line("CapabilityBoundingSet=CAP_NET_BIND_SERVICE");
            if !self.sockets.is_empty() {
                line(
                    "# Between sockets of another user segue cannot steer: with a TCP socket that root has",
                );
                line("# made, all workers share it, and the change in a reload is gradual.");
            }
        }
        line("\nNoNewPrivileges=yes");
        // What its apps need is not known yet.
        if !self.is_users && !self.is_background {
            for confined in CONFINED {
                line(confined);
            }
            let is_at_home = ["/home", "/root", "/run/user"]
                .iter()
                .any(|home| Path::new(&self.directory).starts_with(home));
            if !is_at_home {
                line("ProtectHome=read-only");
            }
        }
        line(&format!("\n[Install]\nWantedBy={}", self.wanted_by()));
        text
    }

    /// The text of the unit of its sockets, if it has some.
    pub(crate) fn socket(&self) -> Option<String> {
        if self.sockets.is_empty() {
            return None;
        }
        let mut text = format!("[Unit]\nDescription=Sockets of {}\n\n[Socket]\n", self.name);
        for socket in &self.sockets {
            // Writing to a string does not fail.
            let _ = writeln!(text, "ListenStream={}", socket.replace('%', "%%"));
        }
        let _ = write!(
            text,
            "FileDescriptorName={}\n\n[Install]\nWantedBy=sockets.target\n",
            self.name
        );
        Some(text)
    }

    fn wanted_by(&self) -> &'static str {
        match self.is_users {
            true => "default.target",
            false => "multi-user.target",
        }
    }

    /// For `run` and `reload` alike, where they would not find the same place by themselves.
    fn control_path(&self) -> Option<String> {
        let path = match (&self.control, &self.account) {
            (Some(path), _) => path.replace('%', "%%"),
            (None, Some(_)) => format!(
                "%t/{}/{}.sock",
                self.runtime_directory(),
                self.socket_stem()
            ),
            (None, None) => return None,
        };
        let text = format!("SEGUE_CONTROL={path}");
        Some(match text.contains(char::is_whitespace) {
            true => format!("\"{text}\""),
            false => text,
        })
    }

    fn socket_stem(&self) -> &str {
        match self.is_background {
            true => "main",
            false => &self.name,
        }
    }

    fn runtime_directory(&self) -> String {
        format!("segue-{}", self.name)
    }
}

/// What neither segue nor a program on Node needs. MemoryDenyWriteExecute is not among it: Node
/// compiles as it runs. Netlink is how queues are looked at.
const CONFINED: [&str; 8] = [
    "PrivateTmp=yes",
    "ProtectSystem=full",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectClock=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
];

/// A word as it is written in a command line of a unit (systemd.service(5)).
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}

/// Where units are put, for the system or for the user whose directory of settings is `config`.
pub(crate) fn directory(config: Option<&Path>) -> PathBuf {
    match config {
        None => PathBuf::from("/etc/systemd/system"),
        Some(config) => config.join("systemd/user"),
    }
}

/// Whether it is an address as `ListenStream=` has it (systemd.socket(5)).
pub(crate) fn is_address(word: &str) -> bool {
    word.parse::<u16>().is_ok_and(|port| port != 0)
        || word.parse::<std::net::SocketAddr>().is_ok()
        || (word.starts_with(['/', '@']) && word.len() > 1 && !word.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit {
            is_background: false,
            name: "web".to_owned(),
            program: "/usr/local/bin/segue".to_owned(),
            words: ["-w", "4", "server.js"].map(str::to_owned).to_vec(),
            directory: "/srv/100%/current".to_owned(),
            path: None,
            is_users: false,
            account: None,
            control: None,
            stop: Duration::from_millis(30_500),
            sockets: Vec::new(),
        }
    }

    fn check(text: &str, expected: &[&str], unexpected: &[&str]) {
        for line in expected {
            assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
        }
        for word in unexpected {
            assert!(!text.contains(word), "{word}\n{text}");
        }
    }

    #[test]
    fn each_kind_of_service() {
        let roots = unit();
        check(
            &roots.service(),
            &[
                "Type=notify",
                "NotifyAccess=all",
                "WorkingDirectory=/srv/100%%/current",
                "ExecStart=/usr/local/bin/segue run -w 4 server.js",
                "ExecReload=/usr/local/bin/segue reload web",
                "KillMode=mixed",
                "TimeoutStopSec=41",
                "FileDescriptorStoreMax=1024",
                "ProtectHome=read-only",
                "WantedBy=multi-user.target",
            ],
            &["User=", "SEGUE_CONTROL", "Ambient", "Requires", "PATH="],
        );
        assert_eq!(roots.socket(), None);
        let somebodys = Unit {
            account: Some("web".to_owned()),
            directory: "/home/web/app".to_owned(),
            path: Some("/home/web/.nvm/bin".to_owned()),
            sockets: vec!["80".to_owned(), "/run/web.sock".to_owned()],
            ..unit()
        };
        check(
            &somebodys.service(),
            &[
                "User=web",
                "RuntimeDirectory=segue-web",
                "Environment=SEGUE_CONTROL=%t/segue-web/web.sock",
                "Environment=PATH=/home/web/.nvm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE",
                "Requires=web.socket",
            ],
            &["ProtectHome"],
        );
        check(
            &somebodys.socket().unwrap(),
            &[
                "ListenStream=80",
                "ListenStream=/run/web.sock",
                "FileDescriptorName=web",
            ],
            &[],
        );
        let own = Unit {
            is_users: true,
            control: Some("/a b/c".to_owned()),
            ..unit()
        };
        check(
            &own.service(),
            &[
                "WantedBy=default.target",
                "Environment=\"SEGUE_CONTROL=/a b/c\"",
            ],
            &["ProtectSystem", "network", "User="],
        );
    }

    #[test]
    fn words_are_quoted() {
        for (word, expected) in [
            ("--name=web", "--name=web"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "\"100%%\""),
            ("$HOME", "\"$$HOME\""),
            ("say \"hi\\\"", "\"say \\\"hi\\\\\\\"\""),
            (";", "\";\""),
        ] {
            assert_eq!(quoted(word), expected, "{word}");
        }
    }

    #[test]
    fn addresses_are_told_from_mistakes() {
        for word in ["80", "127.0.0.1:80", "[::1]:80", "/run/a.sock", "@a"] {
            assert!(is_address(word), "{word}");
        }
        for word in ["0", "65536", "localhost", "a.sock", "", "/"] {
            assert!(!is_address(word), "{word}");
        }
    }
}
