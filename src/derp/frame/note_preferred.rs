//! `NotePreferred`: whether this relay is the client's home. Feeds metrics only.

use super::{FrameError, FrameType};

/// Reads the payload.
pub(super) fn note_preferred(payload: &[u8]) -> Result<bool, FrameError> {
    match payload {
        [0] => Ok(false),
        [1] => Ok(true),
        [] => Err(FrameError::TooShort {
            kind: FrameType::NotePreferred,
            got: 0,
            min: 1,
        }),
        [other, ..] => Err(FrameError::BadPreferred(*other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_and_one_are_accepted() {
        assert_eq!(note_preferred(&[1]), Ok(true));
        assert_eq!(note_preferred(&[0]), Ok(false));
        assert_eq!(note_preferred(&[2]), Err(FrameError::BadPreferred(2)));
    }
}
