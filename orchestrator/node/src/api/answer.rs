//! Errors as JSON, with the HTTP status that fits the kind.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::model::ApiError;
use crate::node::Refusal;

/// An error on its way to a client.
#[derive(Debug)]
pub(crate) struct Failed {
    status: StatusCode,
    body: ApiError,
}

impl Failed {
    pub(crate) fn new(status: StatusCode, kind: &str, message: impl ToString, next: &str) -> Self {
        let body =
            ApiError { error_kind: kind.to_owned(), message: message.to_string(), next: next.to_owned() };
        Self { status, body }
    }

    /// A request that does not say what it must.
    pub(crate) fn malformed(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DecodeError", message, "see /openapi.json")
    }

    /// Something that is not there.
    pub(crate) fn not_found(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message, "look at /v1/status for what has been executed")
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let (status, next) = match &refusal {
            Refusal::Decode(_) => (StatusCode::BAD_REQUEST, "send an encoded, signed operation"),
            Refusal::Verify(_) | Refusal::Control(_) => {
                (StatusCode::FORBIDDEN, "sign with a key that may ask for this, for this group")
            }
            Refusal::QueueFull(_) => (StatusCode::TOO_MANY_REQUESTS, "wait for answers before asking more"),
            Refusal::NotFound { .. } => {
                (StatusCode::NOT_FOUND, "look at /v1/status for what has been executed")
            }
            Refusal::NoServices | Refusal::UnknownService | Refusal::ReplyForgotten { .. } => {
                (StatusCode::NOT_FOUND, "look at /v1/services, or ask another orchestrator")
            }
            Refusal::Query { .. } => (StatusCode::BAD_REQUEST, "ask what the service answers"),
            Refusal::ServiceStopped { .. } | Refusal::Guest(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "ask another orchestrator")
            }
            Refusal::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "ask for less"),
            Refusal::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "look at the log of this node"),
            Refusal::Transport(_) | Refusal::Log(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "look at /readyz, and try again or ask another orchestrator",
            ),
        };
        Self::new(status, refusal.kind(), &refusal, next)
    }
}

impl From<JsonRejection> for Failed {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "DecodeError", rejection.body_text(), "see /openapi.json")
    }
}

impl From<PathRejection> for Failed {
    fn from(rejection: PathRejection) -> Self {
        Self::malformed(rejection.body_text())
    }
}

impl From<QueryRejection> for Failed {
    fn from(rejection: QueryRejection) -> Self {
        Self::malformed(rejection.body_text())
    }
}
