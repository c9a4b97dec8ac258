//! The relay's TCP socket and the options of its connections.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::limits::{LISTEN_BACKLOG, TCP_KEEP_ALIVE, TCP_NOTSENT_LOWAT, TCP_USER_TIMEOUT};

/// A bound socket; connections wait in the kernel until a server takes them.
#[derive(Debug)]
pub struct RelayListener(TcpListener);

impl RelayListener {
    /// Binds `addr`; `[::]` takes IPv4 as well.
    ///
    /// # Errors
    /// The address is in use or not ours.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(addr.ip() != IpAddr::from([0u16; 8]))?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        TcpListener::from_std(socket.into()).map(Self)
    }

    /// Where it listens; tells the port when 0 was asked for.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next connection, with its options set. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, remote) = self.0.accept().await?;
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "socket options refused");
        }
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        Ok((stream, remote))
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE))?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(TCP_NOTSENT_LOWAT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_get_their_options() {
        let listener = RelayListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dial = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, dialled) = tokio::join!(listener.accept(), dial);
        let (stream, remote) = accepted.unwrap();
        assert_eq!(remote, dialled.unwrap().local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), TCP_NOTSENT_LOWAT);
    }

    #[tokio::test]
    async fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let Ok(listener) = RelayListener::bind("[::]:0".parse().unwrap()) else {
            return; // a machine without IPv6
        };
        let port = listener.local_addr().unwrap().port();
        let dial = TcpStream::connect(("127.0.0.1", port));
        let (accepted, dialled) = tokio::join!(listener.accept(), dial);
        assert!(dialled.is_ok());
        assert!(
            accepted.unwrap().1.is_ipv4(),
            "mapped addresses are unmapped"
        );
    }
}
