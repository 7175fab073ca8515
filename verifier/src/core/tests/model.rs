//! A group, a VM whose execution is a hash chain, its host, and verifiers with a disk that remembers.

use std::sync::Arc;

use quorate_attest::encoding::to_bytes;
use quorate_attest::epoch::{EpochLink, EpochLinkTally, GroupChain};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::{
    CpuDigest, DeviceDigest, Epoch, Generation, GroupId, ImageDigest, InputRoot, Nonce, OperationId,
    OutputRoot, PageRoot, PlatformClass, Slot, StatementDigest, VmId,
};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::request::{Call, Request};
use quorate_attest::vm::{
    Action, Activation, ActivationCertificate, ActivationTally, Attestation, Decision, DecisionCertificate,
    InputPolicy, Mode, OutputPolicy, Proposal, Relinquish, SlotBody, SlotCertificate, SlotStatement, Tally,
    VmSpec,
};
use quorate_vmm::Position;
use quorate_vmm::page_tree::{PAGE_BYTES, Page, PageTree, ZERO_LEAF, hash_page};

use crate::core::*;
use crate::protocol::*;

pub const PLATFORM: PlatformClass = PlatformClass::from_bytes([7; 32]);
pub const MEMORY: u64 = 8 << 20;
pub const NOW: u64 = 1_700_000_000;

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub fn host_a() -> SecretKey {
    key(1)
}

pub fn host_b() -> SecretKey {
    key(2)
}

pub fn operator() -> SecretKey {
    key(3)
}

pub fn client() -> SecretKey {
    key(4)
}

pub fn vote_key(index: u16) -> SecretKey {
    key(100 + index as u8)
}

pub fn orchestrator_key(index: u16) -> SecretKey {
    key(200 + index as u8)
}

/// Four orchestrators of which one may be Byzantine.
pub fn orchestrators() -> GroupConfig {
    let member = |index: u16| Member {
        name: format!("orchestrator-{index}"),
        vote_key: orchestrator_key(index).public(),
        cosigner_key: key(210 + index as u8).public(),
        transport_key: key(220 + index as u8).public(),
    };
    let group = GroupConfig {
        name: "log".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(2),
        genesis: Some(GroupId::from_bytes([0x4f; 32])),
        f: 1,
        members: (0..4).map(member).collect(),
        operators: vec![operator().public()],
        hosts: Vec::new(),
    };
    group.validate().unwrap();
    group
}

pub fn group(n: u16, f: u64) -> GroupConfig {
    let member = |index: u16| Member {
        name: format!("verifier-{index}"),
        vote_key: vote_key(index).public(),
        cosigner_key: key(130 + index as u8).public(),
        transport_key: key(160 + index as u8).public(),
    };
    let host = |name: &str, key: SecretKey| Host { name: name.into(), key: key.public() };
    let group = GroupConfig {
        name: "test".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(5),
        genesis: Some(quorate_attest::id::GroupId::from_bytes([9; 32])),
        f,
        members: (0..n).map(member).collect(),
        operators: vec![operator().public()],
        hosts: vec![host("host-a", host_a()), host("host-b", host_b())],
    };
    group.validate().unwrap();
    group
}

pub fn spec() -> VmSpec {
    VmSpec {
        name: "vm".into(),
        image: ImageDigest::from_bytes([9; 32]),
        machine_version: 1,
        memory_bytes: MEMORY,
        input_policy: InputPolicy::Any,
        output_policy: OutputPolicy::Certified,
        host: host_a().public(),
        nonce: Nonce::from_bytes([1; 16]),
    }
}

/// The state of the modelled machine: everything follows from one digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    digest: [u8; 32],
    position: Position,
}

impl State {
    pub fn genesis() -> Self {
        Self { digest: [1; 32], position: Position::default() }
    }

    fn derive(&self, label: &str) -> [u8; 32] {
        *blake3::Hasher::new().update(label.as_bytes()).update(&self.digest).finalize().as_bytes()
    }

