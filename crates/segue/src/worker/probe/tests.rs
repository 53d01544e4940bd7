//! The probe against servers that answer well, badly, late or not at all.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use segue_sys::socket;

use super::*;
use crate::config::keys::KEYS;
use crate::config::settings::AppSettings;

fn question(statuses: &str) -> Question {
    let mut settings = AppSettings::default();
    let key = KEYS.iter().find(|key| key.flag == "probe-status").unwrap();
    key.set(&mut settings, statuses).unwrap();
    Question {
        path: "/healthz".into(),
        status: settings.probe.status,
        timeout: Duration::from_secs(20),
        headers: vec![("X-Probe".into(), "yes".into())],
        host: None,
    }
}

fn road(target: SocketAddr) -> Road {
    let socket = socket::bind_client(target, false).unwrap();
    let source = socket::local_address(&socket).unwrap();
    Road::Tcp {
        socket,
        source,
        target,
    }
}

fn subject(target: SocketAddr, pids: &[u32]) -> Subject {
    Subject {
        road: road(target),
        is_tls: false,
        pids: pids.to_vec(),
    }
}

/// Accepts one connection, reads the request and answers with these bytes.
fn serve(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                count => request.extend_from_slice(&buffer[..count]),
            }
        }
        stream.write_all(answer).unwrap();
        request
    });
    (address, server)
}

async fn check(statuses: &str, answer: &'static [u8]) -> Result<(), Failed> {
    let (address, server) = serve(answer);
    let accepted = AtomicBool::new(false);
    let own = std::process::id();
    let question = question(statuses);
    let asked = ask(&question, subject(address, &[own]), || {
        accepted.store(true, Ordering::Relaxed);
    });
    let result = asked.await;
    assert!(accepted.load(Ordering::Relaxed));
    let request = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(
        request.starts_with("GET /healthz HTTP/1.1\r\n"),
        "{request}"
    );
    let lower = request.to_lowercase();
    assert!(
        lower.contains(&format!("\r\nhost: {address}\r\n")),
        "{request}"
    );
    assert!(lower.contains("\r\nx-probe: yes\r\n"), "{request}");
    result
}

#[tokio::test]
async fn the_status_decides() {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(check("2xx", ok).await, Ok(()));
    assert_eq!(
        check("204", ok).await,
        Err(ProbeFailure::Status(200).into())
    );
    let error = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        check("2xx", error).await,
        Err(ProbeFailure::Status(503).into())
    );
    // Until the end of the connection.
    assert_eq!(check("2xx", b"HTTP/1.0 200 OK\r\n\r\nbody").await, Ok(()));
}

#[tokio::test]
async fn what_is_no_answer_has_a_name() {
    let failure = |result: Result<(), Failed>| result.unwrap_err().failure;
    assert_eq!(failure(check("2xx", b"").await), ProbeFailure::Closed);
    assert_eq!(
        failure(check("2xx", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await),
        ProbeFailure::Closed
    );
    assert_eq!(
        failure(check("2xx", b"SSH-2.0-OpenSSH_9.6\r\n").await),
        ProbeFailure::NotHttp
    );
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let question = question("2xx");
    let asked = ask(&question, subject(nobody, &[1]), || {});
    assert_eq!(failure(asked.await), ProbeFailure::Refused);
}

#[tokio::test(start_paused = true)]
async fn it_does_not_wait_for_ever() {
    // Nobody accepts.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let question = question("2xx");
    let asked = ask(&question, subject(address, &[1]), || {
        panic!("nobody has accepted it")
    });
    assert_eq!(asked.await, Err(ProbeFailure::TimedOut.into()));
}

#[tokio::test]
async fn the_answer_of_another_process_is_not_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        request
    });
    let mut another = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let question = question("2xx");
    let asked = ask(&question, subject(address, &[another.id()]), || {
        panic!("it is not the one that was meant")
    });
    let failed = asked.await.unwrap_err();
    assert_eq!(failed.failure, ProbeFailure::Other);
    assert!(failed.detail.unwrap().contains("another process"));
    assert_eq!(server.join().unwrap(), b"");
    drop(another.stdin.take());
    another.wait().unwrap();
}

#[tokio::test]
async fn a_path_is_asked_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    });
    let folder = socket::open_directory(directory.path()).unwrap();
    let socket = socket::connect_path(
        std::os::fd::AsFd::as_fd(&folder),
        std::ffi::OsStr::new("app.sock"),
    )
    .unwrap();
    let subject = Subject {
        road: Road::Connected(socket),
        is_tls: false,
        pids: vec![1, std::process::id()],
    };
    assert_eq!(ask(&question("2xx"), subject, || {}).await, Ok(()));
    let request = server.join().unwrap().to_lowercase();
    assert!(request.contains("\r\nhost: localhost\r\n"), "{request}");
}

/// Node speaks TLS, and HTTP/2 where that is all it is to speak.
#[tokio::test]
async fn tls_and_http2_are_spoken() {
    const SERVER: &str = r"
        const fs = require('fs');
        const pem = (name) => fs.readFileSync(process.argv[2] + '/tls-' + name + '.pem');
        const options = { key: pem('key'), cert: pem('cert'), allowHTTP1: process.argv[3] === 'both' };
        const answer = (req, res) => { res.statusCode = req.headers['x-probe'] ? 204 : 500; res.end(); };
        const server = process.argv[3] === 'https'
          ? require('https').createServer(options, answer)
          : require('http2').createSecureServer(options, answer);
        server.listen(0, '127.0.0.1', () => console.log(server.address().port));";
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    for kind in ["https", "h2", "both"] {
        let mut node = std::process::Command::new("node")
            .args(["-", fixtures, kind])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the tests need node");
        let mut script = node.stdin.take().unwrap();
        script.write_all(SERVER.as_bytes()).unwrap();
        drop(script);
        let mut port = String::new();
        let mut out = io::BufReader::new(node.stdout.take().unwrap());
        io::BufRead::read_line(&mut out, &mut port).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
        let tls = Subject {
            is_tls: true,
            ..subject(address, &[node.id()])
        };
        assert_eq!(ask(&question("204"), tls, || {}).await, Ok(()), "{kind}");
        let named = Question {
            host: Some("example.org".into()),
            ..question("204")
        };
        let tls = Subject {
            is_tls: true,
            ..subject(address, &[node.id()])
        };
        assert_eq!(ask(&named, tls, || {}).await, Ok(()), "{kind}");
        node.kill().unwrap();
        node.wait().unwrap();
    }
    // A server without TLS.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let tls = Subject {
        is_tls: true,
        ..subject(address, &[std::process::id()])
    };
    let failed = ask(&question("2xx"), tls, || {}).await.unwrap_err();
    assert_eq!(failed.failure, ProbeFailure::NotHttp, "{failed:?}");
    server.join().unwrap();
}
