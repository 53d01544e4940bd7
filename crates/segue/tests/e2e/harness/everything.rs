//! The whole load at once, against the fixture `everything.js`: every kind of client that the
//! product promises anything to, in small numbers.

use std::time::Duration;

use segue_load::{
    Builder, Contract, Download, Fresh, Http2, KeepAlive, Load, Mixed, Phase, Post, Think, Tls,
    Upload, WebSocket,
};

use super::certificate;
use super::load::{Clients, assert_flawless, render};
use super::nodes::Node;
use super::run::{Launch, Run};

/// Where the clients are.
#[derive(Debug)]
pub(crate) struct Everything {
    plain: Clients,
    tls: Clients,
    http2: Clients,
}

/// The app that serves them.
pub(crate) fn app(node: &Node) -> Launch {
    Launch::node("everything.js")
        .with_node(node)
        .with_frameworks()
        .flag("--websocket-close-after", "1s")
}

fn load() -> Builder {
    Load::builder()
        .contract(Contract::full())
        .answer_timeout(Duration::from_secs(20))
}

impl Everything {
    /// Starts all of it and waits for the first answers.
    pub(crate) fn start(run: &Run) -> Self {
        let plain = load()
            .with(Fresh {
                clients: 5,
                ..Fresh::default()
            })
            .with(KeepAlive {
                clients: 5,
                ..KeepAlive::default()
            })
            .with(Think {
                clients: 10,
                ..Think::default()
            })
            .with(Post {
                clients: 3,
                ..Post::default()
            })
            .with(Download {
                clients: 2,
                ..Download::default()
            })
            .with(Upload {
                clients: 2,
                ..Upload::default()
            })
            .with(WebSocket {
                clients: 10,
                ..WebSocket::default()
            })
            .with(Mixed {
                clients: 20,
                ..Mixed::default()
            });
        let tls = load().with(Mixed {
            clients: 10,
            pipeline: 1,
            ..Mixed::default()
        });
        let http2 = load().with(Http2 {
            clients: 5,
            ..Http2::default()
        });
        let address = (run.address().ip(), run.site.other_port.number()).into();
        let trust = "the fixtures' certificate";
        Self {
            plain: Clients::start(plain, run.address()),
            tls: Clients::start(tls, Tls::new(address, &certificate()).expect(trust)),
            http2: Clients::start(http2, Tls::http2(address, &certificate()).expect(trust)),
        }
    }

    fn each(&self) -> [&Clients; 3] {
        [&self.plain, &self.tls, &self.http2]
    }

    pub(crate) fn mark(&self, name: &str, phase: Phase) {
        for clients in self.each() {
            clients.mark(name, phase);
        }
    }

    pub(crate) fn committed(&self, version: &str) {
        for clients in self.each() {
            clients.committed(version);
        }
    }

    /// Waits for so many answers from now on, and a few of each other kind of connection.
    pub(crate) fn wait_for_answers(&self, more: u64) {
        self.plain.wait_for_answers(more);
        self.tls.wait_for_answers(more / 10 + 1);
        self.http2.wait_for_answers(more / 10 + 1);
    }

    /// Fails the test if a request has failed so far.
    #[track_caller]
    pub(crate) fn assert_unharmed(&self, run: &Run) {
        for clients in self.each() {
            let report = clients.snapshot();
            assert_eq!(
                report.failed(),
                0,
                "{}\n{}",
                render(&report),
                run.log.render()
            );
        }
    }

    /// Ends it; nobody may have been harmed.
    #[track_caller]
    pub(crate) fn stop(self, run: &Run) {
        for (name, clients) in [
            ("plain", self.plain),
            ("TLS", self.tls),
            ("HTTP/2", self.http2),
        ] {
            let report = clients.stop();
            eprintln!("{name}: {}", render(&report));
            assert_flawless(&report, run);
        }
        // Every client goes on at once, so nothing that a worker has open may stand still.
        let log = run.log.render();
        assert!(!log.contains(" stalled)"), "{log}");
    }
}
