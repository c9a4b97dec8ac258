//! A rule of a plan.

use std::sync::Arc;

use super::super::unit::Connections;
use super::{Caps, SourceNo, TermNo};

/// A destination of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::policy) enum Target {
    /// `*`
    Any,
    These(TermNo),
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::policy) enum Rule {
    Ports {
        source: SourceNo,
        connections: Connections,
        targets: Vec<Target>,
    },
    /// Each list of destinations as one.
    Caps {
        source: SourceNo,
        targets: Vec<Vec<TermNo>>,
        caps: Arc<Caps>,
    },
    /// `autogroup:self`: each owner's nodes among the sources.
    OwnPorts {
        source: SourceNo,
        connections: Connections,
    },
    /// The same for capabilities.
    OwnCaps { source: SourceNo, caps: Arc<Caps> },
    /// The reverse: each source is granted something by all nodes of its owner.
    OwnCompanion { source: SourceNo, caps: Arc<Caps> },
    /// A grant that leads through routers with these tags.
    Via {
        source: SourceNo,
        connections: Connections,
        targets: Vec<TermNo>,
        via: Arc<[String]>,
    },
}

impl Rule {
    /// Whether it is for every node.
    pub(in crate::policy) fn has_any_target(&self) -> bool {
        match self {
            Self::Ports { targets, .. } => targets.contains(&Target::Any),
            Self::Caps { .. }
            | Self::OwnPorts { .. }
            | Self::OwnCaps { .. }
            | Self::OwnCompanion { .. }
            | Self::Via { .. } => false,
        }
    }

    pub(in crate::policy) const fn source(&self) -> SourceNo {
        match self {
            Self::Ports { source, .. }
            | Self::Caps { source, .. }
            | Self::OwnPorts { source, .. }
            | Self::OwnCaps { source, .. }
            | Self::OwnCompanion { source, .. }
            | Self::Via { source, .. } => *source,
        }
    }

    pub(in crate::policy) const fn source_mut(&mut self) -> &mut SourceNo {
        match self {
            Self::Ports { source, .. }
            | Self::Caps { source, .. }
            | Self::OwnPorts { source, .. }
            | Self::OwnCaps { source, .. }
            | Self::OwnCompanion { source, .. }
            | Self::Via { source, .. } => source,
        }
    }

    /// The terms of its destinations.
    pub(in crate::policy) fn terms(&self) -> Vec<TermNo> {
        let mut rule = self.clone();
        rule.terms_mut().map(|term| *term).collect()
    }

    pub(in crate::policy) fn terms_mut(&mut self) -> Box<dyn Iterator<Item = &mut TermNo> + '_> {
        match self {
            Self::Ports { targets, .. } => Box::new(targets.iter_mut().filter_map(|t| match t {
                Target::Any => None,
                Target::These(term) => Some(term),
            })),
            Self::Caps { targets, .. } => Box::new(targets.iter_mut().flatten()),
            Self::Via { targets, .. } => Box::new(targets.iter_mut()),
            Self::OwnPorts { .. } | Self::OwnCaps { .. } | Self::OwnCompanion { .. } => {
                Box::new(std::iter::empty())
            }
        }
    }
}
