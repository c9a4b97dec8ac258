//! A TCP proxy for one link, which can be made to fail in the ways in which links fail.
//!
//! Both directions of its connections are set apart, so that a link can carry questions and no
//! answers. What is held back is not lost: as on a real link, it comes when the link is whole again,
//! if both ends still want it.

mod flow;

use std::{convert::Infallible, io, net::SocketAddr};

use anyhow::{Context as _, Result};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

pub use flow::Flow;
use flow::{Break, pump};

/// What a link does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// With what those who connect send.
    pub there: Flow,
    /// With what they are answered.
    pub back: Flow,
    /// Resets every connection, open and new.
    pub reset: bool,
}

impl Modes {
    /// Whether a new connection comes about: its handshake needs both directions.
    fn connects(&self) -> bool {
        self.there != Flow::Hold && self.back != Flow::Hold
    }
}

/// A listening proxy. Its connections are closed when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    modes: watch::Sender<Modes>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Listens on `address` and passes everything to `target`, unhindered at first.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("a proxy on {address}"))?;
        let address = listener.local_addr()?;
        let (modes, receiver) = watch::channel(Modes::default());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, target, receiver));
        Ok(Self {
            address,
            modes,
            _task: task,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the link does from now on, on open connections as well.
    pub fn set(&self, modes: Modes) {
        self.modes.send_replace(modes);
    }

    /// What the link does.
    pub fn modes(&self) -> Modes {
        *self.modes.borrow()
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, modes: watch::Receiver<Modes>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted {
                    connections.spawn(carry(near, target, modes.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to its end.
async fn carry(mut near: TcpStream, target: SocketAddr, mut modes: watch::Receiver<Modes>) {
    let connecting = async {
        // An error: the proxy is gone, and with it this task.
        modes.wait_for(Modes::connects).await.map_err(|_| Break)?;
        let far = TcpStream::connect(target).await?;
        far.set_nodelay(true)?;
        near.set_nodelay(true)?;
        Ok::<_, Break>(far)
    };
    let Ok(mut far) = connecting.await else {
        reset(near);
        return;
    };
    let ended = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let there = pump(near_read, far_write, modes.clone(), |modes| modes.there);
        let back = pump(far_read, near_write, modes.clone(), |modes| modes.back);
        tokio::select! {
            ended = async { tokio::try_join!(there, back) } => ended.map(drop),
            Err(broken) = until_reset(&mut modes) => Err(broken),
        }
    };
    if ended.is_err() {
        reset(near);
        reset(far);
    }
}

async fn until_reset(modes: &mut watch::Receiver<Modes>) -> Result<Infallible, Break> {
    // Whether it is to be reset or the proxy is gone.
    let _ = modes.wait_for(|modes| modes.reset).await;
    Err(Break)
}

/// Closes a connection so that the other end sees a reset.
fn reset(stream: TcpStream) {
    // Not possible on a connection that is gone already.
    let _ = stream.set_zero_linger();
    drop(stream);
}

impl From<io::Error> for Break {
    fn from(_: io::Error) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests;
