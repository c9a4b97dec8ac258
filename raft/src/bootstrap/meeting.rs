//! Greeting the others until there is a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::future::join_all;
use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::greeting_answer::State;
use hydrascale_proto::raft::v1::join_client::JoinClient;
use parking_lot::Mutex;
use rustls::ClientConfig;
use time::OffsetDateTime;
use tokio::net::{TcpListener, lookup_host};
use tokio::time::{sleep, timeout};
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use super::decide::{Answer, Step, YIELD_TIME, Yielding, next_step};
use super::door::{Waiting, serve};
use super::greeting::{open_answer, random, seal_greeting};
use super::{ADDRESSES_MAX, Begun, Bootstrap, BootstrapError, GREETING_LIMIT, ROUND, TOKEN_PREFIX};
use crate::fatal::chain;
use crate::identity::Folder;
use crate::init::init_cluster;
use crate::join::join;
use crate::network::connect;
use crate::tls::{PeerName, TlsError, uncertified_client, uncertified_server};
use crate::token::SECRET_BYTES;
use crate::{InitError, JoinError, JoinToken, ReplicaConfig};

const TOKEN_ID: &str = "hydrascale 2026 bootstrap token id";
const TOKEN_SECRET: &str = "hydrascale 2026 bootstrap token secret";

/// Forms a cluster, or joins the one that was formed.
pub(crate) async fn bootstrap(
    config: &ReplicaConfig,
    listener: &TcpListener,
) -> Result<Begun, BootstrapError> {
    let unusable = |reason: &str| InitError::Config {
        field: "cluster.bootstrap_expect",
        reason: reason.to_owned(),
    };
    let bootstrap = config.bootstrap.as_ref();
    let bootstrap = bootstrap.ok_or_else(|| unusable("is not set"))?;
    // Before anybody is told that this replica is ready to be part of a cluster.
    Folder::new(&config.data_dir).claim()?;
    let certificates = |error: TlsError| InitError::Certificates(error.into());
    let server = uncertified_server(OffsetDateTime::now_utc()).map_err(certificates)?;
    let client = uncertified_client().map_err(certificates)?;
    let meeting = Meeting::new(config, bootstrap, client);
    let meeting = meeting.ok_or_else(|| unusable("has a secret without a key"))?;
    let waiting = Waiting {
        own: meeting.own.clone(),
        secret: Arc::clone(&bootstrap.secret),
        yielding: Arc::clone(&meeting.yielding),
        told: Arc::default(),
    };
    tokio::select! {
        begun = meeting.run() => begun,
        never = serve(listener, server, waiting) => match never {},
    }
}

/// One replica's part in the forming of a cluster.
struct Meeting<'a> {
    config: &'a ReplicaConfig,
    bootstrap: &'a Bootstrap,
    client: Arc<ClientConfig>,
    own: pb::Newcomer,
    yielding: Arc<Mutex<Yielding>>,
    /// The token that it would join with.
    token_id: String,
    secret: [u8; SECRET_BYTES],
}

impl<'a> Meeting<'a> {
    fn new(
        config: &'a ReplicaConfig,
        bootstrap: &'a Bootstrap,
        client: Arc<ClientConfig>,
    ) -> Option<Self> {
        let id = bootstrap.secret.derive(TOKEN_ID, &config.name)?;
        let (id, _) = id.split_first_chunk::<16>()?;
        Some(Self {
            config,
            bootstrap,
            client,
            own: pb::Newcomer {
                instance: random(),
                name: config.name.clone(),
                expect: u32::try_from(bootstrap.expect).unwrap_or(u32::MAX),
            },
            yielding: Arc::new(Mutex::new(Yielding::new(random()))),
            token_id: format!("{TOKEN_PREFIX}{}", HEXLOWER.encode(id)),
            secret: *bootstrap.secret.derive(TOKEN_SECRET, &config.name)?,
        })
    }

    async fn run(&self) -> Result<Begun, BootstrapError> {
        let mut said = String::new();
        loop {
            match self.step().await {
                Step::Join(invitation) => match self.join(invitation).await {
                    Err(BootstrapError::Join(JoinError::Unavailable { reason })) => {
                        say(&mut said, reason);
                    }
                    Err(BootstrapError::Join(JoinError::Refused { reason })) => {
                        return Err(BootstrapError::taken(&reason));
                    }
                    joined => return joined,
                },
                Step::GiveUp(reason) => return Err(BootstrapError::Refused { reason }),
                Step::Make => {
                    let made = init_cluster(self.config, self.bootstrap.expect)?;
                    return Ok(Begun::Made(made));
                }
                Step::Claim => say(&mut said, "not everybody leaves it to this one".to_owned()),
                Step::Wait(reason) => say(&mut said, reason),
            }
            sleep(ROUND).await;
        }
    }

