//! What is counted, in the text form that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use quorate_transport::{Endpoint, Versions};

/// One label: its name and its value.
pub type Label = [(&'static str, String); 1];
type Labelled = Family<Label, Counter>;
type LabelledGauge = Family<Label, Gauge<u64, AtomicU64>>;
type Number = Gauge<u64, AtomicU64>;
type LabelledTiming = Family<Label, Histogram, fn() -> Histogram>;

/// Everything this node counts itself; the transport's counters are read when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Whether so many other orchestrators are connected that operations can be ordered.
    pub quorum_reachable: Number,
    /// Epoch of the orchestrators' group.
    pub epoch: Number,
    /// Entries of the log that this node knows to be final.
    pub log_entries: Number,
    /// Entries that it has executed.
    pub log_applied: Number,
    /// Operations executed, by result.
    pub operations: Labelled,
    /// From a request to its answer.
    pub order_seconds: Histogram,
    /// Time until bytes were durable, by file.
    wal_fsync_seconds: LabelledTiming,
    syncs: Mutex<BTreeMap<&'static str, Duration>>,
    /// Entries in one batch.
    pub batch_entries: Histogram,
    /// Lowest index of the log that was not signed.
    pub sign_state_index: Number,
    /// Other orchestrators connected.
    pub peers: Number,
    queue_depth: LabelledGauge,
    requests_refused: Labelled,
    evidence: Labelled,
    /// VMs under management.
    pub vm_count: Number,
    migrations: Labelled,
    service_entries: LabelledGauge,
    service_stopped: LabelledGauge,
}

/// Buckets from 100 µs to 6.5 s.
fn durations() -> Histogram {
    Histogram::new((0..17).map(|power| 1e-4 * f64::from(1u32 << power)))
}

impl Metrics {
    /// Nothing counted yet; `endpoint` has counters of its own.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let registry = Registry::with_prefix("quorate");
        let timing: fn() -> Histogram = durations;
        let mut metrics = Self {
            registry,
            quorum_reachable: Number::default(),
            epoch: Number::default(),
            log_entries: Number::default(),
            log_applied: Number::default(),
            operations: Labelled::default(),
            order_seconds: durations(),
            wal_fsync_seconds: Family::new_with_constructor(timing),
            syncs: Mutex::default(),
            batch_entries: Histogram::new((0..12).map(|power| f64::from(1u32 << power))),
            sign_state_index: Number::default(),
            peers: Number::default(),
            queue_depth: LabelledGauge::default(),
            requests_refused: Labelled::default(),
            evidence: Labelled::default(),
            vm_count: Number::default(),
            migrations: Labelled::default(),
            service_entries: LabelledGauge::default(),
            service_stopped: LabelledGauge::default(),
        };
        metrics.register(endpoint);
        metrics
    }

    fn register(&mut self, endpoint: Endpoint) {
        let registry = &mut self.registry;
        let build = Info::new(vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("protocol", Versions::SPOKEN.highest.to_string()),
        ]);
        registry.register("build", "Version of this program and of the protocol", build);
        let numbers = [
            (
                "quorum_reachable",
                "1 if enough other orchestrators are connected to order",
                &self.quorum_reachable,
            ),
            ("epoch", "Epoch of the orchestrators' group", &self.epoch),
            ("log_entries", "Entries of the log known to be final", &self.log_entries),
            ("log_applied", "Entries of the log executed", &self.log_applied),
            ("sign_state_index", "Lowest log index without a signed receipt", &self.sign_state_index),
            ("peers", "Other orchestrators connected", &self.peers),
            ("vm_count", "VMs under management", &self.vm_count),
        ];
        for (name, help, number) in numbers {
            registry.register(name, help, number.clone());
        }
        let counters = [
            ("operations", "Operations executed, by result", &self.operations),
            ("request_refused", "Requests refused, by error kind", &self.requests_refused),
            ("evidence", "Evidence of misbehaviour, by kind", &self.evidence),
            ("migration", "Migrations, by result", &self.migrations),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
        let gauges = [
            ("service_entries", "Entries of a service's log executed here", &self.service_entries),
            ("service_stopped", "1 if others contradict the replica of a service", &self.service_stopped),
        ];
        for (name, help, family) in gauges {
            registry.register(name, help, family.clone());
        }
        registry.register("queue_depth", "Entries waiting, by queue", self.queue_depth.clone());
        registry.register("order_seconds", "From a request to its answer", self.order_seconds.clone());
        registry.register(
            "wal_fsync_seconds",
            "Time until bytes were durable",
            self.wal_fsync_seconds.clone(),
        );
        registry.register("batch_entries", "Entries executed in one batch", self.batch_entries.clone());
        registry.register_collector(Box::new(TransportCounters(endpoint)));
    }

    /// Counts a sync of this file.
    pub fn synced(&self, file: &'static str, took: Duration) {
        self.wal_fsync_seconds.get_or_create(&[("file", file.to_owned())]).observe(took.as_secs_f64());
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let mean = syncs.entry(file).or_default();
        // Recent syncs weigh more: a disk that has become slow is to be seen soon.
        *mean = (*mean * 15 + took) / 16;
    }

    /// How long the slowest file's syncs took lately.
    #[must_use]
    pub fn sync_time(&self) -> Duration {
        let syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        syncs.values().max().copied().unwrap_or_default()
    }

    /// Counts an executed operation.
    pub fn executed(&self, result: &str) {
        self.operations.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// Counts a refused request.
    pub fn refused(&self, kind: &str) {
        self.requests_refused.get_or_create(&[("error_kind", kind.to_owned())]).inc();
    }

    /// Counts evidence of misbehaviour.
    pub fn evidence(&self, kind: &str) {
        self.evidence.get_or_create(&[("kind", kind.to_owned())]).inc();
    }

    /// Counts the end of a migration.
    pub fn migration(&self, result: &str) {
        self.migrations.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// Sets how many entries of a service's log are executed.
    pub fn service_executed(&self, service: &str, entries: u64) {
        self.service_entries.get_or_create(&[("service", service.to_owned())]).set(entries);
    }

    /// Sets whether a service is not served because others contradict it.
    pub fn service_stopped(&self, service: &str, stopped: bool) {
        self.service_stopped.get_or_create(&[("service", service.to_owned())]).set(u64::from(stopped));
    }

    /// Sets how many entries wait in a queue.
    pub fn waiting(&self, queue: &'static str, depth: usize) {
        self.queue_depth.get_or_create(&[("queue", queue.to_owned())]).set(depth as u64);
    }

    /// The whole exposition.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail; an empty text would be noticed by whoever scrapes it.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// The counters of the endpoint, under the names they carry.
struct TransportCounters(Endpoint);

impl fmt::Debug for TransportCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportCounters")
    }
}

impl Collector for TransportCounters {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let samples = self.0.counters().samples();
        let mut rest = &samples[..];
        // Samples of one family follow each other, and a family has one description.
        while let Some(first) = rest.first() {
            let family = rest.iter().take_while(|sample| sample.name == first.name).count();
            let name = first.name.trim_end_matches("_total");
            let mut metric =
                encoder.encode_descriptor(name, "Counter of the transport", None, MetricType::Counter)?;
            let Some(_) = first.label else {
                ConstCounter::new(first.value).encode(metric)?;
                rest = &rest[family..];
                continue;
            };
            for sample in &rest[..family] {
                if let Some(label) = sample.label {
                    ConstCounter::new(sample.value).encode(metric.encode_family(&[label])?)?;
                }
            }
            rest = &rest[family..];
        }
        Ok(())
    }
}

/// Shared by all parts of a node.
pub type SharedMetrics = Arc<Metrics>;
