//! Folders that become somebody's, or nobody's.

use std::os::unix::fs::PermissionsExt;

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::*;
use crate::tls::{PeerName, Tls};

#[test]
fn a_settled_folder_knows_who_it_is_and_refuses_to_become_somebody_else() {
    let temp = tempfile::tempdir().unwrap();
    let folder = settled(temp.path());
    assert_eq!(folder.identity().unwrap().unwrap().replica_id, 1);
    assert!(folder.credentials().is_ok());
    assert!(matches!(
        folder.claim(),
        Err(InitError::InUse {
            replica: ReplicaId(1),
            ..
        })
    ));
}

#[test]
fn the_authoritys_key_is_there_until_the_cluster_has_it() {
    let temp = tempfile::tempdir().unwrap();
    let folder = settled(temp.path());
    let identity = folder.identity().unwrap().unwrap();
    let bootstrap = folder.bootstrap(&identity).unwrap().unwrap();
    let certificate = CertificateDer::from(bootstrap.ca_certificate.to_vec());
    assert!(
        Authority::load(
            certificate,
            Zeroizing::new(bootstrap.ca_private_key.to_vec())
        )
        .is_ok()
    );
    folder.forget_bootstrap().unwrap();
    assert_eq!(folder.bootstrap(&identity).unwrap(), None);
}

#[test]
fn a_folder_with_foreign_files_is_refused_and_a_broken_off_start_is_not() {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::new(temp.path().join("new"));
    folder.claim().unwrap();
    folder.joining_key("t").unwrap();
    folder.claim().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(folder.claim(), Err(InitError::NotEmpty { .. })));
}

#[test]
fn a_join_taken_up_again_uses_the_same_key_and_another_token_a_new_one() {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::new(temp.path());
    folder.claim().unwrap();
    let first = folder.joining_key("t").unwrap().public_key();
    assert_eq!(folder.joining_key("t").unwrap().public_key(), first);
    assert_ne!(folder.joining_key("u").unwrap().public_key(), first);
}

#[test]
fn a_join_leaves_nothing_of_a_broken_off_init() {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::new(temp.path());
    let ca_key = temp.path().join(CA_KEY);
    folder.claim().unwrap();
    // Before the first attempt to join, and between two with the same token.
    for _ in 0..2 {
        std::fs::write(&ca_key, "left behind").unwrap();
        folder.claim().unwrap();
        folder.joining_key("t").unwrap();
        assert!(!ca_key.exists());
    }
}

#[test]
fn only_the_first_replica_begins_a_cluster() {
    let temp = tempfile::tempdir().unwrap();
    let folder = settled(temp.path());
    let first = folder.identity().unwrap().unwrap();
    let joined = Identity {
        replica_id: 7,
        ..first.clone()
    };
    assert!(folder.bootstrap(&first).unwrap().is_some());
    assert_eq!(folder.bootstrap(&joined).unwrap(), None);
}

fn settled(path: &Path) -> Folder {
    let folder = Folder::new(path);
    folder.claim().unwrap();
    let now = OffsetDateTime::now_utc();
    let authority = Authority::create("c", now).unwrap();
    let key = ReplicaKey::create().unwrap();
    let name = PeerName::new("c", 1);
    let certificate = authority.sign(&name, &key.public_key(), now).unwrap();
    let identity = Identity {
        cluster_id: "c".to_owned(),
        replica_id: FIRST_REPLICA,
        peers: Vec::new(),
        has_store: false,
        removed: false,
        expect: 0,
    };
    folder
        .settle_first(&identity, &authority, &key, &certificate)
        .unwrap();
    folder
}

#[test]
fn renewed_credentials_take_the_place_of_all_parts_of_the_old_ones() {
    let temp = tempfile::tempdir().unwrap();
    let folder = settled(temp.path());
    let now = OffsetDateTime::now_utc();
    let authority = Authority::create("c", now).unwrap();
    let key = ReplicaKey::create().unwrap();
    let name = PeerName::new("c", 1);
    let old = folder.credentials().unwrap();
    let renewed = Credentials {
        certificate: authority.sign(&name, &key.public_key(), now).unwrap(),
        authority: authority.certificate().clone(),
        also_trusted: vec![old.authority.clone()],
        key,
        renewed_at: 7,
        as_of: 9,
    };
    folder.renew(&renewed).unwrap();
    let read = folder.credentials().unwrap();
    assert_eq!(read.certificate, renewed.certificate);
    assert_eq!(read.trusted().count(), 2);
    assert_eq!(read.key.public_key(), renewed.key.public_key());
    assert_eq!((read.renewed_at, read.as_of), (7, 9));
    assert!(Tls::new(&read).is_ok());
    // Nothing of before is left, and only the owner reads what is there.
    assert!(!temp.path().join(KEY).exists() && !temp.path().join(CA_KEY).exists());
    let about = std::fs::metadata(temp.path().join(RENEWED)).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_folder_that_could_not_be_filled_has_no_identity_left() {
    let temp = tempfile::tempdir().unwrap();
    let folder = settled(temp.path());
    let unfinished = folder.begin_filling().unwrap();
    // What follows cannot be removed, and the identity is gone all the same.
    std::fs::write(temp.path().join("db"), "no folder").unwrap();
    unfinished.discard().unwrap_err();
    assert_eq!(folder.identity().unwrap(), None);
    std::fs::remove_file(temp.path().join("db")).unwrap();
    assert!(matches!(
        folder.claim(),
        Err(InitError::HalfRestored { .. })
    ));
    folder.claim_to_fill().unwrap();
}
