use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::{Admin, Proposal, RevokeJoinToken, admin, proposal};
use openraft::EntryPayload;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message;

use super::{
    CodecError, Entry, LeaderId, LogId, Membership, StoredMembership, Vote, check_row, decode_row,
    encode_row, entry_from_proto, entry_to_proto, log_id_from_proto, log_id_to_proto, log_index,
    log_key, stored_membership_from_proto, stored_membership_to_proto, vote_from_proto,
    vote_to_proto,
};
use crate::type_config::{Command, Member};

proptest! {
    #[test]
    fn entries_votes_and_memberships_survive_the_round_trip(
        entry in entry(),
        stored in stored_membership(),
        vote in vote(),
    ) {
        let row = encode_row(&entry);
        prop_assert_eq!(&decode_row(entry.log_id.index(), &row).unwrap(), &entry);
        prop_assert_eq!(&entry_from_proto(entry_to_proto(&entry)).unwrap(), &entry);
        prop_assert_eq!(log_id_from_proto(log_id_to_proto(&entry.log_id)), entry.log_id);
        prop_assert_eq!(vote_from_proto(vote_to_proto(&vote)), vote);
        let decoded = stored_membership_from_proto(stored_membership_to_proto(&stored)).unwrap();
        prop_assert_eq!(decoded, stored);
    }

    #[test]
    fn any_changed_byte_of_a_row_is_refused(entry in entry(), at in any::<usize>(), by in 1_u8..) {
        let mut row = encode_row(&entry).to_vec();
        let at = at % row.len();
        row[at] = row[at].wrapping_add(by);
        let changed = decode_row(entry.log_id.index(), &row.into());
        let is_refused = matches!(changed, Err(CodecError::Checksum { .. }));
        prop_assert!(is_refused);
    }

    #[test]
    fn any_bytes_decode_to_a_value_or_a_typed_error(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = decode_row(1, &bytes);
        let _ = check_row(&bytes);
        let _ = log_index(&bytes);
        let _ = pb::Entry::decode(bytes.clone()).map(entry_from_proto);
        let _ = pb::StoredMembership::decode(bytes).map(stored_membership_from_proto);
    }

    #[test]
    fn any_bytes_with_a_right_checksum_decode_or_give_a_typed_error(
        mut bytes in vec(any::<u8>(), 0..200),
    ) {
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let _ = decode_row(1, &bytes.into());
    }
}

#[test]
fn a_row_under_another_key_or_without_checksum_is_refused() {
    let entry = Entry {
        log_id: log_id(1, 1, 7),
        payload: EntryPayload::Blank,
    };
    let row = encode_row(&entry);
    assert!(matches!(
        decode_row(8, &row),
        Err(CodecError::WrongIndex { key: 8, row: 7 })
    ));
    assert!(matches!(
        decode_row(7, &row.slice(..3)),
        Err(CodecError::ShortRow(3))
    ));
}

#[test]
fn a_payload_of_a_newer_version_is_an_error_not_a_blank() {
    let log_id = Some(pb::LogId {
        term: 1,
        replica_id: 1,
        index: 5,
    });
    let unknown = pb::Entry {
        log_id,
        payload: None,
    };
    let error = entry_from_proto(unknown).unwrap_err();
    assert!(matches!(error, CodecError::UnknownPayload { index: 5 }));
    let missing = entry_from_proto(pb::Entry::default());
    assert!(matches!(missing, Err(CodecError::Missing("entry.log_id"))));
}

#[test]
fn a_voter_that_is_no_member_is_refused() {
    let configs = vec![pb::VoterSet {
        replica_ids: vec![1],
    }];
    let membership = pb::Membership {
        configs,
        members: Vec::new(),
    };
    let stored = pb::StoredMembership {
        log_id: None,
        membership: Some(membership),
    };
    let error = stored_membership_from_proto(stored).unwrap_err();
    assert!(matches!(error, CodecError::Membership(_)));
}

#[test]
fn log_keys_sort_as_their_indices() {
    let keys = [0, 1, 255, 256, u64::MAX].map(log_key);
    assert!(keys.is_sorted());
    assert_eq!(log_index(&keys[3]).unwrap(), 256);
    assert!(matches!(log_index(b"short"), Err(CodecError::LogKey(5))));
}

/// The bytes of a row never change: an older folder must stay readable.
#[test]
fn a_rows_bytes_are_pinned() {
    let body = Some(proposal::Body::Command(Bytes::from_static(b"cmd")));
    let proposal = Proposal {
        level: 0,
        stamped_ms: 1000,
        client_id: Bytes::from_static(b"0123456789abcdef"),
        seq: 7,
        lowest_unacked: 5,
        body,
    };
    let entry = Entry {
        log_id: log_id(2, 3, 300),
        payload: EntryPayload::Normal(Command(proposal)),
    };
    let hex: String = encode_row(&entry)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = concat!(
        "0a070802100318ac02", // log_id { term 2, replica_id 3, index 300 }
        "1a1e",               // proposal
        "08e807",             // stamped_ms 1000
        "121030313233343536373839616263646566", // client_id
        "18072005",           // seq 7, lowest_unacked 5
        "2a03636d64",         // command
    );
    assert_eq!(hex.get(..hex.len() - 8), Some(expected));
}

fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id }, index)
}

fn any_log_id() -> impl Strategy<Value = LogId> {
    any::<(u64, u64, u64)>().prop_map(|(term, node_id, index)| log_id(term, node_id, index))
}

fn vote() -> impl Strategy<Value = Vote> {
    any::<(u64, u64, bool)>().prop_map(|(term, node_id, committed)| Vote {
        leader_id: LeaderId { term, node_id },
        committed,
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let members = btree_map(any::<u64>(), ("[a-z]{0,8}", "[a-z:0-9]{0,8}"), 1..6);
    (members, vec(vec(any::<prop::sample::Index>(), 1..4), 1..3)).prop_map(|(members, configs)| {
        let members: BTreeMap<u64, Member> = members
            .into_iter()
            .map(|(id, (name, addr))| (id, Member { name, addr }))
            .collect();
        let ids: Vec<u64> = members.keys().copied().collect();
        let pick = |set: Vec<prop::sample::Index>| -> BTreeSet<u64> {
            set.into_iter().map(|index| *index.get(&ids)).collect()
        };
        Membership::new(configs.into_iter().map(pick).collect(), members).unwrap()
    })
}

fn stored_membership() -> impl Strategy<Value = StoredMembership> {
    let some = (proptest::option::of(any_log_id()), membership())
        .prop_map(|(log_id, membership)| StoredMembership::new(log_id, membership));
    prop_oneof![Just(StoredMembership::default()), some]
}

fn entry() -> impl Strategy<Value = Entry> {
    let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let admin = "[a-z]{0,8}".prop_map(|id| {
        let op = Some(admin::Op::RevokeJoinToken(RevokeJoinToken { id }));
        proposal::Body::Admin(Admin { op })
    });
    let body = prop_oneof![bytes().prop_map(proposal::Body::Command), admin];
    let proposal = (any::<(i64, u64, u64)>(), bytes(), body).prop_map(
        |((stamped_ms, seq, lowest_unacked), client_id, body)| {
            let body = Some(body);
            let proposal = Proposal {
                level: 0,
                stamped_ms,
                client_id,
                seq,
                lowest_unacked,
                body,
            };
            EntryPayload::Normal(Command(proposal))
        },
    );
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        membership().prop_map(EntryPayload::Membership),
        proposal,
    ];
    (any_log_id(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
}
