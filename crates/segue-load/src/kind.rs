//! The kinds of load, each a few numbers. Kinds are combined freely in one run.

use std::time::Duration;

/// One kind of load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Fresh(Fresh),
    KeepAlive(KeepAlive),
    Think(Think),
    Post(Post),
    Download(Download),
    Upload(Upload),
    Events(Events),
    Cut(Cut),
    Mixed(Mixed),
    WebSocket(WebSocket),
    #[cfg(feature = "http2")]
    Http2(Http2),
}

/// `close`: a new connection for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Requests under way at once. Default 50.
    pub clients: u32,
    /// Ask with `Connection: close` and wait for the server's end; otherwise the client closes. Default true.
    pub asks_to_close: bool,
    /// Between two requests of a client. Default 0.
    pub pause: Duration,
    /// Default `/`.
    pub path: String,
}

/// `keepalive`: one connection for each client, the next request as soon as the answer is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Default 50.
    pub clients: u32,
    /// Default `/`.
    pub path: String,
}

/// `think`: as `KeepAlive`, with a random pause after each answer, in which the connection is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Think {
    /// Default 50.
    pub clients: u32,
    /// The longest pause; each is drawn from 0 to this. Default 50 ms.
    pub pause: Duration,
    /// Default `/`.
    pub path: String,
}

/// `post`: bodies of random length and content on keep-alive connections or new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Default 10.
    pub clients: u32,
    /// The longest body; each is drawn from 0 to this. Default 64 KiB.
    pub bytes: u64,
    /// How a body is sent. Default alternating.
    pub framing: Framing,
    /// How long the sending of a body takes. Default 0: as fast as it goes.
    pub over: Duration,
    /// A new connection for each request. Default false.
    pub fresh: bool,
    /// Default `/echo`.
    pub path: String,
}

/// How a request says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    /// One by length, the next chunked.
    Alternating,
}

/// `download`: a new connection for each answer that takes its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Default 4.
    pub clients: u32,
    /// How long the app is asked to take. Default 2 s.
    pub over: Duration,
    /// Length of the answer. Default 1 MiB.
    pub bytes: u64,
    /// Default `/download`.
    pub path: String,
}

/// `upload`: a new connection for each request whose body takes its time; answered with its hash
/// and the body itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Default 4.
    pub clients: u32,
    /// How long the sending takes. Default 2 s.
    pub over: Duration,
    /// Length of the body. Default 1 MiB.
    pub bytes: u64,
    /// Default alternating.
    pub framing: Framing,
    /// Default `/echo`.
    pub path: String,
}

/// `events`: a new connection for each stream of server-sent events, which must come whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// Default 4.
    pub clients: u32,
    /// How long the app is asked to take. Default 2 s.
    pub over: Duration,
    /// How many events. Default 20.
    pub count: u64,
    /// Default `/events`.
    pub path: String,
}

/// `mixed`: what keep-alive connections are used for, all of it on each: GET at once and delayed, POST
/// by length and chunked, short downloads, pipelines of 2 to 5 GETs and POSTs; a third of the single
/// requests and half of the pipelines pause at a random byte. The connection is watched in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// Default 50.
    pub clients: u32,
    /// The longest pause between two turns; each is drawn from 0 to this. Default 20 ms.
    pub pause: Duration,
    /// The longest body; each is drawn from 0 to this. Default 20,000.
    pub bytes: u64,
    /// The longest pause at a random byte. Default 15 ms.
    pub cut: Duration,
    /// The longest pipeline; 1 for none. Default 5.
    pub pipeline: u64,
}

/// `websocket`: numbered messages, each of which must come back before the next is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// Default 50.
    pub clients: u32,
    /// The longest pause between two messages; each is drawn from 0 to this. Default 20 ms.
    pub pause: Duration,
    /// The longest message; each is drawn from 20 to this. Default 2,000.
    pub bytes: u64,
    /// Default `/ws`.
    pub path: String,
}

/// `http2`: batches of concurrent streams on one connection for each client, GET and POST alternating.
#[cfg(feature = "http2")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Connections. Default 20.
    pub clients: u32,
    /// The most streams at once on a connection; each batch is drawn from 1 to this. Default 8.
    pub streams: u64,
    /// The longest pause between two batches; each is drawn from 0 to this. Default 20 ms.
    pub pause: Duration,
    /// The longest body; each is drawn from 0 to this. Default 4,000.
    pub bytes: u64,
}

