//! A group, a VM and its statements, for the tests of the pure parts.

use std::sync::Arc;

use quorate_attest::epoch::{EpochLink, EpochLinkTally, GroupChain};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::{
    CpuDigest, DeviceDigest, Epoch, Generation, ImageDigest, InputRoot, Nonce, OutputRoot, PageRoot,
    PlatformClass, Slot, StatementDigest,
};
use quorate_attest::key::SecretKey;
use quorate_attest::vm::{
    Action, Attestation, Decision, DecisionCertificate, HeadAnswer, InputPolicy, MACHINE_VERSION, Mode,
    OutputPolicy, Proposal, SlotBody, SlotCertificate, SlotStatement, VmSpec,
};

/// The source host's key.
pub fn source() -> SecretKey {
    SecretKey::from_seed([200; 32])
}

/// The vote key of a verifier.
pub fn verifier(index: u16) -> SecretKey {
    SecretKey::from_seed([index as u8 + 1; 32])
}

fn other_key(index: u16, purpose: u8) -> SecretKey {
    SecretKey::from_seed([index as u8 + purpose; 32])
}

/// A group of `n` verifiers of which `f` may be Byzantine.
pub fn group(n: u16, f: u64) -> GroupConfig {
    let members = (0..n).map(|index| Member {
        name: format!("v{index}"),
        vote_key: verifier(index).public(),
        cosigner_key: other_key(index, 64).public(),
        transport_key: other_key(index, 128).public(),
    });
    GroupConfig {
        name: "test".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(1),
        genesis: Some(quorate_attest::id::GroupId::from_bytes([n as u8; 32])),
        f,
        members: members.collect(),
        operators: Vec::new(),
        hosts: vec![Host { name: "a".into(), key: source().public() }],
    }
}

/// The group without any epoch before.
pub fn chain(group: &GroupConfig) -> Arc<GroupChain> {
    Arc::new(GroupChain::from_checkpoint(group.clone()).unwrap())
}

/// One epoch more, which all verifiers of both sign.
pub fn next_epoch(chain: &GroupChain, change: impl FnOnce(&mut GroupConfig)) -> Arc<GroupChain> {
    let before = chain.current();
    let (epoch, genesis) = (Epoch(before.epoch.0 + 1), Some(chain.id()));
    let mut config = GroupConfig { epoch, genesis, ..before.clone() };
    change(&mut config);
    let statement = EpochLink::statement(&config, before.digest());
    let mut tally = EpochLinkTally::new(before, config).unwrap();
    // Who is a member of neither is refused and counts for nothing.
    (0..20).for_each(|index| drop(tally.add(&verifier(index).public(), statement.sign(&verifier(index)))));
    let mut chain = chain.clone();
    chain.advance(tally.link().unwrap()).unwrap();
    Arc::new(chain)
}

/// A VM of the source host.
pub fn spec() -> VmSpec {
    VmSpec {
        name: "kv".into(),
        image: ImageDigest::from_bytes([3; 32]),
        machine_version: MACHINE_VERSION,
        memory_bytes: 16 << 20,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: source().public(),
        nonce: Nonce::from_bytes([9; 16]),
    }
}

/// A statement about a slot; `variant` distinguishes two histories.
pub fn statement(group: &GroupConfig, slot: u64, variant: u8) -> SlotStatement {
    SlotStatement {
        group: group.id(),
        epoch: group.epoch,
        vm: spec().id(),
        slot: Slot(slot),
        body: SlotBody {
            generation: Generation(0),
            image: spec().image,
            machine_version: MACHINE_VERSION,
            platform: PlatformClass::from_bytes([1; 32]),
            page_root: PageRoot::from_bytes([variant; 32]),
            page_count: 4096,
            cpu: CpuDigest::from_bytes([2; 32]),
            device: DeviceDigest::from_bytes([3; 32]),
            input_root: InputRoot::from_bytes([4; 32]),
            first_input: slot,
            end_input: slot,
            ordered: 0,
            client_signed: 0,
            unauthenticated: 0,
            output_root: OutputRoot::from_bytes([5; 32]),
            output_count: 0,
            doorbells: slot,
            previous: StatementDigest::from_bytes([6; 32]),
            host: source().public(),
        },
    }
}

/// A verifier's attestation.
pub fn attestation(statement: &SlotStatement, index: u16) -> Attestation {
    Attestation::sign(statement, index, Mode::Replayed, &verifier(index))
}

/// A verifier's head answer that shows `statement`, proposed by `host`.
pub fn head(
    group: &GroupConfig,
    index: u16,
    nonce: Nonce,
    statement: &SlotStatement,
    host: &SecretKey,
) -> HeadAnswer {
    HeadAnswer {
        vm: spec().id(),
        nonce,
        verifier: index,
        proposal: Some(Proposal::sign(statement.clone(), host)),
        attestation: Some(attestation(statement, index)),
        generation: Generation(0),
        vote: None,
        vote_signature: None,
        signature: quorate_attest::key::Signature::NONE,
    }
    .signed(group.id(), group.epoch, &verifier(index))
}

/// A recovery at a slot of the VM, granted by one orchestrator.
pub fn recovery(group: &GroupConfig, slot: u64) -> crate::journal::Recovery {
    let statement = statement(group, slot, 0);
    let attestations = [0, 1, 2].map(|index| attestation(&statement, index)).to_vec();
    let decision = Decision {
        group: quorate_attest::id::GroupId::from_bytes([0x4f; 32]),
        epoch: Epoch(1),
        vm: statement.vm,
        generation: Generation(1),
        operation: quorate_attest::id::OperationId::from_bytes([1; 32]),
        index: 3,
        action: Action::Grant {
            slot: statement.slot,
            statement: statement.digest(),
            host: source().public(),
        },
    };
    let signatures = vec![(0, decision.sign(&verifier(9)))];
    crate::journal::Recovery {
        grant: DecisionCertificate { decision, signatures },
        certificate: SlotCertificate { statement, attestations },
        instance: Nonce::from_bytes([5; 16]),
    }
}
