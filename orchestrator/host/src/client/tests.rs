//! A client against answers that a Byzantine host could give.

use std::sync::Arc;

use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::{EpochLink, EpochLinkTally, GroupChain};
use quorate_attest::group::{GroupConfig, Host, Member};
use quorate_attest::id::{
    CpuDigest, DeviceDigest, Epoch, Generation, GroupId, ImageDigest, InputRoot, Nonce, OperationId,
    OutputRoot, PageRoot, PlatformClass, Slot, StatementDigest,
};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Sha256Tree, TreeHash, inclusion_proof, root};
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::vm::{
    Action, Activation, ActivationCertificate, ActivationTally, Attestation, Decision, DecisionCertificate,
    InputPolicy, MACHINE_VERSION, Mode, OutputPolicy, SlotBody, SlotCertificate, SlotStatement, Tally,
    VmSpec,
};

use super::check::AnswerCheck;
use super::head::Head;
use crate::protocol::Answer;
use crate::tests::fixture::chain;

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

struct World {
    group: Arc<GroupChain>,
    spec: VmSpec,
}

impl World {
    fn new(output_policy: OutputPolicy) -> Self {
        let member = |index: u8| Member {
            name: format!("verifier-{index}"),
            vote_key: key(10 + index).public(),
            cosigner_key: key(20 + index).public(),
            transport_key: key(30 + index).public(),
        };
        let host = |name: &str, number| Host { name: name.into(), key: key(number).public() };
        let group = GroupConfig {
            name: "test".into(),
            hash_algorithm: 1,
            epoch: Epoch(0),
            genesis: None,
            f: 1,
            members: (0..4).map(member).collect(),
            operators: vec![key(50).public()],
            hosts: vec![host("host-a", 40), host("host-b", 41)],
        };
        let spec = VmSpec {
            name: "kv".into(),
            image: ImageDigest::from_bytes([1; 32]),
            machine_version: MACHINE_VERSION,
            memory_bytes: 16 << 20,
            input_policy: InputPolicy::ClientSigned,
            output_policy,
            host: key(40).public(),
            nonce: Nonce::from_bytes([2; 16]),
        };
        Self { group: chain(&group), spec }
    }

    fn check(&self) -> AnswerCheck {
        AnswerCheck::new(Arc::clone(&self.group), &self.spec)
    }

    fn request(&self, sequence: u64) -> Request {
        let call = Call { op: 1, sequence, nonce: Nonce::from_bytes([9; 16]), epoch: 0, body: vec![1] };
        Request::sign(&key(60), self.spec.id(), call)
    }

    fn statement(&self, generation: u64, slot: u64, outputs: &[Vec<u8>]) -> SlotStatement {
        let leaves: Vec<_> = outputs.iter().map(|output| Sha256Tree::leaf(output)).collect();
        SlotStatement {
            group: self.group.id(),
            epoch: self.group.epoch,
            vm: self.spec.id(),
            slot: Slot(slot),
            body: SlotBody {
                generation: Generation(generation),
                image: self.spec.image,
                machine_version: MACHINE_VERSION,
                platform: PlatformClass::ZERO,
                page_root: PageRoot::ZERO,
                page_count: 4096,
                cpu: CpuDigest::ZERO,
                device: DeviceDigest::ZERO,
                input_root: InputRoot::ZERO,
                first_input: 0,
                end_input: 0,
                ordered: 0,
                client_signed: 0,
                unauthenticated: 0,
                output_root: OutputRoot::from_bytes(root::<Sha256Tree>(&leaves)),
                output_count: outputs.len() as u64,
                doorbells: 0,
                previous: StatementDigest::ZERO,
                host: self.spec.host,
            },
        }
    }

