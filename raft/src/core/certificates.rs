//! A replica's own certificate, and the authorities that it trusts: kept as the cluster's records say.
//!
//! Every replica holds the authority's key, so each signs for itself: before its certificate ends, when
//! it is asked to, and when the authority is replaced. What it then has goes to its folder first and
//! serves for new connections after; those that are open go on.

use std::sync::Arc;

use hydrascale_proto::raft::v1::{self as pb, Admin, ClusterRow, admin};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::clock::CLOCK_WRONG_MS;
use super::{AuthorityError, Core};
use crate::blocking;
use crate::identity::Folder;
use crate::records::{ClusterRecords, is_replaced};
use crate::timing::now;
use crate::tls::{
    Authority, Credentials, PeerName, RENEW_BEFORE, ReplicaKey, Tls, TlsError, expires_ms,
    is_valid, sha256, validity_ms,
};
use crate::{AdminError, AuthorityStatus, ReplicaId};

/// What a replica proves itself with and whom it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateState {
    /// When its certificate ends, milliseconds since the Unix epoch.
    pub expires_ms: i64,
    /// SHA-256 of the authority's certificate that signed it.
    pub issuer_sha256: Vec<u8>,
    /// SHA-256 of the certificates of all authorities that it trusts.
    pub trusted_sha256: Vec<Vec<u8>>,
    /// Log index of the newest request for a new certificate that it answers.
    pub renewed_at: u64,
}

/// Keeps this replica's credentials as they should be, and as leader takes the steps of a replacement
/// of the authority, until the replica stops.
pub(crate) async fn certify(core: Arc<Core>) {
    let mut ticks = interval(core.timing.reconcile());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        core.end_without_key().await;
        match core.keep_credentials().await {
            Ok(()) => told.clear(),
            Err(error) => {
                let error = crate::fatal::chain(&error);
                // Once, not at every tick.
                if error != told {
                    tracing::error!(
                        error,
                        "certificate cannot be renewed, the old one serves on"
                    );
                    told = error;
                }
            }
        }
        if core.leader() == Some(core.id()) {
            core.advance_authority().await;
        }
    }
}

impl Core {
    /// The certificate in use, as others are told.
    pub(crate) fn certificate_state(&self) -> CertificateState {
        let held = self.credentials.load();
        CertificateState {
            expires_ms: expires_ms(&held.certificate),
            issuer_sha256: sha256(&held.authority).to_vec(),
            trusted_sha256: held.trusted().map(|one| sha256(one).to_vec()).collect(),
            renewed_at: held.renewed_at,
        }
    }

    async fn keep_credentials(&self) -> Result<(), RenewError> {
        // Read before the records, which are never older.
        let applied = *self.applied.borrow();
        let records = self.records.load_full();
        let held = self.credentials.load_full();
        let Some(cluster) = records.cluster() else {
            return Ok(());
        };
        // A restart may show records of before for a moment.
        if applied < held.as_of {
            return Ok(());
        }
        let now = OffsetDateTime::now_utc();
        if !is_due(&held, cluster, records.renewal_of(self.id()), now) {
            return match others_than(&held.authority, cluster) == held.also_trusted {
                true => Ok(()),
                false => self.trust(&held, cluster, applied).await,
            };
        }
        if self.is_clock_off() {
            return Err(RenewError::Clock);
        }
        let authority = self.authority(cluster)?;
        let as_of = applied.max(records.renewal_of(self.id()));
        let name = PeerName::new(self.identity.cluster_id.clone(), self.id());
        let renewed = renewed(&authority, cluster, &name, as_of, now)?;
        self.take(renewed).await?;
        tracing::info!("certificate renewed");
        Ok(())
    }

    /// Whether this replica's clock is known to be far from the cluster's: a certificate made by it
    /// would be over, or not begun, for the others.
    fn is_clock_off(&self) -> bool {
        match self.leader() {
            Some(leader) if leader == self.id() => !self.better_clocks(CLOCK_WRONG_MS).is_empty(),
            Some(leader) => {
                let within = self.timing.reachable_within();
                let ahead_ms = self.probes.clock_ahead_ms(leader, within);
                ahead_ms.is_some_and(|ahead_ms| ahead_ms.saturating_abs() > CLOCK_WRONG_MS)
            }
            None => false,
        }
    }

    /// The same certificate, with other authorities beside its own.
    async fn trust(
        &self,
        held: &Credentials,
        cluster: &ClusterRow,
        as_of: u64,
    ) -> Result<(), RenewError> {
        let key = Zeroizing::new(held.key.to_pem());
        let trusting = Credentials {
            authority: held.authority.clone(),
            also_trusted: others_than(&held.authority, cluster),
            certificate: held.certificate.clone(),
            key: ReplicaKey::from_pem(&key).map_err(AuthorityError::from)?,
            renewed_at: held.renewed_at,
            as_of,
        };
        self.take(trusting).await?;
        tracing::info!("trusted certificate authorities changed");
        Ok(())
    }

