//! Replays a transcript of commands against a replica in this process, over its local socket.
//!
//! `testdata/transcript.txt` holds commands and what they print: lines that begin with `$ ` are
//! commands, `?` before one means that it fails, `<` gives a line of its input, `!` marks lines of
//! the error stream. `UPDATE_GOLDENS=1 cargo test cli::` writes the file anew; the
//! difference is reviewed.

mod leaving;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hydrascale_proto::state::v1::{SetPolicy, command::Op};
use hydrascale_raft::Fatal;
use tokio::net::UnixListener;

use super::{DemoArgs, EXIT_FOR_GOOD, Hooks, Output, exit_code, run};
use crate::api::Access;
use crate::api::testing::World;
use crate::config::{Config, Environment};
use crate::control::{ToolchainInfo, VersionInfo};
use crate::server::ServeError;
use crate::types::ReplicaId;

/// A day of the in-memory log's clock; other times come from the machine's and are masked.
const LOG_DAY: &str = "2025-06-15";

fn hooks() -> Hooks {
    Hooks {
        serve: |config: Config| anyhow::bail!("serves {}", config.server_url),
        demo: |args: DemoArgs, _| anyhow::bail!("shows {} replicas", args.replicas),
        version: VersionInfo {
            version: "0.1.0".to_owned(),
            commit: "abc".to_owned(),
            build_time: "2025-06-15T00:00:00Z".to_owned(),
            toolchain: ToolchainInfo {
                version: "rustc 1.91".to_owned(),
                os: "linux".to_owned(),
                arch: "x86_64".to_owned(),
            },
            dirty: false,
        },
    }
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Environment::new(pairs, None)
}

/// Exit code, output, error output.
fn call(environment: &Environment, line: &str, input: &str) -> (u8, String, String) {
    let argv: Vec<OsString> = split(line).into_iter().map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut output = Output::new(&mut out, &mut err, &mut input, false);
    let code = run(&argv, environment, &hooks(), &mut output);
    (
        code,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

/// Words at white space; `""` is an empty word.
fn split(line: &str) -> Vec<String> {
    line.split_whitespace()
        .map(|word| word.replace("\"\"", ""))
        .collect()
}

#[test]
fn the_transcript_is_reproduced() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/cli/testdata/transcript.txt");
    let recorded = std::fs::read_to_string(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("replica.sock");
    let server = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    server.block_on(start_replica(&socket));
    let replayed = replay(
        &recorded,
        &environment(&[("HEADSCALE_UNIX_SOCKET", socket.to_str().unwrap())]),
    );
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &replayed).unwrap();
    }
    for (number, (got, wanted)) in replayed.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(got, wanted, "line {}", number + 1);
    }
    assert_eq!(replayed.lines().count(), recorded.lines().count());
}

async fn start_replica(socket: &Path) {
    let mut world = World::new().await;
    world.node("carol", "printer", &["tag:office"]).await;
    world
        .pending_login("hskey-authreq-0123456789abcdef01234567", "laptop")
        .await;
    world
        .pending_login("hskey-authreq-111111111111111111111111", "phone")
        .await;
    world.control.join(ReplicaId(2)).await.unwrap();
    serve(world, socket);
}

fn serve(world: World, socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let router = world.router(Access::LocalTrust);
    tokio::spawn(async move {
        let _world = world;
        axum::serve(listener, router).await.unwrap();
    });
}

/// Runs the commands of a transcript and writes it anew.
fn replay(recorded: &str, environment: &Environment) -> String {
    let mut text = String::new();
    let mut input = String::new();
    for line in recorded.lines() {
        if let Some(given) = line.strip_prefix("< ") {
            input.push_str(given);
            input.push('\n');
            writeln!(text, "{line}").unwrap();
        } else if let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("?$ ")) {
            let (code, out, err) = call(environment, command, &input);
            input.clear();
            let mark = if code == 0 { "" } else { "?" };
            writeln!(text, "{mark}$ {command}").unwrap();
            for line in out.lines() {
                writeln!(text, "{}", mask(line)).unwrap();
            }
            for line in err.lines() {
                writeln!(text, "!{}", mask(line)).unwrap();
            }
        } else if line.starts_with('#') {
            writeln!(text, "{line}").unwrap();
        }
    }
    text
}

