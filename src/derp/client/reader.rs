//! The receiving half of a connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::routes::Routes;
use super::slab::Slab;
use super::token_bucket::TokenBucket;
use super::{Client, CloseReason, Surroundings};
use crate::derp::frame::{
    ClientFrame, Decoder, PacketKind, PeerGone, PeerGoneReason, RecvPacket, SendPacket,
};
use crate::derp::limits::{
    COPY_BELOW_BYTES, HOME_MOVE_AFTER, NOT_HERE_BURST, NOT_HERE_INTERVAL, PACKETS_PER_TURN,
};
use crate::derp::metrics::{DropReason, RelayMetrics};
use crate::derp::queue::Packet;
use crate::types::NodeKey;

/// Decodes frames and acts on them.
pub(super) struct Reader<'a, R> {
    io: &'a mut R,
    /// Undecoded bytes; none while idle.
    slab: Option<Slab>,
    decoder: Decoder,
    client: &'a Arc<Client>,
    around: &'a Surroundings<'a>,
    routes: Routes,
    not_here: TokenBucket,
    /// Packets since others were last let run.
    packets: usize,
}

impl<'a, R: AsyncRead + Unpin> Reader<'a, R> {
    /// A reader that starts with bytes that were received already.
    pub(super) fn new(
        io: &'a mut R,
        read_ahead: BytesMut,
        client: &'a Arc<Client>,
        around: &'a Surroundings<'a>,
    ) -> Self {
        Self {
            io,
            slab: (!read_ahead.is_empty()).then(|| Slab::holding(read_ahead)),
            decoder: Decoder::default(),
            client,
            around,
            routes: Routes::default(),
            not_here: TokenBucket::new(NOT_HERE_BURST, NOT_HERE_INTERVAL, client.since),
            packets: 0,
        }
    }

    /// Runs until the client closes the connection or breaks the protocol.
    pub(super) async fn run(mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.drain_slab().await {
                return reason;
            }
            match self.fill_slab().await {
                Ok(0) => return CloseReason::PeerClosed,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return CloseReason::PeerClosed; // FIN without close_notify
                }
                Err(error) => return CloseReason::Io(error.kind()),
            }
        }
    }

    /// Reads once. The slab is held only while there are bytes in it.
    async fn fill_slab(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut slab = self.slab.take().unwrap_or_else(Slab::take);
            slab.make_room(self.decoder.missing(&slab.buf));
            let poll = pin!(self.io.read_buf(&mut slab.buf)).poll(cx);
            match &poll {
                Poll::Pending if slab.buf.is_empty() => slab.put(),
                Poll::Pending | Poll::Ready(_) => self.slab = Some(slab),
            }
            poll
        })
        .await
    }

    /// Acts on every whole frame in the slab.
    async fn drain_slab(&mut self) -> Result<(), CloseReason> {
        while let Some(slab) = &mut self.slab {
            let number = slab.number;
            match self.decoder.decode(&mut slab.buf) {
                Ok(Some(frame)) => self.handle(frame, number),
                Ok(None) => break,
                Err(error) => {
                    self.metrics().frame_errors.increment();
                    return Err(CloseReason::Frame(error));
                }
            }
            if self.packets >= PACKETS_PER_TURN {
                self.packets = 0;
                tokio::task::yield_now().await;
            }
        }
        self.slab
            .take_if(|slab| slab.buf.is_empty())
            .into_iter()
            .for_each(Slab::put);
        Ok(())
    }

    fn handle(&mut self, frame: ClientFrame, slab: u64) {
        if self.client.duplicate.load(Ordering::Relaxed) && !self.client.is_active() {
            self.around.clients.make_active(self.client);
        }
        match frame {
            ClientFrame::Ignored(_) => self.metrics().unknown_frames.increment(),
            ClientFrame::NotePreferred(home) => self.note_preferred(home),
            ClientFrame::Ping(data) => {
                self.metrics().got_ping.increment();
                self.client.queue.push_pong(data);
            }
            ClientFrame::SendPacket(packet) => self.send_packet(packet, slab),
        }
    }

    fn send_packet(&mut self, packet: SendPacket, slab: u64) {
        self.packets += 1;
        let kind = packet.kind();
        self.metrics().received.add(kind, 1, packet.packet().len());
        let dst = *packet.dst();
        if self.routes.find(&dst).is_none() {
            match self.around.clients.route(self.client, &dst) {
                Some(client) => self.routes.remember(client),
                None => return self.send_elsewhere(&dst, kind, packet.packet()),
            }
        }
        let frame = packet.into_recv(&self.client.key);
        if let Some(client) = self.routes.find(&dst) {
            client
                .queue
                .push(keep(frame, slab), Instant::now(), self.metrics());
        } else {
            // its connection ended this moment
            self.metrics()
                .drop_packet(DropReason::GoneDisconnected, kind, frame.packet_len());
        }
    }

    /// Nobody here has the key; another relay may.
    fn send_elsewhere(&mut self, dst: &NodeKey, kind: PacketKind, packet: &[u8]) {
        let clients = self.around.clients;
        if !clients.forward(&self.client.key, dst, packet) {
            self.unknown_destination(*dst, kind, packet.len());
        }
    }

    /// Tells a client that looks for a path to `dst` that it is not here; data finds out by itself.
    fn unknown_destination(&mut self, dst: NodeKey, kind: PacketKind, bytes: usize) {
        self.metrics()
            .drop_packet(DropReason::UnknownDest, kind, bytes);
        if kind != PacketKind::Disco {
            return;
        }
        if !self.not_here.try_take(Instant::now()) {
            return self.metrics().peer_gone_rate_limited.increment();
        }
        let notice = PeerGone {
            key: dst,
            reason: PeerGoneReason::NotHere,
        };
        if self.client.queue.push_gone(notice) {
            self.metrics().peer_gone_not_here.increment();
        } else {
            self.metrics().peer_gone_overflow.increment();
        }
    }

    fn note_preferred(&self, home: bool) {
        if self.client.home.swap(home, Ordering::Relaxed) == home {
            return;
        }
        self.around.clients.mesh.touch(&self.client.key);
        let metrics = self.metrics();
        let moved = self.client.since.elapsed() > HOME_MOVE_AFTER;
        match home {
            true => metrics.current_home_connections.increment(),
            false => metrics.current_home_connections.decrement(),
        }
        match home {
            true if moved => metrics.home_moves_in.increment(),
            false if moved => metrics.home_moves_out.increment(),
            true | false => {}
        }
    }

    fn metrics(&self) -> &'a RelayMetrics {
        self.around.metrics
    }
}

/// Short frames leave the slab, long ones keep it alive.
fn keep(frame: RecvPacket, slab: u64) -> Packet {
    if frame.wire.len() < COPY_BELOW_BYTES {
        Packet {
            frame: frame.detached(),
            slab: None,
        }
    } else {
        Packet {
            frame,
            slab: Some(slab),
        }
    }
}
