//! The shell of one replica: performs the effects of its core, one after the other.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::ServiceId;
use quorate_attest::key::Signature;
use quorate_attest::service::{Answer, BATCH_LIMIT, Genesis, Input, Output, Query};
use quorate_control::{Service, Which, service_vm_name};
use quorate_ordering::protocol::Refused;
use quorate_ordering::services::{SignedReceipt, StopEvidence};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::core::{Core, Effect, Entry, Event, Identity};
use super::guest::GuestError;
use super::{Running, ServiceHost, lock, peers, walk};
use crate::node::Shared;
use crate::store::StoreError;

/// Most bytes of the requests in one input: the guest's message has room for the rest.
const BATCH_BYTES: usize = 200 << 10;
/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Pause before a guest is fed again what it has refused.
const REFUSED_RETRY: Duration = Duration::from_secs(2);
/// Pause before a guest is taken back once more, doubled each time.
const REWIND_RETRY: Duration = Duration::from_secs(1);
const REWIND_RETRY_MAX: Duration = Duration::from_secs(64);
/// Comparisons that wait.
const COMPARED_WAITING: usize = 4;

/// What is done in the end about everything that can go wrong here.
enum Failure {
    /// The node ends.
    Storage(StoreError),
    /// It is tried again.
    Guest(GuestError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Storage(error)
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

struct Task {
    host: Arc<ServiceHost>,
    shared: Arc<Shared>,
    running: Arc<Running>,
    core: Core,
    genesis: Genesis,
    walked: watch::Receiver<u64>,
    compared: mpsc::Receiver<(u64, Vec<SignedReceipt>)>,
}

/// Makes the replica that the file leads to.
pub(super) fn start(
    host: &Arc<ServiceHost>,
    shared: &Arc<Shared>,
    service: ServiceId,
) -> Result<impl Future<Output = ()> + use<>, StoreError> {
    let view = host.store.read()?;
    let (size, stopped) = (view.size(&service)?, view.stopped(&service)?);
    let genesis = genesis(shared, &service)?;
    let identity = Identity { group: Arc::clone(&host.parts.group), replica: host.parts.replica, service };
    let log = view.peaks(&service, size)?;
    shared.metrics.service_stopped(&genesis.spec.name, stopped.is_some());
    shared.metrics.service_executed(&genesis.spec.name, size);
    let core = Core::new(identity, host.rule, genesis.clone(), log, stopped.is_some());
    let (sender, compared) = mpsc::channel(COMPARED_WAITING);
    let running = Arc::new(Running {
        service,
        executed: watch::Sender::new(size),
        stopped: std::sync::Mutex::new(stopped),
        compared: sender,
        behind: Notify::new(),
        agreed: AtomicU64::new(0),
        called: std::sync::Mutex::default(),
        stuck: std::sync::Mutex::default(),
    });
    lock(&host.running).insert(service, Arc::clone(&running));
    let (host, shared, walked) = (Arc::clone(host), Arc::clone(shared), host.walked.subscribe());
    Ok(Task { host, shared, running, core, genesis, walked, compared }.run())
}

/// Who votes about time is fixed with the orchestrators' genesis configuration: every replica must begin alike.
fn genesis(shared: &Shared, service: &ServiceId) -> Result<Genesis, StoreError> {
    let replica = shared.replica();
    let control = replica.control();
    let missing = || StoreError::damaged(format!("service {service}"));
    let spec = control.service(service).ok_or_else(missing)?.record.spec.clone();
    let group = control.groups(Which::Orchestrators).genesis();
    let voters = group.members.iter().map(|member| member.vote_key).collect();
    Ok(Genesis { spec, voters, f: group.f })
}

impl Task {
    async fn run(mut self) {
        loop {
            let before = self.core.size();
            if let Err(error) = self.cycle(Event::Wake).await {
                return self.shared.storage_failed(error);
            }
            while let Ok((number, theirs)) = self.compared.try_recv() {
                self.compare(number, theirs).await;
            }
            if self.core.size() == before {
                self.wait().await;
            }
        }
    }

    /// Until there may be something to do.
    async fn wait(&mut self) {
        let ordered = self.host.store.read().and_then(|view| view.ordered(&self.running.service));
        if ordered.is_ok_and(|ordered| ordered > self.core.size()) {
            return sleep(RETRY).await;
        }
        if self.core.is_sure() {
            *lock(&self.running.stuck) = None;
        }
        tokio::select! {
            () = self.running.behind.notified() => drop(self.core.step(Event::GuestBehind)),
            changed = self.walked.changed() => if changed.is_err() { sleep(RETRY).await },
            compared = self.compared.recv() => {
                if let Some((number, theirs)) = compared {
                    self.compare(number, theirs).await;
                }
            }
        }
    }

    /// Lets the core compare what others say with what stands in the file now.
    async fn compare(&mut self, number: u64, theirs: Vec<SignedReceipt>) {
        let result = async {
            let stored = self.host.store.read()?.receipt(&self.running.service, number)?;
            let Some(stored) = stored else { return Ok(()) };
            let signature = stored.signature.unwrap_or(Signature::NONE);
            let ours = SignedReceipt { replica: self.host.parts.replica, receipt: stored.receipt, signature };
            self.cycle(Event::Compared { ours: Box::new(ours), theirs }).await
        };
        if let Err(error) = result.await {
            self.shared.storage_failed(error);
        }
    }

    /// From an event until nothing is under way any more.
    async fn cycle(&mut self, event: Event) -> Result<(), StoreError> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.core.step(event) {
                events.extend(self.perform(effect).await?);
            }
        }
        Ok(())
    }

