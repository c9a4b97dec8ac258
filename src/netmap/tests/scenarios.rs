//! Scripts and what clients are told while they run: `testdata/*.txt` beside this folder.
//!
//! Lines that start with `>` are commands, the others are what they print. After a change of what is
//! printed, `UPDATE_GOLDENS=1 cargo test netmap::tests::scenarios` writes the files anew; the diff
//! is for review.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrascale_proto::state::v1 as pb;
use serde_json::Value;

use crate::netmap::testing::full_map;
use crate::netmap::testing::{World, endpoints, key};
use crate::netmap::{Basis, Wire};
use crate::tailcfg::MapResponse;
use crate::types::NodeId;

/// A scenario as it runs. Nodes are named by the number of their device.
struct Scenario {
    world: World,
    devices: BTreeMap<u8, NodeId>,
    printed: String,
}

impl Scenario {
    fn run(&mut self, command: &str) {
        let mut words = command.split_whitespace();
        let verb = words.next().unwrap();
        let (_, rest) = command.trim().split_once(' ').unwrap_or_default();
        match verb {
            "register" => return self.register(&words.collect::<Vec<_>>()),
            "policy" => return self.world.set_policy(rest),
            "resolver" => return self.world.config.dns.global.push(rest.to_owned()),
            _ => {}
        }
        let number: u64 = words.next().unwrap().parse().unwrap();
        let args: Vec<_> = words.collect();
        let first = args.first().copied().unwrap_or_default();
        match verb {
            "pass" => return self.world.pass(i64::try_from(number).unwrap() * 1000),
            "replica-up" => return self.world.replica_up(number),
            "replica-down" => return self.world.replica_down(number),
            "rename-user" => return self.world.rename_user(number, first),
            _ => {}
        }
        let id = self.devices[&u8::try_from(number).unwrap()];
        let world = &mut self.world;
        match verb {
            "report" => world.update(id, report(&args)),
            "open" => world.open(id, first.parse().unwrap()),
            "close" => world.close(id),
            "delete" => world.delete(id),
            "rename" => world.rename(id, first),
            "tag" => world.tag(id, &args),
            "approve" => world.approve(id, &args),
            "expire" if first == "never" => world.expire(id, None),
            "expire" => world.expire(id, Some(first.parse::<i64>().unwrap() * 1000)),
            "map" => self.print_map(id),
            "delta" => self.print_delta(&[number.to_string().as_str()], &args),
            _ => panic!("unknown command {command:?}"),
        }
    }

    fn register(&mut self, args: &[&str]) {
        let [device, user, node_key] = args else {
            panic!("register DEVICE USER KEY")
        };
        let device = device.parse().unwrap();
        let id = self
            .world
            .register(device, node_key.parse().unwrap(), user)
            .unwrap();
        self.devices.insert(device, id);
    }

    fn print_map(&mut self, id: NodeId) {
        let now = self.world.now;
        let state = Arc::new(self.world.state.clone());
        let basis = Arc::new(Basis::of(self.world.index, state));
        let message = full_map(&basis, &self.world.config, id, now, Wire::Raw);
        self.print(&message);
    }

    /// What all changes since the last delta mean for some devices.
    fn print_delta(&mut self, first: &[&str], rest: &[&str]) {
        let delta = self.world.take_delta();
        for device in first.iter().chain(rest) {
            writeln!(self.printed, "to {device}:").unwrap();
            let id = self.devices[&device.parse().unwrap()];
            let viewer = delta.basis().state.node(id).unwrap();
            let outline = delta.outline(viewer.id);
            match delta.message(&self.world.config, viewer, &outline) {
                Some(message) => self.print(&message),
                None => self.printed.push_str("  nothing\n"),
            }
        }
    }

    /// A field a line, and an item of the long lists a line.
    fn print(&mut self, message: &MapResponse) {
        let json = serde_json::to_string(message).unwrap();
        let fields: BTreeMap<String, Value> = serde_json::from_str(&json).unwrap();
        for (name, value) in fields {
            if let Some(items) = value.as_array().filter(|_| name.starts_with("Peers")) {
                for item in items {
                    writeln!(self.printed, "  {name}[] {item}").unwrap();
                }
            } else {
                writeln!(self.printed, "  {name} {value}").unwrap();
            }
        }
    }
}

/// `endpoints=A,B disco=N home=R capver=N hostinfo=JSON`
fn report(args: &[&str]) -> pb::UpdateNode {
    let mut update = pb::UpdateNode::default();
    for (name, value) in args.iter().map(|arg| arg.split_once('=').unwrap()) {
        match name {
            "endpoints" => {
                update.endpoints = Some(endpoints(&value.split(',').collect::<Vec<_>>()))
            }
            "disco" => update.disco_key = key(value.parse().unwrap()),
            "home" => update.home_derp = Some(value.parse().unwrap()),
            "capver" => update.capver = Some(value.parse().unwrap()),
            "hostinfo" => update.hostinfo_json = value.to_owned().into(),
            _ => panic!("unknown report {name:?}"),
        }
    }
    update
}

fn replay(script: &str) -> String {
    let mut scenario = Scenario {
        world: World::new(),
        devices: BTreeMap::new(),
        printed: String::new(),
    };
    for line in script.lines().filter(|line| line.starts_with(['>', '#'])) {
        writeln!(scenario.printed, "{line}").unwrap();
        if let Some(command) = line.strip_prefix('>') {
            scenario.run(command);
        }
    }
    scenario.printed
}

fn check(name: &str) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "src", "netmap", "testdata"]
        .iter()
        .collect();
    check_file(&folder.join(name));
}

fn check_file(path: &Path) {
    let golden = std::fs::read_to_string(path).unwrap();
    let replayed = replay(&golden);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(path, replayed).unwrap();
        return;
    }
    for (number, (expected, got)) in golden.lines().zip(replayed.lines()).enumerate() {
        assert_eq!(got, expected, "{} line {}", path.display(), number + 1);
    }
    assert_eq!(
        golden.lines().count(),
        replayed.lines().count(),
        "{}",
        path.display()
    );
}

#[test]
fn first_map() {
    check("first_map.txt");
}

#[test]
fn life_of_a_peer() {
    check("life_of_a_peer.txt");
}

#[test]
fn routes() {
    check("routes.txt");
}

#[test]
fn own_node() {
    check("own_node.txt");
}

#[test]
fn nextdns() {
    check("nextdns.txt");
}

#[test]
fn relays() {
    check("relays.txt");
}
