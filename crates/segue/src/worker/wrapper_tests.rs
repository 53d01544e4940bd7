//! Tables of wrappers and of what is to be written instead.

use std::ffi::OsString;
use std::path::Path;

use super::*;
use crate::config::confine::Confinement;
use crate::config::written::Written;

const PACKAGE: &str = r#"{"scripts":{
    "start":"NODE_ENV=production node server.js",
    "dev":"tsx watch app.ts",
    "watch":"node --watch server.js",
    "loop":"npm run loop",
    "chain":"npm run start",
    "shell":"node a.js && node b.js",
    "cross":"cross-env A=1 node server.js"}}"#;

const START: &str = "write `segue run --env NODE_ENV=production server.js` instead";

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(Into::into).collect()
}

fn app(line: CommandLine, cwd: &Path) -> AppConfig {
    AppConfig {
        name: "web".into(),
        command: line.command,
        args: line.args,
        node: "node".into(),
        node_args: line.node_args,
        cwd: cwd.to_owned(),
        caller_env: Vec::new(),
        env_files: Vec::new(),
        log: None,
        umask: None,
        written: Written::default(),
        origin: None,
        confinement: Confinement::default(),
        env: Vec::new(),
    }
}

/// What is answered to a command line, in a folder with `PACKAGE`.
fn answer(written: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("package.json"), PACKAGE).unwrap();
    let line = CommandLine::read(&words(written), folder.path()).unwrap();
    let app = app(line, folder.path());
    let refused = match &app.command {
        Command::Script(script) => refuse_script(&app, &folder.path().join(script)),
        Command::Executable(name) => refuse_executable(&app, name),
    };
    refused.err().map(|wrapper| wrapper.instead)
}

#[test]
fn package_scripts_are_looked_up() {
    for written in [
        "npm start",
        "npm run start",
        "npm --silent run start -- --port 1",
        "npm",
        "yarn start",
        "yarn run start",
        "corepack yarn start",
        "node --run start",
        "node --run=start",
        "/usr/bin/nodejs --no-warnings --run start",
        "npm run chain",
    ] {
        assert_eq!(answer(written).as_deref(), Some(START), "{written}");
    }
    for (script, instead) in [
        (
            "dev",
            "write `segue run --node-arg=--import=tsx app.ts` instead",
        ),
        ("watch", "write `segue run server.js` instead"),
        ("cross", "write `segue run --env A=1 server.js` instead"),
    ] {
        let found = answer(&format!("npm run {script}"));
        assert_eq!(found.as_deref(), Some(instead), "{script}");
    }
    for script in ["loop", "shell", "none"] {
        let found = answer(&format!("npm run {script}")).unwrap();
        assert!(
            found.starts_with("look at what the script `"),
            "{script}: {found}"
        );
    }
}

#[test]
fn launchers_are_known_by_name() {
    for (written, command) in [
        ("tsx app.ts -p 1", "--node-arg=--import=tsx app.ts -p 1"),
        ("tsx watch app.ts", "--node-arg=--import=tsx app.ts"),
        (
            "tsx --inspect app.ts",
            "--node-arg=--import=tsx --node-arg=--inspect app.ts",
        ),
        ("npx tsx app.ts", "--node-arg=--import=tsx app.ts"),
        ("npx --yes tsx app.ts", "--node-arg=--import=tsx app.ts"),
        ("npm exec tsx app.ts", "--node-arg=--import=tsx app.ts"),
        ("npx next start", "./node_modules/.bin/next start"),
        ("pm2-runtime app.js", "app.js"),
        ("pm2 start app.js -i max", "-w auto app.js -i max"),
        ("pm2 start -i 4 app.js", "-w 4 app.js"),
        ("cross-env A=b node a.js", "--env A=b a.js"),
        ("cross-env A=b tsx a.ts", "--node-arg=--import=tsx a.ts"),
        ("dotenv -- node a.js", "--env-file .env a.js"),
        (
            "./node_modules/.bin/tsx app.ts",
            "--node-arg=--import=tsx app.ts",
        ),
    ] {
        let expected = format!("write `segue run {command}` instead");
        assert_eq!(answer(written), Some(expected), "{written}");
    }
}

#[test]
fn watchers_are_told_of_reload() {
    for (written, command) in [
        ("nodemon app.js", "app.js"),
        ("nodemon --watch src --ext js app.js -p 1", "app.js -p 1"),
        (
            "ts-node-dev --respawn app.ts",
            "--node-arg=--require=ts-node/register app.ts",
        ),
        ("node --watch app.js", "app.js"),
        (
            "node --inspect --watch-path=src app.js",
            "--node-arg=--inspect app.js",
        ),
    ] {
        let expected =
            format!("write `segue run {command}` instead, and `segue reload` after a change");
        assert_eq!(answer(written), Some(expected), "{written}");
    }
}

#[test]
fn what_can_be_a_worker_passes() {
    for written in [
        "server.js",
        "node server.js --watch",
        "node --import tsx app.ts",
        "node -e 1",
        "sh -c x",
        "timeout 10 node a.js",
        "pnpm start",
        "ts-node app.ts",
        "./npm-like",
        "bun run x",
    ] {
        assert_eq!(answer(written), None, "{written}");
    }
}

#[test]
fn programs_are_known_by_where_they_lie() {
    for (real, tool) in [
        ("/usr/lib/node_modules/npm/bin/npm-cli.js", Some("npm")),
        ("/usr/share/nodejs/npm/bin/npm-cli.js", Some("npm")),
        ("/usr/lib/node_modules/npm/bin/npx-cli.js", Some("npx")),
        ("/app/node_modules/tsx/dist/cli.mjs", Some("tsx")),
        (
            "/app/node_modules/.pnpm/tsx@4/node_modules/tsx/dist/cli.mjs",
            Some("tsx"),
        ),
        ("/app/node_modules/next/dist/bin/next", None),
        ("/app/node_modules/tsx/node_modules/other/x.js", None),
        ("/srv/npm/server.js", None),
        ("/srv/nodejs/web/server.js", None),
        ("/", None),
    ] {
        assert_eq!(tool_of(Path::new(real)).as_deref(), tool, "{real}");
    }
}

#[test]
fn the_answer_can_be_pasted() {
    let wrapper = {
        let line = CommandLine::read(&words("tsx app.ts"), Path::new("/")).unwrap();
        let mut app = app(line, Path::new("/"));
        app.args.push("it's".into());
        refuse_executable(&app, OsStr::new("tsx")).unwrap_err()
    };
    assert_eq!(
        wrapper.to_string(),
        r"cannot run `tsx app.ts 'it'\''s'`: the app would listen in a process of its own below it, out of reach of a reload; write `segue run --node-arg=--import=tsx app.ts 'it'\''s'` instead"
    );
}
