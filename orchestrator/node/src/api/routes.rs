//! The handlers.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use base64ct::{Base64, Encoding};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ServiceId, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::operation::Operation;
use quorate_control::{Command, Control, Which};
use quorate_ordering::protocol::TailEntry;
use tokio::time::timeout;

use super::ANSWER_TIMEOUT;
use super::answer::Failed;
use super::model::{
    ApiError, Groups, Log, LogEntry, LogQuery, Migration, Migrations, Proof, ProofQuery, Service, Services,
    SignedReceipt, SubmitOperation, Vm, Vms,
};
use crate::node::{NodeStatus, Shared, phase_name};

type Node = State<Arc<Shared>>;
type Answer<T> = Result<Json<T>, Failed>;

/// All VMs.
#[utoipa::path(get, path = "/v1/vms", responses((status = 200, body = Vms)))]
pub(super) async fn vms(State(shared): Node) -> Json<Vms> {
    let replica = shared.replica();
    let control = replica.control();
    let vms = control.vms().map(|(id, vm)| describe(control, id, vm)).collect();
    Json(Vms { applied: replica.applied(), vms })
}

/// One VM.
#[utoipa::path(get, path = "/v1/vms/{id}", params(("id" = String, Path, description = "Id of the VM")),
    responses((status = 200, body = Vm), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub(super) async fn vm(State(shared): Node, path: Result<Path<String>, PathRejection>) -> Answer<Vm> {
    let Path(text) = path?;
    let id: VmId = text.parse().map_err(Failed::malformed)?;
    let replica = shared.replica();
    let control = replica.control();
    let vm = control.vm(&id).ok_or_else(|| Failed::not_found(format!("VM {id} is not in the registry")))?;
    Ok(Json(describe(control, &id, vm)))
}

fn describe(control: &Control, id: &VmId, vm: &quorate_control::Vm) -> Vm {
    Vm {
        id: id.to_string(),
        name: vm.spec.name.clone(),
        image: vm.spec.image.to_string(),
        memory_bytes: vm.spec.memory_bytes,
        host: vm.host.to_string(),
        host_name: host_name(control, &vm.host),
        generation: vm.generation.get(),
        head_slot: vm.head.map(|head| head.slot.get()),
        owner: vm.owner.to_string(),
        migration: vm.migration.as_ref().map(|(id, _)| id.to_string()),
        state: if vm.migration.is_some() { "moving" } else { "running" }.to_owned(),
    }
}

fn host_name(control: &Control, key: &PublicKey) -> Option<String> {
    let hosts = &control.groups(Which::Verifiers).current().hosts;
    hosts.iter().find(|host| host.key == *key).map(|host| host.name.clone())
}

/// Migrations under way.
#[utoipa::path(get, path = "/v1/migrations", responses((status = 200, body = Migrations)))]
pub(super) async fn migrations(State(shared): Node) -> Json<Migrations> {
    let replica = shared.replica();
    let under_way = replica.control().vms().filter_map(|(_, vm)| vm.migration.as_ref());
    let migrations = under_way
        .map(|(id, migration)| Migration {
            id: id.to_string(),
            vm: migration.vm.to_string(),
            source: migration.source.to_string(),
            destination: migration.destination.to_string(),
            generation: migration.generation.get(),
            phase: phase_name(migration.phase).to_owned(),
        })
        .collect();
    Json(Migrations { applied: replica.applied(), migrations })
}

/// Both groups in their present epochs.
#[utoipa::path(get, path = "/v1/groups", responses((status = 200, body = Groups)))]
pub(super) async fn groups(State(shared): Node) -> Json<Groups> {
    let replica = shared.replica();
    let group = |which| replica.control().groups(which).current().into();
    Json(Groups {
        applied: replica.applied(),
        orchestrators: group(Which::Orchestrators),
        verifiers: group(Which::Verifiers),
    })
}

/// All ordered services.
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Services)))]
pub(super) async fn services(State(shared): Node) -> Json<Services> {
    let replica = shared.replica();
    let services =
        replica.control().services().map(|(id, service)| of_service(&shared, id, service)).collect();
    Json(Services { applied: replica.applied(), services })
}

