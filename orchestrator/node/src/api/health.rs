//! `/livez` and `/readyz`: each check by its name.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::node::Shared;

/// Time in which another task must get its turn.
const TURN_LIMIT: Duration = Duration::from_secs(2);
/// Time of a sync above which a disk is too slow to vote in time.
const SYNC_TIME_MAX: Duration = Duration::from_millis(500);

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it is passed.
    pub ok: bool,
    /// What was found; only with `?verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The verdict and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether all checks are passed.
    pub ok: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

fn verdict(checks: Vec<(&str, bool, String)>, query: Option<&str>) -> (StatusCode, Json<Readiness>) {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part == "verbose"));
    let ok = checks.iter().all(|(_, ok, _)| *ok);
    let check = |(name, ok, detail): (&str, bool, String)| Check {
        name: name.to_owned(),
        ok,
        detail: verbose.then_some(detail),
    };
    let checks = checks.into_iter().map(check).collect();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ok, checks }))
}

/// Whether the process gets its turns: a failure calls for a restart.
#[utoipa::path(get, path = "/livez", params(("verbose" = Option<String>, Query, description = "Say what was found")),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(super) async fn live(RawQuery(query): RawQuery) -> (StatusCode, Json<Readiness>) {
    verdict(vec![event_loop().await], query.as_deref())
}

async fn event_loop() -> (&'static str, bool, String) {
    let began = std::time::Instant::now();
    let turn = timeout(TURN_LIMIT, tokio::spawn(async {})).await;
    ("event-loop", matches!(turn, Ok(Ok(()))), format!("a task got its turn after {:?}", began.elapsed()))
}

/// Whether the node takes part in ordering: a failure calls for patience or an operator.
#[utoipa::path(get, path = "/readyz", params(("verbose" = Option<String>, Query, description = "Say what was found")),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(super) async fn ready(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, Json<Readiness>) {
    let status = shared.status();
    let signed = shared.signed();
    let sync = shared.metrics.sync_time();
    let member = status.index.is_some() && !shared.is_leaving();
    let checks = vec![
        event_loop().await,
        ("keys", member, format!("member {:?} of epoch {}", status.index, status.epoch)),
        ("sign-state", signed >= status.applied, format!("{signed} of {} entries recorded", status.applied)),
        (
            "quorum",
            shared.is_quorum_connected(),
            format!("{} of {} others", status.connected, status.members - 1),
        ),
        ("log-synced", status.synced, format!("{} of {} entries executed", status.applied, status.entries)),
        services(&shared),
        ("disk", sync < SYNC_TIME_MAX, format!("a sync takes {sync:?}")),
    ];
    verdict(checks, query.as_deref())
}

/// A guest that does not answer is its host's trouble; a replica that contradicts others is not to be asked.
fn services(shared: &Shared) -> (&'static str, bool, String) {
    let all = shared.services().map(|host| host.all()).unwrap_or_default();
    let stopped: Vec<_> = all.iter().filter_map(|running| running.stopped()).map(|why| why.detail).collect();
    let detail = match stopped.as_slice() {
        [] => format!("{} replicas, none contradicted", all.len()),
        some => some.join("; "),
    };
    ("services", stopped.is_empty(), detail)
}
