//! What a device says of itself, as far as postures look at it.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use super::Literal;
use crate::tailcfg::Hostinfo;

/// A device's Hostinfo; two devices are equal when no posture can tell them apart.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Device(Arc<Hostinfo>);

/// Stands for every device where no posture looks at them, so that these cost a pointer each.
static UNKNOWN: LazyLock<Arc<Hostinfo>> = LazyLock::new(Arc::default);

impl Default for Device {
    fn default() -> Self {
        Self(Arc::clone(&UNKNOWN))
    }
}

impl Device {
    pub(in crate::policy) fn of(hostinfo: &Arc<Hostinfo>) -> Self {
        Self(Arc::clone(hostinfo))
    }

    fn facts(&self) -> (&str, &str, &str, bool, Option<bool>) {
        let info = &*self.0;
        (
            &info.os,
            &info.os_version,
            &info.ipn_version,
            info.allows_update,
            info.state_encrypted,
        )
    }

    /// The value of an attribute; absent: it is not set.
    pub(in crate::policy) fn attribute(&self, name: &str) -> Option<Literal> {
        let info = &*self.0;
        let text = |text: &str| (!text.is_empty()).then(|| Literal::Text(text.to_owned()));
        match name {
            // Clients write `macOS`, postures `macos`.
            "node:os" => text(&info.os.to_lowercase()),
            "node:osVersion" => text(&info.os_version),
            "node:tsVersion" => text(short(&info.ipn_version)),
            "node:tsReleaseTrack" => text(track(&info.ipn_version)),
            "node:tsAutoUpdate" => Some(Literal::Bool(info.allows_update)),
            "node:tsStateEncrypted" => info.state_encrypted.map(Literal::Bool),
            _ => None,
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.facts() == other.facts()
    }
}

impl Eq for Device {}

impl PartialOrd for Device {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Device {
    fn cmp(&self, other: &Self) -> Ordering {
        self.facts().cmp(&other.facts())
    }
}

/// A client's version without the commits that it was built from.
fn short(version: &str) -> &str {
    version.split(['-', ' ']).next().unwrap_or_default()
}

/// Odd minor versions are built from Tailscale's main branch.
fn track(version: &str) -> &'static str {
    let minor = short(version).split('.').nth(1);
    match minor.and_then(|minor| minor.parse::<u32>().ok()) {
        Some(minor) if minor.is_multiple_of(2) => "stable",
        Some(_) => "unstable",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_off_a_clients_words() {
        let device = Device::of(&Arc::new(Hostinfo {
            os: "macOS".into(),
            os_version: "13.4.0".into(),
            ipn_version: "1.85.2-t0a1b2c3d4-g5e6f7a8b9".into(),
            ..Hostinfo::default()
        }));
        let shown = |name: &str| match device.attribute(name) {
            Some(Literal::Text(text)) => text,
            Some(Literal::Bool(flag)) => flag.to_string(),
            Some(Literal::Number(_)) | None => String::new(),
        };
        assert_eq!(shown("node:os"), "macos");
        assert_eq!(shown("node:osVersion"), "13.4.0");
        assert_eq!(shown("node:tsVersion"), "1.85.2");
        assert_eq!(shown("node:tsReleaseTrack"), "unstable");
        assert_eq!(shown("node:tsAutoUpdate"), "false");
        assert_eq!(shown("node:tsStateEncrypted"), "");
        assert_eq!(shown("ip:country"), "");
        assert_eq!(track("1.86.0"), "stable");
    }

    #[test]
    fn what_no_posture_looks_at_tells_no_devices_apart() {
        let one = Device::default();
        let mut info = Hostinfo {
            hostname: "laptop".into(),
            ..Hostinfo::default()
        };
        assert_eq!(one, Device::of(&Arc::new(info.clone())));
        info.allows_update = true;
        assert_ne!(one, Device::of(&Arc::new(info)));
    }
}
