//! Operators, hosts and verifiers: what the log and the orchestrators see of them.

use std::collections::{BTreeMap, BTreeSet};

use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::*;
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;
use quorate_control::{AbortEvidence, Answer, Command, decode_outcome};
use quorate_ordering::gather::{Gather, Ordered};
use quorate_ordering::protocol::Applied;

use crate::Plant;
use crate::keys::{self, HOSTS, MEMBERS, OPERATORS};
use crate::rng::Rng;

/// VMs of a run.
const VMS: usize = 2;
/// Operations that may wait for an answer at a time.
const PENDING_MAX: usize = 12;

/// Why somebody submitted an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    Create,
    Begin {
        vm: usize,
        to: u16,
    },
    /// By a host that wants the generation.
    Claim,
    Activate,
}

/// An operation without a believed outcome.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its identity.
    pub id: OperationId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    purpose: Purpose,
}

/// A VM as its hosts know it.
#[derive(Clone, Debug)]
struct Guest {
    id: VmId,
    generation: Generation,
    host: u16,
    slot: u64,
    /// Lowest generation that nobody can have asked for.
    next: Generation,
}

/// How often each interesting thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Operations with a believed outcome.
    pub answered: u64,
    /// Of them, such that came second.
    pub conflicts: u64,
    /// Grants.
    pub grants: u64,
    /// Generations that a quorum of verifiers voted for.
    pub activations: u64,
    /// Votes that were refused.
    pub votes_refused: u64,
}

/// Everybody but the orchestrators.
pub struct Actors {
    rng: Rng,
    plant: Option<Plant>,
    orchestrators: GroupConfig,
    verifiers: GroupConfig,
    guests: Vec<Guest>,
    /// Operations without an answer.
    pub pending: Vec<Pending>,
    nonce: u64,
    votes: BTreeMap<(u16, VmId, Generation), StatementDigest>,
    granted: BTreeMap<(VmId, Generation), BTreeSet<Vec<u8>>>,
    activated: BTreeMap<(VmId, Generation), BTreeSet<StatementDigest>>,
    /// Believed outcomes, by operation.
    pub believed: BTreeMap<OperationId, (u64, Vec<u8>)>,
    /// Rules that were broken.
    pub violations: Vec<String>,
    /// What happened.
    pub seen: Seen,
}

impl Actors {
    /// Two VMs that nobody has registered yet.
    pub fn new(seed: u64, plant: Option<Plant>) -> Self {
        let mut actors = Self {
            rng: Rng::new(seed ^ 0xac70),
            plant,
            orchestrators: keys::orchestrators(),
            verifiers: keys::verifiers(),
            guests: Vec::new(),
            pending: Vec::new(),
            nonce: 0,
            votes: BTreeMap::new(),
            granted: BTreeMap::new(),
            activated: BTreeMap::new(),
            believed: BTreeMap::new(),
            violations: Vec::new(),
            seen: Seen::default(),
        };
        for number in 0..VMS {
            let spec = VmSpec {
                name: format!("vm-{number}"),
                image: ImageDigest::from_bytes([0x1a; 32]),
                machine_version: 1,
                memory_bytes: 32 << 20,
                input_policy: InputPolicy::ClientSigned,
                output_policy: OutputPolicy::Certified,
                host: keys::host(0).public(),
                nonce: Nonce::ZERO,
            };
            let id = spec.id();
            actors.guests.push(Guest {
                id,
                generation: Generation(0),
                host: 0,
                slot: 0,
                next: Generation(1),
            });
            actors.submit(&keys::operator(0), &Command::CreateVm { spec }, Purpose::Create);
        }
        actors
    }

    fn submit(&mut self, author: &SecretKey, command: &Command, purpose: Purpose) {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        let operation = command.to_operation(author, self.orchestrators.id(), Nonce::from_bytes(nonce));
        self.pending.push(Pending { id: operation.id(), bytes: operation.encoded(), purpose });
    }

    /// Somebody may do something.
    pub fn act(&mut self) {
        if self.pending.len() >= PENDING_MAX || !self.rng.percent(40) {
            return;
        }
        let vm = self.rng.below(VMS as u64) as usize;
        let to = self.rng.below(HOSTS.into()) as u16;
        let operator = keys::operator(self.rng.below(OPERATORS.into()) as u16);
        let guest = self.guests[vm].clone();
        match self.rng.below(10) {
            0 => {
                // The host counts as lost; its newest certified slot is where another goes on.
                let (host, generation) = (keys::host(to).public(), guest.next);
                let slot = self.certify(vm);
                let recover = Command::Recover { vm: guest.id, host, generation, slot };
                self.submit(&operator, &recover, Purpose::Claim);
            }
            1 => {
                let certificate = self.certify(vm);
                let author = keys::host(guest.host);
                self.submit(&author, &Command::Head { certificate }, Purpose::Create);
            }
            2 => self.rogue(vm, to),
            _ => {
                let destination = keys::host(to).public();
                let begin = Command::Begin { vm: guest.id, destination, generation: guest.next };
                self.submit(&operator, &begin, Purpose::Begin { vm, to });
            }
        }
    }

