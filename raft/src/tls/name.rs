//! The name in a replica's certificate.

use std::fmt;

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Which replica of which cluster a certificate speaks for: DNS name `replica-{id}.{cluster id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerName {
    /// UUID of the cluster.
    pub(crate) cluster_id: String,
    /// Id of the replica.
    pub(crate) replica_id: u64,
}

impl PeerName {
    /// The name of a replica.
    pub(crate) fn new(cluster_id: impl Into<String>, replica_id: u64) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            replica_id,
        }
    }

    /// Reads the name of a certificate, whose chain is checked elsewhere.
    ///
    /// # Errors
    /// It is no certificate, or not a replica's.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, NameError> {
        let parsed = EndEntityCert::try_from(certificate).map_err(|_| NameError::Malformed)?;
        let mut names = parsed.valid_dns_names();
        names.find_map(Self::parse).ok_or(NameError::NotAReplica)
    }

    fn parse(dns: &str) -> Option<Self> {
        let (replica, cluster_id) = dns.strip_prefix("replica-")?.split_once('.')?;
        // One spelling per id: "+7" and "007" parse as numbers too.
        let replica_id = replica
            .parse()
            .ok()
            .filter(|id: &u64| id.to_string() == replica)?;
        Some(Self::new(cluster_id, replica_id))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica-{}.{}", self.replica_id, self.cluster_id)
    }
}

/// Why a certificate names no replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Not an X.509 certificate.
    #[error("the certificate cannot be read")]
    Malformed,
    /// A certificate for something else.
    #[error("the certificate is not a replica's")]
    NotAReplica,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let name = PeerName::new("c", 7);
        assert_eq!(PeerName::parse(&name.to_string()), Some(name));
        for other in [
            "replica-07.c",
            "replica-+7.c",
            "replica-7",
            "node-7.c",
            "replica-.c",
        ] {
            assert_eq!(PeerName::parse(other), None, "{other}");
        }
    }
}
