//! A bug to be planted on purpose (`hydrascale_raft::Bug::AddressByProposer`): the proposer chooses a
//! node's address by what it knows, and apply takes that as it is.

use std::net::IpAddr;

use hydrascale_proto::state::v1::command::Op;

use super::State;
use super::allocate::Pool;

impl State {
    /// The operation as a proposer with the bug sends it: instead of entropy, the place in the prefix
    /// of the next free address as far as this replica knows.
    pub(crate) fn with_chosen_address(&self, mut op: Op) -> Op {
        let place = self.next_place();
        if let (Op::RegisterNode(op), Some(place)) = (&mut op, place) {
            op.entropy = place;
        } else if let (Op::ApproveLogin(op), Some(place)) = (&mut op, place) {
            op.entropy = place;
        }
        op
    }

    fn next_place(&self) -> Option<u64> {
        let pool = Pool::v4(self.settings()?.ipv4_prefix?);
        let cursor = self.tailnet()?.last_ipv4.map(IpAddr::V4);
        pool.place_of(pool.after(cursor, &self.index.node_by_ip)?)
    }
}
