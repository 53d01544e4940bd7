//! Where the load goes, and the byte stream to it. Connects once; decides nothing about failures.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
#[cfg(feature = "tls")]
use tokio_rustls::client::TlsStream;

#[cfg(feature = "tls")]
use crate::tls::Tls;

/// The address of the server.
#[derive(Clone, Debug)]
pub enum Target {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix-domain socket.
    Unix(PathBuf),
    /// TLS over TCP.
    #[cfg(feature = "tls")]
    Tls(Tls),
}

impl Target {
    /// One attempt; the caller bounds it too.
    pub(crate) async fn connect(&self, limit: Duration) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Ok(Stream::Tls(tls.connect().await?)),
            Self::Unix(path) => {
                let path = path.clone();
                let connected = tokio::task::spawn_blocking(move || connect_unix(&path, limit));
                let stream = connected.await.map_err(io::Error::other)??;
                Ok(Stream::Unix(UnixStream::from_std(stream)?))
            }
        }
    }

    /// The value of the `Host` header.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.address.to_string(),
        }
    }
}

// A non-blocking connect(2) to a Unix socket whose queue is full fails with EAGAIN where
// every ordinary client waits (unix(7)); so this one blocks, with SO_SNDTIMEO as its bound.
fn connect_unix(path: &Path, limit: Duration) -> io::Result<StdUnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| match errno {
        rustix::io::Errno::AGAIN => io::Error::from(io::ErrorKind::TimedOut),
        other => io::Error::from(other),
    })?;
    let stream = StdUnixStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

#[cfg(feature = "tls")]
impl From<Tls> for Target {
    fn from(tls: Tls) -> Self {
        Self::Tls(tls)
    }
}

/// What HTTP is spoken over.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Our port; Unix sockets have none.
    pub(crate) fn local_port(&self) -> Option<u16> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|address| address.port()),
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                let address = stream.get_ref().0.local_addr();
                address.ok().map(|address| address.port())
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
