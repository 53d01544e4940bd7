//! What workers may do, and as whom, as a user writes it. Each generation has its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::values::text;

/// The smallest limit of open files: node itself needs some twenty.
const LEAST_FILES: u64 = 64;

/// What a worker may do, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Confinement {
    /// A name or a number.
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
    /// Its limit of open files.
    pub(crate) nofile: Option<u64>,
    pub(crate) no_new_privs: bool,
    /// The only places that it may listen at; none: all.
    pub(crate) listen: Vec<ListenAt>,
}

/// A place to listen at, or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum ListenAt {
    /// A TCP port of any host.
    Port(u16),
    Tcp(SocketAddr),
    UdpPort(u16),
    Udp(SocketAddr),
    Path(PathBuf),
    /// A name in the abstract namespace.
    Abstract(String),
}

impl Default for Confinement {
    fn default() -> Self {
        Self {
            no_new_privs: true,
            ..Self::none()
        }
    }
}

impl Confinement {
    /// That of an app that an earlier release has started: nothing was held back from it.
    pub(crate) fn none() -> Self {
        Self {
            user: None,
            group: None,
            nofile: None,
            no_new_privs: false,
            listen: Vec::new(),
        }
    }
}

pub(super) fn account(value: &str) -> Result<String, String> {
    let account = text(value)?;
    match account.contains([':', '/', '\n']) || account.starts_with('-') {
        true => Err("write a name, or a number".to_owned()),
        false => Ok(account),
    }
}

pub(super) fn nofile(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|count| (LEAST_FILES..=1 << 30).contains(count))
        .ok_or_else(|| format!("write a number of at least {LEAST_FILES}"))
}

pub(super) fn listen(text: &str) -> Result<ListenAt, String> {
    let usage = || {
        "write a port, an address with its port such as 127.0.0.1:8080 or [::1]:8080, udp: before one of these, or the absolute path of a socket".to_owned()
    };
    if text.contains('\0') {
        return Err(usage());
    }
    if text.starts_with('/') {
        let path = PathBuf::from(text);
        return match path.file_name() {
            Some(_) => Ok(ListenAt::Path(path)),
            None => Err(usage()),
        };
    }
    if let Some(name) = text.strip_prefix('@').filter(|name| !name.is_empty()) {
        return Ok(ListenAt::Abstract(name.to_owned()));
    }
    let (address, is_udp) = match text.strip_prefix("udp:") {
        Some(address) => (address, true),
        None => (text, false),
    };
    let is_port = !address.is_empty() && address.bytes().all(|b| b.is_ascii_digit());
    match (is_port, is_udp) {
        (true, false) => address.parse().map(ListenAt::Port).map_err(|_| usage()),
        (true, true) => address.parse().map(ListenAt::UdpPort).map_err(|_| usage()),
        (false, false) => address.parse().map(ListenAt::Tcp).map_err(|_| usage()),
        (false, true) => address.parse().map(ListenAt::Udp).map_err(|_| usage()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen_at() {
        for (text, expected) in [
            ("80", ListenAt::Port(80)),
            ("0", ListenAt::Port(0)),
            (
                "127.0.0.1:8080",
                ListenAt::Tcp(([127, 0, 0, 1], 8080).into()),
            ),
            ("[::1]:8080", ListenAt::Tcp("[::1]:8080".parse().unwrap())),
            ("udp:53", ListenAt::UdpPort(53)),
            ("udp:[::]:53", ListenAt::Udp("[::]:53".parse().unwrap())),
            ("/run/x.sock", ListenAt::Path("/run/x.sock".into())),
            ("@name", ListenAt::Abstract("name".into())),
        ] {
            assert_eq!(listen(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "web",
            "65536",
            "-1",
            "localhost:80",
            ":80",
            "127.0.0.1",
            "x.sock",
            "./x.sock",
            "/",
            "/run/..",
            "@",
            "udp:",
            "udp:x",
            "80 ",
            "::1:80x",
        ] {
            assert!(
                listen(text).unwrap_err().contains("127.0.0.1:8080"),
                "{text}"
            );
        }
    }

    #[test]
    fn accounts_and_limits() {
        assert_eq!(account("web"), Ok("web".to_owned()));
        assert_eq!(account("1000"), Ok("1000".to_owned()));
        for text in ["", "a:b", "-1", "../x"] {
            assert!(account(text).is_err(), "{text}");
        }
        assert_eq!(nofile("65536"), Ok(65536));
        for text in ["", "0", "63", "-1", "many", "1.5", "2147483648"] {
            assert!(nofile(text).is_err(), "{text}");
        }
    }
}
