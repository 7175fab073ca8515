//! A replica's guest, the log of the service that it executes, and ways to execute something else.

use std::path::PathBuf;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, ImageDigest, Nonce, OperationId, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, consistency_proof, root};
use quorate_attest::request::{Reply, Request, status};
use quorate_attest::service::{
    Answer, Executed, Genesis, Input, Ordered, Output, Query, ServiceReceipt, ServiceSpec, TICK,
};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_kit::wire;
use sha2::{Digest as _, Sha256};

use crate::keys::{Groups, MALLORY, key};
use crate::library::{Handler, Library, MEMORY};

/// What a request of the log is, as the replicas are fed it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub log_index: u64,
    pub operation: OperationId,
    pub request: Vec<u8>,
}

/// A guest and everything it has executed.
pub struct Guest {
    library: Library,
    handle: Handler,
    vm: VmId,
    orchestrator: SecretKey,
    inputs: u64,
    service: ServiceSpec,
    groups: Groups,
    leaves: Vec<Digest>,
    pub receipts: Vec<ServiceReceipt>,
    pub replies: Vec<Vec<u8>>,
}

impl Guest {
    /// A guest that has executed the creation of the service.
    pub fn begin(groups: &Groups, library: Library, service: &ServiceSpec, creation: &Entry) -> Self {
        let orchestrator = key(&["transport of", "the guest's orchestrator"]);
        let spec = VmSpec {
            name: service.vm_name(0),
            image: ImageDigest::from_bytes([7; 32]),
            machine_version: 1,
            memory_bytes: MEMORY,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key(&["host"]).public(),
            nonce: Nonce::ZERO,
        };
        let mut handle = library.handler();
        assert!(handle(&wire::vm_input(&spec)).is_empty(), "a VM of the right size is taken");
        let (service, groups) = (service.clone(), groups.clone());
        let (leaves, receipts, replies) = Default::default();
        let vm = spec.id();
        let mut guest =
            Self { library, handle, vm, orchestrator, inputs: 0, service, groups, leaves, receipts, replies };
        let voters = guest.groups.orchestrators.vote_keys();
        let genesis = Genesis { spec: guest.service.clone(), voters, f: guest.groups.orchestrators.f };
        let executed = guest.feed(Input::Genesis(genesis));
        guest.note(creation, executed.reply, &executed.state);
        guest
    }

    /// Entries executed.
    pub fn size(&self) -> u64 {
        self.receipts.len() as u64
    }

    /// Executes an entry as it is.
    pub fn execute(&mut self, entry: &Entry) {
        let executed = self.apply(entry.log_index, entry.request.clone());
        self.note(entry, executed.reply, &executed.state);
    }

    /// Executes something else in the place of an entry and answers the client what nobody computed.
    pub fn execute_twisted(&mut self, entry: &Entry, salt: u8) {
        let Ok(request) = Request::decoded(&entry.request) else { return self.execute(entry) };
        if request.op == TICK {
            return self.execute(entry);
        }
        let (op, body) = self.library.twisted(request.op, &request.body, salt);
        let instead = wire::call(&key(&[MALLORY]), self.service.id(), self.size(), Nonce::ZERO, op, body);
        let executed = self.apply(entry.log_index, instead.encoded());
        let reply = Reply::to(&request, status::OK, vec![b'!', salt]).encoded();
        self.note(entry, reply, &executed.state);
    }

    /// The answer of the present state.
    pub fn query(&mut self, query: &Query) -> Option<Answer> {
        match self.input(Input::Query(query.clone())) {
            Output::Answered { answer, .. } => Some(*answer),
            _ => None,
        }
    }

    /// Number of what an operation ordered.
    pub fn number_of(&self, operation: &OperationId) -> Option<usize> {
        self.receipts.iter().position(|receipt| receipt.operation == *operation)
    }

    /// Proof that the first `to` entries extend the first `from`.
    pub fn consistency(&self, from: u64, to: u64) -> Option<Vec<Digest>> {
        consistency_proof::<Sha256Tree>(self.leaves.get(..usize::try_from(to).ok()?)?, from)
    }

    fn apply(&mut self, log_index: u64, request: Vec<u8>) -> Executed {
        let first = self.size();
        self.feed(Input::Apply { first, requests: vec![Ordered { log_index, request }] })
    }

    fn feed(&mut self, input: Input) -> Executed {
        match self.input(input) {
            Output::Applied(mut applied) if applied.executed.len() == 1 => applied.executed.remove(0),
            other => panic!("the guest did not execute one entry: {other:?}"),
        }
    }

    fn input(&mut self, input: Input) -> Output {
        self.inputs += 1;
        let wrapper = wire::wrap_signed(&self.orchestrator, self.vm, self.inputs, &input);
        let output = (self.handle)(&wrapper.encoded());
        wire::unwrap(&wrapper, &output).expect("an output to this input")
    }

    fn note(&mut self, entry: &Entry, reply: Vec<u8>, state: &quorate_attest::state_tree::StateCommitment) {
        let number = self.size();
        let mut receipt = ServiceReceipt {
            group: self.groups.replicas.id(),
            epoch: Epoch(0),
            service: self.service.id(),
            number,
            log_index: entry.log_index,
            operation: entry.operation,
            result: Sha256::digest(&reply).into(),
            log_root: [0; 32],
            log_size: number + 1,
            state: *state,
        };
        self.leaves.push(Sha256Tree::leaf(&receipt.leaf().encoded()));
        receipt.log_root = root::<Sha256Tree>(&self.leaves);
        self.receipts.push(receipt);
        self.replies.push(reply);
    }
}

/// All files of evidence that a client keeps in its folder, as far as they are of this type.
pub fn evidence<T: Bounded>(memory: &std::path::Path) -> Vec<T> {
    let files = std::fs::read_dir(memory.join("evidence")).expect("a folder of evidence");
    let paths = files.map(|file| file.expect("a file").path()).collect::<Vec<PathBuf>>();
    paths.iter().filter_map(|path| T::decoded(&std::fs::read(path).expect("readable")).ok()).collect()
}
