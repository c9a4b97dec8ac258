//! The same request again and again over a path through the tailnet, and what of it was answered when.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::http::{ANSWER_BYTES_MAX, announced_length, status_of};

const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A connection that was idle for longer is not used again: servers close them after minutes.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A request that took longer has lost the first packet of its connection, which is sent again after
/// 1 s (RFC 6298 section 2.1). Later ones are sent again after some 200 ms, and are not counted.
const SLOW: Duration = Duration::from_millis(900);

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

impl Sample {
    fn end(&self) -> Instant {
        self.at + self.took
    }

    const fn wait(&self) -> Wait {
        Wait {
            since: self.at,
            took: self.took,
        }
    }
}

/// Sends the same request again and again until it is stopped or dropped, whether or not earlier ones
/// are answered: a lost packet, for which TCP waits a second, holds up one request and not the next.
///
/// As long as answers come in time, all go on one connection. Behind a forwarder that is one
/// connection through the tailnet, too; Caddy makes one there for each request, as `curl` does.
pub struct Loop {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    /// Its one task ends with it.
    task: JoinSet<Result<Vec<Sample>>>,
}

impl Loop {
    /// Starts: one request every `every`, each failing after `limit` or without status 200.
    pub fn start(server: SocketAddr, path: &str, every: Duration, limit: Duration) -> Self {
        let asker = Asker {
            server,
            path: path.into(),
            limit,
            idle: Arc::default(),
            made: Arc::default(),
        };
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::clone(&asker.made));
        let mut task = JoinSet::new();
        task.spawn(asker.ask_every(every, Arc::clone(&stop)));
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
    pub async fn finish(mut self) -> Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.task.join_next().await.context("a loop has one task")?;
        ended?.map(Samples)
    }
}

/// A connection, and since when it is free.
type Idle = (Instant, BufReader<TcpStream>);

/// Makes requests, each on the connection that was used last of those that are free.
#[derive(Clone)]
struct Asker {
    server: SocketAddr,
    path: Arc<str>,
    limit: Duration,
    idle: Arc<Mutex<Vec<Idle>>>,
    made: Arc<AtomicUsize>,
}

impl Asker {
    async fn ask_every(self, every: Duration, stop: Arc<AtomicBool>) -> Result<Vec<Sample>> {
        let mut asked = JoinSet::new();
        let mut samples = Vec::new();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let asker = self.clone();
            asked.spawn(async move { asker.ask().await });
            while let Some(sample) = asked.try_join_next() {
                samples.push(sample?);
            }
        }
        while let Some(sample) = asked.join_next().await {
            samples.push(sample?);
        }
        samples.sort_by_key(|sample| sample.at);
        Ok(samples)
    }

    async fn ask(&self) -> Sample {
        let at = Instant::now();
        let mut wire = self.take_idle(at);
        let asked = timeout(self.limit, get_on(&mut wire, self.server, &self.path)).await;
        let failure = match asked {
            Ok(Ok(200)) => None,
            Ok(Ok(status)) => Some(format!("status {status}")),
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {:?}", self.limit)),
        };
        if failure.is_none() {
            self.idle().extend(wire.map(|wire| (Instant::now(), wire)));
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        Sample {
            at,
            took: at.elapsed(),
            failure,
        }
    }

    fn take_idle(&self, now: Instant) -> Option<BufReader<TcpStream>> {
        let mut idle = self.idle();
        idle.retain(|(since, _)| now.saturating_duration_since(*since) < IDLE_MAX);
        idle.pop().map(|(_, wire)| wire)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
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

/// What a [`Loop`] saw, in the order in which requests were sent.
#[derive(Clone, Debug)]
pub struct Samples(Vec<Sample>);

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
        let failed = self.0.iter().filter(|sample| sample.failure.is_some());
        failed.collect()
    }

    /// The slowest successful request.
    pub fn slowest(&self) -> Duration {
        let fine = self.0.iter().filter(|sample| sample.failure.is_none());
        fine.map(|sample| sample.took).max().unwrap_or_default()
    }

    /// The times in which requests were under way and none was answered; they do not overlap. Each
    /// begins with a request, or with an answer while others are still awaited, and ends with the next
    /// answer, the last one maybe with a failure.
    pub fn waits(&self) -> Vec<Wait> {
        let fine = self.0.iter().filter(|sample| sample.failure.is_none());
        let mut answers: Vec<Instant> = fine.map(Sample::end).collect();
        answers.sort();
        // After the last answer, requests that got none.
        answers.extend(self.0.iter().map(Sample::end).max());
        let mut waits = Vec::new();
        let mut last: Option<Instant> = None;
        for answer in answers {
            let awaited = self
                .0
                .iter()
                .filter(|sample| sample.at < answer && last.is_none_or(|last| sample.end() > last));
            if let Some(first) = awaited.map(|sample| sample.at).min() {
                let since = last.map_or(first, |last| last.max(first));
                let took = answer - since;
                waits.push(Wait { since, took });
            }
            last = Some(answer);
        }
        waits
    }

    /// The longest of [`Self::waits`].
    pub fn longest_wait(&self) -> Duration {
        let waits = self.waits().into_iter();
        waits.map(|wait| wait.took).max().unwrap_or_default()
    }

    /// For how long the path was of no use to somebody who sent a request `every` so often `during`
    /// some time: its longest wait, or `every` for each slow request, whichever is more. While a path
    /// that shares nothing but the machine, whose waits are `beside`, missed a request as well, it was
    /// the machine that stood still; that does not count.
    pub fn held_up(&self, during: &Range<Instant>, every: Duration, beside: &[Wait]) -> Duration {
        let stalls: Vec<Wait> = beside
            .iter()
            .filter(|wait| wait.took >= every)
            .copied()
            .collect();
        let waits = self.waits().into_iter();
        let waits = waits.filter(|wait| during.contains(&wait.since));
        let longest = waits.map(|wait| wait.beyond(&stalls)).max();
        let requests = self.0.iter().filter(|sample| during.contains(&sample.at));
        let slow = requests.filter(|sample| sample.wait().beyond(&stalls) >= SLOW);
        let slow = u32::try_from(slow.count()).unwrap_or(u32::MAX);
        every.saturating_mul(slow).max(longest.unwrap_or_default())
    }
}

