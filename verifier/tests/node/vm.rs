//! A host with a real guest: runs it, proposes its slots, answers challenges and serves its state.

use std::time::Duration;

use quorate_attest::encoding::to_bytes;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Generation, ImageDigest, Nonce, OperationId, Slot, StatementDigest, VmId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::request::{Call, InputClass, Request, classify};
use quorate_attest::vm::{
    Action, Activation, Attestation, Decision, DecisionCertificate, InputPolicy, Mode, OutputPolicy,
    Proposal, Relinquish, SlotBody, SlotCertificate, SlotStatement, Tally, VmSpec,
};
use quorate_guest_images::KV;
use quorate_transport::bulk::{BulkListener, Purpose};
use quorate_transport::{Connection, Endpoint};
use quorate_verifier::protocol::*;
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::platform::PlatformClass;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::state_stream;
use quorate_vmm::{Execution, Image, Stop};

use super::cluster::{host_key, key, orchestrator_key, orchestrators, transport_key, vote_key};

pub const MEMORY: u64 = 32 << 20;

pub fn spec(image: &Image, policy: InputPolicy, nonce: u8) -> VmSpec {
    VmSpec {
        name: "kv".into(),
        image: image.digest(),
        machine_version: 1,
        memory_bytes: MEMORY,
        input_policy: policy,
        output_policy: OutputPolicy::Certified,
        host: host_key('a').public(),
        nonce: Nonce::from_bytes([nonce; 16]),
    }
}

/// A VM on its host.
pub struct Vm {
    pub spec: VmSpec,
    pub group: GroupConfig,
    pub key: SecretKey,
    pub generation: Generation,
    pub chain: Vec<SlotStatement>,
    pub proposals: Vec<Propose>,
    execution: Execution,
    pages: PageSnapshot,
    sequence: u64,
}

impl Vm {
    /// A key-value VM at slot 0.
    pub fn boot(group: &GroupConfig, nonce: u8) -> Self {
        let image = Image::admit(KV.elf).unwrap();
        let spec = spec(&image, InputPolicy::ClientSigned, nonce);
        let execution = Execution::genesis(&image, MEMORY).unwrap();
        let pages = PageSnapshot::genesis(&image, MEMORY).unwrap();
        let mut vm = Self {
            spec,
            group: group.clone(),
            key: host_key('a'),
            generation: Generation::ZERO,
            chain: Vec::new(),
            proposals: Vec::new(),
            execution,
            pages,
            sequence: 0,
        };
        vm.end_slot(&[]);
        vm
    }

    pub fn id(&self) -> VmId {
        self.spec.id()
    }

    pub fn register(&self) -> ToVerifier {
        ToVerifier::Register(Register { spec: self.spec.clone(), image: KV.elf.to_vec() })
    }

    pub fn newest(&self) -> &Propose {
        self.proposals.last().unwrap()
    }

    /// Inputs of a client; the first of a VM is its own specification.
    pub fn requests(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.requests_of(count, 7, 500)
    }

    /// Requests that store values of so many bytes under so many names.
    fn requests_of(&mut self, count: usize, names: u64, bytes: usize) -> Vec<Vec<u8>> {
        let mut inputs = Vec::new();
        if self.sequence == 0 {
            inputs.push(to_bytes(&self.spec));
        }
        for _ in 0..count {
            self.sequence += 1;
            let (name, value) =
                (format!("key-{}", self.sequence % names).into_bytes(), vec![self.sequence as u8; bytes]);
            let call = Call {
                op: 2,
                sequence: self.sequence,
                nonce: Nonce::from_bytes([1; 16]),
                epoch: 0,
                body: to_bytes(&(name, value)),
            };
            inputs.push(to_bytes(&Request::sign(&key(9), self.id(), call)));
        }
        inputs
    }

    /// As [`Vm::next`], with large values that all stay in memory.
    pub fn fill(&mut self, count: usize, bytes: usize) -> Propose {
        let inputs = self.requests_of(count, u64::MAX, bytes);
        self.run(&inputs);
        self.end_slot(&inputs)
    }

    /// Executes a transition with `count` requests and proposes the slot it ends in.
    pub fn next(&mut self, count: usize) -> Propose {
        let inputs = self.requests(count);
        self.run(&inputs);
        self.end_slot(&inputs)
    }

    fn run(&mut self, inputs: &[Vec<u8>]) {
        let mut inputs = inputs.iter();
        loop {
            match self.execution.run().unwrap() {
                Stop::Yielded => {}
                Stop::Idle => match inputs.next() {
                    Some(input) => self.execution.feed(input.clone()).unwrap(),
                    None => return,
                },
                other => panic!("{other:?}"),
            }
        }
    }

    fn end_slot(&mut self, inputs: &[Vec<u8>]) -> Propose {
        let cut = self.execution.cut().unwrap();
        self.pages.apply(self.execution.machine(), &cut.pages.changed);
        let signed =
            inputs.iter().filter(|i| classify(&self.spec, i) == InputClass::ClientSigned).count() as u64;
        let measured = cut.pages.measurement;
        let body = SlotBody {
            generation: self.generation,
            image: self.spec.image,
            machine_version: 1,
            platform: PlatformClass::detect().0,
            page_root: measured.page_root,
            page_count: measured.page_count,
            cpu: measured.cpu,
            device: measured.device,
            input_root: cut.input_root,
            first_input: cut.first_input,
            end_input: cut.end_input,
            ordered: 0,
            client_signed: signed,
            unauthenticated: inputs.len() as u64 - signed,
            output_root: cut.output_root,
            output_count: cut.outputs.len() as u64,
            doorbells: measured.position.doorbells,
            previous: self.chain.last().map_or(StatementDigest::ZERO, SlotStatement::digest),
            host: self.key.public(),
        };
        assert_eq!(self.spec.image, ImageDigest::from_bytes(KV.digest()));
        let slot = Slot(self.chain.len() as u64);
        let (group, epoch) = (self.group.id(), self.group.epoch);
        let statement = SlotStatement { group, epoch, vm: self.id(), slot, body };
        self.chain.push(statement.clone());
        let propose = Propose { proposal: Proposal::sign(statement, &self.key), inputs: inputs.to_vec() };
        self.proposals.push(propose.clone());
        propose
    }

