//! Ports and sockets, opened before anything else so that a mistake shows at once.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, UnixListener};

use super::client_port::ClientPort;
use super::{ServeError, local_socket};
use crate::config::Config;
use crate::derp::RelayListener;
use crate::stun::StunSockets;

/// Where clients, relayed packets, administrators and monitoring come in.
pub(super) struct Doors {
    pub(super) client: ClientPort,
    pub(super) metrics: Option<TcpListener>,
    pub(super) relay: RelayListener,
    pub(super) stun: StunSockets,
    pub(super) socket: UnixListener,
}

impl Doors {
    /// Opens all of them, or none.
    ///
    /// # Errors
    /// An address is in use or not ours.
    pub(super) async fn open(config: &Config) -> Result<Self, ServeError> {
        let listeners = &config.listeners;
        let metrics = match listeners.metrics {
            Some(addr) => Some(listen("metrics", addr).await?),
            None => None,
        };
        let relay_addr = config.derp.listen;
        let stun_addr = config.derp.stun_listen;
        Ok(Self {
            client: ClientPort::claim(listeners.client)
                .map_err(|source| cannot_listen("the client port", listeners.client, source))?,
            metrics,
            relay: RelayListener::bind(relay_addr)
                .map_err(|source| cannot_listen("the relay", relay_addr, source))?,
            stun: StunSockets::bind(stun_addr)
                .map_err(|source| cannot_listen("STUN", stun_addr, source))?,
            socket: local_socket::bind(&listeners.unix_socket, listeners.unix_socket_mode)
                .await
                .map_err(|source| ServeError::Socket {
                    path: listeners.unix_socket.clone(),
                    source,
                })?,
        })
    }
}

/// A TCP port for `what`.
///
/// # Errors
/// It is in use or not ours.
pub(super) async fn listen(
    what: &'static str,
    addr: SocketAddr,
) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| cannot_listen(what, addr, source))
}

pub(super) const fn cannot_listen(
    what: &'static str,
    addr: SocketAddr,
    source: io::Error,
) -> ServeError {
    ServeError::Listen { what, addr, source }
}
