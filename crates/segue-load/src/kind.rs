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
    Cut(Cut),
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
            Self::Cut(_) => "cut",
        }
    }

    pub(crate) fn clients(&self) -> u32 {
        match self {
            Self::Fresh(kind) => kind.clients,
            Self::KeepAlive(kind) => kind.clients,
            Self::Think(kind) => kind.clients,
            Self::Post(kind) => kind.clients,
            Self::Download(kind) => kind.clients,
            Self::Cut(kind) => kind.clients,
        }
    }

    /// How much longer than usual an answer may take, because it was asked to.
    pub(crate) fn extra_time(&self) -> Duration {
        match self {
            Self::Download(kind) => kind.over,
            Self::Post(kind) => kind.over,
            Self::Fresh(_) | Self::KeepAlive(_) | Self::Think(_) | Self::Cut(_) => Duration::ZERO,
        }
    }

    /// Whether the time to an answer says something about the server's speed.
    pub(crate) fn is_timed(&self) -> bool {
        match self {
            Self::Fresh(_) | Self::KeepAlive(_) | Self::Think(_) => true,
            Self::Post(kind) => kind.over.is_zero(),
            Self::Download(_) | Self::Cut(_) => false,
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

macro_rules! into_kind {
    ($($name:ident),*) => {$(
        impl From<$name> for Kind {
            fn from(kind: $name) -> Self {
                Self::$name(kind)
            }
        }
    )*};
}
into_kind!(Fresh, KeepAlive, Think, Post, Download, Cut);
