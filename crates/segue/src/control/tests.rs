//! Server and client over a real socket, with a command loop that plays the supervisor; and
//! callers who do not behave.

use std::path::{Path, PathBuf};
use std::time::Duration;

use segue_wire::control::{
    App, Differences, Notice, Outcome, OutcomeKind, Problem, ProblemCode, Progress, ReloadBody,
    ScaleBody, Status, Story, Wait,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::client::{Client, ClientError, Stream};
use super::command::{Command, Peer, Teller};
use super::find::{FindError, find};
use super::runtime::Place;
use super::server::{may_ask, serve};
use super::socket::ControlSocket;

/// A supervisor without workers.
struct Fixture {
    home: TempDir,
    path: PathBuf,
    /// Tellers of the reloads and streams that were accepted, in order.
    tellers: mpsc::UnboundedReceiver<(Wait, Teller)>,
    ending: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Fixture {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web.sock");
        Self::start_at(home, path, "web")
    }

    fn start_at(home: TempDir, path: PathBuf, app: &'static str) -> Self {
        let socket = ControlSocket::bind(&path).unwrap();
        let (commands, received) = mpsc::channel(8);
        let (tell, tellers) = mpsc::unbounded_channel();
        let (ending, ended) = oneshot::channel::<()>();
        tokio::spawn(play(app, received, tell));
        let server = tokio::spawn(serve(socket, commands, async {
            let _ = ended.await;
        }));
        Self {
            home,
            path,
            tellers,
            ending,
            server,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.path)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    async fn end(self) {
        drop(self.tellers);
        self.ending.send(()).unwrap();
        self.server.await.unwrap().unwrap();
        assert!(!self.path.exists());
    }
}

async fn play(
    app: &'static str,
    mut commands: mpsc::Receiver<Command>,
    tell: mpsc::UnboundedSender<(Wait, Teller)>,
) {
    let status = Status {
        apps: vec![App {
            name: app.to_owned(),
            ..App::default()
        }],
        ..Status::default()
    };
    while let Some(command) = commands.recv().await {
        match command {
            Command::Status { reply } => {
                let _ = reply.send(status.clone());
            }
            Command::Reload {
                app: Some(unknown),
                caller,
                ..
            } if unknown != app => {
                caller.refuse(Problem::no_such_app(&unknown, &[app]));
            }
            Command::Reload { wait, caller, .. } => {
                let _ = tell.send((wait, caller.accept().teller));
            }
            Command::Scale { scale, reply, .. } => {
                let outcome = match scale {
                    ScaleBody::To(to) => Outcome {
                        kind: OutcomeKind::Scaled,
                        to: Some(to),
                        ..Outcome::default()
                    },
                    ScaleBody::By(_) => Outcome {
                        kind: OutcomeKind::Refused,
                        refusal: Some("reloading".to_owned()),
                        text: "refused: a reload is under way".to_owned(),
                        ..Outcome::default()
                    },
                };
                let _ = reply.send(Ok(outcome));
            }
            Command::Compare { reply, .. } => {
                let _ = reply.send(Ok(Differences::default()));
            }
            Command::Start { caller, .. }
            | Command::StartAgain { caller, .. }
            | Command::Delete { caller, .. }
            | Command::Apply { caller, .. }
            | Command::Promote { caller, .. }
            | Command::Rollback { caller, .. }
            | Command::Restart { caller, .. } => {
                let _ = tell.send((Wait::Committed, caller.accept().teller));
            }
            Command::Why { app, reply } => {
                let _ = reply.send(Ok(Story {
                    app: App {
                        name: app,
                        ..App::default()
                    },
                    ..Story::default()
                }));
            }
            // As a supervisor that is at its end.
            Command::Stop { .. } | Command::ReopenLogs { .. } => {}
            Command::Shutdown { caller }
            | Command::Upgrade { caller, .. }
            | Command::Events { caller } => {
                let _ = tell.send((Wait::Committed, caller.accept().teller));
            }
        }
    }
}

fn notice(text: &str) -> Notice {
    Notice {
        text: text.to_owned(),
        ..Notice::default()
    }
}

async fn texts(mut stream: Stream) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(progress) = stream.next().await.unwrap() {
        texts.push(match progress {
            Progress::Notice(notice) => notice.text,
            Progress::Outcome(outcome) => format!("outcome {}", outcome.text),
            Progress::Missed(missed) => format!("missed {}", missed.count),
        });
    }
    texts
}

/// Sends bytes and returns the first line of the answer, or nothing if there was none.
async fn say(stream: &mut UnixStream, bytes: &[u8]) -> String {
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn status_and_scale() {
    let fixture = Fixture::start();
    let status = fixture.client().status().await.unwrap();
    assert_eq!(status.apps[0].name, "web");
    let scaled = fixture
        .client()
        .scale("web", ScaleBody::To(3))
        .await
        .unwrap();
    assert_eq!((scaled.kind, scaled.to), (OutcomeKind::Scaled, Some(3)));
    let refused = fixture.client().scale("web", ScaleBody::By(1)).await;
    let Err(ClientError::Refused(problem)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(problem.code, ProblemCode::Conflict);
    fixture.end().await;
}

#[tokio::test]
async fn a_reload_is_told_step_by_step() {
    let mut fixture = Fixture::start();
    let drained = ReloadBody {
        wait: Wait::Drained,
        ..ReloadBody::default()
    };
    let stream = fixture.client().reload(Some("web"), drained).await.unwrap();
    let (wait, teller) = fixture.tellers.recv().await.unwrap();
    assert_eq!(wait, Wait::Drained);
    teller.notice(&notice("boots"));
    teller.notice(&notice("ready"));
    teller.outcome(Outcome {
        text: "committed".to_owned(),
        ..Outcome::default()
    });
    drop(teller);
    assert_eq!(texts(stream).await, ["boots", "ready", "outcome committed"]);
    fixture.end().await;
}

#[tokio::test]
async fn the_supervisor_is_told_who_calls() {
    let (commands, mut asked) = mpsc::channel(1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segue.sock");
    let (ending, ended) = oneshot::channel::<()>();
    let socket = ControlSocket::bind(&path).unwrap();
    let server = tokio::spawn(serve(socket, commands, async {
        let _ = ended.await;
    }));
    let own = rustix::process::geteuid().as_raw();
    for is_command in [true, false] {
        let client = Client::new(&path);
        let order = async {
            match is_command {
                true => drop(client.order("web", "rollback").await),
                false => {
                    let mut stream = UnixStream::connect(&path).await.unwrap();
                    let request = b"POST /v1/apps/web/rollback HTTP/1.1\r\nHost: x\r\n\r\n";
                    say(&mut stream, request).await;
                }
            }
        };
        let answer = async {
            let Some(Command::Rollback { app, caller }) = asked.recv().await else {
                panic!("another command");
            };
            assert_eq!(app, "web");
            let expected = Peer {
                uid: own,
                pid: Some(std::process::id()),
                is_command,
            };
            assert_eq!(caller.accept().peer, expected);
        };
        tokio::join!(order, answer);
    }
    ending.send(()).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn problems_reach_the_caller() {
    let fixture = Fixture::start();
    let unknown = fixture
        .client()
        .reload(Some("api"), ReloadBody::default())
        .await;
    let Err(ClientError::Refused(problem)) = unknown else {
        panic!("{unknown:?}");
    };
    assert_eq!(problem.code, ProblemCode::NoSuchApp);
    assert_eq!(problem.next, "it runs: web");
    let ending = fixture.client().order("web", "stop").await;
    let Err(ClientError::Refused(problem)) = ending else {
        panic!("{ending:?}");
    };
    assert_eq!(problem.code, ProblemCode::Ending);
    fixture.end().await;
}

#[tokio::test]
async fn a_caller_that_leaves_is_forgotten_and_harms_nobody() {
    let mut fixture = Fixture::start();
    let stream = fixture
        .client()
        .reload(None, ReloadBody::default())
        .await
        .unwrap();
    let (_, teller) = fixture.tellers.recv().await.unwrap();
    drop(stream);
    while !teller.is_gone() {
        tokio::task::yield_now().await;
    }
    teller.outcome(Outcome::default());
    fixture.client().status().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn the_last_words_arrive_when_the_supervisor_ends() {
    let mut fixture = Fixture::start();
    let stream = fixture.client().shutdown().await.unwrap();
    let (_, teller) = fixture.tellers.recv().await.unwrap();
    teller.outcome(Outcome {
        text: "stopped".to_owned(),
        ..Outcome::default()
    });
    drop(teller);
    let idle = fixture.connect().await;
    let (texts, ()) = tokio::join!(texts(stream), fixture.end());
    assert_eq!(texts, ["outcome stopped"]);
    drop(idle);
}

#[tokio::test]
async fn garbage_is_answered_or_cut_off() {
    let fixture = Fixture::start();
    let huge_head = format!(
        "GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(100_000)
    );
    for (bytes, expected) in [
        (
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".as_slice(),
            "HTTP/1.1 400 Bad Request",
        ),
        (b"hello\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n",
            "HTTP/1.1 404 Not Found",
        ),
        (
            b"PUT /v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
            "HTTP/1.1 405 Method Not Allowed",
        ),
        (
            b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n{{{",
            "HTTP/1.1 400 Bad Request",
        ),
        (
            b"POST /v1/reload HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 400 Bad Request",
        ),
        (
            huge_head.as_bytes(),
            "HTTP/1.1 431 Request Header Fields Too Large",
        ),
    ] {
        let answer = say(&mut fixture.connect().await, bytes).await;
        assert_eq!(
            answer,
            expected,
            "{:?}",
            String::from_utf8_lossy(&bytes[..20.min(bytes.len())])
        );
    }
    fixture.client().status().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn a_huge_body_is_refused_unread() {
    let fixture = Fixture::start();
    let mut stream = fixture.connect().await;
    let mut request =
        b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    request.extend(std::iter::repeat_n(b' ', segue_wire::control::MAX_BODY + 1));
    stream.write_all(&request).await.unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 413");
    fixture.end().await;
}

#[tokio::test(start_paused = true)]
async fn slow_requests_are_cut_off() {
    let fixture = Fixture::start();
    let started = tokio::time::Instant::now();
    let answer = say(&mut fixture.connect().await, b"GET /v1/sta").await;
    assert_eq!(answer, "");
    assert_eq!(started.elapsed().as_secs(), 10);

    let half = b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    let answer = say(&mut fixture.connect().await, half).await;
    assert_eq!(answer, "HTTP/1.1 408 Request Timeout");
    fixture.end().await;
}

#[tokio::test]
async fn idle_connections_make_room_for_requests() {
    let fixture = Fixture::start();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(fixture.connect().await);
    }
    let client = fixture.client();
    let status = tokio::time::timeout(Duration::from_secs(5), client.status());
    status.await.unwrap().unwrap();
    // The oldest had to go.
    let mut closed = [0; 1];
    assert_eq!(idle[0].read(&mut closed).await.unwrap(), 0);
    drop(idle);
    fixture.end().await;
}

#[tokio::test]
async fn streams_leave_room_for_requests() {
    let mut fixture = Fixture::start();
    let mut streams = Vec::new();
    let refused = loop {
        match fixture.client().events().await {
            Ok(stream) => streams.push((stream, fixture.tellers.recv().await.unwrap())),
            Err(error) => break error,
        }
    };
    assert_eq!(streams.len(), 48);
    let ClientError::Refused(problem) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(problem.code, ProblemCode::Busy);
    // Nobody reads these, however much they are told.
    for _ in 0..2000 {
        for (_, (_, teller)) in &streams {
            teller.notice(&notice("news"));
        }
        tokio::task::yield_now().await;
    }
    fixture.client().status().await.unwrap();
    drop(streams);
    fixture.end().await;
}

#[test]
fn only_the_own_user_and_root_may_ask() {
    for (caller, own, may) in [
        (1000, 1000, true),
        (0, 1000, true),
        (1001, 1000, false),
        (1000, 0, false),
    ] {
        assert_eq!(may_ask(caller, own), may, "{caller} asks {own}");
    }
}

fn place(home: &Path) -> Place {
    Place {
        uid: rustix::process::geteuid().as_raw(),
        xdg_runtime_dir: Some(home.to_owned()),
        run: home.join("run"),
        tmp: home.join("tmp"),
    }
}

#[tokio::test]
async fn the_supervisor_that_is_meant_is_found() {
    let home = tempfile::tempdir().unwrap();
    let place = place(home.path());
    let found = find(None, None, &place).await;
    assert!(matches!(found, Err(FindError::None { .. })), "{found:?}");

    let directory = place.directory().unwrap();
    let web = Fixture::start_at(
        tempfile::tempdir().unwrap(),
        directory.join("web.sock"),
        "web",
    );
    // Left behind by a supervisor that was killed.
    drop(ControlSocket::bind(&directory.join("dead.sock")).unwrap());
    for app in [None, Some("web")] {
        let found = find(None, app, &place).await.unwrap();
        assert_eq!(found.client.path(), web.path);
    }
    let found = find(None, Some("api"), &place).await;
    let Err(FindError::NoSuchApp { known, .. }) = found else {
        panic!("{found:?}");
    };
    assert_eq!(known, ["web"]);

    let api = Fixture::start_at(
        tempfile::tempdir().unwrap(),
        directory.join("api.sock"),
        "api",
    );
    let found = find(None, Some("api"), &place).await.unwrap();
    assert_eq!(found.client.path(), api.path);
    let Err(error @ FindError::Several(_)) = find(None, None, &place).await else {
        panic!("two are running");
    };
    let directory = directory.display();
    let expected = format!(
        "several supervisors are running: {directory}/api.sock (api), {directory}/web.sock (web)"
    );
    assert_eq!(error.to_string(), expected);

    let named = find(Some(web.path.clone()), None, &place).await.unwrap();
    assert_eq!(named.status.apps[0].name, "web");
    let named = find(Some(web.path.clone()), Some("api"), &place).await;
    assert!(matches!(named, Err(FindError::NoSuchApp { .. })));
    let gone = find(Some(web.home.path().join("no.sock")), None, &place).await;
    assert!(matches!(
        gone,
        Err(FindError::Client(ClientError::NotRunning { .. }))
    ));
    web.end().await;
    api.end().await;
}
