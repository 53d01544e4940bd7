//! Tries the rules on small strings: what passes, and what each complaint says.

use crate::rules::{
    LONGEST, file_complaints, flag_complaints, floor_complaints, manifest_complaints,
};
use crate::source::{flags, imports, lines_apart, module_path, protocol_paths, relative_links};

#[track_caller]
fn check_imports(path: &str, text: &str, expected: &[&str]) {
    let found: Vec<String> = imports(&module_path(path), text)
        .into_iter()
        .map(|(_, unit)| unit)
        .collect();
    assert_eq!(found, expected, "{path}: {text}");
}

#[test]
fn imports_are_found_in_every_form() {
    check_imports("supervisor/run.rs", "use crate::exit::Code;", &["exit"]);
    check_imports(
        "supervisor/run.rs",
        "use crate::{exit, worker::{self, launch as l}, config};",
        &["config", "exit", "worker"],
    );
    check_imports(
        "cli/reload.rs",
        "use crate::control::{client::Client, server};",
        &["control::client", "control::server"],
    );
    check_imports(
        "cli/reload.rs",
        "let c = crate::exit::code(crate::config::load::<u8>()?);",
        &["config", "exit"],
    );
    check_imports(
        "worker/launch.rs",
        "use super::super::listener::Pool;",
        &["listener"],
    );
    check_imports(
        "worker/launch.rs",
        "use super::channel::Channel;",
        &["worker"],
    );
    check_imports(
        "control/client.rs",
        "use super::server::Route;",
        &["control::server"],
    );
    check_imports(
        "worker/mod.rs",
        "pub(super) fn f() {} pub(crate) use self::launch::L;",
        &[],
    );
}

#[test]
fn comments_strings_and_own_tests_are_no_imports() {
    check_imports(
        "exit.rs",
        "//! See [`crate::cli`].\n/* crate::cli */ const A: &str = \"crate::cli\";",
        &[],
    );
    check_imports(
        "exit.rs",
        "const B: &str = r#\"a \" crate::cli\"#; const Q: char = '\"'; use crate::config::C;",
        &["config"],
    );
    check_imports(
        "exit.rs",
        "fn f<'a>(x: &'a str) {} #[cfg(test)]\nmod tests {\n    use super::*;\n    use super::Code;\n}",
        &[],
    );
}

#[test]
fn super_in_a_test_module_is_the_file() {
    let file = "use super::client::C;\n#[cfg(test)]\nmod tests {\n    use super::*;\n    use super::super::server::S;\n}";
    check_imports(
        "control/runtime.rs",
        file,
        &["control::client", "control::runtime", "control::server"],
    );
}

#[test]
fn only_downward_imports_pass() {
    let complaint = |path, text| floor_complaints(path, text).join("\n");
    assert_eq!(
        complaint("supervisor/run.rs", "use crate::worker::Worker;"),
        ""
    );
    assert_eq!(
        complaint("worker/mod.rs", "use crate::worker::channel::Channel;"),
        ""
    );
    assert!(
        complaint("worker/mod.rs", "\nuse crate::cli::Args;")
            .contains("worker/mod.rs:2: `worker` imports `cli`, up from floor 3 to 4")
    );
    assert_eq!(
        complaint(
            "control/wording.rs",
            "use super::names::N; use crate::config::X;"
        ),
        ""
    );
    assert!(
        complaint("control/client.rs", "use super::server::Route;")
            .contains("up from floor 2 to 3")
    );
    assert!(
        complaint("cli/run.rs", "use crate::supervisor::run;").contains("neighbour on floor 4")
    );
    assert!(
        complaint("cli/run.rs", "use crate::worker::Worker;")
            .contains("only through control::client")
    );
    assert!(
        complaint("cli/run.rs", "use crate::nowhere::X;").contains("`nowhere`, which has no floor")
    );
    assert!(complaint("brandnew.rs", "").contains("`brandnew` has no floor"));
}

#[test]
fn files_are_judged_by_first_line_length_and_name() {
    let long = |lines: usize| format!("//! Doc.\n{}", "x\n".repeat(lines - 1));
    assert_eq!(
        file_complaints("segue/src/exit.rs", &long(LONGEST)),
        Vec::<String>::new()
    );
    assert!(
        file_complaints("segue/src/exit.rs", &long(LONGEST + 1))[0]
            .contains("601 lines without tests")
    );
    assert!(
        file_complaints("segue/src/exit.rs", "fn f() {}")[0].contains("no module documentation")
    );
    assert!(file_complaints("segue/src/util/time.rs", "//! T.")[0].contains("`util` says nothing"));
    let with_tests = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        long(500),
        "x\n".repeat(500)
    );
    assert_eq!(lines_apart(&with_tests), (500, 503));
    assert_eq!(
        file_complaints("segue/src/exit.rs", &with_tests),
        Vec::<String>::new()
    );
}

