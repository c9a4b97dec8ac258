//! HTTP on the listeners that are not for clients: metrics and the local socket. Few know them, so
//! few connections are enough; the bounds keep one that is slow or stuck from holding the rest.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::util::ServiceExt;

use crate::control::limits::{HEAD_BYTES_MAX, HEAD_TIMEOUT};

/// Connections at once: some scrapers, or a script's worth of commands. More wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A connection is asked to end after this time, between two requests; whoever goes on reconnects.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// A request under way may finish this long after that: longer than any takes. A peer that does not
/// take its answer is cut off then.
const CONNECTION_GRACE: Duration = Duration::from_secs(60);

/// Serves `router` on what `listener` accepts; does not end. Connections end with it.
pub(super) async fn serve<L>(mut listener: L, router: Router)
where
    L: Listener,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        // Accepting again after an error is the listener's business.
        let (io, _) = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let router = router.clone();
        connections.spawn(async move {
            serve_connection(io, router).await;
            drop(slot);
        });
    }
}

async fn serve_connection<T>(io: T, router: Router)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
        let request: Request = request.map(axum::body::Body::new);
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(never)) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = sleep(CONNECTION_LIFE) => {
            serving.as_mut().graceful_shutdown();
            let Ok(served) = timeout(CONNECTION_GRACE, serving).await else {
                tracing::debug!("local connection cut off");
                return;
            };
            served
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "local connection ended with an error");
    }
}

fn never<T>(impossible: Infallible) -> T {
    match impossible {}
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const PIPE_BYTES: usize = 1024;
    /// More than the pipe takes.
    const ANSWER_BYTES: usize = 16 * PIPE_BYTES;

    /// Hands out what the test connects.
    struct Dialled(mpsc::Receiver<DuplexStream>);

    impl Listener for Dialled {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.0.recv().await {
                Some(io) => (io, ()),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Server {
        dial: mpsc::Sender<DuplexStream>,
        _tasks: JoinSet<()>,
    }

    impl Server {
        fn start() -> Self {
            let (dial, dialled) = mpsc::channel(2 * CONNECTIONS_MAX);
            let answer = "x".repeat(ANSWER_BYTES);
            let router = Router::new().route("/", get(async move || answer.clone()));
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(Dialled(dialled), router));
            Self {
                dial,
                _tasks: tasks,
            }
        }

        async fn connect(&self) -> DuplexStream {
            let (mine, theirs) = duplex(PIPE_BYTES);
            self.dial.send(theirs).await.unwrap();
            mine
        }
    }

    /// Until the server closes the connection.
    async fn read_all(mut io: DuplexStream) -> (usize, Duration) {
        let start = Instant::now();
        let mut read = Vec::new();
        // A reset ends it, too.
        let _ = io.read_to_end(&mut read).await;
        (read.len(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed_in_time() {
        let server = Server::start();
        let (_, silent) = read_all(server.connect().await).await;
        assert_eq!(silent, HEAD_TIMEOUT);
        let mut idle = server.connect().await;
        idle.write_all(REQUEST).await.unwrap();
        let (bytes, elapsed) = read_all(idle).await;
        assert!(bytes > ANSWER_BYTES);
        assert_eq!(elapsed, HEAD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_no_answer_is_cut_off() {
        let server = Server::start();
        let mut stuck = server.connect().await;
        stuck.write_all(REQUEST).await.unwrap();
        sleep(CONNECTION_LIFE + CONNECTION_GRACE).await;
        tokio::task::yield_now().await;
        let (bytes, _) = read_all(stuck).await;
        assert!(bytes <= PIPE_BYTES, "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_limit_wait_until_another_ends() {
        let server = Server::start();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            held.push(server.connect().await);
        }
        let mut late = server.connect().await;
        late.write_all(REQUEST).await.unwrap();
        let waits = timeout(HEAD_TIMEOUT / 2, late.read_u8()).await;
        assert!(waits.is_err());
        held.pop();
        let answered = timeout(HEAD_TIMEOUT / 4, late.read_u8()).await;
        assert_eq!(answered.unwrap().unwrap(), b'H');
    }
}