    pub fn page(&self, index: u32) -> Page {
        let mut page = [0; PAGE_BYTES];
        if index.is_multiple_of(100) {
            page[..32].copy_from_slice(&self.digest);
            page[32] = index as u8;
        }
        page
    }

    pub fn tree(&self) -> PageTree {
        let count = (MEMORY / PAGE_BYTES as u64) as u32;
        let leaf =
            |index: u32| if index.is_multiple_of(100) { hash_page(&self.page(index)) } else { ZERO_LEAF };
        PageTree::from_leaves(&(0..count).map(leaf).collect::<Vec<_>>())
    }

    pub fn measurement(&self) -> Measurement {
        let tree = self.tree();
        Measurement {
            position: self.position,
            page_root: PageRoot::from_bytes(tree.root()),
            page_count: tree.count().into(),
            cpu: CpuDigest::from_bytes(self.derive("cpu")),
            device: DeviceDigest::from_bytes(self.derive("device")),
        }
    }

    /// Executes a transition.
    pub fn run(&mut self, inputs: &[Vec<u8>]) -> Observed {
        let digest = blake3::hash(&[&self.digest[..], &to_bytes(inputs)].concat());
        self.digest = *digest.as_bytes();
        self.position.inputs += inputs.len() as u64;
        self.position.doorbells += 2 * inputs.len() as u64 + 1;
        Observed {
            measurement: self.measurement(),
            output_root: OutputRoot::from_bytes(self.derive("outputs")),
            output_count: inputs.len() as u64,
        }
    }
}

/// A host that runs the VM.
#[derive(Clone)]
pub struct HostRun {
    pub spec: VmSpec,
    pub group: GroupConfig,
    pub key: SecretKey,
    pub generation: Generation,
    pub state: State,
    pub log: Frontier<Sha256Tree>,
    pub chain: Vec<SlotStatement>,
}

impl HostRun {
    pub fn new(group: &GroupConfig, spec: VmSpec) -> Self {
        Self {
            spec,
            group: group.clone(),
            key: host_a(),
            generation: Generation::ZERO,
            state: State::genesis(),
            log: Frontier::new(),
            chain: Vec::new(),
        }
    }

    pub fn vm(&self) -> VmId {
        self.spec.id()
    }

    pub fn head(&self) -> &SlotStatement {
        self.chain.last().unwrap()
    }

    /// Ends slot 0 or executes the next transition and proposes what came out.
    pub fn next(&mut self, inputs: &[Vec<u8>]) -> Propose {
        let observed = match self.chain.is_empty() {
            true => Observed {
                measurement: self.state.measurement(),
                output_root: OutputRoot::from_bytes(Frontier::<Sha256Tree>::new().root()),
                output_count: 0,
            },
            false => self.state.run(inputs),
        };
        let first_input = self.log.size();
        inputs.iter().for_each(|input| self.log.push(input));
        let signed = inputs.iter().filter(|input| is_request(&self.spec, input)).count() as u64;
        let body = SlotBody {
            generation: self.generation,
            image: self.spec.image,
            machine_version: 1,
            platform: PLATFORM,
            page_root: observed.measurement.page_root,
            page_count: observed.measurement.page_count,
            cpu: observed.measurement.cpu,
            device: observed.measurement.device,
            input_root: InputRoot::from_bytes(self.log.root()),
            first_input,
            end_input: self.log.size(),
            ordered: 0,
            client_signed: signed,
            unauthenticated: inputs.len() as u64 - signed,
            output_root: observed.output_root,
            output_count: observed.output_count,
            doorbells: observed.measurement.position.doorbells,
            previous: self.chain.last().map_or(StatementDigest::ZERO, SlotStatement::digest),
            host: self.key.public(),
        };
        let slot = Slot(self.chain.len() as u64);
        let statement =
            SlotStatement { group: self.group.id(), epoch: self.group.epoch, vm: self.vm(), slot, body };
        self.chain.push(statement.clone());
        self.sign(statement, inputs)
    }

    pub fn sign(&self, statement: SlotStatement, inputs: &[Vec<u8>]) -> Propose {
        Propose { proposal: Proposal::sign(statement, &self.key), inputs: inputs.to_vec() }
    }

