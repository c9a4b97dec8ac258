//! How well this replica can serve, as clients are told.

use std::collections::BTreeMap;

use crate::cluster::ClusterStatus;
use crate::tailcfg::{DisplayMessage, MapResponse, Severity};

/// Without a leader for this long a replica says so: elections take less.
const DEGRADED_AFTER_MS: u64 = 3_000;
/// A replica that alone is cut off for this long sends its clients elsewhere.
const HAND_OFF_AFTER_MS: u64 = 30_000;
/// From this capability version on clients understand display messages (`tailcfg.DisplayMessages`).
const DISPLAY_MESSAGES_SINCE: u16 = 117;
/// Name of the warning in `tailcfg.MapResponse.DisplayMessages`.
const WARNING_ID: &str = "hydrascale-control-degraded";
const WARNING_TITLE: &str = "Control plane degraded";
const WARNING_TEXT: &str = "The control plane cannot take changes at the moment. Connections \
                            between devices go on; what administrators change shows later.";

/// How well a replica can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// All is well.
    #[default]
    Normal,
    /// There is no leader: what is shown may be old.
    Degraded,
    /// No other replica answers this one, and has not for a while: clients are better off elsewhere.
    /// When the whole cluster has lost its quorum, this is not it: clients then stay.
    CutOff,
    /// Clients shall go to other replicas, which are there.
    Drained,
}

impl Service {
    /// Judges by how the cluster looks from here; `drained` is whether clients shall go elsewhere.
    pub fn of(status: &ClusterStatus, drained: bool) -> Self {
        if status.cut_off && status.leaderless_ms >= HAND_OFF_AFTER_MS {
            Self::CutOff
        } else if status.leaderless_ms >= DEGRADED_AFTER_MS {
            // Also when drained: the others have no leader either.
            Self::Degraded
        } else if drained {
            Self::Drained
        } else {
            Self::Normal
        }
    }

    /// Whether clients are told that something is wrong.
    pub fn warns(self) -> bool {
        match self {
            Self::Degraded | Self::CutOff => true,
            Self::Normal | Self::Drained => false,
        }
    }

    /// Whether streams leave.
    pub fn sends_away(self) -> bool {
        match self {
            Self::CutOff | Self::Drained => true,
            Self::Normal | Self::Degraded => false,
        }
    }

    /// Puts the warning, or its end, into a message.
    pub fn announce(self, message: &mut MapResponse, capver: u16) {
        let warn = self.warns();
        if capver < DISPLAY_MESSAGES_SINCE {
            message.health = Some(if warn {
                vec![WARNING_TEXT.to_owned()]
            } else {
                vec![]
            });
        } else {
            let warning = warn.then(|| DisplayMessage {
                title: WARNING_TITLE.to_owned(),
                text: WARNING_TEXT.to_owned(),
                severity: Severity::Medium,
                impacts_connectivity: false,
                primary_action: None,
            });
            message.display_messages = BTreeMap::from([(WARNING_ID.to_owned(), warning)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_replica_that_alone_is_cut_off_sends_its_clients_away() {
        let alone = ClusterStatus {
            cut_off: true,
            leaderless_ms: 40_000,
            ..Default::default()
        };
        assert_eq!(Service::of(&alone, false), Service::CutOff);
        let no_quorum = ClusterStatus {
            cut_off: false,
            ..alone.clone()
        };
        assert_eq!(Service::of(&no_quorum, true), Service::Degraded);
        let election = ClusterStatus {
            leaderless_ms: 2_000,
            ..alone
        };
        assert_eq!(Service::of(&election, false), Service::Normal);
        assert_eq!(Service::of(&election, true), Service::Drained);
    }

    #[test]
    fn old_clients_get_health_and_new_ones_display_messages_never_both() {
        let mut old = MapResponse::default();
        Service::Degraded.announce(&mut old, 116);
        assert!(old.health.is_some_and(|health| health.len() == 1));
        assert!(old.display_messages.is_empty());
        let mut new = MapResponse::default();
        Service::Normal.announce(&mut new, 117);
        assert_eq!((new.health, new.display_messages.len()), (None, 1));
    }
}
