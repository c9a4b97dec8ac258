//! Greeting the others until there is a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

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
use super::{ADDRESSES_MAX, Begun, Bootstrap, BootstrapError, GREETING_LIMIT, ROUND};
use crate::fatal::chain;
use crate::identity::Folder;
use crate::join::{random_id, random_secret};
use crate::network::connect;
use crate::tls::{PeerName, uncertified_client, uncertified_server};
use crate::token::SECRET_BYTES;
use crate::{InitError, JoinError, JoinToken, Replica, ReplicaConfig};

/// Forms a cluster, or joins the one that was formed.
pub(crate) async fn bootstrap(
    config: &ReplicaConfig,
    listener: &TcpListener,
) -> Result<Begun, BootstrapError> {
    let bootstrap = config.bootstrap.as_ref().ok_or_else(|| InitError::Config {
        field: "cluster.bootstrap_expect",
        reason: "is not set".to_owned(),
    })?;
    // Before anybody is told that this replica is ready to be part of a cluster.
    Folder::new(&config.data_dir).claim()?;
    let certificates = |error: crate::tls::TlsError| InitError::Certificates(error.into());
    let server = uncertified_server(OffsetDateTime::now_utc()).map_err(certificates)?;
    let client = uncertified_client().map_err(certificates)?;
    let meeting = Meeting::new(config, bootstrap, client);
    let waiting = Waiting {
        own: meeting.own.clone(),
        secret: Arc::clone(&bootstrap.secret),
        yielding: Arc::clone(&meeting.yielding),
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
    fn new(config: &'a ReplicaConfig, bootstrap: &'a Bootstrap, client: Arc<ClientConfig>) -> Self {
        Self {
            config,
            bootstrap,
            client,
            own: pb::Newcomer {
                instance: random(),
                name: config.name.clone(),
                expect: u32::try_from(bootstrap.expect).unwrap_or(u32::MAX),
            },
            yielding: Arc::default(),
            token_id: random_id(),
            secret: random_secret(),
        }
    }

    async fn run(&self) -> Result<Begun, BootstrapError> {
        let mut said = String::new();
        loop {
            match self.step().await {
                Step::Join(invitation) => match self.join(invitation).await {
                    Err(BootstrapError::Join(JoinError::Unavailable { reason })) => {
                        say(&mut said, reason);
                    }
                    joined => return joined,
                },
                Step::GiveUp(reason) => return Err(BootstrapError::Refused { reason }),
                Step::Make => return self.make(),
                Step::Claim => {}
                Step::Wait(reason) => say(&mut said, reason),
            }
            sleep(ROUND).await;
        }
    }

    /// One round of greetings, and a claim if it is this replica's turn.
    async fn step(&self) -> Step {
        let step = next_step(&self.own, &self.greet_all(false).await);
        if step != Step::Claim {
            return step;
        }
        let begin = Instant::now();
        if !self.yielding.lock().begin_claim(begin) {
            return Step::Claim;
        }
        let step = next_step(&self.own, &self.greet_all(true).await);
        // A process that was stopped in between may be too late: others yield to others then.
        if step == Step::Make && begin.elapsed() < YIELD_TIME / 2 {
            return step;
        }
        self.yielding.lock().end_claim();
        Step::Claim
    }

    fn make(&self) -> Result<Begun, BootstrapError> {
        let cluster_id = Replica::init_cluster(self.config)?;
        Ok(Begun::Made(cluster_id))
    }

    async fn join(&self, invitation: pb::Invitation) -> Result<Begun, BootstrapError> {
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
        Ok(Begun::Joined(
            Replica::join_cluster(self.config, &token).await?,
        ))
    }

    async fn greet_all(&self, claims: bool) -> Vec<Answer> {
        let addresses = self.addresses().await;
        let greetings = addresses.iter().map(|addr| async move {
            let greeted = timeout(GREETING_LIMIT, self.greet(addr, claims)).await;
            let greeted = greeted.unwrap_or_else(|_| Err("does not answer in time".to_owned()));
            greeted.unwrap_or_else(|reason| Answer::Silent(format!("{addr}: {reason}")))
        });
        join_all(greetings).await
    }

    /// Where the others are now; a name that stands for all of them has several addresses.
    async fn addresses(&self) -> Vec<String> {
        let mut all = BTreeSet::new();
        for peer in &self.bootstrap.peers {
            let peer = self.config.dial_overrides.resolve(peer);
            match lookup_host(&peer).await {
                Ok(found) => all.extend(found.map(|addr| addr.to_string())),
                Err(error) => tracing::debug!(peer, %error, "no address"),
            }
        }
        all.into_iter().take(ADDRESSES_MAX).collect()
    }

    async fn greet(&self, addr: &str, claims: bool) -> Result<Answer, String> {
        let greeting = pb::Greeting {
            nonce: random(),
            from: Some(self.own.clone()),
            claims,
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
            State::Unavailable(reason) => Answer::Silent(format!("{addr}: {reason}")),
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
