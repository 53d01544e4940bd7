//! What programs print that is no plain line: too long, no text, or meant for whoever looks at it. And
//! what is done to the place where it goes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::terminal::Terminal;
use crate::harness::{is_root, skip};

const LONG: usize = 10 << 20;

fn logged(format: &str) -> (Launch, PathBuf) {
    let launch = Launch::node("raw.js").workers("1").flag("--name", "web");
    let path = launch.site.path("logs/web.log");
    std::fs::create_dir(launch.site.path("logs")).expect("make the directory of logs");
    let launch = launch.flag("--log", &path).flag("--log-format", format);
    (launch, path)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn print(run: &Run, bytes: &[u8], times: usize) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let answer = run.get(&format!("/raw?hex={hex}&times={times}"));
    assert_eq!(answer.status, 200);
}

/// The number in `… 12 lines dropped`, wherever it says so.
fn dropped(text: &str) -> usize {
    let notes = text
        .split("… ")
        .filter(|note| note.contains(" lines dropped"));
    notes
        .filter_map(|note| note.split(' ').next()?.parse::<usize>().ok())
        .sum()
}

/// The worker goes on, in a time that has a bound, and every byte is there or said to be dropped.
#[test]
fn a_line_of_ten_megabytes_comes_in_pieces() {
    for format in ["text", "json"] {
        let (launch, path) = logged(format);
        let run = launch.start();
        let began = Instant::now();
        print(&run, b"x", LONG);
        print(&run, b"\nafter\n", 1);
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
        run.until("the next line has come", |_| {
            contains(&read(&path), b"after")
        });
        let text = String::from_utf8(read(&path)).expect("text");
        let count = text.matches('x').count();
        let longest = text.lines().map(str::len).max();
        assert!(
            longest.is_some_and(|longest| longest < 66 << 10),
            "{longest:?}"
        );
        // A piece is at most 64 KiB.
        let missing = LONG.saturating_sub(count).div_ceil(64 << 10);
        assert!(
            count <= LONG && missing <= dropped(&text),
            "{format}: {count}"
        );
        let last = text.lines().last().expect("a line");
        match format {
            "text" => {
                assert!(text.contains(" …\nweb.0 | … x"), "it says that it goes on");
                assert_eq!(last, "web.0 | after");
            }
            _ => {
                let lines = text.lines().map(serde_json::from_str::<Value>);
                let lines: Vec<Value> = lines.map(|line| line.expect("an object")).collect();
                let pieces = lines.iter().filter(|line| line["cut"] == true);
                assert!(pieces.count() + dropped(&text) >= LONG / (64 << 10) - 1);
                assert_eq!(lines.last().expect("a line")["line"], "after");
            }
        }
        run.finish();
    }
}

#[test]
fn bytes_that_are_no_text_are_kept_in_text_and_marked_in_json() {
    let binary = b"\0\x01\xff\xfe\x80 \x1b[31mred\x1b[0m \xe2\x82\xac \xe2\x82";
    let (launch, path) = logged("text");
    let run = launch.start();
    print(&run, &[binary.as_slice(), b"\n"].concat(), 1);
    let expected = [b"web.0 | ".as_slice(), binary, b"\n"].concat();
    run.until("it has come", |_| read(&path) == expected);
    // A pipe gets them as they are; a command's own JSON is JSON all the same.
    let shown = run.segue(&["logs", "--json"]);
    let object: Value = serde_json::from_str(&shown.expect(0).out).expect("an object");
    assert!(
        object["line"]
            .as_str()
            .is_some_and(|line| line.ends_with("€ \u{fffd}"))
    );
    run.finish();

    let (launch, path) = logged("json");
    let run = launch.start();
    print(&run, &[binary.as_slice(), b"\n"].concat(), 1);
    print(&run, b"whole\n", 1);
    run.until("it has come", |_| contains(&read(&path), b"whole"));
    let text = String::from_utf8(read(&path)).expect("JSON is UTF-8");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    assert_eq!(lines[0]["invalid_utf8"], true);
    let line = lines[0]["line"].as_str().expect("a line");
    assert_eq!(line, String::from_utf8_lossy(binary));
    assert!(lines[1].get("invalid_utf8").is_none(), "{text}");
    run.finish();
}

/// Clears the screen, renames the window, hides what follows, and writes over the line.
const EVIL: &[u8] = b"a\x1b[2J\x1b]0;owned\x07\x1b[8mb\rsegue: all is well\xc2\x9b2J";
const HARMLESS: &str = "a\\x1b[2J\\x1b]0;owned\\x07\\x1b[8mb\\rsegue: all is well\\u{9b}2J";

