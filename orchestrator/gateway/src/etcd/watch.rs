//! Watches: every event from a revision on, none left out, each number's events together and in order.
//!
//! A client that lost its connection goes on with the number behind the last one it saw. If events from there on are no
//! longer kept, the watch is cancelled with the lowest revision that is, as etcd does after a compaction.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use quorate_registry::{Event as Change, NameRange, NumberedEvent, Record};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::feed::Follower;
use super::mvccpb::event::EventType;
use super::mvccpb::{Event, KeyValue};
use super::pb::watch_create_request::FilterType;
use super::pb::watch_request::RequestUnion;
use super::pb::watch_server::Watch;
use super::pb::{WatchCreateRequest, WatchRequest, WatchResponse};
use super::range::{key_value, names};
use super::{Etcd, revision, status};
use crate::backend::Freshness;
use crate::registry::{History, lowest, snapshot};

/// Most streams at once.
const STREAMS_MAX: usize = 256;
/// Most watches of one stream.
const WATCHES_MAX: usize = 1024;
/// Responses that wait for a slow client.
const RESPONSES_MAX: usize = 16;
/// Events go into one response until they are so many bytes.
const RESPONSE_BYTES: usize = 1 << 20;
/// Most bytes of records that a watch remembers to tell what was before.
const PREVIOUS_BYTES_MAX: usize = 8 << 20;
/// How often watches that are behind are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Silence after which a watch that asked for it is told how far it is.
const PROGRESS_AFTER: Duration = Duration::from_secs(60);
/// Number of no watch: a response about all of them.
const ALL: i64 = -1;

type Responses = mpsc::Sender<Result<WatchResponse, Status>>;

/// The client is gone.
struct Gone;

