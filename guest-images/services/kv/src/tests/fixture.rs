//! One VM, its service and some clients.

use std::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Reply, Request};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};

use crate::client::{AnswerError, Client, answer, genesis};
use crate::{Answer, Kv, Limits, Operation, Page};

pub const MEMORY: u64 = 16 << 20;

pub const LIMITS: Limits =
    Limits { memory_bytes: MEMORY, entries_max: 100, data_bytes_max: 400_000, session_bytes_max: 400_000 };

pub fn spec() -> VmSpec {
    VmSpec {
        name: "kv-1".into(),
        image: ImageDigest::from_bytes([7; 32]),
        machine_version: 1,
        memory_bytes: MEMORY,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: key(200).public(),
        nonce: Nonce::from_bytes([1; 16]),
    }
}

pub fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

pub fn client(number: u8) -> Client {
    Client::new(key(number), spec().id(), 0)
}

pub fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::from_bytes(bytes)
}

/// A service that knows its VM.
pub fn service(limits: Limits) -> Kv {
    let mut kv = Kv::new(limits);
    assert!(kv.apply(&genesis(&spec())).is_empty());
    kv
}

/// Lets a client ask and reads the answer.
pub fn ask(kv: &mut Kv, client: &mut Client, operation: &Operation) -> Result<Answer, AnswerError> {
    let request = client.request(operation, nonce(client.last_sequence() + 1));
    answer(&request, &kv.apply(&request.encoded()))
}

pub fn put(key: &[u8], value: &[u8]) -> Operation {
    Operation::Put { key: key.to_vec(), value: value.to_vec() }
}

pub fn get(key: &[u8]) -> Operation {
    Operation::Get { key: key.to_vec() }
}

/// Everything the service holds, in order.
pub fn contents(kv: &mut Kv, client: &mut Client) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let list = Operation::List { prefix: Vec::new(), after: after.clone(), limit: 7 };
        let Ok(Answer::Page(Page { entries, more })) = ask(kv, client, &list) else { panic!("no listing") };
        for entry in entries {
            let Ok(Answer::Value(value)) = ask(kv, client, &get(&entry.key)) else { panic!("no value") };
            assert_eq!(value.len(), entry.value_bytes as usize);
            after = Some(entry.key.clone());
            all.push((entry.key, value));
        }
        if !more {
            return all;
        }
    }
}

pub fn status_of(output: &[u8]) -> u16 {
    Reply::decoded(output).expect("a reply").status
}

/// The same request with other contents under the signature of the first.
pub fn forged(request: &Request, change: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut other = request.clone();
    change(&mut other);
    other.encoded()
}
