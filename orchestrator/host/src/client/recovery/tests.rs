//! The operator's procedure against verifiers that follow the real rules, and some that do not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{InputRoot, OutputRoot, StatementDigest};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{
    Action, Activation, Decision, DecisionCertificate, InputPolicy, Mode, OutputPolicy, VmSpec,
};
use quorate_verifier::core::{
    Context, Effect, Input, Observed, Record, Refusal, Signer, VmCore, VmState, measurement_of,
};
use quorate_verifier::protocol::{Activate, NeedState};

use super::*;
use crate::tests::fixture::{group, source, statement, verifier};

/// A VM whose host is about to die.
struct Run {
    group: GroupConfig,
    spec: VmSpec,
    slots: Vec<Propose>,
    log: Frontier<Sha256Tree>,
}

impl Run {
    fn new(n: u16, f: u64) -> Self {
        let spec = VmSpec { input_policy: InputPolicy::Any, ..crate::tests::fixture::spec() };
        assert_eq!(spec.output_policy, OutputPolicy::Certified);
        Self { group: group(n, f), spec, slots: Vec::new(), log: Frontier::new() }
    }

    /// Ends the next slot; from slot 1 on it has two inputs.
    fn next(&mut self) -> Propose {
        let slot = self.slots.len() as u64;
        let inputs: Vec<Vec<u8>> = (0..2u8).filter(|_| slot > 0).map(|at| vec![slot as u8, at]).collect();
        let mut statement = statement(&self.group, slot, slot as u8);
        statement.vm = self.spec.id();
        let body = &mut statement.body;
        body.first_input = self.log.size();
        inputs.iter().for_each(|input| self.log.push(input));
        body.end_input = self.log.size();
        body.unauthenticated = inputs.len() as u64;
        body.input_root = InputRoot::from_bytes(self.log.root());
        body.previous =
            self.slots.last().map_or(StatementDigest::ZERO, |propose| propose.proposal.statement.digest());
        body.doorbells = slot * 5;
        if slot == 0 {
            body.output_root = OutputRoot::from_bytes(Frontier::<Sha256Tree>::new().root());
        }
        let propose = Propose { proposal: Proposal::sign(statement, &source()), inputs };
        self.slots.push(propose.clone());
        propose
    }

    fn digest(&self, slot: usize) -> StatementDigest {
        self.slots[slot].proposal.statement.digest()
    }
}

/// What is wrong with a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Silent,
    /// Gives inputs that nobody sent.
    LiesAboutInputs,
    /// Says that it follows, and signs nothing.
    PretendsToFollow,
}

/// A verifier whose machine always ends where the host says.
#[derive(Clone)]
struct Verifier {
    index: u16,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    core: VmCore,
    context: Arc<Context>,
    records: Vec<Record>,
    states: BTreeMap<u64, SlotStatement>,
    fault: Fault,
    shown: usize,
}

impl Verifier {
    fn new(run: &Run, index: u16) -> Self {
        let orchestrators = GroupChain::from_checkpoint(group(1, 0)).unwrap();
        let context = Arc::new(Context {
            group: GroupChain::from_checkpoint(run.group.clone()).unwrap(),
            group_id: run.group.id(),
            orchestrators,
            signer: Signer::new(index, "v".into(), verifier(index), verifier(index)),
            mode: Mode::Replayed,
            sample_pages: 4,
            platform: quorate_attest::id::PlatformClass::from_bytes([1; 32]),
            memory_bytes_max: 1 << 30,
        });
        let records = vec![Record::Registered { spec: run.spec.clone() }];
        let genesis = measurement_of(&run.slots[0].proposal.statement);
        let core = VmCore::new(Arc::clone(&context), VmState::restore(&records).unwrap(), genesis);
        let inner = Inner { core, context, records, states: BTreeMap::new(), fault: Fault::None, shown: 0 };
        Self { index, inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    /// The process is killed and started again.
    fn restart(&self, run: &Run) {
        let mut inner = self.lock();
        let state = VmState::restore(&inner.records).unwrap();
        let genesis = measurement_of(&run.slots[0].proposal.statement);
        inner.core = VmCore::new(Arc::clone(&inner.context), state, genesis);
    }

    fn propose(&self, propose: &Propose) {
        let answer = self.lock().perform(propose.clone().into());
        assert!(matches!(answer, FromVerifier::Attested(_)), "{answer:?}");
    }

    fn head(&self) -> Option<Slot> {
        self.lock().core.state().signed.as_ref().map(|signed| signed.statement().slot)
    }
}

impl Inner {
    fn perform(&mut self, message: ToVerifier) -> FromVerifier {
        if let ToVerifier::Propose(propose) = &message {
            let statement = &propose.proposal.statement;
            self.states.insert(statement.body.doorbells, statement.clone());
        }
        let mut answer = None;
        let mut effects = VecDeque::from(self.core.step(1_700_000_000, Input::Message(Box::new(message))));
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Persist(record) => self.records.push(*record),
                Effect::Send(sent) => answer = Some(*sent),
                Effect::Replay { until, .. } => {
                    let body = &self.states[&until.doorbells].body;
                    let observed = Observed {
                        measurement: measurement_of(&self.states[&until.doorbells]),
                        output_root: body.output_root,
                        output_count: body.output_count,
                    };
                    let replayed = Input::Replayed(Ok::<_, Refusal>(observed));
                    effects.extend(self.core.step(1_700_000_000, replayed));
                }
                _ => {}
            }
        }
        answer.expect("every message is answered")
    }
}

