//! `/ts2021`: from an HTTP/1.1 request to a Noise session.

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderValue, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
use super::listener::Connection;
use super::metrics::{Handshake, Limit};
use super::source::Source;
use super::{Control, inner};
use crate::noise::upgrade::PROTOCOL;
use crate::noise::{self, Accepted, Initiation, NoiseStream, UpgradeRequest};
use crate::websocket::WebSocketIo;

/// Longest WebSocket message that is accepted, in bytes: browsers send one record each, tests a few.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// WebSocket read buffer, in bytes: one record and its framing fit.
const WEBSOCKET_BUFFER: usize = 8 * 1024;
/// Longest reason in a WebSocket close frame (RFC 6455 §5.5: 125 bytes with the code).
const CLOSE_REASON_LEN_MAX: usize = 123;

pub(super) async fn upgrade(State(control): State<Control>, request: Request) -> Response {
    let (mut parts, _body) = request.into_parts();
    match UpgradeRequest::parse(&parts.method, &parts.uri, &parts.headers) {
        Ok(UpgradeRequest::Raw(initiation)) => upgrade_raw(control, &initiation, &mut parts),
        Ok(UpgradeRequest::WebSocket(initiation)) => {
            upgrade_websocket(control, &initiation, &mut parts).await
        }
        Err(error) => {
            control.metrics().handshake(Handshake::Malformed);
            if UpgradeRequest::is_websocket(&parts.method, &parts.headers) {
                close_websocket(&mut parts, error.to_string()).await
            } else {
                plain_error(StatusCode::BAD_REQUEST, error.to_string())
            }
        }
    }
}

/// A finished handshake and its place among those that still wait for their client.
struct Ready {
    accepted: Accepted,
    permit: OwnedSemaphorePermit,
    connection: Option<Connection>,
    source: Option<Source>,
}

fn accept(
    control: &Control,
    initiation: &Initiation,
    parts: &request::Parts,
) -> Result<Ready, (StatusCode, String)> {
    let Some(private) = control.noise_key() else {
        let reason = "the cluster is not initialised yet".to_owned();
        return Err((StatusCode::SERVICE_UNAVAILABLE, reason));
    };
    let Ok(permit) = control.handshakes().try_acquire_owned() else {
        control.metrics().limit_hit(Limit::Handshakes);
        let reason = format!("{HANDSHAKES_MAX} handshakes are under way already");
        return Err((StatusCode::SERVICE_UNAVAILABLE, reason));
    };
    noise::accept(&private, initiation, &rand::random())
        .map(|accepted| {
            let connection = parts.extensions.get::<Connection>().cloned();
            let source = connection.as_ref().and_then(|connection| {
                let proxies = &control.options().trusted_proxies;
                Source::of(connection.remote.ip(), &parts.headers, proxies)
            });
            Ready {
                accepted,
                permit,
                connection,
                source,
            }
        })
        .map_err(|error| {
            control.metrics().handshake(Handshake::Unauthentic);
            (StatusCode::BAD_REQUEST, error.to_string())
        })
}

fn upgrade_raw(control: Control, initiation: &Initiation, parts: &mut request::Parts) -> Response {
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return plain_error(
            StatusCode::BAD_REQUEST,
            "this connection cannot be upgraded",
        );
    };
    let ready = match accept(&control, initiation, parts) {
        Ok(ready) => ready,
        Err((status, reason)) => return plain_error(status, reason),
    };
    let tasks = control.tasks().clone();
    tasks.spawn(async move {
        let upgraded = match timeout(HANDSHAKE_TIMEOUT, on_upgrade).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(_)) => return control.metrics().handshake(Handshake::Broken),
            Err(_) => return control.metrics().limit_hit(Limit::HandshakeTime),
        };
        let challenge = Some(new_challenge());
        serve(control, TokioIo::new(upgraded), ready, challenge).await;
    });
    let head = [
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, head).into_response()
}

async fn upgrade_websocket(
    control: Control,
    initiation: &Initiation,
    parts: &mut request::Parts,
) -> Response {
    let upgrade = match websocket(parts).await {
        Ok(upgrade) => upgrade,
        Err(response) => return response,
    };
    let ready = match accept(&control, initiation, parts) {
        Ok(ready) => ready,
        Err((_, reason)) => return upgrade.on_upgrade(|socket| close(socket, reason)),
    };
    upgrade.on_upgrade(move |socket| {
        let tasks = control.tasks().clone();
        // The reference sends no early payload here.
        let session = serve(control, WebSocketIo::new(socket), ready, None);
        tasks.track_future(session)
    })
}

async fn close_websocket(parts: &mut request::Parts, reason: String) -> Response {
    match websocket(parts).await {
        Ok(upgrade) => upgrade.on_upgrade(|socket| close(socket, reason)),
        Err(response) => response,
    }
}

async fn websocket(parts: &mut request::Parts) -> Result<WebSocketUpgrade, Response> {
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(IntoResponse::into_response)?;
    Ok(upgrade
        .protocols([PROTOCOL])
        .read_buffer_size(WEBSOCKET_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MESSAGE_LEN_MAX)
        .max_frame_size(MESSAGE_LEN_MAX)
        .max_message_size(MESSAGE_LEN_MAX))
}

async fn close(mut socket: WebSocket, mut reason: String) {
    reason.truncate(reason.floor_char_boundary(CLOSE_REASON_LEN_MAX));
    let frame = CloseFrame {
        code: close_code::POLICY,
        reason: reason.into(),
    };
    let closing = socket.send(Message::Close(Some(frame)));
    // The peer may be gone or never read: nothing is left to tell it.
    let _ = timeout(HANDSHAKE_TIMEOUT, closing).await;
}

/// Runs the session on an upgraded connection, to its end.
async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    control: Control,
    io: T,
    ready: Ready,
    challenge: Option<[u8; 32]>,
) {
    let Ready {
        accepted,
        permit,
        connection,
        source,
    } = ready;
    let peer = inner::Peer {
        machine_key: accepted.machine_key,
        capver: accepted.capver,
        remote: connection.as_ref().map(|connection| connection.remote),
        source,
    };
    let leftover = BytesMut::new();
    match NoiseStream::from_accepted(io, &accepted, leftover, challenge.as_ref()) {
        Ok(stream) => Box::pin(inner::serve(control, stream, peer, permit)).await,
        Err(error) => tracing::error!(%error, "early payload cannot be sealed"),
    }
    // The connection counts until its session is over.
    drop(connection);
}

/// The public half of a key that nobody keeps: no message answers the challenge yet.
fn new_challenge() -> [u8; 32] {
    let secret = crypto_box::SecretKey::from(rand::random::<[u8; 32]>());
    *secret.public_key().as_bytes()
}

fn plain_error(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}
