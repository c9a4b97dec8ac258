//! What holds after any sequence of commands.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{self, Command, Outcome, outcome};
use hydrascale_raft::{Row, RowWrite};
use proptest::prelude::*;

use super::secret::{SecretKind, hash_secret};
use super::testing::{PEPPER, assert_unique, registration, replica, settings};
use super::{Applied, ApplyContext, NodeChange, SessionNo, State};
use crate::types::{NodeId, Timestamp};

/// A state with the rows that its commands wrote.
#[derive(Clone, Default)]
struct Machine {
    state: State,
    rows: BTreeMap<Bytes, Bytes>,
    now: i64,
    index: u64,
}

impl Machine {
    fn with_tailnet() -> Self {
        let mut machine = Self {
            now: 1_700_000_000_000,
            ..Self::default()
        };
        let mut small = settings();
        small.ipv4_prefix = "10.0.0.0/28".into();
        let init = v1::InitTailnet {
            settings: Some(small),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: PEPPER.to_vec().into(),
        };
        machine.apply(Op::InitTailnet(init));
        machine
    }

    fn apply(&mut self, op: Op) -> Applied {
        self.index += 1;
        let now = Timestamp::from_unix_ms(self.now);
        let ctx = ApplyContext {
            index: self.index,
            now,
        };
        let applied = self.state.apply(&ctx, &Command { op: Some(op) }).unwrap();
        for write in &applied.writes {
            match write {
                RowWrite::Put(row) => self.rows.insert(row.key.clone(), row.value.clone()),
                RowWrite::Delete(key) => self.rows.remove(key),
            };
        }
        applied
    }

    fn stored(&self) -> Vec<Row> {
        let row = |(key, value): (&Bytes, &Bytes)| Row {
            key: key.clone(),
            value: value.clone(),
        };
        self.rows.iter().map(row).collect()
    }
}

fn proof(number: u8) -> v1::PreAuthKeyProof {
    let hash = hash_secret(&PEPPER, SecretKind::PreAuthKey, &[number]);
    v1::PreAuthKeyProof {
        prefix: format!("{number:012x}"),
        secret_hash: Bytes::copy_from_slice(&hash),
    }
}

fn auth_id(number: u8) -> String {
    format!("hskey-authreq-{number:024x}")
}