    async fn take(&self, credentials: Credentials) -> Result<(), RenewError> {
        let tls = Tls::new(&credentials)?;
        let credentials = Arc::new(credentials);
        store(self.folder.clone(), Arc::clone(&credentials)).await?;
        self.tls.replace(&tls);
        self.credentials.store(credentials);
        self.lanes.redial(self.timing.connect()).await;
        Ok(())
    }

    /// Takes the next step of a replacement once every member has done what the last one asks for.
    async fn advance_authority(&self) {
        let records = self.records.load_full();
        let Some(cluster) = records.cluster().filter(|cluster| is_replaced(cluster)) else {
            return;
        };
        if !self.not_yet(cluster).is_empty() {
            return;
        }
        let op = admin::Op::AdvanceAuthority(pb::AdvanceAuthority {
            current_sha256: digest(&cluster.ca_certificate),
        });
        match self.propose_admin(Admin { op: Some(op) }).await {
            Ok(_) => tracing::info!("replacement of the certificate authority goes on"),
            Err(denied) => tracing::warn!(?denied, "replacement of the authority must wait"),
        }
    }

    /// The members that have not done yet what the present step of a replacement asks for.
    fn not_yet(&self, cluster: &ClusterRow) -> Vec<ReplicaId> {
        let stored = self.effective_membership();
        let members = stored.membership().nodes().map(|(id, _)| *id);
        let now_ms = unix_ms(OffsetDateTime::now_utc());
        let not_yet = members.filter(|id| match self.known_certificate(*id) {
            None => true,
            // The others will not have it.
            Some(state) if !is_valid(state.expires_ms, now_ms) => true,
            Some(state) if cluster.next_ca_certificate.is_empty() => {
                state.issuer_sha256 != digest(&cluster.ca_certificate)
            }
            Some(state) => {
                let next = digest(&cluster.next_ca_certificate).to_vec();
                !state.trusted_sha256.contains(&next)
            }
        });
        not_yet.map(ReplicaId).collect()
    }

    /// A member's certificate, if it has answered lately.
    fn known_certificate(&self, id: u64) -> Option<Arc<CertificateState>> {
        if id == self.id() {
            return Some(Arc::new(self.certificate_state()));
        }
        let answer = self.probes.last(id)?;
        let silent = now().saturating_duration_since(answer.at);
        (silent <= self.timing.reachable_within()).then_some(answer.certificate)
    }

    /// The authority and how far its replacement is.
    pub(super) fn authority_status(&self) -> Option<AuthorityStatus> {
        let records = self.records.load();
        let cluster = records.cluster()?;
        let replaced = is_replaced(cluster);
        Some(AuthorityStatus {
            sha256: digest(&cluster.ca_certificate).to_vec(),
            next_is_trusted: !cluster.next_ca_certificate.is_empty(),
            old_is_trusted: !cluster.retired_ca_certificate.is_empty(),
            waits_for: if replaced {
                self.not_yet(cluster)
            } else {
                Vec::new()
            },
        })
    }

    /// Asks replicas for new certificates.
    pub(crate) async fn renew_certificates(&self, of: &[ReplicaId]) -> Result<(), AdminError> {
        for id in of {
            if self.member(id.0).is_none() {
                return Err(AdminError::Refused {
                    reason: format!(
                        "replica {id} is no member of the cluster; `cluster status` lists them"
                    ),
                });
            }
        }
        let replica_ids = match of {
            [] => {
                let stored = self.effective_membership();
                stored.membership().nodes().map(|(id, _)| *id).collect()
            }
            some => some.iter().map(|id| id.0).collect(),
        };
        let op = admin::Op::RenewCertificates(pb::RenewCertificates { replica_ids });
        let proposed = self.propose_admin(Admin { op: Some(op) }).await;
        proposed.map(drop).map_err(AdminError::from)
    }

    /// Begins to replace the authority with this SHA-256; whoever leads sees to the rest.
    pub(crate) async fn rotate_authority(&self, replaces: &[u8]) -> Result<(), AdminError> {
        let read = self.read_index().await;
        read.map_err(|error| AdminError::Unavailable {
            reason: error.to_string(),
        })?;
        let records = self.records.load_full();
        if let Some(joiner) = self.joiner_under_way(&records) {
            return Err(AdminError::Refused {
                reason: format!(
                    "replica {joiner} has used its join token and is no member yet: start it, or \
                     give it up with `cluster remove {joiner}`"
                ),
            });
        }
        let now = OffsetDateTime::now_utc();
        let failed = |reason: String| AdminError::Refused { reason };
        let next = Authority::create(&self.identity.cluster_id, now)
            .map_err(|error| failed(error.to_string()))?;
        let key = self.seal_next_authority(next.key_pkcs8());
        let op = admin::Op::RotateAuthority(pb::RotateAuthority {
            next_ca_certificate: next.certificate().to_vec().into(),
            next_ca_private_key: key.map_err(|error| failed(error.to_string()))?.into(),
            replaces_sha256: replaces.to_vec().into(),
            newest_join: records.newest_join(),
        });
        let proposed = self.propose_admin(Admin { op: Some(op) }).await;
        proposed.map(drop).map_err(AdminError::from)
    }

