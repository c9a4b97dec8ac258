//! `/machine/register`: login, logout, and the return of a known node.
//!
//! [`step`] decides, this module acts. What a person should see goes into `Error` with status 200;
//! another status means "come back", and clients do.

mod answer;
mod limiter;
mod source_limiter;
mod step;
mod tags;
mod watch;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use h2::RecvStream;
use hydrascale_proto::state::v1::{self as pb, RefusalCode, command::Op};

pub(super) use self::limiter::LoginLimiter;
pub(super) use self::source_limiter::SourceLimiter;
use self::step::Step;
use self::tags::Asked;
pub(super) use self::watch::{LoginWaiter, LoginWatch};
use super::inner::{Reply, Session};
use super::metrics::Limit;
use crate::cluster::ProposeError;
use crate::state::secret::{AuthId, SecretText};
use crate::state::{Node, State};
use crate::tailcfg::{RegisterRequest, RegisterResponse};

/// When to come back to a replica that cannot take changes: elections take a second or two.
const RETRY_AFTER: Duration = Duration::from_secs(2);

pub(super) async fn handle(session: &Arc<Session>, body: RecvStream) -> Reply {
    let registration = match read(session, body).await {
        Ok(registration) => registration,
        Err(reply) => return reply,
    };
    match registration.run().await {
        Ok(response) => Reply::json(&response),
        Err(reply) => reply,
    }
}

async fn read(session: &Arc<Session>, body: RecvStream) -> Result<Registration, Reply> {
    let body = session
        .read_body(body)
        .await
        .map_err(|error| error.reply())?;
    session.refuse_if_too_stale()?;
    let request: RegisterRequest = super::auth::decode(&body)?;
    if request.node_key.is_zero() {
        return Err(Reply::text(StatusCode::BAD_REQUEST, "NodeKey is missing"));
    }
    let hostinfo_json = super::hostinfo::raw_member(&body);
    Ok(Registration {
        session: Arc::clone(session),
        request,
        hostinfo_json,
    })
}

/// One request of one client.
struct Registration {
    session: Arc<Session>,
    request: RegisterRequest,
    /// As the client wrote it, so that fields which we do not know survive.
    hostinfo_json: Bytes,
}

impl Registration {
    async fn run(&self) -> Result<RegisterResponse, Reply> {
        let cluster = self.session.control.cluster();
        let mut state = cluster.state();
        let mut step = self.decide(&state);
        if step.rests_on_ignorance() {
            state = cluster
                .linearizable()
                .await
                .map_err(|error| unavailable(error.to_string()))?;
            step = self.decide(&state);
        }
        match step {
            Step::Logout => self.log_out().await,
            Step::Known(node) => Ok(answer::authorized(&state, &node)),
            Step::KeyExpired => Ok(answer::key_expired()),
            Step::Refuse(text) => Ok(answer::refused(text)),
            Step::Refresh(node) => {
                let op = self.registration(None, None);
                self.register(op, Some(node)).await
            }
            Step::Admit(key, known) => self.admit(&state, key, known).await,
            Step::Wait(auth_id) => self.wait(auth_id).await,
            Step::Begin => self.begin().await,
        }
    }

    fn decide(&self, state: &State) -> Step {
        let now = self.session.control.now();
        step::decide(state, self.session.peer.machine_key, &self.request, now)
    }

    async fn log_out(&self) -> Result<RegisterResponse, Reply> {
        let op = Op::LogoutNode(pb::LogoutNode {
            machine_key: self.machine_key(),
            node_key: self.node_key(),
        });
        let done = match self.session.control.cluster().propose(op).await {
            Ok(done) => done,
            // Another request was faster.
            Err(ProposeError::Refused(refusal)) if refusal.code() == RefusalCode::NotFound => {
                return Ok(answer::key_expired());
            }
            Err(error) => return answer_error(error),
        };
        tracing::info!(node.id = done.id, "node logged out");
        Ok(answer::key_expired())
    }

    /// Lets a node in with an auth key, unless it asks for tags that it cannot have: clients repeat
    /// that for ever, and it must not cost a log entry each time.
    async fn admit(
        &self,
        state: &State,
        key: SecretText,
        known: Option<Arc<Node>>,
    ) -> Result<RegisterResponse, Reply> {
        let mut asked = self.asked_tags(state, &key).await;
        if !asked.refused.is_empty() {
            let newest = match (self.session.control.cluster().linearizable().await, &known) {
                (Ok(newest), _) => newest,
                (Err(_), Some(node)) => return Ok(answer::authorized(state, node)),
                (Err(error), None) => return Err(unavailable(error.to_string())),
            };
            asked = self.asked_tags(&newest, &key).await;
            if !asked.refused.is_empty() {
                // A node that is in gets its answer all the same, unless the key makes it another's.
                let op = self.registration(Some(&key), asked.grant.clone());
                if let Some(refusal) = newest.would_refuse(&op, self.session.control.now()) {
                    return Ok(answer::from_refusal(&refusal));
                }
            }
        }
        let op = self.registration(Some(&key), asked.grant);
        self.register(op, known).await
    }

