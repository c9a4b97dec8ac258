//! Fields for which Go writes a zero value to say "absent": zero keys and the year 1.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::{DiscoKey, MachineKey, NodeKey, Timestamp};

/// A type with a wire value that means "absent".
pub(super) trait Absent: Sized + PartialEq {
    /// That value.
    const ABSENT: Self;
}

impl Absent for MachineKey {
    const ABSENT: Self = Self::from_bytes([0; 32]);
}

impl Absent for NodeKey {
    const ABSENT: Self = Self::from_bytes([0; 32]);
}

impl Absent for DiscoKey {
    const ABSENT: Self = Self::from_bytes([0; 32]);
}

impl Absent for Timestamp {
    const ABSENT: Self = Self::GO_ZERO;
}

/// Reads a value, or `None` where it is missing, `null` or the zero value.
pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Absent + Deserialize<'de>,
    D: Deserializer<'de>,
{
    let value = Option::<T>::deserialize(deserializer)?;
    Ok(value.filter(|value| *value != T::ABSENT))
}

/// Writes the zero value for `None`, as Go does for fields without `omitempty`.
pub(super) fn serialize<T, S>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Absent + Serialize,
    S: Serializer,
{
    match value {
        Some(value) => value.serialize(serializer),
        None => T::ABSENT.serialize(serializer),
    }
}
