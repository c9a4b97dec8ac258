//! The joiner's side: asking every address of the token until one answers.

use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::join_client::JoinClient;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use crate::fatal::chain;
use crate::identity::{Folder, Identity, KnownPeer};
use crate::network::connect;
use crate::timing::Timing;
use crate::tls::{PeerName, ReplicaKey, join_settings, sha256};
use crate::{InitError, JoinError, JoinToken, ReplicaConfig, ReplicaId};

/// A join waits for a log entry, perhaps through an election.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);

/// Spends the token and makes the data folder the new replica's. `expect`: as in the identity.
pub(crate) async fn join(
    config: &ReplicaConfig,
    token: &JoinToken,
    expect: usize,
) -> Result<ReplicaId, JoinError> {
    let folder = Folder::new(&config.data_dir);
    folder.claim()?;
    let key = folder
        .joining_key(&token.token_id)
        .map_err(|error| folder_error(&folder, std::io::Error::other(error)))?;
    let settings = join_settings(&token.cluster_id, token.ca_sha256)
        .map_err(|error| JoinError::Local(InitError::Certificates(error.into())))?;
    let granted = ask_all(config, token, &key, &settings).await?;
    settle(&folder, token, &key, granted, expect)
}

async fn ask_all(
    config: &ReplicaConfig,
    token: &JoinToken,
    key: &ReplicaKey,
    settings: &Arc<ClientConfig>,
) -> Result<pb::JoinGranted, JoinError> {
    let mut answers = Vec::new();
    for addr in &token.addrs {
        match ask(config, addr, token, key, settings).await {
            Ok(pb::join_reply::Result::Granted(granted)) => return Ok(granted),
            Ok(pb::join_reply::Result::Refused(reason)) => {
                return Err(JoinError::Refused { reason });
            }
            Ok(pb::join_reply::Result::Unavailable(reason)) | Err(reason) => {
                answers.push(format!("{addr}: {reason}"));
            }
        }
    }
    if answers.is_empty() {
        answers.push("the token names no address".to_owned());
    }
    Err(JoinError::Unavailable {
        reason: answers.join("; "),
    })
}

async fn ask(
    config: &ReplicaConfig,
    addr: &str,
    token: &JoinToken,
    key: &ReplicaKey,
    settings: &Arc<ClientConfig>,
) -> Result<pb::join_reply::Result, String> {
    let patience = Timing::new(config.timing_multiplier).connect();
    let dialled = config.dial_overrides.resolve(addr);
    // No replica has id 0: the verifier accepts any replica of the cluster.
    let name = PeerName::new(token.cluster_id.clone(), 0).to_string();
    let settings = Arc::clone(settings);
    let connector = service_fn(move |_: Uri| {
        let (dialled, name, settings) = (dialled.clone(), name.clone(), Arc::clone(&settings));
        async move { connect(&dialled, &name, settings, patience).await }
    });
    let joining = async {
        let endpoint = Endpoint::from_static("http://replica");
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|e| chain(&e))?;
        let request = pb::JoinRequest {
            cluster_id: token.cluster_id.clone(),
            token_id: token.token_id.clone(),
            secret: token.secret.to_vec().into(),
            name: config.name.clone(),
            public_key: key.public_key().into(),
            proto_level: config.levels.min,
            non_voting: config.non_voting,
            sealing_key_ids: config.keyring.keys().wire_ids(),
            level_max: config.levels.max,
        };
        let reply = JoinClient::new(channel).join(request).await;
        let reply = reply.map_err(|status| status.message().to_owned())?;
        reply
            .into_inner()
            .result
            .ok_or_else(|| "the answer cannot be understood".to_owned())
    };
    timeout(JOIN_PATIENCE, joining)
        .await
        .map_err(|_| "no answer in time".to_owned())?
}

fn settle(
    folder: &Folder,
    token: &JoinToken,
    key: &ReplicaKey,
    granted: pb::JoinGranted,
    expect: usize,
) -> Result<ReplicaId, JoinError> {
    let untrusted = |reason: &str| JoinError::Untrusted {
        reason: reason.to_owned(),
    };
    let authority = CertificateDer::from(granted.ca_certificate.to_vec());
    if !bool::from(
        sha256(&authority)
            .as_slice()
            .ct_eq(token.ca_sha256.as_slice()),
    ) {
        return Err(untrusted(
            "it comes with another authority than the token names",
        ));
    }
    let certificate = CertificateDer::from(granted.certificate.to_vec());
    let expected = PeerName::new(token.cluster_id.clone(), granted.replica_id);
    if PeerName::of(&certificate).as_ref() != Ok(&expected) {
        return Err(untrusted("the certificate names somebody else"));
    }
    let carries_key = webpki::EndEntityCert::try_from(&certificate)
        .is_ok_and(|parsed| parsed.subject_public_key_info().as_ref() == key.public_key());
    if !carries_key {
        return Err(untrusted("the certificate is for another key"));
    }
    let peers = granted.peers.into_iter();
    let identity = Identity {
        cluster_id: token.cluster_id.clone(),
        replica_id: granted.replica_id,
        peers: peers
            .map(|peer| KnownPeer {
                replica_id: peer.replica_id,
                addr: peer.addr,
            })
            .collect(),
        has_store: false,
        removed: false,
        expect,
    };
    let settled = folder.settle(&identity, &authority, &certificate);
    settled.map_err(|source| folder_error(folder, source))?;
    Ok(ReplicaId(identity.replica_id))
}

fn folder_error(folder: &Folder, source: std::io::Error) -> JoinError {
    JoinError::Local(InitError::Folder {
        path: folder.path().to_owned(),
        source,
    })
}