impl Ask for Verifier {
    fn index(&self) -> u16 {
        self.index
    }

    async fn ask(&self, question: ToVerifier) -> Option<FromVerifier> {
        let mut inner = self.lock();
        if inner.fault == Fault::Silent {
            return None;
        }
        if matches!(question, ToVerifier::Propose(_)) {
            inner.shown += 1;
            if inner.fault == Fault::PretendsToFollow {
                return Some(NeedState { next: Slot(0) }.into());
            }
        }
        let mut answer = inner.perform(question);
        if let FromVerifier::Slot(slot) = &mut answer {
            match inner.fault {
                Fault::LiesAboutInputs => slot.inputs = Some(vec![b"never sent".to_vec(); 2]),
                Fault::PretendsToFollow => slot.follows = true,
                _ => {}
            }
        }
        Some(answer)
    }
}

/// Verifiers of a group that have each signed up to a slot.
fn scene(n: u16, f: u64, signed: &[u64]) -> (Run, Vec<Verifier>) {
    let mut run = Run::new(n, f);
    let newest = signed.iter().max().copied().unwrap_or(0);
    (0..=newest).for_each(|_| drop(run.next()));
    let verifiers: Vec<_> = (0..n).map(|index| Verifier::new(&run, index)).collect();
    for (verifier, last) in verifiers.iter().zip(signed) {
        run.slots[..=*last as usize].iter().for_each(|propose| verifier.propose(propose));
    }
    (run, verifiers)
}

async fn newest(run: &Run, verifiers: &[Verifier]) -> Result<Newest, RecoveryError> {
    newest_certified(verifiers, &run.group, run.spec.id()).await
}

fn check(run: &Run, newest: &Newest, slot: u64) {
    let certificate = &newest.certificate;
    assert_eq!(certificate.statement.slot, Slot(slot), "{newest:?}");
    assert_eq!(certificate.statement.digest(), run.digest(slot as usize));
    certificate.verify(&run.group, &run.group.expected(run.spec.id(), Kind::SLOT_REPLAYED)).unwrap();
}

#[tokio::test]
async fn a_certified_slot_is_found_without_anybody_signing_anything() {
    let (run, verifiers) = scene(4, 1, &[5, 5, 5, 4]);
    let found = newest(&run, &verifiers).await.unwrap();
    check(&run, &found, 5);
    assert_eq!((found.completed, found.left.len()), (0, 0));
    assert!(verifiers.iter().all(|verifier| verifier.lock().shown == 0));
}

#[tokio::test]
async fn a_slot_that_two_of_four_signed_when_the_host_died_ends_certified() {
    for signed in [[5, 5, 4, 4], [4, 5, 4, 5], [3, 5, 5, 1]] {
        let (run, verifiers) = scene(4, 1, &signed);
        let found = newest(&run, &verifiers).await.unwrap();
        check(&run, &found, 5);
        assert_eq!((found.completed, found.left.len()), (1, 0), "{signed:?}");
    }
}

#[tokio::test]
async fn whatever_each_verifier_had_signed_the_newest_slot_is_certified_with_f_of_them_silent() {
    for pattern in 0..81u64 {
        let signed: Vec<_> = (0..4).map(|at| pattern / 3u64.pow(at) % 3 + 1).collect();
        for silent in 0..4usize {
            let (run, verifiers) = scene(4, 1, &signed);
            verifiers[silent].fault(Fault::Silent);
            let want = (0..4).filter(|at| *at != silent).map(|at| signed[at]).max().unwrap();
            let found = newest(&run, &verifiers).await.unwrap();
            check(&run, &found, want);
            // What has a quorum must be there, whoever is silent.
            let mut sorted = signed.clone();
            sorted.sort_unstable();
            assert!(found.certificate.statement.slot >= Slot(sorted[1]), "{signed:?}, {silent} silent");
        }
    }
}

