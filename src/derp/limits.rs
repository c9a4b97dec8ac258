//! Every bound and interval of the relay, with where it comes from.
//!
//! "derper" is the reference relay (`derp/derpserver`), "client" the official client (`derp`,
//! `derp/derphttp`).

use std::time::Duration;

/// The longest packet that a frame carries, without keys (`derp.MaxPacketSize`).
pub(crate) const PACKET_BYTES_MAX: usize = 64 * 1024;

/// The longest frame that is skipped rather than refused; clients hold servers to the same bound.
pub(crate) const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// The longest `ClientInfo` payload of the protocol, as derper accepts it.
pub(crate) const CLIENT_INFO_BYTES_MAX: usize = 256 * 1024;

/// The longest `ClientInfo` payload that this relay buffers. The sender is not authenticated yet,
/// and real ones are below 300 bytes: with [`PENDING_CONNECTIONS_MAX`] strangers at the door this
/// bounds their memory to 32 MiB, where the protocol's own bound would allow 1 GiB.
pub(crate) const CLIENT_INFO_BUDGET_BYTES: usize = 8 * 1024;

/// The longest `Ping` payload (derper refuses longer ones).
pub(crate) const PING_BYTES_MAX: usize = 1000;

/// No connection stays without a frame from us for longer than this plus the jitter.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Random addition to [`KEEP_ALIVE_INTERVAL`], drawn per connection, so that a relay's clients do
/// not wake together.
pub(crate) const KEEP_ALIVE_JITTER: Duration = Duration::from_secs(5);

/// A client drops a connection on which it read nothing for this long.
const CLIENT_READ_TIMEOUT: Duration = Duration::from_secs(120);

const _: () = assert!(
    KEEP_ALIVE_INTERVAL.as_secs() + KEEP_ALIVE_JITTER.as_secs() + WRITE_STALL_TIMEOUT.as_secs()
        < CLIENT_READ_TIMEOUT.as_secs()
);

