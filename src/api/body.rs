//! Decoding of paths, queries and JSON bodies, with errors that say which part is wrong.
//!
//! Unknown fields are ignored and null stands for absent: clients of several headscale versions
//! send both.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Visitor};
use serde_json::error::Category;

use super::{ApiError, Kind};

/// Longest body of an operation; the largest legitimate one is a list of routes or tags.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// A JSON body; an absent one counts as `{}`.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read_json(request, BODY_BYTES_MAX).await.map(Self)
    }
}

/// A JSON body that holds a policy.
pub(super) struct LongJsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for LongJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read_json(request, super::policy::BODY_BYTES_MAX)
            .await
            .map(Self)
    }
}

async fn read_json<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T, ApiError> {
    let bytes = to_bytes(request.into_body(), limit).await.map_err(|_| {
        let detail = format!("the body is cut off or longer than {limit} bytes");
        ApiError::new(Kind::TooLarge, detail)
    })?;
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        &bytes
    };
    serde_json::from_slice(bytes).map_err(|error| {
        let kind = match error.classify() {
            Category::Data => Kind::Unprocessable,
            Category::Io | Category::Syntax | Category::Eof => Kind::BadRequest,
        };
        ApiError::new(kind, format!("the body is not understood: {error}")).at("body")
    })
}

/// The query of a request; of a repeated name the first value counts.
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// The value of a name; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// An id; absent and `0` are the same.
    pub(super) fn id(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.text(name)
            .map(|text| parse_id(text, &format!("query.{name}")))
            .transpose()
            .map(|id| id.filter(|id| *id != 0))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::bad_request("the query is not understood").at("query"))?;
        let mut params = BTreeMap::new();
        for (name, value) in pairs {
            params.entry(name).or_insert(value);
        }
        Ok(Self(params))
    }
}

/// Reads an id from a path, query or body.
pub(super) fn parse_id(text: &str, location: &str) -> Result<u64, ApiError> {
    u64::from_str(text).map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        ApiError::bad_request(format!("{shown:?} is not an id: a whole number is wanted"))
            .at(location)
    })
}

/// An id in a body: text, or a number as older clients send it. Checked by [`parse_id`], so that
/// a bad one is 400 and not 422, as in headscale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IdText(String);

impl IdText {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for IdText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = IdText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id as text or number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<IdText, E> {
                Ok(IdText(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<IdText, E> {
                Ok(IdText(id.to_string()))
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<IdText, E> {
                Ok(IdText(id.to_string()))
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}