#[test]
fn manifests_are_judged_by_dependencies_and_lints() {
    let good = "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n\n[dependencies]\n";
    assert_eq!(
        manifest_complaints("segue-core", good),
        Vec::<String>::new()
    );
    assert!(
        manifest_complaints("segue-core", &format!("{good}serde.workspace = true\n"))[0]
            .contains("no dependencies")
    );
    assert!(
        manifest_complaints(
            "segue-wire",
            &format!("{good}segue-core = {{ path = \"../segue-core\" }}\n")
        )[0]
        .contains("segue-core")
    );
    assert!(manifest_complaints("segue-wire", "[package]\n[dependencies]\n")[0].contains("lints"));
    assert!(manifest_complaints("segue", good)[0].contains("default-run"));
    assert!(manifest_complaints("segue-extra", good)[0].contains("a new crate"));
}

#[test]
fn flags_are_read_from_derive_attributes() {
    let text = "
            /// Number of workers (default \"auto\").
            #[arg(short, long, value_name = \"N\", help = \"a ) b, long\")]
            pub(crate) workers: Option<u32>,
            #[arg(long, default_value_t = limit(1, 2))]
            // Why.
            #[serde(skip)]
            ready_timeout: Duration,
            #[arg(long = \"env\")]
            variables: Vec<String>,
            #[arg(long, hide = true)]
            internal: bool,
            #[arg(trailing_var_arg = true)]
            rest: Vec<String>,
        ";
    let names: Vec<String> = flags(text).into_iter().map(|flag| flag.long).collect();
    assert_eq!(names, ["workers", "ready-timeout", "env"]);
}

#[test]
fn flags_and_defaults_are_read_from_the_table_of_settings() {
    let text = "
    Key { short: Some('w'), ..key(\"workers\", \"workers\", \"N|auto\", Some(\"auto\"), |s, t| Ok(s.w = w(t)?), \"N, or (auto)\") },
    key(\"reload.ready\", \"ready\", \"RULE\", None, |s, t| Ok(()), \"doc\"),
    repeated(\"env\", \"env\", \"KEY=VALUE\", |s, t| Ok(s.env.push(v(t)?)), \"doc\"),
const fn key(name: &'static str, flag: &'static str) -> Key {}
";
    let found: Vec<(String, Option<String>)> = flags(text)
        .into_iter()
        .map(|flag| (flag.long, flag.default))
        .collect();
    let expected = [("workers", Some("auto")), ("ready", None), ("env", None)];
    assert!(
        expected.iter().all(
            |(long, default)| found.contains(&((*long).to_owned(), default.map(str::to_owned)))
        )
    );
    assert_eq!(found.len(), expected.len());
}

#[test]
fn the_manual_must_name_flags_and_their_defaults() {
    let text = "key(\"a\", \"settle\", \"DURATION\", Some(\"1s\"), set, \"doc\")";
    let complaint = |manual: &str| flag_complaints("s.rs", &format!(" {text}"), manual).join("\n");
    assert_eq!(complaint("| `--settle` | DURATION | `1s` |"), "");
    assert!(
        complaint("| `--settle` | DURATION | `2s` |").contains("default of `--settle` is `1s`")
    );
    assert!(complaint("`--settled`").contains("nowhere"));
}

#[test]
fn protocol_paths_are_read_outside_of_tests() {
    let text = "/// `POST /v1/apps/{app}/reload`, below `/v1/`.
        const A: &str = \"/v1/status\"; let b = format!(\"/v1/apps/{}/{verb}\", app);
#[cfg(test)]
mod tests {
        parse(\"/v1/nonsense\")";
    assert_eq!(
        protocol_paths(text),
        ["/v1/apps", "/v1/apps/{}/reload", "/v1/status"]
    );
}

#[test]
fn links_are_read_from_markdown() {
    let text = "[a](docs/manual.md#run) ![b](docs/x.svg) [c](https://x.y/z) [d](#here) <img src=\"docs/p.svg\">";
    assert_eq!(
        relative_links(text),
        ["docs/manual.md", "docs/x.svg", "docs/p.svg"]
    );
}
