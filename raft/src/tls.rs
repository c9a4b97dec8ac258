//! Who may talk to whom: the cluster's certificate authority, the names in certificates, and the
//! rustls configurations made of them.
//!
//! Every connection between replicas is mutually authenticated TLS 1.3. A certificate names one
//! replica of one cluster (`replica-{id}.{cluster id}`), so that neither a wrong address nor a
//! copied configuration can make two replicas mistake each other. Only a joiner connects without
//! one; it recognises the cluster by the hash of its authority in the join token.

mod authority;
mod name;
mod settings;
mod verify;

pub(crate) use self::authority::{
    Authority, RENEW_BEFORE, ReplicaKey, SignError, expires_ms, is_valid, sha256, validity_ms,
};
pub(crate) use self::name::PeerName;
#[cfg(test)]
pub(crate) use self::settings::client_settings;
pub(crate) use self::settings::{
    Credentials, Tls, TlsError, join_settings, uncertified_client, uncertified_server,
};
