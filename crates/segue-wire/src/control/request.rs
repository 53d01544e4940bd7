//! From a method, a path and a body to what is asked. Total: any bytes give a request or a problem.

use serde::Deserialize;
use serde_json::Value;

use super::body::{ApplyBody, CanaryWish, ReloadBody, ScaleBody, StartBody, UpgradeBody, Wait};
use super::problem::{Problem, ProblemCode};

/// The longest request body that is read, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// Ours; all crates have one.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Longest app name that a path may carry, in bytes after decoding.
const MAX_NAME: usize = 256;

/// One request of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `POST /v1/apps`
    Start { definition: Value },
    /// `POST /v1/apps/{app}/start`
    StartAgain { app: String },
    /// `DELETE /v1/apps/{app}`
    Delete { app: String },
    /// `POST /v1/apply`
    Apply(ApplyBody),
    /// `GET /v1/status`
    Status,
    /// `GET /v1/metrics`
    Metrics,
    /// `GET /v1/openapi.json`
    OpenApi,
    /// `POST /v1/apps/{app}/reload`, or `POST /v1/reload` for every app.
    Reload {
        app: Option<String>,
        wait: Wait,
        canary: CanaryWish,
    },
    /// `POST /v1/apps/{app}/promote`
    Promote { app: String },
    /// `POST /v1/apps/{app}/rollback`
    Rollback { app: String },
    /// `POST /v1/apps/{app}/restart`
    Restart { app: String },
    /// `GET /v1/apps/{app}/why`
    Why { app: String },
    /// `POST /v1/apps/{app}/scale`
    Scale { app: String, scale: ScaleBody },
    /// `POST /v1/logs/reopen`
    ReopenLogs,
    /// `POST /v1/apps/{app}/stop`
    Stop { app: String },
    /// `POST /v1/shutdown`
    Shutdown,
    /// `POST /v1/upgrade`
    Upgrade { binary: Option<String> },
    /// `GET /v1/events`
    Events,
}

/// Reads one request. `path` may carry a query, which is ignored.
///
/// # Errors
/// The problem to answer with: no such path, wrong method, or a body that cannot be read.
pub fn parse(method: &str, path: &str, body: &[u8]) -> Result<Request, Problem> {
    let path = path.split('?').next().unwrap_or_default();
    let mut segments = path.split('/').skip(1);
    if !path.starts_with('/') || segments.next() != Some("v1") {
        return Err(no_such_path(path));
    }
    let segments: Vec<&str> = segments.take(4).collect();
    match segments.as_slice() {
        ["status"] => only("GET", method).map(|()| Request::Status),
        ["metrics"] => only("GET", method).map(|()| Request::Metrics),
        ["openapi.json"] => only("GET", method).map(|()| Request::OpenApi),
        ["events"] => only("GET", method).map(|()| Request::Events),
        ["shutdown"] => only("POST", method).map(|()| Request::Shutdown),
        ["logs", "reopen"] => only("POST", method).map(|()| Request::ReopenLogs),
        ["upgrade"] => {
            only("POST", method)?;
            let UpgradeBody { binary } = decode_or_default(body)?;
            match binary {
                Some(binary) if !binary.starts_with('/') => {
                    Err(bad("the path of the binary must be absolute"))
                }
                binary => Ok(Request::Upgrade { binary }),
            }
        }
        ["reload"] => {
            only("POST", method)?;
            let ReloadBody { wait, canary } = decode_or_default(body)?;
            Ok(Request::Reload {
                app: None,
                wait,
                canary,
            })
        }
        ["apply"] => {
            only("POST", method)?;
            let body: ApplyBody = decode(body)?;
            match body.source.starts_with('/') {
                true => Ok(Request::Apply(body)),
                false => Err(bad("the path of the file must be absolute")),
            }
        }
        ["apps"] => {
            only("POST", method)?;
            let StartBody { definition } = decode(body)?;
            Ok(Request::Start { definition })
        }
        ["apps", app] => {
            only("DELETE", method)?;
            let app = app_name(app)?;
            Ok(Request::Delete { app })
        }
        ["apps", app, "why"] => {
            only("GET", method)?;
            let app = app_name(app)?;
            Ok(Request::Why { app })
        }
        [
            "apps",
            app,
            verb @ ("reload" | "scale" | "stop" | "promote" | "rollback" | "restart" | "start"),
        ] => {
            only("POST", method)?;
            let app = app_name(app)?;
            match *verb {
                "reload" => {
                    let ReloadBody { wait, canary } = decode_or_default(body)?;
                    Ok(Request::Reload {
                        app: Some(app),
                        wait,
                        canary,
                    })
                }
                "promote" => Ok(Request::Promote { app }),
                "rollback" => Ok(Request::Rollback { app }),
                "restart" => Ok(Request::Restart { app }),
                "start" => Ok(Request::StartAgain { app }),
                "scale" => {
                    let scale = decode_scale(body)?;
                    Ok(Request::Scale { app, scale })
                }
                _ => Ok(Request::Stop { app }),
            }
        }
        _ => Err(no_such_path(path)),
    }
}

