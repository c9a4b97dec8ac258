//! Why something asked of a replica did not happen.

use std::error::Error;
use std::path::PathBuf;

use crate::core::AdminDenied;
use crate::{LevelError, ReplicaId, UnsealError};

/// A boxed cause; its type is an implementation detail.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a new cluster was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The data folder belongs to a replica already.
    #[error(
        "data folder {} belongs to replica {replica} of cluster {cluster_id} already; \
         choose an empty folder",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        cluster_id: String,
        /// Whose it is.
        replica: ReplicaId,
    },
    /// The data folder holds something else.
    #[error("data folder {} is not empty (it holds {found}); choose an empty folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One name found in it.
        found: String,
    },
    /// The data folder was not filled to the end.
    #[error(
        "data folder {} is half filled by a `backup restore` that was broken off or still runs: run \
         `backup restore` again, which begins anew, or delete the folder",
        path.display()
    )]
    HalfRestored {
        /// The folder.
        path: PathBuf,
    },
    /// A value of the configuration cannot be used.
    #[error("{field} is not usable: {reason}")]
    Config {
        /// The configuration's field.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The folder could not be written.
    #[error("data folder {} cannot be prepared", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Keys or certificates could not be made.
    #[error("the cluster's certificates cannot be made")]
    Certificates(#[source] Cause),
}

/// Why a replica did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The data folder or the configuration cannot be used.
    #[error(transparent)]
    Local(#[from] InitError),
    /// The cluster said no; asking again with the same token is of no use.
    #[error("the cluster refused the join: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// No address of the token answered in time; worth another try.
    #[error("no replica of the cluster could be asked to join: {reason}")]
    Unavailable {
        /// What each address answered last.
        reason: String,
    },
    /// An answer does not fit the token: another cluster, or somebody in between.
    #[error("the answer to the join cannot be trusted: {reason}")]
    Untrusted {
        /// What does not fit.
        reason: String,
    },
}

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder was never initialised or joined.
    #[error(
        "data folder {} belongs to no cluster yet: make one (`cluster init`) or join one \
         (`cluster join`)",
        path.display()
    )]
    NoIdentity {
        /// The folder.
        path: PathBuf,
    },
    /// The data folder was not filled to the end.
    #[error(transparent)]
    HalfRestored(InitError),
    /// The cluster has removed the replica that the folder belongs to.
    #[error(
        "data folder {} is of replica {replica}, which the cluster has removed for good: delete the \
         folder and join again with a new token, as a new replica",
        path.display()
    )]
    Removed {
        /// The folder.
        path: PathBuf,
        /// Whose it was.
        replica: ReplicaId,
    },
    /// The identity file and the store disagree: one of them was copied or replaced.
    #[error("data folder {} is refused: {reason}", path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// What disagrees.
        reason: String,
    },
    /// A value of the configuration cannot be used.
    #[error("{field} is not usable: {reason}")]
    Config {
        /// The configuration's field.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Identity or certificates cannot be read.
    #[error("identity in {} cannot be read", path.display())]
    Identity {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The store did not open.
    #[error(
        "the store in {} did not open; if its files are damaged, let a new replica take its place \
         (`cluster replace` on another one)",
        path.display()
    )]
    Storage {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Files of the store are damaged.
    #[error(
        "the store in {} is damaged: let a new replica take its place (`cluster replace` on another \
         one)",
        path.display()
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was found.
        #[source]
        source: Cause,
    },
    /// The program is too old or too new for the cluster.
    #[error(transparent)]
    Level(LevelError),
    /// The consensus core did not start on what the store holds.
    #[error("consensus did not start")]
    Consensus(#[source] Cause),
}

impl StartError {
    /// Whether every further start fails the same way until somebody has acted. A folder that a
    /// command may be filling at this moment is not such a case.
    pub fn outlasts_restart(&self) -> bool {
        match self {
            Self::Removed { .. }
            | Self::ForeignFolder { .. }
            | Self::Damaged { .. }
            | Self::Level(_) => true,
            Self::NoIdentity { .. }
            | Self::HalfRestored(_)
            | Self::Config { .. }
            | Self::Identity { .. }
            | Self::Storage { .. }
            | Self::Consensus(_) => false,
        }
    }
}

