//! The frames of a map stream onto HTTP/2, as fast as the client reads and no faster.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;
use tokio::time::timeout;

use crate::control::inner::Progress;
use crate::control::limits::STALL_TIMEOUT;
use crate::session::{FrameSink, SinkError};

/// The sending half of one request. Dropping it ends the response in order, where a reset would
/// look like a fault to the client.
pub(super) struct H2Sink {
    stream: SendStream<Bytes>,
    progress: Progress,
}

impl H2Sink {
    pub(super) const fn new(stream: SendStream<Bytes>, progress: Progress) -> Self {
        Self { stream, progress }
    }
}

impl FrameSink for H2Sink {
    /// # Cancel safety
    /// A frame that was begun stays torn: send nothing more after dropping the future.
    async fn send(&mut self, mut frame: Bytes) -> Result<(), SinkError> {
        let len = frame.len();
        while !frame.is_empty() {
            self.stream.reserve_capacity(frame.len());
            // The time is for each step, not for the frame: a large netmap over a thin line goes on
            // as long as anything of it arrives.
            let capacity = timeout(STALL_TIMEOUT, poll_fn(|cx| self.stream.poll_capacity(cx)))
                .await
                .map_err(|_| SinkError::Stalled)?;
            let Some(Ok(capacity)) = capacity else {
                return Err(SinkError::Closed);
            };
            if frame.len() < len {
                self.progress.note();
            }
            let mut piece = frame.split_to(capacity.min(frame.len()));
            if piece.len() < len {
                // What waits in the connection's buffer must not keep all of the frame.
                piece = Bytes::copy_from_slice(&piece);
            }
            self.stream
                .send_data(piece, false)
                .map_err(|_| SinkError::Closed)?;
        }
        Ok(())
    }

    async fn closed(&mut self) {
        // A reset and a lost connection are the same to a map stream.
        let _ = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }
}

impl Drop for H2Sink {
    fn drop(&mut self) {
        if let Err(error) = self.stream.send_data(Bytes::new(), true) {
            tracing::trace!(%error, "map stream was over already");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use h2::RecvStream;
    use tokio::io::duplex;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    /// The two ends of one answer, over connections that run in `tasks`.
    async fn pair(tasks: &mut JoinSet<()>) -> (H2Sink, RecvStream) {
        let (near, far) = duplex(16 * 1024);
        let server = tokio::spawn(async move { h2::server::handshake(far).await.unwrap() });
        let (mut requests, connection) = h2::client::handshake(near).await.unwrap();
        tasks.spawn(async move { drop(connection.await) });
        let (answer, _) = requests.send_request(Request::new(()), true).unwrap();
        let mut server = server.await.unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        tasks.spawn(async move { while server.accept().await.is_some() {} });
        let sink = H2Sink::new(
            respond.send_response(Response::new(()), false).unwrap(),
            Progress::default(),
        );
        (sink, answer.await.unwrap().into_body())
    }

    #[tokio::test]
    async fn a_frame_longer_than_every_window_waits_for_its_reader_and_arrives_whole() {
        let mut tasks = JoinSet::new();
        let (mut sink, mut body) = pair(&mut tasks).await;
        let frame = Bytes::from(vec![7; 3_000_000]);
        let sending = async move {
            sink.send(frame).await.unwrap();
            sink
        };
        let receiving = async {
            let mut len = 0;
            while len < 3_000_000 {
                let chunk = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                len += chunk.len();
            }
        };
        let (sink, ()) = tokio::join!(sending, receiving);
        drop(sink);
        let end = body.data().await.transpose().unwrap().unwrap_or_default();
        assert!(end.is_empty() && body.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let mut tasks = JoinSet::new();
        let (mut sink, _body) = pair(&mut tasks).await;
        let start = Instant::now();
        let sent = sink.send(Bytes::from(vec![7; 3_000_000])).await;
        assert_eq!(sent, Err(SinkError::Stalled));
        assert_eq!(start.elapsed().as_secs(), STALL_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_frame_over_a_thin_line_takes_its_time_and_arrives() {
        const LEN: usize = 1_000_000;
        let mut tasks = JoinSet::new();
        let (mut sink, mut body) = pair(&mut tasks).await;
        let start = Instant::now();
        let sending = sink.send(Bytes::from(vec![7; LEN]));
        let receiving = async {
            let mut len = 0;
            while len < LEN {
                let chunk = body.data().await.unwrap().unwrap();
                tokio::time::sleep(STALL_TIMEOUT / 4).await;
                body.flow_control().release_capacity(chunk.len()).unwrap();
                len += chunk.len();
            }
        };
        let (sent, ()) = tokio::join!(sending, receiving);
        assert_eq!(sent, Ok(()));
        assert!(start.elapsed() > 4 * STALL_TIMEOUT);
    }

    #[tokio::test]
    async fn the_end_of_a_large_frame_that_waits_for_its_reader_does_not_keep_the_frame() {
        let mut tasks = JoinSet::new();
        let (mut sink, mut body) = pair(&mut tasks).await;
        let frame = Bytes::from(vec![7; 3_000_000]);
        let kept = frame.clone();
        let mut unread = kept.len();
        let mut sending = std::pin::pin!(sink.send(frame));
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => break sent.unwrap(),
                chunk = body.data() => {
                    let chunk = chunk.unwrap().unwrap();
                    unread -= chunk.len();
                    body.flow_control().release_capacity(chunk.len()).unwrap();
                }
            }
        }
        assert!(unread > 0 && kept.is_unique(), "{unread} bytes wait");
    }

    #[tokio::test]
    async fn a_client_that_left_closes_the_sink() {
        let mut tasks = JoinSet::new();
        let (mut sink, body) = pair(&mut tasks).await;
        drop(body);
        sink.closed().await;
        assert_eq!(
            sink.send(Bytes::from_static(b"late")).await,
            Err(SinkError::Closed)
        );
    }
}
