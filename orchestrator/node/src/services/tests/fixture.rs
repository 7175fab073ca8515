//! A guest in process: the counter service of the kit, without a VM around it.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::service::{Input, Output, Query};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_counter::Counter;
use quorate_kit::{Limits, Replica, wire};

/// A machine that runs the counter.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    replica: Replica<Counter>,
    broken: bool,
}

fn key() -> SecretKey {
    SecretKey::from_seed([0xfe; 32])
}

impl Machine {
    pub fn new(memory_bytes: u64) -> Self {
        let spec = VmSpec {
            name: "counter-0".into(),
            image: ImageDigest::from_bytes([1; 32]),
            machine_version: 1,
            memory_bytes,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key().public(),
            nonce: Nonce::ZERO,
        };
        let mut replica = Replica::new(Limits::for_machine(memory_bytes, memory_bytes / 2).unwrap());
        assert!(replica.handle(&wire::vm_input(&spec)).is_empty());
        Self { replica, broken: false }
    }

    pub fn feed(&mut self, input: &Input) -> Output {
        let wrapper = wire::wrap_signed(&key(), self.replica.vm().unwrap(), 1, input);
        let output = self.replica.handle(&wrapper.encoded());
        let mut output = wire::unwrap(&wrapper, &output).unwrap();
        if let (true, Output::Applied(applied)) = (self.broken, &mut output) {
            applied.executed.iter_mut().for_each(|executed| executed.state.root[0] ^= 1);
        }
        output
    }

    /// Asks a copy.
    pub fn query(&self, query: &Query) -> Output {
        self.clone().feed(&Input::Query(query.clone()))
    }

    pub fn next(&self) -> u64 {
        self.replica.next()
    }

    /// From now on its states are wrong.
    pub fn corrupt(&mut self) {
        self.broken = true;
    }
}