fn hostinfo() -> impl Strategy<Value = Bytes> {
    let name = prop::sample::select(vec!["web", "Web.local", "db", "", "\u{65e5}"]);
    let home = prop::option::of(899_u16..903);
    let routes = prop::sample::select(vec!["", r#","RoutableIPs":["10.0.0.0/8"]"#]);
    (name, home, routes).prop_map(|(name, home, routes)| {
        let net = home.map(|home| format!(r#","NetInfo":{{"PreferredDERP":{home}}}"#));
        let net = net.unwrap_or_default();
        Bytes::from(format!(r#"{{"Hostname":"{name}"{routes}{net}}}"#))
    })
}

fn user_op() -> impl Strategy<Value = Op> {
    let name = prop::sample::select(vec!["alice", "bob", "carol", "x"]);
    let id = 0..4_u64;
    prop_oneof![
        name.clone().prop_map(|name| {
            Op::CreateUser(v1::CreateUser {
                name: name.into(),
                ..Default::default()
            })
        }),
        (id.clone(), name).prop_map(|(user_id, name)| {
            Op::RenameUser(v1::RenameUser {
                user_id,
                name: name.into(),
            })
        }),
        id.prop_map(|user_id| Op::DestroyUser(v1::DestroyUser { user_id })),
    ]
}

fn key_op() -> impl Strategy<Value = Op> {
    let number = 0..6_u8;
    let create = (
        number,
        prop::option::of(1..3_u64),
        any::<(bool, bool, bool)>(),
        any::<bool>(),
    );
    let create = create.prop_map(|(number, user_id, (reusable, ephemeral, tagged), long)| {
        let proof = proof(number);
        Op::CreatePreAuthKey(v1::CreatePreAuthKey {
            prefix: proof.prefix,
            secret_hash: proof.secret_hash,
            user_id,
            reusable,
            ephemeral,
            expires_at_ms: Some(if long { i64::MAX } else { 1_700_000_100_000 }),
            tags: if tagged { vec!["tag:a".into()] } else { vec![] },
        })
    });
    let key_id = 0..6_u64;
    prop_oneof![
        4 => create,
        1 => (key_id.clone(), any::<bool>()).prop_map(|(key_id, revoke)| {
            Op::ExpirePreAuthKey(v1::ExpirePreAuthKey { key_id, revoke })
        }),
        1 => key_id.prop_map(|key_id| Op::DeletePreAuthKey(v1::DeletePreAuthKey { key_id })),
    ]
}

fn register_op() -> impl Strategy<Value = Op> {
    let parts = (
        1..6_u8,
        1..8_u8,
        0..6_u8,
        any::<bool>(),
        hostinfo(),
        any::<u64>(),
    );
    parts.prop_map(
        |(device, node_key, key, ephemeral, hostinfo_json, entropy)| {
            let key = super::testing::Key {
                id: 0,
                proof: proof(key),
            };
            Op::RegisterNode(v1::RegisterNode {
                ephemeral,
                hostinfo_json,
                entropy,
                ..registration(device, node_key, &key)
            })
        },
    )
}

fn login_op() -> impl Strategy<Value = Op> {
    let start = (0..5_u8, 1..6_u8, 1..8_u8, hostinfo(), any::<bool>());
    let start = start.prop_map(|(number, device, node_key, hostinfo_json, ephemeral)| {
        Op::StartLogin(v1::StartLogin {
            auth_id: auth_id(number),
            machine_key: vec![device; 32].into(),
            node_key: vec![node_key; 32].into(),
            hostinfo_json,
            capver: 130,
            ephemeral,
            requested_expiry_ms: None,
        })
    });
    let approve = (0..5_u8, 1..4_u64, any::<u64>()).prop_map(|(number, user_id, entropy)| {
        Op::ApproveLogin(v1::ApproveLogin {
            auth_id: auth_id(number),
            user_id,
            method: 2,
            expires_at_ms: None,
            entropy,
            tag_grant: None,
        })
    });
    let reject = (0..5_u8).prop_map(|number| {
        Op::RejectLogin(v1::RejectLogin {
            auth_id: auth_id(number),
        })
    });
    let logout = (1..6_u8, 1..8_u8).prop_map(|(device, node_key)| {
        Op::LogoutNode(v1::LogoutNode {
            machine_key: vec![device; 32].into(),
            node_key: vec![node_key; 32].into(),
        })
    });
    prop_oneof![3 => start, 3 => approve, 1 => reject, 1 => logout]
}

fn ssh_op() -> impl Strategy<Value = Op> {
    let start = (0..5_u8, 1..5_u64, 1..5_u64).prop_map(|(number, src_node_id, dst_node_id)| {
        Op::StartSshCheck(v1::StartSshCheck {
            auth_id: auth_id(number),
            src_node_id,
            dst_node_id,
            local_user: "root".into(),
        })
    });
    let decide = (0..5_u8, any::<bool>()).prop_map(|(number, approved)| {
        Op::DecideSshCheck(v1::DecideSshCheck {
            auth_id: auth_id(number),
            approved,
        })
    });
    prop_oneof![start, decide]
}

fn node_op() -> impl Strategy<Value = Op> {
    let id = 0..10_u64;
    let name = prop::sample::select(vec!["web", "mine", "web-1", "a b"]);
    prop_oneof![
        id.clone()
            .prop_map(|node_id| Op::DeleteNode(v1::DeleteNode { node_id })),
        (id.clone(), name).prop_map(|(node_id, name)| {
            Op::RenameNode(v1::RenameNode {
                node_id,
                given_name: name.into(),
            })
        }),
        (id.clone(), prop::option::of(0..200_000_i64)).prop_map(|(node_id, at)| {
            let expires_at_ms = at.map(|at| 1_700_000_000_000 + at);
            Op::SetNodeExpiry(v1::SetNodeExpiry {
                node_id,
                expires_at_ms,
            })
        }),
        id.clone().prop_map(|node_id| {
            Op::SetNodeTags(v1::SetNodeTags {
                node_id,
                tags: vec!["tag:b".into()],
            })
        }),
        id.clone().prop_map(|node_id| {
            Op::SetApprovedRoutes(v1::SetApprovedRoutes {
                node_id,
                routes: vec!["::/0".into()],
            })
        }),
        (id.clone(), prop::option::of(0..4_u64)).prop_map(|(node_id, user_id)| {
            Op::ApproveRoutes(v1::ApproveRoutes {
                node_id,
                routes: vec!["10.0.0.0/8".into()],
                policy_version: 1,
                user_id,
                tags: vec![],
            })
        }),
        (id.clone(), hostinfo()).prop_map(|(node_id, hostinfo_json)| {
            Op::UpdateNode(v1::UpdateNode {
                node_id,
                hostinfo_json,
                ..Default::default()
            })
        }),
        (id, 0..3_u8).prop_map(|(node_id, key)| {
            let disco_key = vec![key; 32].into();
            Op::UpdateNode(v1::UpdateNode {
                node_id,
                disco_key,
                ..Default::default()
            })
        }),
    ]
}

fn presence_op() -> impl Strategy<Value = Op> {
    let (node, id, incarnation) = (1..10_u64, 1..4_u64, 1..4_u64);
    prop_oneof![
        4 => (node.clone(), id.clone(), incarnation.clone(), prop::option::of(1..60_u64)).prop_map(
            |(node_id, replica_id, incarnation, known)| {
                let known = known.map(|index| v1::SessionNo { index, position: 0 });
                Op::OpenSession(v1::OpenSession { node_id, replica_id, incarnation, known })
            }
        ),
        2 => (node, 1..60_u64).prop_map(|(node_id, index)| {
            let session_no = Some(v1::SessionNo { index, position: 0 });
            Op::CloseSession(v1::CloseSession { node_id, session_no })
        }),
        3 => (id.clone(), incarnation.clone(), any::<bool>()).prop_map(
            |(id, incarnation, relay)| {
                let mut up = replica(id, incarnation);
                up.relay = up.relay.filter(|_| relay);
                Op::ReplicaUp(up)
            }
        ),
        1 => (id.clone(), incarnation, any::<bool>(), prop::option::of(0..30_000_u64)).prop_map(
            |(replica_id, incarnation, late, silence_ms)| {
                let last_heard_ms = late.then_some(1_700_000_000_000);
                Op::ReplicaDown(v1::ReplicaDown { replica_id, incarnation, last_heard_ms, silence_ms })
            }
        ),
        1 => (id.clone(), 1..4_u64).prop_map(|(replica_id, incarnation)| {
            Op::ReplicaStopping(v1::ReplicaStopping { replica_id, incarnation })
        }),
        1 => (id.clone(), any::<bool>()).prop_map(|(replica_id, drained)| {
            Op::DrainReplica(v1::DrainReplica { replica_id, drained })
        }),
        1 => id.prop_map(|replica_id| Op::RemoveReplica(v1::RemoveReplica { replica_id })),
    ]
}

fn tailnet_op() -> impl Strategy<Value = Op> {
    let random = any::<bool>().prop_map(|random_allocation| {
        let wanted = v1::Settings {
            random_allocation,
            node_expiry_ms: 50_000,
            ..settings()
        };
        Op::UpdateSettings(v1::UpdateSettings {
            settings: Some(wanted),
        })
    });
    let policy = prop::sample::select(vec!["{}", "{ }"]).prop_map(|text| {
        Op::SetPolicy(v1::SetPolicy {
            text: text.into(),
            ..Default::default()
        })
    });
    prop_oneof![
        3 => Just(Op::Tick(v1::Tick {})),
        1 => policy,
        1 => random,
        1 => any::<u64>()
            .prop_map(|entropy| Op::BackfillAddresses(v1::BackfillAddresses { entropy })),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => user_op(),
        3 => key_op(),
        6 => register_op(),
        4 => login_op(),
        2 => ssh_op(),
        4 => node_op(),
        5 => presence_op(),
        1 => tailnet_op(),
    ]
}

/// Operations with the time that passes before each.
fn history() -> impl Strategy<Value = Vec<(i64, Op)>> {
    let pause = prop_oneof![3 => Just(0), 3 => 0..5_000_i64, 1 => 0..200_000_i64];
    prop::collection::vec((pause, any_op()), 1..60)
}

fn is_refused(applied: &Applied) -> bool {
    matches!(applied.outcome.result, Some(outcome::Result::Refusal(_)))
}

/// New and following labels are the first free ones, by the rows alone.
fn assert_free_numbers(state: &State) {
    let labels: BTreeSet<String> = state.nodes().map(|node| node.given_name.clone()).collect();
    for base in ["web", "web-1", "db", "node", "mine"] {
        let free = (1..).find(|number| !labels.contains(&format!("{base}-{number}")));
        assert_eq!(Some(state.index.free_number(base)), free, "{base}");
    }
}

/// The change names all that differs between two states.
fn assert_change_is_complete(before: &State, after: &State, applied: &Applied, times: [i64; 2]) {
    let [earlier, now] = times.map(Timestamp::from_unix_ms);
    let change = &applied.change;
    let ids = before.nodes().chain(after.nodes()).map(|node| node.id);
    for id in ids.collect::<BTreeSet<NodeId>>() {
        let told = change.nodes.get(&id).copied().unwrap_or_default();
        match (before.node(id), after.node(id)) {
            (Some(old), Some(new)) => {
                let mut all = told;
                all.merge(NodeChange::between(old, new));
                assert_eq!(all, told, "node {id}");
                assert!(told.online || before.is_online(id) == after.is_online(id));
                assert!(told.expiry || old.is_expired(earlier) || !new.is_expired(now));
                assert!(new.last_seen >= old.last_seen, "last seen goes back");
                assert_eq!(
                    (new.machine_key, new.created_at),
                    (old.machine_key, old.created_at)
                );
            }
            (None, Some(_)) => assert!(told.added),
            (Some(_), None) => assert_eq!(told, NodeChange::REMOVED),
            (None, None) => {}
        }
    }
    assert!(change.derp_map || before.derp_map() == after.derp_map());
    let users = |state: &State| state.users().cloned().collect::<Vec<_>>();
    assert!(!change.users.is_empty() || users(before) == users(after));
    let logins = |state: &State| state.pending_logins().cloned().collect::<Vec<_>>();
    assert!(!change.pending_logins.is_empty() || logins(before) == logins(after));
    assert!(!change.ssh_checks.is_empty() || before.ssh_checks == after.ssh_checks);
    assert!(change.ssh_approvals || before.ssh_approvals == after.ssh_approvals);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants(history in history()) {
        let mut machine = Machine::with_tailnet();
        let mut greatest_id = 0;
        for (pause, op) in history {
            let earlier = machine.now;
            machine.now += pause;
            let before = machine.state.clone();
            let mut swept = machine.clone();
            swept.apply(Op::Tick(v1::Tick {}));
            let applied = machine.apply(op);
            if is_refused(&applied) {
                prop_assert_eq!(&machine.state, &swept.state);
                prop_assert_eq!(&machine.rows, &swept.rows);
            }
            assert_unique(&machine.state);
            assert_free_numbers(&machine.state);
            assert_change_is_complete(&before, &machine.state, &applied, [earlier, machine.now]);
            for node in machine.state.nodes().filter(|node| before.node(node.id).is_none()) {
                prop_assert!(node.id.0 > greatest_id, "node ids are not reused");
                greatest_id = node.id.0;
            }
            let now = Timestamp::from_unix_ms(machine.now);
            prop_assert!(machine.state.next_deadline().is_none_or(|at| at > now));
            prop_assert_eq!(machine.state.rows().collect::<Vec<_>>(), machine.stored());
        }
        let reloaded = State::load(machine.stored()).unwrap();
        prop_assert_eq!(&reloaded, &machine.state);
        prop_assert_eq!(reloaded.digest(), machine.state.digest());
    }

    #[test]
    fn reloading_at_any_point_changes_nothing_later(history in history(), at in 0..60_usize) {
        let mut machine = Machine::with_tailnet();
        let mut reloaded = machine.clone();
        for (step, (pause, op)) in history.into_iter().enumerate() {
            machine.now += pause;
            reloaded.now += pause;
            if step == at {
                reloaded.state = State::load(reloaded.stored()).unwrap();
            }
            let (one, two) = (machine.apply(op.clone()), reloaded.apply(op));
            prop_assert_eq!(one, two);
        }
    }

    #[test]
    fn a_batch_does_what_its_commands_do_one_by_one(
        history in history(),
        ops in prop::collection::vec(any_op(), 1..20),
    ) {
        let mut single = Machine::with_tailnet();
        for (pause, op) in history {
            single.now += pause;
            single.apply(op);
        }
        let ops: Vec<Op> =
            ops.into_iter().filter(|op| !matches!(op, Op::CloseSession(_))).collect();
        let mut batched = single.clone();
        let commands = ops.iter().map(|op| Command { op: Some(op.clone()) }).collect();
        let batch = batched.apply(Op::Batch(v1::Batch { commands }));
        let outcomes: Vec<Outcome> = ops.into_iter().map(|op| single.apply(op).outcome).collect();
        let Some(outcome::Result::Batch(answer)) = batch.outcome.result else {
            return Err(TestCaseError::fail("no batch outcome"));
        };
        prop_assert_eq!(without_numbers(answer.outcomes), without_numbers(outcomes));
        prop_assert_eq!(same_numbers(&batched.state), same_numbers(&single.state));
    }
}

/// Outcomes without the session numbers, in which a batch and single commands differ.
fn without_numbers(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let strip = |mut outcome: Outcome| {
        if let Some(outcome::Result::Done(done)) = &mut outcome.result {
            done.session_no = None;
        }
        outcome
    };
    outcomes.into_iter().map(strip).collect()
}

fn same_numbers(state: &State) -> State {
    let mut state = state.clone();
    let nodes: Vec<NodeId> = state.sessions.keys().copied().collect();
    for node in nodes {
        let session = state.sessions.get_mut(&node).unwrap();
        session.no = SessionNo::default();
    }
    state
}

#[test]
fn an_unknown_operation_stops_the_replica_and_changes_nothing() {
    let mut machine = Machine::with_tailnet();
    let before = machine.state.clone();
    let ctx = ApplyContext {
        index: 7,
        now: Timestamp::from_unix_ms(machine.now),
    };
    let user = v1::CreateUser {
        name: "alice".into(),
        ..Default::default()
    };
    let known = Command {
        op: Some(Op::CreateUser(user)),
    };
    let batch = v1::Batch {
        commands: vec![known, Command { op: None }],
    };
    for command in [
        Command { op: None },
        Command {
            op: Some(Op::Batch(batch)),
        },
    ] {
        let error = machine.state.apply(&ctx, &command).unwrap_err();
        assert!(error.to_string().contains("log index 7"), "{error}");
        assert_eq!(machine.state, before);
    }
}

#[test]
fn a_batch_inside_a_batch_is_refused() {
    let mut machine = Machine::with_tailnet();
    let inner = Command {
        op: Some(Op::Batch(v1::Batch::default())),
    };
    let applied = machine.apply(Op::Batch(v1::Batch {
        commands: vec![inner],
    }));
    let Some(outcome::Result::Batch(batch)) = applied.outcome.result else {
        panic!("no batch")
    };
    let (_, message) = super::testing::refusal_of(&batch.outcomes[0]);
    assert_eq!(message, "a batch must not hold a batch");
}
