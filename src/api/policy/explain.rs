//! `/policy/explain?src=..&dst=..[&proto=..]`: why a connection is allowed or not. The answer is
//! [`Explanation`] as it stands.

use axum::Json;
use axum::extract::State as AxumState;

use crate::netmap::{Basis, RouteTable};
use crate::policy::explain::{ExplainError, Explanation, Question, Tailnet};

use super::super::body::Params;
use super::super::{ApiError, ApiState, Kind};
use super::beside;

pub(super) async fn explain(
    AxumState(api): AxumState<ApiState>,
    params: Params,
) -> Result<Json<Explanation>, ApiError> {
    let text = |name| params.text(name).unwrap_or_default();
    let question = Question::parse(text("src"), text("dst"), params.text("proto"))?;
    // Of now, and so not older than the state that the request was let in with.
    let (now, _) = api.cluster.changed();
    let basis = api.streams.basis_at(now).await;
    let stops = || ApiError::new(Kind::Unavailable, "this replica stops; ask another one");
    let basis = basis.ok_or_else(stops)?;
    // Trying all rules may take longer than other requests should wait.
    let explained = beside(move || answer(&basis, &question)).await?;
    Ok(Json(explained?))
}

fn answer(basis: &Basis, question: &Question) -> Result<Explanation, ExplainError> {
    let routes = RouteTable::of(&basis.state);
    let tailnet = Tailnet {
        engine: &basis.engine,
        state: &basis.state,
        primary: &|id| routes.primary(id).to_vec(),
    };
    tailnet.explain(question)
}

impl From<ExplainError> for ApiError {
    fn from(error: ExplainError) -> Self {
        Self::bad_request(error.to_string()).at(format!("query.{}", error.part.name()))
    }
}