/// The path of one app's verb.
#[must_use]
pub fn apps_path(app: &str, verb: &str) -> String {
    format!("/v1/apps/{}/{verb}", percent_encode(app))
}

/// Writes a name as one path segment.
#[must_use]
pub fn percent_encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Reads a path segment; `None` where it is not percent-encoded UTF-8.
#[must_use]
pub fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

fn app_name(segment: &str) -> Result<String, Problem> {
    percent_decode(segment)
        .filter(|name| !name.is_empty() && name.len() <= MAX_NAME)
        .ok_or_else(|| {
            bad("the app's name in the path is not percent-encoded UTF-8 of 1 to 256 bytes")
        })
}

fn only(allowed: &str, method: &str) -> Result<(), Problem> {
    if method == allowed {
        return Ok(());
    }
    Err(Problem::new(
        ProblemCode::MethodNotAllowed,
        "this path is not for this method",
        format!("use {allowed}"),
    ))
}

fn decode_or_default<T>(body: &[u8]) -> Result<T, Problem>
where
    T: Default + serde::de::DeserializeOwned,
{
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| bad(format!("the body cannot be read: {error}")))
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| bad(format!("the body cannot be read: {error}")))
}

// A plain struct first: an externally tagged enum would refuse unknown fields beside its own.
fn decode_scale(body: &[u8]) -> Result<ScaleBody, Problem> {
    #[derive(Deserialize)]
    struct Fields {
        to: Option<u32>,
        by: Option<i32>,
    }
    let fields: Fields = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body cannot be read: {error}")))?;
    match (fields.to, fields.by) {
        (Some(to), None) => Ok(ScaleBody::To(to)),
        (None, Some(by)) => Ok(ScaleBody::By(by)),
        _ => Err(bad("the body must hold either \"to\" or \"by\"")),
    }
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::new(
        ProblemCode::BadRequest,
        message,
        "see the control protocol in the manual",
    )
}

