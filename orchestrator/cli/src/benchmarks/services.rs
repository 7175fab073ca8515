//! Ordered services: certified calls and proven reads of the registry, against the ordered log without guests and against etcd.
//!
//! ```text
//! for n = 4, 7:   three etcd, alone ─▶ a cluster with a registry of n replicas, alone:
//!                 one client ─▶ many clients ─▶ the gateway ─▶ names put before 1,000 and 10,000 others, sizes of proofs
//! ```
//!
//! "The log" is an operation of the same bytes for a service that is not there: ordered, counted and receipted by the same
//! orchestrators, and executed by no guest. The ratio to it is the price of guests, their receipts and their signer.
//!
//! # Not promised
//!
//! etcd tolerates crashes and proves nothing; three of them are what one crash takes, as four replicas are what one lie takes.

mod calls;
mod etcd;
mod registry;
mod scene;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::effort::ServicesEffort;
use super::plain::syncs;
use super::report::{Figure, Row};
use super::stats::Samples;
use super::{BenchError, Context};
use calls::{Kind, Measured, latencies, rates};
use etcd::{Etcd, EtcdClient};
use registry::ProofBytes;
use scene::Scene;

/// Bytes of the smaller and the larger value.
const SMALL: usize = 64;
const LARGE: usize = 1024;
/// Our calls. A put comes first: reads find its value.
const OURS: [Kind; 6] = [
    Kind::Put(SMALL),
    Kind::Order(SMALL),
    Kind::Put(LARGE),
    Kind::Order(LARGE),
    Kind::Linearizable,
    Kind::Newest,
];
/// What etcd has that answers to them.
const THEIRS: [Kind; 4] = [Kind::Put(SMALL), Kind::Put(LARGE), Kind::Linearizable, Kind::Newest];
/// What is called through the gateway.
const GATEWAY: [Kind; 2] = [Kind::Put(SMALL), Kind::Linearizable];
/// What is compared while the state grows.
const GROWTH: [Kind; 2] = [Kind::Put(SMALL), Kind::First];
/// After so long no further names are registered.
const FILL_LIMIT: Duration = Duration::from_secs(240);
/// What must be known to read the rows.
const NOTES: [&str; 5] = [
    "all processes and clients share this machine; 4 verifiers in SAMPLED mode attest every replica",
    "a second number is the 99th percentile, of the baseline and of the ratio",
    "the log: an operation of the same bytes that no guest executes, in the same cluster",
    "etcd: three processes on loopback, asked as the gateway is, without TLS, signatures or proofs",
    "beside its names the registry's state has an entry for each recent event and each client",
];

/// One cluster's figures.
#[derive(Debug)]
struct Cluster {
    replicas: usize,
    calls: Measured,
    gateway: BTreeMap<Kind, Samples>,
    proofs: ProofBytes,
    /// Latencies with almost no names, and with so many.
    empty: BTreeMap<Kind, Samples>,
    grown: Vec<(usize, BTreeMap<Kind, Samples>)>,
}

pub(super) async fn measure(context: &Context, progress: &mut dyn FnMut(&str)) -> Result<Figure, BenchError> {
    let effort = context.effort.services;
    let before = load_average();
    let sync = syncs(context.scratch.path(), context.effort.syncs)?;
    let mut rows =
        vec![Row::new("fdatasync of 512 bytes written into a file of zeros, same disk", "ms", &sync)];
    let mut compared = true;
    let groups = if context.replicas.is_empty() { effort.groups } else { &context.replicas };
    for &replicas in groups {
        progress(&format!("services: etcd, before n = {replicas}"));
        let theirs = etcd(context, effort).await?;
        compared &= theirs.is_some();
        let ours = cluster(context, replicas, progress).await?;
        rows.extend(ours.rows(theirs.as_ref()));
        if let Some(theirs) = &theirs {
            let row = Row::new(
                format!("etcd beside n = {replicas}: put, {SMALL} B"),
                "ms",
                &theirs.latency(Kind::Put(SMALL)),
            );
            rows.push(row.against("fdatasync", sync.p50()));
        }
    }
    let mut notes: Vec<String> = NOTES.iter().map(|&note| note.into()).collect();
    notes.push(format!("load average before: {before}, after: {}", load_average()));
    if !compared {
        notes.insert(
            0,
            "ETCD IS NOT INSTALLED: NOTHING IS COMPARED WITH IT (Debian: apt install etcd-server)".into(),
        );
    }
    Ok(Figure {
        title: "certified calls and proven reads of a registry service".into(),
        rows,
        notes,
        ..Figure::default()
    })
}

/// Nothing, where etcd is not installed.
async fn etcd(context: &Context, effort: ServicesEffort) -> Result<Option<Measured>, BenchError> {
    let folder = context.scratch.path().join("etcd");
    let Some(etcd) = Etcd::start(&folder).await? else { return Ok(None) };
    let clients = etcd.clients(effort.most_clients()).await?;
    let measured = calls::measure(&clients, &THEIRS, effort).await?;
    etcd.stop().await?;
    Ok(Some(measured))
}

