//! Backups of the tailnet as files: what one holds, and writing one whole or not at all.
//!
//! The bytes are [`hydrascale_raft`]'s; here is what their rows mean.

mod file;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use hydrascale_raft::{BackupError, BackupInfo, KeyId, MachineError, read_backup};
use serde::Serialize;

pub use self::file::NewFile;
use crate::state::{Loader, State};
use crate::types::Timestamp;

/// What a whole backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// Cluster (UUID) that it is of.
    pub cluster_id: String,
    /// When it was taken, by the clock of the replica that wrote it.
    pub taken_at: Option<Timestamp>,
    /// Replicated time of the last change in it.
    pub changed_at: Timestamp,
    /// Log index of the last change in it.
    pub index: u64,
    /// Term of that change.
    pub term: u64,
    /// Version of the format.
    pub format: u32,
    /// Feature level of the cluster then.
    pub feature_level: u32,
    /// What wrote it.
    pub created_by: String,
    /// The replicas then.
    pub replicas: Vec<String>,
    /// Id of the key that the secrets in it are sealed under; nothing when they are not sealed.
    pub sealing_key: Option<String>,
    /// How many users.
    pub users: usize,
    /// How many nodes.
    pub nodes: usize,
    /// How many pre-auth keys.
    pub pre_auth_keys: usize,
    /// How many API keys.
    pub api_keys: usize,
    /// How many versions of the policy.
    pub policy_versions: usize,
}

impl Contents {
    /// Counts what `state`, which came with `info`, holds.
    pub fn new(info: BackupInfo, state: &State) -> Self {
        let replicas = info.replicas.into_iter();
        Self {
            cluster_id: info.cluster_id,
            taken_at: info.taken_at_ms.map(Timestamp::from_unix_ms),
            changed_at: Timestamp::from_unix_ms(info.now_ms),
            index: info.index,
            term: info.term,
            format: info.format,
            feature_level: info.level,
            created_by: info.created_by,
            replicas: replicas
                .map(|(id, name)| format!("{name} ({id})"))
                .collect(),
            sealing_key: sealed_under(state).map(|key| key.to_string()),
            users: state.users().count(),
            nodes: state.node_count(),
            pre_auth_keys: state.pre_auth_keys().count(),
            api_keys: state.api_keys().count(),
            policy_versions: state.policy_versions().count(),
        }
    }
}

/// Reads a backup to its end, checks every byte and understands every row.
///
/// # Errors
/// The backup is damaged, cut short, of an unknown format, or holds what this version does not know.
pub fn check(input: impl Read) -> Result<Contents, BackupError> {
    let mut loader = Loader::default();
    let info = read_backup(input, |row| Ok(loader.push(&row)?))?;
    Ok(Contents::new(info, &loader.finish()))
}

/// The key that the secrets in a backup are sealed under, if they are, and all bytes of the backup
/// once more. Reads and checks no more of it than that takes.
///
/// # Errors
/// As [`check`], as far as it was read.
pub fn sealing_key<R: Read>(input: R) -> Result<(Option<KeyId>, impl Read), BackupError> {
    let mut taken = Taken {
        input,
        bytes: Vec::new(),
    };
    let mut loader = Loader::default();
    let mut loaded = false;
    let read = read_backup(&mut taken, |row| {
        loader.push(&row)?;
        loaded = true;
        // The tailnet's row, which has the secrets, comes before all others.
        Err(MachineError {
            message: "the first row is enough".to_owned(),
            source: None,
        })
    });
    match read {
        Err(error) if !loaded => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let key = sealed_under(&loader.finish());
    Ok((key, io::Cursor::new(taken.bytes).chain(taken.input)))
}

/// The key that the secrets in `state` are sealed under, if they are.
pub fn sealed_under(state: &State) -> Option<KeyId> {
    state.noise_private_key().and_then(KeyId::sealing)
}

/// Keeps what is read from `input`.
struct Taken<R> {
    input: R,
    bytes: Vec<u8>,
}

impl<R: Read> Read for Taken<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.input.read(buffer)?;
        self.bytes
            .extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        Ok(bytes)
    }
}