    /// A proposal changed after the fact and signed again.
    pub fn forged(&self, propose: &Propose, change: impl FnOnce(&mut SlotStatement)) -> Propose {
        let mut statement = propose.proposal.statement.clone();
        change(&mut statement);
        self.sign(statement, &propose.inputs)
    }

    pub fn certificate(&self, slot: usize) -> SlotCertificate {
        certify(&self.group, &self.chain[slot], 0..self.group.rule().unwrap().quorum() as u16)
    }

    pub fn offer(&self, from: usize, certificate: Option<SlotCertificate>) -> StateOffer {
        StateOffer {
            vm: self.vm(),
            certificate,
            chain: self.chain[from..].to_vec(),
            input_log: self.log.clone(),
            bulk_address: "127.0.0.1:1".into(),
            token: [1; 32],
        }
    }

    pub fn relinquish(&self, successor: &SecretKey) -> Relinquish {
        let head = self.head();
        Relinquish {
            vm: self.vm(),
            group: self.group.id(),
            epoch: self.group.epoch,
            generation: self.generation,
            slot: head.slot,
            statement: head.digest(),
            successor: successor.public(),
            signature: Signature::from_bytes([0; 64]),
        }
        .signed(&self.key)
    }

    /// What the orchestrators decide when the newest slot's successor is to be `host`.
    pub fn decision(&self, generation: u64, host: &SecretKey) -> Decision {
        let (head, orchestrators) = (self.head(), orchestrators());
        Decision {
            group: orchestrators.id(),
            epoch: orchestrators.epoch,
            vm: self.vm(),
            generation: Generation(generation),
            operation: OperationId::from_bytes([3; 32]),
            index: 40 + generation,
            action: Action::Grant { slot: head.slot, statement: head.digest(), host: host.public() },
        }
    }

    /// Asks for a vote with what the orchestrators granted.
    pub fn activate(&self, grant: DecisionCertificate, instance: u8) -> Activate {
        let nonce = Nonce::from_bytes([instance; 16]);
        let activation = Activation::of(&grant.decision, self.group.id(), self.group.epoch, nonce).unwrap();
        let certificate = self.certificate(self.chain.len() - 1);
        Activate { activation, grant, relinquish: None, certificate }
    }

    /// A generation that was granted without the active host's word.
    pub fn granted(&self, generation: u64, host: &SecretKey, instance: u8) -> Activate {
        self.activate(grant(self.decision(generation, host), 0..3), instance)
    }

    /// The next generation, granted after the active host's word.
    pub fn hand_over(&self, successor: &SecretKey, instance: u8) -> Activate {
        let relinquish = Some(self.relinquish(successor));
        Activate { relinquish, ..self.granted(self.generation.0 + 1, successor, instance) }
    }

    /// The host that goes on after an activation.
    pub fn taken_over(&self, key: SecretKey, generation: u64) -> Self {
        Self { key, generation: Generation(generation), ..self.clone() }
    }
}

/// A decision signed by these orchestrators.
pub fn grant(decision: Decision, signers: impl IntoIterator<Item = u16>) -> DecisionCertificate {
    let sign = |index: u16| (index, decision.sign(&orchestrator_key(index)));
    DecisionCertificate { signatures: signers.into_iter().map(sign).collect(), decision }
}

pub fn certify(
    group: &GroupConfig,
    statement: &SlotStatement,
    signers: impl IntoIterator<Item = u16>,
) -> SlotCertificate {
    let mut tally = Tally::new(group, statement.clone()).unwrap();
    for index in signers {
        tally.add(Attestation::sign(statement, index, Mode::Replayed, &vote_key(index))).unwrap();
    }
    tally.certificate().unwrap()
}

pub fn activation_certificate(group: &GroupConfig, activate: &Activate) -> ActivationCertificate {
    let Activate { activation, grant, .. } = activate;
    let mut tally = ActivationTally::new(group, activation.clone(), grant.clone()).unwrap();
    for index in 0..group.rule().unwrap().quorum() as u16 {
        tally.add(index, activation.sign(&vote_key(index))).unwrap();
    }
    tally.certificate().unwrap()
}

