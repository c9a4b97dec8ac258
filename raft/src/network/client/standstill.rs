//! Append streams that go on without carrying anything.

use openraft::raft::AppendEntriesRequest;

use crate::codec::LogId;
use crate::type_config::TypeConfig;

/// Requests without entries in a row: openraft makes them at most every 10 ms, and one or two are usual
/// when entries and the news that they are committed overtake each other.
const EMPTY_MAX: u32 = 5;

/// Tells when a stream goes on without carrying anything: openraft asks for entries that were purged
/// meanwhile, and would do so until the stream fails. It then begins again where the follower is.
#[derive(Default)]
pub(super) struct Standstill {
    behind: Option<LogId>,
    /// Requests in a row that had nothing behind that entry.
    empty: u32,
}

impl Standstill {
    /// Whether this is one request too many that has nothing behind an entry though there is more.
    pub(super) fn is_reached(&mut self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let lacks = request.entries.is_empty() && request.leader_commit > request.prev_log_id;
        if !lacks || request.prev_log_id != self.behind {
            self.empty = 0;
        }
        self.behind = request.prev_log_id;
        self.empty += u32::from(lacks);
        self.empty > EMPTY_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::append_request as request;

    #[test]
    fn a_stream_whose_entries_were_purged_is_found() {
        let mut standstill = Standstill::default();
        assert!(!standstill.is_reached(&request(5, 9, 2)));
        for _ in 0..2 * EMPTY_MAX {
            // The news of what is committed.
            assert!(!standstill.is_reached(&request(7, 7, 0)));
        }
        for _ in 0..EMPTY_MAX {
            assert!(!standstill.is_reached(&request(7, 9, 0)));
        }
        assert!(!standstill.is_reached(&request(7, 9, 2)));
        for _ in 0..EMPTY_MAX {
            assert!(!standstill.is_reached(&request(9, 12, 0)));
        }
        assert!(standstill.is_reached(&request(9, 12, 0)));
    }
}
