//! openraft's requests and answers to protobuf and back.

use hydrascale_proto::raft::v1 as pb;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::codec::{
    CodecError, entry_from_proto, entry_to_proto, log_id_from_proto, log_id_to_proto,
    vote_from_proto, vote_to_proto,
};
use crate::codec::{LogId, Vote};
use crate::type_config::TypeConfig;

pub(crate) fn append_to_proto(request: &AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_proto),
        entries: request.entries.iter().map(entry_to_proto).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
    }
}

/// Besides the types, checks what openraft relies on: entries follow each other without a gap.
pub(crate) fn append_from_proto(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let prev_log_id = request.prev_log_id.map(log_id_from_proto);
    let entries: Result<Vec<_>, _> = request.entries.into_iter().map(entry_from_proto).collect();
    let entries = entries?;
    let mut expected = prev_log_id.map_or(0, |id| id.index().saturating_add(1));
    for entry in &entries {
        if entry.log_id.index() != expected {
            return Err(CodecError::WrongIndex {
                key: expected,
                row: entry.log_id.index(),
            });
        }
        expected = expected.saturating_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: required_vote(request.vote, "append.vote")?,
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.map(log_id_from_proto),
    })
}

pub(crate) fn append_reply_to_proto(result: &StreamAppendResult<TypeConfig>) -> pb::AppendReply {
    let result = match result {
        Ok(matched) => pb::append_reply::Result::Matched(pb::Matched {
            log_id: matched.as_ref().map(log_id_to_proto),
        }),
        Err(StreamAppendError::Conflict(conflict)) => {
            pb::append_reply::Result::Conflict(log_id_to_proto(conflict))
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            pb::append_reply::Result::HigherVote(vote_to_proto(vote))
        }
    };
    pb::AppendReply {
        result: Some(result),
    }
}

pub(crate) fn append_reply_from_proto(
    reply: pb::AppendReply,
) -> Result<StreamAppendResult<TypeConfig>, CodecError> {
    match reply
        .result
        .ok_or(CodecError::Missing("append_reply.result"))?
    {
        pb::append_reply::Result::Matched(matched) => Ok(Ok(matched.log_id.map(log_id_from_proto))),
        pb::append_reply::Result::Conflict(conflict) => Ok(Err(StreamAppendError::Conflict(
            log_id_from_proto(conflict),
        ))),
        pb::append_reply::Result::HigherVote(vote) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_proto(vote))))
        }
    }
}

pub(crate) fn vote_request_to_proto(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_proto(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_proto),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_proto(
    request: pb::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let vote = required_vote(request.vote, "vote_request.vote")?;
    let mut parsed = VoteRequest::new(vote, request.last_log_id.map(log_id_from_proto));
    parsed.leadership_transfer = request.leadership_transfer;
    Ok(parsed)
}

pub(crate) fn vote_reply_to_proto(reply: &VoteResponse<TypeConfig>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_to_proto(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(log_id_to_proto),
    }
}

pub(crate) fn vote_reply_from_proto(
    reply: pb::VoteReply,
) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let vote = required_vote(reply.vote, "vote_reply.vote")?;
    Ok(VoteResponse::new(
        vote,
        reply.last_log_id.map(log_id_from_proto),
        reply.granted,
    ))
}

pub(crate) fn transfer_to_proto(
    request: &TransferLeaderRequest<TypeConfig>,
) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        from_leader: Some(vote_to_proto(request.from_leader())),
        to_replica: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_proto),
    }
}

pub(crate) fn transfer_from_proto(
    request: pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let vote = required_vote(request.from_leader, "transfer_leader.from_leader")?;
    let last = request.last_log_id.map(log_id_from_proto);
    Ok(TransferLeaderRequest::new(vote, request.to_replica, last))
}