    async fn perform(&self, effect: Effect) -> Result<Option<Event>, StoreError> {
        let service = self.running.service;
        Ok(match effect {
            Effect::Fetch { first } => Some(Event::Fetched(self.fetch(first)?)),
            Effect::Feed { version, input } => Some(self.feed(version, &input).await),
            Effect::Upgrade { version, number } => match self.upgrade(version, number).await {
                Ok(event) => Some(event),
                Err(Failure::Storage(error)) => return Err(error),
                Err(Failure::Guest(error)) => Some(self.stuck(&error)),
            },
            Effect::Sign(receipts) => loop {
                match self.host.parts.signer.sign(&receipts).await {
                    Ok(signatures) => break Some(Event::Signed(signatures)),
                    // Nothing may be answered before it is signed, so there is nothing else to do.
                    Err(error) => drop(self.stuck(&error)),
                }
                sleep(RETRY).await;
            },
            Effect::Persist(batch) => {
                let size = batch.entries.last().map_or(0, |done| done.receipt.log_size);
                let host = Arc::clone(&self.host);
                let committed = spawn_blocking(move || host.store.commit(&service, &batch)).await;
                committed.map_err(|error| StoreError::damaged(error.to_string()))??;
                self.running.executed.send_replace(size);
                *lock(&self.running.stuck) = None;
                self.shared.metrics.service_executed(&self.genesis.spec.name, size);
                Some(Event::Persisted)
            }
            Effect::AskPeers { first } => {
                let detail = format!("f + 1 other replicas are asked what came of entry {first}");
                drop(self.stuck(&GuestError::new("QuorumUnreachable", detail)));
                let told = peers::ask(&self.host, &self.shared, service, first, BATCH_LIMIT as u32).await;
                let event = Event::Peers(told);
                sleep(RETRY).await;
                Some(event)
            }
            Effect::Rewind { number, attempt } => Some(self.rewind(number, attempt).await?),
            Effect::Stop { number, evidence } => {
                self.stop(number, &evidence)?;
                let log = self.host.store.read()?.peaks(&service, number)?;
                Some(Event::Truncated(log))
            }
            Effect::Forget { number } => {
                let Some(why) = self.running.stopped() else { return Ok(None) };
                self.host.store.stop(&service, number, &why)?;
                self.running.forget(number);
                tracing::warn!(
                    service = self.genesis.spec.name,
                    number,
                    "forgotten: others have another log"
                );
                Some(Event::Truncated(self.host.store.read()?.peaks(&service, number)?))
            }
            Effect::Agreed { size } => {
                self.running.agreed.store(size, Ordering::Relaxed);
                None
            }
            Effect::Resume => {
                self.host.store.resume(&service)?;
                *lock(&self.running.stopped) = None;
                self.shared.metrics.service_stopped(&self.genesis.spec.name, false);
                tracing::warn!(service = self.genesis.spec.name, "f + 1 others agree: served again");
                None
            }
        })
    }