    fn statement(&self, guest: &Guest) -> SlotStatement {
        let body = SlotBody {
            generation: guest.generation,
            image: ImageDigest::from_bytes([0x1a; 32]),
            machine_version: 1,
            platform: PlatformClass::ZERO,
            page_root: PageRoot::from_bytes([guest.slot as u8; 32]),
            page_count: 8192,
            cpu: CpuDigest::ZERO,
            device: DeviceDigest::ZERO,
            input_root: InputRoot::ZERO,
            first_input: 10 * guest.slot,
            end_input: 10 * guest.slot + 10,
            ordered: 0,
            client_signed: 10,
            unauthenticated: 0,
            output_root: OutputRoot::ZERO,
            output_count: 0,
            doorbells: guest.slot,
            previous: StatementDigest::ZERO,
            host: keys::host(guest.host).public(),
        };
        let (group, epoch) = (self.verifiers.id(), self.verifiers.epoch);
        SlotStatement { group, epoch, vm: guest.id, slot: Slot(guest.slot), body }
    }

    /// The next slot of a VM, with a quorum's attestations.
    fn certify(&mut self, vm: usize) -> SlotCertificate {
        self.guests[vm].slot += 1;
        let statement = self.statement(&self.guests[vm]);
        let attest = |index| Attestation::sign(&statement, index, Mode::Replayed, &keys::verifier(index));
        SlotCertificate { attestations: (0..3).map(attest).collect(), statement }
    }

    fn relinquish(&self, guest: &Guest, successor: u16) -> Relinquish {
        let statement = self.statement(guest);
        Relinquish {
            vm: guest.id,
            group: statement.group,
            epoch: statement.epoch,
            generation: guest.generation,
            slot: statement.slot,
            statement: statement.digest(),
            successor: keys::host(successor).public(),
            signature: Signature::NONE,
        }
        .signed(&keys::host(guest.host))
    }

    /// A Byzantine host asks for the next generation with a grant that one orchestrator signed.
    fn rogue(&mut self, vm: usize, host: u16) {
        let guest = self.guests[vm].clone();
        let statement = self.statement(&guest);
        let action = Action::Grant {
            slot: statement.slot,
            statement: statement.digest(),
            host: keys::host(host).public(),
        };
        let decision = Decision {
            group: self.orchestrators.id(),
            epoch: self.orchestrators.epoch,
            vm: guest.id,
            generation: guest.next,
            operation: OperationId::from_bytes([0xbd; 32]),
            index: 0,
            action,
        };
        let signatures = vec![(0, decision.sign(&keys::orchestrator(0)))];
        self.elect(&DecisionCertificate { decision, signatures });
    }

    /// Hears what the orchestrators say about each pending operation; `answer` is one's answer, if it gets through.
    pub fn listen(&mut self, answer: &mut dyn FnMut(u16, &OperationId) -> Option<Applied>) {
        for pending in std::mem::take(&mut self.pending) {
            let mut order: Vec<u16> = (0..MEMBERS).collect();
            for place in (1..order.len()).rev() {
                order.swap(place, self.rng.below(place as u64 + 1) as usize);
            }
            let group = self.orchestrators.clone();
            let mut gather = Gather::new(&group, pending.id);
            let mut ordered = None;
            for member in order {
                let Some(applied) = answer(member, &pending.id) else { continue };
                if self.plant == Some(Plant::WrongQuorum) {
                    ordered = Some(first_answer(applied));
                    break;
                }
                // A bad answer is its sender's fault and counts nothing.
                if let Ok(Some(found)) = gather.add(member, &applied) {
                    ordered = Some(found);
                    break;
                }
            }
            match ordered {
                Some(ordered) => self.answered(&pending, ordered),
                None => self.pending.push(pending),
            }
        }
    }

    fn answered(&mut self, pending: &Pending, ordered: Ordered) {
        self.seen.answered += 1;
        let place = (ordered.receipt.receipt.index, ordered.outcome.clone());
        self.believed.insert(pending.id, place);
        let Ok(outcome) = decode_outcome(&ordered.outcome) else {
            self.violations.push("an outcome was believed that nobody can read".to_owned());
            return;
        };
        if outcome.as_ref().is_err_and(|failure| failure.kind() == "Conflict") {
            self.seen.conflicts += 1;
        }
        match (&pending.purpose, &outcome, ordered.decision) {
            (Purpose::Begin { vm, to }, Ok(Answer::Decided(decision)), Some(_)) => {
                self.begun(*vm, *to, decision.clone());
            }
            (Purpose::Claim, _, Some(grant)) => self.elect(&grant),
            _ => {}
        }
    }

