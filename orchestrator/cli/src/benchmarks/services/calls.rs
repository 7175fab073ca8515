//! Calls of all kinds, one after the other and many at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::BenchError;
use super::super::effort::ServicesEffort;
use super::super::stats::Samples;

/// After so long no further row of calls is begun.
const LATENCIES_LIMIT: Duration = Duration::from_secs(180);
/// Calls of each kind that are not counted: connections and caches are cold.
const COLD_CALLS: usize = 5;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Gives a name another value of so many bytes.
    Put(usize),
    /// Orders as many bytes as the put of such a value, which no guest executes.
    Order(usize),
    /// Registers a new name before all others.
    First,
    /// Reads, so that everything done before is seen.
    Linearizable,
    /// Reads, so that nothing seen before is missed.
    Newest,
}

impl Kind {
    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::Put(bytes) => format!("certified put, {bytes} B"),
            Self::Order(bytes) => format!("the log without guests, {bytes} B"),
            Self::First => "certified put of a new first name".into(),
            Self::Linearizable => "proven get, linearizable".into(),
            Self::Newest => "proven get, newest".into(),
        }
    }

    /// What the log does instead, unless this is it.
    pub fn log(self) -> Option<Self> {
        match self {
            Self::Put(bytes) => Some(Self::Order(bytes)),
            Self::Order(_) => None,
            Self::First | Self::Linearizable | Self::Newest => Some(Self::Order(super::SMALL)),
        }
    }

    /// What etcd does instead.
    pub fn of_etcd(self) -> Self {
        match self {
            Self::Put(bytes) | Self::Order(bytes) => Self::Put(bytes),
            Self::First => Self::Put(super::SMALL),
            Self::Linearizable | Self::Newest => self,
        }
    }

    /// The same in words.
    pub fn etcd_words(self) -> &'static str {
        match self.of_etcd() {
            Self::Linearizable => "etcd, linearizable",
            Self::Newest => "etcd, serializable",
            _ => "etcd, put",
        }
    }
}

/// A client.
pub trait Caller: Send + Sync + 'static {
    /// Makes a call and checks what it brings.
    fn call(&self, kind: Kind, turn: usize) -> impl Future<Output = Result<(), BenchError>> + Send;
}

/// What all calls took.
#[derive(Debug, Default)]
pub struct Measured {
    /// Milliseconds of a call, with one client.
    pub latency: BTreeMap<Kind, Samples>,
    /// Calls a second, by kind and number of clients.
    pub rate: BTreeMap<(Kind, usize), Samples>,
}

impl Measured {
    /// Latencies of a kind.
    pub fn latency(&self, kind: Kind) -> Samples {
        self.latency.get(&kind).cloned().unwrap_or_default()
    }

    /// Rates of a kind.
    pub fn rate(&self, kind: Kind, clients: usize) -> Samples {
        self.rate.get(&(kind, clients)).cloned().unwrap_or_default()
    }
}

/// Measures all kinds with one and with many clients.
///
/// # Errors
/// A call fails.
pub async fn measure<C: Caller>(
    clients: &[Arc<C>],
    kinds: &[Kind],
    effort: ServicesEffort,
) -> Result<Measured, BenchError> {
    let first = clients.first().ok_or_else(|| BenchError::unexpected("no clients"))?;
    let latency = latencies(&**first, kinds, effort.calls, effort.in_a_row).await?;
    Ok(Measured { latency, rate: rates(clients, kinds, effort).await? })
}

/// Calls of one client, one after the other. Kinds take turns.
///
/// # Errors
/// A call fails.
pub async fn latencies<C: Caller>(
    caller: &C,
    kinds: &[Kind],
    count: usize,
    in_a_row: usize,
) -> Result<BTreeMap<Kind, Samples>, BenchError> {
    for &kind in kinds {
        for turn in 0..COLD_CALLS.min(count) {
            caller.call(kind, turn).await?;
        }
    }
    let mut samples: BTreeMap<Kind, Samples> = BTreeMap::new();
    let end = Instant::now() + LATENCIES_LIMIT;
    let mut made = 0;
    while made < count && Instant::now() < end {
        let next = count.min(made + in_a_row.max(1));
        for &kind in kinds {
            for turn in made..next {
                let began = Instant::now();
                caller.call(kind, turn).await?;
                samples.entry(kind).or_default().push_ms(began.elapsed());
            }
        }
        made = next;
    }
    Ok(samples)
}

