//! Replicas that go: nobody is cut off, nobody else goes, and what was broken off goes on.

use std::time::Duration;

use hydrascale_proto::state::v1::{CloseSession, OpenSession, ReplicaDown, SessionNo, command::Op};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{call, environment, replica_variables, serve};
use crate::api::testing::World;
use crate::cli::time;
use crate::cluster::{Cluster, LocalControl};
use crate::config::Environment;
use crate::types::ReplicaId;

/// Three replicas of which 1 leads and is asked, and a node. Nobody hands leadership over.
struct Three {
    cluster: Cluster,
    control: LocalControl,
    environment: Environment,
    server: Runtime,
    _folder: TempDir,
}

impl Three {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("replica.sock");
        let server = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let (cluster, control) = server.block_on(async {
            let mut world = World::new().await;
            world.node("carol", "printer", &[]).await;
            for id in [2, 3] {
                world.control.join(ReplicaId(id)).await.unwrap();
            }
            let handles = (world.cluster.clone(), world.control.clone());
            serve(world, &socket);
            handles
        });
        let environment = environment(&[("HEADSCALE_UNIX_SOCKET", socket.to_str().unwrap())]);
        Self {
            cluster,
            control,
            environment,
            server,
            _folder: folder,
        }
    }

    /// Exit code, output, error output of a command whose question is answered with yes.
    fn call(&self, line: &str) -> (u8, String, String) {
        call(&self.environment, line, "y\n")
    }

    /// What a command prints that must succeed.
    fn done(&self, line: &str) -> (String, String) {
        let (code, out, err) = self.call(line);
        assert_eq!(code, 0, "{line}: {err}");
        (out, err)
    }

    /// Why a command fails.
    fn refused(&self, line: &str) -> String {
        let (code, out, err) = self.call(line);
        assert_eq!((code, out.as_str()), (1, ""), "{line}: {err}");
        err
    }

    fn members(&self) -> Vec<u64> {
        let status = self.cluster.status();
        status.members.iter().map(|member| member.id).collect()
    }

    fn is_drained(&self, id: u64) -> bool {
        let state = self.cluster.state();
        let replica = state.replica(ReplicaId(id));
        replica.is_some_and(|replica| replica.drained_since.is_some())
    }

    fn declare_dead(&self, replica_id: u64) {
        let down = ReplicaDown {
            replica_id,
            incarnation: 1,
            last_heard_ms: None,
            silence_ms: None,
        };
        let declared = self.cluster.propose(Op::ReplicaDown(down));
        self.server.block_on(declared).unwrap();
    }

    fn open_stream(&self, replica_id: u64) -> Option<SessionNo> {
        let open = OpenSession {
            node_id: 1,
            replica_id,
            incarnation: 1,
            known: None,
        };
        let opened = self.cluster.propose(Op::OpenSession(open));
        self.server.block_on(opened).unwrap().session_no
    }

    fn close_stream(&self, session_no: Option<SessionNo>) {
        let close = CloseSession {
            node_id: 1,
            session_no,
        };
        let closed = self.cluster.propose(Op::CloseSession(close));
        self.server.block_on(closed).unwrap();
    }
}

#[test]
fn leave_removes_nobody_while_its_clients_are_there_and_goes_on_when_asked_again() {
    let three = Three::start();
    let stream = three.open_stream(1);
    for _ in 0..2 {
        let refused = three.refused("h cluster leave --wait 0s");
        let left = "is not removed yet: 1 streams and 0 relay homes left, still leads";
        assert!(refused.contains(left), "{refused}");
        assert_eq!(three.members(), [1, 2, 3]);
        assert!(three.is_drained(1));
    }
    three.close_stream(stream);
    three.done("h cluster transfer-leader 2");
    let (out, _) = three.done("h cluster leave --wait 0s");
    assert!(out.starts_with("Replica 1 (local) leaves"), "{out}");
    assert_eq!(three.members(), [2, 3]);
}

#[test]
fn leave_again_after_the_replica_has_left_removes_nobody_else() {
    let three = Three::start();
    for _ in 0..3 {
        let (out, _) = three.done("h cluster leave --wait 0s --force");
        assert!(out.starts_with("Replica 1 "), "{out}");
        assert_eq!(three.members(), [2, 3]);
    }
    let (out, _) = three.done("h cluster leave --force");
    let left = "Replica 1 has left the cluster for good: delete its data folder\n";
    assert_eq!(out, left);
}

#[test]
fn leave_again_after_the_replica_has_ended_says_that_it_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut variables = replica_variables(data.to_str().unwrap());
    variables.extend([
        ("HYDRASCALE_UNIX_SOCKET", "/nonexistent/x.sock"),
        ("HYDRASCALE_CLI_TIMEOUT", "60ms"),
    ]);
    let ended = environment(&variables);
    let (code, _, err) = call(&ended, "h cluster init", "");
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = call(&ended, "h cluster leave --force", "");
    assert_eq!(code, 1);
    assert!(err.contains("does a replica run here"), "{err}");

    let path = data.join("identity.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut identity: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(identity["removed"], false);
    identity["removed"] = true.into();
    std::fs::write(&path, identity.to_string()).unwrap();
    let (code, out, err) = call(&ended, "h cluster leave --force", "");
    let left = "Replica 1 has left the cluster for good: delete its data folder\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, left, ""));
}

