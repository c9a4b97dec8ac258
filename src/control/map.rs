//! `/machine/map`: a client's report about itself, one map, or a map stream.
//!
//! ```text
//! Stream                 long poll: headers at once, then frames until either side leaves
//! !Stream, OmitPeers     report: stored soon, answered with a bare 200
//! !Stream, !OmitPeers    one full map
//! ```
//!
//! Maps themselves are made by `session`; this is who may have one and how its bytes leave.

mod sink;
mod update;

use std::sync::Arc;

use axum::http::{Response, StatusCode};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::time::timeout;
use tracing::Instrument;

use self::sink::H2Sink;
use super::inner::{Answer, Reply, Session};
use super::limits::BARRIER_TIMEOUT;
use super::metrics::Limit;
use super::{auth, hostinfo};
use crate::session::{MapKind, StreamEnd, StreamRequest};
use crate::state::{MAX_HOSTINFO_BYTES, State};
use crate::tailcfg::MapRequest;

/// A map stream, or a single map, whose node is authenticated and whose start barrier is passed.
pub(super) struct Stream {
    session: Arc<Session>,
    request: StreamRequest,
    /// The state in which its node was found.
    found: Arc<State>,
}

pub(super) async fn handle(session: &Arc<Session>, body: RecvStream) -> Answer {
    match answer(session, body).await {
        Ok(Some(stream)) => Answer::Stream(Box::new(stream)),
        Ok(None) => Answer::Whole(Reply::empty(StatusCode::OK)),
        Err(reply) => Answer::Whole(reply),
    }
}

/// A map to send, or `None` for a report.
async fn answer(session: &Arc<Session>, body: RecvStream) -> Result<Option<Stream>, Reply> {
    let body = session
        .read_body(body)
        .await
        .map_err(|error| error.reply())?;
    let request: MapRequest = auth::decode(&body)?;
    session.refuse_if_too_stale()?;
    let node = session.authenticate(&request.node_key).await?;
    let is_report = !request.stream && request.omit_peers;
    if is_report {
        session.note_separate_update();
    }
    // Before the report is compared and stamped: a replica that is behind takes values for known
    // that are not, and the node for one that has moved on to where it was before.
    let stale = !pass_barrier(session).await?;
    // Deleted or given another key before this request, as a newer state has it.
    let found = session.control.cluster().state();
    let still_there = found.node(node.id);
    let Some(node) = still_there.filter(|node| node.node_key == request.node_key) else {
        return Err(Reply::text(StatusCode::NOT_FOUND, "node not found"));
    };
    if !request.read_only && (is_report || !session.has_updated_separately()) {
        let hostinfo_json = storable_hostinfo(session, &body);
        let update = update::build_update(node, &request, hostinfo_json, is_report);
        if let Some(update) = update {
            session.control.cluster().update_node(update);
        }
    }
    if is_report {
        return Ok(None);
    }
    let request = StreamRequest {
        node_id: node.id,
        kind: if request.stream {
            MapKind::Stream
        } else {
            MapKind::Once
        },
        zstd: request.compress == "zstd",
        capver: session.peer.capver,
        stale,
    };
    Ok(Some(Stream {
        session: Arc::clone(session),
        request,
        found,
    }))
}

/// The request's Hostinfo; empty when it is longer than the state stores, which would refuse all
/// that is reported with it.
fn storable_hostinfo(session: &Session, body: &[u8]) -> Bytes {
    let json = hostinfo::raw_member(body);
    if json.len() <= MAX_HOSTINFO_BYTES {
        return json;
    }
    tracing::debug!(bytes = json.len(), "hostinfo is too long and not stored");
    session.control.metrics().limit_hit(Limit::HostinfoBytes);
    Bytes::new()
}

/// Waits until this replica has applied what was committed when the request came; `false` when no
/// leader was there to confirm that, or nobody else is, and the client is served what is there.
///
/// # Errors
/// What to answer instead: a leader is at work and this replica lags behind it, so that others
/// serve better.
async fn pass_barrier(session: &Session) -> Result<bool, Reply> {
    let control = &session.control;
    let fresh = timeout(BARRIER_TIMEOUT, control.cluster().linearizable()).await;
    let reason = match fresh {
        Ok(Ok(_)) => return Ok(true),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "this replica did not catch up in time".to_owned(),
    };
    control.metrics().limit_hit(Limit::Barrier);
    if control.others_serve_better(BARRIER_TIMEOUT) {
        return Err(Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason));
    }
    tracing::debug!(reason, "map stream starts from a stale state");
    Ok(false)
}

impl Stream {
    /// Sends frames until the client, the registry of map streams or the replica ends it.
    pub(super) async fn run(self, mut respond: SendResponse<Bytes>) {
        // The status leaves before the first map is made: the client gives up on silence.
        let stream = match respond.send_response(Response::new(()), false) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "map stream not started"),
        };
        let mut sink = H2Sink::new(stream, self.session.progress.clone());
        let span = tracing::debug_span!(
            "map_stream",
            node.id = self.request.node_id.0,
            map.kind = ?self.request.kind,
        );
        let streams = self.session.control.streams();
        let end = streams
            .serve(self.request, self.found, &mut sink)
            .instrument(span)
            .await;
        if end == StreamEnd::HandedOff {
            // On the same connection the client would only come back here.
            self.session.hand_off();
        }
    }
}
