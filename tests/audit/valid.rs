//! Valid files, made from fresh keys: what both verifiers must accept, and how to make it again with one thing changed
//! before it was signed.

use base64ct::{Base64, Encoding};
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::cosignature::cosign;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::{Epoch, Generation, GroupId, OperationId, Slot, StatementDigest, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Frontier, Sha256Tree, TreeHash, inclusion_proof, root};
use quorate_attest::note::{KeyType, SignatureLine, VerifierKey};
use quorate_attest::policy::Policy;
use quorate_attest::receipt::{Receipt, log_origin as group_origin};
use quorate_attest::service::{ServiceSpec, service_origin};
use quorate_attest::statement::{Kind, Statement};
use quorate_attest::tlog_proof::HEADER;
use quorate_attest::vm::{Action, Decision, SlotBody, log_origin as vm_origin};
use quorate_verifier::config::group_file;

use crate::rng::Rng;
use crate::services::{self, Answered};

/// When honest cosigners signed; each a second later than the one before.
pub const COSIGNED: u64 = 1_700_000_000;

/// A group with all its secret keys.
pub struct World {
    pub group: GroupConfig,
    pub votes: Vec<SecretKey>,
    pub cosigners: Vec<SecretKey>,
    pub log_key: SecretKey,
    /// Services whose replicas are the members.
    pub services: Vec<ServiceSpec>,
}

impl World {
    fn new(rng: &mut Rng, f: u64, epoch: u64) -> Self {
        let members = 3 * f as usize + 1;
        let mut keys = |count: usize| -> Vec<SecretKey> {
            (0..count).map(|_| SecretKey::from_seed(rng.bytes())).collect()
        };
        let (votes, cosigners, transport, others) = (keys(members), keys(members), keys(members), keys(4));
        let member = |index: usize| Member {
            name: format!("member-{index}"),
            vote_key: votes[index].public(),
            cosigner_key: cosigners[index].public(),
            transport_key: transport[index].public(),
        };
        let group = GroupConfig {
            name: format!("group-{members}-{epoch}"),
            hash_algorithm: HASH_SHA256,
            epoch: Epoch(epoch),
            genesis: (epoch > 0).then(|| GroupId::from_bytes([epoch as u8; 32])),
            f,
            members: (0..members).map(member).collect(),
            operators: vec![others[0].public()],
            hosts: (1..3)
                .map(|index| Host { name: format!("host-{index}"), key: others[index].public() })
                .collect(),
        };
        let services = services::specs(rng, &group);
        Self { group, votes, cosigners, log_key: others[3].clone(), services }
    }

    pub fn quorum(&self) -> usize {
        self.group.rule().unwrap().quorum() as usize
    }

    pub fn file(&self) -> Vec<u8> {
        group_file::to_text(&self.group).into_bytes()
    }

    /// A policy that demands the group's quorum, and the signature of a log where `log` names one.
    pub fn policy(&self, log: Option<&str>) -> Vec<u8> {
        let log = log.map(|name| VerifierKey::new(name, KeyType::Ed25519, self.log_key.public()).unwrap());
        Policy::text_for_group(&self.group, log.as_ref()).unwrap().into_bytes()
    }

    /// The statement that verifiers sign about a slot.
    fn slot(&self, rng: &mut Rng, vm: VmId, slot: u64) -> Statement {
        let mut body = rng.bytes::<{ SlotBody::LENGTH }>().to_vec();
        let host = body.len() - 32;
        body[host..].copy_from_slice(self.group.hosts[0].key.as_bytes());
        let (group, epoch) = (self.group.id(), self.group.epoch);
        Statement { kind: Kind::SLOT_REPLAYED, group, epoch, instance: vm, seq: slot, body }
    }

    fn receipt(&self, rng: &mut Rng, index: u64) -> Statement {
        let receipt = Receipt {
            group: self.group.id(),
            epoch: self.group.epoch,
            index,
            operation: OperationId::from_bytes(rng.bytes()),
            result: rng.bytes(),
            log_root: rng.bytes(),
            log_size: index + 1,
            state_root: rng.bytes(),
            state_size: rng.next(),
        };
        receipt.to_statement()
    }

