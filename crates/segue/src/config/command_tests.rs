//! Tables of what is written after `run` and what is meant by it.

use std::ffi::OsString;
use std::path::Path;

use super::*;

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(Into::into).collect()
}

fn line(node: &str, node_args: &str, command: Command, args: &str) -> CommandLine {
    CommandLine {
        command,
        args: words(args),
        node: (!node.is_empty()).then(|| node.into()),
        node_args: words(node_args),
        env: Vec::new(),
    }
}

fn check(written: &str, expected: CommandLine) {
    let found = CommandLine::read(&words(written), Path::new("/nowhere")).unwrap();
    assert_eq!(found, expected, "{written:?}");
}

fn script(path: &str) -> Command {
    Command::Script(path.into())
}

fn executable(name: &str) -> Command {
    Command::Executable(name.into())
}

#[test]
fn scripts_are_known_by_their_extension() {
    for name in [
        "a.js",
        "a.mjs",
        "a.cjs",
        "a.ts",
        "a.mts",
        "a.cts",
        "current/x.y.js",
    ] {
        check(name, line("", "", script(name), ""));
    }
    check("a.js --port 80", line("", "", script("a.js"), "--port 80"));
    check("bin/www -x", line("", "", executable("bin/www"), "-x"));
    check("python3 a.js", line("", "", executable("python3"), "a.js"));
}

#[test]
fn a_node_that_is_written_out_is_taken_apart() {
    check("node a.js x", line("node", "", script("a.js"), "x"));
    check("/opt/node a.js", line("/opt/node", "", script("a.js"), ""));
    check("node22 bin/www", line("node22", "", script("bin/www"), ""));
    check(
        "node --import tsx --inspect=0 -r ./x --max-old-space-size=99 app.ts --watch",
        line(
            "node",
            "--import tsx --inspect=0 -r ./x --max-old-space-size=99",
            script("app.ts"),
            "--watch",
        ),
    );
    check(
        "node --no-warnings -- -odd.js y",
        line("node", "--no-warnings", script("-odd.js"), "y"),
    );
    for other in [
        "-e x",
        "--eval=1",
        "-p 1",
        "-",
        "--run start",
        "--test a.js",
        "-i",
        "--require x",
        "",
    ] {
        let written = format!("node {other}");
        check(&written, line("", "", executable("node"), other));
    }
    check("nodemon a.js", line("", "", executable("nodemon"), "a.js"));
}

fn in_package(json: &str, check: impl FnOnce(Result<CommandLine, CommandError>, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("package.json"), json).unwrap();
    check(CommandLine::read(&[], directory.path()), directory.path());
}

#[test]
fn without_a_script_the_start_script_is_meant() {
    in_package(
        r#"{"scripts":{"start":"NODE_ENV=production node --enable-source-maps 'my app.js' -x"}}"#,
        |found, _| {
            let expected = CommandLine {
                env: vec![("NODE_ENV".into(), "production".into())],
                ..line("node", "--enable-source-maps", script("my app.js"), "-x")
            };
            assert_eq!(found.unwrap(), expected);
        },
    );
}

#[test]
fn a_start_script_finds_installed_programs_first() {
    let directory = tempfile::tempdir().unwrap();
    let bin = directory.path().join("node_modules/.bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("next"), "#!/usr/bin/env node\n").unwrap();
    let found = CommandLine::from_script("next start", directory.path()).unwrap();
    assert_eq!(
        found,
        line("", "", executable("node_modules/.bin/next"), "start")
    );
}

#[test]
fn says_what_to_write_instead() {
    let text = |found: Result<CommandLine, CommandError>| found.unwrap_err().to_string();
    let directory = tempfile::tempdir().unwrap();
    let nothing = text(CommandLine::read(&[], directory.path()));
    assert!(
        nothing.contains("no package.json; write `segue run server.js`"),
        "{nothing}"
    );
    let folder = text(CommandLine::read(&words("."), directory.path()));
    assert!(
        folder.contains("is a directory; go there and write `segue run`"),
        "{folder}"
    );
    in_package(r#"{"main":"lib/app.js"}"#, |found, _| {
        let text = text(found);
        assert!(text.contains("write `segue run lib/app.js`"), "{text}");
    });
    in_package(
        r#"{"scripts":{"start":"node a.js && node b.js"}}"#,
        |found, _| {
            let text = text(found);
            assert!(
                text.contains("`&` needs a shell; write its node command"),
                "{text}"
            );
        },
    );
}

#[test]
fn names_come_from_flag_package_or_command() {
    let check = |json: &str, asked, command: &Command, expected: &str| {
        in_package(json, |_, directory| {
            let name = app_name(asked, command, directory).unwrap();
            assert_eq!(name, expected, "{json} {command:?}");
        });
    };
    check(r#"{"name":"shop"}"#, Some("web"), &script("a.js"), "web");
    check(r#"{"name":"@team/shop"}"#, None, &script("a.js"), "shop");
    check("{}", None, &script("current/server.prod.js"), "server.prod");
    check("{", None, &executable("/opt/my app"), "my-app");
    check(r#"{"name":"@"}"#, None, &script("x/.js"), "js");
    check("{}", None, &executable("-"), "app");
    for bad in ["", "a/b", "..", "-x", "a b"] {
        assert!(
            app_name(Some(bad), &script("a.js"), Path::new("/")).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn the_way_here_is_kept_when_it_is_right() {
    let here = std::env::current_dir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("current");
    std::os::unix::fs::symlink(&here, &link).unwrap();
    let check = |pwd: Option<&Path>, expected: &Path| {
        let found = logical_directory(pwd.map(Path::as_os_str)).unwrap();
        assert_eq!(found, expected, "{pwd:?}");
    };
    check(Some(&link), &link);
    check(None, &here);
    check(Some(Path::new("/")), &here);
    check(Some(Path::new("relative")), &here);
    check(Some(&link.join(".")), &here);
}
