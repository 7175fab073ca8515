//! What the boundary of the guest costs an ordered service: the same requests to the library and to the guest.
//!
//! `cargo bench --profile release -p quorate-guest-images --bench services`
//!
//! Both execute the same code. The library is built for this host, with overflow checks and assertions of the profile, and
//! may use SHA instructions; the guest is built for any host, without them, and pays for the machine.

use std::time::{Duration, Instant};

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::Reply;
use quorate_attest::service::{Input, Query, ServiceSpec};
use quorate_counter::Counter;
use quorate_guest_images::{COUNTER, GuestImage, REGISTRY, UID};
use quorate_kit::{Replica, Service};
use quorate_registry::Registry;
use quorate_uid::UidRegistry;
use quorate_vmm::{Budget, Fork};

#[expect(dead_code, reason = "tests measure more of a guest")]
#[path = "../tests/machine/guest.rs"]
mod guest;
#[expect(dead_code, reason = "tests also import states")]
#[path = "../tests/machine/node.rs"]
mod node;
#[path = "../tests/machine/script.rs"]
mod script;

use guest::Guest;
use node::{Node, limits, spec};
use script::{Script, counting, registering, users};

const MEMORY: u64 = 64 << 20;
const OPERATIONS: usize = 4096;
const QUERIES: u64 = 500;
const SEED: u64 = 0x5eed;

/// Signed requests, each made with the reply to the one before.
fn requests<S: Service>(image: GuestImage, service: &ServiceSpec, script: &mut impl Script) -> Vec<Vec<u8>> {
    let mut library = Node::begun(Replica::<S>::new(limits(image, MEMORY)), service, 0);
    (0..OPERATIONS)
        .map(|_| {
            let request = script.request();
            let result = library.apply(std::slice::from_ref(&request)).remove(0);
            script.observe(&Reply::decoded(&result.reply).expect("a reply"));
            request
        })
        .collect()
}

fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

fn row(name: &str, what: &str, count: usize, library: Duration, guest: Duration) {
    println!(
        "{name:10} {what:16} {:12.0} {:12.0} {:8.2}",
        per_second(count, library),
        per_second(count, guest),
        guest.as_secs_f64() / library.as_secs_f64()
    );
}

fn measure<S: Service>(
    image: GuestImage,
    config: Vec<u8>,
    script: impl FnOnce(&ServiceSpec) -> Vec<Vec<u8>>,
) {
    let service = spec(image, MEMORY, config);
    let requests = script(&service);
    for batch in [1, 16, 256] {
        let mut library = Node::begun(Replica::<S>::new(limits(image, MEMORY)), &service, 0);
        let mut guest = Node::begun(Guest::boot(image, MEMORY), &service, 0);
        (library.busy, guest.busy) = Default::default();
        // By turns, so that whatever else this computer does slows both.
        for requests in requests.chunks(batch) {
            assert!(library.apply(requests) == guest.apply(requests), "the guest differs");
        }
        row(image.name, &format!("batches of {batch}"), requests.len(), library.busy, guest.busy);
        if batch == 256 {
            queries(image.name, &mut library, &mut guest);
        }
    }
}

/// Proven reads of one key: the library, and a fork of the guest.
fn queries<S: Service>(name: &str, library: &mut Node<Replica<S>>, guest: &mut Node<Guest>) {
    let query = Input::Query(Query::Get { key: vec![1] });
    let budget = Budget { doorbells: 100, time: Duration::from_secs(5), outputs: 4, output_bytes: 1 << 20 };
    let mut fork = Fork::new(budget);
    let wrapper = guest.wrapped(&query).encoded();
    guest.machine.query(&mut fork, &wrapper);
    let timed = |ask: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..QUERIES).for_each(|_| ask());
        start.elapsed()
    };
    let in_library = timed(&mut || {
        library.machine.handle(&wrapper);
    });
    let in_fork = timed(&mut || {
        guest.machine.query(&mut fork, &wrapper);
    });
    row(name, "query on a fork", QUERIES as usize, in_library, in_fork);
}

fn main() {
    println!("{:10} {:16} {:>12} {:>12} {:>8}", "service", "", "library/s", "guest/s", "ratio");
    measure::<Counter>(COUNTER, to_bytes(&0u64), |service| {
        requests::<Counter>(COUNTER, service, &mut counting(service.id(), SEED))
    });
    measure::<Registry>(REGISTRY, quorate_registry::testing::config().encoded(), |service| {
        requests::<Registry>(REGISTRY, service, &mut registering(service.id(), SEED))
    });
    measure::<UidRegistry>(UID, quorate_uid::testing::config().encoded(), |service| {
        requests::<UidRegistry>(UID, service, &mut users(service.id(), SEED))
    });
}
