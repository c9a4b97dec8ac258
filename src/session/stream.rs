//! One map stream as a pure machine: what is told to a node, given what changed.

use std::sync::Arc;

use bytes::Bytes;

use super::service::Service;
use super::shared::{SharedDelta, SharedWhole};
use crate::netmap::{Basis, NetmapConfig, Told, Wire, encode, logged_out};
use crate::state::{Node, State};
use crate::tailcfg::MapResponse;
use crate::types::{NodeId, NodeKey, Timestamp};

/// What a client asked for (`tailcfg.MapRequest`).
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// The node, found by its keys.
    pub node_id: NodeId,
    /// For how long.
    pub kind: MapKind,
    /// Messages are compressed (`tailcfg.MapRequest.Compress`).
    pub zstd: bool,
    /// Capability version of the client.
    pub capver: u16,
    /// The replica could not confirm that it is up to date when the request came.
    pub stale: bool,
}

/// How many messages a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// One whole netmap.
    Once,
    /// A whole netmap and every change of it.
    Stream,
}

/// A stream's memory: how far it is, and what it last said about this replica's health.
#[derive(Clone, Debug)]
pub(super) struct MapStream {
    request: StreamRequest,
    /// The key that the node had when the stream began; the stream ends when it takes another.
    node_key: Option<NodeKey>,
    /// Log index that the client has been told about.
    served: u64,
    /// The state in which the node was found, until the client is told of one.
    found: Option<Arc<State>>,
    /// What the client has been told about. Streams that keep up share the newest, so this costs each
    /// a pointer, and no list of the peers that were sent is needed.
    known: Option<Arc<Basis>>,
    service: Service,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this frame.
    Send(Bytes),
    /// Send a whole netmap, and this frame before.
    SendWhole(Option<Bytes>),
    /// Nothing to tell.
    Idle,
    /// The node is gone: send this frame, then the stream is over.
    SendLast(Bytes),
    /// The node has taken another key: the stream is over.
    End,
}

impl Step {
    /// Bytes to send.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Send(frame) | Self::SendLast(frame) => frame.len(),
            Self::SendWhole(first) => first.as_ref().map_or(0, Bytes::len),
            Self::Idle | Self::End => 0,
        }
    }
}

impl MapStream {
    /// A stream for a node that `found` has.
    pub(super) fn new(request: StreamRequest, found: Arc<State>) -> Self {
        let node_key = found.node(request.node_id).map(|node| node.node_key);
        Self {
            request,
            node_key,
            served: 0,
            found: Some(found),
            known: None,
            service: Service::Normal,
        }
    }

    pub(super) const fn wire(&self) -> Wire {
        if self.request.zstd {
            Wire::Zstd
        } else {
            Wire::Raw
        }
    }

    /// The whole netmap.
    pub(super) fn full(
        &mut self,
        config: &NetmapConfig,
        shared: &SharedWhole,
        service: Service,
    ) -> Step {
        let whole = shared.whole();
        let basis = &whole.basis;
        let Some(viewer) = self.viewer(&basis.state) else {
            return self.end(config, &basis.state, whole.now);
        };
        let (mut message, peers) = whole.message(config, viewer);
        if peers.is_empty() {
            // An empty list clears nothing: peers that are gone must be named.
            message.peers_removed = self.known_peers();
        }
        if service.warns() || self.service.warns() {
            service.announce(&mut message, self.request.capver);
        }
        self.service = service;
        self.served = basis.index;
        self.known = Some(Arc::clone(basis));
        self.found = None;
        Step::Send(shared.frame(config, viewer, &message, &peers, self.wire()))
    }

    /// Whether the client has been told all up to this index.
    pub(super) const fn has_told(&self, index: u64) -> bool {
        self.served >= index
    }

    /// Whether it takes long to find out what a delta means for this stream.
    pub(super) fn is_heavy(&self, delta: &SharedDelta) -> bool {
        delta.is_heavy_for(self.request.node_id, self.wire())
    }

    /// What a delta means for this stream.
    pub(super) fn delta(
        &mut self,
        config: &NetmapConfig,
        delta: &SharedDelta,
        now: Timestamp,
    ) -> Step {
        let basis = delta.basis();
        if self.has_told(basis.index) {
            return Step::Idle;
        }
        let Some(viewer) = self.viewer(&basis.state) else {
            return self.end(config, &basis.state, now);
        };
        let step = match delta.tell(config, viewer, self.wire()) {
            Told::Nothing => Step::Idle,
            Told::Frame(frames) => Step::Send(frames),
            // The index stays: the whole netmap tells it.
            Told::Whole(first) => return Step::SendWhole(first),
        };
        self.served = basis.index;
        self.known = Some(Arc::clone(basis));
        step
    }

    /// Tells the client that this replica's service has changed.
    pub(super) fn service(&mut self, service: Service) -> Step {
        let warned = std::mem::replace(&mut self.service, service).warns();
        if service.warns() == warned {
            return Step::Idle;
        }
        let mut message = MapResponse::default();
        service.announce(&mut message, self.request.capver);
        Step::Send(encode(&message, self.wire()))
    }

    /// How a stream ends whose node has lost its key or is gone altogether. Also one that has not
    /// said anything yet: clients take an answer without a message for a fault, and ask again.
    fn end(&self, config: &NetmapConfig, state: &State, now: Timestamp) -> Step {
        let id = self.request.node_id;
        let known = self.known.as_ref().map(|known| &known.state);
        let was = known.or(self.found.as_ref());
        match was.and_then(|was| Some((was, was.node(id)?))) {
            Some((was, node)) if state.node(id).is_none() => {
                Step::SendLast(encode(&logged_out(config, was, node, now), self.wire()))
            }
            Some(_) | None => Step::End,
        }
    }

    /// The peers that the client knows.
    fn known_peers(&self) -> Vec<NodeId> {
        let id = self.request.node_id;
        let peers = self.known.iter().flat_map(|known| known.engine.peers(id));
        peers.collect()
    }

    /// The node, as long as it still has the key of this stream.
    fn viewer<'a>(&self, state: &'a State) -> Option<&'a Node> {
        state
            .node(self.request.node_id)
            .map(|node| &**node)
            .filter(|node| Some(node.node_key) == self.node_key)
    }
}
