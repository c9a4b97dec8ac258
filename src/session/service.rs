//! How well this replica can serve, as clients are told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::ClusterStatus;
use crate::tailcfg::{DisplayMessage, MapResponse, Severity};

/// A replica that alone is cut off for this long sends its clients elsewhere.
const HAND_OFF_AFTER: Duration = Duration::from_secs(30);
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
    /// Without a quorum, but with another replica that answers, this is not it: clients then stay.
    CutOff,
    /// Clients shall go to other replicas, which are there.
    Drained,
}

impl Service {
    /// Judges by how the cluster looks from here; `lacks_leader` is for how long, once that is longer
    /// than an election takes, `drained` whether clients shall go elsewhere.
    pub fn of(status: &ClusterStatus, lacks_leader: Option<Duration>, drained: bool) -> Self {
        match lacks_leader {
            Some(without) if status.cut_off && without >= HAND_OFF_AFTER => Self::CutOff,
            // Also when drained: the others have no leader either.
            Some(_) => Self::Degraded,
            None if drained => Self::Drained,
            None => Self::Normal,
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
        let long = Some(Duration::from_secs(40));
        let alone = ClusterStatus {
            cut_off: true,
            ..Default::default()
        };
        assert_eq!(Service::of(&alone, long, false), Service::CutOff);
        let soon = Some(Duration::from_secs(4));
        assert_eq!(Service::of(&alone, soon, false), Service::Degraded);
        let no_quorum = ClusterStatus::default();
        assert_eq!(Service::of(&no_quorum, long, true), Service::Degraded);
        assert_eq!(Service::of(&alone, None, false), Service::Normal);
        assert_eq!(Service::of(&alone, None, true), Service::Drained);
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