/// A time in which answers were awaited and none came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When it began.
    pub since: Instant,
    /// How long it was.
    pub took: Duration,
}

impl Wait {
    /// What is left of it without the parts in which `others`, which do not overlap, waited too.
    fn beyond(&self, others: &[Self]) -> Duration {
        let end = self.since + self.took;
        let shared = others.iter().map(|other| {
            let until = end.min(other.since + other.took);
            until.saturating_duration_since(self.since.max(other.since))
        });
        self.took.saturating_sub(shared.sum())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::Notify,
    };

    use super::*;

    const EVERY: Duration = Duration::from_millis(100);
    const SECOND: Duration = Duration::from_secs(1);

    /// Requests every 100 ms from `begin` on, with when they were answered, in ms after their start;
    /// 0 for those that failed after 10.
    fn samples_from(begin: Instant, answered: &[u64]) -> Samples {
        let sample = |(index, took): (usize, &u64)| Sample {
            at: begin + EVERY * u32::try_from(index).unwrap(),
            took: Duration::from_millis(if *took == 0 { 10 } else { *took }),
            failure: (*took == 0).then(String::new),
        };
        Samples(answered.iter().enumerate().map(sample).collect())
    }

    fn samples(answered: &[u64]) -> Samples {
        samples_from(Instant::now(), answered)
    }

    #[test]
    fn a_wait_reaches_from_the_first_request_without_an_answer_to_the_next_answer() {
        let longest = |answered| samples(answered).longest_wait().as_millis();
        assert_eq!(longest(&[10, 12, 11]), 12);
        assert_eq!(longest(&[10, 0, 0, 10, 10, 0, 10]), 210);
        assert_eq!(longest(&[10, 0]), 10);
        // All wait until the path is there again.
        assert_eq!(longest(&[10, 350, 250, 150, 60]), 350);
        let mut given_up = samples(&[10, 350, 250, 150, 10]);
        given_up.0[2].failure = Some("no answer in time".to_owned());
        assert_eq!(given_up.longest_wait().as_millis(), 310);
        assert_eq!(samples(&[]).waits(), []);
    }

    #[test]
    fn one_request_that_waits_for_a_lost_packet_is_no_path_without_answers() {
        let begin = Instant::now();
        let one = samples_from(begin, &[&[10, 1010][..], &[10; 20]].concat());
        assert_eq!(one.longest_wait().as_millis(), 110);
        assert_eq!(one.slowest().as_millis(), 1010);
        let minute = begin..begin + 60 * SECOND;
        let held_up = |samples: &Samples| samples.held_up(&minute, EVERY, &[]).as_millis();
        assert_eq!(held_up(&one), 110);
        // Every other packet is lost.
        let lossy = samples_from(begin, &[10, 1010].repeat(20));
        assert_eq!(lossy.longest_wait().as_millis(), 200);
        assert_eq!(held_up(&lossy), 2000);
    }

    #[test]
    fn what_another_path_waited_meanwhile_is_the_machines_doing() {
        let begin = Instant::now();
        let path = samples_from(begin, &[10, 2010, 1910, 1810]);
        let during = begin..begin + 60 * SECOND;
        assert_eq!(path.held_up(&during, EVERY, &[]).as_millis(), 2010);
        let since = begin + SECOND;
        let took = 30 * SECOND;
        let beside = [Wait { since, took }];
        assert_eq!(path.held_up(&during, EVERY, &beside).as_millis(), 900);
        // Ordinary answers of the other path excuse nothing.
        let lossy = samples_from(begin, &[10, 1010].repeat(20));
        let fine = samples_from(begin, &[50; 60]).waits();
        assert_eq!(lossy.held_up(&during, EVERY, &fine).as_millis(), 2000);
        let early = begin..begin + EVERY;
        assert_eq!(path.held_up(&early, EVERY, &[]).as_millis(), 10);
    }

    #[tokio::test]
    async fn a_request_without_an_answer_does_not_keep_others_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let release = Arc::new(Notify::new());
        let answering = tokio::spawn(answer(listener, Arc::clone(&release)));
        let every = Duration::from_millis(5);
        let requests = Loop::start(server, "/", every, 20 * SECOND);
        while requests.made() < 5 {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        let samples = requests.finish().await.unwrap();
        answering.abort();
        assert!(samples.failures().is_empty(), "{:?}", samples.failures());
        assert!(samples.len() > 5);
    }

    /// Answers all requests, but on the first connection only once `release` says so.
    async fn answer(listener: TcpListener, release: Arc<Notify>) {
        let mut connections = JoinSet::new();
        for number in 0.. {
            let (wire, _) = listener.accept().await.unwrap();
            let release = Arc::clone(&release);
            connections.spawn(async move {
                let mut wire = BufReader::new(wire);
                let mut line = String::new();
                while wire.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if std::mem::take(&mut line) != "\r\n" {
                        continue;
                    }
                    if number == 0 {
                        release.notified().await;
                        release.notify_one();
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    wire.write_all(answer).await.unwrap();
                }
            });
        }
    }
}
