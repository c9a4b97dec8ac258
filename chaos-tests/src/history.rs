//! What happened in a fault run: who asked for what when, and what came back.
//!
//! A history is a file of JSON lines that only grows: [`Event`]s in the order in which the harness
//! saw them. It holds everything that checkers need, so that it can be judged again without a
//! cluster. [`Recorder`] writes it, [`read`] reads it back and pairs invocations with completions.

mod event;
mod reader;
mod recorder;

pub use event::{Answer, Event, Listed, Op, OpId, Run, Version};
pub use reader::{
    History, Installation, Leadership, Operation, PeerChange, ReadError, Sighting, Spell, read,
    read_lines,
};
pub use recorder::Recorder;