    /// Receipts of a log with so many entries: of the group, or of its first service.
    fn log(&self, rng: &mut Rng, size: u64, of_service: bool) -> Vec<Vec<u8>> {
        let mut frontier = Frontier::<Sha256Tree>::new();
        let mut entry = |index| {
            let receipt = match of_service {
                true => services::receipt(rng, self, index).to_statement(),
                false => self.receipt(rng, index),
            };
            let mut statement = receipt.encode();
            frontier.push(&leaf_data(&statement));
            // The root of the log stands before sizes and state, at the end.
            let end = statement.len() - 48;
            statement[end - 32..end].copy_from_slice(&frontier.root());
            statement
        };
        (0..size).map(&mut entry).collect()
    }

    fn decision(&self, rng: &mut Rng, vm: VmId) -> Statement {
        let (source, destination) = (self.group.hosts[0].key, self.group.hosts[1].key);
        let statement = StatementDigest::from_bytes(rng.bytes());
        let action = match rng.chance(50) {
            true => Action::Migrate { source, destination },
            false => Action::Grant { slot: Slot(rng.next()), statement, host: destination },
        };
        let decision = Decision {
            group: self.group.id(),
            epoch: self.group.epoch,
            vm,
            generation: Generation(1 + rng.next() % 9),
            operation: OperationId::from_bytes(rng.bytes()),
            index: rng.next(),
            action,
        };
        decision.to_statement()
    }
}

/// How a proof is made.
#[derive(Clone)]
pub struct Proof {
    pub origin: String,
    /// What each leaf is about; one that was changed need not be a statement any more.
    pub statements: Vec<Vec<u8>>,
    pub index: u64,
    pub signers: Vec<usize>,
    pub time: u64,
    pub extension: Option<String>,
    pub extra: Option<Vec<u8>>,
    /// Whether the log signs too, and somebody unknown.
    pub log: bool,
    pub stranger: bool,
}

/// How a certificate is made: the bytes that are signed, which need not be a statement any more.
#[derive(Clone)]
pub struct Certified {
    pub statement: Vec<u8>,
    pub signers: Vec<usize>,
}

/// What a case is made from.
#[derive(Clone)]
pub enum Recipe {
    Proof(Proof),
    Certified(Certified),
    Answer(Box<Answered>),
}

/// Files as both verifiers get them.
#[derive(Clone)]
pub struct Case {
    /// Which group it is of.
    pub world: usize,
    pub recipe: Recipe,
    /// Names of the mutations, in order.
    pub history: Vec<String>,
    pub file: Vec<u8>,
    pub group: Option<Vec<u8>>,
    pub policy: Option<Vec<u8>>,
    pub statement: Option<Vec<u8>>,
    pub vm: Option<VmId>,
    pub not_before: Option<u64>,
    /// The orchestrators' group file where it is named apart, the file of the services' replicas, and specifications.
    pub orchestrators: Option<Vec<u8>>,
    pub replicas: Option<Vec<u8>>,
    pub services: Vec<Vec<u8>>,
}

impl Case {
    fn new(world: usize, recipe: Recipe) -> Self {
        Self {
            world,
            recipe,
            history: Vec::new(),
            file: Vec::new(),
            group: None,
            policy: None,
            statement: None,
            vm: None,
            not_before: None,
            orchestrators: None,
            replicas: None,
            services: Vec::new(),
        }
    }

    /// Name of the file, whose extension says what it is.
    pub fn name(&self) -> &'static str {
        match self.recipe {
            Recipe::Proof(_) => "entry.tlog-proof",
            Recipe::Certified(_) => "certificate.bin",
            Recipe::Answer(_) => "alice.answer",
        }
    }

    pub fn is_proof(&self) -> bool {
        matches!(self.recipe, Recipe::Proof(_))
    }

    /// Makes and signs the files again after a change to the recipe.
    pub fn remake(&mut self, worlds: &[World]) {
        let world = &worlds[self.world];
        match &self.recipe {
            Recipe::Proof(proof) => {
                self.file = proof.text(world).into_bytes();
                self.statement = proof.statements.get(proof.index as usize).cloned();
            }
            Recipe::Certified(certified) => self.file = certified.bytes(world),
            Recipe::Answer(answered) => self.file = answered.bytes(world, orchestrators(worlds, self.world)),
        }
    }
}

