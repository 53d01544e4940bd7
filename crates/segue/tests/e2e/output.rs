//! What the workers print reaches the supervisor's own output: prefixed, in whole lines, nothing mixed.

use std::collections::BTreeSet;
use std::sync::mpsc;

use crate::harness::http;
use crate::harness::output::Stream;
use crate::harness::run::{LIMIT, Launch};

#[test]
fn the_banner_says_what_runs_and_where() {
    let run = Launch::node("plain.js").flag("--name", "shop").start();
    let port = run.site.port.number().to_string();
    run.log.wait_for(0, &port, LIMIT);
    assert!(run.log.contains("shop"), "{}", run.log.render());
    assert!(
        !run.log.contains("\u{1b}["),
        "no colours where there is no terminal"
    );
    run.finish();
}

#[test]
fn lines_of_several_workers_are_never_mixed() {
    let run = Launch::node("plain.js").workers("3").start();
    let (done, ends) = mpsc::channel();
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for letter in letters {
        let (address, done) = (run.address(), done.clone());
        std::thread::spawn(move || {
            let path = format!("/print?text={letter}&repeat=3000&lines=20");
            done.send(http::get(address, &path).is_ok())
        });
    }
    for _ in letters {
        assert_eq!(ends.recv_timeout(LIMIT), Ok(true));
    }
    let long = |line: &crate::harness::output::Line| line.text.len() >= 3000;
    run.until("every line has come", |_| {
        run.log.lines().iter().filter(|line| long(line)).count() >= 160
    });
    let mut prefixes = BTreeSet::new();
    for line in run.log.lines().iter().filter(|line| long(line)) {
        assert_eq!(line.stream, Stream::Out);
        let (prefix, text) = line.text.split_at(line.text.len() - 3000);
        let first = text.chars().next().expect("a letter");
        assert!(
            text.chars().all(|letter| letter == first),
            "mixed: {}",
            line.text
        );
        assert!(prefix.len() > 2, "a prefix names the worker: {prefix:?}");
        prefixes.insert(prefix.to_owned());
    }
    assert!(prefixes.len() >= 2, "{prefixes:?}");
    run.finish();
}

#[test]
fn stderr_of_workers_goes_to_stderr() {
    let run = Launch::standin("stderr=a_word_of_warning").start();
    let line = run.log.wait_for(0, "a word of warning", LIMIT);
    assert_eq!(line.stream, Stream::Err);
    run.finish();
}

#[test]
fn the_last_words_of_a_worker_are_not_lost() {
    let (code, run) = Launch::standin("stderr=my_last_words exit-at-boot=3").start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(run.log.contains("my last words"), "{}", run.log.render());
}
