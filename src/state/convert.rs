//! Between protobuf and decoded forms, for parts that commands and rows share. What comes in is
//! checked here; an error names the field and the form that it should have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::state::v1;
use ipnet::{Ipv4Net, Ipv6Net};

use super::{Endpoint, Relay, SessionNo, Settings};
use crate::types::Timestamp;

/// Endpoints that one node may report: real clients have a handful, hosts with many interfaces some
/// dozens.
pub(super) const MAX_ENDPOINTS: usize = 256;

/// A field that is not in its form, as text for the one who sent it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct FieldError(pub(super) String);

impl From<v1::SessionNo> for SessionNo {
    fn from(no: v1::SessionNo) -> Self {
        Self {
            index: no.index,
            position: no.position,
        }
    }
}

impl From<SessionNo> for v1::SessionNo {
    fn from(no: SessionNo) -> Self {
        Self {
            index: no.index,
            position: no.position,
        }
    }
}

pub(super) fn timestamp(ms: Option<i64>) -> Option<Timestamp> {
    ms.map(Timestamp::from_unix_ms)
}

pub(super) fn settings_from_proto(settings: &v1::Settings) -> Result<Settings, FieldError> {
    let ipv4_prefix = prefix::<Ipv4Net>("ipv4_prefix", &settings.ipv4_prefix)?;
    let ipv6_prefix = prefix::<Ipv6Net>("ipv6_prefix", &settings.ipv6_prefix)?;
    if ipv4_prefix.is_none() && ipv6_prefix.is_none() {
        return Err(FieldError(
            "ipv4_prefix and ipv6_prefix are empty: set at least one".into(),
        ));
    }
    Ok(Settings {
        ipv4_prefix: ipv4_prefix.map(|net| net.trunc()),
        ipv6_prefix: ipv6_prefix.map(|net| net.trunc()),
        random_allocation: settings.random_allocation,
        ephemeral_inactivity: positive(
            "ephemeral_inactivity_ms",
            settings.ephemeral_inactivity_ms,
        )?,
        node_expiry: (settings.node_expiry_ms != 0)
            .then_some(Duration::from_millis(settings.node_expiry_ms)),
        login_ttl: positive("login_ttl_ms", settings.login_ttl_ms)?,
        session_grace: Duration::from_millis(settings.session_grace_ms),
        replica_grace: Duration::from_millis(settings.replica_grace_ms),
    })
}

pub(super) fn settings_to_proto(settings: &Settings) -> v1::Settings {
    v1::Settings {
        ipv4_prefix: settings
            .ipv4_prefix
            .map(|net| net.to_string())
            .unwrap_or_default(),
        ipv6_prefix: settings
            .ipv6_prefix
            .map(|net| net.to_string())
            .unwrap_or_default(),
        random_allocation: settings.random_allocation,
        ephemeral_inactivity_ms: millis(settings.ephemeral_inactivity),
        node_expiry_ms: settings.node_expiry.map_or(0, millis),
        login_ttl_ms: millis(settings.login_ttl),
        session_grace_ms: millis(settings.session_grace),
        replica_grace_ms: millis(settings.replica_grace),
    }
}

impl From<&Settings> for v1::Settings {
    fn from(settings: &Settings) -> Self {
        settings_to_proto(settings)
    }
}

pub(super) fn relay_from_proto(relay: &v1::Relay) -> Result<Relay, FieldError> {
    let port = |port: u32| {
        u16::try_from(port).map_err(|_| FieldError(format!("derp_port {port} is above 65535")))
    };
    if relay.hostname.is_empty() {
        return Err(FieldError(
            "relay hostname is empty: set derp.public_host".into(),
        ));
    }
    if !(-1..=65535).contains(&relay.stun_port) {
        return Err(FieldError(format!(
            "stun_port {} is not -1 to 65535",
            relay.stun_port
        )));
    }
    let public_key = relay.public_key.as_ref().try_into().map_err(|_| {
        FieldError(format!(
            "relay public_key has {} bytes instead of 32",
            relay.public_key.len()
        ))
    })?;
    Ok(Relay {
        region_code: relay.region_code.clone(),
        region_name: relay.region_name.clone(),
        hostname: relay.hostname.clone(),
        ipv4: relay.ipv4.clone(),
        ipv6: relay.ipv6.clone(),
        derp_port: port(relay.derp_port)?,
        stun_port: relay.stun_port,
        cert_name: relay.cert_name.clone(),
        insecure_for_tests: relay.insecure_for_tests,
        can_port_80: relay.can_port_80,
        public_key,
    })
}

pub(super) fn relay_to_proto(relay: &Relay) -> v1::Relay {
    v1::Relay {
        wanted_region_id: 0,
        region_code: relay.region_code.clone(),
        region_name: relay.region_name.clone(),
        hostname: relay.hostname.clone(),
        ipv4: relay.ipv4.clone(),
        ipv6: relay.ipv6.clone(),
        derp_port: u32::from(relay.derp_port),
        stun_port: relay.stun_port,
        cert_name: relay.cert_name.clone(),
        insecure_for_tests: relay.insecure_for_tests,
        can_port_80: relay.can_port_80,
        public_key: relay.public_key.to_vec().into(),
    }
}

