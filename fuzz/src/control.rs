//! The control plane, fed with entries of the ordered log: whatever they are, there is an outcome.

use std::sync::LazyLock;

use quorate_attest::encoding::{Bounded, from_bytes};
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::{GroupConfig, Host};
use quorate_attest::id::{
    Epoch, Generation, ImageDigest, Nonce, OperationId, ServiceId, Slot, StatementDigest, VmId,
};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::service::ServiceSpec;
use quorate_attest::vm::{InputPolicy, OutputPolicy, Refusal, Relinquish, VmSpec};
use quorate_control::{AbortEvidence, Command, Control, Outcome, Quota, Submission, encode_outcome};
use sha2::{Digest as _, Sha256};

use crate::cut::Cut;
use crate::must;
use crate::proofs::group;

/// Entries of one log at most.
const ENTRIES: usize = 48;

/// Two operators, two hosts and two others.
static KEYS: LazyLock<Vec<SecretKey>> =
    LazyLock::new(|| (200..206).map(|seed| SecretKey::from_seed([seed; 32])).collect());

static BEGUN: LazyLock<Control> = LazyLock::new(|| {
    let with_roles = |config: GroupConfig, operators: &[SecretKey], hosts: &[SecretKey]| GroupConfig {
        operators: operators.iter().map(SecretKey::public).collect(),
        hosts: (0..)
            .zip(hosts)
            .map(|(n, key)| Host { name: format!("host-{n}"), key: key.public() })
            .collect(),
        ..config
    };
    let orchestrators = with_roles(group("orchestrator", 20), &KEYS[..2], &KEYS[2..4]);
    let chains = [orchestrators, with_roles(group("verifier", 60), &[], &KEYS[2..4])].map(GroupChain::new);
    let [orchestrators, verifiers] = chains.map(must);
    Control::genesis(orchestrators, verifiers)
});

/// Applies what the bytes choose, entry after entry.
pub fn check(bytes: &[u8]) {
    live(bytes);
}

fn live(bytes: &[u8]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut cut = Cut::new(bytes);
    let mut control = BEGUN.clone();
    let mut log: Vec<Vec<u8>> = Vec::new();
    while !cut.is_empty() && log.len() < ENTRIES {
        let entry = match cut.byte() {
            255 => cut.take(4096).to_vec(),
            254 => log.get(cut.below(ENTRIES)).cloned().unwrap_or_default(),
            _ => operation(&mut cut, &control, &log),
        };
        let (index, before) = (log.len() as u64, control.commitment());
        let submission = Submission::read(&entry, &control.group());
        let admitted = control.admit(&submission, index);
        let mut twin = control.clone();
        let applied = control.apply(index, &entry);
        assert_eq!(twin.apply_submission(index, &submission), applied, "two replicas differ");
        assert!(twin == control, "two replicas differ");
        assert_eq!(applied.result_digest, <[u8; 32]>::from(Sha256::digest(encode_outcome(&applied.result))));
        assert_eq!(must(quorate_control::decode_outcome(&applied.outcome())), applied.result);
        if submission.operation().is_err() {
            assert_eq!(control.commitment(), before, "what nobody signed changed the state");
        }
        assert!(admitted.is_ok() || applied.result.is_err(), "an operation that was not admitted succeeds");
        log.push(entry);
        outcomes.push(applied.result);
    }
    let snapshot = control.encode();
    assert!(must(Control::decode(&snapshot)) == control, "a state read again differs");
    outcomes
}

fn operation(cut: &mut Cut<'_>, control: &Control, log: &[Vec<u8>]) -> Vec<u8> {
    let command = command(cut, control, log);
    let author = &KEYS[cut.below(KEYS.len())];
    command.to_operation(author, control.group(), Nonce::from_bytes([cut.byte() % 4; 16])).encoded()
}

fn command(cut: &mut Cut<'_>, control: &Control, log: &[Vec<u8>]) -> Command {
    let key = KEYS[cut.below(KEYS.len())].public();
    let vm = vm(cut, control);
    let (generation, slot) = (Generation(cut.number()), Slot(cut.number()));
    let service = ServiceId::from_bytes(service(cut.byte()).id().to_bytes());
    match cut.below(12) {
        0 | 1 => Command::CreateVm { spec: specification(cut) },
        2 => Command::DeleteVm { vm },
        3 => Command::Begin { vm, destination: key, generation },
        4 => Command::Handover { migration: migration(cut, log), relinquish: relinquish(cut, control, vm) },
        5 => {
            let evidence = match cut.below(3) {
                0 => AbortEvidence::NotStopped,
                1 => AbortEvidence::Relinquished(relinquish(cut, control, vm)),
                _ => AbortEvidence::Declined(refusal(cut, control, vm, generation, slot)),
            };
            Command::Abort { vm, migration: migration(cut, log), evidence }
        }
        6 => {
            let quota =
                Quota { vms: cut.byte().into(), memory_bytes: cut.number(), operations: cut.byte().into() };
            Command::RegisterClient { key, quota, revision: cut.number() }
        }
        7 => Command::RevokeClient { key },
        8 => Command::CreateService { spec: self::service(cut.byte()) },
        9 => Command::CallService { service, request: cut.take(64).to_vec() },
        10 => {
            let number = cut.number();
            Command::UpgradeService { service, image: ImageDigest::from_bytes([cut.byte(); 32]), number }
        }
        _ => from_bytes(cut.take(4096), Command::LIMIT).unwrap_or(Command::RevokeClient { key }),
    }
}

