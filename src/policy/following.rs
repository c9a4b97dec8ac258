//! Engines that followed changes answer as engines that were made anew.

mod policies;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use self::policies::POLICIES;
use self::world::{ROUTES, step};
pub(super) use self::world::{Step, World};
use super::login::likeness;
use super::{Difference, Engine, Sight};
use crate::state::{Change, State};
use crate::types::NodeId;

/// Changes of one run.
const CHANGES: usize = 1_000;

/// Everything that an engine answers about the nodes of a state.
fn answers(engine: &Engine, state: &State) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    let ids: Vec<NodeId> = state.nodes().map(|node| node.id).collect();
    let all: Vec<ipnet::IpNet> = ROUTES.iter().map(|route| route.parse().unwrap()).collect();
    let carriers: Vec<NodeId> = engine.carriers().collect();
    let classes = engine.class_count();
    answers.insert("all".to_owned(), format!("{carriers:?} {classes}"));
    for id in &ids {
        let own = (
            serde_json::to_string(&engine.filter(*id)).unwrap(),
            serde_json::to_string(&engine.logins(*id)).unwrap(),
            engine.attributes(*id),
            engine.peer_attributes(*id),
            engine.hides_ipv4(*id),
            engine.approved_routes(*id, &all),
            engine.peers(*id).collect::<Vec<_>>(),
        );
        answers.insert(format!("{id:?}"), format!("{own:?}"));
        for peer in &ids {
            let primary = routes_of(state, *peer);
            let pair = (
                engine.sees(*id, *peer),
                engine.routes(*id, *peer, &primary),
                engine.login(*id, *peer, "root"),
                engine.login(*id, *peer, "deploy"),
            );
            answers.insert(format!("{id:?} {peer:?}"), format!("{pair:?}"));
        }
    }
    answers
}

/// The subnet routes of a node.
fn routes_of(state: &State, id: NodeId) -> Vec<ipnet::IpNet> {
    let node = state.node(id).unwrap();
    let routes = node.approved_routes.iter();
    let routes = routes.filter(|route| node.hostinfo.routable_ips.contains(route));
    routes
        .filter(|route| route.prefix_len() > 0)
        .copied()
        .collect()
}

/// Nodes of one class are told the same, and whoever owns them may use the same routes.
fn check_classes(engine: &Engine, state: &State) {
    let mut told: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    let mut usable: BTreeMap<u64, Vec<BTreeSet<ipnet::IpNet>>> = BTreeMap::new();
    for node in state.nodes() {
        let peers = state.nodes().map(|peer| peer.id);
        let routes = peers.map(|peer| engine.routes(node.id, peer, &routes_of(state, peer)));
        let routes: Vec<BTreeSet<ipnet::IpNet>> = routes.collect();
        let of_class = usable
            .entry(engine.route_class(node.id))
            .or_insert_with(|| routes.clone());
        assert_eq!(*of_class, routes, "routes of {:?}", node.id);
        let peers: Vec<NodeId> = engine.class_peers(node.id).collect();
        let of_class = told
            .entry(engine.class(node.id))
            .or_insert_with(|| peers.clone());
        assert_eq!(*of_class, peers, "class of {:?}", node.id);
    }
}

/// Nodes whose logins follow from the same have the same.
fn check_logins(engine: &Engine, state: &State) {
    let mut known = BTreeMap::new();
    for node in state.nodes() {
        let place = engine.roster.place(node.id).unwrap();
        let rules = &engine.plan.logins;
        if let Some(likeness) = likeness(rules, &engine.terms, &engine.roster, place) {
            let logins = engine.logins(node.id);
            let of_alike = known.entry(likeness).or_insert_with(|| logins.clone());
            assert_eq!(*of_alike, logins, "logins of {:?}", node.id);
        }
    }
}

/// Who is not in doubt has equal answers, and what comes into sight is what was not seen.
fn check_difference(before: &Engine, after: &Engine, state: &State) {
    let difference = Difference::of(before, after);
    for node in state.nodes() {
        let id = node.id;
        let filter = before.filter(id) == after.filter(id);
        assert!(
            filter || difference.may_change_filter(after, id),
            "filter of {id:?}"
        );
        let logins = before.logins(id) == after.logins(id);
        assert!(
            logins || difference.may_change_logins(after, id),
            "logins of {id:?}"
        );
        let attributes = before.attributes(id) == after.attributes(id);
        assert!(
            attributes || difference.may_change_attributes(after, id),
            "attributes of {id:?}"
        );
        let told = before.peer_attributes(id) != after.peer_attributes(id)
            || before.hides_ipv4(id) != after.hides_ipv4(id);
        assert_eq!(told, difference.told().contains(&id));
        if !difference.may_change_routes(before, after, id) {
            for peer in state.nodes().map(|peer| peer.id) {
                let routes = |engine: &Engine| engine.routes(id, peer, &routes_of(state, peer));
                assert!(!before.sees(id, peer) || routes(before) == routes(after));
            }
        }
        let old: BTreeSet<NodeId> = before.class_peers(id).collect();
        let new: BTreeSet<NodeId> = after.class_peers(id).collect();
        let sight = Sight::of(before, after, id);
        assert!(sight.came.iter().eq(new.difference(&old)));
        assert!(sight.went.iter().eq(old.difference(&new)));
    }
}