#[tonic::async_trait]
impl Watch for Etcd {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.feed().followers() >= STREAMS_MAX {
            return Err(status::too_many_requests());
        }
        let (responses, stream) = mpsc::channel(RESPONSES_MAX);
        let follower = self.following();
        let conversation =
            Conversation { etcd: self.clone(), responses, watches: BTreeMap::new(), next_id: 0 };
        tokio::spawn(conversation.hold(request.into_inner(), follower));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream with its watches.
struct Conversation {
    etcd: Etcd,
    responses: Responses,
    watches: BTreeMap<i64, Watched>,
    next_id: i64,
}

/// One watch.
struct Watched {
    range: NameRange,
    /// Everything before this number was sent.
    next: u64,
    puts: bool,
    deletions: bool,
    previous: Option<Previous>,
    progress: bool,
    told: Instant,
}

impl Conversation {
    async fn hold(mut self, mut requests: Streaming<WatchRequest>, mut follower: Follower) {
        let mut retry = interval(RETRY_EVERY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let responses = self.responses.clone();
        loop {
            let went_on = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(WatchRequest { request_union: Some(request) })) => self.obey(request).await,
                    Ok(Some(_)) => Ok(()),
                    Ok(None) | Err(_) => return,
                },
                () = follower.changed() => self.deliver().await,
                _ = retry.tick() => self.tell_progress().await,
                () = responses.closed() => return,
            };
            if let Err(Gone) = went_on {
                return;
            }
        }
    }

    async fn obey(&mut self, request: RequestUnion) -> Result<(), Gone> {
        match request {
            RequestUnion::CreateRequest(request) => self.create(request).await,
            RequestUnion::CancelRequest(request) => match self.watches.remove(&request.watch_id) {
                Some(_) => {
                    let done = self.etcd.feed().done();
                    self.send(done, cancelled(request.watch_id, String::new())).await
                }
                None => Ok(()),
            },
            RequestUnion::ProgressRequest(_) => {
                self.deliver().await?;
                let done = self.etcd.feed().done();
                let behind = self.watches.values().any(|watch| watch.next <= done);
                match behind {
                    true => Ok(()),
                    false => {
                        self.send(done, WatchResponse { watch_id: ALL, ..WatchResponse::default() }).await
                    }
                }
            }
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Gone> {
        let watch_id = match self.number(&request) {
            Ok(watch_id) => watch_id,
            Err(reason) => {
                let refused = WatchResponse { created: true, ..cancelled(ALL, reason.to_owned()) };
                return self.send(self.etcd.feed().done(), refused).await;
            }
        };
        let begun = self.begin(&request).await;
        let (number, watched) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let refused =
                    WatchResponse { created: true, ..cancelled(watch_id, error.message().to_owned()) };
                return self.send(self.etcd.feed().done(), refused).await;
            }
        };
        let created = WatchResponse { watch_id, created: true, ..WatchResponse::default() };
        self.send(number, created).await?;
        match watched {
            Ok(watched) => {
                self.watches.insert(watch_id, watched);
                self.deliver().await
            }
            Err(lowest) => self.send(number, compacted(watch_id, lowest)).await,
        }
    }

    /// Chooses the number of a watch, or takes the client's.
    fn number(&mut self, request: &WatchCreateRequest) -> Result<i64, &'static str> {
        if self.watches.len() >= WATCHES_MAX {
            return Err("quorate: too many watches on one stream");
        }
        if request.watch_id != 0 {
            return match self.watches.contains_key(&request.watch_id) {
                true => Err("mvcc: duplicate watch ID provided on the WatchStream"),
                false => Ok(request.watch_id),
            };
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    /// The newest number, and the watch or the lowest number from which there could be one.
    async fn begin(&self, request: &WatchCreateRequest) -> Result<(u64, Result<Watched, u64>), Status> {
        let key = if request.key.is_empty() { &[0][..] } else { &request.key };
        let range = names(key, &request.range_end)?;
        let backend = self.etcd.backend().as_ref();
        let newest = lowest(backend, Freshness::Linearizable).await;
        let newest = newest.map_err(|error| status::of_read(&error))?;
        let start = match u64::try_from(request.start_revision) {
            Ok(start) if start > 0 => start,
            _ => newest.number + 1,
        };
        if start < newest.value {
            return Ok((newest.number, Err(newest.value)));
        }
        if start > newest.number {
            self.etcd.feed().skip_to(newest.number);
        }
        let without = |filter: FilterType| !request.filters.contains(&(filter as i32));
        let previous = match request.prev_kv {
            true => Some(Previous::load(&self.etcd, &range, start, newest.number).await?),
            false => None,
        };
        let watched = Watched {
            range,
            next: start,
            puts: without(FilterType::Noput),
            deletions: without(FilterType::Nodelete),
            previous,
            progress: request.progress_notify,
            told: Instant::now(),
        };
        Ok((newest.number, Ok(watched)))
    }

    /// Sends what every watch lacks, as far as events were read.
    async fn deliver(&mut self) -> Result<(), Gone> {
        let done = self.etcd.feed().done();
        let behind: Vec<(i64, u64)> = self
            .watches
            .iter()
            .filter(|(_, watch)| watch.next <= done)
            .map(|(watch_id, watch)| (*watch_id, watch.next))
            .collect();
        for (watch_id, from) in behind {
            match self.etcd.feed().since(from).await {
                Ok(History::Complete { events, number }) => self.pass_on(watch_id, events, number).await?,
                Ok(History::Compacted { lowest }) => {
                    self.watches.remove(&watch_id);
                    self.send(done, compacted(watch_id, lowest)).await?;
                }
                // The next change or the next second tries again.
                Err(error) => tracing::warn!(error_kind = error.kind(), "events not read: {error}"),
            }
        }
        Ok(())
    }

    async fn pass_on(&mut self, watch_id: i64, events: Vec<NumberedEvent>, done: u64) -> Result<(), Gone> {
        let Some(watch) = self.watches.get_mut(&watch_id) else { return Ok(()) };
        let mut parts = watch.parts(events, done);
        watch.next = watch.next.max(done + 1);
        if !parts.is_empty() {
            watch.told = Instant::now();
        }
        for (number, events) in parts.drain(..) {
            self.send(number, WatchResponse { watch_id, events, ..WatchResponse::default() }).await?;
        }
        Ok(())
    }

    async fn tell_progress(&mut self) -> Result<(), Gone> {
        self.deliver().await?;
        let done = self.etcd.feed().done();
        let silent: Vec<i64> = self
            .watches
            .iter_mut()
            .filter(|(_, watch)| watch.progress && watch.next > done && watch.told.elapsed() > PROGRESS_AFTER)
            .map(|(watch_id, watch)| {
                watch.told = Instant::now();
                *watch_id
            })
            .collect();
        for watch_id in silent {
            self.send(done, WatchResponse { watch_id, ..WatchResponse::default() }).await?;
        }
        Ok(())
    }

    async fn send(&self, number: u64, response: WatchResponse) -> Result<(), Gone> {
        let header = self.etcd.header(number);
        self.responses.send(Ok(WatchResponse { header, ..response })).await.map_err(|_| Gone)
    }
}

