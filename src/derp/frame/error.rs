//! Why a frame was refused.

use super::FrameType;

/// A frame that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The first frame of a client was of another type.
    #[error("first frame has type {got:#04x}, expected ClientInfo")]
    NotClientInfo {
        /// Type byte of the frame.
        got: u8,
    },
    /// Only a relay of the same region may send this.
    #[error("{0:?} is for relays only")]
    RelaysOnly(FrameType),
    /// The length is above what this type may have.
    #[error("frame of type {kind:#04x} has {got} bytes, above the limit of {max}")]
    TooLong {
        /// Type byte of the frame.
        kind: u8,
        /// Length in its header.
        got: usize,
        /// The longest that is accepted.
        max: usize,
    },
    /// The length is below what this type needs.
    #[error("{kind:?} has {got} bytes, needs at least {min}")]
    TooShort {
        /// Type of the frame.
        kind: FrameType,
        /// Length in its header.
        got: usize,
        /// The shortest that makes sense.
        min: usize,
    },
    /// `NotePreferred` is neither 0 nor 1.
    #[error("NotePreferred carries {0:#04x}, expected 0 or 1")]
    BadPreferred(u8),
}
