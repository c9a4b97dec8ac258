//! Records as a byte stream: the only IO of this module.
//!
//! Writes are sealed at once and handed to the connection on flush or when [`OUTGOING_LEN_MAX`]
//! bytes wait, so that one system call carries many records. What is sealed stays in the stream
//! until it is written, so cancelling a write never leaves half a record on the wire. A stream at
//! rest holds no buffer.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::early::{self, build_early_payload};
use super::handshake::Accepted;
use super::record::{Opener, PLAINTEXT_LEN_MAX, RECORD_LEN_MAX, RecordError, Sealer};
use super::slices::Slices;

/// Bytes asked of the connection at a time; lives on the stack of the read, not in the stream.
const READ_LEN: usize = 16 * 1024;
/// Sealed bytes that may wait for the connection before more plaintext is refused: enough to carry
/// HTTP/2's largest default frame in one write.
const OUTGOING_LEN_MAX: usize = 8 * RECORD_LEN_MAX;

/// An encrypted connection, read and written as plaintext.
///
/// After any error both directions are dead.
#[derive(Debug)]
pub struct NoiseStream<T> {
    io: T,
    opener: Opener,
    sealer: Sealer,
    /// Received, not yet opened.
    incoming: BytesMut,
    /// Opened, not yet read.
    plaintext: BytesMut,
    /// Sealed, not yet written.
    outgoing: BytesMut,
    failed: bool,
}

impl<T> NoiseStream<T> {
    /// Puts the record layer on a connection.
    ///
    /// `leftover` are bytes that were read behind the handshake; `prelude` is sent as it is
    /// before the first record.
    pub fn new(
        io: T,
        opener: Opener,
        sealer: Sealer,
        leftover: BytesMut,
        prelude: BytesMut,
    ) -> Self {
        Self {
            io,
            opener,
            sealer,
            incoming: leftover,
            plaintext: BytesMut::new(),
            outgoing: prelude,
            failed: false,
        }
    }

    /// The server's side of a finished handshake: the response and the early payload leave with
    /// the first flush.
    ///
    /// `challenge` is left out where the client does not look for an early payload.
    ///
    /// # Errors
    /// The early payload cannot be sealed.
    pub fn from_accepted(
        io: T,
        accepted: &Accepted,
        leftover: BytesMut,
        challenge: Option<&[u8; 32]>,
    ) -> Result<Self, RecordError> {
        let mut prelude = BytesMut::from(accepted.response.as_slice());
        let (opener, mut sealer) = accepted.keys.server_halves();
        if let Some(challenge) = challenge.filter(|_| accepted.capver >= early::CAPVER_MIN) {
            let payload = build_early_payload(challenge);
            sealer.seal(&mut payload.as_slice(), &mut prelude)?;
        }
        Ok(Self::new(io, opener, sealer, leftover, prelude))
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.failed = true;
        error
    }

    fn check(&self) -> io::Result<()> {
        if self.failed {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        }
    }
}

