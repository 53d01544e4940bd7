//! How a worker shows that it works, as written: the rules of `ready`, the HTTP probe, the canary.

use std::time::Duration;

use segue_core::{Canary, ReadyRules, Surge};

use super::quantity;

/// One rule of `ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadyWord {
    Listening,
    Alive,
    Message,
    Notify,
    /// A GET of this path is answered well.
    Http(String),
}

/// What several rules come to; without one, that the worker listens.
pub(crate) fn rules(words: &[ReadyWord]) -> ReadyRules {
    if words.is_empty() {
        return ReadyRules::LISTENING;
    }
    words
        .iter()
        .fold(ReadyRules::ALIVE, |rules, word| match word {
            ReadyWord::Alive => rules,
            ReadyWord::Listening => ReadyRules {
                listening: true,
                ..rules
            },
            ReadyWord::Message => ReadyRules {
                message: true,
                ..rules
            },
            ReadyWord::Notify => ReadyRules {
                notify: true,
                ..rules
            },
            ReadyWord::Http(_) => ReadyRules {
                probe: true,
                ..rules
            },
        })
}

/// The HTTP probe, besides its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeSettings {
    pub(crate) status: Statuses,
    /// From the connection to the end of the answer.
    pub(crate) timeout: Duration,
    /// Between two tries while a worker starts.
    pub(crate) interval: Duration,
    /// So many in a row must be answered well.
    pub(crate) successes: u32,
    /// Beside `Host`, in the order given.
    pub(crate) headers: Vec<(String, String)>,
    /// The Host header, and the name that a TLS server is asked for.
    pub(crate) host: Option<String>,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            status: Statuses(vec![(200, 299)]),
            timeout: Duration::from_secs(5),
            interval: Duration::from_millis(250),
            successes: 1,
            headers: Vec::new(),
            host: None,
        }
    }
}

/// Status codes that count as well: ranges, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statuses(Vec<(u16, u16)>);

impl Statuses {
    pub(crate) fn contain(&self, status: u16) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&status))
    }
}

pub(super) fn ready(written: &str) -> Result<ReadyWord, String> {
    match written {
        "listening" => Ok(ReadyWord::Listening),
        "alive" => Ok(ReadyWord::Alive),
        "message" => Ok(ReadyWord::Message),
        "notify" => Ok(ReadyWord::Notify),
        _ => match written.strip_prefix("http=") {
            Some(path) if is_path(path) => Ok(ReadyWord::Http(path.to_owned())),
            Some(_) => {
                Err("the path of an HTTP probe begins with '/', such as http=/healthz".to_owned())
            }
            None => Err(
                "write listening, alive, message, notify, or http=/path such as http=/healthz"
                    .to_owned(),
            ),
        },
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.parse::<hyper::http::uri::PathAndQuery>().is_ok()
}

pub(super) fn statuses(written: &str) -> Result<Statuses, String> {
    let ranges = written.split(',').map(|range| statuses_of(range.trim()));
    let ranges: Option<Vec<(u16, u16)>> = ranges.collect();
    ranges.map(Statuses).ok_or_else(|| {
        "write status codes such as 200, 2xx, 200-399, or several of them with commas".to_owned()
    })
}

fn statuses_of(range: &str) -> Option<(u16, u16)> {
    let code = |text: &str| -> Option<u16> {
        let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let code = text.parse().ok().filter(|_| is_code)?;
        (100..=599).contains(&code).then_some(code)
    };
    if let Some(class) = range.strip_suffix("xx") {
        let first = code(&format!("{class}00"))?;
        return Some((first, first + 99));
    }
    match range.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (code(first)?, code(last)?);
            (first <= last).then_some((first, last))
        }
        None => code(range).map(|code| (code, code)),
    }
}

