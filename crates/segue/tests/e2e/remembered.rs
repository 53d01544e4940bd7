//! What a background supervisor remembers of its apps, and what becomes of it when it begins again.

use rustix::process::Signal;
use segue_wire::control::{AppPhase, Status};
use serde_json::Value;

use crate::background::{Desk, ready};
use crate::harness::process::Process;
use crate::harness::run::LIMIT;

#[test]
fn a_memory_that_cannot_be_read_is_set_aside() {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.path("state/segue")).expect("make the directory");
    std::fs::write(desk.path("state/segue/apps.json"), "{").expect("spoil the memory");
    desk.file("", "-");
    desk.segue(&["start"]).expect(0);
    assert!(desk.path("state/segue/apps.unreadable").exists());
    assert!(
        desk.own_log().contains("it is kept as"),
        "{}",
        desk.own_log()
    );
}

/// After a boot what an app needs may come later than the app.
#[test]
fn what_is_remembered_and_does_not_come_up_is_tried_again() {
    let desk = Desk::new();
    let server = desk.path("releases/v1/server.js");
    let text = std::fs::read_to_string(&server).expect("read the release");
    let needs =
        "if (!require('fs').existsSync('../../database')) throw new Error('no database');\n";
    std::fs::write(&server, text.replacen("'use strict';\n", needs, 1)).expect("write it");
    std::fs::write(desk.path("database"), "").expect("make the database");
    std::fs::create_dir(desk.path("logs")).expect("make the directory of logs");
    desk.file("log = { out = \"logs/web.log\" }", "-");
    desk.segue(&["start"]).expect(0);
    desk.segue(&["scale", "web", "3"]).expect(0);
    let reboot = |has_database: bool| {
        desk.segue(&["shutdown"]).expect(0);
        match has_database {
            true => std::fs::write(desk.path("database"), ""),
            false => std::fs::remove_file(desk.path("database")),
        }
        .expect("the database comes or goes");
        // Where there is nothing to start.
        desk.begin_in("cache", &["start"]).wait(LIMIT).expect(0);
    };
    let is_tried_again = |status: &Status| {
        let troubles = status.apps.iter().flat_map(|app| &app.troubles);
        troubles.into_iter().any(|it| it.kind == "tried_again")
    };

    std::fs::remove_dir_all(desk.path("logs")).expect("remove the directory of logs");
    std::fs::write(desk.path("logs"), "").expect("put a file there");
    reboot(false);
    desk.until("it is tried again", is_tried_again);
    let log = desk.own_log();
    for said in [
        "no database",
        "web is tried again in 1 s",
        "cannot open the log file",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    desk.segue(&["status", "--check"]).expect(1);
    std::fs::remove_file(desk.path("logs")).expect("remove the file");
    desk.segue(&["reload", "web"])
        .expect(1)
        .says(&["no database"]);
    // Whoever comes after goes on with it.
    desk.segue(&["upgrade"]).expect(0);
    let supervisor = desk.status().supervisor.pid;
    Process::open(supervisor)
        .expect("it runs")
        .signal(Signal::KILL);
    desk.until("another supervisor", |status| {
        status.supervisor.pid != supervisor
    });
    let remembered = || {
        let text = std::fs::read_to_string(desk.path("state/segue/apps.json"));
        serde_json::from_str::<Value>(&text.expect("the memory")).expect("JSON")
    };
    assert_eq!(remembered()["apps"][0]["is_stopped"], false);
    std::fs::write(desk.path("database"), "").expect("make the database");
    desk.until("it is up, as it was scaled", |status| {
        status.apps.iter().any(|app| ready(app) == 3) && !is_tried_again(status)
    });
    let wanted = desk.path("logs/web.log");
    assert_eq!(
        remembered()["apps"][0]["app"]["log"],
        wanted.display().to_string()
    );

    // Somebody may have enough of it.
    reboot(false);
    desk.until("it is tried again", is_tried_again);
    desk.segue(&["stop", "web"])
        .expect(0)
        .says(&["is not tried again"]);
    assert!(!is_tried_again(&desk.status()));
    reboot(true);
    let app = desk.app("web");
    assert_eq!((app.phase, app.workers.len()), (AppPhase::Finished, 0));
    desk.segue(&["start", "web"]).expect(0);
    assert_eq!(desk.version(desk.web()), "v1");
}