    /// A joiner has a certificate and trusts its authority alone until it has the cluster's records.
    fn joiner_under_way(&self, records: &ClusterRecords) -> Option<ReplicaId> {
        let joined = records.tokens().filter_map(|token| token.r#use.as_ref());
        let mut joined = joined.map(|used| used.replica_id);
        let id = joined.find(|id| self.member(*id).is_none() && !records.is_removed(*id))?;
        Some(ReplicaId(id))
    }
}

/// Whether a new certificate is needed.
fn is_due(held: &Credentials, cluster: &ClusterRow, asked_at: u64, now: OffsetDateTime) -> bool {
    let issuer: &[u8] = &held.authority;
    // The next authority may have signed already, as records say that are about to be applied again.
    let fits = issuer == cluster.ca_certificate || issuer == cluster.next_ca_certificate;
    let (begins_ms, ends_ms) = validity_ms(&held.certificate);
    let left_ms = ends_ms.saturating_sub(unix_ms(now));
    let ending = i128::from(left_ms) < RENEW_BEFORE.whole_milliseconds();
    // Made while the clock was far ahead.
    let not_begun = begins_ms > unix_ms(now);
    !fits || asked_at > held.renewed_at || ending || not_begun
}

fn renewed(
    authority: &Authority,
    cluster: &ClusterRow,
    name: &PeerName,
    as_of: u64,
    now: OffsetDateTime,
) -> Result<Credentials, RenewError> {
    let key = ReplicaKey::create().map_err(AuthorityError::from)?;
    let certificate = authority.sign(name, &key.public_key(), now);
    Ok(Credentials {
        authority: authority.certificate().clone(),
        also_trusted: others_than(authority.certificate(), cluster),
        certificate: certificate.map_err(AuthorityError::from)?,
        key,
        renewed_at: as_of,
        as_of,
    })
}

/// The authorities that count besides `own`.
fn others_than(own: &CertificateDer<'_>, cluster: &ClusterRow) -> Vec<CertificateDer<'static>> {
    let all = [
        &cluster.ca_certificate,
        &cluster.next_ca_certificate,
        &cluster.retired_ca_certificate,
    ];
    all.into_iter()
        .filter(|one| !one.is_empty() && one.as_ref() != own.as_ref())
        .map(|one| CertificateDer::from(one.to_vec()))
        .collect()
}

async fn store(folder: Folder, credentials: Arc<Credentials>) -> Result<(), RenewError> {
    let stored = blocking::run(move || folder.renew(&credentials)).await;
    stored
        .map_err(std::io::Error::other)
        .and_then(|stored| stored)
        .map_err(RenewError::Folder)
}

fn digest(certificate: &[u8]) -> bytes::Bytes {
    sha256(&CertificateDer::from(certificate)).to_vec().into()
}

fn unix_ms(now: OffsetDateTime) -> i64 {
    now.unix_timestamp().saturating_mul(1000)
}

/// Why the credentials stay as they were.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    /// The others would not have it.
    #[error(
        "this replica's clock is more than a minute from the cluster's: set it (is a time service \
         running?)"
    )]
    Clock,
    /// The authority cannot sign here.
    #[error("the certificate authority cannot sign")]
    Authority(#[from] AuthorityError),
    /// What was made does not fit together.
    #[error("the new certificate is refused")]
    Tls(#[from] TlsError),
    /// The data folder cannot be written.
    #[error("the new certificate cannot be stored")]
    Folder(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    fn signed(now: OffsetDateTime) -> (Credentials, ClusterRow) {
        let authority = Authority::create("c", now - Duration::days(1000)).unwrap();
        let cluster = ClusterRow {
            ca_certificate: authority.certificate().to_vec().into(),
            ..ClusterRow::default()
        };
        let held = renewed(&authority, &cluster, &PeerName::new("c", 1), 5, now).unwrap();
        (held, cluster)
    }

    #[test]
    fn a_certificate_made_while_the_clock_was_ahead_is_renewed_once_it_is_right() {
        let made = OffsetDateTime::now_utc();
        let (held, cluster) = signed(made);
        let due = |later: Duration| is_due(&held, &cluster, 5, made + later);
        assert!(!due(Duration::ZERO) && !due(Duration::days(200)));
        // Within the day of grace others take it.
        assert!(!due(Duration::hours(-23)));
        assert!(due(Duration::hours(-25)) && due(Duration::days(-300)));
        assert!(due(Duration::days(250)) && due(Duration::days(400)));
        assert!(is_due(&held, &cluster, 6, made), "asked for");
    }

    #[test]
    fn a_member_whose_certificate_nobody_accepts_holds_up_the_next_step() {
        let made = OffsetDateTime::now_utc();
        let (held, _) = signed(made);
        let expires_ms = expires_ms(&held.certificate);
        let valid = |later: Duration| is_valid(expires_ms, unix_ms(made + later));
        assert!(valid(Duration::ZERO) && valid(Duration::days(364)) && valid(Duration::hours(-23)));
        assert!(!valid(Duration::days(366)) && !valid(Duration::hours(-25)));
        assert!(!is_valid(0, unix_ms(made)), "not told");
    }
}
