//! What the relay counts. Names are those of the reference relay where it has them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::admission::DenyReason;
use super::frame::PacketKind;

/// A number that other tasks read now and then.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// `n` more.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// One less; for gauges, after an `increment`.
    pub(crate) fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Packets and bytes, by what the packets carry.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Packets that are not disco.
    pub data: Counter,
    /// Disco packets.
    pub disco: Counter,
    /// Bytes of the packets, without keys and headers.
    pub bytes: Counter,
}

impl Traffic {
    /// `packets` packets of one kind and `bytes` bytes more.
    pub(crate) fn add(&self, kind: PacketKind, packets: u64, bytes: usize) {
        match kind {
            PacketKind::Data => self.data.add(packets),
            PacketKind::Disco => self.disco.add(packets),
        }
        self.bytes.add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

/// Why a packet was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// The destination's connection ended with the packet queued, or is ending.
    GoneDisconnected,
    /// Too much waited for another relay, or the stream to it broke.
    MeshQueue,
    /// The queue was full: the oldest made room.
    QueueHead,
    /// The destination is not connected here.
    UnknownDest,
    /// Another relay believes that the destination is connected here, and it is not.
    UnknownDestOnForward,
    /// Writing to the destination failed.
    WriteError,
}

/// Counters and gauges of one relay.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is described where `samples` names it")]
pub struct RelayMetrics {
    pub accepts: Counter,
    pub accept_errors: Counter,
    pub connections_refused: Counter,
    pub tls_handshake_errors: Counter,
    pub http_requests: Counter,
    pub http_errors: Counter,
    pub fast_starts: Counter,
    pub websocket_accepts: Counter,
    pub handshake_errors: Counter,
    pub denied_unknown: Counter,
    pub denied_expired: Counter,
    pub denied_unavailable: Counter,
    pub current_connections: Counter,
    pub current_clients: Counter,
    pub current_home_connections: Counter,
    pub current_dup_client_keys: Counter,
    pub current_dup_client_conns: Counter,
    pub total_dup_client_conns: Counter,
    pub evicted_connections: Counter,
    pub received: Traffic,
    pub sent: Traffic,
    pub forwarded_in: Traffic,
    pub forwarded_out: Traffic,
    pub clients_remote: Counter,
    pub mesh_links: Counter,
    pub mesh_clients_refused: Counter,
    pub mesh_malformed: Counter,
    pub dropped_gone: Traffic,
    pub dropped_mesh_queue: Traffic,
    pub dropped_unknown_on_forward: Traffic,
    pub dropped_queue_head: Traffic,
    pub dropped_unknown: Traffic,
    pub dropped_write_error: Traffic,
    pub queue_wait_us: Counter,
    pub unknown_frames: Counter,
    pub frame_errors: Counter,
    pub home_moves_in: Counter,
    pub home_moves_out: Counter,
    pub got_ping: Counter,
    pub sent_pong: Counter,
    pub keep_alives: Counter,
    pub peer_gone_disconnected: Counter,
    pub peer_gone_not_here: Counter,
    pub peer_gone_overflow: Counter,
    pub peer_gone_rate_limited: Counter,
    pub write_timeouts: Counter,
}

/// One value of [`RelayMetrics::samples`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Prometheus name, without the `_total` that the text format adds to counters.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Label pairs; values are from closed sets.
    pub labels: &'static [(&'static str, &'static str)],
    /// May go down.
    pub is_gauge: bool,
    /// The value.
    pub value: u64,
}

macro_rules! samples {
    ($metrics:expr; $($name:literal $help:literal {
        $($field:ident $(.$part:ident)? $({$($label:literal = $value:literal),+})? $($gauge:ident)?;)+
    })+) => {
        vec![$($(Sample {
            name: $name,
            help: $help,
            labels: &[$($(($label, $value)),+)?],
            is_gauge: false $(|| samples!(@ $gauge))?,
            value: $metrics.$field$(.$part)?.value(),
        }),+),+]
    };
    (@ gauge) => { true };
}

