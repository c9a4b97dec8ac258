//! Requests as `curl` would send them, timed, without retries: single ones on a connection each,
//! and loops that keep their connection.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{TcpStream, UnixStream},
    task::{JoinError, JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

/// Answers in these tests are a few words.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A status and a body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What follows the head.
    pub body: String,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A port.
    Tcp(SocketAddr),
    /// A local socket.
    Local(PathBuf),
}

/// Sends one GET.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn get(server: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    let asked = timeout(limit, async {
        ask(TcpStream::connect(server).await?, &server.to_string(), path).await
    });
    match asked.await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

/// Sends one GET to a local socket.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn get_local(socket: &Path, path: &str, limit: Duration) -> Result<Answer> {
    let asked = timeout(limit, async {
        ask(UnixStream::connect(socket).await?, "local", path).await
    });
    match asked.await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

/// Sends one POST with a JSON body.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn post(to: &Endpoint, path: &str, body: &str, limit: Duration) -> Result<Answer> {
    let text = format!(
        "POST {path} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked = timeout(limit, async {
        match to {
            Endpoint::Tcp(server) => exchange(TcpStream::connect(server).await?, &text).await,
            Endpoint::Local(socket) => exchange(UnixStream::connect(socket).await?, &text).await,
        }
    });
    match asked.await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

async fn ask(wire: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> Result<Answer> {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    exchange(wire, &text).await
}

async fn exchange(mut wire: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> Result<Answer> {
    wire.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    wire.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    parse(&answer)
}

/// Reads a whole answer; one that is cut off before its announced length is none.
pub(crate) fn parse(answer: &[u8]) -> Result<Answer> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of head")?;
    // With an announced length a cut connection is told from a whole answer.
    if let Some(len) = announced_length(head) {
        let read = u64::try_from(body.len())?;
        ensure!(read >= len, "cut off after {read} of {len} bytes");
    }
    Ok(Answer {
        status: status_of(head)?,
        body: body.to_owned(),
    })
}

fn status_of(head: &str) -> Result<u16> {
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    status.with_context(|| format!("not HTTP: {head:?}"))
}

fn announced_length(head: &str) -> Option<u64> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let wanted = name.eq_ignore_ascii_case("content-length");
        if wanted {
            value.trim().parse().ok()
        } else {
            None
        }
    })
}

/// One request of a [`Loop`].
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was sent.
    pub at: Instant,
    /// How long it took, or how long until it failed.
    pub took: Duration,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Sends the same request again and again until stopped, whether or not earlier ones are answered,
/// on one connection for as long as that answers in time: what an established connection through
/// the tailnet goes through. Requests that meet one without an answer go on others, so that a lost
/// packet, for which TCP waits a second, is not taken for a path that is out for a second.
///
/// A connection for each request would measure something else, too: clients with a network stack
/// of their own soon meet a port again that the other side has not forgotten, and wait seconds.
pub struct Loop {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    task: JoinHandle<Result<Vec<Sample>, JoinError>>,
}

impl Loop {
    /// Starts: one request every `every`, each failing after `limit` or without status 200.
    pub fn start(server: SocketAddr, path: &str, every: Duration, limit: Duration) -> Self {
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let asker = Asker {
            server,
            path: path.into(),
            limit,
            idle: Arc::default(),
        };
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&made));
        let task = tokio::spawn(async move {
            let mut asked = JoinSet::new();
            let mut samples = Vec::new();
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let (asker, counted) = (asker.clone(), Arc::clone(&counted));
                asked.spawn(async move {
                    let sample = asker.ask().await;
                    counted.fetch_add(1, Ordering::Relaxed);
                    sample
                });
                while let Some(sample) = asked.try_join_next() {
                    samples.push(sample?);
                }
            }
            while let Some(sample) = asked.join_next().await {
                samples.push(sample?);
            }
            samples.sort_by_key(|sample| sample.at);
            Ok(samples)
        });
        Self { stop, made, task }
    }

    /// How many requests have come to an end.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Stops, waits for what is under way, and gives all samples in the order of their start.
    ///
    /// # Errors
    /// When the loop itself broke.
    pub async fn finish(self) -> Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(Samples(self.task.await??))
    }
}

/// Makes the requests of a [`Loop`], each on the connection that was used last of those that are
/// free.
#[derive(Clone)]
struct Asker {
    server: SocketAddr,
    path: Arc<str>,
    limit: Duration,
    idle: Arc<Mutex<Vec<BufReader<TcpStream>>>>,
}

