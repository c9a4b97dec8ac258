//! Keys of headscale that mean nothing here, have no effect yet, or have another name today.
//!
//! A drop-in accepts both generations of configuration files: it translates, warns and refuses
//! only what headscale of today refuses.

use super::reader::Reader;
use super::tree::Value;

/// Today's name of a key and the one of headscale 0.22.
const RENAMED: [(&str, &str); 11] = [
    (
        "node.ephemeral.inactivity_timeout",
        "ephemeral_node_inactivity_timeout",
    ),
    ("policy.path", "acl_policy_path"),
    ("dns.override_local_dns", "dns_config.override_local_dns"),
    ("dns.nameservers.global", "dns_config.nameservers"),
    ("dns.nameservers.split", "dns_config.restricted_nameservers"),
    ("dns.search_domains", "dns_config.domains"),
    ("dns.extra_records", "dns_config.extra_records"),
    ("dns.magic_dns", "dns_config.magic_dns"),
    ("dns.base_domain", "dns_config.base_domain"),
    ("node.expiry", "oidc.expiry"),
    ("log.level", "log_level"),
];

/// Keys of 0.22 without a successor, and why they are dropped.
const DROPPED: [(&str, &str); 8] = [
    ("private_key_path", "clients that old are not supported"),
    ("grpc_allow_insecure", "the gRPC port does not exist yet"),
    (
        "node_update_check_interval",
        "changes are pushed, nothing polls",
    ),
    (
        "dns_config.use_username_in_magic_dns",
        "user names are no longer part of node names",
    ),
    (
        "dns.use_username_in_magic_dns",
        "user names are no longer part of node names",
    ),
    (
        "oidc.strip_email_domain",
        "user names are no longer made from e-mail addresses",
    ),
    (
        "oidc.map_legacy_users",
        "user names are no longer made from e-mail addresses",
    ),
    (
        "randomize_client_port",
        "set randomizeClientPort in the policy file instead",
    ),
];

/// Keys without effect: a group, its members, and why.
const INERT: [(&str, &[&str], &str); 8] = [
    (
        "database",
        DATABASE_KEYS,
        "the state is kept in cluster.data_dir",
    ),
    (
        "oidc",
        OIDC_KEYS,
        "logins through an identity provider are not supported yet",
    ),
    (
        "tls_letsencrypt",
        ACME_KEYS,
        "certificates are not fetched yet; set tls_cert_path",
    ),
    (
        "derp",
        &[
            "derp.urls",
            "derp.paths",
            "derp.auto_update_enabled",
            "derp.update_frequency",
        ],
        "the DERP map holds the replicas alone yet",
    ),
    (
        "node.routes.ha",
        &[
            "node.routes.ha.probe_interval",
            "node.routes.ha.probe_timeout",
        ],
        "routers are not probed yet",
    ),
    (
        "tuning",
        TUNING_KEYS,
        "there is nothing of this kind to tune",
    ),
    (
        "grpc_listen_addr",
        &["grpc_listen_addr"],
        "the gRPC port does not exist yet",
    ),
    (
        "other",
        &["dns.extra_records_path", "preauth_keys.revoked_retention"],
        "not supported yet",
    ),
];

const DATABASE_KEYS: &[&str] = &[
    "database.type",
    "database.debug",
    "database.gorm",
    "database.sqlite",
    "database.postgres",
    "db_type",
    "db_path",
    "db_host",
    "db_port",
    "db_name",
    "db_user",
    "db_pass",
    "db_ssl",
];

const OIDC_KEYS: &[&str] = &[
    "oidc.issuer",
    "oidc.only_start_if_oidc_is_available",
    "oidc.client_id",
    "oidc.client_secret",
    "oidc.client_secret_path",
    "oidc.scope",
    "oidc.email_verified_required",
    "oidc.extra_params",
    "oidc.allowed_domains",
    "oidc.allowed_users",
    "oidc.allowed_groups",
    "oidc.use_expiry_from_token",
    "oidc.pkce",
];

const ACME_KEYS: &[&str] = &[
    "tls_letsencrypt_hostname",
    "acme_url",
    "acme_email",
    "tls_letsencrypt_cache_dir",
    "tls_letsencrypt_challenge_type",
    "tls_letsencrypt_listen",
];

const TUNING_KEYS: &[&str] = &[
    "tuning.notifier_send_timeout",
    "tuning.batch_change_delay",
    "tuning.node_mapsession_buffered_chan_size",
    "tuning.batcher_workers",
    "tuning.register_cache_max_entries",
    "tuning.node_store_batch_size",
    "tuning.node_store_batch_timeout",
];

