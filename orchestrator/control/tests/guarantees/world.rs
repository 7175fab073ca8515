//! Two groups, hosts, operators and clients with fixed keys, and a log that numbers what they submit.

use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::{EpochLink, EpochLinkTally, GroupChain};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::*;
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::service::ServiceSpec;
use quorate_attest::vm::*;
use quorate_control::*;

fn secret(purpose: u8, number: u16) -> SecretKey {
    let mut seed = [purpose; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

pub fn orchestrator_key(number: u16) -> SecretKey {
    secret(1, number)
}

pub fn verifier_key(number: u16) -> SecretKey {
    secret(2, number)
}

pub fn operator(number: u16) -> SecretKey {
    secret(3, number)
}

pub fn host(number: u16) -> SecretKey {
    secret(4, number)
}

pub fn client(number: u16) -> SecretKey {
    secret(5, number)
}

pub fn stranger() -> SecretKey {
    secret(6, 0)
}

fn group(name: &str, vote: fn(u16) -> SecretKey, purpose: u8) -> GroupConfig {
    let member = |number| Member {
        name: format!("{name}-{number}"),
        vote_key: vote(number).public(),
        cosigner_key: secret(purpose, number).public(),
        transport_key: secret(purpose + 1, number).public(),
    };
    GroupConfig {
        name: name.into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

pub fn orchestrators() -> GroupConfig {
    let operators = vec![operator(0).public(), operator(1).public()];
    GroupConfig { operators, ..group("order", orchestrator_key, 20) }
}

pub fn verifiers() -> GroupConfig {
    let host = |number: u16| Host { name: format!("host-{number}"), key: host(number).public() };
    GroupConfig { hosts: (0..4).map(host).collect(), ..group("verify", verifier_key, 30) }
}

pub fn spec(name: &str, on: u16) -> VmSpec {
    VmSpec {
        name: name.into(),
        image: ImageDigest::from_bytes([0x1a; 32]),
        machine_version: 1,
        memory_bytes: 32 << 20,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: host(on).public(),
        nonce: Nonce::ZERO,
    }
}

pub fn service_spec(name: &str) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        image: ImageDigest::from_bytes([0x1a; 32]),
        memory_bytes: 32 << 20,
        replicas: GroupId::from_bytes([0x5e; 32]),
        nonce: Nonce::ZERO,
        config: Vec::new(),
    }
}

/// The log: numbers entries and applies them.
#[derive(Clone)]
pub struct Log {
    pub control: Control,
    pub index: u64,
    pub nonce: u64,
}

impl Log {
    pub fn new() -> Self {
        let chain = |config| GroupChain::new(config).unwrap();
        Self { control: Control::genesis(chain(orchestrators()), chain(verifiers())), index: 0, nonce: 0 }
    }

    /// With one VM, `vm`, of operator 0 on host 0.
    pub fn with_vm() -> (Self, VmId) {
        let mut log = Self::new();
        let vm = log.create(&operator(0), "vm");
        (log, vm)
    }

    pub fn operation(&mut self, author: &SecretKey, command: &Command) -> Vec<u8> {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        command.to_operation(author, self.control.group(), Nonce::from_bytes(nonce)).encoded()
    }

    pub fn apply(&mut self, operation: &[u8]) -> Applied {
        let applied = self.control.apply(self.index, operation);
        self.index += 1;
        let outcome = applied.outcome();
        assert!(outcome.len() <= OUTCOME_LIMIT);
        assert_eq!(decode_outcome(&outcome), Ok(applied.result.clone()));
        assert_eq!(applied.result_digest, <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&outcome)));
        applied
    }

    pub fn submit(&mut self, author: &SecretKey, command: Command) -> Applied {
        let operation = self.operation(author, &command);
        self.apply(&operation)
    }

    /// Submits what must be answered with a decision.
    pub fn decided(&mut self, author: &SecretKey, command: Command) -> Decision {
        let applied = self.submit(author, command);
        match applied.result {
            Ok(Answer::Decided(decision)) => {
                assert_eq!(applied.decision.as_ref(), Some(&decision));
                decision
            }
            other => panic!("not decided: {other:?}"),
        }
    }

    /// Submits what must fail, and changes nothing then.
    pub fn refused(&mut self, author: &SecretKey, command: Command) -> Failure {
        let before = self.control.commitment();
        let failure = self.submit(author, command).result.expect_err("refused");
        assert_eq!(self.control.commitment(), before, "a refused operation changed the state");
        failure
    }

    pub fn create(&mut self, author: &SecretKey, name: &str) -> VmId {
        match self.submit(author, Command::CreateVm { spec: spec(name, 0) }).result {
            Ok(Answer::Created { vm }) => vm,
            other => panic!("not created: {other:?}"),
        }
    }

    /// Operator 0 creates a service.
    pub fn service(&mut self, name: &str) -> ServiceId {
        match self.submit(&operator(0), Command::CreateService { spec: service_spec(name) }).result {
            Ok(Answer::ServiceCreated { service }) => service,
            other => panic!("not created: {other:?}"),
        }
    }

    pub fn vm(&self, vm: &VmId) -> &Vm {
        self.control.vm(vm).unwrap()
    }

    /// Operator 0 begins a migration to a host; answers the operation that began it.
    pub fn begin(&mut self, vm: VmId, to: u16) -> OperationId {
        let generation = self.vm(&vm).next_generation;
        let destination = host(to).public();
        self.decided(&operator(0), Command::Begin { vm, destination, generation }).operation
    }

    fn verifiers(&self) -> &GroupConfig {
        self.control.groups(Which::Verifiers).current()
    }

    pub fn statement(&self, vm: VmId, slot: u64) -> SlotStatement {
        let record = self.vm(&vm);
        let on = (0..4).map(host).find(|key| key.public() == record.host).unwrap();
        let body = SlotBody {
            generation: record.generation,
            image: record.spec.image,
            machine_version: 1,
            platform: PlatformClass::ZERO,
            page_root: PageRoot::from_bytes([slot as u8; 32]),
            page_count: 8192,
            cpu: CpuDigest::ZERO,
            device: DeviceDigest::ZERO,
            input_root: InputRoot::ZERO,
            first_input: 10 * slot,
            end_input: 10 * slot + 10,
            ordered: 0,
            client_signed: 10,
            unauthenticated: 0,
            output_root: OutputRoot::ZERO,
            output_count: 0,
            doorbells: slot,
            previous: StatementDigest::ZERO,
            host: on.public(),
        };
        let config = self.verifiers();
        SlotStatement { group: config.id(), epoch: config.epoch, vm, slot: Slot(slot), body }
    }

    pub fn certificate(&self, vm: VmId, slot: u64) -> SlotCertificate {
        certify(self.statement(vm, slot), &[0, 1, 2])
    }

    /// The word of the host that runs the VM, for `to` and a slot.
    pub fn relinquish(&self, vm: VmId, slot: u64, to: u16) -> Relinquish {
        let statement = self.statement(vm, slot);
        let on = (0..4).map(host).find(|key| key.public() == self.vm(&vm).host).unwrap();
        Relinquish {
            vm,
            group: statement.group,
            epoch: statement.epoch,
            generation: statement.body.generation,
            slot: statement.slot,
            statement: statement.digest(),
            successor: host(to).public(),
            signature: Signature::NONE,
        }
        .signed(&on)
    }

    pub fn refusal(&self, vm: VmId, migration: &OperationId, by: u16) -> Refusal {
        let config = self.verifiers();
        Refusal {
            group: config.id(),
            epoch: config.epoch,
            vm,
            generation: self.control.migration(migration).unwrap().generation,
            slot: Slot(5),
            host: host(by).public(),
            reason: "RootMismatch".into(),
            signature: Signature::NONE,
        }
        .signed(&host(by))
    }

    /// The verifiers' certificate for what a decision grants.
    pub fn activation(&self, grant: &Decision) -> ActivationCertificate {
        let config = self.verifiers();
        let activation = Activation::of(grant, config.id(), config.epoch, Nonce::ZERO).unwrap();
        let votes = [0u16, 1, 2].map(|index| (index, activation.sign(&verifier_key(index))));
        let signed = [0u16, 1, 2].map(|index| (index, grant.sign(&orchestrator_key(index))));
        let grant = DecisionCertificate { decision: grant.clone(), signatures: signed.to_vec() };
        ActivationCertificate { activation, grant, attestations: votes.to_vec() }
    }

    pub fn activate(&mut self, grant: &Decision) -> Applied {
        let certificate = self.activation(grant);
        self.submit(&operator(0), Command::Activate { certificate })
    }

    /// A whole migration, from Begin to Activate.
    pub fn migrate(&mut self, vm: VmId, slot: u64, to: u16) -> Decision {
        let migration = self.begin(vm, to);
        let relinquish = self.relinquish(vm, slot, to);
        let grant = self.decided(&host(to), Command::Handover { migration, relinquish });
        assert!(self.activate(&grant).result.is_ok());
        grant
    }

    /// Link to the next epoch of a group, in which `change` was made, with everybody's signature.
    pub fn link(&self, which: Which, change: impl FnOnce(&mut GroupConfig)) -> EpochLink {
        let old = self.control.groups(which).current();
        let mut next = old.clone();
        next.epoch = old.epoch.next().unwrap();
        next.genesis = Some(old.id());
        change(&mut next);
        let mut tally = EpochLinkTally::new(old, next.clone()).unwrap();
        let statement = EpochLink::statement(&next, old.digest());
        for number in 0..8 {
            let key = match which {
                Which::Orchestrators => orchestrator_key(number),
                Which::Verifiers => verifier_key(number),
            };
            let _ = tally.add(&key.public(), statement.sign(&key));
        }
        tally.link().unwrap()
    }
}

pub fn certify(statement: SlotStatement, signers: &[u16]) -> SlotCertificate {
    let sign = |index: &u16| Attestation::sign(&statement, *index, Mode::Replayed, &verifier_key(*index));
    SlotCertificate { attestations: signers.iter().map(sign).collect(), statement }
}

pub fn granted_to(decision: &Decision) -> PublicKey {
    match decision.action {
        Action::Grant { host, .. } => host,
        Action::Migrate { .. } => panic!("no grant: {decision:?}"),
    }
}

/// Code and kind of a failure, for comparing both at once.
pub fn code(failure: &Failure) -> (u16, &str) {
    (failure.code, failure.kind())
}