fn no_such_path(path: &str) -> Problem {
    let shown: String = path.chars().take(80).collect();
    Problem::new(
        ProblemCode::NoSuchPath,
        format!("this supervisor is release {RELEASE} and does not know the path {shown:?}"),
        "where a newer release knows it, segue upgrade brings the supervisor to that one",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::body::Canary;
    use super::*;

    fn check(method: &str, path: &str, body: &str, expected: Result<Request, ProblemCode>) {
        let parsed = parse(method, path, body.as_bytes()).map_err(|problem| problem.code);
        assert_eq!(parsed, expected, "{method} {path} {body}");
    }

    #[test]
    fn requests() {
        let web = || "web".to_owned();
        check("GET", "/v1/status", "", Ok(Request::Status));
        check("GET", "/v1/status?pretty", "", Ok(Request::Status));
        check("GET", "/v1/metrics", "", Ok(Request::Metrics));
        check("GET", "/v1/openapi.json", "", Ok(Request::OpenApi));
        check("GET", "/v1/events", "", Ok(Request::Events));
        check("POST", "/v1/shutdown", "", Ok(Request::Shutdown));
        check("POST", "/v1/logs/reopen", "", Ok(Request::ReopenLogs));
        check(
            "POST",
            "/v1/apps/web/stop",
            "",
            Ok(Request::Stop { app: web() }),
        );
        let all = Request::Reload {
            app: None,
            wait: Wait::Committed,
            canary: CanaryWish::AsSet,
        };
        check("POST", "/v1/reload", "", Ok(all));
        for (verb, request) in [
            ("promote", Request::Promote { app: web() }),
            ("rollback", Request::Rollback { app: web() }),
            ("restart", Request::Restart { app: web() }),
        ] {
            check("POST", &apps_path("web", verb), "", Ok(request));
        }
        check(
            "GET",
            "/v1/apps/web/why",
            "",
            Ok(Request::Why { app: web() }),
        );
        for (body, binary) in [
            ("", Ok(None)),
            ("{\"binary\":\"/b/segue\"}", Ok(Some("/b/segue".to_owned()))),
            ("{\"binary\":\"segue\"}", Err(ProblemCode::BadRequest)),
        ] {
            let expected = binary.map(|binary| Request::Upgrade { binary });
            check("POST", "/v1/upgrade", body, expected);
        }
        for (body, wait) in [
            ("", Wait::Committed),
            ("{}", Wait::Committed),
            ("{\"wait\":\"drained\"}", Wait::Drained),
            ("{\"wait\":\"none\",\"later\":[1]}", Wait::None),
        ] {
            let reload = Request::Reload {
                app: Some(web()),
                wait,
                canary: CanaryWish::AsSet,
            };
            check("POST", "/v1/apps/web/reload", body, Ok(reload));
        }
        let ten = Canary {
            percent: 10,
            for_ms: 60_000,
            max_errors_per_mille: 10,
        };
        let strict = Canary {
            max_errors_per_mille: 1,
            ..ten
        };
        for (canary, wish) in [
            ("null", Ok(CanaryWish::AsSet)),
            ("\"off\"", Ok(CanaryWish::Off)),
            (
                "{\"percent\":10,\"for_ms\":60000,\"later\":1}",
                Ok(CanaryWish::With(ten)),
            ),
            (
                "{\"percent\":10,\"for_ms\":60000,\"max_errors_per_mille\":1}",
                Ok(CanaryWish::With(strict)),
            ),
            ("\"on\"", Err(ProblemCode::BadRequest)),
            ("7", Err(ProblemCode::BadRequest)),
            (
                "{\"percent\":0,\"for_ms\":60000}",
                Err(ProblemCode::BadRequest),
            ),
            (
                "{\"percent\":100,\"for_ms\":60000}",
                Err(ProblemCode::BadRequest),
            ),
            (
                "{\"percent\":10,\"for_ms\":0}",
                Err(ProblemCode::BadRequest),
            ),
            (
                "{\"percent\":10,\"for_ms\":1,\"max_errors_per_mille\":1001}",
                Err(ProblemCode::BadRequest),
            ),
        ] {
            let expected = wish.map(|canary| Request::Reload {
                app: None,
                wait: Wait::Committed,
                canary,
            });
            let body = format!("{{\"canary\":{canary}}}");
            check("POST", "/v1/reload", &body, expected);
            if let Ok(canary) = wish {
                let body = ReloadBody {
                    wait: Wait::None,
                    canary,
                };
                let text = serde_json::to_string(&body).unwrap();
                assert_eq!(serde_json::from_str::<ReloadBody>(&text).unwrap(), body);
            }
        }
        for (body, scale) in [
            ("{\"to\":4}", ScaleBody::To(4)),
            ("{\"by\":-2,\"later\":null}", ScaleBody::By(-2)),
        ] {
            check(
                "POST",
                "/v1/apps/web/scale",
                body,
                Ok(Request::Scale { app: web(), scale }),
            );
        }
        let scoped = Request::Stop {
            app: "@shop/web é".to_owned(),
        };
        check("POST", &apps_path("@shop/web é", "stop"), "", Ok(scoped));
    }

    #[test]
    fn refusals() {
        for path in ["", "/", "v1/status", "/v2/status", "/v1", "/v1/status/x"] {
            check("GET", path, "", Err(ProblemCode::NoSuchPath));
        }
        check("POST", "/v1/status", "", Err(ProblemCode::MethodNotAllowed));
        check(
            "GET",
            "/v1/apps/web",
            "",
            Err(ProblemCode::MethodNotAllowed),
        );
        check("POST", "/v1/apps", "", Err(ProblemCode::BadRequest));
        let relative = r#"{"source":"segue.toml"}"#;
        check("POST", "/v1/apply", relative, Err(ProblemCode::BadRequest));
        check(
            "GET",
            "/v1/apps/web/reload",
            "",
            Err(ProblemCode::MethodNotAllowed),
        );
        for path in [
            "/v1/apps//stop",
            "/v1/apps/%/stop",
            "/v1/apps/%ff/stop",
            "/v1/apps/%zz/stop",
        ] {
            check("POST", path, "", Err(ProblemCode::BadRequest));
        }
        for body in [
            "",
            "{}",
            "{\"to\":1,\"by\":1}",
            "{\"to\":-1}",
            "{\"to\":\"3\"}",
            "[",
            "4",
        ] {
            check(
                "POST",
                "/v1/apps/web/scale",
                body,
                Err(ProblemCode::BadRequest),
            );
        }
        check(
            "POST",
            "/v1/reload",
            "{\"wait\":\"soon\"}",
            Err(ProblemCode::BadRequest),
        );
    }

    #[test]
    fn a_path_of_a_newer_release_is_refused_with_ours() {
        let problem = parse("POST", "/v1/apps/web/teleport", b"{}").unwrap_err();
        assert_eq!(
            problem.message,
            format!(
                "this supervisor is release {RELEASE} and does not know the path \"/v1/apps/web/teleport\""
            )
        );
        assert!(problem.next.contains("segue upgrade"));
    }

    #[test]
    fn scale_bodies_are_written_as_they_are_read() {
        for scale in [ScaleBody::To(3), ScaleBody::By(-1)] {
            let body = serde_json::to_vec(&scale).unwrap();
            assert_eq!(decode_scale(&body), Ok(scale));
        }
    }

    proptest! {
        #[test]
        fn names_survive_the_path(name in "\\PC{1,60}") {
            prop_assert_eq!(percent_decode(&percent_encode(&name)), Some(name));
        }

        #[test]
        fn any_bytes_are_answered(method in "[A-Z]{0,7}", path in "\\PC{0,80}", body: Vec<u8>) {
            let _ = parse(&method, &path, &body);
        }
    }
}