/// Time for the TLS handshake; the client's whole budget to connect is 10 s.
pub(crate) const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time from the first byte of a request head to its last.
pub(crate) const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a connection may wait between two requests (derper's read timeout).
pub(crate) const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time to write one answer.
pub(crate) const HTTP_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest request head. Browsers and proxies stay below 8 KiB.
pub(crate) const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;

/// The most header lines of a request.
pub(crate) const HTTP_HEADERS_MAX: usize = 64;

/// The most requests on one connection. A latency check sends a handful.
pub(crate) const HTTP_REQUESTS_MAX: usize = 1000;

/// Time from our `ServerKey` to the end of the client's `ClientInfo`, as in derper.
pub(crate) const CLIENT_INFO_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for [`super::Admission`] to decide, as derper gives its verification URL.
pub(crate) const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Packets that wait for one client, for each of the two queues (derper's default).
pub(crate) const QUEUE_PACKETS_MAX: usize = 32;

/// Bytes that wait in a client's data queue: 180 ordinary packets, or four of the longest.
pub(crate) const DATA_QUEUE_BYTES_MAX: usize = 256 * 1024;

/// Bytes that wait in a client's disco queue; disco packets are below 300 bytes.
pub(crate) const DISCO_QUEUE_BYTES_MAX: usize = 128 * 1024;

const _: () = assert!(DATA_QUEUE_BYTES_MAX > PACKET_BYTES_MAX + 37);
const _: () = assert!(DISCO_QUEUE_BYTES_MAX > PACKET_BYTES_MAX + 37);

/// Read buffers that the frames of one queue may keep alive; later frames are copied out. A queued
/// frame of 1 KiB would otherwise hold [`READ_SLAB_BYTES`].
pub(crate) const PINNED_SLABS_MAX: usize = 4;

/// `PeerGone` notices that wait for one client. One lost is a stale route at the client until it
/// tries that peer again.
pub(crate) const PEER_GONE_QUEUE_MAX: usize = 1024;

/// `PeerGone` notices that a sender to unknown destinations may get at once, and then one per
/// [`NOT_HERE_INTERVAL`] (derper).
pub(crate) const NOT_HERE_BURST: u32 = 3;

/// See [`NOT_HERE_BURST`].
pub(crate) const NOT_HERE_INTERVAL: Duration = Duration::from_secs(1);

/// A write without a byte of progress for this long ends the connection (derper).
pub(crate) const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for close_notify and FIN to get out.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Read buffer of a connection that is receiving; an idle one holds none. Twice a TLS record.
pub(crate) const READ_SLAB_BYTES: usize = 32 * 1024;

/// Read buffers that each worker thread keeps for reuse.
pub(crate) const POOLED_SLABS_MAX: usize = 16;

/// Frames shorter than this are copied out of the read buffer instead of keeping it alive.
pub(crate) const COPY_BELOW_BYTES: usize = 256;

/// Packets that a reader routes before it lets others run: half a queue, so that a receiver on the
/// same thread gets to drain before its queue overflows.
pub(crate) const PACKETS_PER_TURN: usize = QUEUE_PACKETS_MAX / 2;

/// Batches that a writer sends before it lets its reader run, when the queue never gets empty.
pub(crate) const BATCHES_PER_TURN: usize = 16;

/// Frames in one vectored write.
pub(crate) const SLICES_PER_WRITE: usize = 64;

/// Connections that one key may hold. A roaming client holds two; a cloned machine a few. The one
/// that was active least recently makes room.
pub(crate) const CONNECTIONS_PER_KEY_MAX: usize = 16;

/// A home change counts as a move only this long after connecting (derper).
pub(crate) const HOME_MOVE_AFTER: Duration = Duration::from_secs(5);

/// Connections that have not been admitted yet, over all sources.
pub(crate) const PENDING_CONNECTIONS_MAX: usize = 4096;

/// Connections that have not been admitted yet, from one IPv4 address or IPv6 /64. High, because a
/// whole company may share one address, or arrive through one balancer.
pub(crate) const PENDING_PER_SOURCE_MAX: usize = 1024;

/// Default for the most connections of one relay; about 64 KiB of kernel and user memory each.
pub(crate) const CONNECTIONS_MAX: usize = 65_536;

/// Connections that the kernel holds for us; a relay restart brings all clients back in a second.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// Pause after a failed accept (out of file descriptors).
pub(crate) const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// TCP keep-alive of connections that say nothing (derper).
pub(crate) const TCP_KEEP_ALIVE: Duration = Duration::from_secs(600);

/// Sent data may stay unacknowledged this long (derper); with our keep-alive frames a vanished
/// client is noticed within 80 s.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Unsent bytes that the kernel holds per connection. Above it our own queue fills, which drops the
/// oldest first, where the kernel would delay all. A client below 8 KiB/s may run into
/// [`WRITE_STALL_TIMEOUT`], as the kernel reports progress at half of this.
pub(crate) const TCP_NOTSENT_LOWAT: u32 = 32 * 1024;

/// Parts of the registry that lock independently.
pub(crate) const REGISTRY_SHARDS: usize = 64;

/// How often certificates are looked at: changed files, or a self-signed one near its end.
pub(crate) const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Life of a self-signed certificate; derper takes a year as well.
pub(crate) const CERTIFICATE_DAYS: i64 = 365;

/// A self-signed certificate is replaced when fewer days are left.
pub(crate) const CERTIFICATE_RENEW_DAYS: i64 = 30;

/// How often names for `/bootstrap-dns` are resolved (derper).
pub(crate) const BOOTSTRAP_REFRESH_INTERVAL: Duration = Duration::from_secs(600);

/// Time to resolve one name for `/bootstrap-dns`.
pub(crate) const BOOTSTRAP_RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a draining relay tells its clients about coming back; official clients ignore it.
pub(crate) const RESTART_RECONNECT_IN: Duration = Duration::from_secs(1);

/// See [`RESTART_RECONNECT_IN`].
pub(crate) const RESTART_TRY_FOR: Duration = Duration::from_secs(30);

/// Longest WebSocket message from a client, in bytes: the longest packet with its frame.
pub(crate) const WEBSOCKET_MESSAGE_BYTES_MAX: usize = PACKET_BYTES_MAX + 8 * 1024;

/// Read buffer of a WebSocket, in bytes.
pub(crate) const WEBSOCKET_READ_BYTES: usize = 8 * 1024;

/// WebSockets whose clients have not introduced themselves yet. A message is only looked at when it is
/// whole, so that each of these may hold two messages: 9 MiB together.
pub(crate) const PENDING_WEBSOCKETS_MAX: usize = 64;

/// Packets that wait for another relay: its stream serves all clients there, and a stall of one
/// second on a line of 50 Mbit/s is as many.
pub(crate) const MESH_QUEUE_PACKETS_MAX: usize = 4096;

/// Bytes that wait for another relay.
pub(crate) const MESH_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of packets after which a message to another relay is full; one packet may exceed it.
pub(crate) const MESH_BATCH_BYTES: usize = 256 * 1024;

/// Presences in one message to another relay, of some 40 bytes each.
pub(crate) const MESH_BATCH_KEYS: usize = 4096;

/// Keys of which another relay is owed news, before its stream is given up.
pub(crate) const MESH_KEYS_WAITING_MAX: usize = 2 * CONNECTIONS_MAX;

/// Clients that another relay may have, as far as this one remembers; 100 bytes each.
pub(crate) const MESH_CLIENTS_MAX: usize = CONNECTIONS_MAX;