/// Calls of many clients, each one after the other. Kinds and numbers of clients take turns.
///
/// # Errors
/// A call fails, or there are not enough clients.
pub async fn rates<C: Caller>(
    clients: &[Arc<C>],
    kinds: &[Kind],
    effort: ServicesEffort,
) -> Result<BTreeMap<(Kind, usize), Samples>, BenchError> {
    // Each has its own name, which is there before anybody reads it.
    for client in clients {
        for &kind in kinds {
            client.call(kind, 0).await?;
        }
    }
    let mut samples: BTreeMap<(Kind, usize), Samples> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for &count in effort.clients {
            let some = clients.get(..count).ok_or_else(|| BenchError::unexpected("too few clients"))?;
            for &kind in kinds {
                let rate = round(some, kind, effort.round).await?;
                samples.entry((kind, count)).or_default().push(rate);
            }
        }
    }
    Ok(samples)
}

/// Calls a second. No call is begun after `time`; all that were begun count.
async fn round<C: Caller>(clients: &[Arc<C>], kind: Kind, time: Duration) -> Result<f64, BenchError> {
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for client in clients {
        let client = Arc::clone(client);
        calls.spawn(async move {
            let mut made = 0;
            while began.elapsed() < time {
                client.call(kind, made).await?;
                made += 1;
            }
            Ok::<_, BenchError>(made)
        });
    }
    let mut made = 0;
    while let Some(done) = calls.join_next().await {
        made += done.map_err(BenchError::unexpected)??;
    }
    Ok(made as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Noted(Mutex<Vec<(Kind, usize)>>);

    impl Caller for Noted {
        async fn call(&self, kind: Kind, turn: usize) -> Result<(), BenchError> {
            tokio::task::yield_now().await;
            match self.0.lock().map(|mut calls| calls.push((kind, turn))) {
                Ok(()) if kind == Kind::First => Err(BenchError::unexpected("refused")),
                _ => Ok(()),
            }
        }
    }

    const KINDS: [Kind; 2] = [Kind::Put(64), Kind::Order(64)];

    #[tokio::test]
    async fn kinds_take_turns_and_cold_calls_do_not_count() {
        let caller = Noted::default();
        let samples = latencies(&caller, &KINDS, 8, 3).await.unwrap();
        assert!(KINDS.iter().all(|kind| samples[kind].count() == 8), "{samples:?}");
        let calls = caller.0.into_inner().unwrap();
        assert_eq!(calls.len(), 2 * (COLD_CALLS + 8));
        let kinds: Vec<Kind> = calls[2 * COLD_CALLS..].iter().map(|(kind, _)| *kind).collect();
        let [put, order] = KINDS;
        assert_eq!(kinds[..7], [put, put, put, order, order, order, put]);
    }

    #[tokio::test]
    async fn all_clients_call_in_every_round() {
        let clients: Vec<_> = (0..4).map(|_| Arc::new(Noted::default())).collect();
        let effort = super::super::super::effort::Effort::new(true, None).services;
        let effort =
            ServicesEffort { clients: &[2, 4], rounds: 2, round: Duration::from_millis(20), ..effort };
        let rates = rates(&clients, &KINDS, effort).await.unwrap();
        assert_eq!(rates.keys().map(|(_, clients)| *clients).collect::<Vec<_>>(), [2, 4, 2, 4]);
        assert!(rates.values().all(|rate| rate.count() == 2 && rate.quantile(0.01) > 0.0), "{rates:?}");
        assert!(clients.iter().all(|client| client.0.lock().unwrap().len() > KINDS.len()));
    }

    #[tokio::test]
    async fn call_that_fails_ends_the_measurement() {
        let clients = [Arc::new(Noted::default())];
        assert!(latencies(&*clients[0], &[Kind::First], 1, 1).await.is_err());
        assert!(round(&clients, Kind::First, Duration::from_secs(60)).await.is_err());
    }
}
