//! DERP inside a WebSocket, for clients that run in a browser.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::limits::{WEBSOCKET_MESSAGE_BYTES_MAX, WEBSOCKET_READ_BYTES};
use crate::websocket::WebSocketIo;

/// The stream of bytes inside the messages on `io`, whose upgrade has been answered. `read_ahead` came
/// behind the request.
pub(crate) async fn over<S>(io: S, read_ahead: BytesMut) -> WebSocketIo<WebSocketStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(WEBSOCKET_READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * WEBSOCKET_MESSAGE_BYTES_MAX)
        .max_frame_size(Some(WEBSOCKET_MESSAGE_BYTES_MAX))
        .max_message_size(Some(WEBSOCKET_MESSAGE_BYTES_MAX));
    let socket =
        WebSocketStream::from_partially_read(io, read_ahead.into(), Role::Server, Some(config));
    WebSocketIo::new(socket.await)
}