    /// Entries from a number on: of one image, and as many as one input holds.
    fn fetch(&self, first: u64) -> Result<Vec<Entry>, StoreError> {
        let id = self.running.service;
        let (ours, log) = (self.host.store.read()?, self.shared.store.read()?);
        // Read after the views: an upgrade must not be younger than the entries behind it.
        let service = self.service()?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let version = service.image_at(first).1;
        for number in first..first.saturating_add(BATCH_LIMIT as u64) {
            let Some(log_index) = ours.place(&id, number)? else { break };
            // After a crash the executed log may be behind this file until its entries are executed again.
            if log_index >= log.size()? {
                break;
            }
            // Genesis is an input of its own.
            if service.image_at(number).1 != version || (first == 0 && number > 0) {
                break;
            }
            let (stored, request) = walk::request(&log, log_index)?;
            bytes += request.len();
            if bytes > BATCH_BYTES && !entries.is_empty() {
                break;
            }
            let known = ours.receipt(&id, number)?.map(|stored| stored.receipt);
            let operation = stored.receipt.operation;
            let began = version.checked_sub(1).and_then(|before| service.progress.upgrades.get(before));
            let began = began.map_or(0, |upgrade| upgrade.number);
            entries.push(Entry { number, log_index, operation, request, known, version, began });
        }
        Ok(entries)
    }

    fn service(&self) -> Result<Service, StoreError> {
        let (replica, id) = (self.shared.replica(), self.running.service);
        let found = replica.control().service(&id).cloned();
        found.ok_or_else(|| StoreError::damaged(format!("service {id}")))
    }

    fn vm(&self, version: usize) -> String {
        service_vm_name(&self.genesis.spec, self.host.parts.replica, version)
    }

    async fn feed(&self, version: usize, input: &Input) -> Event {
        match self.host.parts.guests.feed(&self.vm(version), input).await {
            Ok(Output::Refused { status, next }) if next == first_of(input) => {
                // It would refuse the same again: nothing but another VM or image helps.
                let detail = format!("the guest refuses entry {next} with status {status}");
                let event = self.stuck(&GuestError::new("RequestRefused", detail));
                sleep(REFUSED_RETRY).await;
                event
            }
            Ok(output) => Event::Output(output),
            Err(error) => self.stuck(&error),
        }
    }

    /// A guest that is wrong again and again is given more and more time.
    async fn rewind(&self, number: u64, attempt: u32) -> Result<Event, StoreError> {
        if let Some(doublings) = attempt.checked_sub(1) {
            sleep(REWIND_RETRY.saturating_mul(1 << doublings.min(6)).min(REWIND_RETRY_MAX)).await;
        }
        let (service, vm) = (&self.genesis.spec.name, self.vm(self.service()?.image_at(number).1));
        Ok(match self.host.parts.guests.rewind(&vm).await {
            Ok(()) => {
                tracing::warn!(service, number, vm, "the guest is taken back to its newest slot");
                Event::Rewound
            }
            Err(error) => self.stuck(&error),
        })
    }

    fn stuck(&self, error: &GuestError) -> Event {
        let service = &self.genesis.spec.name;
        let why = Refused { kind: error.kind.clone(), detail: error.detail.clone() };
        let before = lock(&self.running.stuck).replace(why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(service, error_kind = error.kind, "the replica does not go on: {}", error.detail);
        }
        Event::Gone
    }

