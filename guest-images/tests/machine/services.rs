//! The guests of ordered services against the same libraries on the host.

use std::time::Duration;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::Nonce;
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::request::{Reply, status};
use quorate_attest::service::{Answer, Input, Ordered, Output, Query, ServiceSpec, StateEntry};
use quorate_attest::state_tree::{KEY_LIMIT, StateTree, VALUE_LIMIT};
use quorate_counter::{ADD, Counter, READ, TOTAL};
use quorate_guest_images::{COUNTER, GuestImage, REGISTRY, UID};
use quorate_kit::{REPLY_LIMIT, Replica, Service, wire};
use quorate_registry::Registry;
use quorate_uid::UidRegistry;
use quorate_uid::testing::Random;
use quorate_vmm::{Budget, Fork};

use super::guest::Guest;
use super::node::{Node, genesis, limits, spec};
use super::script::{Script, counting, registering, users};

const MEMORY: u64 = 64 << 20;

/// The smallest machine of a service.
const SMALLEST: u64 = 14 << 20;

const OPERATIONS: usize = 10_000;

const SEED: u64 = 0x5eed;

/// Pages in which equal replicas in different VMs may differ: the outermost calls keep the VM's id there and left parts of
/// wrappers behind.
const TOP_OF_STACK: std::ops::Range<u32> = 0x1f8..0x200;

fn counter_spec(memory: u64) -> ServiceSpec {
    spec(COUNTER, memory, to_bytes(&0u64))
}

fn uid_spec() -> ServiceSpec {
    spec(UID, MEMORY, quorate_uid::testing::config().encoded())
}

/// The library executes one request an input, the guest up to 64: their results must be the same bytes.
fn same_results<S: Service>(image: GuestImage, service: &ServiceSpec, script: &mut impl Script) {
    let mut library = Node::begun(Replica::<S>::new(limits(image, MEMORY)), service, 0);
    let mut guest = Node::begun(Guest::boot(image, MEMORY), service, 1);
    let mut sizes = Random::new(SEED);
    let (mut done, mut accepted) = (0, 0);
    while done < OPERATIONS {
        let count = (1 + sizes.below(64) as usize).min(OPERATIONS - done);
        let (mut batch, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let request = script.request();
            let result = library.apply(std::slice::from_ref(&request)).remove(0);
            let reply = Reply::decoded(&result.reply).expect("a reply");
            accepted += usize::from(reply.status == status::OK);
            script.observe(&reply);
            batch.push(request);
            expected.push(result);
        }
        assert_eq!(guest.apply(&batch), expected, "operations {done}.. from seed {SEED:#x}");
        done += count;
    }
    assert!(accepted > OPERATIONS / 8, "{accepted} operations of {OPERATIONS} did anything");
    let state = library.machine.state().expect("a state");
    for (key, value) in state.entries().iter().step_by(7) {
        let output = guest.feed(&Input::Query(Query::Get { key: key.clone() }));
        let Output::Answered { answer, .. } = output else { panic!("{output:?}") };
        assert!(matches!(*answer, Answer::Present(entry) if entry.value == *value));
    }
}

#[test]
fn the_counter_guest_gives_the_librarys_results_on_ten_thousand_random_operations() {
    let service = counter_spec(MEMORY);
    same_results::<Counter>(COUNTER, &service, &mut counting(service.id(), SEED));
}

#[test]
fn the_uid_guest_gives_the_librarys_results_on_ten_thousand_random_operations() {
    let service = uid_spec();
    same_results::<UidRegistry>(UID, &service, &mut users(service.id(), SEED));
}

#[test]
fn the_registry_guest_gives_the_librarys_results_on_ten_thousand_random_operations() {
    let service = spec(REGISTRY, MEMORY, quorate_registry::testing::config().encoded());
    same_results::<Registry>(REGISTRY, &service, &mut registering(service.id(), SEED));
}

fn random_query(random: &mut Random, keys: &[Vec<u8>]) -> Query {
    let mut key = || keys[random.below(keys.len() as u64) as usize].clone();
    let (one, other) = (key(), key());
    let (low, high) = (one.clone().min(other.clone()), one.clone().max(other));
    match random.below(5) {
        0 => Query::Get { key: one },
        1 => Query::Get { key: [one, vec![random.draw() as u8]].concat() },
        2 => Query::Range { low, high, limit: random.below(300) as u16 },
        3 => Query::Export { after: one },
        _ => Query::Head,
    }
}