    async fn asked_tags(&self, state: &State, key: &SecretText) -> Asked<'_> {
        let hostinfo = self.request.hostinfo.as_ref();
        let wanted = hostinfo.map_or(&[][..], |hostinfo| &hostinfo.request_tags);
        let Some(key) = step::proven(state, key) else {
            return Asked::default();
        };
        let cluster = self.session.control.cluster();
        Asked::of(cluster, state, self.session.peer.machine_key, key, wanted).await
    }

    fn registration(&self, key: Option<&SecretText>, tag_grant: Option<pb::TagGrant>) -> Op {
        Op::RegisterNode(pb::RegisterNode {
            machine_key: self.machine_key(),
            node_key: self.node_key(),
            hostinfo_json: self.hostinfo_json.clone(),
            capver: self.capver(),
            ephemeral: self.request.ephemeral,
            requested_expiry_ms: self.requested_expiry_ms(),
            auth_key: key.and_then(|key| self.proof(key)),
            entropy: rand::random(),
            tag_grant,
        })
    }

    /// Lets a node in with an auth key, or refreshes it. `known` is the node when it is in already:
    /// a cluster that takes no changes still serves it.
    async fn register(&self, op: Op, known: Option<Arc<Node>>) -> Result<RegisterResponse, Reply> {
        let cluster = self.session.control.cluster();
        match cluster.propose(op).await {
            Ok(done) => {
                tracing::info!(node.id = done.id, "node registered");
                self.answer_for(&cluster.state(), done.id)
            }
            Err(ProposeError::Refused(refusal)) => Ok(answer::from_refusal(&refusal)),
            Err(error) => match known {
                Some(node) => Ok(answer::authorized(&cluster.state(), &node)),
                None => answer_error(error),
            },
        }
    }

    fn answer_for(&self, state: &State, node_id: u64) -> Result<RegisterResponse, Reply> {
        let node = state.node(crate::types::NodeId(node_id));
        // Deleted in the same moment: the client asks again.
        let node = node.ok_or_else(|| unavailable("the node was deleted meanwhile"))?;
        Ok(answer::authorized(state, node))
    }

    /// Takes one of the logins that may begin; else the seconds after which one is free. A source that
    /// asks for too many takes none of what is there for all.
    fn take_login(&self) -> Result<(), u32> {
        let control = &self.session.control;
        control.source_limiter().check(self.session.peer.source)?;
        let taken = control.login_limiter().check();
        taken.inspect_err(|_| control.metrics().limit_hit(Limit::Logins))
    }

    /// Starts an interactive login and answers where to go.
    async fn begin(&self) -> Result<RegisterResponse, Reply> {
        let control = &self.session.control;
        if let Err(wait) = self.take_login() {
            let reply = Reply::text(StatusCode::TOO_MANY_REQUESTS, "too many logins at once");
            return Err(reply.with_retry_after(wait));
        }
        if control.cluster().state().is_full_of_logins() {
            // The oldest one makes room.
            control.metrics().limit_hit(Limit::PendingLogins);
        }
        let auth_id = AuthId::from_random(rand::random());
        let op = Op::StartLogin(pb::StartLogin {
            auth_id: auth_id.to_string(),
            machine_key: self.machine_key(),
            node_key: self.node_key(),
            hostinfo_json: self.hostinfo_json.clone(),
            capver: self.capver(),
            ephemeral: self.request.ephemeral,
            requested_expiry_ms: self.requested_expiry_ms(),
        });
        match control.cluster().propose(op).await {
            Ok(_) => {
                tracing::info!("interactive login began");
                Ok(answer::log_in_at(&control.options().server_url, &auth_id))
            }
            Err(error) => answer_error(error),
        }
    }

    /// Waits until the login is decided, here or on any other replica.
    async fn wait(&self, auth_id: AuthId) -> Result<RegisterResponse, Reply> {
        let control = &self.session.control;
        let waiter = control.logins().subscribe(auth_id.as_str());
        loop {
            let mut decided = pin!(waiter.decided());
            // From here on no decision is missed.
            decided.as_mut().enable();
            let mut state = control.cluster().state();
            if !self.is_open(&state, &auth_id) {
                // Decided, run out, or begun at another replica a moment ago.
                let newest = control.cluster().linearizable().await;
                state = newest.map_err(|error| unavailable(error.to_string()))?;
            }
            if !self.is_open(&state, &auth_id) {
                return match state.node_by_node_key(&self.request.node_key) {
                    Some(node) if node.machine_key == self.session.peer.machine_key => {
                        Ok(answer::authorized(&state, node))
                    }
                    Some(_) | None => self.begin().await,
                };
            }
            LoginWaiter::wait(&self.session, decided).await?;
        }
    }

    /// Whether this login of this node still waits for a decision.
    fn is_open(&self, state: &State, auth_id: &AuthId) -> bool {
        state.pending_login(auth_id.as_str()).is_some_and(|login| {
            login.machine_key == self.session.peer.machine_key
                && login.node_key == self.request.node_key
                && !login.rejected
                && login.approved_node.is_none()
        })
    }

    fn proof(&self, key: &SecretText) -> Option<pb::PreAuthKeyProof> {
        let state = self.session.control.cluster().state();
        let secret_hash = key.hash(state.secret_pepper()?).to_vec().into();
        Some(pb::PreAuthKeyProof {
            prefix: key.prefix().to_owned(),
            secret_hash,
        })
    }

    fn machine_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.session.peer.machine_key.as_bytes())
    }

    fn node_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.request.node_key.as_bytes())
    }

    fn capver(&self) -> u32 {
        u32::from(self.session.peer.capver)
    }

    fn requested_expiry_ms(&self) -> Option<i64> {
        let now = self.session.control.now();
        self.request
            .expiry
            .filter(|at| *at > now)
            .map(crate::types::Timestamp::unix_ms)
    }
}

/// What to answer when a proposal has no result.
fn answer_error(error: ProposeError) -> Result<RegisterResponse, Reply> {
    match error {
        ProposeError::Refused(refusal) => Ok(answer::from_refusal(&refusal)),
        ProposeError::Unavailable { .. } | ProposeError::Unknown { .. } => {
            Err(unavailable(error.to_string()))
        }
    }
}

fn unavailable(reason: impl Into<String>) -> Reply {
    let seconds = u32::try_from(RETRY_AFTER.as_secs()).unwrap_or(u32::MAX);
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason).with_retry_after(seconds)
}
