//! Which feature level a command needs.

use hydrascale_proto::state::v1::command::Op;

/// The feature level that the cluster must have before `op` may be proposed: in the programs of the
/// level before, it is unknown or does something else. Every command states its level here; one that
/// gains a field says the new level when the field is set.
pub fn level_of(op: &Op) -> u32 {
    match op {
        Op::Batch(batch) => {
            let inner = batch.commands.iter().filter_map(|one| one.op.as_ref());
            inner.map(level_of).max().unwrap_or(1)
        }
        Op::ResealNoiseKey(_) => 2,
        Op::InitTailnet(_)
        | Op::Tick(_)
        | Op::UpdateSettings(_)
        | Op::CreateUser(_)
        | Op::RenameUser(_)
        | Op::DestroyUser(_)
        | Op::SetUserRole(_)
        | Op::CreatePreAuthKey(_)
        | Op::ExpirePreAuthKey(_)
        | Op::DeletePreAuthKey(_)
        | Op::CreateApiKey(_)
        | Op::ExpireApiKey(_)
        | Op::DeleteApiKey(_)
        | Op::RegisterNode(_)
        | Op::StartLogin(_)
        | Op::ApproveLogin(_)
        | Op::RejectLogin(_)
        | Op::LogoutNode(_)
        | Op::StartSshCheck(_)
        | Op::DecideSshCheck(_)
        | Op::DeleteNode(_)
        | Op::RenameNode(_)
        | Op::SetNodeExpiry(_)
        | Op::SetNodeTags(_)
        | Op::SetApprovedRoutes(_)
        | Op::UpdateNode(_)
        | Op::BackfillAddresses(_)
        | Op::ApproveRoutes(_)
        | Op::OpenSession(_)
        | Op::CloseSession(_)
        | Op::ReplicaUp(_)
        | Op::ReplicaDown(_)
        | Op::RemoveReplica(_)
        | Op::DrainReplica(_)
        | Op::ReplicaStopping(_)
        | Op::SetPolicy(_) => 1,
    }
}