#[test]
fn a_thousand_random_queries_on_a_fork_leave_the_memory_digest_unchanged() {
    let service = uid_spec();
    let mut script = users(service.id(), SEED);
    let mut library = Node::begun(Replica::<UidRegistry>::new(limits(UID, MEMORY)), &service, 0);
    let mut asked = Node::begun(Guest::boot(UID, MEMORY), &service, 1);
    let mut quiet = Node::begun(Guest::boot(UID, MEMORY), &service, 1);
    let budget = Budget { doorbells: 100, time: Duration::from_secs(5), outputs: 4, output_bytes: 1 << 20 };
    let mut fork = Fork::new(budget);
    let mut random = Random::new(SEED);
    for _ in 0..2 {
        let requests: Vec<_> = (0..200).map(|_| script.request()).collect();
        let results = library.apply(&requests);
        assert_eq!(asked.apply(&requests), results);
        assert_eq!(quiet.apply(&requests), results);
        let before = asked.machine.measure();
        let state = library.machine.state().expect("a state");
        let keys: Vec<_> = state.entries().iter().map(|(key, _)| key.clone()).collect();
        let vm = asked.wrapped(&Input::Query(Query::Head)).vm;
        quiet.wrapped(&Input::Query(Query::Head));
        for number in 0..1000 {
            let query = random_query(&mut random, &keys);
            let client = SecretKey::from_seed([9; 32]).public();
            let wrapper = wire::wrap(vm, client, number, &Input::Query(query.clone()));
            let outputs = asked.machine.query(&mut fork, &wrapper.encoded());
            let [output] = &outputs[..] else { panic!("one answer: {outputs:?}") };
            let answer = wire::unwrap(&wrapper, output).expect("an answer");
            assert_eq!(answer, library.feed(&Input::Query(query)), "seed {SEED:#x}, query {number}");
        }
        assert_eq!(asked.machine.measure(), before);
    }
    let request = script.request();
    assert_eq!(asked.apply(std::slice::from_ref(&request)), quiet.apply(&[request]));
    assert_eq!(
        asked.machine.measure(),
        quiet.machine.measure(),
        "what was never asked ends in the same state"
    );
}

#[test]
fn replicas_in_different_vms_have_one_state_root_and_differ_in_memory_only_where_their_vms_are_named() {
    let service = uid_spec();
    let mut script = users(service.id(), SEED);
    let mut nodes = [0, 1].map(|replica| Node::begun(Guest::boot(UID, MEMORY), &service, replica));
    for round in 0..40 {
        let batch: Vec<_> = (0..=round).map(|_| script.request()).collect();
        let [first, second] = nodes.each_mut().map(|node| node.apply(&batch));
        assert_eq!(first, second, "replies and states after input {round}");
        let [one, other] = nodes.each_mut().map(|node| node.machine.pages());
        let different = one.difference(&other);
        assert!(!different.is_empty(), "the VM's id stands somewhere");
        // Heap, tables, mailbox and image are the same byte for byte.
        assert!(different.iter().all(|page| TOP_OF_STACK.contains(page)), "{different:x?}");
    }
}

/// A state that fills the budgets of a machine with entries of about this size, and long replies.
fn full_state(service: &ServiceSpec, entry_bytes: usize) -> StateTree {
    let limits = limits(COUNTER, SMALLEST);
    let mut library = Node::begun(Replica::<Counter>::new(limits), service, 0);
    let client = SecretKey::from_seed([1; 32]);
    let call = wire::call(&client, service.id(), 1, Nonce::from_bytes([0; 16]), READ, vec![]);
    library.apply(&[call.encoded()]);
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = library.machine.state().expect("a state").entries().to_vec();
    let sessions = limits.session_bytes / (REPLY_LIMIT as u64 + 600) - 1;
    for number in 0..sessions {
        let client = SecretKey::from_seed([number as u8 + 2; 32]).public();
        entries.push(session(&client, 100 + number));
    }
    let key_bytes = (entry_bytes / 2).clamp(5, KEY_LIMIT);
    let cost = 384 + entry_bytes as u64;
    for number in 0..(limits.state_bytes - 400) / cost {
        let mut key = vec![2; key_bytes];
        key[1..5].copy_from_slice(&(number as u32).to_be_bytes());
        entries.push((key, vec![number as u8; entry_bytes - key_bytes]));
    }
    entries.sort_unstable();
    StateTree::from_sorted(entries)
}