/// `Name: value`, as in a request.
pub(super) fn header(written: &str) -> Result<(String, String), String> {
    let usage = "write a header as in a request, such as 'Authorization: Bearer abc'";
    let (name, value) = written.split_once(':').ok_or(usage)?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.parse::<hyper::header::HeaderName>().is_ok();
    if !is_name || value.parse::<hyper::header::HeaderValue>().is_err() {
        return Err(usage.to_owned());
    }
    // Two of one of these would be no request, or another one.
    let is_ours = ["host", "connection", "content-length", "transfer-encoding"]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours));
    if is_ours {
        return Err(format!(
            "{name} is set by segue; the host is given by --probe-host"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn host(written: &str) -> Result<String, String> {
    match written.parse::<hyper::http::uri::Authority>() {
        Ok(host) if !written.contains('@') => Ok(host.as_str().to_owned()),
        _ => Err("write a host name, such as www.example.org".to_owned()),
    }
}

/// `10%:60s` or `10%:60s:1%`.
pub(crate) fn canary(written: &str) -> Result<Canary, String> {
    let usage = "write a share and a duration, such as 10%:60s, or with the errors it may have more than the old release 10%:60s:1%";
    let mut parts = written.split(':');
    let (Some(share), Some(lasts)) = (parts.next(), parts.next()) else {
        return Err(usage.to_owned());
    };
    let percent = percent(share)
        .and_then(|percent| u8::try_from(percent).ok())
        .filter(|percent| (1..=99).contains(percent))
        .ok_or("the share of a canary is from 1% to 99%")?;
    let lasts = match quantity::duration(lasts)? {
        Duration::ZERO => return Err("a canary lasts longer than 0".to_owned()),
        lasts => lasts,
    };
    let max_errors = match parts.next() {
        None => Canary::MAX_ERRORS,
        Some(errors) => per_mille(errors).ok_or(usage)?,
    };
    match parts.next() {
        None => Ok(Canary {
            percent,
            lasts,
            max_errors,
        }),
        Some(_) => Err(usage.to_owned()),
    }
}

pub(super) fn surge(written: &str) -> Result<Surge, String> {
    let found = match written.ends_with('%') {
        true => percent(written)
            .and_then(|percent| u8::try_from(percent).ok())
            .filter(|percent| (1..=100).contains(percent))
            .map(Surge::Percent),
        false => written
            .parse()
            .ok()
            .filter(|workers| *workers > 0)
            .map(Surge::Workers),
    };
    found.ok_or_else(|| "write a share from 1% to 100%, or a number of workers".to_owned())
}

fn percent(written: &str) -> Option<u32> {
    written.trim().strip_suffix('%')?.parse().ok()
}

/// A percentage with at most one digit after the point.
fn per_mille(written: &str) -> Option<u32> {
    let number = written.trim().strip_suffix('%')?;
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let tenth = match tenth.len() {
        1 => tenth.parse::<u32>().ok()?,
        _ => return None,
    };
    let whole: u32 = whole.parse().ok()?;
    let total = whole.checked_mul(10)?.checked_add(tenth)?;
    (total <= 1000).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes() {
        for (written, good, bad) in [
            ("2xx", &[200, 204, 299][..], &[199, 300, 500][..]),
            ("200", &[200], &[201]),
            ("200-399", &[200, 301, 399], &[199, 400]),
            ("200, 301-302,5xx", &[200, 302, 503], &[201, 303, 404]),
        ] {
            let statuses = statuses(written).unwrap();
            for code in good {
                assert!(statuses.contain(*code), "{written} {code}");
            }
            for code in bad {
                assert!(!statuses.contain(*code), "{written} {code}");
            }
        }
        for written in [
            "", "20", "6xx", "0xx", "xx", "300-200", "200-", "2000", "200,,",
        ] {
            assert!(statuses(written).is_err(), "{written}");
        }
    }

    #[test]
    fn rules_and_headers() {
        assert_eq!(
            ready("http=/healthz?full=1"),
            Ok(ReadyWord::Http("/healthz?full=1".into()))
        );
        assert_eq!(ready("notify"), Ok(ReadyWord::Notify));
        for written in ["http=", "http=healthz", "http=/a b", "soon", ""] {
            assert!(ready(written).is_err(), "{written}");
        }
        let bearer = ("Authorization".to_owned(), "Bearer a:b".to_owned());
        assert_eq!(header("Authorization: Bearer a:b"), Ok(bearer));
        for written in ["Authorization", ": x", "a b: x", "Host: x", "A: \u{7}"] {
            assert!(header(written).is_err(), "{written}");
        }
        assert_eq!(host("example.org:8080"), Ok("example.org:8080".into()));
        for written in ["", "a b", "user@example.org"] {
            assert!(host(written).is_err(), "{written}");
        }
    }

    #[test]
    fn canaries_and_surges() {
        let lasts = Duration::from_secs(60);
        for (written, percent, max_errors) in [
            ("10%:60s", 10, 10),
            ("99%:1m:0.5%", 99, 5),
            ("1%:60s:0%", 1, 0),
        ] {
            let expected = Canary {
                percent,
                lasts,
                max_errors,
            };
            assert_eq!(canary(written), Ok(expected), "{written}");
        }
        for written in [
            "",
            "10%",
            "10:60s",
            "0%:60s",
            "100%:60s",
            "10%:0s",
            "10%:60",
            "10%:60s:x",
            "10%:60s:1%:1",
        ] {
            assert!(canary(written).is_err(), "{written}");
        }
        assert_eq!(surge("50%"), Ok(Surge::Percent(50)));
        assert_eq!(surge("2"), Ok(Surge::Workers(2)));
        for written in ["0", "0%", "101%", "-1", "x", ""] {
            assert!(surge(written).is_err(), "{written}");
        }
    }
}
