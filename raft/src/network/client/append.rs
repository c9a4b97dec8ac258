//! Entries for another replica: in order on the log lane, many under way at once.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use hydrascale_proto::raft::v1 as pb;
use openraft::RPCTypes;
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::Streaming;

use super::standstill::Standstill;
use super::{C, PeerNetwork, malformed};
use crate::network::lanes::{CallError, Lane};
use crate::network::message::{append_reply_from_proto, append_to_proto};
use crate::timing::now;

impl PeerNetwork {
    /// Opens a stream once there is a first request.
    pub(super) async fn pipeline<'s, S>(
        &'s mut self,
        mut input: S,
    ) -> Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        // openraft rests after failures where it makes a request: one that cannot be sent must be made
        // first, or whoever is gone is dialled without a rest.
        let Some(first) = input.next().await else {
            return Ok(Box::pin(stream::empty()));
        };
        let patience = self.factory.timing.append_answer();
        let owed = Arc::new(Owed::default());
        let sent = Arc::clone(&owed);
        let stands_still = Arc::new(AtomicBool::new(false));
        let (mut standstill, told) = (Standstill::default(), Arc::clone(&stands_still));
        let requests = stream::iter([first]).chain(input);
        let outbound = requests
            .take_while(move |request| {
                let reached = standstill.is_reached(request);
                told.store(reached, Ordering::Relaxed);
                ready(!reached)
            })
            .map(move |request| {
                sent.sent();
                append_to_proto(&request)
            });
        let request = self.lanes().request(self.target, outbound);
        let mut client = self.lanes().client(self.target, Lane::Log);
        let opened = timeout(patience, client.append(request)).await;
        let response = match opened {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                let error = self.lanes().judge(&status);
                return Err(self.rpc_error(&error, RPCTypes::AppendEntries));
            }
            Err(_) => {
                let error = CallError::TimedOut { patience };
                return Err(self.rpc_error(&error, RPCTypes::AppendEntries));
            }
        };
        let start = self.lanes().start_of(self.target, &response);
        let start = start.map_err(|error| self.rpc_error(&error, RPCTypes::AppendEntries))?;
        let answers = Answers {
            network: self,
            replies: response.into_inner(),
            start,
            owed,
            stands_still,
            patience,
            ended: false,
        };
        Ok(Box::pin(stream::unfold(answers, Answers::next)))
    }
}

/// Requests of an append stream that have no answer yet.
#[derive(Default)]
struct Owed(Mutex<VecDeque<Instant>>);

impl Owed {
    fn sent(&self) {
        self.0.lock().push_back(now());
    }

    fn answered(&self) {
        self.0.lock().pop_front();
    }

    /// How long the oldest request has waited.
    fn longest(&self) -> Duration {
        self.0.lock().front().map_or(Duration::ZERO, |sent| {
            now().saturating_duration_since(*sent)
        })
    }
}

/// The answers of an append stream. A stream may rest for as long as it likes, but an answer that
/// is owed must come.
struct Answers<'s> {
    network: &'s mut PeerNetwork,
    replies: Streaming<pb::AppendReply>,
    /// Which start of the other replica gives them.
    start: u64,
    owed: Arc<Owed>,
    /// Whether the requests were ended because nothing came of them.
    stands_still: Arc<AtomicBool>,
    patience: Duration,
    ended: bool,
}

