use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::state::v1::{DecideSshCheck, SetPolicy, StartSshCheck, command::Op};

use super::*;
use crate::netmap::testing::World;
use crate::state::secret::AuthId;
use crate::types::NodeId;

/// Machine key of the destination.
const DST_MACHINE: MachineKey = MachineKey::from_bytes([2; 32]);

/// Alice's nodes 1 and 2, and a policy by which she is checked as `deploy` once an hour, as root
/// each time, and as `guest` never.
struct Scene {
    world: World,
    src: NodeId,
    dst: NodeId,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new();
        let src = world.register(1, 101, "alice").unwrap();
        let dst = world.register(2, 102, "alice").unwrap();
        let mut scene = Self { world, src, dst };
        scene.set_policy(
            r#"{"ssh": [
                {"action": "check", "src": ["alice@"], "dst": ["autogroup:self"],
                 "users": ["deploy"], "checkPeriod": "1h"},
                {"action": "check", "src": ["alice@"], "dst": ["autogroup:self"],
                 "users": ["root"], "checkPeriod": "always"},
                {"action": "accept", "src": ["alice@"], "dst": ["autogroup:self"],
                 "users": ["guest"]},
            ]}"#,
        );
        scene
    }

    fn set_policy(&mut self, text: &str) {
        let op = SetPolicy {
            text: text.to_owned(),
            ..Default::default()
        };
        self.world.run(Op::SetPolicy(op)).unwrap();
    }

    /// Begins a check of alice as this user.
    fn begin(&mut self, number: u8, local_user: &str) -> AuthId {
        let auth_id = AuthId::from_random([number; 12]);
        let op = StartSshCheck {
            auth_id: auth_id.to_string(),
            src_node_id: self.src.0,
            dst_node_id: self.dst.0,
            local_user: local_user.to_owned(),
        };
        self.world.run(Op::StartSshCheck(op)).unwrap();
        auth_id
    }

    fn conclude(&mut self, auth_id: &AuthId, approved: bool) {
        let auth_id = auth_id.to_string();
        let op = DecideSshCheck { auth_id, approved };
        self.world.run(Op::DecideSshCheck(op)).unwrap();
    }

    fn ask(&self, local_user: &str, auth_id: Option<&AuthId>) -> Ask {
        Ask {
            src: self.src,
            dst: self.dst,
            local_user: local_user.to_owned(),
            auth_id: auth_id.cloned(),
        }
    }

    fn decide(&self, ask: &Ask, has_waited: bool) -> Step {
        self.decide_by(true, ask, has_waited)
    }

    fn decide_by(&self, is_fresh: bool, ask: &Ask, has_waited: bool) -> Step {
        let state = Arc::new(self.world.state.clone());
        let basis = Arc::new(Basis::of(self.world.index, state));
        let known = Known { basis, is_fresh };
        decide(&known, DST_MACHINE, ask, has_waited, self.world.now)
    }

    /// The step for a login as this user, perhaps with a check.
    fn step(&self, local_user: &str, auth_id: Option<&AuthId>) -> Step {
        self.decide(&self.ask(local_user, auth_id), false)
    }
}

fn is_accepted(step: &Step) -> bool {
    matches!(step, Step::Answer(action) if action.accept && !action.reject)
}

fn is_rejected(step: &Step) -> bool {
    matches!(step, Step::Answer(action) if action.reject && !action.message.is_empty())
}

#[test]
fn somebody_unchecked_is_asked_about_and_let_in_once_approved() {
    let mut scene = Scene::new();
    assert_eq!(scene.step("deploy", None), Step::Begin);
    let auth_id = scene.begin(1, "deploy");
    assert_eq!(scene.step("deploy", Some(&auth_id)), Step::Wait);
    scene.conclude(&auth_id, true);
    let step = scene.step("deploy", Some(&auth_id));
    assert!(is_accepted(&step), "{step:?}");
    assert!(matches!(step, Step::Answer(action) if action.allow_agent_forwarding));
}

#[test]
fn an_approval_lets_in_later_logins_until_the_period_is_over() {
    let mut scene = Scene::new();
    let auth_id = scene.begin(1, "deploy");
    scene.conclude(&auth_id, true);
    let hour = Duration::from_secs(3600);
    scene.world.now = scene
        .world
        .now
        .saturating_add(hour - Duration::from_millis(1));
    assert!(is_accepted(&scene.step("deploy", None)));
    scene.world.now = scene.world.now.saturating_add(Duration::from_millis(1));
    assert_eq!(scene.step("deploy", None), Step::Begin);
}

