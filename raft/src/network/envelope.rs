//! What every request says about its sender and its addressee, beside the message.

use std::fmt;
use std::str::FromStr;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::Levels;

/// Sender and addressee of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// UUID of the cluster.
    pub(crate) cluster_id: String,
    /// Who sends.
    pub(crate) from: u64,
    /// Who is meant.
    pub(crate) to: u64,
    /// The sender's start counter.
    pub(crate) incarnation: u64,
    /// Feature level of the request: the sender's cluster's.
    pub(crate) level: u32,
    /// `host:port` at which the sender wants to be reached.
    pub(crate) from_addr: String,
}

impl Envelope {
    /// Writes the envelope into a request's metadata. What cannot be a header value is left out, and
    /// the receiver refuses the request for it.
    pub(crate) fn write(&self, metadata: &mut MetadataMap) {
        let mut put = |key: &'static str, value: String| {
            if let Ok(value) = MetadataValue::<Ascii>::try_from(value) {
                metadata.insert(key, value);
            }
        };
        put(CLUSTER_ID, self.cluster_id.clone());
        put(FROM, self.from.to_string());
        put(TO, self.to.to_string());
        put(INCARNATION, self.incarnation.to_string());
        put(LEVEL, self.level.to_string());
        put(FROM_ADDR, self.from_addr.clone());
    }

    /// Reads the envelope of a request.
    ///
    /// # Errors
    /// A field is missing or malformed.
    pub(crate) fn read(metadata: &MetadataMap) -> Result<Self, Refusal> {
        Ok(Self {
            cluster_id: text(metadata, CLUSTER_ID)?.to_owned(),
            from: number(metadata, FROM)?,
            to: number(metadata, TO)?,
            incarnation: number(metadata, INCARNATION)?,
            level: number(metadata, LEVEL)?,
            from_addr: text(metadata, FROM_ADDR)?.to_owned(),
        })
    }
}

/// The start counter of the replica that answered; `None` for an answer that names none.
pub(super) fn incarnation_of(metadata: &MetadataMap) -> Option<u64> {
    number(metadata, INCARNATION).ok()
}

fn text<'a>(metadata: &'a MetadataMap, field: &'static str) -> Result<&'a str, Refusal> {
    let value = metadata.get(field).ok_or(Refusal::Field { field })?;
    value.to_str().map_err(|_| Refusal::Field { field })
}

fn number<T: FromStr>(metadata: &MetadataMap, field: &'static str) -> Result<T, Refusal> {
    text(metadata, field)?
        .parse()
        .map_err(|_| Refusal::Field { field })
}

/// Why a request is refused before anybody looks into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No client certificate.
    NoCertificate,
    /// A field of the envelope is missing or malformed.
    Field {
        /// Its name.
        field: &'static str,
    },
    /// Sent to another cluster.
    WrongCluster {
        /// Cluster of the receiver.
        ours: String,
        /// Cluster of the sender.
        theirs: String,
    },
    /// Certificate and envelope name different replicas.
    WrongSender {
        /// Replica in the certificate.
        certified: u64,
        /// Replica in the envelope.
        claimed: u64,
    },
    /// Meant for another replica.
    WrongAddressee {
        /// The receiver.
        ours: u64,
        /// Who was meant.
        meant: u64,
    },
    /// A replica talks to itself.
    OwnCall,
    /// The request's feature level is not supported here.
    Level {
        /// Level of the request.
        level: u32,
        /// What is.
        supported: Levels,
    },
    /// A later start of the same replica has been heard of.
    Replaced {
        /// The sender's start counter.
        incarnation: u64,
        /// The latest one heard of.
        latest: u64,
    },
    /// The cluster has removed the sender.
    Removed {
        /// The sender.
        replica: u64,
    },
}

impl Refusal {
    /// The answer; the sender recognises the kinds that end it by [`Self::code`].
    pub(crate) fn into_status(self) -> Status {
        let mut status = Status::new(Code::FailedPrecondition, self.to_string());
        status
            .metadata_mut()
            .insert(CODE, MetadataValue::from_static(self.code()));
        status
    }