/// Changes that come soon after one another are followed as one.
fn run(steps: &[(Step, bool)]) {
    let mut world = World::new();
    let mut engine = Arc::new(Engine::of(&world.state));
    let mut gathered = Change::default();
    for (number, (step, is_last)) in steps.iter().enumerate() {
        gathered.merge(world.take(step));
        if !is_last {
            continue;
        }
        let change = std::mem::take(&mut gathered);
        let before = Arc::clone(&engine);
        engine = engine.follow(&world.state, &change);
        let anew = answers(&Engine::of(&world.state), &world.state);
        assert_eq!(
            answers(&engine, &world.state),
            anew,
            "step {number}: {step:?}"
        );
        check_classes(&engine, &world.state);
        check_logins(&engine, &world.state);
        check_difference(&before, &engine, &world.state);
        if Arc::ptr_eq(&before, &engine) {
            assert_eq!(answers(&before, &world.state), anew);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn following_any_changes_answers_as_looking_anew(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.8)), CHANGES)
    ) {
        run(&steps);
    }
}

#[test]
fn a_node_that_comes_and_goes_leaves_no_trace() {
    let mut world = World::new();
    for number in 0..5 {
        world.take(&Step::AddUser);
        let (owner, tags, routes) = (number, 4, 0);
        world.take(&Step::AddNode {
            owner,
            tags,
            routes,
        });
        let (tags, routes) = (u8::try_from(number).unwrap(), 0b1_0011);
        world.take(&Step::AddNode {
            owner,
            tags,
            routes,
        });
    }
    for policy in 0..POLICIES.len() {
        world.take(&Step::SetPolicy(policy));
        let before = Arc::new(Engine::of(&world.state));
        let mut told = before.clone();
        let known = answers(&before, &world.state);
        let owner = 2;
        for tags in [1, 2, 3, 4] {
            let routes = 0b11_0001;
            let added = world.take(&Step::AddNode {
                owner,
                tags,
                routes,
            });
            told = told.follow(&world.state, &added);
            let last = world.state.node_count() - 1;
            let removed = world.take(&Step::RemoveNode(last));
            assert!(!removed.is_empty());
            told = told.follow(&world.state, &removed);
            assert_eq!(answers(&told, &world.state), known);
        }
    }
}

#[test]
fn a_rule_that_comes_and_goes_leaves_no_trace() {
    let mut world = World::new();
    for number in 0..6 {
        world.take(&Step::AddUser);
        let (owner, tags, routes) = (number, 4 + u8::try_from(number % 2).unwrap(), 0);
        world.take(&Step::AddNode {
            owner,
            tags,
            routes,
        });
    }
    for policy in 0..POLICIES.len() {
        for other in 0..POLICIES.len() {
            world.take(&Step::SetPolicy(policy));
            let before = Arc::new(Engine::of(&world.state));
            let known = answers(&before, &world.state);
            let there = world.take(&Step::SetPolicy(other));
            let between = before.follow(&world.state, &there);
            let back = world.take(&Step::SetPolicy(policy));
            let after = between.follow(&world.state, &back);
            assert_eq!(answers(&after, &world.state), known);
        }
    }
}

#[test]
fn what_does_not_concern_the_policy_gives_the_same_engine() {
    let mut world = World::new();
    world.take(&Step::AddUser);
    let added = Step::AddNode {
        owner: 0,
        tags: 4,
        routes: 0,
    };
    world.take(&added);
    let engine = Arc::new(Engine::of(&world.state));
    for step in [Step::Report(0), Step::Open(0)] {
        let change = world.take(&step);
        assert!(!change.is_empty(), "{step:?}");
        assert!(Arc::ptr_eq(&engine, &engine.follow(&world.state, &change)));
    }
}

/// A tailnet of three users with two nodes each and one tagged node (ids 1 to 7).
fn small() -> World {
    let mut world = World::new();
    for _ in 0..3 {
        world.take(&Step::AddUser);
    }
    for number in 0..7 {
        world.take(&Step::AddNode {
            owner: number / 2,
            tags: if number < 6 { 4 } else { 1 },
            routes: 0,
        });
    }
    world
}

