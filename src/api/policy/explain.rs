//! `/policy/explain?src=..&dst=..[&proto=..]`: why a connection is allowed or not. The answer is
//! [`Explanation`] as it stands.

use std::sync::Arc;

use axum::Json;

use crate::netmap::RouteTable;
use crate::policy::Engine;
use crate::policy::explain::{ExplainError, Explanation, Question, Tailnet};
use crate::state::State;

use super::super::body::Params;
use super::super::gate::Read;
use super::super::{ApiError, Kind};

pub(super) async fn explain(
    Read(state): Read,
    params: Params,
) -> Result<Json<Explanation>, ApiError> {
    let text = |name| params.text(name).unwrap_or_default();
    let question = Question::parse(text("src"), text("dst"), params.text("proto"))?;
    // The policy is compiled for this, which in a large tailnet takes longer than other requests
    // should wait.
    let explained = tokio::task::spawn_blocking(move || answer(&state, &question)).await;
    let failed = |error| ApiError::new(Kind::Internal, format!("explaining failed: {error}"));
    Ok(Json(explained.map_err(failed)??))
}

fn answer(state: &Arc<State>, question: &Question) -> Result<Explanation, ExplainError> {
    let routes = RouteTable::of(state);
    let tailnet = Tailnet {
        engine: &Engine::of(state),
        state,
        primary: &|id| routes.primary(id).to_vec(),
    };
    tailnet.explain(question)
}

impl From<ExplainError> for ApiError {
    fn from(error: ExplainError) -> Self {
        Self::bad_request(error.to_string()).at(format!("query.{}", error.part.name()))
    }
}
