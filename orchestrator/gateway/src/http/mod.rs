//! HTTP: service discovery, DNS records, user lists, proofs and health.
//!
//! ```text
//! GET /prometheus/sd?prefix=        Prometheus HTTP service discovery
//! GET /dns/srv?zone=&prefix=&ttl=   SRV records, and addresses for them, as lines of a zone file
//! GET /passwd, /group               lines of passwd(5) and group(5)
//! GET /proofs/newest                the proof of the newest answer, for `quorate verify`
//! GET /healthz                      whether a read of everything acknowledged so far succeeds
//! ```
//!
//! Every answer is made of proven reads that are linearizable. Without a quorum the answer is 503 and names the failure.

pub mod dns;
pub mod prometheus;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quorate_registry::{NAME_BYTES_MAX, NameRange, totals_key};
use quorate_uid::uid_key;
use serde::{Deserialize, Serialize};

use crate::backend::{Freshness, Shared};
use crate::proofs::Proofs;
use crate::registry::{ReadError, Snapshot, snapshot};
use crate::users::{UsersError, users};

/// What HTTP answers from. A part that the gateway does not serve is not there.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The service registry.
    pub registry: Option<Shared>,
    /// The UID registry.
    pub uids: Option<Shared>,
    /// Proofs of answers.
    pub proofs: Option<Arc<Proofs>>,
}

/// All routes.
pub fn routes(sources: Sources) -> axum::Router {
    axum::Router::new()
        .route("/healthz", get(healthz))
        .route("/prometheus/sd", get(discovery))
        .route("/dns/srv", get(records))
        .route("/passwd", get(passwd))
        .route("/group", get(group))
        .route("/proofs/newest", get(newest))
        .fallback(async || Failure::not_found("no such page"))
        .with_state(sources)
}

/// An answer that is none.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    kind: String,
    text: String,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    error_kind: &'a str,
    error: &'a str,
}

impl Failure {
    fn not_found(text: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, kind: "NotFound".to_owned(), text: text.to_owned() }
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "BadRequest".to_owned(), text: text.into() }
    }

    fn unavailable(kind: &str, text: String) -> Self {
        tracing::warn!(error_kind = kind, "{text}");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: kind.to_owned(), text }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::unavailable(error.kind(), error.to_string())
    }
}

impl From<UsersError> for Failure {
    fn from(error: UsersError) -> Self {
        Self::unavailable(error.kind(), error.to_string())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = FailureBody { error_kind: &self.kind, error: &self.text };
        (self.status, Json(body)).into_response()
    }
}

fn registry(sources: &Sources) -> Result<&Shared, Failure> {
    sources.registry.as_ref().ok_or_else(|| Failure::not_found("this gateway serves no service registry"))
}

fn uids(sources: &Sources) -> Result<&Shared, Failure> {
    sources.uids.as_ref().ok_or_else(|| Failure::not_found("this gateway serves no UID registry"))
}

async fn healthz(State(sources): State<Sources>) -> Result<&'static str, Failure> {
    let probes = [(&sources.registry, totals_key()), (&sources.uids, uid_key(0))];
    for (backend, key) in probes {
        if let Some(backend) = backend {
            let read = backend.get(&key, Freshness::Linearizable).await;
            read.map_err(|error| Failure::unavailable(error.kind(), error.to_string()))?;
        }
    }
    Ok("ok\n")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prefix {
    #[serde(default)]
    prefix: String,
}

async fn all(sources: &Sources, prefix: &str) -> Result<Snapshot, Failure> {
    let backend = registry(sources)?;
    if prefix.len() > NAME_BYTES_MAX {
        return Err(Failure::bad_request("the prefix is longer than a name"));
    }
    let range = NameRange::prefix(prefix.as_bytes());
    Ok(snapshot(backend.as_ref(), &range, Freshness::Linearizable).await?)
}

async fn discovery(
    State(sources): State<Sources>,
    query: Result<Query<Prefix>, QueryRejection>,
) -> Result<Json<Vec<prometheus::Group>>, Failure> {
    let Query(Prefix { prefix }) = query?;
    Ok(Json(prometheus::groups(&all(&sources, &prefix).await?.records)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Zone {
    zone: String,
    #[serde(default)]
    prefix: String,
    #[serde(default = "default_ttl")]
    ttl: u32,
}

fn default_ttl() -> u32 {
    30
}

async fn records(
    State(sources): State<Sources>,
    query: Result<Query<Zone>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(Zone { zone, prefix, ttl }) = query?;
    let zone = dns::Zone::new(&zone, ttl).map_err(|error| Failure::bad_request(error.to_string()))?;
    let lines = zone.lines(&all(&sources, &prefix).await?.records, prefix.as_bytes());
    Ok(text("text/dns", lines))
}

async fn passwd(State(sources): State<Sources>) -> Result<Response, Failure> {
    let users = users(uids(&sources)?.as_ref()).await?;
    Ok(text("text/plain", users.iter().map(|user| user.passwd_line() + "\n").collect()))
}

async fn group(State(sources): State<Sources>) -> Result<Response, Failure> {
    let users = users(uids(&sources)?.as_ref()).await?;
    Ok(text("text/plain", users.iter().map(|user| user.group_line() + "\n").collect()))
}

fn text(kind: &'static str, lines: String) -> Response {
    ([(header::CONTENT_TYPE, kind)], lines).into_response()
}

async fn newest(State(sources): State<Sources>) -> Result<Response, Failure> {
    let proofs = sources.proofs.as_ref().ok_or_else(|| Failure::not_found("this gateway keeps no proofs"))?;
    let newest = proofs.newest().ok_or_else(|| Failure::not_found("nothing was answered yet"))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], newest.to_vec()).into_response())
}
