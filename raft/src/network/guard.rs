//! Who may ask this replica for anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic::{Request, Status};

use super::{AddressBook, Envelope, Incarnations, PeerInfo, Refusal};
use crate::Levels;
use crate::counters::Counters;
use crate::tls::PeerName;

/// Replicas removed by the cluster and out of its membership, as known here.
pub(crate) type Barred = Arc<ArcSwap<BTreeSet<u64>>>;

/// Checks certificate and envelope of every request before consensus hears of it.
pub(crate) struct Guard {
    own: PeerName,
    barred: Barred,
    addresses: AddressBook,
    incarnations: Incarnations,
    counters: Arc<Counters>,
    levels: Levels,
}

/// An authenticated replica of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Its id.
    pub(crate) replica_id: u64,
}

impl Guard {
    /// A guard for the replica `own`.
    pub(crate) fn new(
        own: PeerName,
        barred: Barred,
        addresses: AddressBook,
        incarnations: Incarnations,
        counters: Arc<Counters>,
        levels: Levels,
    ) -> Self {
        Self {
            own,
            barred,
            addresses,
            incarnations,
            counters,
            levels,
        }
    }

    /// Lets a request in, or answers it.
    ///
    /// # Errors
    /// FAILED_PRECONDITION with the reason.
    pub(crate) fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let certified = request
            .extensions()
            .get::<PeerInfo>()
            .and_then(PeerInfo::name);
        let checked = Envelope::read(request.metadata()).and_then(|envelope| {
            self.check(certified, &envelope)
                .map(|caller| (caller, envelope))
        });
        match checked {
            Ok((caller, envelope)) => {
                self.addresses.tell(caller.replica_id, &envelope.from_addr);
                Ok(caller)
            }
            Err(refusal) => {
                self.counters.requests_refused.add_one();
                tracing::warn!(reason = %refusal, "replica request refused");
                Err(refusal.into_status())
            }
        }
    }

    fn check(&self, certified: Option<&PeerName>, envelope: &Envelope) -> Result<Caller, Refusal> {
        let certified = certified.ok_or(Refusal::NoCertificate)?;
        for theirs in [&certified.cluster_id, &envelope.cluster_id] {
            if *theirs != self.own.cluster_id {
                let ours = self.own.cluster_id.clone();
                return Err(Refusal::WrongCluster {
                    ours,
                    theirs: theirs.clone(),
                });
            }
        }
        let replica_id = certified.replica_id;
        if replica_id != envelope.from {
            return Err(Refusal::WrongSender {
                certified: replica_id,
                claimed: envelope.from,
            });
        }
        if envelope.to != self.own.replica_id {
            let ours = self.own.replica_id;
            return Err(Refusal::WrongAddressee {
                ours,
                meant: envelope.to,
            });
        }
        if replica_id == self.own.replica_id {
            return Err(Refusal::OwnCall);
        }
        if !self.levels.includes(envelope.level) {
            return Err(Refusal::Level {
                level: envelope.level,
                supported: self.levels,
            });
        }
        if self.barred.load().contains(&replica_id) {
            return Err(Refusal::Removed {
                replica: replica_id,
            });
        }
        let incarnation = envelope.incarnation;
        self.incarnations
            .hear(replica_id, incarnation)
            .map_err(|latest| Refusal::Replaced {
                incarnation,
                latest,
            })?;
        Ok(Caller { replica_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: Levels = Levels { min: 1, max: 2 };

    #[test]
    fn only_a_replica_that_is_who_it_says_and_means_us_is_let_in() {
        let guard = guard(&[]);
        let name = PeerName::new("c", 2);
        assert_eq!(
            guard.check(Some(&name), &envelope()),
            Ok(Caller { replica_id: 2 })
        );
        let refused =
            |name: Option<&PeerName>, envelope: &Envelope| guard.check(name, envelope).unwrap_err();
        assert_eq!(refused(None, &envelope()), Refusal::NoCertificate);
        let foreign = PeerName::new("d", 2);
        assert!(matches!(
            refused(Some(&foreign), &envelope()),
            Refusal::WrongCluster { .. }
        ));
        let other_cluster = Envelope {
            cluster_id: "d".to_owned(),
            ..envelope()
        };
        assert!(matches!(
            refused(Some(&name), &other_cluster),
            Refusal::WrongCluster { .. }
        ));
        let pretender = Envelope {
            from: 3,
            ..envelope()
        };
        let wrong_sender = Refusal::WrongSender {
            certified: 2,
            claimed: 3,
        };
        assert_eq!(refused(Some(&name), &pretender), wrong_sender);
        let misdirected = Envelope {
            to: 3,
            ..envelope()
        };
        let wrong_addressee = Refusal::WrongAddressee { ours: 1, meant: 3 };
        assert_eq!(refused(Some(&name), &misdirected), wrong_addressee);
        let newer = Envelope {
            level: 3,
            ..envelope()
        };
        assert_eq!(
            refused(Some(&name), &newer),
            Refusal::Level {
                level: 3,
                supported: LEVELS,
            }
        );
        let own = Envelope {
            from: 1,
            ..envelope()
        };
        assert_eq!(
            refused(Some(&PeerName::new("c", 1)), &own),
            Refusal::OwnCall
        );
    }

    #[test]
    fn an_older_start_of_a_replica_is_refused_once_a_newer_one_was_heard() {
        let guard = guard(&[]);
        let name = PeerName::new("c", 2);
        let start = |incarnation| Envelope {
            incarnation,
            ..envelope()
        };
        assert!(guard.check(Some(&name), &start(5)).is_ok());
        assert!(guard.check(Some(&name), &start(6)).is_ok());
        let replaced = Refusal::Replaced {
            incarnation: 5,
            latest: 6,
        };
        assert_eq!(guard.check(Some(&name), &start(5)), Err(replaced));
    }

    #[test]
    fn a_removed_replica_is_told_so() {
        let guard = guard(&[2]);
        let name = PeerName::new("c", 2);
        let removed = Refusal::Removed { replica: 2 };
        assert_eq!(guard.check(Some(&name), &envelope()), Err(removed));
    }

    fn guard(barred: &[u64]) -> Guard {
        let barred = Arc::new(ArcSwap::from_pointee(barred.iter().copied().collect()));
        Guard::new(
            PeerName::new("c", 1),
            barred,
            AddressBook::default(),
            Incarnations::default(),
            Arc::default(),
            LEVELS,
        )
    }

    fn envelope() -> Envelope {
        Envelope {
            cluster_id: "c".to_owned(),
            from: 2,
            to: 1,
            incarnation: 1,
            level: 1,
            from_addr: "b:1".to_owned(),
        }
    }
}