    /// Brings the state of the former image to the guest of this one. The former guest executes nothing from `number` on.
    async fn upgrade(&self, version: usize, number: u64) -> Result<Event, Failure> {
        let wrong = |detail: String| GuestError::new("Inconsistent", detail);
        let service = self.running.service;
        let last = number.checked_sub(1).map(|last| self.host.store.read()?.receipt(&service, last));
        let expected = last.transpose()?.flatten().map(|stored| stored.receipt.state);
        let expected = expected.ok_or_else(|| wrong(format!("entry before {number} is not executed")))?;
        let (from, to) = (self.vm(version - 1), self.vm(version));
        let mut after = Vec::new();
        loop {
            let query = Input::Query(Query::Export { after });
            let (size, state, answer) = match self.host.parts.guests.query(&from, &query).await? {
                Output::Answered { size: next, .. } | Output::Refused { next, .. } if next < number => {
                    return Ok(Event::FormerBehind { next });
                }
                Output::Answered { size, state, answer } => (size, state, answer),
                _ => return Err(wrong("the former image does not export its state".to_owned()).into()),
            };
            let Answer::Entries { entries, more } = *answer else {
                return Err(wrong("the former image answered something else".to_owned()).into());
            };
            if size != number || state != expected || (more && entries.is_empty()) {
                return Err(wrong(format!("the former image stands at {size}, not {number}")).into());
            }
            after = entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
            let (genesis, complete) = (self.genesis.clone(), (!more).then_some(expected));
            let part = Input::Import { genesis, number, entries, complete };
            match self.host.parts.guests.feed(&to, &part).await? {
                Output::Applied(_) if !more => break,
                Output::Applied(_) => {}
                other => return Err(wrong(format!("the image takes no state: {other:?}")).into()),
            }
        }
        tracing::info!(service = self.genesis.spec.name, number, vm = to, "the next image goes on");
        Ok(Event::Imported)
    }

    /// Stops serving: others say something else about an entry, or the guest does.
    fn stop(&self, number: u64, evidence: &StopEvidence) -> Result<(), StoreError> {
        let service = &self.genesis.spec.name;
        let what = match evidence.again {
            None => format!("{} other replicas", evidence.theirs.len()),
            Some(_) => "the guest, executing it again,".to_owned(),
        };
        let file = format!("service-{service}-{number}");
        // A replica that has not served since is contradicted for the same reason, as often as it tries again.
        let is_first = lock(&self.running.stopped).is_none();
        let kept = if is_first { format!("in {file}") } else { "that of the first time".to_owned() };
        let detail = format!("{what} came to another result of entry {number}; the evidence is {kept}");
        tracing::error!(error_kind = "ReplayDivergence", service, number, "not served any more: {detail}");
        let mut evidence = evidence.clone();
        if let Some(stored) = self.host.store.read()?.receipt(&self.running.service, number)? {
            evidence.ours.signature = stored.signature.unwrap_or(Signature::NONE);
        }
        if is_first {
            self.shared.keep_evidence("ServiceDivergence", &file, &evidence.encoded());
        }
        let why = Refused { kind: "ServiceStopped".to_owned(), detail };
        self.host.store.stop(&self.running.service, number, &why)?;
        *lock(&self.running.stopped) = Some(why);
        self.running.forget(number);
        self.shared.metrics.service_stopped(service, true);
        Ok(())
    }
}

/// Number of the first entry of an input.
fn first_of(input: &Input) -> u64 {
    match input {
        Input::Apply { first, .. } => *first,
        Input::Import { number, .. } => *number,
        Input::Genesis(_) | Input::Query(_) => 0,
    }
}

/// Waits until a replica has executed an entry; false if that takes too long.
pub(super) async fn executed(running: &Running, number: u64, limit: Duration) -> bool {
    let mut executed = running.executed.subscribe();
    let reached = executed.wait_for(|size| *size > number);
    matches!(timeout(limit, reached).await, Ok(Ok(_)))
}