    /// A migration may begin: the two hosts hand over, give up, or both at once because they lost each other.
    fn begun(&mut self, vm: usize, to: u16, decision: Decision) {
        let guest = self.guests[vm].clone();
        self.guests[vm].next = decision.generation.next().unwrap_or(decision.generation);
        if decision.action
            != (Action::Migrate {
                source: keys::host(guest.host).public(),
                destination: keys::host(to).public(),
            })
        {
            // It was begun on a view of the VM that is older than ours: nobody carries it out.
            return;
        }
        self.guests[vm].slot += 1;
        let guest = self.guests[vm].clone();
        let migration = decision.operation;
        let way = self.rng.below(4);
        if way != 0 {
            let relinquish = self.relinquish(&guest, to);
            let handover = Command::Handover { migration, relinquish };
            self.submit(&keys::host(to), &handover, Purpose::Claim);
        }
        if way < 2 {
            let evidence = AbortEvidence::Relinquished(self.relinquish(&guest, guest.host));
            let abort = Command::Abort { vm: guest.id, migration, evidence };
            self.submit(&keys::host(guest.host), &abort, Purpose::Claim);
        }
    }

    /// A host shows verifiers a grant and asks for their votes.
    fn elect(&mut self, grant: &DecisionCertificate) {
        let decision = grant.decision.clone();
        let Action::Grant { host, slot, .. } = decision.action else { return };
        let expected = self.orchestrators.expected(decision.vm, Kind::DECISION);
        let proven = grant.verify(&self.orchestrators, &expected).is_ok();
        let place = (decision.vm, decision.generation);
        if proven {
            self.seen.grants += 1;
            let all = self.granted.entry(place).or_default();
            all.insert(decision.action.encoded());
            if all.len() > 1 {
                self.violations.push(format!("two grants of generation {}", decision.generation));
            }
        }
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        let (group, epoch) = (self.verifiers.id(), self.verifiers.epoch);
        let Some(activation) = Activation::of(&decision, group, epoch, Nonce::from_bytes(nonce)) else {
            return;
        };
        let mut attestations = Vec::new();
        for verifier in 0..MEMBERS {
            let vote = *self.votes.entry((verifier, place.0, place.1)).or_insert_with(|| activation.digest());
            let same = vote == activation.digest();
            if self.plant == Some(Plant::DoubleVote) || (proven && same) {
                attestations.push((verifier, activation.sign(&keys::verifier(verifier))));
            } else {
                self.seen.votes_refused += 1;
                if !proven && same {
                    // Nothing was voted for after all.
                    self.votes.remove(&(verifier, place.0, place.1));
                }
            }
        }
        if (attestations.len() as u64) < 3 {
            return;
        }
        self.seen.activations += 1;
        let all = self.activated.entry(place).or_default();
        // The same grant with a new nonce is a second copy of the same instance: verifiers refuse that too.
        all.insert(activation.digest());
        if all.len() > 1 {
            self.violations.push(format!("two instances in generation {}", decision.generation));
        }
        let Some(guest) = self.guests.iter_mut().find(|guest| guest.id == decision.vm) else { return };
        let number = (0..HOSTS).find(|number| keys::host(*number).public() == host).unwrap_or(0);
        if decision.generation > guest.generation {
            (guest.generation, guest.host) = (decision.generation, number);
            guest.slot = guest.slot.max(slot.get());
            guest.next = guest.next.max(decision.generation.next().unwrap_or(decision.generation));
        }
        let certificate = ActivationCertificate { activation, grant: grant.clone(), attestations };
        self.submit(&keys::host(number), &Command::Activate { certificate }, Purpose::Activate);
    }

    /// What the registry says the next generation is; authors look before they ask.
    pub fn look(&mut self, next: &dyn Fn(&VmId) -> Option<Generation>) {
        for guest in &mut self.guests {
            if let Some(next) = next(&guest.id) {
                guest.next = next;
            }
        }
    }
}

/// The planted fault: whoever answers first is believed.
fn first_answer(applied: Applied) -> Ordered {
    let receipt = quorate_attest::receipt::ReceiptCertificate {
        receipt: applied.receipt,
        signatures: vec![(applied.orchestrator, applied.signature)],
    };
    let decision = applied.decision.map(|(decision, signature)| DecisionCertificate {
        decision,
        signatures: vec![(applied.orchestrator, signature)],
    });
    Ordered { receipt, outcome: applied.outcome, decision }
}