fn is_request(spec: &VmSpec, input: &[u8]) -> bool {
    use quorate_attest::request::{InputClass, classify};
    classify(spec, input) == InputClass::ClientSigned
}

pub fn request(spec: &VmSpec, sequence: u64) -> Vec<u8> {
    let call = Call { op: 1, sequence, nonce: Nonce::from_bytes([2; 16]), epoch: 0, body: vec![1, 2, 3] };
    to_bytes(&Request::sign(&client(), spec.id(), call))
}

pub fn inputs(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|at| vec![at as u8; at + 1]).collect()
}

/// A verifier: the rules, what they made durable, and a machine.
pub struct Verifier {
    pub core: VmCore,
    pub context: Arc<Context>,
    pub records: Vec<Record>,
    pub evidence: Vec<Evidence>,
    pub stopped: Option<Refusal>,
    pub machine: Option<State>,
    /// What a host serves when a state is pulled.
    pub served: Option<State>,
    pub pulls: usize,
    pub boots: usize,
    drawn: u32,
}

pub fn context(group: &GroupConfig, index: u16, mode: Mode) -> Arc<Context> {
    context_in(&GroupChain::from_checkpoint(group.clone()).unwrap(), index, mode, vote_key(index))
}

/// The next epoch of a group: `change` is signed by all members of both.
pub fn next_epoch(chain: &GroupChain, change: impl FnOnce(&mut GroupConfig)) -> GroupChain {
    let before = chain.current();
    let (epoch, genesis) = (before.epoch.next().unwrap(), Some(chain.id()));
    let mut config = GroupConfig { epoch, genesis, ..before.clone() };
    change(&mut config);
    let statement = EpochLink::statement(&config, before.digest());
    let mut tally = EpochLinkTally::new(before, config).unwrap();
    // Who is a member of neither is refused and counts for nothing.
    (0..20).for_each(|index| drop(tally.add(&vote_key(index).public(), statement.sign(&vote_key(index)))));
    let mut next = chain.clone();
    next.advance(tally.link().unwrap()).unwrap();
    next
}

pub fn context_in(chain: &GroupChain, index: u16, mode: Mode, vote_key: SecretKey) -> Arc<Context> {
    let group = chain;
    Arc::new(Context {
        group_id: group.id(),
        orchestrators: GroupChain::from_checkpoint(orchestrators()).unwrap(),
        signer: Signer::new(
            index,
            group.cosigner(index).unwrap().name().to_owned(),
            vote_key,
            key(130 + index as u8),
        ),
        group: group.clone(),
        mode,
        sample_pages: 5,
        platform: PLATFORM,
        memory_bytes_max: 16 << 30,
    })
}

impl Verifier {
    pub fn new(group: &GroupConfig, index: u16, mode: Mode, spec: &VmSpec) -> Self {
        let context = context(group, index, mode);
        let registered = Record::Registered { spec: spec.clone() };
        Self::restored(context, vec![registered])
    }

    pub fn replayed(run: &HostRun) -> Self {
        Self::new(&run.group, 0, Mode::Replayed, &run.spec)
    }

    pub fn sampled(run: &HostRun) -> Self {
        Self::new(&run.group, 0, Mode::Sampled, &run.spec)
    }

    pub fn restored(context: Arc<Context>, records: Vec<Record>) -> Self {
        let state = VmState::restore(&records).unwrap();
        let core = VmCore::new(Arc::clone(&context), state, State::genesis().measurement());
        Self {
            core,
            context,
            records,
            evidence: Vec::new(),
            stopped: None,
            machine: None,
            served: None,
            pulls: 0,
            boots: 0,
            drawn: 0,
        }
    }

    /// The process is killed and started again: what is left is what was durable.
    pub fn restart(self) -> Self {
        Self { served: self.served, ..Self::restored(self.context, self.records) }
    }

