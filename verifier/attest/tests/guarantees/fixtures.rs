//! Fixed keys, groups and statements. Everything is derived from small numbers, so a failure needs no seed.

use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::*;
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::operation::Operation;
use quorate_attest::receipt::Receipt;
use quorate_attest::statement::{Expected, Kind};
use quorate_attest::vm::*;

/// Separate key spaces, as roles must not share keys.
#[derive(Clone, Copy)]
pub enum Use {
    Vote,
    Cosigner,
    Transport,
    Operator,
    Host,
    Client,
    Root,
}

pub fn secret(role: Use, number: u16) -> SecretKey {
    let mut seed = [role as u8 + 1; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

pub fn vote_key(verifier: u16) -> SecretKey {
    secret(Use::Vote, verifier)
}

pub fn host_key(number: u16) -> SecretKey {
    secret(Use::Host, number)
}

pub fn group(n: u16, f: u64) -> GroupConfig {
    let member = |number| Member {
        name: format!("verifier-{number}"),
        vote_key: vote_key(number).public(),
        cosigner_key: secret(Use::Cosigner, number).public(),
        transport_key: secret(Use::Transport, number).public(),
    };
    let host = |number| Host { name: format!("host-{number}"), key: host_key(number).public() };
    GroupConfig {
        name: "test".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(3),
        genesis: Some(GroupId::from_bytes([n as u8; 32])),
        f,
        members: (0..n).map(member).collect(),
        operators: vec![secret(Use::Operator, 0).public(), secret(Use::Operator, 1).public()],
        hosts: (0..3).map(host).collect(),
    }
}

pub fn spec() -> VmSpec {
    VmSpec {
        name: "vm-1".into(),
        image: ImageDigest::from_bytes([0x1a; 32]),
        machine_version: 1,
        memory_bytes: 32 << 20,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: host_key(0).public(),
        nonce: Nonce::from_bytes([0x2b; 16]),
    }
}

pub fn slot(group: &GroupConfig, number: u64) -> SlotStatement {
    let fill = |byte: u8| [byte ^ number as u8; 32];
    let body = SlotBody {
        generation: Generation(1),
        image: spec().image,
        machine_version: 1,
        platform: PlatformClass::from_bytes(fill(1)),
        page_root: PageRoot::from_bytes(fill(2)),
        page_count: 8192,
        cpu: CpuDigest::from_bytes(fill(3)),
        device: DeviceDigest::from_bytes(fill(4)),
        input_root: InputRoot::from_bytes(fill(5)),
        first_input: 10 * number,
        end_input: 10 * number + 10,
        ordered: 0,
        client_signed: 9,
        unauthenticated: 1,
        output_root: OutputRoot::from_bytes(fill(6)),
        output_count: 4,
        doorbells: 100 * number,
        previous: StatementDigest::from_bytes(fill(7)),
        host: host_key(0).public(),
    };
    SlotStatement { group: group.id(), epoch: group.epoch, vm: spec().id(), slot: Slot(number), body }
}

pub fn expect(group: &GroupConfig, kind: Kind) -> Expected {
    group.expected(spec().id(), kind)
}

pub fn attest(statement: &SlotStatement, verifier: u16, mode: Mode) -> Attestation {
    Attestation::sign(statement, verifier, mode, &vote_key(verifier))
}

pub fn certificate(statement: &SlotStatement, verifiers: &[u16], mode: Mode) -> SlotCertificate {
    let attestations = verifiers.iter().map(|verifier| attest(statement, *verifier, mode)).collect();
    SlotCertificate { statement: statement.clone(), attestations }
}

pub fn relinquish(group: &GroupConfig) -> Relinquish {
    let last = slot(group, 5);
    Relinquish {
        vm: last.vm,
        group: last.group,
        epoch: last.epoch,
        generation: Generation(1),
        slot: last.slot,
        statement: last.digest(),
        successor: host_key(1).public(),
        signature: Signature::NONE,
    }
    .signed(&host_key(0))
}

/// The orchestrators: a group with keys of its own.
pub fn orchestrators(n: u16, f: u64) -> GroupConfig {
    let member = |number| Member {
        name: format!("orchestrator-{number}"),
        vote_key: orchestrator_key(number).public(),
        cosigner_key: secret(Use::Cosigner, ORCHESTRATORS + number).public(),
        transport_key: secret(Use::Transport, ORCHESTRATORS + number).public(),
    };
    GroupConfig {
        name: "orchestrators".into(),
        epoch: Epoch(7),
        genesis: Some(GroupId::from_bytes([0x4f; 32])),
        members: (0..n).map(member).collect(),
        f,
        ..group(4, 1)
    }
}

/// Numbers of orchestrators in the key spaces that verifiers use too.
const ORCHESTRATORS: u16 = 100;

pub fn orchestrator_key(number: u16) -> SecretKey {
    vote_key(ORCHESTRATORS + number)
}

/// The orchestrators' grant that follows [`relinquish`].
pub fn granted(group: &GroupConfig) -> Decision {
    decision(&orchestrators(4, 1), grant(group))
}

pub fn grant_certificate(decision: Decision, signers: &[u16]) -> DecisionCertificate {
    let vote = |index: &u16| (*index, decision.sign(&orchestrator_key(*index)));
    DecisionCertificate { signatures: signers.iter().map(vote).collect(), decision }
}

pub fn activation(group: &GroupConfig, grant: &Decision) -> Activation {
    Activation::of(grant, group.id(), group.epoch, Nonce::from_bytes([0x3c; 16])).unwrap()
}

pub fn activation_certificate(
    group: &GroupConfig,
    grant: DecisionCertificate,
    verifiers: &[u16],
) -> ActivationCertificate {
    let activation = activation(group, &grant.decision);
    let vote = |verifier: &u16| (*verifier, activation.sign(&vote_key(*verifier)));
    ActivationCertificate { attestations: verifiers.iter().map(vote).collect(), grant, activation }
}

/// An activation as it happens when everybody is honest.
pub fn activated(group: &GroupConfig) -> ActivationCertificate {
    activation_certificate(group, grant_certificate(granted(group), &[0, 1, 2]), &[0, 1, 2])
}

pub fn question() -> Nonce {
    Nonce::from_bytes([0x4d; 16])
}

pub fn head(group: &GroupConfig, verifier: u16) -> HeadAnswer {
    let newest = slot(group, 5);
    let vote = activation(group, &granted(group));
    HeadAnswer {
        vm: spec().id(),
        nonce: question(),
        verifier,
        attestation: Some(attest(&newest, verifier, Mode::Replayed)),
        proposal: Some(Proposal::sign(newest, &host_key(0))),
        generation: vote.generation,
        vote_signature: Some(vote.sign(&vote_key(verifier))),
        vote: Some(vote),
        signature: Signature::NONE,
    }
    .signed(group.id(), group.epoch, &vote_key(verifier))
}

pub fn refusal(group: &GroupConfig) -> Refusal {
    Refusal {
        group: group.id(),
        epoch: group.epoch,
        vm: spec().id(),
        generation: Generation(2),
        slot: Slot(5),
        host: host_key(1).public(),
        reason: "RootMismatch: cpu".into(),
        signature: Signature::NONE,
    }
    .signed(&host_key(1))
}

pub fn operation(group: &GroupConfig) -> Operation {
    let nonce = Nonce::from_bytes([0x5e; 16]);
    Operation::new(&secret(Use::Operator, 0), group.id(), nonce, b"command".to_vec())
}

pub fn decision(group: &GroupConfig, action: Action) -> Decision {
    let (group, epoch, operation) = (group.id(), group.epoch, operation(group).id());
    Decision { group, epoch, vm: spec().id(), generation: Generation(2), operation, index: 17, action }
}

pub fn migrate() -> Action {
    Action::Migrate { source: host_key(0).public(), destination: host_key(1).public() }
}

pub fn grant(group: &GroupConfig) -> Action {
    let last = slot(group, 5);
    Action::Grant { slot: last.slot, statement: last.digest(), host: host_key(1).public() }
}

pub fn decision_certificate(decision: Decision, orchestrators: &[u16]) -> DecisionCertificate {
    let vote = |index: &u16| (*index, decision.sign(&vote_key(*index)));
    DecisionCertificate { signatures: orchestrators.iter().map(vote).collect(), decision }
}

pub fn receipt(group: &GroupConfig) -> Receipt {
    Receipt {
        group: group.id(),
        epoch: group.epoch,
        index: 17,
        operation: operation(group).id(),
        result: [0x6f; 32],
        log_root: [0x70; 32],
        log_size: 18,
        state_root: [0x81; 32],
        state_size: 5,
    }
}

/// All subsets of `0..n` with `size` members.
pub fn subsets(n: u16, size: u32) -> Vec<Vec<u16>> {
    let chosen = |mask: u32| (0..n).filter(|index| mask >> index & 1 == 1).collect();
    (0u32..1 << n).filter(|mask| mask.count_ones() == size).map(chosen).collect()
}

/// A change and the error kind it must lead to.
pub type Change<T> = (fn(&mut T), &'static str);

/// One changed copy of `value` for each change, numbered in the order given.
pub fn each_changed<T: Clone>(value: &T, changes: &[fn(&mut T)]) -> Vec<(usize, T)> {
    let changed = |(number, change): (usize, &fn(&mut T))| {
        let mut copy = value.clone();
        change(&mut copy);
        (number, copy)
    };
    changes.iter().enumerate().map(changed).collect()
}
