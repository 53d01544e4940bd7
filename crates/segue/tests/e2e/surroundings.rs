//! What stands around segue on the page of tasks: nginx before it. The configuration and the commands are
//! those of the page.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use segue_load::{Builder, Fresh, KeepAlive, Load};

use crate::harness::command::Pending;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::on_path;
use crate::harness::port::Port;
use crate::harness::process::{self, Process};
use crate::harness::run::{LIMIT, Launch};
use crate::harness::{http, skip};
use crate::tasks::block;

/// What goes around the page's nginx block: everything in a directory of the test's own. The load client
/// would miss its own port, which the app does not see behind a proxy.
const NGINX: &str = "
pid DIRECTORY/nginx.pid;
events {}
http {
    access_log DIRECTORY/access.log;
    client_body_temp_path DIRECTORY/body;
    proxy_temp_path DIRECTORY/proxy;
    fastcgi_temp_path DIRECTORY/fastcgi;
    scgi_temp_path DIRECTORY/scgi;
    uwsgi_temp_path DIRECTORY/uwsgi;
    proxy_hide_header x-segue-port;
";

/// The program, which Debian puts where only root's PATH leads.
pub(crate) fn nginx() -> Option<PathBuf> {
    let beside = PathBuf::from("/usr/sbin/nginx");
    on_path("nginx").or_else(|| beside.is_file().then_some(beside))
}

/// Ends nginx, which has no mark: it writes its title over its environment.
struct Ended(Option<Process>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.signal(Signal::TERM);
        }
    }
}

fn load() -> Builder {
    Load::builder()
        .with(Fresh {
            clients: 4,
            ..Fresh::default()
        })
        .with(KeepAlive {
            clients: 8,
            ..KeepAlive::default()
        })
}

/// A program of this name that runs these lines.
fn put_program(path: &Path, lines: &str) {
    fs::write(path, format!("#!/bin/sh\n{lines}\n")).expect("write a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("let it run");
}

#[test]
fn behind_nginx() {
    let Some(nginx) = nginx() else {
        return skip("nginx is not installed (Debian: nginx-light)");
    };
    let launch = Launch::node("plain.js");
    let upstream = format!("server 127.0.0.1:{};", launch.site.port.number());
    let run = launch.start();
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let port = Port::lease();
    let mut servers = block("Behind nginx", &["nginx"]);
    for (from, to) in [
        ("server 127.0.0.1:3000;", &upstream),
        (
            "listen 8080;",
            &format!("listen 127.0.0.1:{};", port.number()),
        ),
    ] {
        assert_eq!(servers.matches(from).count(), 1, "{from} in {servers}");
        servers = servers.replace(from, to);
    }
    let text = NGINX.replace("DIRECTORY", &here.to_string_lossy()) + &servers + "}\n";
    fs::write(here.join("nginx.conf"), text).expect("write the configuration");

    // What the page types leads to the nginx of this test.
    let bin = here.join("bin");
    fs::create_dir(&bin).expect("make a directory");
    let own = format!(
        "exec {} -p {here} -e {here}/error.log -c {here}/nginx.conf",
        nginx.display(),
        here = here.display()
    );
    put_program(&bin.join("nginx"), &format!("{own} \"$@\""));
    put_program(&bin.join("sudo"), "exec \"$@\"");
    let reload = "test \"$*\" = 'reload nginx' && exec nginx -s reload";
    put_program(&bin.join("systemctl"), reload);
    let shell = |line: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command
            .args(["-ec", line])
            .env("PATH", std::env::join_paths(paths).expect("join paths"));
        command
    };
    let server = Pending::start(shell("exec nginx -g 'daemon off;'"));
    let _guard = Ended(server.process.as_ref().and_then(|it| Process::open(it.pid)));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    let log = || fs::read_to_string(here.join("error.log")).unwrap_or_default();
    let deadline = Instant::now() + LIMIT;
    while http::get(address, "/").is_err() {
        assert!(
            Instant::now() < deadline,
            "nginx does not answer: {}",
            log()
        );
    }
    let master = server.process.as_ref().map_or(0, |process| process.pid);
    let before = process::children(master);
    let typed = block("Behind nginx", &["sh", "syntax"]);
    Pending::start(shell(&typed)).wait(LIMIT).expect(0);
    // One of its own that leaves would take idle connections along.
    while !process::children(master).is_disjoint(&before) {
        assert!(Instant::now() < deadline, "nginx has reloaded: {}", log());
    }

    let clients = Clients::start(load(), address);
    clients.wait_for_answers(200);
    for version in ["v2", "v3"] {
        run.site.deploy(version, "plain.js");
        // By then, connections that nginx keeps have moved as well.
        run.segue(&["reload", "--wait", "drained"]).expect(0);
        assert_eq!(
            http::get(address, "/").expect("an answer").version(),
            version
        );
        clients.wait_for_answers(200);
    }
    let report = clients.stop();
    assert_flawless(&report, &run);
    let answered = fs::read_to_string(here.join("access.log")).expect("the log of requests");
    let others: Vec<&str> = answered
        .lines()
        .filter(|line| !line.contains("\" 200 "))
        .collect();
    assert!(others.is_empty(), "{others:?}\n{}", log());
    assert!(answered.lines().count() > 600, "{}", render(&report));

    // It would tell of a connection that was reset or refused, also where it has tried again.
    let trouble = log();
    let trouble: Vec<&str> = trouble
        .lines()
        .filter(|line| line.contains("upstream"))
        .collect();
    assert!(trouble.is_empty(), "{trouble:?}");
    Pending::start(shell("nginx -s quit")).wait(LIMIT).expect(0);
    server.wait(LIMIT).expect(0);
    run.finish();
}
