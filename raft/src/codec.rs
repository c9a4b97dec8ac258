//! openraft's types to protobuf and back, and the layout of a log row.
//!
//! A log row is the protobuf `Entry` followed by the crc32c of its bytes, little-endian. Every
//! decoder here takes any bytes and answers with a typed error.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hydrascale_proto::raft::v1 as pb;
use openraft::EntryPayload;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use prost::Message;

use crate::type_config::{Command, Member, TypeConfig};

pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

/// Bytes that are no valid row, message or key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// Not the protobuf message that belongs here.
    #[error("malformed protobuf message")]
    Protobuf(#[from] prost::DecodeError),
    /// A required field is absent.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// The payload has no known variant: written by a newer version.
    #[error("entry {index} has a payload that this version does not know")]
    UnknownPayload {
        /// Log index of the entry.
        index: u64,
    },
    /// Voters and members contradict each other.
    #[error("membership is inconsistent: {0}")]
    Membership(String),
    /// Too short to hold a checksum.
    #[error("log row of {0} bytes is too short")]
    ShortRow(usize),
    /// The bytes are not those that were written.
    #[error("log row checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Stored checksum.
        expected: u32,
        /// Checksum of the bytes read.
        found: u32,
    },
    /// A log key is a big-endian 64 bit index.
    #[error("log key has {0} bytes, expected 8")]
    LogKey(usize),
    /// A row stands under another entry's key.
    #[error("row of index {row} is stored under index {key}")]
    WrongIndex {
        /// Index in the key.
        key: u64,
        /// Index in the row.
        row: u64,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Key of the log row at `index`.
pub(crate) fn log_key(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_be_bytes())
}

/// Index of a log row's key.
pub(crate) fn log_index(key: &[u8]) -> Result<u64, CodecError> {
    key.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| CodecError::LogKey(key.len()))
}

/// Encodes a log row.
pub(crate) fn encode_row(entry: &Entry) -> Bytes {
    let message = entry_to_proto(entry);
    let mut row = BytesMut::with_capacity(message.encoded_len().saturating_add(CHECKSUM_BYTES));
    message.encode(&mut row).expect("the buffer grows");
    let checksum = crc32c::crc32c(&row);
    row.put_u32_le(checksum);
    row.freeze()
}

/// Checks a log row's checksum and returns the message's bytes.
pub(crate) fn check_row(row: &Bytes) -> Result<Bytes, CodecError> {
    let length = row
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .ok_or(CodecError::ShortRow(row.len()))?;
    let message = row.slice(..length);
    let expected = row.slice(length..).get_u32_le();
    let found = crc32c::crc32c(&message);
    if expected == found {
        Ok(message)
    } else {
        Err(CodecError::Checksum { expected, found })
    }
}

/// Decodes the log row stored under `index`.
pub(crate) fn decode_row(index: u64, row: &Bytes) -> Result<Entry, CodecError> {
    let entry = entry_from_proto(pb::Entry::decode(check_row(row)?)?)?;
    let row = entry.log_id.index();
    if row == index {
        Ok(entry)
    } else {
        Err(CodecError::WrongIndex { key: index, row })
    }
}

/// A copy that owns exactly its own bytes: those of a decoded message keep the whole network
/// buffer alive that they came in.
pub(crate) fn compact(entry: &Entry) -> Entry {
    let payload = match &entry.payload {
        EntryPayload::Normal(Command(proposal)) => {
            let mut proposal = proposal.clone();
            proposal.client_id = Bytes::copy_from_slice(&proposal.client_id);
            if let Some(pb::proposal::Body::Command(command)) = &mut proposal.body {
                *command = Bytes::copy_from_slice(command);
            }
            EntryPayload::Normal(Command(proposal))
        }
        EntryPayload::Blank | EntryPayload::Membership(_) => entry.payload.clone(),
    };
    Entry {
        log_id: entry.log_id,
        payload,
    }
}

/// Encodes an entry for the wire or for a row.
pub(crate) fn entry_to_proto(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(Command(proposal)) => pb::entry::Payload::Proposal(proposal.clone()),
        EntryPayload::Membership(membership) => {
            pb::entry::Payload::Membership(membership_to_proto(membership))
        }
    };
    pb::Entry {
        log_id: Some(log_id_to_proto(&entry.log_id)),
        payload: Some(payload),
    }
}

/// Decodes an entry.
pub(crate) fn entry_from_proto(entry: pb::Entry) -> Result<Entry, CodecError> {
    let log_id = log_id_from_proto(entry.log_id.ok_or(CodecError::Missing("entry.log_id"))?);
    let payload = match entry.payload {
        None => {
            return Err(CodecError::UnknownPayload {
                index: log_id.index(),
            });
        }
        Some(pb::entry::Payload::Blank(pb::Blank {})) => EntryPayload::Blank,
        Some(pb::entry::Payload::Proposal(proposal)) => EntryPayload::Normal(Command(proposal)),
        Some(pb::entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_proto(membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

/// Encodes a log id.
pub(crate) fn log_id_to_proto(log_id: &LogId) -> pb::LogId {
    let leader = log_id.committed_leader_id();
    pb::LogId {
        term: leader.term,
        replica_id: leader.node_id,
        index: log_id.index(),
    }
}

/// Decodes a log id.
pub(crate) fn log_id_from_proto(log_id: pb::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: log_id.term,
            node_id: log_id.replica_id,
        },
        log_id.index,
    )
}

/// Encodes a vote.
pub(crate) fn vote_to_proto(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        replica_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// Decodes a vote.
pub(crate) fn vote_from_proto(vote: pb::Vote) -> Vote {
    let leader_id = LeaderId {
        term: vote.term,
        node_id: vote.replica_id,
    };
    Vote {
        leader_id,
        committed: vote.committed,
    }
}

/// Encodes a membership.
pub(crate) fn membership_to_proto(membership: &Membership) -> pb::Membership {
    let configs = membership.get_joint_config().iter();
    let members = membership.nodes().map(|(id, member)| pb::Member {
        replica_id: *id,
        name: member.name.clone(),
        addr: member.addr.clone(),
    });
    pb::Membership {
        configs: configs
            .map(|voters| pb::VoterSet {
                replica_ids: voters.iter().copied().collect(),
            })
            .collect(),
        members: members.collect(),
    }
}

/// Decodes a membership; every voter must be a member.
pub(crate) fn membership_from_proto(membership: pb::Membership) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.replica_ids.into_iter().collect())
        .collect();
    let members: BTreeMap<u64, Member> = membership
        .members
        .into_iter()
        .map(|m| {
            (
                m.replica_id,
                Member {
                    name: m.name,
                    addr: m.addr,
                },
            )
        })
        .collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|error| CodecError::Membership(error.to_string()))
}

/// Encodes a membership with the log id that brought it.
pub(crate) fn stored_membership_to_proto(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

/// Decodes a membership with the log id that brought it.
pub(crate) fn stored_membership_from_proto(
    stored: pb::StoredMembership,
) -> Result<StoredMembership, CodecError> {
    let membership = membership_from_proto(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(
        stored.log_id.map(log_id_from_proto),
        membership,
    ))
}

const CHECKSUM_BYTES: usize = 4;

#[cfg(test)]
mod tests;
