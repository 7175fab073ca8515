//! The HTTP API: JSON for people and programs on the same machine, described by its own OpenAPI document.

mod answer;
mod health;
mod model;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use quorate_attest::operation::OPERATION_LIMIT;
use utoipa::OpenApi;

pub use health::{Check, Readiness};
pub use model::{
    ApiError, Group, GroupMember, Groups, Log, LogEntry, Migration, Migrations, Proof, Service, Services,
    SignedDecision, SignedReceipt, SubmitOperation, Vm, Vms,
};
pub use server::Listener;

use crate::node::{NodeStatus, Shared};

/// Most bytes of a request's body: an operation in base64, and the JSON around it.
const BODY_BYTES_MAX: usize = OPERATION_LIMIT.div_ceil(3) * 4 + 256;
/// Time for an answer that needs no ordering.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is served, described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quorate orchestrator",
        description = "What one orchestrator has executed and signed.",
        license(name = "Apache-2.0 OR MIT")
    ),
    paths(
        routes::vms,
        routes::vm,
        routes::migrations,
        routes::groups,
        routes::services,
        routes::service,
        routes::log,
        routes::proof,
        routes::status,
        routes::submit,
        routes::openapi,
        routes::metrics,
        health::live,
        health::ready
    ),
    components(schemas(ApiError))
)]
struct Document;

/// The OpenAPI document as JSON.
#[must_use]
pub fn document() -> String {
    Document::openapi().to_json().unwrap_or_default()
}

/// All routes of a node.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/vms", get(routes::vms))
        .route("/v1/vms/{id}", get(routes::vm))
        .route("/v1/migrations", get(routes::migrations))
        .route("/v1/groups", get(routes::groups))
        .route("/v1/services", get(routes::services))
        .route("/v1/services/{name}", get(routes::service))
        .route("/v1/log", get(routes::log))
        .route("/v1/log/{index}/proof", get(routes::proof))
        .route("/v1/status", get(routes::status))
        .route("/v1/operations", post(routes::submit))
        .route("/openapi.json", get(routes::openapi))
        .route("/metrics", get(routes::metrics))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(routes::nowhere)
        .method_not_allowed_fallback(routes::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// The type of `GET /v1/status`.
pub type Status = NodeStatus;
