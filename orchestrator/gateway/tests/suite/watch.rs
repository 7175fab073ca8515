//! Watches: no event is left out, none comes twice, and what is gone is said to be gone.

use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_gateway::etcd::mvccpb::Event;
use quorate_gateway::etcd::mvccpb::event::EventType;
use quorate_gateway::etcd::pb::watch_client::WatchClient;
use quorate_gateway::etcd::pb::watch_create_request::FilterType;
use quorate_gateway::etcd::pb::watch_request::RequestUnion;
use quorate_gateway::etcd::pb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use quorate_registry::Config;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::fixture::{Gateway, InMemory, ends};

struct Watcher {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watcher {
    async fn new(gateway: &Gateway) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let mut client = WatchClient::new(gateway.channel.clone());
        let responses = client.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    /// Creates a watch and returns its first response.
    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        let response = self.next().await;
        assert!(response.created);
        response
    }

    async fn next(&mut self) -> WatchResponse {
        let next = timeout(Duration::from_secs(60), self.responses.message());
        next.await.expect("a response within a minute").unwrap().expect("the stream goes on")
    }

    /// The next `count` events of one watch.
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled, "{response:?}");
            events.extend(response.events);
        }
        assert_eq!(events.len(), count);
        events
    }
}

fn on(prefix: &str, start_revision: i64) -> WatchCreateRequest {
    let (key, range_end) = ends(prefix);
    WatchCreateRequest { key, range_end, start_revision, ..Default::default() }
}

/// Kind, key and value.
fn told(event: &Event) -> (EventType, String, String) {
    let kv = event.kv.clone().unwrap();
    (event.r#type(), String::from_utf8(kv.key).unwrap(), String::from_utf8(kv.value).unwrap())
}

fn put(key: &str, value: &str) -> (EventType, String, String) {
    (EventType::Put, key.to_owned(), value.to_owned())
}

fn deleted(key: &str) -> (EventType, String, String) {
    (EventType::Delete, key.to_owned(), String::new())
}

#[tokio::test]
async fn watch_tells_what_happens_behind_it_and_nothing_else() {
    let gateway = Gateway::new().await;
    gateway.put("w/1", "before").await;
    let mut watcher = Watcher::new(&gateway).await;
    let created = watcher.create(on("w/", 0)).await;
    assert_eq!((created.watch_id, created.events.len()), (0, 0));
    gateway.put("other", "x").await;
    let first = gateway.put("w/1", "a").await;
    let second = gateway.delete("w/1").await;
    gateway.put("w/2", "b").await;
    let events = watcher.events(3).await;
    assert_eq!(
        events.iter().map(told).collect::<Vec<_>>(),
        [put("w/1", "a"), deleted("w/1"), put("w/2", "b")]
    );
    let kv = events[0].kv.clone().unwrap();
    assert_eq!((kv.mod_revision, kv.version), (first, 2));
    let gone = events[1].kv.clone().unwrap();
    assert_eq!((gone.mod_revision, gone.create_revision), (second, 0));
}

#[tokio::test]
async fn watcher_that_lost_its_connection_goes_on_where_it_was() {
    let gateway = Gateway::new().await;
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(on("w/", 0)).await;
    gateway.put("w/a", "1").await;
    let seen = watcher.events(1).await[0].kv.clone().unwrap().mod_revision;
    drop(watcher);
    gateway.put("w/b", "2").await;
    gateway.delete("w/a").await;
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(on("w/", seen + 1)).await;
    let events = watcher.events(2).await;
    assert_eq!(events.iter().map(told).collect::<Vec<_>>(), [put("w/b", "2"), deleted("w/a")]);
    // From the very beginning, on the same stream.
    watcher.create(on("w/", 1)).await;
    let events = watcher.events(3).await;
    assert_eq!(told(&events[0]), put("w/a", "1"));
    gateway.put("w/c", "3").await;
    let both = [watcher.next().await, watcher.next().await];
    let mut ids: Vec<i64> = both.iter().map(|response| response.watch_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1]);
    assert!(both.iter().all(|response| told(&response.events[0]) == put("w/c", "3")));
}

