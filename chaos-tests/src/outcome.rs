//! What an answer, or the lack of one, says about an operation: the rules of `DESIGN.md` as code.
//!
//! A harness that calls an operation failed although it happened finds bugs that are none; one that
//! calls it unknown although it certainly failed finds nothing. Hence one place for both.

use serde::{Deserialize, Serialize};

/// What is known about an operation once the client gave up on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened, between the invocation and the answer.
    Ok,
    /// It did not happen and never will.
    Failed,
    /// It happened, happens later, or never: it has no end.
    Unknown,
}

/// What was asked for, as far as the rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A linearizable read of the API.
    Read,
    /// A change by the API.
    Write,
    /// `/machine/register` inside Noise.
    Registration,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The connection was not opened, or not one byte of the request was sent.
    NotSent,
    /// Cut, reset or silent after the request was, or may have been, sent.
    NoAnswer,
    /// A whole answer with this HTTP status.
    Status(u16),
    /// A registration answered with `MachineAuthorized` and no `Error`.
    Admitted,
    /// A registration answered with an `Error`, or with a login page instead of admission.
    Refused,
}

/// What is known after this was seen.
pub const fn classify(request: Request, seen: Seen) -> Outcome {
    let outcome = match seen {
        Seen::NotSent | Seen::Refused => Outcome::Failed,
        Seen::NoAnswer => Outcome::Unknown,
        Seen::Admitted => Outcome::Ok,
        Seen::Status(status) => classify_status(request, status),
    };
    match (request, outcome) {
        // A read without an answer has no effect and says nothing.
        (Request::Read, Outcome::Unknown) => Outcome::Failed,
        (Request::Read | Request::Write | Request::Registration, outcome) => outcome,
    }
}

const fn classify_status(request: Request, status: u16) -> Outcome {
    match (request, status) {
        (Request::Read | Request::Write, 200..=299) => Outcome::Ok,
        // What is wrong with the request itself, or no longer so (412), or too much (429).
        (_, 400 | 401 | 403 | 404 | 405 | 412 | 413 | 422 | 429) => Outcome::Failed,
        // The API promises: "certainly not done". Registration says 503 also when it does not know.
        (Request::Read | Request::Write, 503) => Outcome::Failed,
        // 409 is a name that is taken, or a change that was made and replaced before it was shown.
        (_, _) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_done_refused_or_unknown_by_its_status() {
        let of = |status| classify(Request::Write, Seen::Status(status));
        assert_eq!(of(200), Outcome::Ok);
        for refused in [400, 401, 403, 404, 405, 412, 413, 422, 429, 503] {
            assert_eq!(of(refused), Outcome::Failed, "{refused}");
        }
        for unclear in [100, 302, 409, 418, 500, 501, 502, 504, 599] {
            assert_eq!(of(unclear), Outcome::Unknown, "{unclear}");
        }
    }

    #[test]
    fn a_registration_without_an_answer_of_its_own_is_unknown() {
        let of = |seen| classify(Request::Registration, seen);
        assert_eq!(of(Seen::Admitted), Outcome::Ok);
        assert_eq!(of(Seen::Refused), Outcome::Failed);
        assert_eq!(of(Seen::NotSent), Outcome::Failed);
        // Status 200 alone says nothing: the body does.
        for seen in [Seen::NoAnswer, Seen::Status(200), Seen::Status(503)] {
            assert_eq!(of(seen), Outcome::Unknown, "{seen:?}");
        }
    }

    #[test]
    fn what_was_never_sent_did_not_happen_and_what_was_cut_may_have() {
        assert_eq!(classify(Request::Write, Seen::NotSent), Outcome::Failed);
        assert_eq!(classify(Request::Write, Seen::NoAnswer), Outcome::Unknown);
    }

    #[test]
    fn a_read_is_answered_or_did_not_happen() {
        assert_eq!(classify(Request::Read, Seen::Status(200)), Outcome::Ok);
        for seen in [Seen::NoAnswer, Seen::Status(504), Seen::Status(500)] {
            assert_eq!(classify(Request::Read, seen), Outcome::Failed, "{seen:?}");
        }
    }
}
