//! REST v1 as headscale serves it, and the cluster administration routes.
//!
//! A request passes [`gate`] (who asks, and which state it reads), then one thin handler: decode,
//! propose or read, encode. Any replica answers: reads are linearizable unless `?consistency=stale`
//! asks for the local state, writes go to the leader and are applied here before the answer.
//!
//! Every answer names the log index that it is not older than (`X-Raft-Applied-Index`); a request
//! may demand one (`X-Raft-Min-Index`), so that a client sees its own writes on any replica.

mod apikeys;
mod auth;
mod body;
mod clock;
mod cluster;
mod error;
mod gate;
mod health;
mod logins;
mod nodes;
mod policy;
mod preauthkeys;
mod shape;
mod users;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use axum::Router;
use axum::middleware;
use axum::routing::{delete, get, post};

use crate::cluster::Cluster;
use crate::config::PolicyMode;
use crate::session::MapStreams;

pub use self::clock::Clock;
pub use self::error::{ApiError, Kind};

/// Who may call the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Holders of an API key, shown as bearer token.
    ApiKey,
    /// Everybody: the socket's file permission is the gate.
    LocalTrust,
}

/// What the API works on.
#[derive(Clone)]
pub struct ApiState {
    /// The cluster, as this replica sees it.
    pub cluster: Cluster,
    /// The map streams, which have the policy compiled.
    pub streams: MapStreams,
    /// Who may call.
    pub access: Access,
    /// Wall clock for expiries.
    pub clock: Clock,
    /// Whether policies may be set through the API.
    pub policy_mode: PolicyMode,
}

impl ApiState {
    /// For the client port: callers show an API key.
    pub fn remote(cluster: &Cluster, streams: &MapStreams, policy_mode: PolicyMode) -> Self {
        Self {
            cluster: cluster.clone(),
            streams: streams.clone(),
            access: Access::ApiKey,
            clock: Clock::system(),
            policy_mode,
        }
    }

    /// For the local socket: whoever may open it may call.
    pub fn local(cluster: &Cluster, streams: &MapStreams, policy_mode: PolicyMode) -> Self {
        Self {
            cluster: cluster.clone(),
            streams: streams.clone(),
            access: Access::LocalTrust,
            clock: Clock::system(),
            policy_mode,
        }
    }
}

/// The routes under `/api`; to be merged into a listener's router.
pub fn router(api: ApiState) -> Router {
    let routes = Router::new()
        .route("/health", get(health::get))
        .merge(user_routes())
        .merge(key_routes())
        .merge(node_routes())
        .merge(login_routes())
        .merge(policy::routes())
        .merge(cluster::routes())
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::no_such_route)
        .layer(middleware::from_fn_with_state(api.clone(), gate::gate))
        .with_state(api);
    Router::new().nest("/api/v1", routes)
}

fn user_routes() -> Router<ApiState> {
    Router::new()
        .route("/user", get(users::list).post(users::create))
        .route("/user/{id}", delete(users::destroy))
        .route("/user/{id}/rename/{name}", post(users::rename))
        .route("/user/{id}/role/{role}", post(users::set_role))
}

fn key_routes() -> Router<ApiState> {
    Router::new()
        .route(
            "/preauthkey",
            get(preauthkeys::list)
                .post(preauthkeys::create)
                .delete(preauthkeys::delete),
        )
        .route("/preauthkey/expire", post(preauthkeys::expire))
        .route("/apikey", get(apikeys::list).post(apikeys::create))
        .route("/apikey/expire", post(apikeys::expire))
        .route("/apikey/{prefix}", delete(apikeys::delete))
}

fn node_routes() -> Router<ApiState> {
    Router::new()
        .route("/node", get(nodes::list))
        .route("/node/{id}", get(nodes::get).delete(nodes::delete))
        .route("/node/{id}/expire", post(nodes::expire))
        .route("/node/{id}/rename/{name}", post(nodes::rename))
        .route("/node/{id}/tags", post(nodes::set_tags))
        .route("/node/{id}/approve_routes", post(nodes::approve_routes))
        .route("/node/backfillips", post(nodes::backfill_addresses))
}

fn login_routes() -> Router<ApiState> {
    Router::new()
        .route("/node/register", post(logins::register_by_query))
        .route("/auth/register", post(logins::register))
        .route("/auth/approve", post(logins::approve))
        .route("/auth/reject", post(logins::reject))
        .route("/debug/node", post(logins::debug_node))
}
