//! The tailnet as a whole: its first command, and later settings.

use hydrascale_proto::state::v1::{
    BackfillAddresses, InitTailnet, RefusalCode, ResealNoiseKey, UpdateSettings,
};

use super::super::convert::settings_from_proto;
use super::super::{Node, Settings, Tailnet};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{NodeId, Timestamp};

impl Txn<'_> {
    pub(super) fn init_tailnet(&mut self, op: &InitTailnet) -> Verdict {
        if self.state.tailnet.is_some() {
            return Err(refuse(
                RefusalCode::AlreadyExists,
                "the tailnet exists already: join this replica to it instead",
            ));
        }
        let settings = settings_from_proto(&op.settings.clone().unwrap_or_default())?;
        let secret_pepper = op.secret_pepper.as_ref().try_into().map_err(|_| {
            invalid(format!(
                "secret_pepper has {} bytes instead of 32",
                op.secret_pepper.len()
            ))
        })?;
        if op.noise_private_key.len() < NOISE_KEY_BYTES {
            return Err(invalid("noise_private_key has fewer than 32 bytes"));
        }
        self.put_tailnet(Tailnet {
            settings,
            noise_private_key: op.noise_private_key.clone(),
            secret_pepper,
            last_user_id: 0,
            last_node_id: 0,
            last_pre_auth_key_id: 0,
            last_api_key_id: 0,
            last_ipv4: None,
            last_ipv6: None,
            announced_until: Timestamp::default(),
        });
        self.settings_changed();
        Ok(done(0))
    }

    pub(super) fn update_settings(&mut self, op: &UpdateSettings) -> Verdict {
        let settings = settings_from_proto(&op.settings.clone().unwrap_or_default())?;
        if settings != self.settings()? {
            self.with_tailnet(|tailnet| tailnet.settings = settings)?;
            self.settings_changed();
        }
        Ok(done(0))
    }

    /// The same key under another seal: nobody who reads the state sees a difference.
    pub(super) fn reseal_noise_key(&mut self, op: &ResealNoiseKey) -> Verdict {
        if op.noise_private_key.len() < NOISE_KEY_BYTES {
            return Err(invalid("noise_private_key has fewer than 32 bytes"));
        }
        let stored = self.state.noise_private_key().unwrap_or_default();
        if stored == op.noise_private_key.as_ref() {
            return Ok(done(0));
        }
        if blake3::hash(stored).as_bytes() != op.replaces_digest.as_ref() {
            return Err(refuse(
                RefusalCode::Precondition,
                "the Noise key was resealed meanwhile: see `cluster status`, then try again",
            ));
        }
        self.with_tailnet(|tailnet| tailnet.noise_private_key = op.noise_private_key.clone())?;
        Ok(done(0))
    }

    /// After a prefix was added or removed: nodes keep what they have otherwise.
    pub(super) fn backfill_addresses(&mut self, op: &BackfillAddresses) -> Verdict {
        let settings = self.settings()?;
        let amiss = |node: &Node, settings: &Settings| {
            node.ipv4.is_some() != settings.ipv4_prefix.is_some()
                || node.ipv6.is_some() != settings.ipv6_prefix.is_some()
        };
        let nodes = self.state.nodes().filter(|node| amiss(node, &settings));
        let nodes: Vec<NodeId> = nodes.map(|node| node.id).collect();
        for id in nodes {
            let mut node = self.existing_node(id)?;
            let entropy = op.entropy.wrapping_add(id.0);
            match settings.ipv4_prefix {
                Some(_) if node.ipv4.is_none() => node.ipv4 = self.next_ipv4(entropy)?,
                Some(_) => {}
                None => node.ipv4 = None,
            }
            match settings.ipv6_prefix {
                Some(_) if node.ipv6.is_none() => node.ipv6 = self.next_ipv6(entropy)?,
                Some(_) => {}
                None => node.ipv6 = None,
            }
            self.put_node(node);
        }
        Ok(done(0))
    }
}

const NOISE_KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, refusal, settings};

    #[test]
    fn the_first_command_is_needed_once() {
        let mut world = World::empty();
        let (code, message) = refusal(&world.apply(UpdateSettings {
            settings: Some(settings()),
        }));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("cluster init"), "{message}");
        world.init();
        assert_eq!(world.state.noise_private_key(), Some(&[0x11; 32][..]));
        let again = world.apply(InitTailnet::default());
        assert_eq!(refusal(&again).0, RefusalCode::AlreadyExists);
    }

    #[test]
    fn bad_keys_are_refused() {
        let mut world = World::empty();
        let command = InitTailnet {
            settings: Some(settings()),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: vec![1; 32].into(),
        };
        let short = InitTailnet {
            secret_pepper: vec![1; 5].into(),
            ..command.clone()
        };
        assert!(refusal(&world.apply(short)).1.contains("5 bytes"));
        let short = InitTailnet {
            noise_private_key: vec![1; 31].into(),
            ..command
        };
        assert!(refusal(&world.apply(short)).1.contains("noise_private_key"));
        assert!(world.state.tailnet().is_none());
    }

    #[test]
    fn the_noise_key_is_resealed_once_and_only_what_was_read() {
        let mut world = World::new();
        let reseal = |from: &[u8], to: u8| ResealNoiseKey {
            noise_private_key: vec![to; 84].into(),
            replaces_digest: blake3::hash(from).as_bytes().to_vec().into(),
        };
        let sealed = world.ok(reseal(&[0x11; 32], 1));
        assert!(sealed.change.is_empty() && !sealed.writes.is_empty());
        assert_eq!(world.state.noise_private_key(), Some(&[1; 84][..]));
        // Asked for again, and by somebody who has not seen that.
        assert!(world.ok(reseal(&[0x11; 32], 1)).writes.is_empty());
        let (code, message) = refusal(&world.apply(reseal(&[0x11; 32], 2)));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("meanwhile"), "{message}");
        world.ok(reseal(&[1; 84], 2));
    }

    #[test]
    fn equal_settings_are_no_change_and_new_ones_take_effect() {
        let mut world = World::new();
        let same = world.ok(UpdateSettings {
            settings: Some(settings()),
        });
        assert!(same.change.is_empty() && same.writes.is_empty());
        let mut longer = settings();
        longer.login_ttl_ms = 1;
        assert!(
            world
                .ok(UpdateSettings {
                    settings: Some(longer)
                })
                .change
                .settings
        );
        assert_eq!(world.state.settings().unwrap().login_ttl.as_millis(), 1);
    }

    #[test]
    fn backfill_gives_and_takes_addresses_as_the_prefixes_say() {
        let mut world = World::new();
        let node = world.add_node(1);
        let v4 = world.state.node(node).unwrap().ipv4;
        let mut only_v4 = settings();
        only_v4.ipv6_prefix = String::new();
        world.ok(UpdateSettings {
            settings: Some(only_v4),
        });
        assert!(world.state.node(node).unwrap().ipv6.is_some());
        assert!(world.ok(BackfillAddresses { entropy: 1 }).change.nodes[&node].full);
        assert_eq!(world.state.node(node).unwrap().ipv6, None);
        world.ok(UpdateSettings {
            settings: Some(settings()),
        });
        world.ok(BackfillAddresses { entropy: 1 });
        assert!(world.state.node(node).unwrap().ipv6.is_some());
        assert_eq!(world.state.node(node).unwrap().ipv4, v4);
        assert!(world.ok(BackfillAddresses { entropy: 1 }).writes.is_empty());
    }
}