    /// Whether a status says that the cluster removed the caller.
    pub(crate) fn is_removed(status: &Status) -> bool {
        code_of(status) == Some(CODE_REMOVED)
    }

    /// Whether a status says that a later start of the caller's replica exists.
    pub(crate) fn is_replaced(status: &Status) -> bool {
        code_of(status) == Some(CODE_REPLACED)
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Removed { .. } => CODE_REMOVED,
            Self::Replaced { .. } => CODE_REPLACED,
            Self::NoCertificate
            | Self::Field { .. }
            | Self::WrongCluster { .. }
            | Self::WrongSender { .. }
            | Self::WrongAddressee { .. }
            | Self::OwnCall
            | Self::Level { .. } => CODE_MISMATCH,
        }
    }
}

fn code_of(status: &Status) -> Option<&str> {
    let refused = status.code() == Code::FailedPrecondition;
    status
        .metadata()
        .get(CODE)
        .filter(|_| refused)?
        .to_str()
        .ok()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("a replica's certificate is required"),
            Self::Field { field } => write!(f, "metadata `{field}` is missing or malformed"),
            Self::WrongCluster { ours, theirs } => {
                write!(
                    f,
                    "this is a replica of cluster {ours}, not of cluster {theirs}"
                )
            }
            Self::WrongSender { certified, claimed } => {
                write!(
                    f,
                    "the certificate is replica {certified}'s, not replica {claimed}'s"
                )
            }
            Self::WrongAddressee { ours, meant } => {
                write!(f, "this is replica {ours}, not replica {meant}")
            }
            Self::OwnCall => f.write_str("a replica does not call itself"),
            Self::Level { level, supported } => {
                write!(
                    f,
                    "the request has feature level {level}, and {supported} is supported here"
                )
            }
            Self::Replaced {
                incarnation,
                latest,
            } => write!(
                f,
                "start {incarnation} of this replica was replaced by start {latest}: is its data \
                 folder in use twice?"
            ),
            Self::Removed { replica } => {
                write!(
                    f,
                    "the cluster has removed replica {replica} for good: delete its data folder and \
                     join again with a new token, as a new replica"
                )
            }
        }
    }
}

const CLUSTER_ID: &str = "cluster-id";
const FROM: &str = "from-replica";
const TO: &str = "to-replica";
/// The start counter of the sender; answers carry it too.
pub(super) const INCARNATION: &str = "incarnation";
const LEVEL: &str = "proto-level";
const FROM_ADDR: &str = "from-addr";
const CODE: &str = "refusal";
const CODE_REMOVED: &str = "removed";
const CODE_REPLACED: &str = "replaced";
const CODE_MISMATCH: &str = "mismatch";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_survives_the_metadata() {
        let mut metadata = MetadataMap::new();
        let envelope = Envelope {
            cluster_id: "c".to_owned(),
            from: 1,
            to: 2,
            incarnation: 3,
            level: 1,
            from_addr: "a:7443".to_owned(),
        };
        envelope.write(&mut metadata);
        assert_eq!(Envelope::read(&metadata), Ok(envelope));
        metadata.insert(TO, MetadataValue::from_static("two"));
        assert_eq!(Envelope::read(&metadata), Err(Refusal::Field { field: TO }));
        metadata.remove(TO);
        assert_eq!(Envelope::read(&metadata), Err(Refusal::Field { field: TO }));
    }

    #[test]
    fn the_refusals_that_end_a_replica_are_recognised() {
        let removed = Refusal::Removed { replica: 3 }.into_status();
        assert!(Refusal::is_removed(&removed) && !Refusal::is_replaced(&removed));
        let replaced = Refusal::Replaced {
            incarnation: 1,
            latest: 2,
        }
        .into_status();
        assert!(Refusal::is_replaced(&replaced) && !Refusal::is_removed(&replaced));
        assert!(!Refusal::is_removed(&Refusal::OwnCall.into_status()));
    }
}
