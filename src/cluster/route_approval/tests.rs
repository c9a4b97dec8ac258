use hydrascale_proto::state::v1::{CreatePreAuthKey, CreateUser, PreAuthKeyProof};
use tokio::sync::broadcast;

use super::super::{Applied, LocalControl};
use super::*;
use crate::state::secret::{SecretKind, hash_secret};
use crate::types::Timestamp;

const PATIENCE: Duration = Duration::from_secs(10);
const PEPPER: [u8; 32] = [2; 32];
const POLICY: &str = r#"{
    "tagOwners": {"tag:router": []},
    "autoApprovers": {
        "routes": {"10.0.0.0/8": ["alice@"], "192.168.0.0/16": ["tag:router"]},
        "exitNode": ["alice@"],
    },
}"#;

struct World {
    cluster: Cluster,
    log: LocalControl,
    changes: broadcast::Receiver<std::sync::Arc<Applied>>,
    tasks: JoinSet<()>,
}

impl World {
    /// Alice and a key of hers that lets nodes in; the clerk is at work.
    async fn new() -> Self {
        let settings = pb::Settings {
            ipv4_prefix: "100.64.0.0/10".to_owned(),
            ephemeral_inactivity_ms: 120_000,
            login_ttl_ms: 900_000,
            ..pb::Settings::default()
        };
        let init = pb::InitTailnet {
            settings: Some(settings),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: PEPPER.to_vec().into(),
        };
        let now = Timestamp::from_unix_ms(1_800_000_000_000);
        let (cluster, log) = Cluster::local(init, now).await.unwrap();
        let changes = cluster.subscribe();
        let mut tasks = JoinSet::new();
        spawn_route_approval(cluster.clone(), &mut tasks);
        let world = Self {
            cluster,
            log,
            changes,
            tasks,
        };
        let name = "alice".to_owned();
        let user = CreateUser {
            name,
            ..Default::default()
        };
        let user_id = Some(world.ok(Op::CreateUser(user)).await);
        let key = CreatePreAuthKey {
            prefix: proof().prefix,
            secret_hash: proof().secret_hash,
            user_id,
            reusable: true,
            expires_at_ms: Some(i64::MAX),
            ..Default::default()
        };
        world.ok(Op::CreatePreAuthKey(key)).await;
        world
    }

    async fn ok(&self, op: Op) -> u64 {
        self.cluster.propose(op).await.unwrap().id
    }

    async fn policy(&self, text: &str) {
        let text = text.to_owned();
        self.ok(Op::SetPolicy(pb::SetPolicy {
            text,
            ..Default::default()
        }))
        .await;
    }

    /// A node of Alice's that advertises these routes.
    async fn router(&self, device: u8, routes: &str) -> u64 {
        let register = pb::RegisterNode {
            machine_key: vec![device; 32].into(),
            node_key: vec![device; 32].into(),
            hostinfo_json: hostinfo(routes),
            capver: 130,
            auth_key: Some(proof()),
            ..Default::default()
        };
        self.ok(Op::RegisterNode(register)).await
    }

    async fn set_routes(&self, node_id: u64, routes: &[&str]) {
        let routes = routes.iter().map(|route| (*route).to_owned()).collect();
        self.ok(Op::SetApprovedRoutes(pb::SetApprovedRoutes {
            node_id,
            routes,
        }))
        .await;
    }

    fn approved(&self, node: u64) -> Vec<String> {
        let state = self.cluster.state();
        let routes = &state.node(NodeId(node)).unwrap().approved_routes;
        routes.iter().map(ToString::to_string).collect()
    }