impl Asker {
    async fn ask(&self) -> Sample {
        let at = Instant::now();
        let mut wire = self.idle().pop();
        let asked = timeout(self.limit, get_on(&mut wire, self.server, &self.path)).await;
        let failure = match asked {
            Ok(Ok(200)) => None,
            Ok(Ok(status)) => Some(format!("status {status}")),
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {:?}", self.limit)),
        };
        if failure.is_none() {
            self.idle().extend(wire);
        }
        Sample {
            at,
            took: at.elapsed(),
            failure,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<BufReader<TcpStream>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one GET on the open connection, or on a new one; gives the status of a whole answer.
async fn get_on(
    wire: &mut Option<BufReader<TcpStream>>,
    server: SocketAddr,
    path: &str,
) -> Result<u16> {
    if wire.is_none() {
        *wire = Some(BufReader::new(TcpStream::connect(server).await?));
    }
    let wire = wire.as_mut().context("just connected")?;
    wire.write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes())
        .await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(
            wire.read_line(&mut head).await? > 0,
            "the connection was closed"
        );
        ensure!(head.len() < HEAD_BYTES_MAX, "endless head");
    }
    let status = status_of(&head)?;
    let len = announced_length(&head).context("an answer without a length")?;
    ensure!(len <= ANSWER_BYTES_MAX, "an answer of {len} bytes");
    let mut body = Vec::new();
    let read = wire.take(len).read_to_end(&mut body).await?;
    ensure!(
        u64::try_from(read)? == len,
        "cut off after {read} of {len} bytes"
    );
    Ok(status)
}

/// What a [`Loop`] saw.
#[derive(Clone, Debug)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// How many requests were sent.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was sent.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The failed ones.
    pub fn failures(&self) -> Vec<&Sample> {
        self.0
            .iter()
            .filter(|sample| sample.failure.is_some())
            .collect()
    }

    /// The times in which answers were awaited and none came: each from the first request that was
    /// unanswered then, or from the answer before, to the next answer; the last one possibly without.
    pub fn waits(&self) -> Vec<(Instant, Duration)> {
        let end = |sample: &Sample| sample.at + sample.took;
        let fine = self.0.iter().filter(|sample| sample.failure.is_none());
        let mut answers: Vec<Instant> = fine.map(end).collect();
        answers.sort();
        // After the last answer, those that got none.
        answers.extend(self.0.iter().map(end).max());
        let mut waits = Vec::new();
        let mut before: Option<Instant> = None;
        for answer in answers {
            let awaited = self.0.iter().filter(|sample| sample.at < answer);
            let awaited = awaited.filter(|sample| before.is_none_or(|before| end(sample) > before));
            let since =
                awaited.map(|sample| before.map_or(sample.at, |before| before.max(sample.at)));
            if let Some(since) = since.min() {
                waits.push((since, answer - since));
            }
            before = Some(answer);
        }
        waits
    }

    /// The longest of [`Self::waits`].
    pub fn longest_wait(&self) -> Duration {
        let waits = self.waits().into_iter();
        waits.map(|(_, took)| took).max().unwrap_or_default()
    }

    /// The slowest successful request.
    pub fn slowest(&self) -> Duration {
        let fine = self.0.iter().filter(|sample| sample.failure.is_none());
        fine.map(|sample| sample.took).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests every 100 ms, with when they were answered, in ms after their start; 0 for never.
    fn samples(answered: &[u64]) -> Samples {
        let begin = Instant::now();
        let sample = |(index, took): (usize, &u64)| Sample {
            at: begin + Duration::from_millis(100) * u32::try_from(index).unwrap(),
            took: Duration::from_millis(if *took == 0 { 10 } else { *took }),
            failure: (*took == 0).then(String::new),
        };
        Samples(answered.iter().enumerate().map(sample).collect())
    }

    #[test]
    fn a_wait_reaches_from_the_first_request_without_an_answer_to_the_next_answer() {
        let longest = |answered| samples(answered).longest_wait().as_millis();
        assert_eq!(longest(&[10, 12, 11]), 12);
        assert_eq!(longest(&[10, 0, 0, 10, 10, 0, 10]), 210);
        assert_eq!(longest(&[10, 0]), 10);
        // All wait until the path is there again.
        assert_eq!(longest(&[10, 350, 250, 150, 60]), 350);
    }

    #[test]
    fn one_request_that_waits_for_a_lost_packet_is_no_path_without_answers() {
        let lost = samples(&[10, 1010, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!(lost.longest_wait().as_millis(), 110);
        assert_eq!(lost.slowest().as_millis(), 1010);
    }

    #[test]
    fn an_answer_cut_off_before_its_length_is_no_answer() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").is_err());
        let whole = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
        assert_eq!((whole.status, whole.body.as_str()), (200, "hello"));
    }
}
