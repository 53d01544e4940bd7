//! Releases on real folders, and real processes made from them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;

use segue_sys::spawn::{Exit, reap};

use super::*;
use crate::config::command::CommandLine;
use crate::config::confine::{Confinement, ListenAt};
use crate::config::written::Written;

/// `/srv/web/{1,2}/server.js` and `/srv/web/current`, somewhere else.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for release in ["1", "2"] {
            fs::create_dir(site.path(release)).unwrap();
            fs::write(site.path(release).join("server.js"), "").unwrap();
        }
        site.point_to("1");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn point_to(&self, release: &str) {
        let _ = fs::remove_file(self.path("current"));
        symlink(release, self.path("current")).unwrap();
    }

    fn program(&self, name: &str) {
        let path = self.path(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn app(&self, cwd: &str, written: &str) -> AppConfig {
        let words: Vec<OsString> = written.split_whitespace().map(Into::into).collect();
        let cwd = self.path(cwd);
        let line = CommandLine::read(&words, &cwd).unwrap();
        AppConfig {
            name: "web".into(),
            command: line.command,
            args: line.args,
            node: line.node.unwrap_or_else(|| "sh".into()),
            node_args: line.node_args,
            cwd,
            caller_env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            env_files: Vec::new(),
            log: None,
            umask: None,
            written: Written::default(),
            origin: None,
            confinement: Confinement::default(),
            env: Vec::new(),
        }
    }
}

fn resolve(app: &AppConfig) -> Release {
    Release::resolve(app).unwrap()
}

fn refusal(app: &AppConfig) -> String {
    Release::resolve(app).unwrap_err().to_string()
}

#[test]
fn a_link_is_followed_at_each_resolve_and_pinned_in_between() {
    let site = Site::new();
    for (cwd, written) in [("", "current/server.js"), ("current", "server.js")] {
        site.point_to("1");
        let app = site.app(cwd, written);
        let first = resolve(&app);
        assert_eq!(
            first.argv(),
            ["sh".into(), site.path("1/server.js").into_os_string()]
        );
        site.point_to("2");
        let second = resolve(&app);
        assert_eq!(second.argv()[1], site.path("2/server.js"));
        assert_eq!(first.argv()[1], site.path("1/server.js"));
        assert!(
            !second.is_changed_from(&first),
            "only the directory has changed"
        );
    }
    assert_eq!(
        resolve(&site.app("current", "server.js")).directory(),
        site.path("2")
    );
}

#[test]
fn arguments_environment_and_listen_are_changes() {
    let site = Site::new();
    let app = site.app("1", "server.js");
    let before = resolve(&app);
    let check = |change: &dyn Fn(&mut AppConfig)| {
        let mut changed = app.clone();
        change(&mut changed);
        assert!(resolve(&changed).is_changed_from(&before), "{changed:?}");
    };
    check(&|app| app.args.push("--port".into()));
    check(&|app| app.node_args.push("--x".into()));
    check(&|app| app.confinement.listen.push(ListenAt::Port(80)));
    check(&|app| app.env.push(("PORT".into(), "1".into())));
    check(&|app| {
        fs::write(site.path("1/.env"), "PORT=2").unwrap();
        app.env_files.push(".env".into());
    });
}

#[test]
fn a_script_is_found_as_node_finds_it() {
    let site = Site::new();
    let lib = site.path("1/lib");
    fs::create_dir(&lib).unwrap();
    fs::write(lib.join("index.js"), "").unwrap();
    fs::write(site.path("2/package.json"), r#"{"main":"server"}"#).unwrap();
    for (written, found) in [
        ("sh 1/server", "1/server.js"),
        ("sh 1/lib", "1/lib/index.js"),
        ("sh 2", "2/server.js"),
    ] {
        let mut app = site.app("", written);
        app.command = Command::Script(app.args.remove(0).into());
        assert_eq!(resolve(&app).argv()[1], site.path(found), "{written}");
    }
}

#[test]
fn programs_are_looked_up_with_the_workers_path() {
    let site = Site::new();
    site.program("1/serve");
    let mut app = site.app("current", "serve -x");
    let error = refusal(&app);
    assert!(
        error.contains("no such program; did you mean ./serve?"),
        "{error}"
    );
    app.env
        .push(("PATH".into(), site.path("current").into_os_string()));
    let release = resolve(&app);
    assert_eq!(release.program, site.path("1/serve"), "the link is pinned");
    assert_eq!(release.argv(), ["serve", "-x"]);
    assert_eq!(
        resolve(&site.app("current", "./serve")).program,
        site.path("1/serve")
    );
}

#[test]
fn says_what_is_missing_and_what_to_do() {
    let site = Site::new();
    fs::write(site.path("1/app.mjs"), "").unwrap();
    fs::write(site.path("1/www"), "").unwrap();
    for (written, expected) in [
        (
            "none.js",
            "there is no such script; check the name and the directory",
        ),
        ("app.js", "did you mean"),
        (
            "./none",
            "there is no such program; check the name and the directory",
        ),
        (
            "server",
            "there is no such program; did you mean server.js?",
        ),
        (
            "./www",
            "it is not executable; write `segue run node ./www`",
        ),
    ] {
        let error = refusal(&site.app("1", written));
        assert!(error.contains(expected), "{written}: {error}");
    }
    let mut app = site.app("1", "server.js");
    app.node = "no-such-node".into();
    let error = refusal(&app);
    assert!(
        error.contains("say where it is with --node PATH"),
        "{error}"
    );
    app.cwd = site.path("none");
    assert!(refusal(&app).contains("check --cwd"));
    app = site.app("1", "server.js");
    app.env_files.push("none.env".into());
    assert!(refusal(&app).contains("1/none.env"));
}

/// What a process made from the release prints, its channel as it sees it, and its end.
fn run(release: &Release) -> (String, String, Exit) {
    let start = Start {
        descriptor_limit: Some(segue_sys::process::descriptor_limit()),
        ..Start::default()
    };
    let launched = release
        .spawn(WorkerId(7), SlotId(2), Generation(3), &start)
        .unwrap();
    let read = |pipe: OwnedFd| {
        rustix::io::ioctl_fionbio(&pipe, false).unwrap();
        let mut text = String::new();
        File::from(pipe).read_to_string(&mut text).unwrap();
        text
    };
    let process = launched.process.release().unwrap();
    let (out, err) = (read(launched.stdout), read(launched.stderr));
    let mut ready = [rustix::event::PollFd::new(
        &process.pidfd,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut ready, None).unwrap();
    (out, err, reap(&process.pidfd).unwrap().unwrap())
}

fn environment_of(app: &AppConfig) -> BTreeMap<String, String> {
    let (out, _, _) = run(&resolve(app));
    out.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_worker_gets_its_environment_and_none_of_ours() {
    let site = Site::new();
    fs::write(site.path("1/server.js"), "env\n").unwrap();
    fs::write(site.path("1/.env"), "B=file\nC=file\n").unwrap();
    let mut app = site.app("current", "server.js");
    for name in NOT_PASSED_ON.iter().copied().chain(["A", "B", "C", "PWD"]) {
        app.caller_env.push((name.into(), "caller".into()));
    }
    app.env_files.push(".env".into());
    app.env.push(("C".into(), "flag".into()));
    let env = environment_of(&app);
    let expected = [
        ("A", "caller"),
        ("B", "file"),
        ("C", "flag"),
        ("NODE_APP_INSTANCE", "2"),
        ("NODE_CHANNEL_FD", "3"),
        ("NODE_CHANNEL_SERIALIZATION_MODE", "json"),
        ("NODE_UNIQUE_ID", "7"),
        ("PATH", "/usr/bin:/bin"),
        ("PWD", site.path("1").to_str().unwrap()),
        ("SEGUE_APP", "web"),
        ("SEGUE_GENERATION", "3"),
        ("SEGUE_SLOT", "2"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    // The shell that prints it adds variables of its own.
    let shells = ["OLDPWD", "SHLVL", "_"];
    let env: BTreeMap<_, _> = env
        .into_iter()
        .filter(|(name, _)| !shells.contains(&name.as_str()))
        .collect();
    assert_eq!(env, expected.into());
}

#[test]
fn code_from_the_command_line_is_no_cluster_worker() {
    let site = Site::new();
    site.program("1/node");
    fs::write(site.path("1/node"), "#!/bin/sh\nenv\n").unwrap();
    let script = environment_of(&site.app("1", "./node server.js"));
    assert_eq!(script.get("NODE_UNIQUE_ID").map(String::as_str), Some("7"));
    for written in ["./node -e 1", "./node -p 1", "./node -"] {
        let env = environment_of(&site.app("1", written));
        assert!(!env.contains_key("NODE_UNIQUE_ID"), "{written}");
        assert!(env.contains_key("NODE_CHANNEL_FD"), "{written}");
    }
}

#[test]
fn a_worker_has_its_channel_and_two_pipes() {
    let site = Site::new();
    let script = "cd /proc/self/fd; readlink 0 1 2 3; echo oops >&2; exit 4";
    fs::write(site.path("1/server.js"), script).unwrap();
    let (out, err, exit) = run(&resolve(&site.app("1", "server.js")));
    let kinds: Vec<&str> = out
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(kinds, ["/dev/null", "pipe", "pipe", "socket"]);
    assert_eq!((err.as_str(), exit), ("oops\n", Exit::Code(4)));
}

#[test]
fn a_directory_that_is_gone_is_named_as_the_step() {
    let site = Site::new();
    let release = resolve(&site.app("1", "server.js"));
    fs::remove_dir_all(site.path("1")).unwrap();
    let error = release
        .spawn(WorkerId(1), SlotId(0), Generation(1), &Start::default())
        .unwrap()
        .process
        .release()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("its directory could not be entered"),
        "{error}"
    );
}

#[test]
fn only_scripts_that_node_runs_get_the_preload() {
    let site = Site::new();
    site.program("1/node");
    site.program("1/serve");
    for (written, node, expected) in [
        ("./node server.js", None, Ok(())),
        ("./node --title=x server.js --permission", None, Ok(())),
        (
            "./node --permission server.js",
            None,
            Err(NoPreload::Permissions),
        ),
        ("./node -e 1", None, Err(NoPreload::NotAScript)),
        ("./serve", None, Err(NoPreload::NotAScript)),
        ("server.js", Some("./serve"), Err(NoPreload::NotAScript)),
        ("server.js", Some("./node"), Ok(())),
    ] {
        let mut app = site.app("1", written);
        if let Some(node) = node {
            app.node = node.into();
        }
        assert_eq!(resolve(&app).takes_preload(), expected, "{written}");
    }
    let mut app = site.app("1", "./node server.js");
    app.env.push(("NODE_OPTIONS".into(), "--permission".into()));
    let refused = resolve(&app).takes_preload();
    assert_eq!(refused, Err(NoPreload::Permissions));
}

#[test]
fn the_preload_stands_before_the_apps_own_node_arguments() {
    let site = Site::new();
    site.program("1/node");
    fs::write(site.path("1/node"), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    let release = resolve(&site.app("1", "./node --title=x server.js a"));
    let preload = Path::new("/cache with spaces/preload.cjs");
    let start = Start {
        preload: Some(preload),
        ..Start::default()
    };
    let launched = release
        .spawn(WorkerId(1), SlotId(0), Generation(1), &start)
        .unwrap();
    launched.process.release().unwrap();
    rustix::io::ioctl_fionbio(&launched.stdout, false).unwrap();
    let mut text = String::new();
    File::from(launched.stdout)
        .read_to_string(&mut text)
        .unwrap();
    let words: Vec<&str> = text.lines().collect();
    let script = site.path("1/server.js");
    let expected = [
        "--require",
        preload.to_str().unwrap(),
        "--title=x",
        script.to_str().unwrap(),
        "a",
    ];
    assert_eq!(words, expected);
}

#[test]
fn a_worker_is_bounded_as_its_app_says() {
    let site = Site::new();
    let script = "ulimit -Sn; ulimit -Hn; grep NoNewPrivs /proc/self/status | tr -dc 01";
    fs::write(site.path("1/server.js"), script).unwrap();
    let mut app = site.app("1", "server.js");
    app.confinement.nofile = Some(200);
    assert_eq!(run(&resolve(&app)).0, "200\n200\n1");
    app.confinement.no_new_privs = false;
    assert_eq!(run(&resolve(&app)).0, "200\n200\n0");
    app.confinement.nofile = Some(1 << 30);
    assert!(refusal(&app).contains("limits.nofile"), "{}", refusal(&app));
    app.confinement.nofile = None;
    app.confinement.user = Some("nobody-of-that-name".into());
    assert!(refusal(&app).contains("there is no user"));
}

#[test]
fn a_worker_of_another_user_has_nothing_of_ours() {
    let site = Site::new();
    let mut app = site.app("1", "server.js");
    app.confinement.user = Some("4321".into());
    app.confinement.group = Some("4321".into());
    for name in ["HOME", "XDG_RUNTIME_DIR", "SUDO_USER", "A"] {
        app.caller_env.push((name.into(), "caller".into()));
    }
    if !rustix::process::geteuid().is_root() {
        assert!(refusal(&app).contains("only root"), "{}", refusal(&app));
        return;
    }
    let script = "id -u; id -g; id -G; env | grep -E '^(HOME|XDG|SUDO|A=)'; echo hi >/dev/stderr";
    fs::write(site.path("1/server.js"), script).unwrap();
    let folder = site.folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let (out, err, _) = run(&resolve(&app));
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["4321", "4321", "4321", "A=caller", "HOME=/"]);
    assert_eq!(err, "hi\n", "its stderr is its own");
    app.env.push(("HOME".into(), "/own".into()));
    assert!(run(&resolve(&app)).0.contains("HOME=/own"));
}

#[test]
fn what_an_earlier_release_has_written_has_no_bounds() {
    let site = Site::new();
    let app = site.app("1", "server.js");
    let mut written = serde_json::to_value(resolve(&app)).unwrap();
    written.as_object_mut().unwrap().remove("bounds");
    let read: Release = serde_json::from_value(written).unwrap();
    assert!(!read.bounds().no_new_privileges());
    let mut written = serde_json::to_value(&app).unwrap();
    written.as_object_mut().unwrap().remove("confinement");
    let read: AppConfig = serde_json::from_value(written).unwrap();
    assert_eq!(read.confinement, Confinement::none());
}