    fn certify(&self, statement: &SlotStatement) -> SlotCertificate {
        let mut tally = Tally::new(&self.group, statement.clone()).unwrap();
        for verifier in 0..3u16 {
            let key = key(10 + verifier as u8);
            tally.add(Attestation::sign(statement, verifier, Mode::Replayed, &key)).unwrap();
        }
        tally.certificate().unwrap()
    }

    /// The honest answer to `request` in a slot with two other outputs.
    fn answer(&self, generation: u64, slot: u64, request: &Request) -> Answer {
        let output = Reply::to(request, 0, b"value".to_vec()).encoded();
        let outputs = vec![b"first".to_vec(), output.clone(), b"third".to_vec()];
        let statement = self.statement(generation, slot, &outputs);
        let leaves: Vec<_> = outputs.iter().map(|output| Sha256Tree::leaf(output)).collect();
        Answer {
            generation: Generation(generation),
            slot: Slot(slot),
            index: 1,
            output,
            proof: inclusion_proof::<Sha256Tree>(&leaves, 1).unwrap(),
            certificate: Some(self.certify(&statement)),
        }
    }

    fn activation(&self, generation: u64, votes: u16) -> ActivationCertificate {
        let decision = Decision {
            group: GroupId::from_bytes([0x4f; 32]),
            epoch: Epoch(0),
            vm: self.spec.id(),
            generation: Generation(generation),
            operation: OperationId::from_bytes([1; 32]),
            index: 3,
            action: Action::Grant { slot: Slot(5), statement: StatementDigest::ZERO, host: key(41).public() },
        };
        let nonce = Nonce::from_bytes([3; 16]);
        let activation = Activation::of(&decision, self.group.id(), self.group.epoch, nonce).unwrap();
        // A client relies on the verifiers, who have checked the grant.
        let grant = DecisionCertificate { decision, signatures: Vec::new() };
        let mut tally = ActivationTally::new(&self.group, activation.clone(), grant.clone()).unwrap();
        for verifier in 0..votes {
            tally.add(verifier, activation.sign(&key(10 + verifier as u8))).unwrap();
        }
        tally.certificate().unwrap_or(ActivationCertificate { activation, grant, attestations: Vec::new() })
    }
}

fn refused(check: &mut AnswerCheck, request: &Request, answer: &Answer) -> &'static str {
    let before = check.head();
    let kind = check.check(request, None, answer).unwrap_err().kind();
    assert_eq!(check.head(), before, "a refused answer teaches nothing");
    kind
}

#[test]
fn certified_answer_is_believed_and_moves_the_head() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    let reply = check.check(&request, None, &world.answer(0, 3, &request)).unwrap();
    assert_eq!(reply.body, b"value");
    assert_eq!((check.head().generation, check.head().slot), (Generation(0), Some(Slot(3))));
}

#[test]
fn answer_of_an_older_generation_is_fenced_whatever_it_shows() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    check.check(&request, None, &world.answer(1, 3, &request)).unwrap();
    assert_eq!(refused(&mut check, &request, &world.answer(0, 4, &request)), "FencedGeneration");
    let bare = Answer { certificate: None, ..world.answer(0, 4, &request) };
    assert_eq!(refused(&mut check, &request, &bare), "FencedGeneration");
}

#[test]
fn activation_certificate_alone_fences_the_old_instance() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    check.activated(&world.activation(1, 3)).unwrap();
    assert_eq!(refused(&mut check, &request, &world.answer(0, 4, &request)), "FencedGeneration");
    check.check(&request, None, &world.answer(1, 6, &request)).unwrap();
}

#[test]
fn activation_without_a_quorum_raises_nothing() {
    let world = World::new(OutputPolicy::Certified);
    let mut check = world.check();
    assert_eq!(check.activated(&world.activation(1, 0)).unwrap_err().kind(), "QuorumNotReached");
    assert_eq!(check.head(), Head::default());
    let other = World { spec: VmSpec { nonce: Nonce::from_bytes([8; 16]), ..world.spec.clone() }, ..world };
    assert_eq!(check.activated(&other.activation(1, 3)).unwrap_err().kind(), "WrongVm");
}

