//! What the streams of this replica share of what they are told: everything that concerns many is
//! encoded once, by whoever needs it first.

mod delta;
mod whole;

pub(super) use self::delta::SharedDelta;
pub(super) use self::whole::SharedWhole;