impl<T: AsyncRead + Unpin> NoiseStream<T> {
    /// Gets bytes from the connection; `false` at its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); READ_LEN];
        let mut chunk = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
        self.incoming.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(!chunk.filled().is_empty()))
    }

    /// Waits until plaintext is there; `false` at a clean end of the stream.
    fn poll_plaintext(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.plaintext.is_empty() {
            match self.opener.open_next(&mut self.incoming) {
                Ok(Some(plaintext)) => self.plaintext = plaintext,
                Ok(None) => {
                    if self.incoming.is_empty() {
                        self.incoming = BytesMut::new();
                    }
                    if ready!(self.poll_fill(cx))? {
                        continue;
                    }
                    return Poll::Ready(if self.incoming.is_empty() {
                        Ok(false)
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    });
                }
                Err(error) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for NoiseStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        if !ready!(self.poll_plaintext(cx)).map_err(|error| self.fail(error))? {
            return Poll::Ready(Ok(()));
        }
        let len = self.plaintext.len().min(buf.remaining());
        let taken = self.plaintext.split_to(len);
        buf.put_slice(&taken);
        if self.plaintext.is_empty() {
            self.plaintext = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> NoiseStream<T> {
    /// Writes everything that is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
        }
        self.outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Seals as much as the limit on waiting bytes lets in; at least one record.
    fn poll_seal(&mut self, cx: &mut Context<'_>, mut data: impl Buf) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.outgoing.len() + RECORD_LEN_MAX > OUTGOING_LEN_MAX {
            ready!(self.poll_drain(cx)).map_err(|error| self.fail(error))?;
        }
        let mut sealed = 0;
        while data.has_remaining() && self.outgoing.len() + RECORD_LEN_MAX <= OUTGOING_LEN_MAX {
            let records = data.remaining().div_ceil(PLAINTEXT_LEN_MAX);
            let wanted = data.remaining() + records * (RECORD_LEN_MAX - PLAINTEXT_LEN_MAX);
            self.outgoing
                .reserve(wanted.min(OUTGOING_LEN_MAX - self.outgoing.len()));
            let Self {
                sealer, outgoing, ..
            } = self;
            sealed += sealer
                .seal(&mut data, outgoing)
                .map_err(|error| self.fail(io::Error::other(error)))?;
        }
        Poll::Ready(Ok(sealed))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for NoiseStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, Slices::new(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        ready!(self.poll_drain(cx)).map_err(|error| self.fail(error))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.failed {
            ready!(self.poll_drain(cx)).map_err(|error| self.fail(error))?;
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::super::record::SessionKeys;
    use super::*;

    fn pair(capacity: usize) -> (NoiseStream<DuplexStream>, NoiseStream<DuplexStream>) {
        let keys = SessionKeys {
            client_to_server: [1; 32],
            server_to_client: [2; 32],
        };
        let (left, right) = duplex(capacity);
        let (opener, sealer) = keys.client_halves();
        let client = NoiseStream::new(left, opener, sealer, BytesMut::new(), BytesMut::new());
        let (opener, sealer) = keys.server_halves();
        let server = NoiseStream::new(right, opener, sealer, BytesMut::new(), BytesMut::new());
        (client, server)
    }

    #[tokio::test]
    async fn long_writes_arrive_whole_through_a_narrow_pipe() {
        let (mut client, mut server) = pair(100);
        let sent: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn a_cancelled_write_leaves_no_torn_record() {
        let (mut client, mut server) = pair(100);
        let first = vec![1; 50_000];
        let cancelled =
            tokio::time::timeout(std::time::Duration::ZERO, client.write_all(&first)).await;
        assert!(cancelled.is_err());
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.map(|_| got)
        });
        client.write_all(b"tail").await.unwrap();
        client.shutdown().await.unwrap();
        let got = reader.await.unwrap().unwrap();
        assert!(got.ends_with(b"tail") && got.len() < 50_000 + 4);
    }

    #[tokio::test]
    async fn vectored_writes_share_a_record() {
        let (mut client, server) = pair(10_000);
        let parts = [
            IoSlice::new(b"one"),
            IoSlice::new(b""),
            IoSlice::new(b"two"),
        ];
        let written = client.write_vectored(&parts).await.unwrap();
        assert_eq!(written, 6);
        client.flush().await.unwrap();
        let mut raw = server.io;
        let mut wire = vec![0; 100];
        let len = raw.read(&mut wire).await.unwrap();
        assert_eq!(len, 3 + 6 + 16);
    }

    #[tokio::test]
    async fn garbage_ends_the_stream_with_a_typed_error() {
        let (client, mut server) = pair(100);
        let mut raw = client.io;
        raw.write_all(&[9; 50]).await.unwrap();
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let cause = error.into_inner().unwrap();
        assert_eq!(cause.downcast_ref(), Some(&RecordError::Type(9)));
        assert_eq!(
            server.write_u8(1).await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[tokio::test]
    async fn an_end_inside_a_record_is_no_clean_end() {
        let (client, mut server) = pair(100);
        let mut raw = client.io;
        raw.write_all(&[4, 0, 20, 1]).await.unwrap();
        raw.shutdown().await.unwrap();
        assert_eq!(
            server.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn a_stream_at_rest_holds_no_buffer() {
        let (mut client, mut server) = pair(100_000);
        client.write_all(&[5; 20_000]).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(client.outgoing.capacity(), 0);
        server.read_exact(&mut vec![0; 20_000]).await.unwrap();
        assert_eq!(server.plaintext.capacity(), 0);
        let nothing = tokio::time::timeout(std::time::Duration::ZERO, server.read_u8()).await;
        assert!(nothing.is_err());
        assert_eq!(server.incoming.capacity(), 0);
    }
}
