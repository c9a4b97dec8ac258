//! The client port: claimed at the start, opened once the replica serves, and the first thing to
//! close when the process is killed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the kernel holds for us: the clients of a lost replica come all at once.
const BACKLOG: i32 = 4096;
/// More files than a replica ever has open: its connections are limited to fewer.
const OPEN_FILES_MAX: u64 = 256 * 1024;
/// How far below the limit on open files the port's descriptor is: others may sit there as well.
const ROOM: u64 = 64;

/// A claimed address. Nobody can connect yet, so that a balancer, or a client with several
/// addresses, goes elsewhere instead of waiting for the start to finish.
#[derive(Debug)]
pub(super) struct ClientPort(Socket);

impl ClientPort {
    /// Binds `addr`.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub(super) fn claim(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        above_all_others(socket).map(Self)
    }

    /// Lets clients in.
    ///
    /// # Errors
    /// Another process claimed the same address and was faster.
    pub(super) fn open(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)?;
        TcpListener::from_std(self.0.into())
    }
}

/// Moves a socket to a descriptor that is higher than those of all connections.
///
/// Linux closes the files of a killed process one after another, the highest descriptor first. With a
/// low one the port would still take connections, to reset them, while the clients whose connections
/// are gone already dial again; a client of a plain `http://` address takes that for 5 to 10 s of
/// silence (`controlhttp` waits for an attempt on port 443 that it never starts).
fn above_all_others(socket: Socket) -> io::Result<Socket> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let lowest = limit.min(OPEN_FILES_MAX).saturating_sub(ROOM);
    let lowest = i32::try_from(lowest).map_err(io::Error::other)?;
    let moved: OwnedFd = fcntl_dupfd_cloexec(socket.as_fd(), lowest)?;
    Ok(moved.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use tokio::net::TcpStream;

    use super::*;

    fn claim() -> (ClientPort, SocketAddr) {
        let port = ClientPort::claim("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = port.0.local_addr().unwrap().as_socket().unwrap();
        (port, addr)
    }

    #[tokio::test]
    async fn clients_of_a_starting_replica_are_refused_at_once() {
        let (port, addr) = claim();
        let refused = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = port.open().unwrap();
        TcpStream::connect(addr).await.unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn connections_of_a_killed_replica_do_not_outlive_its_port() {
        let (port, addr) = claim();
        let listener = port.open().unwrap();
        let client = TcpStream::connect(addr).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        // The order in which the kernel closes them: highest first.
        assert!(listener.as_raw_fd() > accepted.as_raw_fd().max(client.as_raw_fd()));
    }
}