#[tokio::test]
async fn a_supplier_that_lies_about_inputs_is_passed_over() {
    let (run, verifiers) = scene(4, 1, &[5, 5, 3, 3]);
    verifiers[0].fault(Fault::LiesAboutInputs);
    let found = newest(&run, &verifiers).await.unwrap();
    check(&run, &found, 5);
}

#[tokio::test]
async fn without_the_inputs_the_older_slot_is_taken_and_that_is_said() {
    let (run, verifiers) = scene(4, 1, &[5, 4, 4, 4]);
    verifiers[0].restart(&run);
    let found = newest(&run, &verifiers).await.unwrap();
    check(&run, &found, 4);
    let [left] = &found.left[..] else { panic!("{:?}", found.left) };
    assert_eq!((left.slot, left.attestations, left.need), (Slot(5), 1, 3));
    assert_eq!(left.refused.len(), 3, "each was asked, nobody had the inputs");
}

#[tokio::test]
async fn a_slot_that_cannot_reach_a_quorum_is_shown_to_nobody() {
    // Two have lost their machines, so slot 6 cannot be certified; who signed it now could not vote for slot 5 any more.
    let (run, verifiers) = scene(4, 1, &[6, 5, 5, 5]);
    verifiers[1].restart(&run);
    verifiers[2].restart(&run);
    let found = newest(&run, &verifiers).await.unwrap();
    check(&run, &found, 5);
    assert_eq!(found.left.len(), 1);
    assert!(verifiers.iter().all(|verifier| verifier.lock().shown == 0));
    assert_eq!(verifiers[3].head(), Some(Slot(5)));
}

#[tokio::test]
async fn older_attestations_of_verifiers_that_went_on_are_counted() {
    // Nobody is able to follow; two have signed further slots and still know what they said about slot 4.
    let (run, verifiers) = scene(4, 1, &[6, 6, 4, 4]);
    verifiers[2].restart(&run);
    verifiers[3].restart(&run);
    let found = newest(&run, &verifiers).await.unwrap();
    check(&run, &found, 4);
}

#[tokio::test]
async fn a_verifier_that_pretends_to_follow_does_not_stop_the_others() {
    let (run, verifiers) = scene(4, 1, &[5, 5, 4, 4]);
    verifiers[2].fault(Fault::PretendsToFollow);
    let found = newest(&run, &verifiers).await.unwrap();
    check(&run, &found, 5);
}

#[tokio::test]
async fn fewer_heads_than_a_quorum_decide_nothing() {
    let (run, verifiers) = scene(4, 1, &[5, 5, 5, 5]);
    verifiers[0].fault(Fault::Silent);
    verifiers[3].fault(Fault::Silent);
    let error = newest(&run, &verifiers).await.unwrap_err();
    assert_eq!(error.kind(), "QuorumUnreachable");
}

#[tokio::test]
async fn an_older_slot_than_a_certified_one_can_be_named_but_never_voted_for() {
    // Slot 5 is certified and acknowledged. Two of its signers have lost the inputs, the third is cut off.
    let (run, verifiers) = scene(4, 1, &[5, 5, 5, 4]);
    verifiers[0].restart(&run);
    verifiers[1].restart(&run);
    verifiers[2].fault(Fault::Silent);
    let error = newest(&run, &verifiers).await.unwrap_err();
    assert_eq!(error.kind(), "QuorumNotReached");
    verifiers[2].fault(Fault::None);

    // Whoever orders slot 4 all the same gets no quorum of votes.
    let statement = &run.slots[4].proposal.statement;
    let orchestrators = group(1, 0);
    let decision = Decision {
        group: orchestrators.id(),
        epoch: orchestrators.epoch,
        vm: run.spec.id(),
        generation: Generation(1),
        operation: quorate_attest::id::OperationId::from_bytes([1; 32]),
        index: 1,
        action: Action::Grant { slot: Slot(4), statement: statement.digest(), host: source().public() },
    };
    let nonce = Nonce::from_bytes([1; 16]);
    let activation = Activation::of(&decision, run.group.id(), run.group.epoch, nonce).unwrap();
    let grant = DecisionCertificate { signatures: vec![(0, decision.sign(&verifier(0)))], decision };
    let mut tally = Tally::new(&run.group, statement.clone()).unwrap();
    for index in 0..3 {
        tally.add(crate::tests::fixture::attestation(statement, index)).unwrap();
    }
    let certificate = tally.certificate().unwrap();
    let question = Activate { activation, grant, relinquish: None, certificate };
    let mut votes = 0;
    for verifier in &verifiers {
        match verifier.ask(question.clone().into()).await.unwrap() {
            FromVerifier::Voted(_) => votes += 1,
            FromVerifier::Refused(refused) => assert_eq!(refused.kind, "StaleSlot"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(votes, 1);
}
