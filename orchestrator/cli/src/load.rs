//! Load on a kv VM: many clients at once, what they measured, and whether everything acknowledged is still there.
//!
//! Each client has a key of its own and one request in flight: two writes, then a read of what it wrote last. A read
//! that shows anything but the last acknowledged value is counted as lost at once; after the load every key is read
//! back. A write without an answer is in doubt: its old and its new value are both right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_attest::id::Generation;
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Reply, status};
use quorate_kv::{Operation, op};
use quorate_transport::TransportError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use quorate_host::client::{Target, VmClient};
use quorate_host::clock::monotonic_ns;

/// Keys that one client writes in turn.
const KEYS_PER_CLIENT: u64 = 32;
/// Clients that read everything back.
const READERS: usize = 16;

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients, each with one request in flight.
    pub clients: usize,
    /// Requests a second over all clients; 0 is as fast as answers come.
    pub rate: f64,
    /// Requests after which the load ends by itself.
    pub count: Option<u64>,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// One believed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// When the request was made, monotonic nanoseconds.
    pub asked_ns: u64,
    /// When its answer was believed, monotonic nanoseconds.
    pub answered_ns: u64,
    /// Generation that answered.
    pub generation: Generation,
}

/// What the clients of a load know about one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Written {
    acknowledged: Option<Vec<u8>>,
    in_doubt: Vec<Vec<u8>>,
}

impl Written {
    fn allows(&self, found: Option<&[u8]>) -> bool {
        self.acknowledged.as_deref() == found || self.in_doubt.iter().any(|value| Some(&value[..]) == found)
    }
}

#[derive(Debug, Default)]
struct Notes {
    served: Vec<Served>,
    written: BTreeMap<Vec<u8>, Written>,
    unanswered: u64,
    failed: BTreeMap<u16, u64>,
    lost: BTreeSet<Vec<u8>>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    target: Arc<Target>,
    notes: Arc<Mutex<Notes>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

/// What a load measured.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Believed answers in the order in which they came.
    pub served: Vec<Served>,
    /// Keys whose acknowledged value was missing or another, and requests without any answer.
    pub lost: u64,
    /// Requests without any answer.
    pub unanswered: u64,
    /// Operations the service refused, by status.
    pub failed: BTreeMap<u16, u64>,
    /// Keys read back at the end.
    pub read_back: u64,
}

impl Load {
    /// Starts the clients.
    ///
    /// # Errors
    /// The system has no sockets or random bytes to give.
    pub fn start(target: Arc<Target>, plan: Plan) -> Result<Self, TransportError> {
        let (stop, stopped) = watch::channel(false);
        let notes = Arc::new(Mutex::new(Notes::default()));
        let mut clients = JoinSet::new();
        let start = Instant::now();
        for number in 0..plan.clients {
            let client = VmClient::new(Arc::clone(&target), random_key()?, 0)?;
            let worker = Worker { number, plan, start, client, notes: Arc::clone(&notes) };
            clients.spawn(worker.run(stopped.clone()));
        }
        Ok(Self { target, notes, stop, clients })
    }

    /// Believed answers so far.
    pub fn served(&self) -> u64 {
        lock(&self.notes).served.len() as u64
    }

    /// Whether all clients have made their requests.
    pub fn is_done(&mut self) -> bool {
        while self.clients.try_join_next().is_some() {}
        self.clients.is_empty()
    }

    /// Lets every client finish its request, reads everything back, and reports.
    ///
    /// # Errors
    /// The system has no sockets to give.
    pub async fn finish(mut self) -> Result<LoadReport, TransportError> {
        let _ = self.stop.send(true);
        while self.clients.join_next().await.is_some() {}
        let notes = std::mem::take(&mut *lock(&self.notes));
        let read_back = notes.written.len() as u64;
        let missing = read_back_all(&self.target, notes.written).await?;
        let lost: BTreeSet<_> = notes.lost.into_iter().chain(missing).collect();
        Ok(LoadReport {
            served: notes.served,
            lost: lost.len() as u64 + notes.unanswered,
            unanswered: notes.unanswered,
            failed: notes.failed,
            read_back,
        })
    }
}

struct Worker {
    number: usize,
    plan: Plan,
    start: Instant,
    client: VmClient,
    notes: Arc<Mutex<Notes>>,
}

impl Worker {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let clients = self.plan.clients.max(1) as u64;
        let own = |count: u64| count / clients + u64::from((self.number as u64) < count % clients);
        let count = self.plan.count.map_or(u64::MAX, own);
        for turn in 0..count {
            tokio::select! {
                // A load that ends does not wait for the time of the next request.
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = sleep_until(self.time_of(turn)) => {}
            }
            if turn % 3 == 2 { self.read(turn - 1).await } else { self.write(turn).await }
        }
    }

    /// When request `turn` is due: the clients take turns, evenly spaced.
    fn time_of(&self, turn: u64) -> Instant {
        if self.plan.rate <= 0.0 {
            return self.start;
        }
        let place = turn as f64 * self.plan.clients as f64 + self.number as f64;
        self.start + Duration::from_secs_f64((place / self.plan.rate).min(1e9))
    }

    fn key(&self, turn: u64) -> Vec<u8> {
        format!("load/{}/{}", self.number, turn % KEYS_PER_CLIENT).into_bytes()
    }

    fn value(&self, turn: u64) -> Vec<u8> {
        let mut value = format!("{}:{turn}:", self.number).into_bytes();
        let length = self.plan.value_bytes.max(value.len());
        value.resize(length, b'v');
        value
    }

    async fn write(&mut self, turn: u64) {
        let (key, value) = (self.key(turn), self.value(turn));
        lock(&self.notes).written.entry(key.clone()).or_default().in_doubt.push(value.clone());
        let operation = Operation::Put { key: key.clone(), value: value.clone() };
        let Some(reply) = self.ask(&operation).await else { return };
        if reply.status == status::OK {
            let acknowledged = Written { acknowledged: Some(value), in_doubt: Vec::new() };
            lock(&self.notes).written.insert(key, acknowledged);
        }
    }

    async fn read(&mut self, turn: u64) {
        let key = self.key(turn);
        let Some(reply) = self.ask(&Operation::Get { key: key.clone() }).await else { return };
        let mut notes = lock(&self.notes);
        let right = notes.written.get(&key).is_none_or(|written| written.allows(found(&reply)));
        if !right {
            notes.lost.insert(key);
        }
    }

    async fn ask(&mut self, operation: &Operation) -> Option<Reply> {
        let asked_ns = monotonic_ns();
        let result = self.client.call(operation.op(), operation.body()).await;
        let mut notes = lock(&self.notes);
        match result {
            Ok(believed) => {
                let (answered_ns, generation) = (monotonic_ns(), believed.generation);
                notes.served.push(Served { asked_ns, answered_ns, generation });
                if believed.reply.status != status::OK {
                    *notes.failed.entry(believed.reply.status).or_default() += 1;
                }
                Some(believed.reply)
            }
            Err(error) => {
                tracing::debug!(error_kind = error.kind(), %error, "request without an answer");
                notes.unanswered += 1;
                None
            }
        }
    }
}

