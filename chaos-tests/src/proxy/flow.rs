//! One direction of one connection.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, watch},
    time::{sleep, sleep_until},
};

use super::Modes;

/// Read at once.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces on their way: a megabyte, after which the sender has to wait.
const PIECES_MAX: usize = 64;
/// A throttled direction writes so often in a second.
const THROTTLE_STEPS: u32 = 20;

/// What a direction does with what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Passes it on.
    #[default]
    Pass,
    /// Keeps it until told otherwise: a link that loses everything.
    Hold,
    /// Passes it on so much later.
    Delay(Duration),
    /// Passes on so many bytes a second.
    Throttle(u32),
    /// Resets the connection after so many bytes.
    CutAfter(u64),
}

/// The connection is to be reset.
#[derive(Debug)]
pub(super) struct Break;

/// Passes on what `from` reads as the `flow` of the moment says, until its end.
pub(super) async fn pump(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    modes: watch::Receiver<Modes>,
    flow: fn(&Modes) -> Flow,
) -> Result<(), Break> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let len = from.read(&mut piece).await?;
            piece.truncate(len);
            if len == 0 || queue.send((Instant::now(), piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut way = Way {
        to,
        modes,
        flow,
        last: Flow::Pass,
        passed: 0,
    };
    let write = async move {
        while let Some((read_at, piece)) = queued.recv().await {
            way.pass(read_at, &piece).await?;
        }
        // The end is no news before all that was sent is.
        way.passable().await?;
        way.to.shutdown().await?;
        Ok(())
    };
    tokio::try_join!(read, write).map(drop)
}

struct Way<W> {
    to: W,
    modes: watch::Receiver<Modes>,
    flow: fn(&Modes) -> Flow,
    last: Flow,
    /// Bytes passed since the flow was changed.
    passed: u64,
}

impl<W: AsyncWrite + Unpin> Way<W> {
    /// Waits until something may be passed on; says how.
    async fn passable(&mut self) -> Result<Flow, Break> {
        let flow = self.flow;
        let modes = self.modes.wait_for(|modes| flow(modes) != Flow::Hold);
        let flow = flow(&*modes.await.map_err(|_| Break)?);
        if flow != self.last {
            self.last = flow;
            self.passed = 0;
        }
        Ok(flow)
    }

    async fn pass(&mut self, read_at: Instant, piece: &[u8]) -> Result<(), Break> {
        match self.passable().await? {
            Flow::Pass | Flow::Hold => self.to.write_all(piece).await?,
            Flow::Delay(delay) => {
                sleep_until((read_at + delay).into()).await;
                self.passable().await?;
                self.to.write_all(piece).await?;
            }
            Flow::Throttle(rate) => self.trickle(rate, piece).await?,
            Flow::CutAfter(limit) => self.pass_until(limit, piece).await?,
        }
        Ok(())
    }

    async fn trickle(&mut self, rate: u32, piece: &[u8]) -> Result<(), Break> {
        let step = usize::try_from(rate / THROTTLE_STEPS).unwrap_or(1).max(1);
        for part in piece.chunks(step) {
            self.passable().await?;
            self.to.write_all(part).await?;
            sleep(Duration::from_secs(1) / THROTTLE_STEPS).await;
        }
        Ok(())
    }

    async fn pass_until(&mut self, limit: u64, piece: &[u8]) -> Result<(), Break> {
        let left = usize::try_from(limit - self.passed.min(limit)).unwrap_or(usize::MAX);
        let Some((part, _)) = piece.split_at_checked(left) else {
            self.passed += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.to.write_all(piece).await?;
            return Ok(());
        };
        self.to.write_all(part).await?;
        self.to.flush().await?;
        Err(Break)
    }
}