#[test]
fn always_means_that_no_approval_lasts_whatever_the_clock_says() {
    let mut scene = Scene::new();
    let auth_id = scene.begin(1, "root");
    scene.conclude(&auth_id, true);
    assert!(is_accepted(&scene.step("root", Some(&auth_id))));
    assert_eq!(scene.step("root", None), Step::Begin);
    let behind = scene.world.now.saturating_sub(Duration::from_secs(5));
    scene.world.now = behind;
    assert_eq!(scene.step("root", None), Step::Begin);
}

#[test]
fn a_rejected_login_is_told_and_not_asked_again() {
    let mut scene = Scene::new();
    let auth_id = scene.begin(1, "deploy");
    scene.conclude(&auth_id, false);
    assert!(is_rejected(&scene.step("deploy", Some(&auth_id))));
    assert_eq!(scene.step("deploy", None), Step::Begin);
}

#[test]
fn a_check_that_is_gone_is_begun_anew_unless_it_ran_out_under_the_waiter() {
    let scene = Scene::new();
    let unknown = AuthId::from_random([9; 12]);
    let ask = scene.ask("deploy", Some(&unknown));
    assert_eq!(scene.decide(&ask, false), Step::Begin);
    assert!(is_rejected(&scene.decide(&ask, true)));
}

#[test]
fn a_policy_that_changes_under_the_waiter_decides() {
    let mut scene = Scene::new();
    let auth_id = scene.begin(1, "deploy");
    scene.conclude(&auth_id, true);
    scene.set_policy(r#"{"ssh": []}"#);
    assert!(is_rejected(&scene.step("deploy", Some(&auth_id))));
    let open = r#"{"ssh": [{"action": "accept", "src": ["alice@"], "dst": ["autogroup:self"],
        "users": ["deploy"]}]}"#;
    scene.set_policy(open);
    assert!(is_accepted(&scene.step("deploy", None)));
}

#[test]
fn what_the_policy_says_without_a_check_needs_none() {
    let scene = Scene::new();
    assert!(is_accepted(&scene.step("guest", None)));
    // The account may be called otherwise than what was asked for.
    assert_eq!(scene.step("Deploy", None), Step::Begin);
}

#[test]
fn an_approval_just_before_the_check_is_forgotten_lets_its_waiter_in() {
    let mut scene = Scene::new();
    let auth_id = scene.begin(1, "deploy");
    scene.conclude(&auth_id, true);
    let forgotten = AuthId::from_random([9; 12]);
    let ask = scene.ask("deploy", Some(&forgotten));
    assert!(is_accepted(&scene.decide(&ask, true)));
}

#[test]
fn an_approval_in_one_window_lets_in_the_other_as_the_same_user_only() {
    let mut scene = Scene::new();
    let (first, second) = (scene.begin(1, "deploy"), scene.begin(2, "deploy"));
    let as_root = scene.begin(3, "root");
    assert_eq!(scene.step("deploy", Some(&second)), Step::Wait);
    scene.conclude(&first, true);
    assert!(is_accepted(&scene.step("deploy", Some(&second))));
    assert_eq!(scene.step("root", Some(&as_root)), Step::Wait);
}

#[test]
fn a_check_of_another_login_cannot_be_used() {
    let mut scene = Scene::new();
    let third = scene.world.register(3, 103, "alice").unwrap();
    let auth_id = scene.begin(1, "deploy");
    scene.conclude(&auth_id, true);
    let other = Ask {
        src: third,
        ..scene.ask("deploy", Some(&auth_id))
    };
    for ask in [other, scene.ask("root", Some(&auth_id))] {
        let step = scene.decide(&ask, false);
        assert!(is_rejected(&step), "{ask:?}: {step:?}");
    }
}

#[test]
fn only_the_destination_asks_and_only_about_nodes_that_are_there() {
    let scene = Scene::new();
    let gone = NodeId(99);
    let ask = scene.ask("deploy", None);
    let turned = Ask {
        src: scene.dst,
        dst: scene.src,
        ..ask.clone()
    };
    let from_nowhere = Ask {
        src: gone,
        ..ask.clone()
    };
    let to_nowhere = Ask { dst: gone, ..ask };
    for ask in [&turned, &to_nowhere] {
        assert_eq!(scene.decide(ask, false), Step::Refuse);
    }
    assert!(is_rejected(&scene.decide(&from_nowhere, false)));
    for ask in [&from_nowhere, &to_nowhere] {
        assert_eq!(scene.decide_by(false, ask, false), Step::Behind);
    }
}