/// The line with random keys and times of the machine's clock hidden; tables stay aligned.
fn mask(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some((length, shown)) = random_key(rest).or_else(|| foreign_time(rest)) {
            masked.push_str(&shown);
            rest = &rest[length..];
        } else {
            masked.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    masked
}

/// Length of a key, and what stands for it.
fn random_key(text: &str) -> Option<(usize, String)> {
    if text.starts_with('[') && text.find(']') == Some(6) {
        return Some((7, "[xxxxx]".to_owned()));
    }
    let prefixes = ["hskey-auth-", "hskey-api-", "privkey:", "mkey:", "nodekey:"];
    let prefix = prefixes.iter().find(|prefix| text.starts_with(**prefix))?;
    let key = |c: char| c.is_ascii_hexdigit() || c == '-';
    let rest = &text[prefix.len()..];
    let secret = &rest[..rest.find(|c| !key(c)).unwrap_or(rest.len())];
    let shown: String = secret
        .chars()
        .map(|c| if c == '-' { c } else { 'x' })
        .collect();
    Some((prefix.len() + secret.len(), format!("{prefix}{shown}")))
}

/// Length of a date and time of another day than the log's, and what stands for it.
fn foreign_time(text: &str) -> Option<(usize, String)> {
    let day = text.get(..10)?;
    let date = day.starts_with("20") && day.as_bytes()[4] == b'-' && day.as_bytes()[7] == b'-';
    if !date || day == LOG_DAY {
        return None;
    }
    if text[10..].starts_with('T') {
        return Some((text.find('Z')? + 1, "<time>".to_owned()));
    }
    text.get(..19)
        .map(|_| (19, "xxxx-xx-xx xx:xx:xx".to_owned()))
}

#[test]
fn the_program_answers_to_both_names() {
    let (code, out, _) = call(&environment(&[]), "/usr/bin/headscale version", "");
    assert_eq!(
        (code, out.lines().next()),
        (0, Some("headscale version 0.1.0"))
    );
    let (code, out, _) = call(&environment(&[]), "headscale completion bash", "");
    assert!(code == 0 && out.contains("_headscale()"), "{code}");
    let (code, out, _) = call(&environment(&[]), "hydrascale -h", "");
    assert!(code == 0 && out.contains("Usage: hydrascale"), "{out}");
}

#[test]
fn wrong_words_are_errors_in_the_wanted_format() {
    let (code, out, err) = call(&environment(&[]), "hydrascale nodes lost", "");
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "Error: unrecognized subcommand 'lost'; see --help\n");
    let (code, _, err) = call(&environment(&[]), "hydrascale nodes lost -o json-line", "");
    assert_eq!(
        (code, err.as_str()),
        (
            1,
            "{\"error\":\"unrecognized subcommand 'lost'; see --help\"}\n"
        )
    );
    assert_eq!(
        call(&environment(&[]), "hydrascale users list -o xml", "").0,
        1
    );
}

#[test]
fn an_administrator_tags_a_node_as_the_policy_allows() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("replica.sock");
    let server = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    server.block_on(async {
        let mut world = World::new().await;
        world.node("carol", "printer", &[]).await;
        let text = r#"{"tagOwners": {"tag:office": [], "tag:it": []}}"#.to_owned();
        let policy = SetPolicy {
            text,
            ..Default::default()
        };
        world.propose(Op::SetPolicy(policy)).await;
        serve(world, &socket);
    });
    let environment = environment(&[("HEADSCALE_UNIX_SOCKET", socket.to_str().unwrap())]);
    let (code, out, err) = call(&environment, "h nodes tag -i 1 -t tag:office,tag:it", "");
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "Node updated\n", "")
    );
    let (code, _, err) = call(
        &environment,
        "h nodes tag -i 1 -t tag:office -t tag:lost",
        "",
    );
    assert_eq!(code, 1);
    assert!(
        err.contains("requested tags [tag:lost] are invalid"),
        "{err}"
    );
    let (_, out, _) = call(&environment, "h nodes ls -o json-line", "");
    assert!(out.contains(r#""tags":["tag:it","tag:office"]"#), "{out}");
}

#[test]
fn serve_and_configtest_read_the_same_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, "server_url: nonsense\ncluster: {datadir: x}\n").unwrap();
    let file = path.to_str().unwrap();
    let (code, _, tested) = call(&environment(&[]), &format!("h configtest -c {file}"), "");
    let (_, _, served) = call(&environment(&[]), &format!("h -c {file} serve"), "");
    assert_eq!((code, &tested), (1, &served));
    assert!(
        tested.contains("config.yaml:1: server_url: \"nonsense\" must start with"),
        "{tested}"
    );
    assert!(
        tested.contains("cluster.datadir: is not a known key"),
        "{tested}"
    );

    std::fs::write(&path, include_str!("../../deploy/config-example.yaml")).unwrap();
    let tested = call(&environment(&[]), &format!("h configtest -c {file}"), "");
    assert_eq!(tested, (0, String::new(), String::new()));
    let (_, _, served) = call(&environment(&[]), &format!("h serve -c {file}"), "");
    assert_eq!(served, "Error: serves http://hydrascale.example.com:8080\n");
    let (_, _, shown) = call(&environment(&[]), "h demo --replicas 5", "");
    assert_eq!(shown, "Error: shows 5 replicas\n");
}

