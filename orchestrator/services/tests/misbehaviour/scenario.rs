//! What a client does, and what must come of it whoever misbehaves.

use std::future::Future;

use quorate_attest::request::status;
use quorate_services::{Called, Freshness, Read, ServiceError};
use tokio::time::{Instant, timeout};

use crate::conduct::Conduct;
use crate::library::Change::{self, Bind, Free};
use crate::library::Library;
use crate::world::{Client, PLENTY, World};

/// What most scenarios are about, and something beside it.
pub const KEY: u32 = 1000;
pub const OTHER: u32 = 1001;
/// What nobody ever binds.
const UNBOUND: u32 = 1999;

/// What a scenario is tried with: a service of `n` replicas, beside as many orchestrators, `f` of whom may be faulty.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub library: Library,
    pub n: u16,
    pub f: u16,
}

impl Library {
    /// The sizes that are tried.
    pub fn settings(self) -> [Setting; 2] {
        [(4, 1), (7, 2)].map(|(n, f)| Setting { library: self, n, f })
    }
}

/// Tries scenarios with both services in all sizes.
macro_rules! everywhere {
    ($($scenario:ident),* $(,)?) => { $(
        mod $scenario {
            use crate::library::Library;

            #[tokio::test(flavor = "multi_thread")]
            async fn registry_4_1() {
                super::$scenario(Library::Registry.settings()[0]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn registry_7_2() {
                super::$scenario(Library::Registry.settings()[1]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn uid_4_1() {
                super::$scenario(Library::Uid.settings()[0]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn uid_7_2() {
                super::$scenario(Library::Uid.settings()[1]).await;
            }
        }
    )* };
}
pub(crate) use everywhere;

impl Client {
    pub async fn call(&self, change: Change<'_>) -> Result<Called, ServiceError> {
        let (op, body) = self.library.operation(change);
        self.service.call(op, body).await
    }

    /// A call that must succeed, with its proof and the right result.
    pub async fn done(&self, change: Change<'_>) -> Called {
        let called = self.call(change).await.expect("the call succeeds");
        called.proof.verify(self.service.trust()).expect("the proof holds");
        assert_eq!((called.status, called.proof.number()), (status::OK, called.number), "{change:?}");
        self.library.check(change, &called.proof.reply().unwrap().unwrap());
        called
    }

    /// What is bound to a key, as far as the answer is proved.
    pub async fn value(&self, key: u32, freshness: Freshness) -> Result<Option<String>, ServiceError> {
        let read = self.service.query(self.library.ask(key), freshness).await?;
        self.check(&read);
        Ok(self.library.value(key, &read))
    }

    /// All keys to which something is bound.
    pub async fn keys(&self, freshness: Freshness) -> Result<Vec<u32>, ServiceError> {
        let read = self.service.query(self.library.ask_all(), freshness).await?;
        self.check(&read);
        Ok(self.library.keys(&read))
    }

    fn check<T>(&self, read: &Read<T>) {
        read.proof.verify(self.service.trust()).expect("the proof holds");
        assert_eq!(read.proof.number(), read.number);
    }
}

/// Somebody's value.
pub fn some(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// Calls and reads of a new client all succeed and are right.
pub async fn serves(world: &World, name: &str) {
    let client = world.client(name, PLENTY);
    let (first, second) = (world.fresh_key(), world.fresh_key());
    let values = ["a", "b"].map(|letter| format!("{name}-{letter}"));
    client.done(Bind(first, &values[0])).await;
    let newest = client.done(Bind(second, &values[1])).await;
    assert_eq!(client.value(first, Freshness::Linearizable).await.expect("a read"), some(&values[0]));
    assert_eq!(client.value(UNBOUND, Freshness::Linearizable).await.expect("a proof of absence"), None);
    let keys = client.keys(Freshness::AtLeast(newest.number + 1)).await.expect("a list");
    assert!(keys.contains(&first) && keys.contains(&second), "{keys:?}");
    client.done(Free(second)).await;
    assert_eq!(client.value(second, Freshness::Newest).await.expect("a read"), None);
    assert!(client.service.known().await > newest.number + 1, "the head followed");
}

/// With `f` of `n` that behave like this, everything succeeds.
pub async fn f_hold(setting: Setting, conduct: Conduct) {
    let world = World::start(setting, setting.f, &conduct);
    serves(&world, "client").await;
}

/// A world in which one more than allowed behaves like this.
pub fn too_many(setting: Setting, conduct: &Conduct) -> World {
    World::start(setting, setting.f + 1, conduct)
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
