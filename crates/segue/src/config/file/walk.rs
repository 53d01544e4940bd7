//! From the tree of a TOML document to apps. It goes on after something wrong, so that everything
//! that is wrong is said at once.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expand::{NotExpanded, expand};
use super::shape::{ARGS, COMMAND, SUPERVISOR, Shape, is_table, nearest, shape, suggestion};
use super::{Complaint, File, FileApp, Lookup};
use crate::config::keys::Key;
use crate::config::settings::Odd;
use crate::config::values;
use crate::config::written::key;

type Value<'i> = Spanned<DeValue<'i>>;

/// Reads a document.
///
/// # Errors
/// Everything that is wrong in it.
pub(super) fn parse(path: &Path, text: &str, lookup: Lookup<'_>) -> Result<File, Vec<Complaint>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What follows from half a document would only confuse.
        let complaints = errors.iter().map(|error| Complaint {
            what: format!("this is not valid TOML: {}", error.message().trim_end()),
            span: error.span().unwrap_or_default(),
            help: String::new(),
        });
        return Err(complaints.collect());
    }
    let mut walk = Walk {
        lookup,
        complaints: Vec::new(),
    };
    let file = walk.document(path, text, root.get_ref());
    match walk.complaints.is_empty() {
        true => Ok(file),
        false => Err(walk.complaints),
    }
}

struct Walk<'a> {
    lookup: Lookup<'a>,
    complaints: Vec<Complaint>,
}

