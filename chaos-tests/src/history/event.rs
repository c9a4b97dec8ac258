//! The lines of a history.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// Names an operation within its history.
pub type OpId = u64;

/// One line. `at` is nanoseconds since the run began, by a clock that never goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// What the run is; the first line.
    Run(Run),
    /// A client is about to ask.
    Invoke {
        /// When.
        at: u64,
        /// Names the operation.
        id: OpId,
        /// The client; each has one operation at a time.
        process: u32,
        /// What it asks for.
        op: Op,
    },
    /// A client has its answer, or gave up.
    Complete {
        /// When.
        at: u64,
        /// The operation.
        id: OpId,
        /// What is known about it now.
        outcome: Outcome,
        /// What came back.
        answer: Answer,
    },
    /// An open map stream showed a value.
    Sighting {
        /// When.
        at: u64,
        /// The [`Op::Watch`] that it belongs to.
        id: OpId,
        /// What was shown.
        value: u64,
    },
    /// An open map stream showed peers, or that some are gone.
    Peers {
        /// When.
        at: u64,
        /// The [`Op::Watch`] that it belongs to.
        id: OpId,
        /// The ids of the nodes that it shows from now on.
        came: Vec<String>,
        /// The ids of the nodes that it shows no more.
        left: Vec<String>,
    },
    /// A fault is about to be installed, or was healed.
    Fault {
        /// When.
        at: u64,
        /// Which nemesis did it.
        nemesis: String,
        /// What it did, to whom.
        what: String,
        /// Whether this ends a fault.
        heals: bool,
    },
    /// A replica said for the first time that it leads this term.
    Leader {
        /// When.
        at: u64,
        /// Its id in the cluster.
        replica: usize,
        /// The term.
        term: u64,
    },
    /// Replicas were seen to have installed more snapshots.
    Installed {
        /// When.
        at: u64,
        /// Which replica.
        replica: usize,
        /// How many more.
        count: u64,
    },
    /// All replicas were compared after the last operation.
    Compared {
        /// When.
        at: u64,
        /// What differs; nothing when they are equal.
        difference: Option<String>,
    },
    /// The run came to its end; without this line it was interrupted.
    End {
        /// When.
        at: u64,
    },
}

/// What a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Chooses the random decisions.
    pub seed: u64,
    /// What the clients do.
    pub workload: String,
    /// What is done to the replicas.
    pub nemeses: BTreeSet<String>,
    /// How many replicas vote.
    pub voters: usize,
    /// How long faults are installed, in seconds.
    pub seconds: u64,
}

/// What a client asks for. Values of registers are numbers that are never written twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// The value of a register.
    Read {
        /// The register.
        key: String,
    },
    /// Sets a register.
    Write {
        /// The register.
        key: String,
        /// Its new value.
        value: u64,
    },
    /// Sets a register if its value is `from`.
    Swap {
        /// The register.
        key: String,
        /// The value that it must have.
        from: u64,
        /// Its new value.
        to: u64,
    },
    /// The versions that the register has had, as far as they are kept.
    Versions {
        /// The register.
        key: String,
    },
    /// Lets a node in.
    Register {
        /// The pre-auth key, by its id.
        auth_key: String,
        /// Whether one node may use it only.
        single_use: bool,
        /// The node's key.
        node_key: String,
    },
    /// Deletes a node.
    Delete {
        /// Its id.
        node: String,
    },
    /// All nodes.
    List,
    /// Holds a map stream open, from the answer's beginning, which is sighted, to the end.
    Hold {
        /// The node's key.
        node_key: String,
    },
    /// Says which routes a node may carry.
    Approve {
        /// The node's id.
        node: String,
        /// The routes.
        routes: Vec<String>,
    },
    /// Opens a map stream that shows the value of a register.
    Watch {
        /// The register.
        key: String,
    },
}

impl Op {
    /// The register that it changes, and the value that it sets.
    pub fn written(&self) -> Option<(&str, u64)> {
        match self {
            Self::Write { key, value } | Self::Swap { key, to: value, .. } => Some((key, *value)),
            Self::Read { .. }
            | Self::Versions { .. }
            | Self::Register { .. }
            | Self::Delete { .. }
            | Self::List
            | Self::Hold { .. }
            | Self::Approve { .. }
            | Self::Watch { .. } => None,
        }
    }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Nothing that matters.
    #[default]
    Nothing,
    /// The value of a register.
    Value {
        /// The value.
        value: u64,
    },
    /// The register had another value than the one to be replaced.
    Mismatch,
    /// The replica said that what it shows may be old: it was cut off.
    Stale,
    /// Versions, the newest first.
    Versions {
        /// Each.
        versions: Vec<Version>,
    },
    /// The nodes.
    Nodes {
        /// Each.
        nodes: Vec<Listed>,
    },
    /// Why not, for people.
    Text {
        /// The text.
        text: String,
    },
}

/// One version of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Counts from 1.
    pub number: u64,
    /// The value that it set.
    pub value: u64,
}

/// A node in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// The key of its login.
    pub node_key: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The pre-auth key that let it in.
    pub auth_key: Option<String>,
    /// Routes of which it is the primary one.
    pub routes: Vec<String>,
    /// Subnet routes that it offers and may carry.
    #[serde(default)]
    pub granted: Vec<String>,
    /// Whether some replica is said to hold its map stream.
    #[serde(default)]
    pub online: bool,
}
