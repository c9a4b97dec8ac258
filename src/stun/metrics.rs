//! What the STUN server counts.

use crate::derp::{Counter, Sample};

/// Counters of one STUN server, over all of its sockets.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is described where `samples` names it")]
pub struct StunMetrics {
    pub success: Counter,
    pub not_stun: Counter,
    pub quiet: Counter,
    pub read_error: Counter,
    pub write_error: Counter,
    pub ipv4: Counter,
    pub ipv6: Counter,
}

impl StunMetrics {
    /// All values, in a fixed order: samples of one name are neighbours.
    pub fn samples(&self) -> Vec<Sample> {
        const REQUESTS: &str = "stun_requests";
        const REQUESTS_HELP: &str = "Datagrams by what became of them; quiet = relay not healthy";
        const FAMILY: &str = "stun_addrfamily";
        const FAMILY_HELP: &str = "Answered requests by address family";
        let table: [(_, _, &'static [(&'static str, &'static str)], _); 7] = [
            (
                REQUESTS,
                REQUESTS_HELP,
                &[("disposition", "success")],
                &self.success,
            ),
            (
                REQUESTS,
                REQUESTS_HELP,
                &[("disposition", "not_stun")],
                &self.not_stun,
            ),
            (
                REQUESTS,
                REQUESTS_HELP,
                &[("disposition", "quiet")],
                &self.quiet,
            ),
            (
                REQUESTS,
                REQUESTS_HELP,
                &[("disposition", "read_error")],
                &self.read_error,
            ),
            (
                REQUESTS,
                REQUESTS_HELP,
                &[("disposition", "write_error")],
                &self.write_error,
            ),
            (FAMILY, FAMILY_HELP, &[("family", "ipv4")], &self.ipv4),
            (FAMILY, FAMILY_HELP, &[("family", "ipv6")], &self.ipv6),
        ];
        let sample = |(name, help, labels, counter): (_, _, _, &Counter)| Sample {
            name,
            help,
            labels,
            is_gauge: false,
            value: counter.value(),
        };
        table.into_iter().map(sample).collect()
    }
}
