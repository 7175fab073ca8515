//! The key-value guest against the same library on the host.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Request, status};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_guest_images::KV;
use quorate_kv::client::{AnswerError, Client, answer, genesis};
use quorate_kv::{Answer, Kv, Limits, Operation};

use super::guest::{End, Guest};

const MEMORY: u64 = 64 << 20;

fn spec(memory_bytes: u64) -> VmSpec {
    VmSpec {
        name: "kv-1".into(),
        image: ImageDigest::from_bytes(KV.digest()),
        machine_version: 1,
        memory_bytes,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: SecretKey::from_seed([9; 32]).public(),
        nonce: Nonce::from_bytes([3; 16]),
    }
}

fn client(memory_bytes: u64) -> Client {
    Client::new(SecretKey::from_seed([1; 32]), spec(memory_bytes).id(), 0)
}

fn booted(memory_bytes: u64) -> Guest {
    let mut guest = Guest::boot(KV, memory_bytes);
    let reaction = guest.feed(&genesis(&spec(memory_bytes)));
    assert!(reaction.outputs.is_empty() && matches!(reaction.end, End::Waiting), "{reaction:?}");
    guest
}

fn ask(guest: &mut Guest, request: &Request) -> Result<Answer, AnswerError> {
    let reaction = guest.feed(&request.encoded());
    let [output] = &reaction.outputs[..] else { panic!("one input, one output: {reaction:?}") };
    answer(request, output)
}

/// A mixture of all operations, and inputs that are no requests.
fn inputs(memory_bytes: u64, count: u64) -> Vec<Vec<u8>> {
    let mut client = client(memory_bytes);
    let mut inputs = vec![genesis(&spec(memory_bytes))];
    for number in 0..count {
        let key = vec![b'k', (number * 7 % 23) as u8];
        let value = vec![number as u8; (number * 997 % 5000) as usize];
        let operation = match number % 6 {
            0 | 1 => Operation::Put { key, value },
            2 => Operation::Get { key },
            3 => Operation::CompareAndSwap { key, expected: None, value: Some(value) },
            4 => Operation::Delete { key },
            _ => Operation::List { prefix: vec![b'k'], after: None, limit: 9 },
        };
        let request = client.request(&operation, Nonce::from_bytes([number as u8; 16])).encoded();
        if number % 10 == 9 {
            inputs.extend([request.clone(), vec![0; number as usize], request[1..].to_vec()]);
        }
        inputs.push(request);
    }
    inputs
}

#[test]
fn the_guest_answers_as_the_library_does_and_two_guests_end_in_equal_states() {
    let heap_bytes = MEMORY - (8 << 20);
    let mut library = Kv::new(Limits::for_machine(MEMORY, heap_bytes).expect("room"));
    let (mut first, mut second) = (Guest::boot(KV, MEMORY), Guest::boot(KV, MEMORY));
    for input in inputs(MEMORY, 120) {
        let expected = library.apply(&input);
        let expected: Vec<_> = Some(expected).into_iter().filter(|output| !output.is_empty()).collect();
        assert_eq!(first.feed(&input).outputs, expected);
        assert_eq!(second.feed(&input).outputs, expected);
    }
    assert_eq!(first.measure(), second.measure());
}

/// Ordered maps over keys of fixed length are compared by code that no test with one client runs.
#[test]
fn requests_of_many_clients_repeated_in_any_order_are_executed_once() {
    let mut guest = booted(MEMORY);
    let requests: Vec<Request> = (0..40u8)
        .map(|number| {
            let key = SecretKey::from_seed([number.wrapping_mul(89).wrapping_add(1); 32]);
            let put = Operation::Put { key: vec![b'k', number], value: vec![number] };
            Client::new(key, spec(MEMORY).id(), 0).request(&put, Nonce::from_bytes([number; 16]))
        })
        .collect();
    for request in requests.iter().chain(requests.iter().rev()) {
        assert_eq!(ask(&mut guest, request), Ok(Answer::Stored { replaced: false }));
    }
}

#[test]
fn one_fill_brings_a_machine_to_its_size_and_yields_on_the_way() {
    let memory_bytes = 512 << 20;
    let mut guest = booted(memory_bytes);
    let mut client = client(memory_bytes);
    let fill = client.request(&Operation::Fill { bytes: 256 << 20, seed: 1 }, Nonce::from_bytes([1; 16]));
    let reaction = guest.feed(&fill.encoded());
    assert_eq!(reaction.yields, 128);
    assert!(
        matches!(answer(&fill, &reaction.outputs[0]), Ok(Answer::Filled { bytes, .. }) if bytes == 256 << 20)
    );
    let again = client.request(&Operation::Fill { bytes: 300 << 20, seed: 2 }, Nonce::from_bytes([2; 16]));
    assert!(
        matches!(ask(&mut guest, &again), Ok(Answer::Filled { .. })),
        "the old arena made room for the new one"
    );
}

#[test]
fn a_full_service_refuses_politely_and_serves_on() {
    let memory_bytes = 10 << 20;
    let mut guest = booted(memory_bytes);
    let mut client = client(memory_bytes);
    let mut ask = |operation: &Operation| {
        let request = client.request(operation, Nonce::from_bytes([7; 16]));
        ask(&mut guest, &request)
    };
    // Small and large values by turns, so that freed room never has the size of the next request.
    let size = |number: u32| if number.is_multiple_of(2) { 300 } else { 65_536 };
    let limit = Err(AnswerError::Failed { status: status::LIMIT });
    let mut refused = 0;
    for number in 0..400u32 {
        let key = (number % 97).to_le_bytes().to_vec();
        let answer = ask(&Operation::Put { key: key.clone(), value: vec![1; size(number)] });
        if answer == limit {
            refused += 1;
            let _ = ask(&Operation::Delete { key });
        } else {
            assert!(answer.is_ok(), "{answer:?}");
        }
    }
    assert!(refused > 10, "the budget was never reached");
    assert_eq!(
        ask(&Operation::Get { key: b"none".to_vec() }),
        Err(AnswerError::Failed { status: status::NOT_FOUND })
    );
}

#[test]
fn a_machine_too_small_ends_with_an_explanation() {
    use quorate_vmm::{Exit, Image, Machine};
    let image = Image::admit(KV.elf).expect("our own image");
    let mut machine = Machine::boot(&image, 8 << 20).expect("/dev/kvm is needed");
    assert_eq!(
        machine.run().expect("runs"),
        Exit::Log(b"kv: the machine needs at least 10 MiB of memory".to_vec())
    );
    assert_eq!(machine.run().expect("runs"), Exit::Finished { code: 1 });
}