    /// The process is started again in another epoch of the group.
    pub fn restart_in(self, chain: &GroupChain) -> Self {
        let (index, mode) = (self.context.signer.index(), self.context.mode);
        let context = context_in(chain, index, mode, vote_key(index));
        Self { served: self.served, ..Self::restored(context, self.records) }
    }

    /// Feeds one message and performs all effects. Pages of a challenge come from `pages`.
    pub fn ask_with(
        &mut self,
        message: ToVerifier,
        pages: impl Fn(&[u32]) -> Option<Pages>,
    ) -> Vec<FromVerifier> {
        let mut answers = Vec::new();
        let mut effects =
            std::collections::VecDeque::from(self.core.step(NOW, Input::Message(Box::new(message))));
        while let Some(effect) = effects.pop_front() {
            let input = match effect {
                Effect::Persist(record) => {
                    self.records.push(*record);
                    None
                }
                Effect::Send(answer) => {
                    let input = match &*answer {
                        FromVerifier::Challenge(challenge) => {
                            Some(pages(&challenge.pages).map_or(Input::Abandoned, |pages| {
                                Input::Message(Box::new(ToVerifier::Pages(pages)))
                            }))
                        }
                        _ => None,
                    };
                    answers.push(*answer);
                    input
                }
                Effect::Boot => {
                    self.boots += 1;
                    self.machine = Some(State::genesis());
                    None
                }
                Effect::Replay { inputs, until } => Some(Input::Replayed(self.replay(&inputs, until))),
                Effect::Unload => {
                    self.machine = None;
                    None
                }
                Effect::Pull(pull) => Some(Input::StateLoaded(self.pull(&pull))),
                Effect::Draw { page_count, count } => {
                    self.drawn += 1;
                    let step = page_count as u32 / count as u32;
                    Some(Input::Drawn((0..count as u32).map(|at| at * step + self.drawn % step).collect()))
                }
                Effect::StoreEvidence(evidence) => {
                    self.evidence.push(*evidence);
                    None
                }
                Effect::Stop(refusal) => {
                    self.stopped = Some(refusal);
                    None
                }
            };
            if let Some(input) = input {
                effects.extend(self.core.step(NOW, input));
            }
        }
        assert_eq!(
            VmState::restore(&self.records).as_ref(),
            Some(self.core.state()),
            "what is durable is what is in memory"
        );
        answers
    }

    fn replay(&mut self, inputs: &[Vec<u8>], until: Position) -> Result<Observed, Refusal> {
        let machine = self.machine.as_mut().expect("a machine is loaded before it replays");
        let observed = machine.run(inputs);
        if machine.position != until {
            return Err(Refusal::Replay {
                kind: "ReplayDivergence",
                detail: format!("{:?}", machine.position),
            });
        }
        Ok(observed)
    }

    fn pull(&mut self, pull: &Pull) -> Result<(), Refusal> {
        self.pulls += 1;
        let served = self.served.clone();
        match served.filter(|state| state.measurement() == pull.expected) {
            Some(state) => {
                self.machine = Some(state);
                Ok(())
            }
            None => Err(Refusal::Transfer { kind: "ChunkHashMismatch", detail: "page 0".into() }),
        }
    }

    pub fn ask(&mut self, message: ToVerifier) -> FromVerifier {
        let mut answers = self.ask_with(message, |_| None);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    pub fn propose(&mut self, propose: &Propose) -> FromVerifier {
        self.ask(ToVerifier::Propose(propose.clone()))
    }

    /// Proposes and answers challenges honestly from `state`.
    pub fn propose_with_pages(&mut self, propose: &Propose, state: &State) -> FromVerifier {
        self.ask_with(ToVerifier::Propose(propose.clone()), |asked| Some(prove(state, asked))).pop().unwrap()
    }
}

pub fn prove(state: &State, asked: &[u32]) -> Pages {
    let tree = state.tree();
    let page = |index: &u32| ProvenPage {
        index: *index,
        bytes: state.page(*index).to_vec(),
        proof: tree.proof(*index).unwrap(),
    };
    Pages { pages: asked.iter().map(page).collect() }
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