impl Watched {
    /// The events for this watch in responses of bounded size, none of which divides a number.
    fn parts(&mut self, events: Vec<NumberedEvent>, done: u64) -> Vec<(u64, Vec<Event>)> {
        let mut parts: Vec<(u64, Vec<Event>)> = Vec::new();
        let mut bytes = 0;
        for NumberedEvent { number, event, .. } in events {
            if number < self.next || !self.range.contains(&event.name) {
                continue;
            }
            let before = self.previous.as_mut().and_then(|previous| previous.replace(&event));
            if !(if event.put { self.puts } else { self.deletions }) {
                continue;
            }
            let event = shown(number, event, before);
            let size = event.encoded_len();
            bytes += size;
            match parts.last_mut() {
                Some((last, part)) if *last == number || bytes <= RESPONSE_BYTES => {
                    *last = number;
                    part.push(event);
                }
                _ => {
                    parts.push((number, vec![event]));
                    bytes = size;
                }
            }
        }
        if let Some((last, _)) = parts.last_mut() {
            *last = done;
        }
        parts
    }
}

fn shown(number: u64, event: Change, before: Option<KeyValue>) -> Event {
    let Change { put, name, record } = event;
    let kv = match put {
        true => key_value(name, record),
        false => KeyValue { key: name, mod_revision: revision(number), ..KeyValue::default() },
    };
    let kind = if put { EventType::Put } else { EventType::Delete };
    Event { r#type: kind.into(), kv: Some(kv), prev_kv: before }
}

fn cancelled(watch_id: i64, cancel_reason: String) -> WatchResponse {
    WatchResponse { watch_id, canceled: true, cancel_reason, ..WatchResponse::default() }
}

fn compacted(watch_id: i64, lowest: u64) -> WatchResponse {
    let reason = status::compacted().message().to_owned();
    WatchResponse { compact_revision: revision(lowest), ..cancelled(watch_id, reason) }
}

/// The records of a watch's names, as far as there is room, to tell what an event replaced.
struct Previous {
    records: BTreeMap<Vec<u8>, Record>,
    bytes: usize,
}

impl Previous {
    /// What is there now, for a watch that begins behind it. One that begins earlier meets the records on its way.
    async fn load(etcd: &Etcd, range: &NameRange, start: u64, newest: u64) -> Result<Self, Status> {
        let mut previous = Self { records: BTreeMap::new(), bytes: 0 };
        if start <= newest {
            return Ok(previous);
        }
        let now = snapshot(etcd.backend().as_ref(), range, Freshness::AtLeast(newest + 1)).await;
        for (name, record) in now.map_err(|error| status::of_read(&error))?.records {
            previous.keep(name, record);
        }
        Ok(previous)
    }

    fn keep(&mut self, name: Vec<u8>, record: Record) {
        let size = name.len() + record.value.len();
        if self.bytes + size <= PREVIOUS_BYTES_MAX {
            self.bytes += size;
            self.records.insert(name, record);
        }
    }

    /// What the event replaced, if it is known, and remembers the event's record.
    fn replace(&mut self, event: &Change) -> Option<KeyValue> {
        let Change { put, name, record } = event;
        let known = self.records.remove(name);
        self.bytes -= known.as_ref().map_or(0, |known| name.len() + known.value.len());
        if !put {
            return Some(key_value(name.clone(), record.clone()));
        }
        self.keep(name.clone(), record.clone());
        // Exactly the record before, or none: what was known may be from before a gap, or newer.
        known
            .filter(|known| known.created == record.created && known.version + 1 == record.version)
            .map(|known| key_value(name.clone(), known))
    }
}