pub(crate) fn transfer_reply_to_proto(
    reply: &TransferLeaderResponse<TypeConfig>,
) -> pb::TransferLeaderReply {
    let result = match reply {
        Ok(()) => pb::transfer_leader_reply::Result::Accepted(pb::TransferAccepted {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            pb::transfer_leader_reply::Result::VoteChanged(pb::VoteChanged {
                expected: Some(vote_to_proto(expected)),
                actual: Some(vote_to_proto(actual)),
            })
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            pb::transfer_leader_reply::Result::LogNotFlushed(pb::LogNotFlushed {
                expected: expected.as_ref().map(log_id_to_proto),
                actual: actual.as_ref().map(log_id_to_proto),
            })
        }
    };
    pb::TransferLeaderReply {
        result: Some(result),
    }
}

pub(crate) fn transfer_reply_from_proto(
    reply: pb::TransferLeaderReply,
) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    match reply
        .result
        .ok_or(CodecError::Missing("transfer_leader_reply.result"))?
    {
        pb::transfer_leader_reply::Result::Accepted(pb::TransferAccepted {}) => Ok(Ok(())),
        pb::transfer_leader_reply::Result::VoteChanged(changed) => {
            Ok(Err(TransferLeaderError::VoteChanged {
                expected: required_vote(changed.expected, "vote_changed.expected")?,
                actual: required_vote(changed.actual, "vote_changed.actual")?,
            }))
        }
        pb::transfer_leader_reply::Result::LogNotFlushed(missing) => {
            Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: missing.expected.map(log_id_from_proto),
                actual: missing.actual.map(log_id_from_proto),
            }))
        }
    }
}

/// Vote, last log id and size of an offered snapshot.
///
/// openraft panics on a snapshot that reaches beyond the vote that offers it, so that this is
/// refused here.
pub(crate) fn offer_from_proto(
    offer: pb::SnapshotOffer,
) -> Result<(Vote, Option<LogId>, u64), CodecError> {
    let vote = required_vote(offer.vote, "snapshot_offer.vote")?;
    let last = offer.last_log_id.map(log_id_from_proto);
    let leader = vote.leader_id;
    let beyond = last.is_some_and(|last| *last.committed_leader_id() > leader);
    if beyond || !vote.committed {
        return Err(CodecError::Missing("snapshot_offer.vote of the leader"));
    }
    Ok((vote, last, offer.size_bytes))
}

fn required_vote(vote: Option<pb::Vote>, field: &'static str) -> Result<Vote, CodecError> {
    vote.map(vote_from_proto).ok_or(CodecError::Missing(field))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoders(bytes: Vec<u8>) {
            if let Ok(message) = pb::AppendRequest::decode(bytes.as_slice())
                && let Ok(request) = append_from_proto(message)
            {
                let again = append_from_proto(append_to_proto(&request)).unwrap();
                prop_assert_eq!(again.to_string(), request.to_string());
            }
            let _ = pb::AppendReply::decode(bytes.as_slice()).map(append_reply_from_proto);
            let _ = pb::VoteRequest::decode(bytes.as_slice()).map(vote_request_from_proto);
            let _ = pb::VoteReply::decode(bytes.as_slice()).map(vote_reply_from_proto);
            let _ = pb::TransferLeaderRequest::decode(bytes.as_slice()).map(transfer_from_proto);
            let _ = pb::TransferLeaderReply::decode(bytes.as_slice()).map(transfer_reply_from_proto);
            let _ = pb::SnapshotOffer::decode(bytes.as_slice()).map(offer_from_proto);
        }
    }

    #[test]
    fn an_append_with_a_gap_or_without_a_vote_is_refused() {
        let entry = |index| pb::Entry {
            log_id: Some(pb::LogId {
                term: 1,
                replica_id: 1,
                index,
            }),
            payload: Some(pb::entry::Payload::Blank(pb::Blank {})),
        };
        let vote = pb::Vote {
            term: 1,
            replica_id: 1,
            committed: true,
        };
        let append = |vote, indexes: &[u64]| pb::AppendRequest {
            vote,
            prev_log_id: None,
            entries: indexes.iter().copied().map(entry).collect(),
            leader_commit: None,
        };
        assert!(append_from_proto(append(Some(vote), &[0, 1])).is_ok());
        let gap = append_from_proto(append(Some(vote), &[0, 2]));
        assert!(matches!(
            gap,
            Err(CodecError::WrongIndex { key: 1, row: 2 })
        ));
        let voteless = append_from_proto(append(None, &[0]));
        assert!(matches!(voteless, Err(CodecError::Missing("append.vote"))));
    }

    #[test]
    fn a_snapshot_beyond_its_leaders_vote_is_refused() {
        let offer = |term, committed| pb::SnapshotOffer {
            vote: Some(pb::Vote {
                term: 2,
                replica_id: 1,
                committed,
            }),
            last_log_id: Some(pb::LogId {
                term,
                replica_id: 1,
                index: 9,
            }),
            size_bytes: 1,
        };
        assert!(offer_from_proto(offer(2, true)).is_ok());
        assert!(offer_from_proto(offer(3, true)).is_err());
        assert!(offer_from_proto(offer(2, false)).is_err());
    }
}