async fn cluster(
    context: &Context,
    replicas: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<Cluster, BenchError> {
    let effort = context.effort.services;
    let mut tell = |what: &str| progress(&format!("services: n = {replicas}, {what}"));
    tell("start");
    let scene = Scene::start(context, replicas, effort.most_clients()).await?;
    let client = scene.first()?;
    tell("one client");
    let latency = latencies(&*client, &OURS, effort.calls, effort.in_a_row).await?;
    tell("a state without names");
    let empty = latencies(&*client, &GROWTH, effort.first, effort.in_a_row).await?;
    tell("many clients");
    let rate = rates(&scene.clients, &OURS, effort).await?;
    tell("gateway");
    let gateway = EtcdClient::connect(scene.gateway()?, "/gateway".into()).await?;
    let gateway = latencies(&gateway, &GATEWAY, effort.gateway, effort.in_a_row).await?;
    let (mut grown, mut proofs) = (Vec::new(), None);
    let mut registered = 0;
    for &names in effort.names {
        tell(&format!("{names} names"));
        let end = Instant::now() + FILL_LIMIT;
        while registered < names && Instant::now() < end {
            registered = client.fill(registered, names).await?;
        }
        if proofs.is_none() {
            proofs = Some(client.proofs(registered).await?);
        }
        grown.push((registered, latencies(&*client, &GROWTH, effort.first, effort.in_a_row).await?));
    }
    drop(client);
    scene.stop().await?;
    let proofs = proofs.ok_or_else(|| BenchError::unexpected("no names to prove"))?;
    Ok(Cluster { replicas, calls: Measured { latency, rate }, gateway, proofs, empty, grown })
}

impl Cluster {
    fn rows(&self, etcd: Option<&Measured>) -> Vec<Row> {
        let mut rows = Vec::new();
        for kind in OURS {
            let row = self.row(kind.words(), "ms", &self.calls.latency(kind));
            let log = kind.log().map(|log| ("the log", self.calls.latency(log)));
            let etcd = etcd.map(|etcd| (kind.etcd_words(), etcd.latency(kind.of_etcd())));
            compare(&mut rows, row, log, etcd);
        }
        for (&(kind, clients), rate) in &self.calls.rate {
            let row = self.row(format!("{}, {clients} clients", kind.words()), "ops/s", rate);
            let log = kind.log().map(|log| ("the log", self.calls.rate(log, clients)));
            let etcd = etcd.map(|etcd| (kind.etcd_words(), etcd.rate(kind.of_etcd(), clients)));
            compare(&mut rows, Row { p99: None, ..row }, log, etcd);
        }
        for (kind, samples) in &self.gateway {
            let row = self.row(format!("{}, through the gateway", kind.words()), "ms", samples);
            let etcd = etcd.map(|etcd| (kind.etcd_words(), etcd.latency(*kind)));
            compare(&mut rows, row, Some(("without it", self.calls.latency(*kind))), etcd);
        }
        rows.extend(self.growth());
        rows.extend(self.sizes());
        rows
    }

    fn row(&self, what: impl std::fmt::Display, unit: &'static str, samples: &Samples) -> Row {
        Row::new(format!("n = {}: {what}", self.replicas), unit, samples)
    }

    fn growth(&self) -> Vec<Row> {
        let rows = self.grown.iter().flat_map(|(names, grown)| {
            grown.iter().map(move |(kind, samples)| {
                let row = self.row(format!("{}, {names} names registered", kind.words()), "ms", samples);
                match self.empty.get(kind) {
                    Some(empty) => row.against_samples("few names", empty),
                    None => row,
                }
            })
        });
        rows.collect()
    }

    fn sizes(&self) -> Vec<Row> {
        let ProofBytes { names, sizes } = &self.proofs;
        let row = |(what, bytes, proved): &(&str, usize, usize)| {
            let mut samples = Samples::new();
            samples.push(*bytes as f64);
            let row = self.row(format!("proof of {what}, {names} names registered"), "B", &samples);
            match proved {
                0 => row,
                proved => row.against("bytes of values", *proved as f64),
            }
        };
        sizes.iter().map(row).collect()
    }
}

/// The row once for each of its baselines.
fn compare(
    rows: &mut Vec<Row>,
    row: Row,
    log: Option<(&'static str, Samples)>,
    etcd: Option<(&'static str, Samples)>,
) {
    let baselines: Vec<_> = log.into_iter().chain(etcd).collect();
    if baselines.is_empty() {
        rows.push(row.clone());
    }
    rows.extend(baselines.into_iter().map(|(what, samples)| row.clone().against_samples(what, &samples)));
}

/// Processes that were ready to run, as the system averages it over a minute.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
