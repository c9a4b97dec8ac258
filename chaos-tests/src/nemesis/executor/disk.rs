//! Disks that are full, and files that are damaged.
//!
//! A replica may step aside or end, if it says why; on damaged files it may refuse to start. Then it
//! is wiped and replaced, as an operator would do. It must never serve anything wrong, which is the
//! checkers' to find.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until};

use super::Executor;
use crate::nemesis::{Damage, FileKind, How};

/// Until a replica that has decided to end has ended: it says goodbye to its clients.
const ENDING: Duration = Duration::from_secs(4);
/// From the end of a process until all it has written is in the file.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What keeps a disk full.
const BALLAST: &str = "ballast";
/// Written at once to fill a disk; the last room is taken byte by byte.
const PIECES: [usize; 3] = [1 << 20, 4096, 1];
/// More bytes than a test's disk holds: a folder that is not on a small disk of its own.
const BALLAST_BYTES_MAX: u64 = 1 << 30;

impl Executor<'_> {
    /// Takes all the room that the replica's disk has.
    pub(super) fn fill(&mut self, victim: usize) -> Result<()> {
        let path = self.cluster.replica(victim)?.data().join(BALLAST);
        self.ballast = Some(path.clone());
        let mut file = File::create(&path)?;
        let mut len = 0;
        for piece in PIECES {
            let zeros = vec![0; piece];
            loop {
                ensure!(len < BALLAST_BYTES_MAX, "the disk of {victim} is not small");
                match file.write(&zeros) {
                    Ok(0) => break,
                    Ok(more) => len += u64::try_from(more)?,
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill a disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back. Whoever ended must have said why, and comes back.
    pub(super) async fn free(&mut self, victim: usize) -> Result<String> {
        if let Some(ballast) = self.ballast.take() {
            fs::remove_file(&ballast)?;
        }
        // It may have seen the full disk just before and be about to end.
        sleep(ENDING).await;
        if !self.cluster.has_ended(victim)? {
            let ready = self.cluster.wait_ready(victim).await;
            if !self.cluster.has_ended(victim)? {
                return ready.map(|_| "it stayed".to_owned());
            }
        }
        let why = self.reason(victim).await?;
        self.cluster.forget(victim)?;
        self.cluster.up(victim).await.context("with room again")?;
        Ok(format!("it ended: {why}"))
    }

    /// Stops a replica, damages one of its files, starts it at `end`, and replaces it when it
    /// refuses.
    pub(super) async fn damage(
        &mut self,
        victim: usize,
        damage: Damage,
        end: Instant,
    ) -> Result<String> {
        let id = self.cluster.id_of(victim).await?;
        if damage.in_order {
            self.cluster.terminate(victim).await?;
        } else {
            self.cluster.kill(victim).await?;
        }
        let done = harm(self.cluster.replica(victim)?.data(), damage)?;
        sleep_until(end).await;
        self.damaged.insert(victim, id);
        self.cluster.start_replica(victim)?;
        let ready = self.cluster.wait_ready(victim).await;
        if self.cluster.has_ended(victim)? {
            let why = self.replace(victim).await?;
            return Ok(format!("{done}; it refused: {why}"));
        }
        ready.with_context(|| format!("after {done}"))?;
        Ok(format!("{done}; it started"))
    }

    /// Wipes a replica that has ended and lets a new one take its place.
    pub(super) async fn replace(&mut self, victim: usize) -> Result<String> {
        let why = self.reason(victim).await?;
        self.cluster.forget(victim)?;
        let id = self
            .damaged
            .remove(&victim)
            .context("a replica with damaged files")?;
        let words = ["cluster", "replace", &id];
        let made = self.insist(&words, Some(victim)).await?;
        let token = made["joinToken"].as_str().context("no token")?.to_owned();
        self.cluster.start_anew(victim, &token).await?;
        self.wait_voters(self.voters, victim).await?;
        Ok(why)
    }

    /// What a replica that ended by itself said last.
    async fn reason(&self, victim: usize) -> Result<String> {
        // Its last words are on their way.
        sleep(LAST_WORDS).await;
        let replica = self.cluster.replica(victim)?;
        match replica.last_complaint()? {
            Some(why) if !why.contains("panicked at") => Ok(why),
            Some(panic) => bail!("replica {}: {panic}", replica.name()),
            None => bail!("replica {} ended and did not say why", replica.name()),
        }
    }
}

/// Damages a file; says which, and how.
fn harm(data: PathBuf, damage: Damage) -> Result<String> {
    let mut random = StdRng::seed_from_u64(damage.pick);
    let mut found = files(&data, damage.file)?;
    if found.is_empty() {
        found = files(&data, FileKind::Log)?;
    }
    ensure!(!found.is_empty(), "no file to damage in {}", data.display());
    let path = found.swap_remove(random.random_range(0..found.len()));
    let mut bytes = fs::read(&path)?;
    let len = bytes.len();
    match damage.how {
        How::Flip(bits) => {
            for _ in 0..bits {
                let place = random.random_range(0..len);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
        How::Cut(thousandths) => {
            let cut = u64::try_from(len)?.saturating_mul(thousandths) / 1000;
            bytes.truncate(len - usize::try_from(cut)?.clamp(1, len));
        }
    }
    fs::write(&path, bytes)?;
    let name = path.strip_prefix(&data).unwrap_or(&path).display();
    Ok(format!("{:?} in {name} of {len} bytes", damage.how))
}

/// The files of a kind that hold something, in an order that does not change.
fn files(data: &Path, kind: FileKind) -> Result<Vec<PathBuf>> {
    let (folder, ending) = match kind {
        FileKind::Log => ("db", "log"),
        FileKind::Table => ("db", "sst"),
        FileKind::Snapshot => ("snap", ""),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join(folder))? {
        let entry = entry?;
        let path = entry.path();
        let fits = ending.is_empty() || path.extension().is_some_and(|one| one == ending);
        if fits && entry.metadata()?.is_file() && entry.metadata()?.len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(how: How) -> Damage {
        Damage {
            file: FileKind::Table,
            how,
            in_order: true,
            pick: 7,
        }
    }

    #[test]
    fn a_file_is_flipped_or_cut_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("db");
        fs::create_dir(&database).unwrap();
        let (table, log) = (database.join("1.sst"), database.join("2.log"));
        for path in [&table, &log] {
            fs::write(path, [0; 1000]).unwrap();
        }
        let said = harm(folder.path().to_owned(), damage(How::Flip(1))).unwrap();
        assert_eq!(said, "Flip(1) in db/1.sst of 1000 bytes");
        let ones = |path| -> u32 {
            let bytes = fs::read(path).unwrap();
            bytes.iter().map(|byte| byte.count_ones()).sum()
        };
        assert_eq!((ones(&table), ones(&log)), (1, 0));
        harm(folder.path().to_owned(), damage(How::Cut(250))).unwrap();
        assert_eq!(fs::read(&table).unwrap().len(), 750);
        // Without a table the log is taken.
        fs::remove_file(&table).unwrap();
        harm(folder.path().to_owned(), damage(How::Cut(1))).unwrap();
        assert_eq!(fs::read(&log).unwrap().len(), 999);
    }
}
