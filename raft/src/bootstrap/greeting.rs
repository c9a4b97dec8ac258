//! Greetings and their answers as they go over the wire: sealed, and bound to each other.

use bytes::Bytes;
use hydrascale_proto::raft::v1 as pb;
use prost::Message;
use rand::RngCore;
use subtle::ConstantTimeEq;

use crate::{KeyId, SealingKeys};

const GREETING: &str = "hydrascale bootstrap greeting";
const ANSWER: &str = "hydrascale bootstrap answer";

/// Bytes of a nonce and of an instance: two are never the same by chance.
const RANDOM_BYTES: usize = 16;

/// Why a word cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    /// Sealed under something else, altered, or not at all.
    #[error("it does not hold the same bootstrap secret (cluster.bootstrap_secret_file)")]
    Sealed,
    /// The content makes no sense.
    #[error("it speaks another version of the bootstrap protocol")]
    Malformed,
}

/// Random bytes that name a process or a greeting.
pub(super) fn random() -> Bytes {
    let mut bytes = [0; RANDOM_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    Bytes::copy_from_slice(&bytes)
}

/// Seals a greeting.
///
/// # Errors
/// There is no key to seal with.
pub(super) fn seal_greeting(
    secret: &SealingKeys,
    greeting: &pb::Greeting,
) -> Result<pb::SealedWord, WordError> {
    seal(secret, GREETING, &greeting.encode_to_vec())
}

/// Opens a greeting.
///
/// # Errors
/// It comes from somebody without the secret, or makes no sense.
pub(crate) fn open_greeting(
    secret: &SealingKeys,
    word: &pb::SealedWord,
) -> Result<pb::Greeting, WordError> {
    let greeting = pb::Greeting::decode(open(secret, GREETING, word)?.as_slice());
    greeting.map_err(|_| WordError::Malformed)
}

/// Seals the answer to `greeting`.
///
/// # Errors
/// There is no key to seal with.
pub(crate) fn seal_answer(
    secret: &SealingKeys,
    greeting: &pb::Greeting,
    state: pb::greeting_answer::State,
) -> Result<pb::SealedWord, WordError> {
    let answer = pb::GreetingAnswer {
        nonce: greeting.nonce.clone(),
        state: Some(state),
    };
    seal(secret, ANSWER, &answer.encode_to_vec())
}

/// Opens the answer to `greeting`.
///
/// # Errors
/// It comes from somebody without the secret, answers another greeting, or makes no sense.
pub(super) fn open_answer(
    secret: &SealingKeys,
    greeting: &pb::Greeting,
    word: &pb::SealedWord,
) -> Result<pb::greeting_answer::State, WordError> {
    let answer = pb::GreetingAnswer::decode(open(secret, ANSWER, word)?.as_slice());
    let answer = answer.map_err(|_| WordError::Malformed)?;
    if !bool::from(answer.nonce.ct_eq(&greeting.nonce)) {
        return Err(WordError::Sealed);
    }
    answer.state.ok_or(WordError::Malformed)
}

fn seal(secret: &SealingKeys, purpose: &str, text: &[u8]) -> Result<pb::SealedWord, WordError> {
    let key = secret.current().ok_or(WordError::Sealed)?;
    let sealed = secret.seal(Some(key), purpose, text);
    Ok(pb::SealedWord {
        sealed: sealed.map_err(|_| WordError::Sealed)?.into(),
    })
}

fn open(secret: &SealingKeys, purpose: &str, word: &pb::SealedWord) -> Result<Vec<u8>, WordError> {
    // What is not sealed at all would pass for its own content.
    KeyId::sealing(&word.sealed).ok_or(WordError::Sealed)?;
    let opened = secret.unseal(purpose, &word.sealed);
    opened
        .map(|text| text.to_vec())
        .map_err(|_| WordError::Sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::greeting_answer::State;

    fn keys() -> SealingKeys {
        let (_, line) = SealingKeys::new_line();
        SealingKeys::parse(&line).unwrap()
    }

    fn greeting() -> pb::Greeting {
        pb::Greeting {
            nonce: random(),
            ..pb::Greeting::default()
        }
    }

    #[test]
    fn a_greeting_and_its_answer_are_for_those_with_the_secret() {
        let (secret, other) = (keys(), keys());
        let greeting = greeting();
        let word = seal_greeting(&secret, &greeting).unwrap();
        assert_eq!(open_greeting(&secret, &word), Ok(greeting.clone()));
        assert_eq!(open_greeting(&other, &word), Err(WordError::Sealed));

        let state = State::Refused("full".to_owned());
        let word = seal_answer(&secret, &greeting, state.clone()).unwrap();
        assert_eq!(open_answer(&secret, &greeting, &word), Ok(state));
        assert_eq!(
            open_answer(&other, &greeting, &word),
            Err(WordError::Sealed)
        );
    }

    #[test]
    fn an_answer_to_another_greeting_or_a_greeting_sent_back_is_none() {
        let secret = keys();
        let (asked, other) = (greeting(), greeting());
        let state = State::Refused("full".to_owned());
        let word = seal_answer(&secret, &other, state).unwrap();
        assert_eq!(open_answer(&secret, &asked, &word), Err(WordError::Sealed));
        let back = seal_greeting(&secret, &asked).unwrap();
        assert_eq!(open_answer(&secret, &asked, &back), Err(WordError::Sealed));
    }

    #[test]
    fn what_is_not_sealed_is_not_believed() {
        let secret = keys();
        let sealed = greeting().encode_to_vec().into();
        let word = pb::SealedWord { sealed };
        assert_eq!(open_greeting(&secret, &word), Err(WordError::Sealed));
        assert_eq!(
            open_greeting(&secret, &pb::SealedWord::default()),
            Err(WordError::Sealed)
        );
    }
}
