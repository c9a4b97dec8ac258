//! A tailnet of headscale 0.22: the devices of `default` are the administrator's, those of `guest`
//! are visitors'. Policies are in YAML and name users without `@`.

use super::tailnet::Tailnet;
use crate::netmap::testing::World;
use crate::policy::Reading;
use crate::state::State;
use crate::types::NodeId;

const DEFAULT: [u64; 4] = [2, 5, 9, 1];
const GUEST_1: u64 = 10;
const GUEST_2: u64 = 11;

fn tailnet() -> Tailnet {
    let mut tailnet = Tailnet::of(&["default", "guest"]);
    let nodes = DEFAULT.map(|id| (id, "default"));
    for (id, owner) in nodes
        .into_iter()
        .chain([(GUEST_1, "guest"), (GUEST_2, "guest")])
    {
        let last = u8::try_from(id).unwrap();
        tailnet.node(id, owner).addresses = vec![[10, 1, 0, last].into()];
    }
    tailnet
}

const GUESTS_AMONG_THEMSELVES: &str = r#"
acls:
  - action: accept
    src:
      - "default"
    dst:
      - "*:*"
      - "guest:*"
  - action: accept
    src:
      - "guest"
    dst:
      - "guest:*"
"#;

const WITH_TAGGED_ONES: &str = r#"
acls:
  - action: accept
    src:
      - "default"
    dst:
      - "*:*"
      - "guest:*"
      - "tag:test:*"
  - action: accept
    src:
      - "guest"
    dst:
      - "guest:*"
      - "tag:test:*"
"#;

/// Who reaches whom at port 22, as `a>b` in the order of ids.
fn pairs(tailnet: &Tailnet, policy: &str) -> Vec<String> {
    let engine = tailnet.engine(policy);
    let ids = || tailnet.members.iter().map(|member| member.id.0);
    let pairs = ids().flat_map(|from| ids().map(move |to| (from, to)));
    pairs
        .filter(|(from, to)| from != to && tailnet.reaches(&engine, *from, *to, 22))
        .map(|(from, to)| format!("{from}>{to}"))
        .collect()
}

/// What every policy here lets the administrator's devices do: everything.
fn everything_from_default(tailnet: &Tailnet) -> Vec<String> {
    let ids = || tailnet.members.iter().map(|member| member.id.0);
    let pairs = ids().flat_map(|from| ids().map(move |to| (from, to)));
    let pairs = pairs.filter(|(from, to)| from != to && DEFAULT.contains(from));
    pairs.map(|(from, to)| format!("{from}>{to}")).collect()
}

#[test]
fn one_rule_allows_everything() {
    let tailnet = tailnet();
    let policy = r#"
# acl.yaml
acls:
  - action: accept
    src:
      - "*"
    dst:
      - "*:*"
"#;
    assert_eq!(pairs(&tailnet, policy).len(), 6 * 5);
    assert_eq!(pairs(&tailnet, "").len(), 6 * 5);
}

#[test]
fn guests_see_everybody_and_reach_only_guests() {
    let tailnet = tailnet();
    let engine = tailnet.engine(GUESTS_AMONG_THEMSELVES);
    for id in DEFAULT {
        assert!(engine.sees(NodeId(GUEST_1), NodeId(id)));
        assert!(!tailnet.reaches(&engine, GUEST_1, id, 22));
        assert!(tailnet.reaches(&engine, id, GUEST_1, 22));
    }
    let mut wanted = everything_from_default(&tailnet);
    wanted.extend(["10>11", "11>10"].map(str::to_owned));
    assert_eq!(pairs(&tailnet, GUESTS_AMONG_THEMSELVES), wanted);
}

#[test]
fn a_tagged_guest_is_no_guest_until_the_tag_is_listed() {
    let mut tailnet = tailnet();
    tailnet.tag(GUEST_2, &["tag:test"]);
    assert_eq!(
        pairs(&tailnet, GUESTS_AMONG_THEMSELVES),
        everything_from_default(&tailnet)
    );
    let mut wanted = everything_from_default(&tailnet);
    wanted.push("10>11".to_owned());
    assert_eq!(pairs(&tailnet, WITH_TAGGED_ONES), wanted);
    assert!(
        tailnet
            .warnings(WITH_TAGGED_ONES)
            .contains("\"tag:test\" has no owners")
    );
}

fn defines(state: &State, tag: &str) -> bool {
    Reading::of(state, None).rights().unwrap().defines(tag)
}

#[test]
fn an_administrator_may_set_any_tag() {
    let mut world = World::new();
    world.set_policy(GUESTS_AMONG_THEMSELVES);
    assert!(defines(&world.state, "tag:test"));
    world.set_policy(r#"{"acls": []}"#);
    assert!(!defines(&world.state, "tag:test"));
}

#[test]
fn the_filter_of_a_guest_is_this() {
    let tailnet = tailnet();
    let filter = tailnet
        .engine(GUESTS_AMONG_THEMSELVES)
        .filter(NodeId(GUEST_1));
    assert_eq!(
        serde_json::to_string(&filter).unwrap(),
        concat!(
            r#"[{"SrcIPs":["10.1.0.1","10.1.0.2","10.1.0.5","10.1.0.9"],"DstPorts":["#,
            r#"{"IP":"*","Ports":{"First":0,"Last":65535}},"#,
            r#"{"IP":"10.1.0.10","Ports":{"First":0,"Last":65535}}]},"#,
            r#"{"SrcIPs":["10.1.0.10","10.1.0.11"],"DstPorts":["#,
            r#"{"IP":"10.1.0.10","Ports":{"First":0,"Last":65535}}]}]"#
        )
    );
}