#[test]
fn leave_over_an_address_removes_nobody() {
    let remote = environment(&[
        ("HYDRASCALE_CLI_ADDRESS", "http://127.0.0.1:1"),
        ("HYDRASCALE_CLI_API_KEY", "key"),
    ]);
    let (code, out, err) = call(&remote, "h cluster leave --force", "");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("`cluster remove REPLICA`"), "{err}");
}

#[test]
fn a_replica_that_answers_is_left_by_its_clients_before_it_is_removed() {
    let three = Three::start();
    let stream = three.open_stream(2);
    let refused = three.refused("h cluster remove 2 --wait 0s");
    assert!(
        refused.contains("replica 2 (local-2) is not removed yet: 1 streams"),
        "{refused}"
    );
    assert!(refused.contains("`cluster undrain 2`"), "{refused}");
    assert_eq!(three.members(), [1, 2, 3]);
    assert!(three.is_drained(2));
    three.close_stream(stream);
    three.done("h cluster remove 2 --wait 0s");
    assert_eq!(three.members(), [1, 3]);
}

#[test]
fn a_replica_that_answers_is_left_by_its_clients_before_it_is_replaced() {
    let three = Three::start();
    three.done("h cluster demote 3");
    let stream = three.open_stream(2);
    let refused = three.refused("h cluster replace 2 --with 3 --wait 0s");
    assert!(refused.contains("1 streams"), "{refused}");
    assert_eq!(three.members(), [1, 2, 3]);
    three.close_stream(stream);
    let (out, _) = three.done("h cluster replace 2 --with 3 --wait 0s");
    let replaced = "Replica 3 (local-3) has taken the place of replica 2 (local-2)\n";
    assert_eq!(out, replaced);
    assert_eq!(three.members(), [1, 3]);
}

#[test]
fn a_dead_replica_is_removed_at_once() {
    let three = Three::start();
    three.open_stream(2);
    three.declare_dead(2);
    let (_, err) = three.done("h cluster remove 2 --wait 0s");
    assert!(!err.contains("drained"), "{err}");
    assert_eq!(three.members(), [1, 3]);
}

#[test]
fn by_force_a_replica_goes_with_its_clients() {
    let three = Three::start();
    three.open_stream(2);
    three.done("h cluster remove 2 --wait 0s --force");
    assert_eq!(three.members(), [1, 3]);
}

#[test]
fn a_removal_that_is_refused_moves_nobodys_clients() {
    let three = Three::start();
    three.done("h cluster demote 2");
    three.done("h cluster demote 3");
    three.open_stream(1);
    let refused = three.refused("h cluster remove 1 --wait 0s");
    assert!(refused.contains("that is the last voter"), "{refused}");
    assert!(!three.is_drained(1));
}

#[test]
fn a_replica_whose_clients_nobody_would_take_is_removed_by_force_only() {
    let three = Three::start();
    three.done("h cluster drain 1 --wait 0s");
    three.done("h cluster drain 3 --wait 0s");
    let refused = three.refused("h cluster remove 2");
    assert!(refused.contains("cannot be drained first"), "{refused}");
    assert!(refused.contains("nobody would take"), "{refused}");
    assert_eq!(three.members(), [1, 2, 3]);
    let (_, err) = three.done("h cluster remove 2 --force");
    assert!(err.contains("is not drained: nobody"), "{err}");
    assert_eq!(three.members(), [1, 3]);
}

#[test]
fn a_dead_replicas_place_has_one_open_token_however_often_it_is_asked_for() {
    let three = Three::start();
    let since = time::now().saturating_since(three.control.now());
    three.control.advance(since);
    three.control.set_cut_off(true);
    let (out, err) = three.done("h cluster replace 2");
    assert_eq!(out, "hydra-join-token1\n");
    assert!(!err.contains("revoked"), "{err}");
    let refused = three.refused("h cluster replace 2 -e 9d");
    assert!(refused.contains("7 days"), "{refused}");
    let (out, err) = three.done("h cluster replace 2");
    assert_eq!(out, "hydra-join-token2\n");
    assert!(err.contains("join token token1 for the place of"), "{err}");
    assert_eq!(err.matches("is revoked").count(), 1, "{err}");
    three.done("h cluster replace 3");

    let (listed, _) = three.done("h cluster join-token list");
    let states = listed.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells[0], cells[2], cells[3])
    });
    let states: Vec<_> = states.collect();
    let expected = [
        ("token1", "revoked", "2"),
        ("token2", "open", "2"),
        ("token3", "open", "3"),
    ];
    assert_eq!(states, expected);
}

#[test]
fn the_place_of_a_replica_that_answers_is_given_with_a_warning() {
    let three = Three::start();
    let since = time::now().saturating_since(three.control.now());
    three.control.advance(since);
    let (_, err) = three.done("h cluster replace 2");
    assert!(err.contains("run `cluster drain 2`"), "{err}");
}

#[test]
fn an_expired_join_token_is_listed_as_expired() {
    let three = Three::start();
    // The log's clock is behind the machine's.
    let hour = Duration::from_secs(3600);
    let made = three.cluster.create_join_token(hour, None);
    three.server.block_on(made).unwrap();
    let (listed, _) = three.done("h cluster join-token list");
    assert!(listed.contains("| expired |"), "{listed}");
}
