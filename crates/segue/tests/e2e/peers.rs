//! Clients that do not behave as most do, on connections that a reload finds open: none of them may
//! crash a worker, lose an answer, or hold an old generation beyond its time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch, Run};

fn connect(run: &Run) -> TcpStream {
    let stream = TcpStream::connect(run.address()).expect("connect");
    stream
        .set_read_timeout(Some(LIMIT))
        .expect("set a time limit");
    stream
}

fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("send");
}

/// One answer with a length.
#[track_caller]
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut byte).expect("read the head of an answer");
        assert_eq!(read, 1, "cut off: {}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).expect("a head");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.parse().expect("a length"));
    let mut body = vec![0; length];
    stream
        .read_exact(&mut body)
        .expect("read the body of an answer");
    head + &String::from_utf8_lossy(&body)
}

#[track_caller]
fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well; a time-out is not.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

const WARM: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_client_of_http_1_0_keeps_its_connection_or_is_told_that_it_ends() {
    each_node(|node| {
        let run = Launch::node("plain.js").with_node(node).start();
        let ask = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let mut kept = connect(&run);
        say(&mut kept, ask);
        assert!(answer(&mut kept).contains("x-segue-version: v1"));
        // Sent in halves, the reload between them: the old version began, the old one answers.
        let mut cut = connect(&run);
        say(&mut cut, ask);
        answer(&mut cut);
        say(&mut cut, &ask[..20]);
        run.roll("v2", "plain.js");
        say(&mut cut, &ask[20..]);
        assert!(answer(&mut cut).contains("200 OK"));
        say(&mut kept, ask);
        let got = answer(&mut kept);
        assert!(got.contains("200 OK"), "{got}");
        drop((kept, cut));
        run.until("the old generation is gone", |app| app.workers.len() == 2);
        run.finish();
    });
}

/// Node ends such a connection, also under a request; a reload must not make a hang of it.
#[test]
fn connections_whose_client_has_closed_its_half_end() {
    each_node(|node| {
        let run = Launch::node("plain.js").with_node(node).start();
        let warm = || {
            let mut stream = connect(&run);
            say(&mut stream, WARM);
            answer(&mut stream);
            stream
        };
        let close = |stream: &TcpStream| stream.shutdown(Shutdown::Write).expect("close our half");
        let (mut before, mut after, mut busy) = (warm(), warm(), warm());
        close(&before);
        say(&mut busy, "GET /delay?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n");
        close(&busy);
        run.roll("v2", "plain.js");
        close(&after);
        expect_end(&mut before);
        expect_end(&mut after);
        expect_end(&mut busy);
        run.until("the old generation is gone", |app| app.workers.len() == 2);
        assert_eq!(run.get("/").version(), "v2");
        run.finish();
    });
}

#[test]
fn half_a_request_is_waited_for_and_silence_ends_at_the_deadline() {
    each_node(|node| {
        let run = Launch::node("plain.js")
            .with_node(node)
            .flag("--drain-timeout", "4s")
            .start();
        let old = run.ready_pids();
        let mut silent = connect(&run);
        say(&mut silent, WARM);
        answer(&mut silent);
        say(
            &mut silent,
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
        );
        let mut head = connect(&run);
        say(&mut head, "GET / HTTP/1.1\r\nHo");
        let mut slow = connect(&run);
        say(
            &mut slow,
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
        );
        run.roll("v2", "plain.js");
        say(&mut slow, "67890");
        let got = answer(&mut slow);
        assert!(
            got.contains("x-segue-version: v1") && got.ends_with("1234567890"),
            "{got}"
        );
        run.until("the old generation is gone", |app| app.workers.len() == 2);
        assert!(old.iter().all(|pid| !run.processes().contains(pid)));
        // Nothing, or a 408; then the end.
        for stream in [&mut silent, &mut head] {
            let mut rest = Vec::new();
            // How it ends is the same here.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"));
        }
        run.finish();
    });
}

/// Told `Connection: close`, it goes on asking on the same connection.
#[test]
fn a_client_that_ignores_the_announcement_does_not_hold_the_worker() {
    let run = Launch::node("plain.js")
        .flag("--drain-idle", "close")
        .start();
    let mut stream = connect(&run);
    say(&mut stream, WARM);
    answer(&mut stream);
    run.roll("v2", "plain.js");
    // The command returns at the commit; the old worker hears of its end a moment later.
    let deadline = Instant::now() + LIMIT;
    loop {
        say(&mut stream, WARM);
        if answer(&mut stream)
            .to_lowercase()
            .contains("connection: close")
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "no announcement\n{}",
            run.log.render()
        );
    }
    // The end may be there before this is written.
    let _ = stream.write_all(WARM.as_bytes());
    expect_end(&mut stream);
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    run.finish();
}
