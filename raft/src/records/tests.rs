//! What the cluster's records promise.

use hydrascale_proto::raft::v1::{
    AdvanceAuthority, RemoveReplica, RenewCertificates, ReplaceReplica, ResealAuthority,
    RotateAuthority, SetVoting,
};
use sha2::{Digest, Sha256};

use super::*;
use crate::SealingKeys;

const HOUR_MS: i64 = 3_600_000;

#[test]
fn a_token_admits_one_replica_numbered_by_the_log_index() {
    let mut records = with_token();
    assert_eq!(use_token(&mut records, 42, 0, "key a"), Ok(42));
    assert_eq!(
        use_token(&mut records, 43, 0, "key b"),
        Err("join token t was used by replica 42 already".to_owned())
    );
}

#[test]
fn the_same_joiner_asking_again_gets_the_same_id() {
    let mut records = with_token();
    assert_eq!(use_token(&mut records, 42, 0, "key a"), Ok(42));
    assert_eq!(use_token(&mut records, 50, 2 * HOUR_MS, "key a"), Ok(42));
}

#[test]
fn expired_revoked_unknown_and_wrong_tokens_are_told_apart() {
    let mut records = with_token();
    assert_eq!(
        use_token(&mut records, 42, HOUR_MS, "key"),
        Err("join token t has expired".to_owned())
    );
    let wrong = use_op("t", b"wrong", "key");
    assert_eq!(
        result(records.apply(9, 0, &wrong).1),
        Err("the secret of join token t is wrong".to_owned())
    );
    let unknown = use_op("u", b"hash", "key");
    assert_eq!(
        result(records.apply(9, 0, &unknown).1),
        Err("join token u is unknown".to_owned())
    );
    let revoke = admin(admin::Op::RevokeJoinToken(RevokeJoinToken {
        id: "t".to_owned(),
    }));
    assert_eq!(result(records.apply(9, 0, &revoke).1), Ok(0));
    assert_eq!(
        use_token(&mut records, 42, 0, "key"),
        Err("join token t was revoked".to_owned())
    );
}

#[test]
fn a_second_init_of_another_cluster_is_refused_and_the_same_one_is_done() {
    let mut records = ClusterRecords::default();
    assert_eq!(result(records.apply(1, 0, &init("a")).1), Ok(0));
    assert_eq!(result(records.apply(2, 0, &init("a")).1), Ok(0));
    assert_eq!(
        result(records.apply(3, 0, &init("b")).1),
        Err("this is cluster a already".to_owned())
    );
}