/// The least that configures a replica.
fn replica_variables(data_dir: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("HYDRASCALE_CLUSTER_DATA_DIR", data_dir),
        ("HYDRASCALE_CLUSTER_REPLICA_NAME", "one"),
        ("HYDRASCALE_CLUSTER_PEER_ADVERTISE_ADDR", "127.0.0.1:7443"),
        ("HYDRASCALE_SERVER_URL", "http://127.0.0.1:8080"),
        ("HYDRASCALE_PREFIXES_V4", "100.64.0.0/10"),
        ("HYDRASCALE_DNS_MAGIC_DNS", "false"),
        ("HYDRASCALE_DNS_OVERRIDE_LOCAL_DNS", "false"),
    ]
}

#[test]
fn a_cluster_is_made_once_and_only_in_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let environment = environment(&replica_variables(data.to_str().unwrap()));
    let (code, out, err) = call(&environment, "h cluster init -o json-line", "");
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("\"replicaId\":\"1\"") && out.contains("clusterId"),
        "{out}"
    );
    let (code, out, err) = call(&environment, "h cluster init", "");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("belongs to replica 1 of cluster"), "{err}");
}

#[test]
fn the_first_replica_that_answers_counts() {
    let server = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (dead, leaderless, alive, key) = server.block_on(async {
        let bind = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = bind().await.local_addr().unwrap();
        let worlds = [World::new().await, World::new().await];
        worlds[0].control.set_available(false);
        let never = crate::types::Timestamp::from_unix_ms(i64::from(u32::MAX) * 1000);
        let key = worlds[1].api_key(9, Some(never)).await;
        let mut addrs = Vec::new();
        for world in worlds {
            let listener = bind().await;
            addrs.push(listener.local_addr().unwrap());
            let router = world.router(Access::ApiKey);
            tokio::spawn(async move {
                let _world = world;
                axum::serve(listener, router).await.unwrap();
            });
        }
        (dead, addrs[0], addrs[1], key)
    });
    let addresses = format!("http://{dead},http://{leaderless} http://{alive}");
    let with_key = environment(&[
        ("HYDRASCALE_CLI_ADDRESS", &addresses),
        ("HYDRASCALE_CLI_API_KEY", &key),
    ]);
    let (code, out, err) = call(&with_key, "h users create -o json-line dave", "");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("\"name\":\"dave\""), "{out}");

    let (code, _, err) = call(
        &environment(&[("HYDRASCALE_CLI_ADDRESS", &addresses)]),
        "h users ls",
        "",
    );
    assert_eq!(code, 1);
    assert!(err.contains("cli.api_key is not set"), "{err}");
    let gone = environment(&[
        ("HYDRASCALE_CLI_ADDRESS", &format!("http://{dead}")),
        ("HYDRASCALE_CLI_API_KEY", &key),
    ]);
    let (code, _, err) = call(&gone, "h health", "");
    assert!(
        code == 1 && err.contains(&format!("no replica can be reached: http://{dead}")),
        "{err}"
    );
}

#[test]
fn a_replica_that_is_not_there_is_named() {
    let nowhere = environment(&[
        ("HEADSCALE_UNIX_SOCKET", "/nonexistent/x.sock"),
        ("HEADSCALE_CLI_TIMEOUT", "60ms"),
    ]);
    let (code, _, err) = call(&nowhere, "h nodes ls", "");
    assert_eq!(code, 1);
    assert!(
        err.contains("/nonexistent/x.sock") && err.contains("does a replica run here"),
        "{err}"
    );
}

#[test]
fn a_replica_that_was_removed_is_not_started_again_for_ever() {
    let code = |fatal| exit_code(&ServeError::Ended(fatal).into());
    assert_eq!(code(Fatal::Removed), EXIT_FOR_GOOD);
    assert_eq!(code(Fatal::Replaced), EXIT_FOR_GOOD);
    let reason = "no memory".to_owned();
    assert_eq!(code(Fatal::Consensus { reason }), 1);
    assert_eq!(exit_code(&anyhow::anyhow!("no such user")), 1);
    let unit = include_str!("../../deploy/hydrascale.service");
    let prevents = format!("\nRestartPreventExitStatus={EXIT_FOR_GOOD}\n");
    assert!(unit.contains(&prevents), "{unit}");
}
