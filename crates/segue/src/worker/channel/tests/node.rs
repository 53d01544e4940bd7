//! The channel to a real worker: the `node` on PATH.

use std::net::TcpListener;
use std::os::unix::net::UnixStream as Pair;
use std::process::{Command, Stdio};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::*;
use super::fake::{SOCKET, deposit, end, hear, next};

#[tokio::test]
async fn a_real_worker_serves_and_leaves() {
    const APP: &str = "require('http').createServer((q, s) => s.end('served')).listen(0)";
    let directory = tempfile::tempdir().expect("a directory");
    let app = directory.path().join("app.js");
    std::fs::write(&app, APP).expect("it is writable");
    let (ours, theirs) = Pair::pair().expect("a socket pair");
    let mut node = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; exec node \"$1\"", "sh"])
        .arg(&app)
        .envs([
            ("NODE_CHANNEL_FD", "3"),
            ("NODE_CHANNEL_SERIALIZATION_MODE", "json"),
            ("NODE_UNIQUE_ID", "7"),
        ])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("sh is there");
    let (sender, heard) = mpsc::unbounded_channel();
    let channel = Channel::open(WorkerId(7), ours.into(), sender, Journal::nowhere());
    let mut reports = hear(heard);

    assert_eq!(next(&mut reports).await, Report::Online);
    let Report::Query(query) = next(&mut reports).await else {
        panic!("it asked")
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    channel.give(
        query.seq,
        "k",
        &query.data,
        (SOCKET, listener.into()),
        HandleType::NetNative,
    );
    let Report::Listening { place, .. } = next(&mut reports).await else {
        panic!("it listens")
    };
    assert_eq!(place.port, Some(address.port().into()));

    let (client, server) = UnixStream::pair().expect("a socket pair");
    let server = server.into_std().expect("ours alone");
    channel
        .hand_over("k", None, deposit(server))
        .await
        .expect("it is accepted");
    for mut client in [
        Box::new(client) as Box<dyn Stream>,
        Box::new(
            tokio::net::TcpStream::connect(address)
                .await
                .expect("it listens"),
        ),
    ] {
        client
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .await
            .expect("it reads");
        let mut answer = String::new();
        client
            .read_to_string(&mut answer)
            .await
            .expect("it answers");
        assert!(answer.ends_with("served"), "{answer}");
    }
    channel.disconnect();
    assert_eq!(next(&mut reports).await, Report::Closed { key: "k".into() });
    assert_eq!(end(&mut reports).await, End::Eof);
    let status = thread::spawn(move || node.wait())
        .join()
        .expect("it waits")
        .expect("our child");
    assert!(status.success(), "{status}");
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for T {}
