//! The one function that changes the state: a command in, rows to write and an outcome out.
//!
//! Deterministic: replicas apply the same commands at the same log positions and must end with the
//! same rows, so nothing here reads a clock, draws randomness, iterates a hash map, computes with
//! floats, or looks at the environment or the local configuration. What a command needs of these,
//! it carries.
//!
//! A refusal is an outcome, not an error: the command did nothing. Time passes even for a refused
//! command: what was due by its time happens first, as by a `Tick`.

mod addresses;
mod admit;
mod keys;
mod login;
mod nodes;
mod policy;
mod register;
mod replicas;
mod routes;
mod sessions;
mod settings;
mod ssh;
mod sweep;
mod txn;
mod update;
mod users;

use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{
    BatchOutcome, Command, Done, Outcome, Refusal, RefusalCode, outcome,
};
use hydrascale_raft::RowWrite;

pub use self::policy::POLICY_BYTES_MAX;
use self::txn::Txn;
use super::convert::FieldError;
use super::{Change, State};
use crate::types::Timestamp;

/// Where in the log a command stands, and the replicated time at which it takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// Log index of the command's entry.
    pub index: u64,
    /// Never goes back from one command to the next.
    pub now: Timestamp,
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The answer for the proposer.
    pub outcome: Outcome,
    /// Row changes, at most one per key.
    pub writes: Vec<RowWrite>,
    /// What differs, for readers.
    pub change: Change,
}

/// Why a command cannot be applied. The replica must stop: going on without the command would make
/// its state differ from the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A newer program proposed an operation that this one does not know.
    #[error("command at log index {index} is of a kind that this program does not know")]
    UnknownOperation {
        /// Log index of the command's entry.
        index: u64,
    },
}

impl State {
    /// Applies one command.
    ///
    /// # Errors
    /// The command is of an unknown kind; the state is unchanged, and the replica must stop.
    pub fn apply(&mut self, ctx: &ApplyContext, command: &Command) -> Result<Applied, ApplyError> {
        if !is_known(command) {
            return Err(ApplyError::UnknownOperation { index: ctx.index });
        }
        let mut txn = Txn::new(self.clone(), ctx);
        txn.sweep();
        let result = match &command.op {
            Some(Op::Batch(batch)) => outcome::Result::Batch(txn.batch(&batch.commands)),
            Some(op) => txn.run(op, 0),
            None => return Err(ApplyError::UnknownOperation { index: ctx.index }),
        };
        let (state, writes, change) = txn.finish();
        *self = state;
        Ok(Applied {
            outcome: Outcome {
                result: Some(result),
            },
            writes,
            change,
        })
    }

    /// Why the change would be refused if it were made now, for one that must not cost a log entry
    /// then. It says nothing of what others do meanwhile.
    pub fn would_refuse(&self, op: &Op, now: Timestamp) -> Option<Refusal> {
        let ctx = ApplyContext { index: 0, now };
        let mut txn = Txn::new(self.clone(), &ctx);
        txn.sweep();
        match txn.run(op, 0) {
            outcome::Result::Refusal(refusal) => Some(refusal),
            outcome::Result::Done(_) | outcome::Result::Batch(_) => None,
        }
    }
}

/// Whether this program knows the operation, and those inside it.
fn is_known(command: &Command) -> bool {
    match &command.op {
        None => false,
        Some(Op::Batch(batch)) => batch.commands.iter().all(is_known),
        Some(_) => true,
    }
}

/// The end of one operation.
type Verdict = Result<Done, Refusal>;

impl Txn<'_> {
    fn batch(&mut self, commands: &[Command]) -> BatchOutcome {
        let run = |(position, command): (u32, &Command)| Outcome {
            result: command.op.as_ref().map(|op| self.run(op, position)),
        };
        BatchOutcome {
            outcomes: (0..).zip(commands).map(run).collect(),
        }
    }

    /// Runs one operation, all of it or nothing, then what is due at once because of it.
    fn run(&mut self, op: &Op, position: u32) -> outcome::Result {
        let before = self.savepoint();
        match self.dispatch(op, position) {
            Ok(done) => {
                self.keep(before);
                self.sweep();
                outcome::Result::Done(done)
            }
            Err(refusal) => {
                self.roll_back(before);
                outcome::Result::Refusal(refusal)
            }
        }
    }

    fn dispatch(&mut self, op: &Op, position: u32) -> Verdict {
        match op {
            Op::InitTailnet(op) => self.init_tailnet(op),
            Op::Batch(_) => Err(refuse(
                RefusalCode::Invalid,
                "a batch must not hold a batch",
            )),
            Op::Tick(_) => Ok(Done::default()),
            Op::ReplicaUp(op) => self.replica_up(op),
            Op::ReplicaDown(op) => self.replica_down(op),
            Op::RemoveReplica(op) => self.remove_replica(op),
            Op::DrainReplica(op) => self.drain_replica(op),
            Op::ReplicaStopping(op) => self.replica_stopping(op),
            _ if self.state.tailnet.is_none() => Err(refuse(
                RefusalCode::Precondition,
                "the tailnet does not exist yet: run `hydrascale cluster init`",
            )),
            Op::UpdateSettings(op) => self.update_settings(op),
            Op::ResealNoiseKey(op) => self.reseal_noise_key(op),
            Op::BackfillAddresses(op) => self.backfill_addresses(op),
            Op::CreateUser(op) => self.create_user(op),
            Op::RenameUser(op) => self.rename_user(op),
            Op::DestroyUser(op) => self.destroy_user(op),
            Op::SetUserRole(op) => self.set_user_role(op),
            Op::CreatePreAuthKey(op) => self.create_pre_auth_key(op),
            Op::ExpirePreAuthKey(op) => self.expire_pre_auth_key(op),
            Op::DeletePreAuthKey(op) => self.delete_pre_auth_key(op),
            Op::CreateApiKey(op) => self.create_api_key(op),
            Op::ExpireApiKey(op) => self.expire_api_key(op),
            Op::DeleteApiKey(op) => self.delete_api_key(op),
            Op::RegisterNode(op) => self.register_node(op),
            Op::StartLogin(op) => self.start_login(op),
            Op::ApproveLogin(op) => self.approve_login(op),
            Op::RejectLogin(op) => self.reject_login(op),
            Op::LogoutNode(op) => self.logout_node(op),
            Op::StartSshCheck(op) => self.start_ssh_check(op),
            Op::DecideSshCheck(op) => self.decide_ssh_check(op),
            Op::DeleteNode(op) => self.delete_node(op),
            Op::RenameNode(op) => self.rename_node(op),
            Op::SetNodeExpiry(op) => self.set_node_expiry(op),
            Op::SetNodeTags(op) => self.set_node_tags(op),
            Op::SetApprovedRoutes(op) => self.set_approved_routes(op),
            Op::ApproveRoutes(op) => self.approve_routes(op),
            Op::UpdateNode(op) => self.update_node(op),
            Op::OpenSession(op) => self.open_session(op, position),
            Op::CloseSession(op) => self.close_session(op),
            Op::SetPolicy(op) => self.set_policy(op),
        }
    }
}

/// The answer to a command that does nothing.
fn refuse(code: RefusalCode, message: impl Into<String>) -> Refusal {
    Refusal {
        code: code.into(),
        message: message.into(),
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    refuse(RefusalCode::Invalid, message)
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        invalid(error.0)
    }
}

/// The answer to a command that did something to what has this id.
fn done(id: u64) -> Done {
    Done {
        id,
        session_no: None,
    }
}