#[test]
fn records_loaded_from_their_rows_equal_those_that_wrote_them() {
    let mut records = ClusterRecords::default();
    let mut rows = BTreeMap::new();
    let create = create_op("t", HOUR_MS);
    let remove = remove(7);
    let ops = [
        init("a"),
        create,
        use_op("t", b"hash", "key"),
        remove,
        voting(4, false),
        voting(5, false),
        voting(5, true),
        replace(4, 6),
        raise(2),
    ];
    for (index, op) in (1..).zip(&ops) {
        for write in records.apply(index, 0, op).0 {
            store(&mut rows, write);
        }
    }
    let stored = rows.into_iter().map(|(key, value)| Row { key, value });
    let loaded = ClusterRecords::load(stored).unwrap();
    assert_eq!(loaded.cluster(), records.cluster());
    assert_eq!(loaded.tokens, records.tokens);
    assert_eq!(loaded.tokens["t"].r#use.as_ref().unwrap().replica_id, 3);
    assert!(loaded.is_removed(7) && !loaded.is_removed(3));
    assert_eq!(loaded.non_voting, BTreeSet::from([4, 6]));
    assert_eq!(loaded.replacements().collect::<Vec<_>>(), [(4, 6)]);
    assert_eq!(loaded.level(), 2);
}

#[test]
fn the_level_is_that_of_the_first_replica_and_only_rises() {
    let mut records = ClusterRecords::default();
    assert_eq!(records.apply(1, 0, &init("a")).0.len(), 1);
    assert_eq!(records.level(), 1);
    for (to, writes, level) in [(2, 1, 2), (2, 0, 2), (1, 0, 2), (4, 1, 4)] {
        let (written, outcome) = records.apply(2, 0, &raise(to));
        assert_eq!((written.len(), records.level()), (writes, level));
        assert_eq!(outcome, done_outcome(0));
    }
    let mut records = ClusterRecords::default();
    let mut init = init("a");
    if let Some(admin::Op::Init(op)) = &mut init.op {
        op.level = 3;
    }
    assert_eq!(records.apply(1, 0, &init).0.len(), 2);
    assert_eq!(records.level(), 3);
}

#[test]
fn a_token_is_forgotten_a_month_after_its_expiry() {
    let mut records = with_token();
    let later = HOUR_MS + JOIN_TOKEN_REMEMBERED_MS;
    let (writes, _) = records.apply(9, later, &create_op("u", later + 1));
    assert_eq!(writes.first(), Some(&RowWrite::Delete(token_key("t"))));
    assert_eq!(
        use_token(&mut records, 10, later, "key"),
        Err("join token t is unknown".to_owned())
    );
}

#[test]
fn damaged_and_unknown_rows_are_refused() {
    let row = |key: &'static [u8], value: &'static [u8]| Row {
        key: Bytes::from_static(key),
        value: Bytes::from_static(value),
    };
    let damaged = ClusterRecords::load([row(b"cluster", b"\xff\xff")]);
    assert!(matches!(damaged, Err(RecordsError::Unreadable { .. })));
    let unknown = ClusterRecords::load([row(b"other", b"")]);
    assert!(matches!(unknown, Err(RecordsError::UnknownKey { .. })));
}

fn with_token() -> ClusterRecords {
    let mut records = ClusterRecords::default();
    assert_eq!(
        result(records.apply(5, 0, &create_op("t", HOUR_MS)).1),
        Ok(0)
    );
    records
}

#[test]
fn a_place_is_taken_by_one_and_free_again_when_that_one_is_removed() {
    let mut records = ClusterRecords::default();
    let mut apply = |op: Admin| result(records.apply(9, 0, &op).1);
    assert_eq!(apply(replace(2, 5)), Ok(5));
    assert_eq!(apply(replace(2, 5)), Ok(5), "said twice");
    assert_eq!(
        apply(replace(2, 6)),
        Err(
            "replica 5 takes the place of replica 2 already: to let another take it, run \
             `cluster remove 5` first"
                .to_owned()
        )
    );
    assert_eq!(apply(remove(5)), Ok(5));
    assert_eq!(apply(replace(2, 6)), Ok(6));
    assert_eq!(apply(remove(2)), Ok(2));
    assert_eq!(apply(replace(2, 6)), Ok(6), "done already");
    let late = Err("replica 2 was removed for good".to_owned());
    assert_eq!(apply(voting(2, true)), late);
    assert_eq!(records.replaces(6).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_joiner_takes_the_place_that_its_token_names() {
    let mut records = ClusterRecords::default();
    let replacing = |id: &str| {
        admin(admin::Op::CreateJoinToken(CreateJoinToken {
            id: id.to_owned(),
            secret_hash: Bytes::from_static(b"hash"),
            expires_at_ms: HOUR_MS,
            replaces: 2,
        }))
    };
    for op in [voting(2, false), replacing("t"), replacing("u")] {
        result(records.apply(5, 0, &op).1).unwrap();
    }
    assert_eq!(use_token(&mut records, 42, 0, "key a"), Ok(42));
    assert_eq!(records.replacement_of(2), Some(42));
    assert!(records.is_non_voting(42), "as the one before it");
    for late in [use_op("u", b"hash", "key b"), replacing("v")] {
        let refused = result(records.apply(43, 0, &late).1).unwrap_err();
        assert!(refused.contains("`cluster remove 42` first"), "{refused}");
    }
    assert!(
        records.tokens["u"].r#use.is_none(),
        "a refusal changes nothing"
    );
    result(records.apply(44, 0, &remove(2)).1).unwrap();
    let late = result(records.apply(45, 0, &replacing("v")).1);
    assert_eq!(late, Err("replica 2 was removed for good".to_owned()));
}

#[test]
fn a_joiner_may_ask_for_no_vote() {
    let mut records = with_token();
    let mut op = use_op("t", b"hash", "key");
    if let Some(admin::Op::UseJoinToken(op)) = &mut op.op {
        op.non_voting = true;
    }
    assert_eq!(result(records.apply(42, 0, &op).1), Ok(42));
    assert!(records.is_non_voting(42));
}

#[test]
fn nobody_takes_its_own_place_or_two_at_once() {
    let mut records = ClusterRecords::default();
    let mut apply = |op: Admin| result(records.apply(9, 0, &op).1);
    let own = apply(replace(5, 5)).unwrap_err();
    assert!(own.contains("its own place"), "{own}");
    assert_eq!(apply(replace(2, 5)), Ok(5));
    let second = apply(replace(3, 5)).unwrap_err();
    assert!(second.contains("takes the place of replica 2"), "{second}");
    assert_eq!(apply(remove(2)), Ok(2), "done");
    assert_eq!(apply(replace(3, 5)), Ok(5));
    assert_eq!(apply(remove(5)), Ok(5));
    assert_eq!(records.replacements().count(), 0);
}

#[test]
fn a_joiner_without_a_vote_does_not_take_the_place_of_a_voter() {
    let mut records = ClusterRecords::default();
    let token = admin(admin::Op::CreateJoinToken(CreateJoinToken {
        id: "t".to_owned(),
        secret_hash: Bytes::from_static(b"hash"),
        expires_at_ms: HOUR_MS,
        replaces: 2,
    }));
    result(records.apply(5, 0, &token).1).unwrap();
    let mut wants_none = use_op("t", b"hash", "key");
    if let Some(admin::Op::UseJoinToken(op)) = &mut wants_none.op {
        op.non_voting = true;
    }
    let refused = result(records.apply(42, 0, &wants_none).1).unwrap_err();
    assert!(refused.contains("replica 2, which votes"), "{refused}");
    assert!(!records.is_given(42));
    result(records.apply(43, 0, &voting(2, false)).1).unwrap();
    assert_eq!(result(records.apply(44, 0, &wants_none).1), Ok(44));
    assert!(records.is_given(44));
}

fn voting(replica_id: u64, voting: bool) -> Admin {
    admin(admin::Op::SetVoting(SetVoting { replica_id, voting }))
}

fn replace(replica_id: u64, with: u64) -> Admin {
    admin(admin::Op::ReplaceReplica(ReplaceReplica {
        replica_id,
        with,
    }))
}

fn remove(replica_id: u64) -> Admin {
    admin(admin::Op::RemoveReplica(RemoveReplica { replica_id }))
}

fn use_token(
    records: &mut ClusterRecords,
    index: u64,
    now_ms: i64,
    key: &str,
) -> Result<u64, String> {
    result(records.apply(index, now_ms, &use_op("t", b"hash", key)).1)
}

fn result(outcome: AdminOutcome) -> Result<u64, String> {
    match outcome.result.unwrap() {
        admin_outcome::Result::Done(done) => Ok(done.replica_id),
        admin_outcome::Result::Refused(reason) => Err(reason),
    }
}

fn admin(op: admin::Op) -> Admin {
    Admin { op: Some(op) }
}

fn raise(to: u32) -> Admin {
    admin(admin::Op::RaiseLevel(RaiseLevel { to }))
}

fn init(cluster_id: &str) -> Admin {
    admin(admin::Op::Init(InitCluster {
        level: 0,
        cluster_id: cluster_id.to_owned(),
        ca_certificate: Bytes::from_static(b"certificate"),
        ca_private_key: Bytes::from_static(b"key"),
    }))
}

fn create_op(id: &str, expires_at_ms: i64) -> Admin {
    admin(admin::Op::CreateJoinToken(CreateJoinToken {
        id: id.to_owned(),
        secret_hash: Bytes::from_static(b"hash"),
        expires_at_ms,
        replaces: 0,
    }))
}

fn use_op(id: &str, hash: &'static [u8], key: &str) -> Admin {
    admin(admin::Op::UseJoinToken(UseJoinToken {
        id: id.to_owned(),
        secret_hash: Bytes::from_static(hash),
        name: "b".to_owned(),
        public_key: key.as_bytes().to_vec().into(),
        ..UseJoinToken::default()
    }))
}

fn store(rows: &mut BTreeMap<Bytes, Bytes>, write: RowWrite) {
    match write {
        RowWrite::Put(row) => {
            rows.insert(row.key, row.value);
        }
        RowWrite::Delete(key) => {
            rows.remove(&key);
        }
    }
}

#[test]
fn the_authority_is_replaced_in_steps_that_may_be_asked_for_twice() {
    let mut records = ClusterRecords::default();
    records.apply(1, 0, &init("a"));
    let sha256 = |bytes: &[u8]| Bytes::copy_from_slice(&Sha256::digest(bytes));
    let old = records.cluster().unwrap().ca_certificate.clone();
    let rotate = |next: &'static [u8], replaces: &[u8]| Admin {
        op: Some(admin::Op::RotateAuthority(RotateAuthority {
            next_ca_certificate: Bytes::from_static(next),
            next_ca_private_key: Bytes::from_static(b"next key"),
            replaces_sha256: sha256(replaces),
            newest_join: 1,
        })),
    };
    let advance = |current: &[u8]| Admin {
        op: Some(admin::Op::AdvanceAuthority(AdvanceAuthority {
            current_sha256: sha256(current),
        })),
    };
    assert_eq!(records.apply(2, 0, &rotate(b"next", &old)).0.len(), 1);
    // Begun, and the second one finds it so.
    assert!(records.apply(3, 0, &rotate(b"other", &old)).0.is_empty());
    assert_eq!(records.apply(4, 0, &advance(&old)).0.len(), 1);
    let cluster = records.cluster().unwrap();
    assert_eq!(cluster.ca_certificate.as_ref(), b"next");
    assert_eq!(cluster.ca_private_key.as_ref(), b"next key");
    assert_eq!(cluster.retired_ca_certificate, old);
    // A step decided on the one before.
    assert!(records.apply(5, 0, &advance(&old)).0.is_empty());
    assert_eq!(records.apply(6, 0, &advance(b"next")).0.len(), 1);
    assert!(!is_replaced(records.cluster().unwrap()));
    assert!(records.apply(7, 0, &advance(b"next")).0.is_empty());
    assert!(records.apply(8, 0, &rotate(b"third", &old)).0.is_empty());
    // Who is asked for a new certificate is remembered over a restart.
    let renew = Admin {
        op: Some(admin::Op::RenewCertificates(RenewCertificates {
            replica_ids: vec![1, 4],
        })),
    };
    let mut rows = BTreeMap::new();
    for write in records.apply(9, 0, &renew).0 {
        store(&mut rows, write);
    }
    let stored = rows.into_iter().map(|(key, value)| Row { key, value });
    let loaded = ClusterRecords::load(stored).unwrap();
    assert_eq!((loaded.renewal_of(4), loaded.renewal_of(2)), (9, 0));
}

fn rotate_op(next_key: Vec<u8>, newest_join: u64) -> Admin {
    admin(admin::Op::RotateAuthority(RotateAuthority {
        next_ca_certificate: Bytes::from_static(b"next"),
        next_ca_private_key: next_key.into(),
        replaces_sha256: Sha256::digest(b"certificate").to_vec().into(),
        newest_join,
    }))
}

#[test]
fn the_next_authoritys_key_is_refused_under_a_seal_that_was_changed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let keys = |name: &str| {
        let path = folder.path().join(name);
        SealingKeys::add_to_file(&path).unwrap();
        SealingKeys::read(&path).unwrap()
    };
    let (old, new) = (keys("old"), keys("new"));
    let sealed = |keys: &SealingKeys| keys.seal(keys.current(), "key", b"key").unwrap();
    let mut records = ClusterRecords::default();
    records.apply(1, 0, &init("a"));
    let reseal = |key: Vec<u8>, replaces: &[u8]| {
        admin(admin::Op::ResealAuthority(ResealAuthority {
            ca_private_key: key.into(),
            replaces_sha256: Sha256::digest(replaces).to_vec().into(),
        }))
    };
    let first = sealed(&old);
    result(records.apply(2, 0, &reseal(first.clone(), b"key")).1).unwrap();
    result(records.apply(3, 0, &reseal(sealed(&new), &first)).1).unwrap();
    for late in [sealed(&old), b"next key".to_vec()] {
        let reason = result(records.apply(4, 0, &rotate_op(late, 1)).1).unwrap_err();
        assert!(reason.contains("resealed meanwhile"), "{reason}");
    }
    result(records.apply(5, 0, &rotate_op(sealed(&new), 1)).1).unwrap();
    let current = records.cluster().unwrap().ca_private_key.clone();
    let reason = result(records.apply(6, 0, &reseal(sealed(&old), &current)).1).unwrap_err();
    assert!(reason.contains("being replaced"), "{reason}");
}

#[test]
fn nobody_joins_beside_a_replacement_of_the_authority_whichever_is_first() {
    let mut records = ClusterRecords::default();
    records.apply(1, 0, &init("a"));
    for id in ["t", "u"] {
        records.apply(2, 0, &create_op(id, 1000));
    }
    // Decided on before somebody joined.
    assert_eq!(records.newest_join(), 1);
    use_token(&mut records, 4, 0, "key").unwrap();
    let reason = result(records.apply(5, 0, &rotate_op(b"next key".to_vec(), 1)).1).unwrap_err();
    assert!(
        reason.contains("replica 4 has used its join token"),
        "{reason}"
    );
    assert!(!is_replaced(records.cluster().unwrap()));
    let known = records.newest_join();
    result(
        records
            .apply(6, 0, &rotate_op(b"next key".to_vec(), known))
            .1,
    )
    .unwrap();
    let joined = result(records.apply(7, 0, &use_op("u", b"hash", "other")).1);
    assert!(joined.unwrap_err().contains("being replaced"));
    // Promised a certificate before, and applied when all is done.
    for current in [&b"certificate"[..], b"next"] {
        let op = admin::Op::AdvanceAuthority(AdvanceAuthority {
            current_sha256: Sha256::digest(current).to_vec().into(),
        });
        records.apply(8, 0, &admin(op));
    }
    assert!(!is_replaced(records.cluster().unwrap()));
    let promised = |certificate: &[u8]| {
        let mut op = use_op("u", b"hash", "other");
        if let Some(admin::Op::UseJoinToken(op)) = &mut op.op {
            op.ca_sha256 = Sha256::digest(certificate).to_vec().into();
        }
        op
    };
    let late = result(records.apply(9, 0, &promised(b"certificate")).1);
    assert!(late.unwrap_err().contains("replaced meanwhile"));
    assert_eq!(result(records.apply(10, 0, &promised(b"next")).1), Ok(10));
}