pub(super) fn endpoints_from_proto(
    endpoints: &v1::Endpoints,
) -> Result<Arc<[Endpoint]>, FieldError> {
    if endpoints.addresses.len() > MAX_ENDPOINTS {
        return Err(FieldError(format!(
            "{} endpoints are more than the {MAX_ENDPOINTS} that a node may have",
            endpoints.addresses.len()
        )));
    }
    let kinds = endpoints.types.iter().copied().chain(std::iter::repeat(0));
    let pairs = endpoints.addresses.iter().zip(kinds);
    pairs
        .map(|(address, kind)| endpoint(address, kind))
        .collect()
}

fn endpoint(address: &str, kind: u32) -> Result<Endpoint, FieldError> {
    let addr: SocketAddr = address
        .parse()
        .map_err(|_| FieldError(format!("endpoint {address:?} is not an address and a port")))?;
    let kind = u8::try_from(kind)
        .map_err(|_| FieldError(format!("endpoint type {kind} of {addr} is above 255")))?;
    Ok(Endpoint { addr, kind })
}

pub(super) fn endpoints_to_proto(endpoints: &[Endpoint]) -> v1::Endpoints {
    v1::Endpoints {
        addresses: endpoints
            .iter()
            .map(|endpoint| endpoint.addr.to_string())
            .collect(),
        types: endpoints
            .iter()
            .map(|endpoint| u32::from(endpoint.kind))
            .collect(),
    }
}

fn prefix<T: std::str::FromStr>(field: &str, text: &str) -> Result<Option<T>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map_err(|_| {
        FieldError(format!(
            "{field} {text:?} is no prefix of its family, like 100.64.0.0/10"
        ))
    })?;
    Ok(Some(parsed))
}

fn positive(field: &str, ms: u64) -> Result<Duration, FieldError> {
    if ms == 0 {
        return Err(FieldError(format!("{field} is 0: set a positive time")));
    }
    Ok(Duration::from_millis(ms))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> v1::Settings {
        v1::Settings {
            ipv4_prefix: "100.64.0.0/10".into(),
            ephemeral_inactivity_ms: 1,
            login_ttl_ms: 1,
            ..Default::default()
        }
    }

    #[test]
    fn settings_round_trip_and_lose_host_bits() {
        let wire = v1::Settings {
            ipv6_prefix: "fd7a:115c:a1e0::7/48".into(),
            ..settings()
        };
        let decoded = settings_from_proto(&wire).unwrap();
        assert_eq!(
            decoded.ipv6_prefix.unwrap().to_string(),
            "fd7a:115c:a1e0::/48"
        );
        assert_eq!(
            settings_from_proto(&settings_to_proto(&decoded)),
            Ok(decoded)
        );
    }

    #[test]
    fn bad_settings_name_the_field() {
        let cases = [
            (
                v1::Settings {
                    ipv4_prefix: String::new(),
                    ..settings()
                },
                "ipv4_prefix",
            ),
            (
                v1::Settings {
                    ipv4_prefix: "fd7a::/48".into(),
                    ..settings()
                },
                "ipv4_prefix",
            ),
            (
                v1::Settings {
                    ipv6_prefix: "nonsense".into(),
                    ..settings()
                },
                "ipv6_prefix",
            ),
            (
                v1::Settings {
                    login_ttl_ms: 0,
                    ..settings()
                },
                "login_ttl_ms",
            ),
            (
                v1::Settings {
                    ephemeral_inactivity_ms: 0,
                    ..settings()
                },
                "ephemeral_inactivity_ms",
            ),
        ];
        for (wire, field) in cases {
            let error = settings_from_proto(&wire).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn endpoints_without_types_are_of_unknown_type() {
        let wire = v1::Endpoints {
            addresses: vec!["[::1]:9".into()],
            types: vec![],
        };
        let decoded = endpoints_from_proto(&wire).unwrap();
        assert_eq!(decoded[0].kind, 0);
        assert_eq!(endpoints_to_proto(&decoded).addresses, wire.addresses);
    }

    #[test]
    fn malformed_and_too_many_endpoints_are_refused() {
        let wire = v1::Endpoints {
            addresses: vec!["192.0.2.1".into()],
            types: vec![],
        };
        assert!(
            endpoints_from_proto(&wire)
                .unwrap_err()
                .to_string()
                .contains("192.0.2.1")
        );
        let many = vec!["192.0.2.1:1".to_owned(); MAX_ENDPOINTS + 1];
        assert!(
            endpoints_from_proto(&v1::Endpoints {
                addresses: many,
                types: vec![]
            })
            .is_err()
        );
    }
}
