//! One end of a connection between simulated replicas.
//!
//! What is written together is sent as one segment: HTTP/2 copies a short message behind its header but
//! writes a longer one beside it, and signatures differ in length by a byte or two from run to run.
//! Such a byte must not make one segment more, whose delay the simulation would draw. What carries a
//! signature is well above the 256 bytes where the two ways part.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use turmoil::net::TcpStream;

use super::note;

/// See the module. It breaks at once, with all that is under way, when somebody resets it.
pub(super) struct Wire {
    stream: TcpStream,
    /// Whose end it is, and who is at the other.
    ends: [u64; 2],
    reset: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    /// An end of the connection `stream`, which breaks when `reset` is cancelled.
    pub(super) fn new(stream: TcpStream, ends: [u64; 2], reset: CancellationToken) -> Self {
        Self {
            stream,
            ends,
            reset: Box::pin(reset.cancelled_owned()),
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.reset.as_mut().poll(cx).is_ready() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.check(cx)?.poll_write(cx, buf);
        if written.is_ready() {
            let [own, other] = self.ends;
            note(&[6, own, other]);
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let together: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &together)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?.poll_shutdown(cx)
    }
}
