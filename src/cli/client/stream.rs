//! A connection to a replica: Unix socket, TCP or TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::address::Address;
use super::tls::Connector;

/// The local socket is tried again after this, doubling, because the replica may just be starting.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// headscale's gRPC port, which its older configurations name here.
const GRPC_PORT: u16 = 50443;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// This side cannot speak TLS.
    Tls(String),
    /// The other side is not there, or not who it should be.
    Unreachable(String),
}

/// A connection of any kind.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) async fn connect(
        address: &Address,
        timeout: Duration,
        tls: &Connector,
    ) -> Result<Self, ConnectError> {
        let connected = match address {
            Address::Socket(path) => {
                tokio::time::timeout(timeout, connect_socket(path, timeout)).await
            }
            Address::Host {
                tls: wanted,
                host,
                port,
            } => {
                let tls = wanted.then_some(tls);
                tokio::time::timeout(timeout, connect_host(host, *port, tls)).await
            }
        };
        let late = || ConnectError::Unreachable(format!("no connection within {timeout:?}"));
        connected.unwrap_or_else(|_| Err(late()))
    }
}

/// Retries until the last moment, and then says what was wrong.
async fn connect_socket(path: &std::path::Path, timeout: Duration) -> Result<Stream, ConnectError> {
    let mut pause = RETRY_FIRST;
    let mut waited = Duration::ZERO;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(Stream::Unix(stream)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let advice = "run as root or as a member of the socket's group";
                return Err(ConnectError::Unreachable(format!("{error}; {advice}")));
            }
            Err(error) if waited + pause >= timeout => {
                let advice = "does a replica run here, with this unix_socket?";
                return Err(ConnectError::Unreachable(format!("{error}; {advice}")));
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn connect_host(
    host: &str,
    port: u16,
    tls: Option<&Connector>,
) -> Result<Stream, ConnectError> {
    let unreachable = |error: io::Error| {
        let hint = if port == GRPC_PORT {
            "; this is headscale's gRPC port: name the replica's client port"
        } else {
            ""
        };
        ConnectError::Unreachable(format!("{error}{hint}"))
    };
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(unreachable)?;
    let Some(connector) = tls else {
        return Ok(Stream::Tcp(tcp));
    };
    let (connector, name) = connector.for_host(host).map_err(ConnectError::Tls)?;
    let stream = connector.connect(name, tcp).await.map_err(|error| {
        let advice = "write http:// before an address without TLS";
        ConnectError::Unreachable(format!("no TLS: {error}; {advice}"))
    })?;
    Ok(Stream::Tls(Box::new(stream)))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
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
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