impl RelayMetrics {
    /// All values, in a fixed order: samples of one name are neighbours.
    pub fn samples(&self) -> Vec<Sample> {
        samples! { self;
            "derp_accepts" "Connections accepted" { accepts; }
            "derp_accept_errors" "Failures to accept" { accept_errors; }
            "derp_connections_refused" "Connections closed at once for a limit" {
                connections_refused;
            }
            "derp_tls_handshake_errors" "TLS handshakes that failed" { tls_handshake_errors; }
            "derp_http_requests" "Requests answered, upgrades included" { http_requests; }
            "derp_http_errors" "Connections ended for a malformed or slow request" { http_errors; }
            "derp_fast_starts" "Upgrades that needed no answer" { fast_starts; }
            "derp_websocket_accepts" "Upgrades to DERP inside a WebSocket" { websocket_accepts; }
            "derp_handshake_errors" "Clients that did not introduce themselves" {
                handshake_errors;
            }
            "derp_admission_denied" "Clients kept out" {
                denied_unknown {"reason" = "unknown_node"};
                denied_expired {"reason" = "expired"};
                denied_unavailable {"reason" = "unavailable"};
            }
            "derp_current_connections" "Connections of admitted clients" {
                current_connections gauge;
            }
            "derp_clients_local" "Keys with a connection" { current_clients gauge; }
            "derp_current_home_connections" "Connections that call this relay their home" {
                current_home_connections gauge;
            }
            "derp_current_dup_client_keys" "Keys with more than one connection" {
                current_dup_client_keys gauge;
            }
            "derp_current_dup_client_conns" "Connections of such keys" {
                current_dup_client_conns gauge;
            }
            "derp_total_dup_client_conns" "Connections that came while their key had one" {
                total_dup_client_conns;
            }
            "derp_evicted_connections" "Connections ended as their key had too many" {
                evicted_connections;
            }
            "derp_packets_received_kind" "Packets from clients" {
                received.data {"kind" = "other"};
                received.disco {"kind" = "disco"};
            }
            "derp_bytes_received" "Bytes of packets from clients" { received.bytes; }
            "derp_packets_sent_kind" "Packets to clients" {
                sent.data {"kind" = "other"};
                sent.disco {"kind" = "disco"};
            }
            "derp_bytes_sent" "Bytes of packets to clients" { sent.bytes; }
            "derp_packets_forwarded_in" "Packets from other relays" {
                forwarded_in.data {"kind" = "other"};
                forwarded_in.disco {"kind" = "disco"};
            }
            "derp_packets_forwarded_out" "Packets to other relays" {
                forwarded_out.data {"kind" = "other"};
                forwarded_out.disco {"kind" = "disco"};
            }
            "derp_bytes_forwarded_in" "Bytes of packets from other relays" {
                forwarded_in.bytes;
            }
            "derp_bytes_forwarded_out" "Bytes of packets to other relays" {
                forwarded_out.bytes;
            }
            "derp_clients_remote" "Keys with a connection to another relay" {
                clients_remote gauge;
            }
            "derp_mesh_links" "Relays to which packets can be sent" { mesh_links gauge; }
            "derp_mesh_clients_refused" "Clients of other relays not remembered for a limit" {
                mesh_clients_refused;
            }
            "derp_mesh_malformed" "Messages or parts of messages of other relays without sense" {
                mesh_malformed;
            }
            "derp_packets_dropped" "Packets not delivered" {
                dropped_gone.data {"reason" = "gone_disconnected", "kind" = "other"};
                dropped_gone.disco {"reason" = "gone_disconnected", "kind" = "disco"};
                dropped_mesh_queue.data {"reason" = "mesh_queue", "kind" = "other"};
                dropped_mesh_queue.disco {"reason" = "mesh_queue", "kind" = "disco"};
                dropped_queue_head.data {"reason" = "queue_head", "kind" = "other"};
                dropped_queue_head.disco {"reason" = "queue_head", "kind" = "disco"};
                dropped_unknown.data {"reason" = "unknown_dest", "kind" = "other"};
                dropped_unknown.disco {"reason" = "unknown_dest", "kind" = "disco"};
                dropped_unknown_on_forward.data {
                    "reason" = "unknown_dest_on_fwd", "kind" = "other"
                };
                dropped_unknown_on_forward.disco {
                    "reason" = "unknown_dest_on_fwd", "kind" = "disco"
                };
                dropped_write_error.data {"reason" = "write_error", "kind" = "other"};
                dropped_write_error.disco {"reason" = "write_error", "kind" = "disco"};
            }
            "derp_bytes_dropped" "Bytes of packets not delivered" {
                dropped_gone.bytes {"reason" = "gone_disconnected"};
                dropped_mesh_queue.bytes {"reason" = "mesh_queue"};
                dropped_queue_head.bytes {"reason" = "queue_head"};
                dropped_unknown.bytes {"reason" = "unknown_dest"};
                dropped_unknown_on_forward.bytes {"reason" = "unknown_dest_on_fwd"};
                dropped_write_error.bytes {"reason" = "write_error"};
            }
            "derp_queue_wait_microseconds" "Time that packets waited in queues, summed" {
                queue_wait_us;
            }
            "derp_unknown_frames" "Frames that mean nothing here" { unknown_frames; }
            "derp_frame_errors" "Connections ended for a broken frame" { frame_errors; }
            "derp_home_moves_in" "Clients that made this relay their home" { home_moves_in; }
            "derp_home_moves_out" "Clients that chose another home" { home_moves_out; }
            "derp_got_ping" "Pings received" { got_ping; }
            "derp_sent_pong" "Pongs sent" { sent_pong; }
            "derp_keep_alives" "Keep-alive frames sent" { keep_alives; }
            "derp_peer_gone_disconnected_frames" "Notices that a peer left" {
                peer_gone_disconnected;
            }
            "derp_peer_gone_not_here_frames" "Notices that a peer is unknown" {
                peer_gone_not_here;
            }
            "derp_peer_gone_overflow" "Notices lost as too many waited" { peer_gone_overflow; }
            "derp_peer_gone_rate_limited" "Notices withheld from senders to unknown peers" {
                peer_gone_rate_limited;
            }
            "derp_sclient_write_timeouts" "Connections ended as writing stalled" {
                write_timeouts;
            }
        }
    }