/// The value in the reply to a get; none if the key is absent.
fn found(reply: &Reply) -> Option<&[u8]> {
    (reply.status == status::OK).then_some(&reply.body[..])
}

/// Reads every key with fresh clients; returns those that do not have a value they may have.
async fn read_back_all(
    target: &Arc<Target>,
    written: BTreeMap<Vec<u8>, Written>,
) -> Result<Vec<Vec<u8>>, TransportError> {
    let entries: Vec<_> = written.into_iter().collect();
    let share = entries.len().div_ceil(READERS).max(1);
    let mut readers = JoinSet::new();
    for part in entries.chunks(share) {
        let mut client = VmClient::new(Arc::clone(target), random_key()?, 0)?;
        let part = part.to_vec();
        readers.spawn(async move {
            let mut missing = Vec::new();
            for (key, written) in part {
                let operation = Operation::Get { key: key.clone() };
                let read = client.call(op::GET, operation.body()).await;
                if !read.is_ok_and(|believed| written.allows(found(&believed.reply))) {
                    missing.push(key);
                }
            }
            missing
        });
    }
    let mut missing = Vec::new();
    while let Some(part) = readers.join_next().await {
        missing.extend(part.unwrap_or_default());
    }
    Ok(missing)
}

/// A key that nobody has used before.
///
/// # Errors
/// The system gives no random bytes.
pub fn random_key() -> Result<SecretKey, TransportError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| TransportError::Connection(format!("random bytes: {error}")))?;
    Ok(SecretKey::from_seed(seed))
}

impl LoadReport {
    /// Answers that came before `until_ns`, from `from_ns` on.
    pub fn served_between(&self, from_ns: u64, until_ns: u64) -> u64 {
        let inside = |served: &&Served| (from_ns..until_ns).contains(&served.answered_ns);
        self.served.iter().filter(inside).count() as u64
    }

    /// The latency that `share` (0 to 1) of the answers did not exceed.
    pub fn latency(&self, share: f64) -> Duration {
        let mut latencies: Vec<u64> =
            self.served.iter().map(|served| served.answered_ns.saturating_sub(served.asked_ns)).collect();
        latencies.sort_unstable();
        let place = (latencies.len() as f64 * share).ceil() as usize;
        Duration::from_nanos(latencies.get(place.saturating_sub(1)).copied().unwrap_or(0))
    }

    /// Longest time without any answer between the first and the last one.
    pub fn longest_gap(&self) -> Duration {
        let mut times: Vec<u64> = self.served.iter().map(|served| served.answered_ns).collect();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_nanos(gaps.max().unwrap_or(0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(times: &[(u64, u64)]) -> LoadReport {
        let served = times.iter().map(|&(asked, answered)| Served {
            asked_ns: asked,
            answered_ns: answered,
            generation: Generation(0),
        });
        LoadReport { served: served.collect(), ..LoadReport::default() }
    }

    #[test]
    fn latencies_and_gap_follow_from_the_answers() {
        let report = report(&[(0, 10), (10, 30), (30, 40), (40, 140)]);
        assert_eq!(report.latency(0.5), Duration::from_nanos(10));
        assert_eq!(report.latency(0.99), Duration::from_nanos(100));
        assert_eq!(report.longest_gap(), Duration::from_nanos(100));
        assert_eq!(report.served_between(30, 41), 2);
        assert_eq!(LoadReport::default().latency(0.5), Duration::ZERO);
    }

    #[test]
    fn acknowledged_value_that_is_absent_or_another_is_lost() {
        let written = Written { acknowledged: Some(b"new".to_vec()), in_doubt: Vec::new() };
        assert!(written.allows(Some(b"new")));
        assert!(!written.allows(Some(b"old")));
        assert!(!written.allows(None));
    }

    #[test]
    fn write_in_doubt_may_or_may_not_have_happened() {
        let written = Written { acknowledged: Some(b"a".to_vec()), in_doubt: vec![b"b".to_vec()] };
        assert!(written.allows(Some(b"a")) && written.allows(Some(b"b")));
        assert!(!written.allows(None) && !written.allows(Some(b"c")));
        let first = Written { acknowledged: None, in_doubt: vec![b"b".to_vec()] };
        assert!(first.allows(None) && first.allows(Some(b"b")) && !first.allows(Some(b"c")));
    }
}