/// `cut`: requests with a body that end at a random byte, in half of the cases by a half-close,
/// in the other half by closing altogether. They must not be answered as if they were whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Default 4.
    pub clients: u32,
    /// The longest body. Default 16 KiB.
    pub bytes: u64,
    /// Between two requests of a client. Default 20 ms.
    pub pause: Duration,
    /// Default `/echo`.
    pub path: String,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Fresh(_) => "close",
            Self::KeepAlive(_) => "keepalive",
            Self::Think(_) => "think",
            Self::Post(_) => "post",
            Self::Download(_) => "download",
            Self::Upload(_) => "upload",
            Self::Events(_) => "events",
            Self::Cut(_) => "cut",
            Self::Mixed(_) => "mixed",
            Self::WebSocket(_) => "websocket",
            #[cfg(feature = "http2")]
            Self::Http2(_) => "http2",
        }
    }

    pub(crate) fn clients(&self) -> u32 {
        match self {
            Self::Fresh(kind) => kind.clients,
            Self::KeepAlive(kind) => kind.clients,
            Self::Think(kind) => kind.clients,
            Self::Post(kind) => kind.clients,
            Self::Download(kind) => kind.clients,
            Self::Upload(kind) => kind.clients,
            Self::Events(kind) => kind.clients,
            Self::Cut(kind) => kind.clients,
            Self::Mixed(kind) => kind.clients,
            Self::WebSocket(kind) => kind.clients,
            #[cfg(feature = "http2")]
            Self::Http2(kind) => kind.clients,
        }
    }

    /// How much longer than usual an answer may take, because it was asked to.
    pub(crate) fn extra_time(&self) -> Duration {
        match self {
            Self::Download(kind) => kind.over,
            Self::Post(kind) => kind.over,
            Self::Upload(kind) => kind.over,
            Self::Events(kind) => kind.over,
            Self::Fresh(_)
            | Self::KeepAlive(_)
            | Self::Think(_)
            | Self::Cut(_)
            | Self::Mixed(_)
            | Self::WebSocket(_) => Duration::ZERO,
            #[cfg(feature = "http2")]
            Self::Http2(_) => Duration::ZERO,
        }
    }

    /// Whether the time to an answer says something about the server's speed.
    pub(crate) fn is_timed(&self) -> bool {
        match self {
            Self::Fresh(_) | Self::KeepAlive(_) | Self::Think(_) | Self::WebSocket(_) => true,
            #[cfg(feature = "http2")]
            Self::Http2(_) => true,
            Self::Post(kind) => kind.over.is_zero(),
            Self::Download(_) | Self::Upload(_) | Self::Events(_) | Self::Cut(_) => false,
            // It holds delays that were asked for.
            Self::Mixed(_) => false,
        }
    }
}

impl Default for Fresh {
    fn default() -> Self {
        Self {
            clients: 50,
            asks_to_close: true,
            pause: Duration::ZERO,
            path: "/".to_owned(),
        }
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            clients: 50,
            path: "/".to_owned(),
        }
    }
}

impl Default for Think {
    fn default() -> Self {
        Self {
            clients: 50,
            pause: Duration::from_millis(50),
            path: "/".to_owned(),
        }
    }
}

impl Default for Post {
    fn default() -> Self {
        Self {
            clients: 10,
            bytes: 64 * 1024,
            framing: Framing::Alternating,
            over: Duration::ZERO,
            fresh: false,
            path: "/echo".to_owned(),
        }
    }
}

impl Default for Download {
    fn default() -> Self {
        Self {
            clients: 4,
            over: Duration::from_secs(2),
            bytes: 1024 * 1024,
            path: "/download".to_owned(),
        }
    }
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            clients: 4,
            bytes: 16 * 1024,
            pause: Duration::from_millis(20),
            path: "/echo".to_owned(),
        }
    }
}

impl Default for Upload {
    fn default() -> Self {
        Self {
            clients: 4,
            over: Duration::from_secs(2),
            bytes: 1024 * 1024,
            framing: Framing::Alternating,
            path: "/echo".to_owned(),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            clients: 4,
            over: Duration::from_secs(2),
            count: 20,
            path: "/events".to_owned(),
        }
    }
}

impl Default for Mixed {
    fn default() -> Self {
        Self {
            clients: 50,
            pause: Duration::from_millis(20),
            bytes: 20_000,
            cut: Duration::from_millis(15),
            pipeline: 5,
        }
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            clients: 50,
            pause: Duration::from_millis(20),
            bytes: 2_000,
            path: "/ws".to_owned(),
        }
    }
}

#[cfg(feature = "http2")]
impl Default for Http2 {
    fn default() -> Self {
        Self {
            clients: 20,
            streams: 8,
            pause: Duration::from_millis(20),
            bytes: 4_000,
        }
    }
}

macro_rules! into_kind {
    ($($name:ident),*) => {$(
        impl From<$name> for Kind {
            fn from(kind: $name) -> Self {
                Self::$name(kind)
            }
        }
    )*};
}
into_kind!(
    Fresh, KeepAlive, Think, Post, Download, Upload, Events, Cut, Mixed, WebSocket
);
#[cfg(feature = "http2")]
into_kind!(Http2);