#[test]
fn answer_without_a_certificate_proves_no_generation() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    for generation in [0, 1, 7] {
        let bare = Answer { certificate: None, ..world.answer(generation, 4, &request) };
        assert_eq!(refused(&mut check, &request, &bare), "NoActivationCertificate");
    }
}

#[test]
fn immediate_policy_still_demands_proof_of_a_raised_generation() {
    let world = World::new(OutputPolicy::Immediate);
    let (mut check, request) = (world.check(), world.request(1));
    let bare = |generation| Answer { certificate: None, ..world.answer(generation, 4, &request) };
    check.check(&request, None, &bare(0)).unwrap();
    assert_eq!(refused(&mut check, &request, &bare(1)), "NoActivationCertificate");
    check.activated(&world.activation(1, 3)).unwrap();
    check.check(&request, None, &bare(1)).unwrap();
}

#[test]
fn certificate_of_too_few_or_bad_signatures_is_refused() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    let good = world.answer(0, 3, &request);
    let with = |change: &dyn Fn(&mut SlotCertificate)| {
        let mut answer = good.clone();
        change(answer.certificate.as_mut().unwrap());
        answer
    };
    let few = with(&|certificate| {
        certificate.attestations.pop();
    });
    assert_eq!(refused(&mut check, &request, &few), "QuorumNotReached");
    let twice = with(&|certificate| certificate.attestations[1] = certificate.attestations[0]);
    assert_eq!(refused(&mut check, &request, &twice), "DuplicateSigner");
    let forged = with(&|certificate| {
        let statement = certificate.statement.clone();
        certificate.attestations[0] = Attestation::sign(&statement, 0, Mode::Replayed, &key(99));
    });
    assert_eq!(refused(&mut check, &request, &forged), "BadSignature");
    let passed_off = with(&|certificate| certificate.attestations[0].mode = Mode::Sampled);
    assert_eq!(refused(&mut check, &request, &passed_off), "BadSignature");
}

#[test]
fn certificate_of_another_vm_group_or_slot_is_refused() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    let spec = VmSpec { nonce: Nonce::from_bytes([8; 16]), ..world.spec.clone() };
    let other_vm = World { spec, group: Arc::clone(&world.group) };
    assert_eq!(refused(&mut check, &request, &other_vm.answer(0, 3, &request)), "WrongVm");
    let group = GroupConfig { name: "other".into(), ..world.group.current().clone() };
    let other_group = World { group: chain(&group), spec: world.spec.clone() };
    assert_eq!(refused(&mut check, &request, &other_group.answer(0, 3, &request)), "WrongCluster");
    let shifted = Answer { slot: Slot(4), ..world.answer(0, 3, &request) };
    assert_eq!(refused(&mut check, &request, &shifted), "WrongSlot");
    let raised = Answer { generation: Generation(1), ..world.answer(0, 3, &request) };
    assert_eq!(refused(&mut check, &request, &raised), "WrongSlot");
}

#[test]
fn answers_of_an_epoch_that_ended_or_is_not_known_are_refused_and_activations_of_the_past_are_followed() {
    let before = World::new(OutputPolicy::Certified);
    let link = |chain: &GroupChain| {
        let (epoch, genesis) = (Epoch(chain.epoch.0 + 1), Some(chain.id()));
        let mut config = GroupConfig { epoch, genesis, ..chain.current().clone() };
        config.operators.push(key(51).public());
        let statement = EpochLink::statement(&config, chain.digest());
        let mut tally = EpochLinkTally::new(chain, config).unwrap();
        for number in 10..13 {
            tally.add(&key(number).public(), statement.sign(&key(number))).unwrap();
        }
        let mut next = chain.clone();
        next.advance(tally.link().unwrap()).unwrap();
        Arc::new(next)
    };
    let after = World { group: link(&before.group), spec: before.spec.clone() };
    let request = before.request(1);
    let (old, new) = (before.answer(0, 3, &request), after.answer(0, 4, &request));
    let mut stale = before.check();
    assert_eq!(refused(&mut stale, &request, &new), "EpochUnlinked");
    let mut check = after.check();
    assert_eq!(refused(&mut check, &request, &old), "EpochRetired");
    check.check(&request, None, &new).unwrap();
    assert_eq!(refused(&mut check, &request, &before.answer(0, 9, &request)), "EpochRetired");
    let began = before.activation(1, 3);
    check.activated(&began).unwrap();
    assert_eq!(check.head().generation, Generation(1));
}

