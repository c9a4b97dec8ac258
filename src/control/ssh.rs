//! `/machine/ssh/action/{src}/to/{dst}`: what becomes of an SSH login that the policy wants checked.
//!
//! The node that somebody logs in at asks. Somebody who was approved a short while ago gets in;
//! for anybody else a check begins, and the client comes back with its id and waits, at any replica,
//! until a person decides. [`step`] decides what to do, this module does it.

mod ask;
mod step;

use std::pin::pin;
use std::sync::Arc;

use axum::http::{StatusCode, Uri};
use hydrascale_proto::state::v1::{StartSshCheck, command::Op};
use tokio::time::timeout;

use self::ask::Ask;
use self::step::{Known, Step};
use super::inner::{Reply, Session};
use super::limits::BARRIER_TIMEOUT;
use super::metrics::Limit;
use super::register::LoginWaiter;
use crate::cluster::ProposeError;
use crate::policy::SSH_CHECK_URL;
use crate::state::secret::AuthId;
use crate::tailcfg::SshAction;

/// When to come back to a replica that cannot take changes: elections take a second or two.
const RETRY_AFTER_S: u32 = 2;

pub(super) async fn handle(session: &Arc<Session>, uri: &Uri) -> Reply {
    let login = match Ask::parse(uri) {
        Ok(ask) => Login { session, ask },
        Err(error) => return Reply::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match login.run().await {
        Ok(action) => Reply::json(&action),
        Err(reply) => reply,
    }
}

/// One request about one login.
struct Login<'a> {
    session: &'a Session,
    ask: Ask,
}

impl Login<'_> {
    async fn run(&self) -> Result<SshAction, Reply> {
        let control = &self.session.control;
        if let Err(wait) = self.session.check_ssh_asks() {
            control.metrics().limit_hit(Limit::SshAsks);
            return Err(too_many(wait));
        }
        self.refuse_other_machines()?;
        let auth_id = self.ask.auth_id.as_ref();
        // Without an id there is nothing to wait for yet.
        let waiter = control
            .logins()
            .subscribe(auth_id.map_or("", AuthId::as_str));
        let machine_key = self.session.peer.machine_key;
        let mut has_waited = false;
        loop {
            let mut decided = pin!(waiter.decided());
            // From here on no decision is missed.
            decided.as_mut().enable();
            let known = self.newest().await?;
            match step::decide(&known, machine_key, &self.ask, has_waited, control.now()) {
                Step::Answer(action) => return Ok(action),
                Step::Behind => return Err(unavailable("this replica does not know the node yet")),
                Step::Refuse => return Err(foreign()),
                Step::Begin => return self.begin().await,
                Step::Wait => LoginWaiter::wait(self.session, decided).await?,
            }
            has_waited = true;
        }
    }

    /// A node never moves to another machine: what is known here is enough, and costs the cluster
    /// nothing.
    fn refuse_other_machines(&self) -> Result<(), Reply> {
        let state = self.session.control.cluster().state();
        let machine_key = self.session.peer.machine_key;
        match state.node(self.ask.dst) {
            Some(node) if node.machine_key != machine_key => Err(foreign()),
            Some(_) | None => Ok(()),
        }
    }

    /// What is known here once that is all that was committed when the request came. Without a
    /// leader what is there must do: an approval holds as long as this replica serves at all.
    async fn newest(&self) -> Result<Known, Reply> {
        self.session.refuse_if_too_stale()?;
        let control = &self.session.control;
        let fresh = timeout(BARRIER_TIMEOUT, control.cluster().linearizable()).await;
        let is_fresh = matches!(fresh, Ok(Ok(_)));
        if !is_fresh {
            control.metrics().limit_hit(Limit::Barrier);
            if control.others_serve_better(BARRIER_TIMEOUT) {
                return Err(unavailable("this replica did not catch up in time"));
            }
        }
        let (index, _) = control.cluster().changed();
        let basis = control.streams().basis_at(index).await;
        let basis = basis.ok_or_else(|| unavailable("this replica is stopping"))?;
        Ok(Known { basis, is_fresh })
    }

    /// Starts a check, and sends the client to wait for it.
    async fn begin(&self) -> Result<SshAction, Reply> {
        let control = &self.session.control;
        if let Err(wait) = control.ssh_check_limiter().check() {
            control.metrics().limit_hit(Limit::SshChecks);
            return Err(too_many(wait));
        }
        let state = control.cluster().state();
        if let Some(crowd) = state.ssh_crowd(self.ask.src, self.ask.dst) {
            control.metrics().limit_hit(Limit::PendingSshChecks);
            return Ok(step::rejection(&crowd.to_string()));
        }
        let auth_id = AuthId::from_random(rand::random());
        let op = Op::StartSshCheck(StartSshCheck {
            auth_id: auth_id.to_string(),
            src_node_id: self.ask.src.0,
            dst_node_id: self.ask.dst.0,
            local_user: self.ask.local_user.clone(),
        });
        match control.cluster().propose(op).await {
            Ok(_) => {
                tracing::info!(
                    src = self.ask.src.0,
                    dst = self.ask.dst.0,
                    "ssh check began"
                );
                Ok(hold(&control.options().server_url, &auth_id))
            }
            // It stays refused however often the client asks.
            Err(ProposeError::Refused(refusal)) => Ok(step::rejection(&refusal.message)),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }
}

/// Tells the user where to go, and the client where to wait. The words before the link are those by
/// which editors that log in for somebody find it.
fn hold(server_url: &str, auth_id: &AuthId) -> SshAction {
    SshAction {
        message: format!(
            "# This login needs a check.\n# To authenticate, visit: {server_url}/auth/{auth_id}\n"
        ),
        hold_and_delegate: format!("{SSH_CHECK_URL}&auth_id={auth_id}"),
        ..SshAction::default()
    }
}

/// Of a node that is another machine's, and of one that is not there.
fn foreign() -> Reply {
    let reason = "only the destination node asks about its logins";
    Reply::text(StatusCode::UNAUTHORIZED, reason)
}

fn too_many(wait: u32) -> Reply {
    let reply = Reply::text(StatusCode::TOO_MANY_REQUESTS, "too many SSH logins at once");
    reply.with_retry_after(wait)
}

fn unavailable(reason: impl Into<String>) -> Reply {
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason).with_retry_after(RETRY_AFTER_S)
}
