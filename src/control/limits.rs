//! Every bound on what a client may ask of a replica, with its reason. Each has a counter:
//! `hydrascale_client_limit_hits_total{limit}`.

use std::time::Duration;

/// Connections to the client port, upgraded ones included: below common limits on open files.
pub const CONNECTIONS_MAX: usize = 60_000;
/// Request head on the client port, in bytes: real ones stay below 1 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time for a request's head, as headscale: nothing legitimate is slower.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Request bodies, as headscale; real ones take tens of KiB.
pub const BODY_BYTES_MAX: usize = crate::tailcfg::MAX_REQUEST_BYTES;
/// Time for a request's body: as long as for its head.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Body of `/verify`, as headscale and derper.
pub const VERIFY_BODY_BYTES_MAX: usize = 4 * 1024;

/// From the accepted TCP connection to the end of the TLS handshake, and from the 101 to the
/// client's HTTP/2 preface: the client itself gives up after 10 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Noise handshakes that wait for their client: a herd's worth, at a few KiB each.
pub const HANDSHAKES_MAX: usize = 4096;

/// Requests that one session has open, as Go's server: clients never open a second connection, so
/// a small number would lock them out.
pub const REQUESTS_PER_SESSION_MAX: u32 = 250;
/// Bodies that one session sends at once; others wait in HTTP/2's flow control.
pub const BODIES_PER_SESSION_MAX: usize = 8;
/// A body longer than this many bytes needs one of [`LARGE_BODIES_MAX`] places.
pub const LARGE_BODY_BYTES: usize = 64 * 1024;
/// Long bodies under way in the whole process: bounds what strangers can make it hold to 32 MiB.
pub const LARGE_BODIES_MAX: usize = 32;
/// A session without requests is asked to leave after this time; a client that wants to say
/// something redials.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Request head inside a session, in bytes.
pub const INNER_HEAD_BYTES_MAX: u32 = 16 * 1024;

/// Interactive logins that this replica starts per second, and as many over SSH: each is a write
/// that anybody, or any node, can cause.
pub const LOGINS_PER_SECOND: u32 = 20;
/// Logins that may start at once after a quiet time: an office that comes to work.
pub const LOGINS_BURST: u32 = 200;
/// The same of one source, where that is known: the most of an office behind one address, and little
/// enough that some sources cannot take what is there for all.
pub const SOURCE_LOGINS_PER_SECOND: u32 = 2;
/// Logins that one source may start at once.
pub const SOURCE_LOGINS_BURST: u32 = 50;
/// Sources that are remembered until their burst is full again, at some tens of bytes each. With more,
/// the limit for all is left.
pub const LOGIN_SOURCES_MAX: usize = 4096;
/// Questions about SSH logins that one session asks per second: each waits for the cluster.
pub const SSH_ASKS_PER_SECOND: u32 = 5;
/// Questions that one session asks at once after a quiet time: somebody's script, or all who waited
/// at a replica that went.
pub const SSH_ASKS_BURST: u32 = 100;
/// How often a client that waits for a login is looked after, whatever was heard of the login.
pub const LOGIN_RECHECK: Duration = Duration::from_secs(30);

/// How long a map stream waits for this replica to catch up. After that it is sent elsewhere, or,
/// when no leader was heard of meanwhile, served what is there.
pub const BARRIER_TIMEOUT: Duration = Duration::from_secs(2);
/// A map stream whose client takes nothing for this long is ended: the client is gone or hopeless,
/// and reconnects with a fresh map. Counted among the ends of map streams.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a replica without a leader goes on serving what it knows; longer would show a tailnet
/// that administrators have long changed.
pub const STALE_SERVICE_MAX: Duration = Duration::from_secs(15 * 60);

/// How many committed entries a replica may have yet to apply and count as ready. Keeping up means
/// some tens under the heaviest load; a thousand take part of a second.
pub const LAG_READY_MAX: u64 = 1000;

/// A draining replica asks its sessions to leave at random moments of this time, so that the
/// others are not all called at once.
pub const DRAIN_SPREAD: Duration = Duration::from_secs(5);
/// Short requests may finish this long after their session was asked to leave.
pub const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// After all of that nobody is waited for any more.
pub const SHUT_DOWN_MAX: Duration = Duration::from_secs(15);