impl Proof {
    fn text(&self, world: &World) -> String {
        let leaf = |statement: &Vec<u8>| Sha256Tree::leaf(&leaf_data(statement));
        let leaves: Vec<_> = self.statements.iter().map(leaf).collect();
        let head = Checkpoint::new(&self.origin, leaves.len() as u64, root::<Sha256Tree>(&leaves)).unwrap();
        let mut head_text = head.to_text();
        if let Some(extension) = &self.extension {
            head_text += &format!("{extension}\n");
        }
        let head = Checkpoint::parse(&head_text).unwrap();
        let mut lines = Vec::new();
        if self.log {
            lines.push(SignatureLine::sign(&self.origin, &world.log_key, &head_text).unwrap());
        }
        for index in &self.signers {
            let name = world.group.cosigner(*index as u16).unwrap().name().to_owned();
            let time = self.time + *index as u64;
            lines.push(cosign(&name, &world.cosigners[*index], time, &head).unwrap());
        }
        if self.stranger {
            lines.push(SignatureLine::sign("stranger", &SecretKey::from_seed([9; 32]), &head_text).unwrap());
        }
        let mut text = format!("{HEADER}\n");
        if let Some(extra) = &self.extra {
            text += &format!("extra {}\n", Base64::encode_string(extra));
        }
        text += &format!("index {}\n", self.index);
        for hash in inclusion_proof::<Sha256Tree>(&leaves, self.index).unwrap_or_default() {
            text += &format!("{}\n", Base64::encode_string(&hash));
        }
        text += &format!("\n{head_text}\n");
        lines.iter().for_each(|line| text += &format!("{line}\n"));
        text
    }
}

/// A slot is its own leaf; of a receipt the leaf leaves out the root of the log, and where else it was ordered.
fn leaf_data(statement: &[u8]) -> Vec<u8> {
    let receipt = match statement.get(16..18) {
        Some(&[0x10, 0]) => statement.get(102..246),
        Some(&[0x11, 0]) => statement.get(110..254),
        _ => None,
    };
    receipt.map_or(statement.to_vec(), |receipt| [&receipt[..64], &receipt[104..]].concat())
}

impl Certified {
    fn bytes(&self, world: &World) -> Vec<u8> {
        let vote = |index: &usize| (*index as u16, world.votes[*index].sign(&self.statement));
        let votes: Vec<_> = self.signers.iter().map(vote).collect();
        [self.statement.clone(), to_bytes(&votes)].concat()
    }
}

/// The group that orders for the replicas of a world.
pub fn orchestrators(worlds: &[World], replicas: usize) -> &World {
    &worlds[(replicas + 1) % worlds.len()]
}

/// Groups of 4 and 7 members, in their first and in a later epoch.
pub fn worlds(rng: &mut Rng) -> Vec<World> {
    [(1, 0), (2, 0), (1, 3)].map(|(f, epoch)| World::new(rng, f, epoch)).into()
}

