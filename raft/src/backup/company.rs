//! Whether anybody is at the addresses of the other members, before they are given up.
//!
//! A wrong "nobody" splits a cluster in two, a wrong "somebody" costs the operator a look. So whoever
//! takes a connection counts, whatever it says then: a process that stands still says nothing, one that
//! was recovered before has another certificate. And nobody counts as silent who was asked only once,
//! for it may be starting.

use std::time::Duration;

use hydrascale_proto::raft::v1::IdentifyRequest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::DialOverrides;
use crate::network::{CallError, Lane, Lanes};
use crate::timing::Timing;

/// What is heard from the address of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nobody takes a connection.
    Nothing {
        /// What the last attempt ended with.
        reason: String,
    },
    /// The member answers.
    Itself,
    /// Somebody takes connections, and is not known to be the member or not to be it.
    Somebody {
        /// Why it is not known.
        reason: String,
    },
}

impl Heard {
    /// Whether the member may be there.
    pub fn is_company(&self) -> bool {
        match self {
            Self::Nothing { .. } => false,
            Self::Itself | Self::Somebody { .. } => true,
        }
    }
}

/// Listens for the member `replica` at `addr`, several times unless it is heard.
pub(super) async fn listen(
    lanes: &Lanes,
    overrides: &DialOverrides,
    replica: u64,
    addr: &str,
    timing: Timing,
) -> Heard {
    lanes.list(replica, addr);
    let addr = overrides.resolve(addr);
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(timing.probe()).await;
        }
        match takes_connection(&addr, timing.connect()).await {
            Ok(()) => return ask(lanes, replica, timing).await,
            Err(error) => reason = error,
        }
    }
    Heard::Nothing { reason }
}

async fn takes_connection(addr: &str, patience: Duration) -> Result<(), String> {
    match timeout(patience, TcpStream::connect(addr)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing came back within {patience:?}")),
    }
}

async fn ask(lanes: &Lanes, replica: u64, timing: Timing) -> Heard {
    let asked = lanes
        .call(
            replica,
            Lane::Control,
            timing.reachable_within(),
            IdentifyRequest::default(),
            |mut client, request| async move { client.identify(request).await },
        )
        .await;
    match asked {
        Ok(_) | Err(CallError::Refused { .. } | CallError::Busy { .. }) => Heard::Itself,
        Err(
            error @ (CallError::Failed { .. }
            | CallError::NotConnected { .. }
            | CallError::TimedOut { .. }),
        ) => Heard::Somebody {
            reason: error.to_string(),
        },
    }
}

/// Before it is said that nobody is there: two seconds and more, in which a process starts.
const ATTEMPTS: u32 = 5;
