//! What whole configurations give.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Config, ConfigErrors, Environment, PolicyMode, RelayCertificate};

const EXAMPLE: &str = include_str!("../../deploy/config-example.yaml");

const MINIMAL: &str = "\
server_url: https://hs.example.org
prefixes: {v4: 100.64.0.0/10}
dns: {base_domain: net.example.com, nameservers: {global: [1.1.1.1]}}
";

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Environment::new(pairs, Some("host-1".to_owned()))
}

fn check_with(pairs: &[(&str, &str)], text: &str) -> Result<Config, ConfigErrors> {
    Config::from_text(
        &environment(pairs),
        Path::new("/etc/hydrascale/config.yaml"),
        text,
    )
}

fn check(text: &str) -> Result<Config, ConfigErrors> {
    check_with(&[], text)
}

fn errors(text: &str) -> String {
    check(text)
        .expect_err("the configuration is wrong")
        .to_string()
}

fn notices(config: &Config) -> String {
    config
        .notices
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_example_is_valid_and_needs_no_notice() {
    let config = check(EXAMPLE).unwrap();
    assert_eq!(notices(&config), "");
    assert_eq!(config.cluster.data_dir, Path::new("/var/lib/hydrascale"));
}

#[test]
fn defaults_are_those_of_headscale_and_of_the_design() {
    let config = check(MINIMAL).unwrap();
    assert_eq!(config.listeners.client.to_string(), "127.0.0.1:8080");
    assert_eq!(
        config.listeners.metrics.unwrap().to_string(),
        "127.0.0.1:9090"
    );
    assert_eq!(config.listeners.unix_socket_mode, 0o770);
    assert_eq!(
        config.tailnet.ephemeral_inactivity,
        Duration::from_secs(120)
    );
    assert_eq!(config.tailnet.node_expiry, None);
    assert!(config.dns.magic_dns && config.dns.override_local_dns);
    assert!(config.features.taildrop && !config.features.logtail);
    assert_eq!(config.cluster.peer_listen.to_string(), "[::]:7443");
    assert_eq!(config.cluster.peer_advertise.to_string(), "host-1:7443");
    assert_eq!(config.cluster.replica_name, "host-1");
    assert_eq!(
        (config.derp.public_port, config.derp.stun_port),
        (8443, 3478)
    );
    assert_eq!(config.derp.certificate, RelayCertificate::SelfSigned);
    assert_eq!(config.client.timeout, Duration::from_secs(5));
    assert_eq!(notices(&config), "");
}

#[test]
fn environment_beats_file_and_ours_beats_headscales() {
    let config = check_with(
        &[
            ("HEADSCALE_SERVER_URL", "http://env.example.org:8080"),
            ("HEADSCALE_LISTEN_ADDR", "10.0.0.1:1"),
            ("HYDRASCALE_LISTEN_ADDR", "10.0.0.1:2"),
            (
                "HEADSCALE_DNS_NAMESERVERS_GLOBAL",
                "9.9.9.9  https://dns.example.net/q",
            ),
            (
                "HEADSCALE_DNS_NAMESERVERS_SPLIT",
                r#"{"corp.example": ["10.0.0.53"]}"#,
            ),
            ("HYDRASCALE_CLUSTER_DATA_DIR", "/data"),
            ("HEADSCALE_LOGTAIL_ENABLED", "true"),
            ("HEADSCALE_TAILDROP_ENABLED", ""),
        ],
        MINIMAL,
    )
    .unwrap();
    assert_eq!(config.server_url.as_str(), "http://env.example.org:8080");
    assert_eq!(config.listeners.client.to_string(), "10.0.0.1:2");
    assert_eq!(config.dns.global, ["9.9.9.9", "https://dns.example.net/q"]);
    assert_eq!(config.dns.split["corp.example"], ["10.0.0.53"]);
    assert_eq!(config.cluster.data_dir, Path::new("/data"));
    assert!(config.features.logtail && config.features.taildrop);
}

#[test]
fn keys_are_case_insensitive_and_paths_start_at_the_file() {
    let text = format!("{MINIMAL}Cluster:\n  Data_Dir: data\nNOISE: {{Private_Key_Path: n.key}}\n");
    let config = check(&text).unwrap();
    assert_eq!(config.cluster.data_dir, Path::new("/etc/hydrascale/data"));
    assert_eq!(
        config.noise_key_import,
        Some(PathBuf::from("/etc/hydrascale/n.key"))
    );
}

#[test]
fn an_unknown_key_is_a_notice_with_a_guess() {
    let config = check(&format!("{MINIMAL}lisen_addr: 0.0.0.0:8080\n")).unwrap();
    assert_eq!(
        notices(&config),
        "line 4: unknown key lisen_addr has no effect; did you mean listen_addr?"
    );
}

#[test]
fn an_unknown_key_under_cluster_is_an_error() {
    let text = errors(&format!("{MINIMAL}cluster:\n  datadir: /x\n"));
    assert_eq!(
        text,
        "/etc/hydrascale/config.yaml:5: cluster.datadir: is not a known key; did you mean \
         cluster.data_dir?"
    );
}

#[test]
fn every_mistake_is_one_line_with_key_value_and_remedy() {
    let text = errors(
        "server_url: example.com\nprefixes: {v4: 300.0.0.0/8}\nlisten_addr: [1]\n\
         dns: {magic_dns: perhaps, base_domain: a..b, nameservers: {global: [one]}}\n\
         node: {ephemeral: {inactivity_timeout: 30s}}\n",
    );
    let lines: Vec<&str> = text.lines().collect();
    for expected in [
        "config.yaml:1: server_url: \"example.com\" must start with http:// or https://",
        "config.yaml:2: prefixes.v4: \"300.0.0.0/8\" must be an IPv4 network",
        "config.yaml:3: listen_addr: must be a single value",
        "config.yaml:4: dns.magic_dns: \"perhaps\" must be true or false",
        "config.yaml:4: dns.base_domain: \"a..b\" must be a domain name",
        "config.yaml:4: dns.nameservers.global: \"one\" must be an IP address",
        "config.yaml:5: node.ephemeral.inactivity_timeout: \"30s\" must be more than 65s",
    ] {
        assert_eq!(
            lines.iter().filter(|line| line.contains(expected)).count(),
            1,
            "{expected}\n{text}"
        );
    }
    assert_eq!(lines.len(), 7, "{text}");
}

#[test]
fn what_headscale_refuses_is_refused() {
    for (text, expected) in [
        ("", "server_url: is missing"),
        ("{}", "prefixes: needs an address range"),
        ("dns: {base_domain: ''}", "dns.base_domain: is missing"),
        (
            "dns: {base_domain: a.example}",
            "dns.nameservers.global: is empty",
        ),
        ("database: {type: mysql}", "must be one of sqlite"),
        (
            "prefixes: {allocation: any}",
            "must be sequential or random",
        ),
        ("tls_cert_path: /nonexistent", "tls_key_path: is missing"),
        (
            "{tls_letsencrypt_hostname: a.b, tls_cert_path: /x, tls_key_path: /y}",
            "excludes tls_cert_path",
        ),
        (
            "{tls_cert_path: /nonexistent, tls_key_path: /y}",
            "cannot be read",
        ),
        (
            "oidc: {issuer: 'https://id.example'}",
            "oidc.client_id: is missing",
        ),
        (
            "derp: {server: {automatically_add_embedded_derp_region: false}}",
            "needs derp.paths",
        ),
        ("trusted_proxies: [0.0.0.0/0]", "trusts every address"),
        ("node: {routes: {ha: {probe_interval: 1s}}}", "at least 2s"),
        (
            "{noise: {private_key_path: /a}, derp: {server: {private_key_path: /a}}}",
            "must differ from noise.private_key_path",
        ),
        (
            "dns: {extra_records: [{name: a.b, type: A, value: 1.2.3.4}], extra_records_path: /x}",
            "excludes dns.extra_records_path",
        ),
        ("dns: yes", "dns: must be a mapping"),
        ("- a\n- b\n", "must be a mapping"),
    ] {
        assert!(errors(text).contains(expected), "{text}: {}", errors(text));
    }
    let own = MINIMAL.replace("net.example.com", "example.org");
    assert!(errors(&own).contains("covers the host \"hs.example.org\""));
}

#[test]
fn replicas_that_form_a_cluster_by_themselves_need_its_size_its_places_and_a_secret() {
    let cluster = |keys: &str| format!("{MINIMAL}cluster: {{{keys}}}\n");
    let whole = "bootstrap_expect: 3, peers: [\"a:1\", \"b:1\"], bootstrap_secret_file: /secret";
    let read = check(&cluster(whole)).unwrap().cluster.bootstrap.unwrap();
    assert_eq!((read.expect, read.peers.len()), (3, 2));
    for (keys, expected) in [
        (
            "bootstrap_expect: 3, peers: [\"a:1\"]",
            "bootstrap_secret_file",
        ),
        (
            "bootstrap_expect: 3, bootstrap_secret_file: /s",
            "needs cluster.peers",
        ),
        ("peers: [\"a:1\"]", "needs cluster.bootstrap_expect"),
        ("bootstrap_expect: 10", "9"),
        (
            "bootstrap_expect: 1, peers: [\"a:1\", \"b:1\"], bootstrap_secret_file: /s",
            "names 2 replicas",
        ),
        (
            "bootstrap_expect: 1, bootstrap_secret_file: /s, join_token_file: /t",
            "excludes cluster.bootstrap_expect",
        ),
    ] {
        let text = errors(&cluster(keys));
        assert!(text.contains(expected), "{keys}: {text}");
    }
}

#[test]
fn a_configuration_of_headscale_0_22_is_translated_with_notices() {
    let config = check(
        "server_url: http://127.0.0.1:8080\n\
         grpc_listen_addr: 127.0.0.1:50443\n\
         grpc_allow_insecure: false\n\
         private_key_path: ./private.key\n\
         noise: {private_key_path: ./noise_private.key}\n\
         ip_prefixes:\n  - fd7a:115c:a1e0::/48\n  - 100.64.0.0/10\n\
         disable_check_updates: false\n\
         ephemeral_node_inactivity_timeout: 30m\n\
         node_update_check_interval: 10s\n\
         db_type: sqlite3\n\
         db_path: ./db.sqlite\n\
         acl_policy_path: ''\n\
         dns_config:\n  override_local_dns: true\n  nameservers: []\n  domains: []\n\
         \x20 magic_dns: true\n  base_domain: example.com\n\
         randomize_client_port: false\n",
    )
    .unwrap();
    assert_eq!(
        config.tailnet.ipv4_prefix.unwrap().to_string(),
        "100.64.0.0/10"
    );
    assert_eq!(
        config.tailnet.ipv6_prefix.unwrap().to_string(),
        "fd7a:115c:a1e0::/48"
    );
    assert_eq!(
        config.tailnet.ephemeral_inactivity,
        Duration::from_secs(1800)
    );
    assert_eq!(config.dns.base_domain, "example.com");
    assert!(config.dns.magic_dns && !config.dns.override_local_dns);
    let notices = notices(&config);
    for expected in [
        "ip_prefixes is the former name of prefixes.v4 and prefixes.v6",
        "dns_config.base_domain is the former name of dns.base_domain: please rename it",
        "db_type, db_path: no effect: the state is kept in cluster.data_dir",
        "dns.override_local_dns: off",
        "randomize_client_port has no effect",
        "grpc_listen_addr: no effect",
    ] {
        assert!(notices.contains(expected), "{expected}\n{notices}");
    }
    assert!(!notices.contains("unknown"), "{notices}");
}

#[test]
fn the_policy_comes_from_a_file_if_one_is_named() {
    let config = check(&format!(
        "{MINIMAL}policy: {{path: /etc/headscale/acl.hujson}}\n"
    ))
    .unwrap();
    assert_eq!(config.policy.mode, PolicyMode::File);
    let path = config.policy.path.unwrap();
    assert_eq!(path.to_str(), Some("/etc/headscale/acl.hujson"));
    let mode = |policy: &str| {
        let config = check(&format!("{MINIMAL}policy: {policy}\n")).unwrap();
        let ignored = notices(&config).contains("policy.path: no effect");
        (config.policy.mode, ignored)
    };
    assert_eq!(mode("{mode: database}"), (PolicyMode::Database, false));
    assert_eq!(
        mode("{mode: database, path: a}"),
        (PolicyMode::Database, true)
    );
    assert_eq!(mode("{mode: file}"), (PolicyMode::File, false));
    assert_eq!(mode("{mode: '', path: ''}"), (PolicyMode::Database, false));
    let error = check(&format!("{MINIMAL}policy: {{mode: db}}\n")).unwrap_err();
    assert!(error.to_string().contains("must be file or database"));
}

#[test]
fn secrets_do_not_show() {
    let config = check_with(&[("HEADSCALE_CLI_API_KEY", "very-secret")], MINIMAL).unwrap();
    assert_eq!(
        config.client.api_key.as_ref().unwrap().expose(),
        "very-secret"
    );
    assert!(!format!("{config:?}").contains("very-secret"));
}

#[test]
fn the_digest_covers_what_replicas_share_and_nothing_else() {
    let one = check(MINIMAL).unwrap().shared_digest();
    let elsewhere = check(&format!("{MINIMAL}listen_addr: 0.0.0.0:1\n"))
        .unwrap()
        .shared_digest();
    let other = check(&MINIMAL.replace("1.1.1.1", "9.9.9.9"))
        .unwrap()
        .shared_digest();
    assert_eq!(one.len(), 32);
    assert_eq!(one, elsewhere);
    assert_ne!(one, other);
}

#[test]
fn backups_need_a_place_and_have_defaults_for_the_rest() {
    assert_eq!(check(MINIMAL).unwrap().backup, None);
    let with = |block: &str| format!("{MINIMAL}backup: {block}\n");
    let backup = check(&with("{directory: backups}"))
        .unwrap()
        .backup
        .unwrap();
    assert_eq!(backup.directory, Path::new("/etc/hydrascale/backups"));
    assert_eq!(
        (backup.interval, backup.keep),
        (Duration::from_secs(86_400), 7)
    );
    let text = errors(&with("{interval: 6h}"));
    assert!(text.contains("backup.directory: must be set"), "{text}");
    let text = errors(&with("{directory: b, interval: 1s, keep: 0}"));
    assert!(text.contains("must be a minute or more"), "{text}");
    assert!(text.contains("must be a whole number from 1"), "{text}");
}