    /// One round of greetings, and a claim if it is this replica's turn.
    async fn step(&self) -> Step {
        let answers = self.greet_all(&BTreeMap::new()).await;
        let step = next_step(&self.own, &answers.values().cloned().collect::<Vec<_>>());
        if step != Step::Claim {
            return step;
        }
        let begin = Instant::now();
        if !self.yielding.lock().begin_claim(begin) {
            return Step::Claim;
        }
        let claims = answers
            .into_iter()
            .filter_map(|(addr, answer)| match answer {
                Answer::Waiting(waiting) => Some((addr, waiting.challenge)),
                Answer::Unclear(_) | Answer::Invited(_) | Answer::Refused(_) => None,
            });
        let answers = self.greet_all(&claims.collect()).await;
        let step = next_step(&self.own, &answers.into_values().collect::<Vec<_>>());
        // A process that was stopped in between may be too late: others yield to others then.
        if step == Step::Make && begin.elapsed() < YIELD_TIME / 2 {
            return step;
        }
        self.yielding.lock().rest();
        Step::Claim
    }

    async fn join(&self, invitation: pb::Invitation) -> Result<Begun, BootstrapError> {
        self.yielding.lock().settle();
        let token = JoinToken {
            cluster_id: invitation.cluster_id,
            token_id: self.token_id.clone(),
            secret: self.secret,
            ca_sha256: invitation.ca_sha256.as_ref().try_into().map_err(|_| {
                let reason = "its authority's hash cannot be read".to_owned();
                JoinError::Untrusted { reason }
            })?,
            addrs: invitation.addrs,
        };
        let joined = join(self.config, &token, self.bootstrap.expect).await;
        self.yielding.lock().rest();
        Ok(Begun::Joined(joined?))
    }

    /// Greets every address; where there is a challenge, with a claim.
    async fn greet_all(&self, claims: &BTreeMap<String, Bytes>) -> BTreeMap<String, Answer> {
        let mut answers = self.addresses().await;
        let reachable: Vec<String> = answers
            .iter()
            .filter(|(_, answer)| answer.is_none())
            .map(|(addr, _)| addr.clone())
            .collect();
        let greetings = reachable.into_iter().map(|addr| async move {
            let claim = claims.get(&addr).cloned().unwrap_or_default();
            let greeted = timeout(GREETING_LIMIT, self.greet(&addr, claim)).await;
            let greeted = greeted.unwrap_or_else(|_| Err("does not answer in time".to_owned()));
            let answer =
                greeted.unwrap_or_else(|reason| Answer::Unclear(format!("{addr}: {reason}")));
            (addr, Some(answer))
        });
        answers.extend(join_all(greetings).await);
        let known = answers
            .into_iter()
            .filter_map(|(addr, answer)| Some((addr, answer?)));
        known.collect()
    }

    /// Where the others are now; a name that stands for all of them has several addresses, and one
    /// that has none is an answer already.
    async fn addresses(&self) -> BTreeMap<String, Option<Answer>> {
        let lookups = self.bootstrap.peers.iter().map(|peer| async move {
            let resolved = self.config.dial_overrides.resolve(peer);
            let found = timeout(GREETING_LIMIT, lookup_host(resolved)).await;
            let unknown = |reason: String| Answer::Unclear(format!("{peer}: {reason}"));
            match found {
                Ok(Ok(found)) => Ok(found.map(|addr| addr.to_string()).collect::<BTreeSet<_>>()),
                Ok(Err(error)) => Err((peer.clone(), Some(unknown(error.to_string())))),
                Err(_) => Err((
                    peer.clone(),
                    Some(unknown("is not resolved in time".to_owned())),
                )),
            }
        });
        let mut all = BTreeMap::new();
        for found in join_all(lookups).await {
            match found {
                Ok(found) => all.extend(found.into_iter().map(|addr| (addr, None))),
                Err(unknown) => all.extend([unknown]),
            }
        }
        all.into_iter().take(ADDRESSES_MAX).collect()
    }

    async fn greet(&self, addr: &str, claim: Bytes) -> Result<Answer, String> {
        let greeting = pb::Greeting {
            nonce: random(),
            from: Some(self.own.clone()),
            claim,
            token_id: self.token_id.clone(),
            secret_hash: JoinToken::secret_hash(&self.secret),
        };
        let word = seal_greeting(&self.bootstrap.secret, &greeting);
        let word = self.send(addr, word.map_err(|error| error.to_string())?);
        let state = open_answer(&self.bootstrap.secret, &greeting, &word.await?);
        Ok(match state.map_err(|error| error.to_string())? {
            State::Waiting(waiting) => Answer::Waiting(waiting),
            State::Invitation(invitation) => Answer::Invited(invitation),
            State::Refused(reason) => Answer::Refused(reason),
            State::Unavailable(reason) => Answer::Unclear(format!("{addr}: {reason}")),
        })
    }

    async fn send(&self, addr: &str, word: pb::SealedWord) -> Result<pb::SealedWord, String> {
        let name = PeerName::new("none", 0).to_string();
        let (addr, settings) = (addr.to_owned(), Arc::clone(&self.client));
        let connector = service_fn(move |_: Uri| {
            let (addr, name, settings) = (addr.clone(), name.clone(), Arc::clone(&settings));
            async move { connect(&addr, &name, settings, GREETING_LIMIT).await }
        });
        let channel = Endpoint::from_static("http://replica")
            .connect_with_connector(connector)
            .await
            .map_err(|error| chain(&error))?;
        let answered = JoinClient::new(channel).greet(word).await;
        answered
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned())
    }
}

/// Says why it waits, each reason once in a row.
fn say(said: &mut String, reason: String) {
    if *said != reason {
        tracing::info!(reason, "waiting for the cluster's other replicas");
        *said = reason;
    }
}
