//! The byte stream inside binary WebSocket messages, for clients that run in a browser.
//!
//! Message boundaries mean nothing. Text messages end the stream with an error, pings are answered
//! by the WebSocket layer. Control sessions come here by way of axum, relay clients by a request
//! that the relay reads itself: hence two kinds of messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::ws;
use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite;

/// Longest message that is sent, in bytes: clients in browsers close above 32 KiB (`coder/websocket`).
const SENT_LEN_MAX: usize = 32 * 1024;

/// What a message means to a stream of bytes.
#[derive(Debug)]
pub(crate) enum Content {
    /// The next bytes.
    Binary(Bytes),
    /// Nothing.
    Control,
    /// The end.
    Close,
    /// A mistake.
    Text,
}

/// A message of a WebSocket library.
pub(crate) trait Message {
    /// A binary message.
    fn binary(bytes: Bytes) -> Self;
    /// What is in it.
    fn content(self) -> Content;
}

impl Message for ws::Message {
    fn binary(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }

    fn content(self) -> Content {
        match self {
            Self::Binary(bytes) => Content::Binary(bytes),
            Self::Ping(_) | Self::Pong(_) => Content::Control,
            Self::Close(_) => Content::Close,
            Self::Text(_) => Content::Text,
        }
    }
}

impl Message for tungstenite::Message {
    fn binary(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }

    fn content(self) -> Content {
        match self {
            Self::Binary(bytes) => Content::Binary(bytes),
            Self::Ping(_) | Self::Pong(_) => Content::Control,
            Self::Close(_) => Content::Close,
            Self::Text(_) | Self::Frame(_) => Content::Text,
        }
    }
}

/// `AsyncRead + AsyncWrite` over a stream and sink of messages.
#[derive(Debug)]
pub(crate) struct WebSocketIo<S> {
    socket: S,
    /// The rest of the message that is being read.
    message: Bytes,
}

impl<S> WebSocketIo<S> {
    /// Wraps an accepted socket.
    pub(crate) const fn new(socket: S) -> Self {
        Self {
            socket,
            message: Bytes::new(),
        }
    }
}

impl<S, M, E> WebSocketIo<S>
where
    S: Stream<Item = Result<M, E>> + Unpin,
    M: Message,
    E: std::error::Error + Send + Sync + 'static,
{
    /// Waits for bytes; `false` once the peer closed.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.message.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(message)) => match message.content() {
                    Content::Binary(bytes) => self.message = bytes,
                    Content::Control => {}
                    Content::Close => return Poll::Ready(Ok(false)),
                    Content::Text => {
                        let error = io::Error::new(io::ErrorKind::InvalidData, "text message");
                        return Poll::Ready(Err(error));
                    }
                },
                None => return Poll::Ready(Ok(false)),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<S, M, E> AsyncRead for WebSocketIo<S>
where
    S: Stream<Item = Result<M, E>> + Unpin,
    M: Message,
    E: std::error::Error + Send + Sync + 'static,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if ready!(self.poll_message(cx))? {
            let len = self.message.len().min(buf.remaining());
            self.message.copy_to_slice(buf.initialize_unfilled_to(len));
            buf.advance(len);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S, M, E> AsyncWrite for WebSocketIo<S>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: std::error::Error + Send + Sync + 'static,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let piece = buf.get(..buf.len().min(SENT_LEN_MAX)).unwrap_or(buf);
        Pin::new(&mut self.socket)
            .start_send(M::binary(Bytes::copy_from_slice(piece)))
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_flush(cx)
            .map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_close(cx)
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use axum::extract::ws::Message;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Bytes, Context, Pin, Poll, SENT_LEN_MAX, Sink, Stream, WebSocketIo, io};

    #[derive(Default)]
    struct Script {
        received: VecDeque<Message>,
        sent: Vec<Message>,
    }

    impl Stream for Script {
        type Item = Result<Message, io::Error>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.received.pop_front().map(Ok))
        }
    }

    impl Sink<Message> for Script {
        type Error = io::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn start_send(mut self: Pin<&mut Self>, message: Message) -> io::Result<()> {
            self.sent.push(message);
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn message_boundaries_do_not_show() {
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        let mut script = Script::default();
        script.received.extend([
            binary(b"ab"),
            Message::Ping(Bytes::new()),
            binary(b""),
            binary(b"cde"),
            Message::Close(None),
        ]);
        let mut got = String::new();
        WebSocketIo::new(&mut script)
            .read_to_string(&mut got)
            .await
            .unwrap();
        assert_eq!(got, "abcde");
    }

    #[tokio::test]
    async fn text_is_an_error() {
        let mut script = Script::default();
        script.received.push_back(Message::Text("hello".into()));
        let error = WebSocketIo::new(&mut script).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn long_writes_are_cut_into_messages() {
        let mut script = Script::default();
        WebSocketIo::new(&mut script)
            .write_all(&[1; SENT_LEN_MAX + 1])
            .await
            .unwrap();
        let lens: Vec<usize> = script
            .sent
            .into_iter()
            .map(|message| message.into_data().len())
            .collect();
        assert_eq!(lens, [SENT_LEN_MAX, 1]);
    }
}
