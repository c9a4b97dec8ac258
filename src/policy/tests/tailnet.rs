//! A small tailnet to try policies on.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::check::check_for;
use super::super::engine::Engine;
use super::super::facts::{Facts, domain};
use super::super::posture::Device;
use super::super::roster::{Member, Roster};
use crate::state::{User, UserRole};
use crate::tailcfg::Hostinfo;
use crate::types::{NodeId, Timestamp, UserId};

/// Nodes of users; a node's number is its id and the last part of its addresses.
#[derive(Clone, Default)]
pub(super) struct Tailnet {
    pub(super) users: Vec<Arc<User>>,
    pub(super) members: Vec<Member>,
}

impl Tailnet {
    /// Users by name; their ids count from 1.
    pub(super) fn of(users: &[&str]) -> Self {
        let users = users.iter().zip(1..).map(|(name, id)| {
            Arc::new(User {
                id: UserId(id),
                name: (*name).to_owned(),
                display_name: String::new(),
                email: String::new(),
                picture_url: String::new(),
                provider: String::new(),
                provider_id: String::new(),
                created_at: Timestamp::default(),
                role: UserRole::Member,
            })
        });
        Self {
            users: users.collect(),
            members: Vec::new(),
        }
    }

    /// Adds a node of a user, or of nobody where it gets tags.
    pub(super) fn node(&mut self, id: u64, owner: &str) -> &mut Member {
        let owner = self.users.iter().find(|user| user.name == owner);
        let owner = owner.map(|user| user.id);
        let place = self.members.partition_point(|member| member.id.0 < id);
        let member = Member {
            id: NodeId(id),
            owner,
            tags: Vec::new(),
            addresses: vec![
                IpAddr::from([100, 64, 0, u8::try_from(id).unwrap()]),
                format!("fd7a:115c:a1e0::{id:x}").parse().unwrap(),
            ],
            subnets: Vec::new(),
            exits: Vec::new(),
            is_online: true,
            device: Device::default(),
        };
        self.members.insert(place, member);
        &mut self.members[place]
    }

    pub(super) fn tag(&mut self, id: u64, tags: &[&str]) {
        let mut members = self.members.iter_mut();
        let member = members.find(|member| member.id.0 == id).unwrap();
        member.owner = None;
        member.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    }

    pub(super) fn roster(&self) -> Roster {
        let emails = self.users.iter().map(|user| &user.email);
        let domains = emails.filter_map(|email| domain(email));
        let facts = Facts {
            users: self.users.clone(),
            domains: Some(domains.collect()),
        };
        Roster::new(self.members.clone(), facts)
    }

    /// Sets a policy; what is wrong with it fails the test.
    pub(super) fn engine(&self, policy: &str) -> Engine {
        self.try_engine(policy).unwrap()
    }

    pub(super) fn try_engine(&self, policy: &str) -> Result<Engine, String> {
        let checked = check_for(policy, self.roster());
        checked
            .map(|(engine, _)| engine)
            .map_err(|errors| errors.to_string())
    }

    pub(super) fn warnings(&self, policy: &str) -> String {
        check_for(policy, self.roster()).unwrap().1.to_string()
    }

    /// Whether the filter of one node lets in the other at a port, by the address of this family.
    pub(super) fn reaches(&self, engine: &Engine, from: u64, to: u64, port: u16) -> bool {
        let address = |id: u64| {
            let mut members = self.members.iter();
            members.find(|member| member.id.0 == id).unwrap().addresses[0]
        };
        let (src, dst) = (address(from), address(to));
        let filter = engine.filter(NodeId(to));
        filter.iter().any(|rule| {
            let mut ports = rule.dst_ports.iter().flatten();
            rule.src_ips.iter().any(|text| holds(text, src))
                && ports.any(|entry| {
                    holds(&entry.ip, dst) && (entry.ports.first..=entry.ports.last).contains(&port)
                })
        })
    }
}

/// A device that runs this system and this client.
pub(super) fn device(os: &str, version: &str) -> Device {
    Device::of(&Arc::new(Hostinfo {
        os: os.into(),
        ipn_version: version.into(),
        ..Hostinfo::default()
    }))
}

/// Whether a text of a filter names an address.
fn holds(text: &str, address: IpAddr) -> bool {
    if text == "*" {
        return true;
    }
    if let Some((first, last)) = text.split_once('-') {
        let ends: (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
        return ends.0.is_ipv4() == address.is_ipv4() && ends.0 <= address && address <= ends.1;
    }
    match text.parse::<IpNet>() {
        Ok(prefix) => prefix.contains(&address),
        Err(_) => text.parse::<IpAddr>().unwrap() == address,
    }
}