impl Answers<'_> {
    async fn next(mut self) -> Option<(Result<StreamAppendResult<C>, RPCError<C>>, Self)> {
        if self.ended {
            return None;
        }
        let answer = match self.receive().await {
            Ok(Some(reply)) => append_reply_from_proto(reply).map_err(|error| malformed(&error)),
            Ok(None) if self.stands_still.load(Ordering::Relaxed) => {
                let reason = "the entries that it needs next are purged".to_owned();
                let error = CallError::Failed { reason };
                Err(self.network.rpc_error(&error, RPCTypes::AppendEntries))
            }
            Ok(None) => return None,
            Err(error) => Err(self.network.rpc_error(&error, RPCTypes::AppendEntries)),
        };
        self.owed.answered();
        self.ended = !matches!(answer, Ok(Ok(_)));
        Some((answer, self))
    }

    async fn receive(&mut self) -> Result<Option<pb::AppendReply>, CallError> {
        loop {
            let rest = self.patience.saturating_sub(self.owed.longest());
            let lanes = self.network.lanes();
            match timeout(rest, self.replies.message()).await {
                // A stream outlives the news of a later start.
                Ok(Ok(reply)) => {
                    lanes.hear(self.network.target, self.start)?;
                    return Ok(reply);
                }
                Ok(Err(status)) => return Err(lanes.judge(&status)),
                Err(_) if self.owed.longest() >= self.patience => {
                    return Err(CallError::TimedOut {
                        patience: self.patience,
                    });
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;
    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use tonic::Status;
    use tonic::body::Body;
    use tonic::codegen::http;
    use tower::service_fn;
    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::fatal_slot::FatalSlot;
    use crate::network::client::NetworkFactory;
    use crate::network::envelope::INCARNATION;
    use crate::network::lanes::{Lanes, PeerChannel};
    use crate::network::{AddressBook, ChannelError, Incarnations, Reach};
    use crate::testing::append_request;
    use crate::timing::Timing;
    use crate::tls::PeerName;
    use crate::type_config::Member;

    /// Somebody who refuses connections, or takes whatever is sent and ends when the sender does.
    #[derive(Clone, Default)]
    struct Other {
        refuses: bool,
        calls: Arc<AtomicUsize>,
    }

    impl Other {
        fn network(&self) -> PeerNetwork {
            let lanes = Lanes::new(
                PeerName::new("cluster", 1),
                1,
                "one:7443".to_owned(),
                (Arc::new(self.clone()), AddressBook::default()),
                Incarnations::default(),
                FatalSlot::new(),
                Arc::default(),
            );
            let factory = NetworkFactory::new(lanes, Timing::new(1), Arc::default());
            factory.client(2, &Member::default(), true)
        }
    }

    impl Reach for Other {
        fn open(&self, _: u64, _: Lane) -> PeerChannel {
            let other = self.clone();
            BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
                other.calls.fetch_add(1, Ordering::Relaxed);
                ready(match other.refuses {
                    true => Err(ChannelError("connection refused".into())),
                    false => Ok(drained(request.into_body())),
                })
            }))
        }

        fn is_refused(&self, _: u64) -> BoxFuture<'_, bool> {
            ready(self.refuses).boxed()
        }
    }

    fn drained(mut sent: Body) -> http::Response<Body> {
        let end = async move {
            while sent.frame().await.is_some() {}
            let mut status = http::HeaderMap::new();
            status.insert("grpc-status", http::HeaderValue::from_static("0"));
            Ok::<_, Status>(Frame::<Bytes>::trailers(status))
        };
        http::Response::builder()
            .header("content-type", "application/grpc")
            .header(INCARNATION, "1")
            .body(Body::new(StreamBody::new(stream::once(end))))
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_connections_is_dialled_once_for_each_request_that_is_made() {
        let other = Other {
            refuses: true,
            ..Other::default()
        };
        let mut network = other.network();
        // openraft rests while it makes the first request.
        assert!(network.pipeline(stream::pending()).now_or_never().is_none());
        assert_eq!(other.calls.load(Ordering::Relaxed), 0);
        for attempt in 1..4 {
            let input = stream::iter([append_request(5, 9, 2)]).chain(stream::pending());
            assert!(network.pipeline(input).await.is_err());
            assert_eq!(other.calls.load(Ordering::Relaxed), attempt);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_entries_were_purged_ends_with_an_error_instead_of_going_on_for_ever() {
        let mut network = Other::default().network();
        let input = stream::repeat_with(|| append_request(5, 9, 0));
        let mut answers = network.pipeline(input).await.unwrap();
        let error = answers.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("purged"), "{error}");
        assert!(answers.next().await.is_none());
    }
}