#[test]
fn output_outside_the_certified_outputs_is_refused() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    let good = world.answer(0, 3, &request);
    let mut sibling = good.clone();
    sibling.proof[0][0] ^= 1;
    let mut shorter = good.clone();
    shorter.proof.pop();
    let elsewhere = Answer { index: 0, ..good.clone() };
    let beyond = Answer { index: 3, ..good.clone() };
    let other = Answer { output: Reply::to(&request, 0, b"forged".to_vec()).encoded(), ..good };
    for answer in [sibling, shorter, elsewhere, beyond, other] {
        assert_eq!(refused(&mut check, &request, &answer), "ProofInvalid");
    }
}

#[test]
fn reply_to_another_request_or_nonce_is_refused() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(2));
    let earlier = world.answer(0, 3, &world.request(1));
    assert_eq!(refused(&mut check, &request, &earlier), "NonceReused");
    let stranger = Request { client: key(61).public(), ..request.clone() };
    assert_eq!(refused(&mut check, &request, &world.answer(0, 3, &stranger)), "NonceReused");
    let replayed = Request { nonce: Nonce::from_bytes([1; 16]), ..request.clone() };
    assert_eq!(refused(&mut check, &request, &world.answer(0, 3, &replayed)), "NonceReused");
}

#[test]
fn answer_older_than_what_was_known_at_the_question_is_stale() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    for (floor, accepted) in
        [(None, true), (Some(Slot(2)), true), (Some(Slot(3)), false), (Some(Slot(9)), false)]
    {
        let result = check.check(&request, floor, &world.answer(0, 3, &request));
        assert_eq!(result.is_ok(), accepted, "{floor:?}");
        if let Err(error) = result {
            assert_eq!(error.kind(), "StaleSlot");
        }
    }
}

#[test]
fn second_certificate_for_a_slot_is_kept_as_evidence() {
    let world = World::new(OutputPolicy::Certified);
    let (mut check, request) = (world.check(), world.request(1));
    check.check(&request, None, &world.answer(0, 3, &request)).unwrap();
    let mut fork = world.answer(0, 3, &request);
    let mut statement = fork.certificate.as_ref().unwrap().statement.clone();
    statement.body.doorbells = 77;
    fork.certificate = Some(world.certify(&statement));
    assert_eq!(check.check(&request, None, &fork).unwrap_err().kind(), "ConflictingCertificates");
    let evidence = check.conflict().unwrap();
    let expected = world.group.expected(world.spec.id(), quorate_attest::statement::Kind::SLOT_REPLAYED);
    assert_eq!(evidence.verify(&world.group, &expected).unwrap(), [0, 1, 2]);
}

#[test]
fn stored_head_fences_after_a_restart() {
    let world = World::new(OutputPolicy::Certified);
    let request = world.request(1);
    let mut first = world.check();
    first.check(&request, None, &world.answer(1, 3, &request)).unwrap();
    let mut restarted = world.check();
    restarted.resume(first.head());
    restarted.resume(Head::default());
    assert_eq!(restarted.head(), first.head(), "an older head is not taken");
    assert_eq!(refused(&mut restarted, &request, &world.answer(0, 9, &request)), "FencedGeneration");
}
