//! What a client does, and what must come of it whoever misbehaves.

use std::future::Future;

use quorate_attest::request::status;
use quorate_attest::service::Answer;
use quorate_registry::client::{StateEntry, entry, record_query, records_query};
use quorate_registry::{NameRange, Operation, Register};
use quorate_services::{Called, Freshness, Read, ServiceError};
use quorate_uid::{Gecos, Name, Path, Profile, Uid};
use tokio::time::{Instant, timeout};

use crate::conduct::Conduct;
use crate::guest::Library;
use crate::world::{Client, PLENTY, World};

/// The sizes that are tried.
pub const SIZES: [(u16, u64); 2] = [(4, 1), (7, 2)];

pub fn register(name: &str, value: &[u8]) -> Operation {
    let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
    Operation::Register(Register { name, value, lease: 0, expected: None, previous: false })
}

pub fn deregister(name: &str) -> Operation {
    Operation::Deregister { name: name.as_bytes().to_vec(), expected: None, previous: false }
}

impl Client {
    pub async fn call(&self, operation: &Operation) -> Result<Called, ServiceError> {
        self.service.call(operation.op(), operation.body()).await
    }

    /// A call that must succeed, with its proof.
    pub async fn done(&self, operation: &Operation) -> Called {
        let called = self.call(operation).await.expect("the call succeeds");
        called.proof.verify(self.service.trust()).expect("the proof holds");
        assert_eq!((called.status, called.proof.number()), (status::OK, called.number));
        quorate_registry::client::outcome(operation.op(), &called.proof.reply().unwrap().unwrap())
            .expect("the result of this operation");
        called
    }

    /// The value under a name, as far as the answer is proved.
    pub async fn lookup(&self, name: &str, freshness: Freshness) -> Result<Option<Vec<u8>>, ServiceError> {
        let read = self.service.query(record_query(name.as_bytes()), freshness).await?;
        self.check(&read);
        Ok(match read.value {
            Answer::Present(proved) => match entry(&proved.key, &proved.value).expect("a record") {
                StateEntry::Record(found) => Some(found.record.value),
                other => panic!("{other:?} in the place of a record"),
            },
            _ => None,
        })
    }

    /// All names.
    pub async fn names(&self, freshness: Freshness) -> Result<Vec<String>, ServiceError> {
        let query = records_query(&NameRange::prefix(b""), 100).expect("all names");
        let read = self.service.query(query, freshness).await?;
        self.check(&read);
        let Answer::Range { proof, more: false } = read.value else { panic!("a part of the list") };
        let name = |proved: &quorate_attest::state_tree::EntryProof| match entry(&proved.key, &proved.value) {
            Ok(StateEntry::Record(found)) => String::from_utf8(found.name).expect("text"),
            other => panic!("{other:?} in the place of a record"),
        };
        Ok(proof.entries.iter().map(name).collect())
    }

    fn check<T>(&self, read: &Read<T>) {
        read.proof.verify(self.service.trust()).expect("the proof holds");
        assert_eq!(read.proof.number(), read.number);
    }
}

/// Calls and reads of a new client all succeed and are right.
pub async fn serves(world: &World, name: &str) {
    let client = world.client(name, PLENTY);
    let [first, second] = ["a", "b"].map(|letter| format!("{name}-{letter}"));
    client.done(&register(&first, b"10.0.0.1:80")).await;
    let newest = client.done(&register(&second, b"10.0.0.2:80")).await;
    assert_eq!(
        client.lookup(&first, Freshness::Linearizable).await.expect("a read"),
        Some(b"10.0.0.1:80".to_vec())
    );
    assert_eq!(client.lookup("nobody", Freshness::Linearizable).await.expect("a proof of absence"), None);
    let names = client.names(Freshness::AtLeast(newest.number + 1)).await.expect("a list");
    assert_eq!(names.iter().filter(|listed| listed.starts_with(name)).count(), 2, "{names:?}");
    client.done(&deregister(&second)).await;
    assert_eq!(client.lookup(&second, Freshness::Newest).await.expect("a read"), None);
    assert!(client.service.known().await > newest.number + 1, "the head followed");
}

/// With `f` of `n` that behave like this, everything succeeds.
pub async fn f_hold(conduct: Conduct) {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), f as u16, &conduct);
        serves(&world, "client").await;
    }
}

/// A world of the usual size in which one more than allowed behaves like this.
pub fn too_many(conduct: &Conduct) -> World {
    World::start(Library::Registry, (4, 1), 2, conduct)
}

/// Asserts that something failed for want of equal answers.
pub fn assert_stalls<T: std::fmt::Debug>(result: Result<T, ServiceError>) {
    match result {
        Err(error) => assert_eq!(error.kind(), "QuorumUnreachable", "{error}"),
        Ok(value) => panic!("believed: {value:?}"),
    }
}

/// Repeats something until it leads to this.
pub async fn until<F: Future>(what: &str, mut attempt: impl FnMut() -> F, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PLENTY;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never happened");
        timeout(PLENTY, attempt()).await.expect("an attempt ends");
    }
}

/// Alice, as she is added to the UID registry.
pub fn alice(uid: u32) -> quorate_uid::Operation {
    let profile = Profile {
        name: Name::new("alice").expect("a name"),
        gecos: Gecos::new("Alice").expect("text"),
        home: Path::new("/home/alice").expect("a path"),
        shell: Path::new("/bin/sh").expect("a path"),
    };
    quorate_uid::Operation::AddUser { uid: Uid::new(uid).expect("a UID"), counter: 1, profile }
}