    /// The newest slot, changed and signed again.
    pub fn forged(&self, change: impl FnOnce(&mut SlotStatement)) -> Propose {
        let mut propose = self.newest().clone();
        change(&mut propose.proposal.statement);
        Propose { proposal: Proposal::sign(propose.proposal.statement, &self.key), inputs: propose.inputs }
    }

    pub fn certificate(&self, slot: usize) -> SlotCertificate {
        let mut tally = Tally::new(&self.group, self.chain[slot].clone()).unwrap();
        for index in 1..4 {
            tally.add(Attestation::sign(&self.chain[slot], index, Mode::Replayed, &vote_key(index))).unwrap();
        }
        tally.certificate().unwrap()
    }

    pub fn hand_over(&self, successor: &SecretKey) -> Activate {
        let head = self.chain.last().unwrap();
        let (group, epoch) = (self.group.id(), self.group.epoch);
        let relinquish = Relinquish {
            vm: self.id(),
            group,
            epoch,
            generation: self.generation,
            slot: head.slot,
            statement: head.digest(),
            successor: successor.public(),
            signature: Signature::from_bytes([0; 64]),
        };
        let decision = Decision {
            group: orchestrators().id(),
            epoch: orchestrators().epoch,
            vm: self.id(),
            generation: Generation(self.generation.0 + 1),
            operation: OperationId::from_bytes([1; 32]),
            index: 0,
            action: Action::Grant { slot: head.slot, statement: head.digest(), host: successor.public() },
        };
        let activation = Activation::of(&decision, group, epoch, Nonce::from_bytes([7; 16])).unwrap();
        let signatures = vec![(0, decision.sign(&orchestrator_key()))];
        Activate {
            activation,
            grant: DecisionCertificate { decision, signatures },
            relinquish: Some(relinquish.signed(&self.key)),
            certificate: self.certificate(self.chain.len() - 1),
        }
    }

    fn prove(&self, challenge: &Challenge) -> Pages {
        let page = |index: &u32| ProvenPage {
            index: *index,
            bytes: self.pages.page(*index).unwrap().to_vec(),
            proof: self.pages.proof(*index).unwrap(),
        };
        Pages { pages: challenge.pages.iter().map(page).collect() }
    }

    /// Asks one question; answers challenges honestly.
    pub async fn ask(&self, connection: &Connection, message: ToVerifier) -> FromVerifier {
        let mut exchange = connection.open().await.unwrap();
        exchange.send(&message).await.unwrap();
        loop {
            match exchange.recv::<FromVerifier>().await.unwrap().expect("an answer") {
                FromVerifier::Challenge(challenge) => {
                    exchange.send(&ToVerifier::Pages(self.prove(&challenge))).await.unwrap();
                }
                answer => return answer,
            }
        }
    }

    pub async fn propose(&self, connection: &Connection) -> FromVerifier {
        self.ask(connection, ToVerifier::Propose(self.newest().clone())).await
    }

    /// Offers the newest slot, with the statements from `from` on, and serves its state when it is pulled.
    pub async fn offer(
        &mut self,
        endpoint: &Endpoint,
        connection: &Connection,
        index: u16,
        from: usize,
        certificate: Option<SlotCertificate>,
    ) -> FromVerifier {
        let listener = endpoint.bulk().listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let token = [index as u8 + 1; 32];
        let offer = StateOffer {
            vm: self.id(),
            certificate,
            chain: self.chain[from..].to_vec(),
            input_log: self.execution.input_log().clone(),
            bulk_address: listener.local_addr().unwrap().to_string(),
            token,
        };
        let serving = self.serve(listener, index, token);
        let answer = self.ask(connection, ToVerifier::StateOffer(offer)).await;
        if matches!(answer, FromVerifier::Done(_)) {
            serving.join().unwrap();
        }
        answer
    }

    fn serve(&mut self, listener: BulkListener, index: u16, token: [u8; 32]) -> std::thread::JoinHandle<()> {
        let statement = self.chain.last().unwrap();
        let measurement = quorate_vmm::Measurement {
            position: self.execution.position(),
            page_root: statement.body.page_root,
            page_count: statement.body.page_count,
            cpu: statement.body.cpu,
            device: statement.body.device,
        };
        let checkpoint = Checkpoint::take(&mut self.execution, &measurement, &self.pages).unwrap();
        std::thread::spawn(move || {
            let verifier = transport_key(index).public();
            let expected = listener.announce(&verifier, Purpose::new(token).unwrap()).unwrap();
            // Nobody comes to a verifier that refuses the offer, or needs no pages.
            if let Ok(mut stream) = expected.accept(Duration::from_secs(10)) {
                state_stream::send(&mut stream, &checkpoint, None).unwrap();
                stream.finish().unwrap();
            }
        })
    }
}

pub fn attested(answer: FromVerifier) -> Attested {
    match answer {
        FromVerifier::Attested(attested) => attested,
        other => panic!("not attested: {other:?}"),
    }
}

/// The error kind of a refusal, or the name of another answer.
pub fn kind(answer: &FromVerifier) -> String {
    match answer {
        FromVerifier::Refused(refused) => refused.kind.clone(),
        other => format!("({})", other.name()),
    }
}