/// Proofs in logs of 1 to 20 leaves, and certificates of every kind.
pub fn cases(rng: &mut Rng, worlds: &[World]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, world) in worlds.iter().enumerate() {
        let vm = VmId::from_bytes(rng.bytes());
        let slots: Vec<Vec<u8>> = (0..20).map(|slot| world.slot(rng, vm, slot).encode()).collect();
        let (entries, of_service) = (world.log(rng, 20, false), world.log(rng, 20, true));
        let service = &world.services[0];
        for size in 1..=20usize {
            for (origin, statements) in [
                (vm_origin(&vm), &slots),
                (group_origin(&world.group.name), &entries),
                (service_origin(&world.group.name, &service.name), &of_service),
            ] {
                for index in [0, size - 1, rng.below(size)] {
                    let statements = statements[..size].to_vec();
                    cases.push(proof(rng, number, world, origin.clone(), statements, index as u64, vm));
                }
            }
            for (statement, vm) in [
                (world.slot(rng, vm, size as u64), Some(vm)),
                (world.decision(rng, vm), Some(vm)),
                (world.receipt(rng, size as u64), None),
                (services::receipt(rng, world, size as u64).to_statement(), Some(service.id().instance())),
            ] {
                cases.push(certificate(rng, number, world, &statement, vm));
            }
            let orchestrators = orchestrators(worlds, number);
            for answered in services::answers(rng, world, orchestrators, size as u64 - 1) {
                cases.push(answer(rng, number, world, orchestrators, answered));
            }
        }
    }
    cases.iter_mut().for_each(|case| case.remake(worlds));
    cases
}

fn proof(
    rng: &mut Rng,
    number: usize,
    world: &World,
    origin: String,
    statements: Vec<Vec<u8>>,
    index: u64,
    vm: VmId,
) -> Case {
    let signers = signers(rng, world);
    let log = rng.chance(30);
    let policy = world.policy(log.then_some(origin.as_str()));
    let is_vm = origin == vm_origin(&vm);
    let is_service = origin == service_origin(&world.group.name, &world.services[0].name);
    let names_vm = is_vm && rng.chance(30);
    let names_group = if is_vm || is_service { rng.chance(30) } else { true };
    // The group of the log may be named as the orchestrators; what else is named as group is of no account then.
    let as_orchestrators = !is_vm && !is_service && rng.chance(20);
    let recipe = Proof {
        origin,
        statements,
        index,
        signers,
        time: COSIGNED,
        extension: rng.chance(10).then(|| "an extension line".into()),
        extra: rng.chance(20).then(|| rng.bytes::<21>().to_vec()),
        log,
        stranger: rng.chance(20),
    };
    Case {
        group: (names_group && !as_orchestrators).then(|| world.file()),
        policy: Some(policy),
        vm: names_vm.then_some(vm),
        not_before: rng.chance(30).then_some(COSIGNED),
        orchestrators: as_orchestrators.then(|| world.file()),
        replicas: is_service.then(|| world.file()),
        services: if is_service { expected_services(rng, world) } else { Vec::new() },
        ..Case::new(number, Recipe::Proof(recipe))
    }
}

fn certificate(rng: &mut Rng, number: usize, world: &World, statement: &Statement, vm: Option<VmId>) -> Case {
    let recipe = Certified { statement: statement.encode(), signers: signers(rng, world) };
    Case { group: Some(world.file()), vm, ..Case::new(number, Recipe::Certified(recipe)) }
}

fn answer(rng: &mut Rng, number: usize, world: &World, orchestrators: &World, answered: Answered) -> Case {
    let orchestrators = orchestrators.file();
    // Whoever orders may be named as the group too.
    let (group, orchestrators) = match rng.chance(20) {
        true => (Some(orchestrators), None),
        false => (rng.chance(20).then(|| world.file()), Some(orchestrators)),
    };
    let (replicas, services) = (Some(world.file()), expected_services(rng, world));
    Case { group, orchestrators, replicas, services, ..Case::new(number, Recipe::Answer(Box::new(answered))) }
}

/// The first service of the group, perhaps among others.
fn expected_services(rng: &mut Rng, world: &World) -> Vec<Vec<u8>> {
    let mut services: Vec<Vec<u8>> = world.services.iter().map(Bounded::encoded).collect();
    match rng.below(4) {
        0 => services.reverse(),
        1 => {}
        _ => services.truncate(1),
    }
    services
}

/// A quorum or more.
pub fn signers(rng: &mut Rng, world: &World) -> Vec<usize> {
    let (quorum, members) = (world.quorum(), world.votes.len());
    let count = quorum + rng.below(members - quorum + 1);
    rng.subset(count, members)
}
