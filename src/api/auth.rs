//! Verification of API keys.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::state::State;
use crate::state::secret::{SecretKind, SecretText, same_hash};
use crate::types::Timestamp;

use super::{ApiError, Kind};

/// A well-formed key that came with a request; whether it is valid is a question to the state.
pub(super) struct PresentedKey(SecretText);

impl PresentedKey {
    /// Takes the key from `Authorization: Bearer <key>`.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, ApiError> {
        let header = headers.get(AUTHORIZATION).ok_or_else(|| {
            refused("an API key is required: send it as \"Authorization: Bearer <key>\"")
        })?;
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("Bearer "));
        let token =
            token.ok_or_else(|| refused("the Authorization header must be \"Bearer <key>\""))?;
        SecretText::parse(SecretKind::ApiKey, token)
            .map(Self)
            .map_err(|_| refused("the token has not the form of an API key"))
    }

    /// The public part of the key.
    pub(super) fn prefix(&self) -> &str {
        self.0.prefix()
    }

    /// Checks the key against the stored hash, in a time that does not depend on the secret.
    pub(super) fn verify(&self, state: &State, now: Timestamp) -> Result<(), ApiError> {
        let pepper = state.secret_pepper().ok_or_else(invalid)?;
        let stored = state
            .api_key_by_prefix(self.0.prefix())
            .ok_or_else(invalid)?;
        if !same_hash(&self.0.hash(pepper), &stored.secret_hash) {
            return Err(invalid());
        }
        if stored.is_expired(now) {
            return Err(refused(
                "the API key has expired: make one with `apikeys create`",
            ));
        }
        Ok(())
    }
}

fn invalid() -> ApiError {
    refused("the API key is not valid: make one with `apikeys create` on a replica")
}

fn refused(detail: &str) -> ApiError {
    ApiError::new(Kind::Unauthorized, detail)
}