/// Why a command was not answered. [`Self::is_outcome_unknown`] tells whether it may still apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certain: no replica has the command in its log. Safe to try again.
    #[error("the command was not proposed: {reason}")]
    NotProposed {
        /// What stood in the way last.
        reason: String,
    },
    /// Certain: the command is larger than an entry may be.
    #[error("the command has {bytes} bytes, more than the {max} that an entry may have")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Certain: the command belongs to a version that not all replicas run yet.
    #[error(
        "this needs feature level {needed} and the cluster has {active}: finish the upgrade of all \
         replicas first (`cluster upgrade status`)"
    )]
    Level {
        /// What the command needs.
        needed: u32,
        /// What the cluster has.
        active: u32,
    },
    /// The command may or may not have been committed; only a look at the state can tell.
    #[error("the outcome of the command is unknown: {reason}")]
    Unknown {
        /// What stood in the way last.
        reason: String,
    },
    /// The replica has stopped or is stopping, and the command is in no log.
    #[error("the replica has stopped")]
    Stopped,
}

impl ProposeError {
    /// Whether the command may have been or may still be applied.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::NotProposed { .. }
            | Self::TooLarge { .. }
            | Self::Level { .. }
            | Self::Stopped => false,
        }
    }

    /// Whether the same call may succeed later without doing anything twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotProposed { .. } => true,
            Self::TooLarge { .. } | Self::Level { .. } | Self::Unknown { .. } | Self::Stopped => {
                false
            }
        }
    }
}

/// Why a linearizable read cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed its leadership in time; worth another try.
    #[error("no leader confirmed the read: {reason}")]
    Unavailable {
        /// What stood in the way last.
        reason: String,
    },
    /// The local state did not reach the required index in time; worth another try.
    #[error("this replica has applied {applied} and the read needs {needed}")]
    Behind {
        /// Index applied here.
        applied: u64,
        /// Index that the read must wait for.
        needed: u64,
    },
    /// The replica has stopped or is stopping.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why the cluster was not changed as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The cluster said no.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Certain: nothing was changed, because no leader took the question in time. Safe to try again.
    #[error("the cluster could not be asked: {reason}")]
    Unavailable {
        /// What stood in the way last.
        reason: String,
    },
    /// It may have been done or may still be; look at the status before another try.
    #[error("the outcome is not known: {reason}")]
    Unknown {
        /// What stood in the way last.
        reason: String,
    },
    /// The replica has stopped or is stopping; nothing was changed.
    #[error("the replica has stopped")]
    Stopped,
}

impl From<AdminDenied> for AdminError {
    fn from(denied: AdminDenied) -> Self {
        match denied {
            AdminDenied::Refused(reason) => Self::Refused { reason },
            AdminDenied::Propose(error) => {
                let reason = error.to_string();
                match error {
                    ProposeError::Unknown { .. } => Self::Unknown { reason },
                    ProposeError::TooLarge { .. } | ProposeError::Level { .. } => {
                        Self::Refused { reason }
                    }
                    ProposeError::NotProposed { .. } => Self::Unavailable { reason },
                    ProposeError::Stopped => Self::Stopped,
                }
            }
        }
    }
}

/// Why a replica ended by itself. The process must exit: nothing here can be retried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The log or the state could not be read or written, or the state machine halted.
    #[error("the store failed: {reason}")]
    Storage {
        /// What failed.
        reason: String,
    },
    /// The consensus core stopped unexpectedly.
    #[error("consensus stopped: {reason}")]
    Consensus {
        /// What is known.
        reason: String,
    },
    /// The cluster removed this replica for good; its data folder is of no further use.
    #[error(
        "the cluster has removed this replica for good; to come back, delete its data folder and \
         join again with a new token, as a new replica"
    )]
    Removed,
    /// The cluster's secrets are sealed under a key that this replica does not have.
    #[error(transparent)]
    Sealed(#[from] UnsealError),
    /// The cluster has a feature level that this replica does not support.
    #[error(transparent)]
    Level(LevelError),
    /// A later start of this replica is running: its data folder is in use twice.
    #[error("another process runs with a copy of this replica's data folder")]
    Replaced,
}

impl Fatal {
    /// Whether the next start would end the same way until somebody has acted, or do harm.
    pub fn outlasts_restart(&self) -> bool {
        match self {
            Self::Removed | Self::Sealed(_) | Self::Level(_) | Self::Replaced => true,
            Self::Storage { .. } | Self::Consensus { .. } => false,
        }
    }
}