/// Follows some changes, and holds what is found to what is found anew.
fn follow(world: &mut World, engine: &mut Arc<Engine>, steps: &[Step]) {
    let mut change = Change::default();
    for step in steps {
        change.merge(world.take(step));
    }
    let before = std::mem::replace(engine, engine.follow(&world.state, &change));
    let anew = Engine::of(&world.state);
    assert_eq!(
        answers(engine, &world.state),
        answers(&anew, &world.state),
        "{steps:?}"
    );
    check_difference(&before, engine, &world.state);
}

fn set(text: &str) -> Step {
    Step::SetText(text.to_owned())
}

#[test]
fn a_node_that_is_gone_is_in_no_class() {
    let mut world = small();
    world.take(&set(r#"{"acls":[]}"#));
    let mut engine = Arc::new(Engine::of(&world.state));
    let all: Vec<Step> = (0..7).map(|_| Step::RemoveNode(0)).collect();
    let gone = [all, vec![Step::AddUser]].concat();
    follow(&mut world, &mut engine, &gone);
    assert_eq!(engine.class_count(), 0);
}

#[test]
fn a_rule_of_equal_sources_moves_an_own_rule_on_nodes_that_it_does_not_concern() {
    let mut world = small();
    let owner = world.state.users().next().unwrap().name.clone();
    let policy = |first: &str| {
        let text = format!(
            r#"{{"tagOwners":{{"tag:x":[],"tag:y":[]}},"acls":[{first}
                {{"action":"accept","src":["autogroup:tagged"],"dst":["{owner}@:1"]}},
                {{"action":"accept","src":["{owner}@"],"dst":["autogroup:self:2"]}}]}}"#
        );
        set(&text)
    };
    let other = format!(r#"{{"action":"accept","src":["{owner}@"],"dst":["tag:x:3"]}},"#);
    world.take(&policy(""));
    let mut engine = Arc::new(Engine::of(&world.state));
    for text in [other.as_str(), "", &other] {
        follow(&mut world, &mut engine, &[policy(text)]);
    }
}

#[test]
fn an_address_list_that_becomes_a_whole_node_is_merged_with_that_node() {
    let mut world = small();
    world.take(&set(r#"{"tagOwners":{"tag:x":[],"tag:y":[]},"acls":[
            {"action":"accept","src":["tag:x"],"dst":["*:1"]},
            {"action":"accept","src":["*"],"dst":["*:2"]},
            {"action":"accept","src":["100.64.0.7"],"dst":["*:3"]}]}"#));
    let mut engine = Arc::new(Engine::of(&world.state));
    for (families, routes) in [(2, 1), (0, 3), (2, 3), (1, 1)] {
        // New routes ask for all terms to be worked out.
        let steps = [
            Step::Readdress(families),
            Step::Advertise(0, routes),
            Step::Approve(0, routes),
        ];
        follow(&mut world, &mut engine, &steps);
    }
}

#[test]
fn a_user_concerns_no_nodes_but_their_own() {
    let mut world = small();
    let name = world.state.users().next().unwrap().name.clone();
    world.take(&set(&format!(
        r#"{{"groups":{{"group:a":["{name}@"]}},"tagOwners":{{"tag:x":[],"tag:y":[]}},
            "acls":[{{"action":"accept","src":["group:a"],"dst":["tag:x:1"]}},
                    {{"action":"accept","src":["autogroup:admin"],"dst":["autogroup:self:2"]}},
                    {{"action":"accept","src":["autogroup:member"],"dst":["autogroup:member:3"]}}],
            "ssh":[{{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"]}}]}}"#
    )));
    let mut engine = Arc::new(Engine::of(&world.state));
    let concerned = |before: &Engine, after: &Engine| {
        let difference = Difference::of(before, after);
        let ids = (1..=7).map(NodeId);
        let concerned = ids.filter(|id| {
            difference.may_change_filter(after, *id)
                || difference.may_change_logins(after, *id)
                || difference.may_change_attributes(after, *id)
        });
        concerned.map(|id| id.0).collect::<Vec<_>>()
    };
    // The first administrator takes that role from everybody else.
    follow(&mut world, &mut engine, &[Step::SetRole(2, 1)]);
    // Names follow the number of the step, and are free from here on.
    while world.made % 6 != 3 {
        world.take(&Step::Report(0));
    }
    let cases = [
        (Step::AddUser, vec![]),
        (Step::RenameUser(1), vec![]),
        (Step::RenameUser(0), vec![1, 2, 7]),
        (Step::SetRole(1, 2), vec![3, 4]),
        (Step::SetRole(1, 0), vec![3, 4]),
    ];
    for (step, wanted) in cases {
        let before = Arc::clone(&engine);
        follow(&mut world, &mut engine, std::slice::from_ref(&step));
        assert_eq!(concerned(&before, &engine), wanted, "{step:?}");
        assert!(Arc::ptr_eq(&before.plan, &engine.plan));
    }
}
