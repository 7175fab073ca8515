//! `quorate service show`.

use quorate_ordering::services::ServiceInfo;
use quorate_services::find;
use serde_json::json;

use super::{Cluster, FIND_LIMIT, unknown};
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, short};

/// Runs the command. Exit code 69 when fewer than `f + 1` replicas serve.
pub async fn run(name: &str, cluster: &Cluster, output: &Output) -> Result<u8, Failure> {
    let found = find::named(cluster.client.orderer(), name, FIND_LIMIT, false).await?;
    let found = found.ok_or_else(|| unknown(name))?;
    let row = |(index, info): (&u16, &ServiceInfo)| {
        let member = cluster.replicas().ok().and_then(|group| group.members.get(usize::from(info.replica)));
        vec![
            member.map_or_else(|| index.to_string(), |member| member.name.clone()),
            info.ordered.to_string(),
            info.executed.to_string(),
            short(info.image),
            match &info.stopped {
                None => "serves".to_owned(),
                Some(stopped) => format!("STOPPED {}: {}", stopped.kind, stopped.detail),
            },
        ]
    };
    output.line(&format!("service {name}: {}", found.service));
    let rows: Vec<_> = found.replicas.iter().map(row).collect();
    output.table(&["replica", "ordered", "executed", "image", "state"], &rows, &[1, 2]);
    let serving = found.replicas.values().filter(|info| info.stopped.is_none()).count() as u64;
    let need = cluster.replicas()?.rule().map_err(Failure::usage)?.matching_replies();
    let list: Vec<_> = found
        .replicas
        .values()
        .map(|info| {
            json!({
                "replica": info.replica, "ordered": info.ordered, "executed": info.executed,
                "image": info.image.to_string(),
                "stopped": info.stopped.as_ref().map(|stopped| json!({"error_kind": stopped.kind, "detail": stopped.detail})),
            })
        })
        .collect();
    let result = if serving >= need { "serves" } else { "no quorum" };
    output
        .object(&json!({"result": result, "name": name, "id": found.service.to_string(), "replicas": list}));
    Ok(if serving >= need { exit::OK } else { exit::NO_QUORUM })
}