#[tokio::test]
async fn watch_from_before_what_is_kept_is_cancelled_with_the_lowest_revision() {
    let config = Config { event_bytes_max: 4_096, ..Config::default() };
    let gateway = Gateway::over(InMemory::new(config.encoded())).await;
    let first = gateway.put("w/0", "x").await;
    for number in 1..60 {
        gateway.put(&format!("w/{number}"), &"v".repeat(100)).await;
    }
    let mut watcher = Watcher::new(&gateway).await;
    let created = watcher.create(on("w/", first)).await;
    assert!(!created.canceled);
    let refused = watcher.next().await;
    assert_eq!((refused.watch_id, refused.canceled), (created.watch_id, true));
    assert!(refused.compact_revision > first);
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    // From there on everything is told.
    watcher.create(on("w/", refused.compact_revision)).await;
    let last = loop {
        let response = watcher.next().await;
        assert!(!response.canceled);
        if let Some(event) = response.events.last() {
            break event.clone();
        }
    };
    assert_eq!(told(&last).1, "w/59");
}

#[tokio::test]
async fn filters_and_records_before_are_as_asked() {
    let gateway = Gateway::new().await;
    gateway.put("w/1", "a").await;
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(WatchCreateRequest { prev_kv: true, ..on("w/", 0) }).await;
    gateway.put("w/1", "b").await;
    gateway.delete("w/1").await;
    gateway.put("w/1", "c").await;
    let events = watcher.events(3).await;
    let before: Vec<Option<Vec<u8>>> =
        events.iter().map(|event| event.prev_kv.clone().map(|kv| kv.value)).collect();
    assert_eq!(before, [Some(b"a".to_vec()), Some(b"b".to_vec()), None]);
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(WatchCreateRequest { filters: vec![FilterType::Noput.into()], ..on("w/", 1) }).await;
    assert_eq!(told(&watcher.events(1).await[0]), deleted("w/1"));
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(WatchCreateRequest { filters: vec![FilterType::Nodelete.into()], ..on("w/", 1) }).await;
    let values: Vec<String> = watcher.events(3).await.iter().map(|event| told(event).2).collect();
    assert_eq!(values, ["a", "b", "c"]);
}

#[tokio::test]
async fn events_of_one_number_come_in_one_response() {
    use quorate_registry::{DeregisterRange, NameRange, Operation};
    let gateway = Gateway::new().await;
    for number in 0..300 {
        gateway.put(&format!("w/{number:03}"), "v").await;
    }
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(on("w/", 0)).await;
    let delete = DeregisterRange { range: NameRange::prefix(b"w/"), previous: false };
    let operation = Operation::DeregisterRange(delete);
    assert_eq!(crate::fixture::operate(&gateway.registry, &crate::fixture::key(1), &operation), 0);
    let response = watcher.next().await;
    assert_eq!(response.events.len(), 300);
}

#[tokio::test]
async fn watches_are_numbered_cancelled_and_told_how_far_they_are() {
    let gateway = Gateway::new().await;
    let mut watcher = Watcher::new(&gateway).await;
    assert_eq!(watcher.create(on("a", 0)).await.watch_id, 0);
    assert_eq!(watcher.create(WatchCreateRequest { watch_id: 7, ..on("b", 0) }).await.watch_id, 7);
    let twice = watcher.create(WatchCreateRequest { watch_id: 7, ..on("c", 0) }).await;
    assert!(twice.canceled);
    assert_eq!(twice.watch_id, -1);
    watcher.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    let cancelled = watcher.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled), (0, true));
    gateway.put("a", "1").await;
    let put_at = gateway.put("b", "1").await;
    let response = watcher.next().await;
    assert_eq!((response.watch_id, response.events.len()), (7, 1));
    watcher.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = watcher.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert!(progress.header.unwrap().revision >= put_at);
}

#[tokio::test]
async fn watch_waits_while_there_is_no_quorum_and_misses_nothing() {
    let gateway = Gateway::new().await;
    let mut watcher = Watcher::new(&gateway).await;
    watcher.create(on("w/", 0)).await;
    gateway.put("w/1", "a").await;
    gateway.registry.silence(2);
    let mut second = Watcher::new(&gateway).await;
    let refused = second.create(on("w/", 0)).await;
    assert_eq!((refused.canceled, refused.cancel_reason.as_str()), (true, "etcdserver: no leader"));
    gateway.registry.silence(0);
    gateway.put("w/2", "b").await;
    let events = watcher.events(2).await;
    assert_eq!(events.iter().map(told).collect::<Vec<_>>(), [put("w/1", "a"), put("w/2", "b")]);
}

#[tokio::test]
async fn more_watches_than_a_stream_may_have_are_refused() {
    let gateway = Gateway::new().await;
    let mut watcher = Watcher::new(&gateway).await;
    for number in 0..1024 {
        assert_eq!(watcher.create(on(&format!("{number}"), 0)).await.watch_id, number);
    }
    let refused = watcher.create(on("one more", 0)).await;
    assert!(refused.canceled && refused.cancel_reason.contains("too many watches"));
}
