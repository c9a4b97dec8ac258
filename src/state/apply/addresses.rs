//! The tailnet addresses of new nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hydrascale_proto::state::v1::{Refusal, RefusalCode};
use hydrascale_raft::{Bug, is_planted};

use super::super::allocate::Pool;
use super::{Txn, refuse};

impl Txn<'_> {
    /// The next free IPv4 address; none when the tailnet has no IPv4 prefix.
    pub(super) fn next_ipv4(&mut self, entropy: u64) -> Result<Option<Ipv4Addr>, Refusal> {
        let Some(prefix) = self.settings()?.ipv4_prefix else {
            return Ok(None);
        };
        let cursor = self.state.tailnet().and_then(|tailnet| tailnet.last_ipv4);
        let found = self.next_address(Pool::v4(prefix), cursor.map(IpAddr::V4), entropy)?;
        let Some(IpAddr::V4(ip)) = found else {
            return Err(exhausted(&prefix.to_string()));
        };
        self.with_tailnet(|tailnet| tailnet.last_ipv4 = Some(ip))?;
        Ok(Some(ip))
    }

    /// The next free IPv6 address; none when the tailnet has no IPv6 prefix.
    pub(super) fn next_ipv6(&mut self, entropy: u64) -> Result<Option<Ipv6Addr>, Refusal> {
        let Some(prefix) = self.settings()?.ipv6_prefix else {
            return Ok(None);
        };
        let cursor = self.state.tailnet().and_then(|tailnet| tailnet.last_ipv6);
        let found = self.next_address(Pool::v6(prefix), cursor.map(IpAddr::V6), entropy)?;
        let Some(IpAddr::V6(ip)) = found else {
            return Err(exhausted(&prefix.to_string()));
        };
        self.with_tailnet(|tailnet| tailnet.last_ipv6 = Some(ip))?;
        Ok(Some(ip))
    }

    fn next_address(
        &self,
        pool: Pool,
        cursor: Option<IpAddr>,
        entropy: u64,
    ) -> Result<Option<IpAddr>, Refusal> {
        if is_planted(Bug::AddressByProposer) {
            return Ok(pool.at(entropy));
        }
        let used = &self.state.index.node_by_ip;
        Ok(if self.settings()?.random_allocation {
            pool.random(entropy, used)
        } else {
            pool.after(cursor, used)
        })
    }
}

fn exhausted(prefix: &str) -> Refusal {
    refuse(
        RefusalCode::AddressesExhausted,
        format!(
            "failed to allocate IP: {prefix} is full; delete nodes or configure a wider prefix"
        ),
    )
}