    /// Counts a packet that is not delivered.
    pub(crate) fn drop_packet(&self, reason: DropReason, kind: PacketKind, bytes: usize) {
        self.drop_packets(reason, kind, 1, bytes);
    }

    /// Counts packets of `bytes` bytes together that are not delivered.
    pub(crate) fn drop_packets(
        &self,
        reason: DropReason,
        kind: PacketKind,
        packets: u64,
        bytes: usize,
    ) {
        let traffic = match reason {
            DropReason::GoneDisconnected => &self.dropped_gone,
            DropReason::MeshQueue => &self.dropped_mesh_queue,
            DropReason::QueueHead => &self.dropped_queue_head,
            DropReason::UnknownDest => &self.dropped_unknown,
            DropReason::UnknownDestOnForward => &self.dropped_unknown_on_forward,
            DropReason::WriteError => &self.dropped_write_error,
        };
        traffic.add(kind, packets, bytes);
    }

    /// Counts a client that was kept out.
    pub(crate) fn deny(&self, reason: DenyReason) {
        match reason {
            DenyReason::UnknownNode => self.denied_unknown.increment(),
            DenyReason::Expired => self.denied_expired.increment(),
            DenyReason::Unavailable => self.denied_unavailable.increment(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn samples_are_unique_and_show_the_counters() {
        let metrics = RelayMetrics::default();
        metrics.drop_packet(DropReason::QueueHead, PacketKind::Disco, 100);
        metrics.current_connections.increment();
        let samples = metrics.samples();
        let unique = samples
            .iter()
            .map(|s| (s.name, s.labels))
            .collect::<BTreeSet<_>>();
        assert_eq!(unique.len(), samples.len());
        let value = |name: &str, labels: &[(&str, &str)]| {
            samples
                .iter()
                .find(|s| s.name == name && s.labels == labels)
                .unwrap()
                .value
        };
        let disco_head = [("reason", "queue_head"), ("kind", "disco")];
        assert_eq!(value("derp_packets_dropped", &disco_head), 1);
        assert_eq!(value("derp_bytes_dropped", &disco_head[..1]), 100);
        assert_eq!(value("derp_current_connections", &[]), 1);
        assert!(
            samples
                .iter()
                .any(|s| s.name == "derp_current_connections" && s.is_gauge)
        );
    }
}
