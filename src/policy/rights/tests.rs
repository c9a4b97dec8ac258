use std::sync::Arc;

use super::*;
use crate::policy::Engine;
use crate::state::User;
use crate::types::{NodeId, Timestamp, UserId};

fn user(id: u64, name: &str, role: UserRole) -> Arc<User> {
    Arc::new(User {
        id: UserId(id),
        name: name.to_owned(),
        display_name: String::new(),
        email: format!("{name}@example.com"),
        picture_url: String::new(),
        provider: String::new(),
        provider_id: String::new(),
        created_at: Timestamp::default(),
        role,
    })
}

fn rights(text: &str, users: Vec<Arc<User>>) -> Rights {
    Rights {
        version: 1,
        document: Arc::new(Document::parse(text, &Facts::default()).unwrap()),
        facts: Arc::new(Facts {
            users,
            domains: None,
        }),
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn routes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const OWNERS: &str = r#"{
    "groups": {"group:ops": ["bob@example.com"]},
    "tagOwners": {
        "tag:web": ["alice@"],
        "tag:db": ["group:ops"],
        "tag:all": ["autogroup:member"],
        "tag:prod": ["tag:web", "tag:loop"],
        "tag:loop": ["tag:prod"],
        "tag:none": [],
    },
}"#;

#[test]
fn a_tag_is_owned_by_name_by_group_by_role_and_through_tags() {
    let alice = user(1, "alice", UserRole::Member);
    let bob = user(2, "bob", UserRole::Member);
    let carol = user(3, "carol", UserRole::Admin);
    let dave = user(4, "dave", UserRole::Auditor);
    let users = vec![alice.clone(), bob.clone(), carol.clone(), dave.clone()];
    let rights = rights(OWNERS, users);
    let all = texts(&[
        "tag:web", "tag:db", "tag:all", "tag:prod", "tag:loop", "tag:none", "tag:lost",
    ]);
    let (web, ops) = (texts(&["tag:web"]), texts(&["tag:other"]));
    for (owner, owned) in [
        (
            Owner::User(&alice),
            &["tag:web", "tag:all", "tag:prod", "tag:loop"][..],
        ),
        (Owner::User(&bob), &["tag:db", "tag:all"]),
        (
            Owner::User(&carol),
            &[
                "tag:web", "tag:db", "tag:all", "tag:prod", "tag:loop", "tag:none",
            ],
        ),
        (Owner::User(&dave), &["tag:all"]),
        (Owner::Tags(&web), &["tag:web", "tag:prod", "tag:loop"]),
        (Owner::Tags(&ops), &[]),
    ] {
        let grant = rights.grant(owner, &all);
        assert_eq!(
            (grant.tags, grant.policy_version),
            (texts(owned), 1),
            "{owner:?}"
        );
    }
    assert!(rights.defines("tag:none") && !rights.defines("tag:lost"));
}

#[test]
fn a_name_that_means_two_users_owns_nothing() {
    let alice = user(1, "alice", UserRole::Member);
    let twin = Arc::new(User {
        id: UserId(2),
        ..(*alice).clone()
    });
    let rights = rights(OWNERS, vec![alice.clone(), twin]);
    let grant = rights.grant(Owner::User(&alice), &texts(&["tag:web"]));
    assert!(grant.tags.is_empty());
}

#[test]
fn under_an_old_policy_an_administrator_sets_any_tag_and_nobody_else_one_without_owners() {
    let alice = user(1, "alice", UserRole::Member);
    let text = "tagOwners:\n  tag:web: [alice]\nacls: []\n";
    let rights = rights(text, vec![alice.clone()]);
    assert!(rights.defines("tag:test"));
    let grant = rights.grant(Owner::User(&alice), &texts(&["tag:test", "tag:web"]));
    assert_eq!(grant.tags, ["tag:web"]);
}

const APPROVERS: &str = r#"{
    "tagOwners": {"tag:router": []},
    "autoApprovers": {
        "routes": {
            "10.0.0.0/8": ["alice@", "tag:router"],
            "0.0.0.0/0": ["tag:router"],
            "fd00::/8": ["autogroup:member"],
        },
        "exitNode": ["alice@"],
    },
}"#;

#[test]
fn routes_inside_a_key_are_approved_and_exit_routes_only_by_their_own_list() {
    let alice = user(1, "alice", UserRole::Member);
    let bob = user(2, "bob", UserRole::Member);
    let rights = rights(APPROVERS, vec![alice.clone(), bob.clone()]);
    let router = texts(&["tag:router"]);
    let wanted = routes(&[
        "::/0",
        "192.168.0.0/24",
        "10.1.0.0/16",
        "10.0.0.0/8",
        "fd00:1::/32",
        "0.0.0.0/0",
        "0.0.0.0/1",
    ]);
    for (owner, approved) in [
        (
            Owner::User(&alice),
            &[
                "0.0.0.0/0",
                "10.0.0.0/8",
                "10.1.0.0/16",
                "::/0",
                "fd00:1::/32",
            ][..],
        ),
        (Owner::User(&bob), &["fd00:1::/32"]),
        (
            Owner::Tags(&router),
            &["0.0.0.0/1", "10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/24"],
        ),
    ] {
        let found = approved_routes(&rights.document, &rights.facts, owner, &wanted);
        assert_eq!(found, routes(approved), "{owner:?}");
    }
}

#[test]
fn open_routes_are_those_that_nobody_has_decided_about() {
    let rights = rights(APPROVERS, vec![user(1, "alice", UserRole::Member)]);
    let mut node = crate::netmap::testing::node(1);
    node.user_id = Some(UserId(1));
    node.hostinfo = Arc::new(crate::tailcfg::Hostinfo {
        routable_ips: routes(&["10.1.0.7/16", "10.2.0.0/16", "10.3.0.0/16", "172.16.0.0/12"]),
        ..Default::default()
    });
    node.approved_routes = routes(&["10.3.0.0/16"]);
    assert_eq!(rights.open_routes(&node), routes(&["10.2.0.0/16"]));
    node.routes_set_under = 1;
    assert!(rights.open_routes(&node).is_empty());
}

impl Engine {
    /// What the policy approves of the wanted routes, for a node that the engine knows.
    pub(in crate::policy) fn approved_routes(&self, node: NodeId, wanted: &[IpNet]) -> Vec<IpNet> {
        let place = self.roster().place(node);
        let Some(member) = place.and_then(|place| self.roster().member(place)) else {
            return Vec::new();
        };
        let facts = &self.roster().facts;
        let owner = match member.owner.and_then(|id| facts.user(id)) {
            Some(user) => Owner::User(user),
            None => Owner::Tags(&member.tags),
        };
        approved_routes(self.document(), facts, owner, wanted)
    }
}
