//! Full maps and deltas as pure functions of state.