fn vm(cut: &mut Cut<'_>, control: &Control) -> VmId {
    let known = control.vms().map(|(vm, _)| *vm).nth(cut.below(4));
    known.unwrap_or_else(|| VmId::from_bytes([cut.byte(); 32]))
}

fn migration(cut: &mut Cut<'_>, log: &[Vec<u8>]) -> OperationId {
    let entry = log
        .get(cut.below(ENTRIES))
        .and_then(|entry| quorate_attest::operation::Operation::decoded(entry).ok());
    entry.map_or_else(|| OperationId::from_bytes([cut.byte(); 32]), |operation| operation.id())
}

fn specification(cut: &mut Cut<'_>) -> VmSpec {
    VmSpec {
        name: format!("vm-{}", cut.below(4)),
        image: ImageDigest::from_bytes([cut.byte() % 2; 32]),
        machine_version: u32::from(cut.byte() != 255),
        memory_bytes: if cut.byte() == 255 { cut.number() } else { 8 << 20 },
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: KEYS[2 + cut.below(3)].public(),
        nonce: Nonce::from_bytes([cut.byte() % 2; 16]),
    }
}

fn service(choice: u8) -> ServiceSpec {
    ServiceSpec {
        name: format!("service-{}", choice % 3),
        image: ImageDigest::from_bytes([7; 32]),
        memory_bytes: if choice >= 250 { 1 } else { 16 << 20 },
        replicas: BEGUN.group(),
        nonce: Nonce::from_bytes([choice / 3 % 2; 16]),
        config: Vec::new(),
    }
}

fn relinquish(cut: &mut Cut<'_>, control: &Control, vm: VmId) -> Relinquish {
    let unsigned = Relinquish {
        vm,
        group: if cut.byte() == 255 { control.group() } else { group_of_verifiers() },
        epoch: Epoch(u64::from(cut.byte() == 255)),
        generation: Generation(cut.number()),
        slot: Slot(cut.number()),
        statement: StatementDigest::from_bytes([cut.byte(); 32]),
        successor: KEYS[2 + cut.below(3)].public(),
        signature: Signature::NONE,
    };
    unsigned.signed(&KEYS[2 + cut.below(3)])
}

fn refusal(cut: &mut Cut<'_>, control: &Control, vm: VmId, generation: Generation, slot: Slot) -> Refusal {
    let host = &KEYS[2 + cut.below(3)];
    let unsigned = Refusal {
        group: if cut.byte() == 255 { control.group() } else { group_of_verifiers() },
        epoch: Epoch(0),
        vm,
        generation,
        slot,
        host: host.public(),
        reason: "busy".into(),
        signature: Signature::NONE,
    };
    unsigned.signed(host)
}

fn group_of_verifiers() -> quorate_attest::id::GroupId {
    static ID: LazyLock<quorate_attest::id::GroupId> = LazyLock::new(|| {
        let hosts =
            (0..).zip(&KEYS[2..4]).map(|(n, key)| Host { name: format!("host-{n}"), key: key.public() });
        GroupConfig { hosts: hosts.collect(), ..group("verifier", 60) }.id()
    });
    *ID
}

/// Logs with choices of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let mixed = |seed: u32| (0..500u32).map(move |at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 19) as u8);
    let mut seeds: Vec<Vec<u8>> = (0..24).map(|seed| mixed(seed * 1024).collect()).collect();
    // A client, its VM, a migration and its end, a service, a call, an upgrade: all of them are allowed.
    let entries: [&[u8]; 7] = [
        &[0, 4, 0, 0, 0, 0, 0, 6, 10, 241, 0, 0, 0, 0, 64, 0, 0, 0, 200, 0, 0, 0],
        &[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0],
        &[0, 3, 0, 1, 0, 0, 3, 4, 0],
        &[0, 0, 0, 1, 0, 0, 5, 0, 2, 4, 0],
        &[0, 0, 0, 0, 0, 0, 8, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 9, 1, 7, 4, 0],
        &[0, 0, 0, 0, 0, 0, 10, 5, 9, 0, 0],
    ];
    let allowed = live(&entries.concat());
    assert!(allowed.iter().all(Result::is_ok), "{allowed:?}");
    seeds.extend((1..=entries.len()).map(|length| entries[..length].concat()));
    seeds
}
