//! Places in the text of a policy.

/// A place in the text of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Counts from 1; 0 = the text as a whole.
    pub line: u32,
    /// In characters, counts from 1.
    pub column: u32,
}

/// A string of a policy and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text {
    /// Where it begins.
    pub at: Position,
    /// Without the white space around it where the service ignores that.
    pub text: String,
}
