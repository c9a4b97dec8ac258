//! Replicas that form a cluster by themselves: each is told how many there will be, where they are,
//! and a secret that all of them hold.
//!
//! Replicas without data greet each other. Once exactly the expected number is there, and nobody else at
//! any address, the one with the least name asks all others to yield and makes the cluster. The others
//! find it and ask it for a join token, with which they join like anybody else. Nobody is served before most
//! of the expected replicas vote. A replica yields to one claimant at a time, so that of two overlapping
//! sets of replicas only one makes a cluster; and whoever meets a replica that has one never makes one.
//!
//! A replica's token follows from the secret and its name: asked for again, after a crash too, it is the
//! same, and each name gets a place once.
//!
//! Greetings are sealed under the secret, in both directions: whoever does not hold it can read none
//! and answer none. The TLS below proves nothing, since nobody has a certificate yet.

mod decide;
mod door;
mod formed;
mod greeting;
mod meeting;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::formed::formed;
pub(crate) use self::greeting::{WordError, open_greeting, seal_answer};
pub(crate) use self::meeting::bootstrap;
use crate::{InitError, JoinError, ReplicaId, SealingKeys};

/// How replicas without data find each other.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// How many replicas the new cluster has, this one included (`bootstrap_expect`).
    pub expect: usize,
    /// `host:port` of all of them; a name with several addresses stands for all of these.
    pub peers: Vec<String>,
    /// What all of them hold. The first key seals; others still unseal.
    pub secret: Arc<SealingKeys>,
}

/// How a replica came to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It made a new cluster, with this id.
    Made(String),
    /// It joined one that another replica had made, under this id.
    Joined(ReplicaId),
}

/// Why replicas did not form a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The data folder or the configuration cannot be used.
    #[error(transparent)]
    Local(#[from] InitError),
    /// The cluster that was found does not take the replica.
    #[error("the cluster was made without this replica: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The cluster that was found did not let it in.
    #[error(transparent)]
    Join(#[from] JoinError),
}

impl BootstrapError {
    /// The replica's name has had its place already.
    fn taken(reason: &str) -> Self {
        Self::Refused {
            reason: format!(
                "{reason}; if it lost its data, a token from `cluster replace` gives it its old place"
            ),
        }
    }
}

/// Between two rounds of greetings.
const ROUND: Duration = Duration::from_millis(300);
/// One greeting and its answer.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// Tells tokens of the beginning from others, in their ids.
pub(crate) const TOKEN_PREFIX: &str = "bootstrap-";
/// Addresses greeted in a round: far more than a cluster has replicas.
const ADDRESSES_MAX: usize = 64;