/// An entry of the table of clients with the longest reply.
fn session(client: &PublicKey, last_used: u64) -> (Vec<u8>, Vec<u8>) {
    let value = (last_used, 1u64, Signature::NONE, status::OK, vec![7u8; REPLY_LIMIT]);
    ([&[0, b's'][..], client.as_bytes()].concat(), to_bytes(&value))
}

/// Feeds a state in parts as long as messages allow.
fn import(node: &mut Node<Guest>, service: &ServiceSpec, state: &StateTree, number: u64) {
    let entry = |(key, value): &(Vec<u8>, Vec<u8>)| StateEntry { key: key.clone(), value: value.clone() };
    let mut rest = state.entries();
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest.iter().take(1024).take_while(|(key, value)| {
            bytes += 8 + key.len() + value.len();
            bytes <= 250_000
        });
        let (part, behind) = rest.split_at(count.count());
        let complete = behind.is_empty().then(|| state.commitment());
        let entries = part.iter().map(entry).collect();
        let input = Input::Import { genesis: genesis(service.clone()), number, entries, complete };
        let output = node.feed(&input);
        assert!(matches!(output, Output::Applied(_)), "{output:?}");
        rest = behind;
    }
    node.skip_to(number);
}

#[test]
fn the_smallest_machine_with_full_budgets_survives_the_longest_inputs() {
    let service = counter_spec(SMALLEST);
    let nonce = Nonce::from_bytes([0; 16]);
    for entry_bytes in [16, 700, VALUE_LIMIT + KEY_LIMIT] {
        let state = full_state(&service, entry_bytes);
        let mut node = Node::new(Guest::boot(COUNTER, SMALLEST), &service, 0);
        import(&mut node, &service, &state, 1000);
        let mut after = Vec::new();
        loop {
            let Output::Answered { answer, .. } = node.feed(&Input::Query(Query::Export { after })) else {
                panic!("no answer")
            };
            let Answer::Entries { entries, more } = *answer else { panic!("no export") };
            after = entries.last().expect("an entry").key.clone();
            let all = Query::Range { low: vec![], high: vec![0xff], limit: 256 };
            assert!(matches!(node.feed(&Input::Query(all)), Output::Answered { .. }));
            if !more {
                break;
            }
        }
        for number in 0..60u64 {
            let client = SecretKey::from_seed([150 + (number % 90) as u8; 32]);
            let longest = wire::call(&client, service.id(), number + 1, nonce, 77, vec![1; 261_600]);
            let add = wire::call(&client, service.id(), number + 100, nonce, ADD, to_bytes(&1u64));
            let results = node.apply(&[longest.encoded(), vec![0xff; wire::REQUEST_LIMIT], add.encoded()]);
            let statuses =
                results.iter().map(|result| Reply::decoded(&result.reply).expect("a reply").status);
            let expected = [status::UNKNOWN_KIND, status::MALFORMED, status::OK];
            assert_eq!(statuses.collect::<Vec<_>>(), expected, "{entry_bytes} {number}");
        }
        // Many requests in one input, and one that repeats a kept reply many times.
        let client = SecretKey::from_seed([1; 32]);
        let many =
            (0..256u64).map(|n| wire::call(&client, service.id(), n + 9, nonce, ADD, vec![1; 800]).encoded());
        node.apply(&many.collect::<Vec<_>>());
        let query = Query::Get { key: TOTAL.to_vec() };
        let output = node.feed(&Input::Query(query));
        assert!(matches!(output, Output::Answered { .. }), "{output:?}");
    }
}

#[test]
fn a_machine_too_small_for_a_service_ends_with_an_explanation() {
    use quorate_vmm::{Exit, Image, Machine};
    let image = Image::admit(COUNTER.elf).expect("our own image");
    let mut machine = Machine::boot(&image, 8 << 20).expect("/dev/kvm is needed");
    let Exit::Log(line) = machine.run().expect("runs") else { panic!("no explanation") };
    assert!(String::from_utf8_lossy(&line).contains("heap of at least 6 MiB"));
    assert_eq!(machine.run().expect("runs"), Exit::Finished { code: 1 });
}

#[test]
fn a_long_input_yields_after_every_request() {
    let service = counter_spec(MEMORY);
    let mut node = Node::begun(Guest::boot(COUNTER, MEMORY), &service, 0);
    let requests = vec![Ordered { log_index: 1, request: vec![] }; 256];
    let wrapper = node.wrapped(&Input::Apply { first: 1, requests });
    assert_eq!(node.machine.feed(&wrapper.encoded()).yields, 256);
}
