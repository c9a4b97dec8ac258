//! Histories for the checkers' tests.

use crate::{
    history::{Answer, History, Op, Operation},
    outcome::Outcome,
};

/// A history of these operations.
pub(super) fn history(operations: Vec<Operation>) -> History {
    History {
        operations,
        ended: true,
        ..History::default()
    }
}

/// An operation that was answered.
pub(super) fn done(id: u64, op: Op, times: (u64, u64), answer: Answer) -> Operation {
    Operation {
        id,
        process: 1,
        op,
        call: times.0,
        end: Some(times.1),
        outcome: Outcome::Ok,
        answer,
    }
}

/// The operation as one that was refused.
pub(super) fn failed(operation: Operation) -> Operation {
    Operation {
        outcome: Outcome::Failed,
        ..operation
    }
}

/// The operation as one of which nothing was heard.
pub(super) fn unknown(operation: Operation) -> Operation {
    Operation {
        end: None,
        outcome: Outcome::Unknown,
        answer: Answer::Nothing,
        ..operation
    }
}