    async fn wait_for(&mut self, node: u64, routes: &[&str]) {
        let wait = async {
            while self.approved(node) != routes {
                let _ = self.changes.recv().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{:?}", self.approved(node));
    }
}

fn proof() -> PreAuthKeyProof {
    PreAuthKeyProof {
        prefix: "0123456789ab".to_owned(),
        secret_hash: hash_secret(&PEPPER, SecretKind::PreAuthKey, &[1])
            .to_vec()
            .into(),
    }
}

fn hostinfo(routes: &str) -> bytes::Bytes {
    format!(r#"{{"Hostname":"router","RoutableIPs":{routes}}}"#).into()
}

#[tokio::test]
async fn routes_are_approved_at_registration_when_advertised_later_and_for_new_tags() {
    let mut world = World::new().await;
    world.policy(POLICY).await;
    let node = world.router(1, r#"["10.1.0.0/16","192.168.1.0/24"]"#).await;
    world.wait_for(node, &["10.1.0.0/16"]).await;
    let update = pb::UpdateNode {
        node_id: node,
        hostinfo_json: hostinfo(r#"["192.168.1.0/24","0.0.0.0/0","::/0"]"#),
        ..Default::default()
    };
    world.ok(Op::UpdateNode(update)).await;
    let more = ["0.0.0.0/0", "10.1.0.0/16", "::/0"];
    world.wait_for(node, &more).await;
    let tags = pb::SetNodeTags {
        node_id: node,
        tags: vec!["tag:router".to_owned()],
    };
    world.ok(Op::SetNodeTags(tags)).await;
    let all = ["0.0.0.0/0", "10.1.0.0/16", "192.168.1.0/24", "::/0"];
    world.wait_for(node, &all).await;
    world.tasks.abort_all();
}

#[tokio::test]
async fn a_new_policy_or_user_approves_what_was_advertised_before() {
    let mut world = World::new().await;
    let many: Vec<u64> = {
        let mut nodes = Vec::new();
        for device in 1..=3 {
            nodes.push(world.router(device, r#"["10.1.0.0/16"]"#).await);
        }
        nodes
    };
    world.policy(&POLICY.replace("alice", "carol")).await;
    let rename = pb::RenameUser {
        user_id: 1,
        name: "carol".to_owned(),
    };
    world.ok(Op::RenameUser(rename)).await;
    for node in &many {
        world.wait_for(*node, &["10.1.0.0/16"]).await;
    }
    world.policy("{}").await;
    world.set_routes(many[0], &["172.16.0.0/12"]).await;
    world.policy(&POLICY.replace("alice", "carol")).await;
    world
        .wait_for(many[0], &["10.1.0.0/16", "172.16.0.0/12"])
        .await;
}

#[tokio::test]
async fn what_an_administrator_took_away_stays_away_also_under_the_next_leader() {
    let mut world = World::new().await;
    world.policy(POLICY).await;
    let first = world.router(1, r#"["10.1.0.0/16"]"#).await;
    world.wait_for(first, &["10.1.0.0/16"]).await;
    world.set_routes(first, &[]).await;
    // Whoever leads next looks at all nodes, in order of their ids.
    world.tasks.abort_all();
    spawn_route_approval(world.cluster.clone(), &mut world.tasks);
    let second = world.router(2, r#"["10.2.0.0/16"]"#).await;
    world.wait_for(second, &["10.2.0.0/16"]).await;
    assert!(world.approved(first).is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_lead_takes_up_what_was_left() {
    let mut world = World::new().await;
    world.tasks.abort_all();
    world.policy(POLICY).await;
    let node = world.router(1, r#"["10.1.0.0/16"]"#).await;
    world.log.set_available(false);
    spawn_route_approval(world.cluster.clone(), &mut world.tasks);
    tokio::time::sleep(3 * LOOK_EVERY).await;
    assert!(world.approved(node).is_empty());
    world.log.set_available(true);
    world.wait_for(node, &["10.1.0.0/16"]).await;
}

#[tokio::test]
async fn a_policy_that_is_not_understood_approves_nothing_and_ends_nothing() {
    let mut world = World::new().await;
    let node = world.router(1, r#"["10.1.0.0/16"]"#).await;
    world.policy("{ fromTheFuture").await;
    world.policy(POLICY).await;
    world.wait_for(node, &["10.1.0.0/16"]).await;
}