/// One ordered service.
#[utoipa::path(get, path = "/v1/services/{name}", params(("name" = String, Path, description = "Name of the service")),
    responses((status = 200, body = Service), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub(super) async fn service(
    State(shared): Node,
    path: Result<Path<String>, PathRejection>,
) -> Answer<Service> {
    let Path(name) = path?;
    let replica = shared.replica();
    let control = replica.control();
    let found = control.service_named(&name).and_then(|id| Some((id, control.service(&id)?)));
    let missing = || Failed::not_found(format!("service {name} is not in the registry"));
    let (id, service) = found.ok_or_else(missing)?;
    Ok(Json(of_service(&shared, &id, service)))
}

fn of_service(shared: &Shared, id: &ServiceId, service: &quorate_control::Service) -> Service {
    let host = shared.services().ok();
    let running = host.and_then(|host| host.running(id));
    let executed = running.as_ref().map(|running| *running.executed.borrow());
    let stopped = running.and_then(|running| running.stopped().or_else(|| running.stuck()));
    Service {
        id: id.to_string(),
        name: service.record.spec.name.clone(),
        image: service.image_at(executed.unwrap_or(service.progress.ordered)).0.to_string(),
        memory_bytes: service.record.spec.memory_bytes,
        created: service.record.created,
        ordered: service.progress.ordered,
        executed,
        replica: executed.and(host).map(|host| host.parts.replica),
        stopped: stopped.map(|why| format!("{}: {}", why.kind, why.detail)),
    }
}

/// Entries of the log with what became of them.
#[utoipa::path(get, path = "/v1/log", params(LogQuery),
    responses((status = 200, body = Log), (status = 400, body = ApiError)))]
pub(super) async fn log(State(shared): Node, query: Result<Query<LogQuery>, QueryRejection>) -> Answer<Log> {
    let Query(LogQuery { from, count }) = query?;
    let found = shared.entries(from, count)?;
    let entries = found.entries.iter().map(entry).collect();
    Ok(Json(Log { size: found.size, from, entries }))
}

fn entry(entry: &TailEntry) -> LogEntry {
    let operation = Operation::decoded(&entry.operation).ok();
    let command = operation.as_ref().and_then(|operation| Command::decoded(&operation.command).ok());
    let author = operation.map(|operation| operation.author.to_string());
    LogEntry::new(entry, author, command.map(|command| command.name().to_owned()))
}

/// That an entry is in the log.
#[utoipa::path(get, path = "/v1/log/{index}/proof", params(("index" = u64, Path, description = "Place in the log"), ProofQuery),
    responses((status = 200, body = Proof), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub(super) async fn proof(
    State(shared): Node,
    path: Result<Path<u64>, PathRejection>,
    query: Result<Query<ProofQuery>, QueryRejection>,
) -> Answer<Proof> {
    let (Path(index), Query(ProofQuery { size })) = (path?, query?);
    let proved = timeout(ANSWER_TIMEOUT, shared.prove(index, size)).await;
    let late =
        || Failed::new(StatusCode::SERVICE_UNAVAILABLE, "PeerTimeout", "no proof in time", "try again");
    Ok(Json(Proof::from(&proved.map_err(|_| late())??)))
}

/// How the node is.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = NodeStatus)))]
pub(super) async fn status(State(shared): Node) -> Json<NodeStatus> {
    Json(shared.status())
}

/// Has a signed operation ordered, and answers with this orchestrator's receipt once it was executed.
#[utoipa::path(post, path = "/v1/operations", request_body = SubmitOperation,
    responses((status = 200, body = SignedReceipt), (status = 400, body = ApiError), (status = 403, body = ApiError),
        (status = 413, body = ApiError), (status = 415, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError), (status = 503, body = ApiError)))]
pub(super) async fn submit(
    State(shared): Node,
    body: Result<Json<SubmitOperation>, JsonRejection>,
) -> Answer<SignedReceipt> {
    let Json(SubmitOperation { operation }) = body?;
    let bytes =
        Base64::decode_vec(&operation).map_err(|error| Failed::malformed(format!("base64: {error}")))?;
    match shared.order(bytes).await? {
        Some(applied) => Ok(Json(SignedReceipt::from(&applied))),
        None => Err(Failed::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "QuorumUnreachable",
            "the operation was not executed in time; it may still be",
            "submit the same operation again: it is executed once",
        )),
    }
}

/// This API's description.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, content_type = "application/json")))]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], super::document())
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(shared): Node) -> impl IntoResponse {
    let content = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content)], shared.metrics.text())
}

pub(super) async fn nowhere() -> Failed {
    Failed::new(StatusCode::NOT_FOUND, "NotFound", "there is no such path", "see /openapi.json")
}

pub(super) async fn wrong_method() -> Failed {
    Failed::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "NotFound",
        "the path has no such method",
        "see /openapi.json",
    )
}