/// Groups that are silent unless their first key is set: the rest is only its details.
const QUIET_WITHOUT_FIRST: [&str; 2] = ["oidc", "tls_letsencrypt"];

/// Lets 0.22's names count, and says so.
pub(super) fn translate(reader: &mut Reader<'_>) {
    for (newer, older) in RENAMED {
        reader.add_older_name(newer, older);
        if reader.lookup(older).is_none() {
            continue;
        }
        reader.set_legacy();
        if reader.lookup(newer).is_some() {
            reader.notice(format!(
                "{older} is the former name of {newer}: ignored, both are set"
            ));
        } else {
            reader.notice(format!(
                "{older} is the former name of {newer}: please rename it"
            ));
        }
    }
    if reader.lookup("ip_prefixes").is_some() {
        reader.set_legacy();
        reader.notice("ip_prefixes is the former name of prefixes.v4 and prefixes.v6");
    }
    for (key, why) in DROPPED {
        if reader.setting(key).is_some() {
            reader.set_legacy();
            reader.notice(format!("{key} has no effect: {why}"));
        }
    }
    // Settings of the release check, which does not exist here.
    let _ = reader.bool("disable_check_updates");
}

/// Checks keys that have no effect as far as headscale does, and says that they have none.
pub(super) fn check_inert(reader: &mut Reader<'_>) {
    check_choices(reader);
    check_oidc(reader);
    check_probes(reader);
    for (group, keys, why) in INERT {
        let mut set: Vec<&str> = keys
            .iter()
            .copied()
            .filter(|key| is_set(reader, key))
            .collect();
        let quiet = QUIET_WITHOUT_FIRST.contains(&group) && set.first() != keys.first();
        if set.is_empty() || quiet {
            continue;
        }
        set.dedup();
        reader.notice(format!("{}: no effect: {why}", set.join(", ")));
    }
}

/// Whether a key holds something; marks it as known.
fn is_set(reader: &mut Reader<'_>, key: &str) -> bool {
    reader
        .setting(key)
        .is_some_and(|setting| match &setting.value {
            Value::Null => false,
            Value::Scalar(text) => !text.trim().is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
        })
}

fn check_choices(reader: &mut Reader<'_>) {
    let choices: [(&str, &[&str]); 2] = [
        ("database.type", &["sqlite", "sqlite3", "postgres"]),
        (
            "tls_letsencrypt_challenge_type",
            &["HTTP-01", "TLS-ALPN-01"],
        ),
    ];
    for (key, allowed) in choices {
        let check = |text: &str| {
            if allowed.contains(&text) {
                Ok(())
            } else {
                Err(format!("must be one of {}", allowed.join(", ")))
            }
        };
        let _ = reader.parse(key, check);
    }
}

fn check_oidc(reader: &mut Reader<'_>) {
    let issuer = reader.parse("oidc.issuer", |text| {
        super::address::ServerUrl::parse(text).map(|_| ())
    });
    if issuer.is_none() {
        return;
    }
    if reader.string("oidc.client_id").is_none() {
        reader.fail_key("oidc.client_id", "is missing beside oidc.issuer; set it");
    }
    let secret = is_set(reader, "oidc.client_secret");
    let secret_path = is_set(reader, "oidc.client_secret_path");
    match (secret, secret_path) {
        (true, true) => reader.fail_key(
            "oidc.client_secret",
            "excludes oidc.client_secret_path; keep one of the two",
        ),
        (false, false) => reader.fail_key(
            "oidc.client_secret",
            "is missing beside oidc.issuer; set it or oidc.client_secret_path",
        ),
        (true, false) | (false, true) => {}
    }
}

fn check_probes(reader: &mut Reader<'_>) {
    use std::time::Duration;
    let interval = reader.duration("node.routes.ha.probe_interval");
    let timeout = reader.duration("node.routes.ha.probe_timeout");
    let interval = interval.unwrap_or(Duration::from_secs(10));
    let timeout = timeout.unwrap_or(Duration::from_secs(5));
    if interval.is_zero() {
        return;
    }
    if interval < Duration::from_secs(2) {
        reader.fail_key(
            "node.routes.ha.probe_interval",
            "must be 0 (off) or at least 2s",
        );
    }
    if timeout < Duration::from_secs(1) || timeout >= interval {
        let problem = "must be at least 1s and less than probe_interval";
        reader.fail_key("node.routes.ha.probe_timeout", problem);
    }
}
