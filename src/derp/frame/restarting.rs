//! `Restarting`: the relay goes away for a while. Official clients read it and do nothing.

use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::{FrameType, Header};

/// The frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restarting {
    /// When to connect again; whole milliseconds, capped at 49 days.
    pub(crate) reconnect_in: Duration,
    /// How long to keep trying; whole milliseconds, capped at 49 days.
    pub(crate) try_for: Duration,
}

impl Restarting {
    /// The whole frame.
    pub(crate) fn encode(self) -> Bytes {
        let mut frame = Header::start(FrameType::Restarting, 8);
        for duration in [self.reconnect_in, self.try_for] {
            frame.put_u32(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX));
        }
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_matches_the_official_clients_vector() {
        let frame = Restarting {
            reconnect_in: Duration::from_millis(1),
            try_for: Duration::from_millis(2),
        };
        assert_eq!(
            &frame.encode()[..],
            &[0x15, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2]
        );
    }
}