#[test]
fn a_terminal_shows_control_characters_and_obeys_none() {
    let terminal = Terminal::open();
    let launch = Launch::node("raw.js").workers("1").flag("--name", "web");
    let run = launch.start_on(&terminal);
    print(&run, &[EVIL, b"\n\x1b[32mgreen\nend\n"].concat(), 1);
    let shown = terminal.wait_for("end\n", LIMIT);
    assert!(shown.contains(&format!(" {HARMLESS}\n")), "{shown:?}");
    // Colours are let through, and end with their line.
    assert!(shown.contains("\x1b[32mgreen\x1b[0m\n"), "{shown:?}");
    run.finish();
}

#[test]
fn a_terminal_that_is_shown_a_log_obeys_none_of_it() {
    for format in ["text", "json"] {
        let (launch, path) = logged(format);
        let run = launch.start();
        print(&run, &[EVIL, b"\nend\n"].concat(), 1);
        run.until("it has come", |_| contains(&read(&path), b"end"));
        if format == "text" {
            assert!(contains(&read(&path), EVIL), "the file has it as it is");
        }
        for json in [false, true] {
            let terminal = Terminal::open();
            let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
            command.arg("logs").arg("--control").arg(&run.control);
            if json {
                command.arg("--json");
            }
            let mut child = terminal.start(&mut command);
            let shown = terminal.wait_for("end", LIMIT);
            assert!(child.wait().expect("its end").success(), "{shown:?}");
            let ours = [
                "\x1b[0m", "\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[35m", "\x1b[36m",
            ];
            let rest = ours
                .iter()
                .fold(shown.clone(), |rest, code| rest.replace(code, ""));
            let acts = |c: char| c.is_control() && c != '\n';
            assert!(!rest.contains(acts), "{format} {json}: {shown:?}");
            if !json {
                assert!(shown.contains(HARMLESS), "{shown:?}");
                assert!(
                    shown.contains("web.0 |\x1b[0m"),
                    "the name is coloured: {shown:?}"
                );
            }
        }
        run.finish();
    }
}

#[test]
fn a_directory_of_logs_that_is_removed_is_missed_and_used_again() {
    let (launch, path) = logged("text");
    let run = launch
        .flag("--log-rotate-size", "4KiB")
        .flag("--log-rotate-keep", "100")
        .start();
    print(&run, b"before\n", 1);
    run.until("it is written", |_| contains(&read(&path), b"before"));
    std::fs::remove_dir_all(run.site.path("logs")).expect("remove the directory");
    let mark = run.log.mark();
    print(&run, b"into what is gone\n", 1000);
    let said = run.log.wait_for(mark, "cannot rotate the log file", LIMIT);
    assert!(said.text.contains("No such file"), "{}", said.text);
    print(&run, b"still\n", 1000);
    run.roll("v2", "raw.js");
    std::fs::create_dir(run.site.path("logs")).expect("make it again");
    let mark = run.log.mark();
    run.signal(Signal::USR1);
    run.log.wait_for(mark, "opened anew", LIMIT);
    print(&run, b"after\n", 1);
    run.until("it is written again", |_| {
        contains(&read(&path), b"| after\n")
    });
    run.finish();
}

/// A file system that is small, as long as it is there.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]);
        let output = command.arg(path).output().ok()?;
        output.status.success().then(|| Self(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Where it stays, so does the test's directory.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up_keeps_nobody_waiting_and_what_is_lost_is_counted() {
    if !is_root() {
        return skip("only root can mount a small file system");
    }
    let (launch, path) = logged("text");
    let Some(_small) = Small::mount(&launch.site.path("logs")) else {
        return skip("a small file system cannot be mounted here");
    };
    let run = launch.start();
    // What an operator will remove.
    std::fs::write(run.site.path("logs/filler"), vec![0; 256 << 10]).expect("fill half of it");
    let line = [b"y".repeat(99).as_slice(), b"\n"].concat();
    let began = Instant::now();
    let mut printed = 0;
    for _ in 0..20 {
        print(&run, &line, 500);
        printed += 500;
    }
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    run.log
        .wait_for(0, "cannot be written: No space left on device", LIMIT);
    run.roll("v2", "raw.js");
    std::fs::remove_file(run.site.path("logs/filler")).expect("make room");
    print(&run, b"after\n", 1);
    run.until("it is written again", |_| {
        contains(&read(&path), b"| after\n")
    });
    run.log.wait_for(0, "is written again; ", LIMIT);
    let text = String::from_utf8(read(&path)).expect("text");
    let lost: usize = text
        .split("segue: … ")
        .filter(|note| note.contains(" lines lost: "))
        .filter_map(|note| note.split(' ').next()?.parse::<usize>().ok())
        .sum();
    let whole = text.lines().filter(|line| line.ends_with(&"y".repeat(99)));
    let kept = whole.count();
    assert!(lost > 0 && kept > 0, "{lost} {kept}");
    // One may have been cut where the disk was full: it is there in part, and lost.
    let all = kept + lost + dropped(&text);
    assert_eq!(
        all,
        printed,
        "{kept} kept, {lost} lost, {} dropped",
        dropped(&text)
    );
    run.finish();
}