impl Walk<'_> {
    fn complain(&mut self, span: Range<usize>, what: impl Into<String>, help: impl Into<String>) {
        self.complaints.push(Complaint {
            what: what.into(),
            span,
            help: help.into(),
        });
    }

    fn document(&mut self, path: &Path, text: &str, root: &DeTable<'_>) -> File {
        let mut apps: Vec<(usize, FileApp)> = Vec::new();
        let mut control = None;
        let mut metrics = None;
        for (name, value) in root {
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("app", DeValue::Table(tables)) => {
                    for (name, value) in tables {
                        let app = self.app(name, value);
                        apps.push((name.span().start, app));
                    }
                }
                ("supervisor", DeValue::Table(table)) => {
                    (control, metrics) = self.supervisor(table);
                }
                (name @ ("app" | "supervisor"), _) => {
                    let help = match name {
                        "app" => "write a table for each app: [app.web]",
                        _ => "write a table: [supervisor]",
                    };
                    self.complain(value.span(), format!("`{name}` is a table"), help);
                }
                (unknown, _) => {
                    let help = match nearest(unknown, ["app", "supervisor"]) {
                        Some("app") => "an app stands in [app.NAME], such as [app.web]",
                        Some(_) => "did you mean [supervisor]?",
                        None => {
                            "there are [app.NAME] and [supervisor]; the keys of an app stand in its table"
                        }
                    };
                    self.complain(name.span(), format!("unknown key `{unknown}`"), help);
                }
            }
        }
        if apps.is_empty() && self.complaints.is_empty() {
            let help = "write a table for it: [app.web], and in it command = \"server.js\"";
            self.complain(0..0, "there is no app in this file", help);
        }
        apps.sort_by_key(|(at, _)| *at);
        File {
            path: path.to_owned(),
            text: text.to_owned(),
            apps: apps.into_iter().map(|(_, app)| app).collect(),
            control,
            metrics,
        }
    }

    /// The place of the control socket, and the address of the metrics.
    fn supervisor(&mut self, table: &DeTable<'_>) -> (Option<String>, Option<SocketAddr>) {
        let mut control = None;
        let mut metrics = None;
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "control" => control = self.text("supervisor.control", value),
                "metrics" => {
                    let written = self.text("supervisor.metrics", value);
                    let address = written.map(|written| values::address(&written));
                    match address {
                        Some(Ok(address)) => metrics = Some(address),
                        Some(Err(why)) => {
                            let what = "`supervisor.metrics` is no address";
                            self.complain(value.span(), what, why);
                        }
                        None => {}
                    }
                }
                unknown => {
                    let help = match nearest(unknown, SUPERVISOR) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => format!("there are {}", SUPERVISOR.join(", ")),
                    };
                    let what = format!("unknown key `{unknown}` in [supervisor]");
                    self.complain(name.span(), what, help);
                }
            }
        }
        (control, metrics)
    }

    fn app(&mut self, name: &Spanned<std::borrow::Cow<'_, str>>, value: &Value<'_>) -> FileApp {
        let mut app = FileApp {
            name: name.get_ref().clone().into_owned(),
            ..FileApp::default()
        };
        if let Err(why) = values::name(&app.name) {
            let what = format!("`{}` cannot be the name of an app", app.name);
            self.complain(name.span(), what, why);
        }
        let Some(table) = value.get_ref().as_table() else {
            let help = format!("write a table for each app: [app.{}]", app.name);
            self.complain(value.span(), "an app is a table", help);
            return app;
        };
        let before = self.complaints.len();
        self.table(&mut app, "", table);
        if app.command.is_empty() && !app.spans.contains_key(COMMAND) {
            let what = format!("[app.{}] has no command", app.name);
            let help = "write which script or program it runs: command = \"server.js\"";
            self.complain(name.span(), what, help);
        }
        if self.complaints.len() == before {
            self.combination(&app);
        }
        app
    }

    /// Values that are good one by one.
    fn combination(&mut self, app: &FileApp) {
        // Each has been set on its own.
        let odd = app
            .settings
            .settings()
            .ok()
            .and_then(|all| all.check().err());
        if let Some(odd) = odd {
            let span = app.spans.get(odd.key()).cloned().unwrap_or_default();
            let (what, help) = in_file(&odd);
            self.complain(span, what, help);
        }
    }

    fn table(&mut self, app: &mut FileApp, within: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full = format!("{within}{}", name.get_ref());
            if within.is_empty() && full == COMMAND {
                if let Some(command) = self.text(&full, value) {
                    if command.is_empty() {
                        let help = "write which script or program it runs: command = \"server.js\"";
                        self.complain(value.span(), "the command is empty", help);
                    }
                    app.command = command;
                }
                app.spans.insert(full, value.span());
            } else if within.is_empty() && full == ARGS {
                app.args = self.texts(&full, value);
                app.spans.insert(full, value.span());
            } else if let Some(key) = key(&full).filter(|key| key.name != "name") {
                app.spans.insert(full, value.span());
                self.setting(app, key, value);
            } else if is_table(&full) {
                match value.get_ref().as_table() {
                    Some(inner) => self.table(app, &format!("{full}."), inner),
                    None => {
                        let what = format!("`{full}` is a table");
                        let help = format!("write [app.{}.{full}], and its keys below", app.name);
                        self.complain(value.span(), what, help);
                    }
                }
            } else {
                let place = match within.strip_suffix('.') {
                    Some(within) => format!("[app.{}.{within}]", app.name),
                    None => format!("[app.{}]", app.name),
                };
                let what = format!("unknown key `{}` in {place}", name.get_ref());
                let help = suggestion(&app.name, within, name.get_ref());
                self.complain(name.span(), what, help);
            }
        }
    }

    fn setting(&mut self, app: &mut FileApp, key: &Key, value: &Value<'_>) {
        match (shape(key.name), value.get_ref()) {
            (Shape::Text | Shape::Texts | Shape::Request, DeValue::String(_))
            | (Shape::Number | Shape::Amount, DeValue::String(_) | DeValue::Integer(_))
            | (Shape::Switch | Shape::Watch, DeValue::String(_) | DeValue::Boolean(_))
            | (
                Shape::Ready | Shape::Canary | Shape::Intensity | Shape::Headers,
                DeValue::String(_),
            ) => self.scalar(app, key, value),
            (Shape::Texts | Shape::Headers | Shape::Ready | Shape::Watch, DeValue::Array(list)) => {
                for value in list {
                    match (shape(key.name), value.get_ref()) {
                        (Shape::Ready, DeValue::Table(table)) => {
                            self.probe(app, key, value.span(), table);
                        }
                        (_, DeValue::String(_)) => self.scalar(app, key, value),
                        (_, other) => self.wrong_type(key, value.span(), other),
                    }
                }
            }
            (Shape::Variables, DeValue::Table(table)) => self.variables(app, key, table),
            (Shape::Headers, DeValue::Table(table)) => {
                for (name, value) in table {
                    if let Some(text) = self.text(key.name, value) {
                        let header = format!("{}: {text}", name.get_ref());
                        self.set(app, key, value.span(), &header);
                    }
                }
            }
            (Shape::Ready, DeValue::Table(table)) => self.probe(app, key, value.span(), table),
            (Shape::Canary, DeValue::Table(table)) => {
                self.composed(
                    app,
                    key,
                    value.span(),
                    table,
                    &["percent", "for"],
                    &["max_errors"],
                );
            }
            (Shape::Intensity, DeValue::Table(table)) => {
                self.composed(app, key, value.span(), table, &["restarts", "within"], &[]);
            }
            (Shape::Request, DeValue::Table(table)) => {
                self.composed(app, key, value.span(), table, &["message"], &[]);
            }
            (_, other) => self.wrong_type(key, value.span(), other),
        }
    }

    fn scalar(&mut self, app: &mut FileApp, key: &Key, value: &Value<'_>) {
        if let Some(text) = self.plain(value) {
            self.set(app, key, value.span(), &text);
        }
    }

    fn set(&mut self, app: &mut FileApp, key: &Key, span: Range<usize>, text: &str) {
        match key.check(text) {
            Ok(()) => app.settings.push(key.name, text),
            Err(why) => {
                let what = format!("`{}` cannot be {text:?}", key.name);
                self.complain(span, what, why);
            }
        }
    }

    /// `{ http = "/healthz", status = "2xx" }`: a rule, and settings of the probe.
    fn probe(&mut self, app: &mut FileApp, rule: &Key, span: Range<usize>, table: &DeTable<'_>) {
        const MEMBERS: [&str; 7] = [
            "http",
            "status",
            "timeout",
            "interval",
            "successes",
            "headers",
            "host",
        ];
        if !table.keys().any(|name| name.get_ref() == "http") {
            let help = "write the path that is asked: { http = \"/healthz\" }";
            self.complain(span, format!("`{}` has no path", rule.name), help);
        }
        for (name, value) in table {
            let setting = key(&format!("reload.probe.{}", name.get_ref()));
            match (name.get_ref().as_ref(), setting) {
                ("http", _) => {
                    if let Some(path) = self.text(rule.name, value) {
                        self.set(app, rule, value.span(), &format!("http={path}"));
                    }
                }
                (_, Some(setting)) => self.setting(app, setting, value),
                (unknown, None) => self.unknown_member(name.span(), rule, unknown, &MEMBERS),
            }
        }
    }

    fn unknown_member(
        &mut self,
        span: Range<usize>,
        key: &Key,
        unknown: &str,
        members: &[&'static str],
    ) {
        let help = match nearest(unknown, members.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("there are {}", members.join(", ")),
        };
        let what = format!("unknown key `{unknown}` in `{}`", key.name);
        self.complain(span, what, help);
    }

    /// A value of several parts, as a flag would have it.
    fn composed(
        &mut self,
        app: &mut FileApp,
        key: &Key,
        span: Range<usize>,
        table: &DeTable<'_>,
        needed: &[&'static str],
        optional: &[&'static str],
    ) {
        let before = self.complaints.len();
        let members: Vec<&str> = needed.iter().chain(optional).copied().collect();
        for name in table.keys() {
            if !members.contains(&name.get_ref().as_ref()) {
                self.unknown_member(name.span(), key, name.get_ref(), &members);
            }
        }
        let mut parts = Vec::new();
        for member in &members {
            let found = table.iter().find(|(name, _)| name.get_ref() == member);
            match found {
                Some((_, value)) => match value.get_ref() {
                    DeValue::String(_) | DeValue::Integer(_) => parts.extend(self.plain(value)),
                    other => self.wrong_type(key, value.span(), other),
                },
                None if needed.contains(member) => {
                    let help = format!("it needs {}", needed.join(" and "));
                    self.complain(
                        span.clone(),
                        format!("`{}` has no `{member}`", key.name),
                        help,
                    );
                }
                None => {}
            }
        }
        if self.complaints.len() > before {
            return;
        }
        let text = match (shape(key.name), parts.as_mut_slice()) {
            (Shape::Canary, [percent, _, errors @ ..]) => {
                for share in std::iter::once(percent).chain(errors) {
                    if !share.ends_with('%') {
                        share.push('%');
                    }
                }
                parts.join(":")
            }
            (Shape::Request, [message]) => format!("message:{message}"),
            _ => parts.join("/"),
        };
        self.set(app, key, span, &text);
    }

    fn variables(&mut self, app: &mut FileApp, key: &Key, table: &DeTable<'_>) {
        for (name, value) in table {
            let text = match value.get_ref() {
                DeValue::Float(number) => Some(number.as_str().to_owned()),
                DeValue::Boolean(truth) => Some(truth.to_string()),
                DeValue::String(_) | DeValue::Integer(_) => self.plain(value),
                other => {
                    let what = format!("the variable {} cannot be {}", name.get_ref(), kind(other));
                    self.complain(value.span(), what, "write a text in quotes");
                    None
                }
            };
            let is_name = !name.get_ref().is_empty() && !name.get_ref().contains(['=', '\0']);
            match text {
                Some(_) if !is_name => {
                    let what = format!("{:?} cannot be the name of a variable", name.get_ref());
                    self.complain(name.span(), what, "use letters, digits and _");
                }
                Some(text) => {
                    self.set(
                        app,
                        key,
                        value.span(),
                        &format!("{}={text}", name.get_ref()),
                    );
                }
                None => {}
            }
        }
    }

    fn wrong_type(&mut self, key: &Key, span: Range<usize>, value: &DeValue<'_>) {
        let what = format!("`{}` cannot be {}", key.name, kind(value));
        let help = match (shape(key.name), key.value, value) {
            (Shape::Text, "DURATION", DeValue::Integer(number)) => {
                format!("a duration carries its unit: write \"{0}s\" or \"{0}ms\"", number.as_str())
            }
            (Shape::Text, "SIZE", DeValue::Integer(number)) => {
                format!("a size carries its unit: write \"{}MiB\"", number.as_str())
            }
            (Shape::Text, ..) => match key.default {
                Some(default) => format!("write a text, such as \"{default}\""),
                None => format!("write a text: \"{}\"", key.value),
            },
            (Shape::Number, ..) => "write a whole number".to_owned(),
            (Shape::Amount, ..) => format!("write a number or a text: {}", key.value),
            (Shape::Switch, ..) => "write true or false".to_owned(),
            (Shape::Watch, ..) => "write true, false, or paths: [\"server.js\", \"src\"]".to_owned(),
            (Shape::Texts, ..) => "write a text, or several: [\"a\", \"b\"]".to_owned(),
            (Shape::Variables, ..) => "write a table: { NODE_ENV = \"production\" }".to_owned(),
            (Shape::Headers, ..) => "write a table: { Authorization = \"Bearer abc\" }".to_owned(),
            (Shape::Ready, ..) => {
                "write \"listening\", \"alive\", \"message\", \"notify\", or { http = \"/healthz\" }".to_owned()
            }
            (Shape::Canary, ..) => "write { percent = 10, for = \"60s\" }".to_owned(),
            (Shape::Intensity, ..) => "write { restarts = 10, within = \"1m\" }".to_owned(),
            (Shape::Request, ..) => {
                "write \"SIGTERM\", \"SIGINT\", or { message = \"shutdown\" }".to_owned()
            }
        };
        self.complain(span, what, help);
    }

    fn texts(&mut self, name: &str, value: &Value<'_>) -> Vec<String> {
        match value.get_ref() {
            DeValue::Array(list) => {
                let texts = list.iter().map(|value| match value.get_ref() {
                    DeValue::Integer(_) => self.plain(value),
                    _ => self.text(name, value),
                });
                texts.collect::<Vec<_>>().into_iter().flatten().collect()
            }
            other => {
                let what = format!("`{name}` cannot be {}", kind(other));
                self.complain(value.span(), what, "write a list: [\"--port\", \"3000\"]");
                Vec::new()
            }
        }
    }

    fn text(&mut self, name: &str, value: &Value<'_>) -> Option<String> {
        if let DeValue::String(_) = value.get_ref() {
            return self.plain(value);
        }
        let what = format!("`{name}` cannot be {}", kind(value.get_ref()));
        self.complain(value.span(), what, "write a text in quotes");
        None
    }

    /// What is written, with variables replaced; of tables and lists nothing.
    fn plain(&mut self, value: &Value<'_>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => match expand(text, self.lookup) {
                Ok(text) if !text.contains('\0') => Some(text),
                Ok(_) => {
                    self.complain(value.span(), "the text holds a NUL byte", "take it out");
                    None
                }
                Err(why) => {
                    let (what, help) = match why {
                        NotExpanded::Unset(name) => (
                            format!("the variable {name} is not set"),
                            format!(
                                "set it, or give a default: ${{{name}:-value}}; a plain ${{ is written $${{"
                            ),
                        ),
                        NotExpanded::BadName(name) => (
                            format!("`{name}` is no name of a variable"),
                            "use letters, digits and _; a plain ${ is written $${".to_owned(),
                        ),
                        NotExpanded::Unclosed => (
                            "a ${ is not closed".to_owned(),
                            "write ${NAME}; a plain ${ is written $${".to_owned(),
                        ),
                    };
                    self.complain(value.span(), what, help);
                    None
                }
            },
            DeValue::Integer(number) => {
                let read = i64::from_str_radix(number.as_str(), number.radix());
                Some(read.map_or_else(|_| number.to_string(), |number| number.to_string()))
            }
            DeValue::Boolean(true) => Some("on".to_owned()),
            DeValue::Boolean(false) => Some("off".to_owned()),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                None
            }
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number without a unit",
        DeValue::Float(_) => "a broken number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What is at odds, in the words of a file.
fn in_file(odd: &Odd) -> (String, String) {
    match odd {
        Odd::Backoff { min, max } => (
            format!("restart.backoff.min ({min}) is longer than restart.backoff.max ({max})"),
            "swap them, or lower min".to_owned(),
        ),
        Odd::NoProbe => (
            "health.interval needs a probe to repeat".to_owned(),
            "add ready = { http = \"/healthz\" } to the table `reload`".to_owned(),
        ),
        Odd::SeveralProbes => (
            "there is one HTTP probe, and several paths".to_owned(),
            "give one { http = \"/PATH\" }".to_owned(),
        ),
        Odd::Rotation => (
            "log.rotate.size is larger than log.rotate.total, so one file would be too much"
                .to_owned(),
            "raise total, or lower size".to_owned(),
        ),
        Odd::Memory { lower, upper, .. } => (
            format!(
                "limits.{} is not below limits.{}, so a worker would never get from the one to the other",
                lower.replace('-', "_"),
                upper.replace('-', "_")
            ),
            "lower the one, or raise the other".to_owned(),
        ),
    }
}
