//! A replica with a guest that is the real service in process, a signer that keeps its promises and a file that may forget nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use quorate_attest::group::{HASH_SHA256, Member};
use quorate_attest::id::{Epoch, GroupId, ImageDigest, Nonce, OperationId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Request, status};
use quorate_attest::service::{Answer, Query, ServiceSpec, StateEntry};

use super::*;
use crate::services::testing::Machine;

const N: u16 = 4;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn vote_key(replica: u16) -> SecretKey {
    key(10 + replica as u8)
}

fn group() -> Arc<GroupConfig> {
    let member = |index: u8| Member {
        name: format!("replica-{index}"),
        vote_key: key(10 + index).public(),
        cosigner_key: key(20 + index).public(),
        transport_key: key(30 + index).public(),
    };
    Arc::new(GroupConfig {
        name: "services".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..N as u8).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    })
}

fn genesis() -> Genesis {
    let spec = ServiceSpec {
        name: "counter".into(),
        image: ImageDigest::from_bytes([1; 32]),
        memory_bytes: 32 << 20,
        replicas: group().id(),
        nonce: Nonce::ZERO,
        config: 0u64.to_le_bytes().to_vec(),
    };
    Genesis { spec, voters: vec![key(90).public()], f: 0 }
}

/// The `number`-th request: adds so much.
fn request(number: u64) -> Vec<u8> {
    let call =
        Call { op: 1, sequence: number, nonce: Nonce::ZERO, epoch: 0, body: number.to_le_bytes().to_vec() };
    Request::sign(&key(80), genesis().spec.id().instance(), call).encoded()
}

fn operation(number: u64) -> OperationId {
    OperationId::from_bytes(Sha256::digest(number.to_le_bytes()).into())
}

/// What a replica is made of around its core, with everything that survives a restart.
#[derive(Clone)]
struct World {
    replica: u16,
    machines: BTreeMap<usize, Machine>,
    file: Vec<Done>,
    signed: BTreeMap<u64, ServiceReceipt>,
    stopped: bool,
    evidence: Vec<Evidence>,
    /// Numbers given out.
    ordered: u64,
    /// First entries of the images after the first.
    upgrades: Vec<u64>,
    peers: Vec<ExecutedEntry>,
    /// What the host takes the guests back to; it does not answer without.
    slot: Option<BTreeMap<usize, Machine>>,
    /// Attempts to have it do so.
    rewinds: Vec<u32>,
    /// Effects until the process is killed.
    fuse: Option<usize>,
}

struct Killed;

fn export(machine: &Machine) -> (Vec<StateEntry>, StateCommitment) {
    let Output::Answered { state, answer, .. } = machine.query(&Query::Export { after: Vec::new() }) else {
        panic!("not exported");
    };
    match *answer {
        Answer::Entries { entries, more: false } => (entries, state),
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new(replica: u16) -> Self {
        Self {
            replica,
            machines: BTreeMap::new(),
            file: Vec::new(),
            signed: BTreeMap::new(),
            stopped: false,
            evidence: Vec::new(),
            ordered: 1,
            upgrades: Vec::new(),
            peers: Vec::new(),
            slot: None,
            rewinds: Vec::new(),
            fuse: None,
        }
    }

    fn ordering(replica: u16, ordered: u64) -> Self {
        Self { ordered, ..Self::new(replica) }
    }

    fn log(&self, size: u64) -> Peaks {
        let mut log = Peaks::default();
        for done in &self.file[..size as usize] {
            log.push(Sha256Tree::leaf(&done.receipt.leaf().encoded()));
        }
        log
    }

    fn core(&self) -> Core {
        let identity = Identity { group: group(), replica: self.replica, service: genesis().spec.id() };
        let rule = group().rule().unwrap();
        Core::new(identity, rule, genesis(), self.log(self.file.len() as u64), self.stopped)
    }

    fn version(&self, number: u64) -> usize {
        self.upgrades.iter().filter(|from| **from <= number).count()
    }

    fn fetch(&self, first: u64) -> Vec<Entry> {
        let version = self.version(first);
        let last = if first == 0 { 1 } else { self.ordered.min(first + 7) };
        let entry = |number: u64| Entry {
            number,
            log_index: 100 + number,
            operation: operation(number),
            request: if number == 0 { Vec::new() } else { request(number) },
            known: self.file.get(number as usize).map(|done| done.receipt),
            version,
            began: version.checked_sub(1).map_or(0, |before| self.upgrades[before]),
        };
        (first..last).map(entry).take_while(|entry| self.version(entry.number) == version).collect()
    }

    fn perform(&mut self, effect: Effect) -> Result<Option<Event>, Killed> {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.checked_sub(1).ok_or(Killed)?;
        }
        Ok(match effect {
            Effect::Fetch { first } => Some(Event::Fetched(self.fetch(first))),
            Effect::Feed { version, input } => {
                let machine =
                    self.machines.entry(version).or_insert_with(|| Machine::new(genesis().spec.memory_bytes));
                Some(Event::Output(machine.feed(&input)))
            }
            Effect::Upgrade { version, number } => {
                let (entries, state) = export(&self.machines[&(version - 1)]);
                let machine =
                    self.machines.entry(version).or_insert_with(|| Machine::new(genesis().spec.memory_bytes));
                let part = Input::Import { genesis: genesis(), number, entries, complete: Some(state) };
                assert!(matches!(machine.feed(&part), Output::Applied(_)));
                Some(Event::Imported)
            }
            Effect::Sign(receipts) => {
                let sign = |receipt: &ServiceReceipt| {
                    let first = *self.signed.entry(receipt.number).or_insert(*receipt);
                    (first == *receipt).then(|| receipt.sign(&vote_key(self.replica)))
                };
                Some(Event::Signed(receipts.iter().map(sign).collect()))
            }
            Effect::Persist(batch) => {
                for done in batch.entries {
                    assert_eq!(
                        done.receipt.number,
                        self.file.len() as u64,
                        "an entry is stored once, in its place"
                    );
                    self.file.push(done);
                }
                Some(Event::Persisted)
            }
            Effect::AskPeers { .. } => Some(Event::Peers(self.peers.clone())),
            Effect::Stop { number, evidence } => {
                self.stopped = true;
                self.evidence.push(*evidence);
                let log = self.log(number);
                self.file.truncate(number as usize);
                Some(Event::Truncated(log))
            }
            Effect::Rewind { attempt, .. } => {
                self.rewinds.push(attempt);
                Some(match &self.slot {
                    Some(slot) => {
                        self.machines = slot.clone();
                        Event::Rewound
                    }
                    None => Event::Gone,
                })
            }
            Effect::Forget { number } => {
                assert!(self.stopped);
                let log = self.log(number);
                self.file.truncate(number as usize);
                Some(Event::Truncated(log))
            }
            Effect::Resume => {
                self.stopped = false;
                None
            }
        })
    }

    fn cycle(&mut self, core: &mut Core, event: Event) -> Result<(), Killed> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in core.step(event) {
                events.extend(self.perform(effect)?);
            }
        }
        assert!(core.is_idle());
        Ok(())
    }

    /// Wakes the replica until it does not go on any more.
    fn settle(&mut self, core: &mut Core) -> Result<(), Killed> {
        for _ in 0..200 {
            self.cycle(core, Event::Wake)?;
        }
        Ok(())
    }

    /// A replica that has executed all that is ordered, undisturbed.
    fn settled(replica: u16, ordered: u64) -> (Self, Core) {
        let mut world = Self::ordering(replica, ordered);
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        (world, core)
    }

    fn ours(&self, number: u64) -> SignedReceipt {
        let done = &self.file[number as usize];
        SignedReceipt {
            replica: self.replica,
            receipt: done.receipt,
            signature: done.signature.unwrap_or(Signature::NONE),
        }
    }

    fn told(&self, number: u64) -> ExecutedEntry {
        let SignedReceipt { replica, receipt, signature } = self.ours(number);
        ExecutedEntry { replica, receipt, signature, reply: self.file[number as usize].reply.clone() }
    }
}

/// What every honest replica holds after so many entries.
fn honest(ordered: u64) -> Vec<Done> {
    World::settled(3, ordered).0.file
}

fn receipts(file: &[Done]) -> Vec<ServiceReceipt> {
    file.iter().map(|done| done.receipt).collect()
}

/// A lie about an entry, signed by a replica.
fn lie(truth: &ServiceReceipt, replica: u16) -> SignedReceipt {
    let receipt = ServiceReceipt { result: [0xbd; 32], ..*truth };
    SignedReceipt { replica, receipt, signature: receipt.sign(&vote_key(replica)) }
}

fn truth(receipt: &ServiceReceipt, replica: u16) -> SignedReceipt {
    SignedReceipt { replica, receipt: *receipt, signature: receipt.sign(&vote_key(replica)) }
}

/// What replicas 1 and 2 answer when they are asked about all entries.
fn told_by_two(file: &[Done]) -> Vec<ExecutedEntry> {
    let told = |done: &Done, replica| {
        let SignedReceipt { receipt, signature, .. } = truth(&done.receipt, replica);
        ExecutedEntry { replica, receipt, signature, reply: done.reply.clone() }
    };
    file.iter().flat_map(|done| [1, 2].map(|replica| told(done, replica))).collect()
}

#[test]
fn entries_are_executed_in_order_and_every_replica_says_the_same() {
    let (world, core) = World::settled(0, 30);
    assert_eq!((core.size(), world.file.len()), (30, 30));
    assert_eq!(receipts(&world.file), receipts(&honest(30)));
    for (number, done) in (0u64..).zip(&world.file) {
        assert_eq!((done.receipt.number, done.receipt.log_size), (number, number + 1));
        let digest: Digest = Sha256::digest(&done.reply).into();
        assert_eq!(done.receipt.result, digest);
        done.receipt.verify_vote(&group(), 0, &done.signature.unwrap()).unwrap();
    }
}

#[test]
fn a_kill_before_any_effect_loses_nothing_that_others_do_not_tell() {
    let want = honest(30);
    let others = World::settled(1, 30).0;
    let more = World::settled(2, 30).0;
    for fuse in 0..60 {
        let mut world = World::ordering(0, 30);
        world.peers = (0..30).flat_map(|number| [others.told(number), more.told(number)]).collect();
        world.fuse = Some(fuse);
        let mut core = world.core();
        let killed = world.settle(&mut core).is_err();
        world.fuse = None;
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(receipts(&world.file), receipts(&want), "killed before effect {fuse}: {killed}");
        assert!(world.file.iter().all(|done| done.signature.is_some()) && world.evidence.is_empty());
    }
}

#[test]
fn lost_results_are_not_taken_from_a_single_replica_nor_from_liars() {
    let others = World::settled(1, 20).0;
    let mut world = World::ordering(0, 20);
    // Two batches whole; of the third only Fetch and Feed.
    world.fuse = Some(4 + 4 + 2);
    let mut core = world.core();
    assert!(world.settle(&mut core).is_err(), "killed behind the guest's answer");
    world.fuse = None;
    let size = world.file.len();
    let mut forged = others.told(size as u64);
    forged.replica = 2;
    let mut other_reply = others.told(size as u64);
    other_reply.reply.push(1);
    for peers in [
        vec![others.told(size as u64)],
        vec![others.told(size as u64), others.told(size as u64)],
        vec![others.told(size as u64), forged],
        vec![other_reply],
    ] {
        world.peers = peers;
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(world.file.len(), size);
    }
}

#[test]
fn a_replica_that_lost_its_file_is_told_everything_by_others_also_where_replies_are_forgotten() {
    let want = honest(20);
    let (mut world, _) = World::settled(0, 20);
    world.file.clear();
    let told = |number: usize, replica: u16| {
        let SignedReceipt { receipt, signature, .. } = truth(&want[number].receipt, replica);
        let reply = if number < 8 { Vec::new() } else { want[number].reply.clone() };
        ExecutedEntry { replica, receipt, signature, reply }
    };
    world.peers = (0..20).flat_map(|number| [told(number, 1), told(number, 2)]).collect();
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&want));
    assert!(world.file[8..].iter().zip(&want[8..]).all(|(ours, theirs)| ours.reply == theirs.reply));
    assert!(world.file.iter().all(|done| done.signature.is_some()));
}

#[test]
fn a_guest_that_went_back_to_a_slot_is_led_to_the_same_state_and_nothing_is_signed_twice() {
    let (mut world, mut core) = World::settled(0, 20);
    let slot = World::settled(0, 9).0.machines;
    let signed = world.signed.clone();
    world.machines = slot;
    world.ordered = 25;
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(25)));
    assert_eq!(world.signed.len(), 25);
    assert!(signed.iter().all(|(number, receipt)| world.signed[number] == *receipt));
    world.machines.clear();
    world.ordered = 30;
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(30)), "even one that begins anew");
}

#[test]
fn f_liars_do_not_stop_an_honest_replica_and_f_plus_1_do() {
    let (mut world, mut core) = World::settled(0, 10);
    let ours = world.ours(9);
    let compare = |theirs: Vec<SignedReceipt>| Event::Compared { ours: Box::new(ours), theirs };
    let one = lie(&ours.receipt, 1);
    let forged = SignedReceipt { replica: 2, ..one };
    let own = lie(&ours.receipt, 0);
    let other_lie = {
        let receipt = ServiceReceipt { result: [0xce; 32], ..ours.receipt };
        SignedReceipt { replica: 2, receipt, signature: receipt.sign(&vote_key(2)) }
    };
    let outsider = SignedReceipt { replica: 9, ..one };
    let elsewhere = {
        let receipt = ServiceReceipt { group: GroupId::from_bytes([9; 32]), ..one.receipt };
        let sign = |replica| SignedReceipt { replica, receipt, signature: receipt.sign(&vote_key(replica)) };
        vec![sign(1), sign(2)]
    };
    for theirs in [
        vec![one],
        vec![one, one],
        vec![one, forged],
        vec![one, own],
        vec![one, other_lie],
        vec![one, outsider],
        elsewhere,
    ] {
        assert!(world.cycle(&mut core, compare(theirs)).is_ok());
        assert!(!core.is_stopped() && world.evidence.is_empty());
    }
    assert!(world.cycle(&mut core, compare(vec![one, lie(&ours.receipt, 2)])).is_ok());
    assert!(core.is_stopped() && world.stopped);
    assert_eq!((core.size(), world.file.len()), (9, 9));
    let evidence = world.evidence.pop().unwrap();
    assert_eq!((evidence.ours, evidence.theirs.len()), (ours, 2));
    assert_eq!(Evidence::decoded(&evidence.encoded()), Ok(evidence));
}

#[test]
fn a_replica_that_diverged_has_its_guest_taken_back_and_serves_once_f_plus_1_agree() {
    let want = honest(30);
    let (mut world, _) = World::settled(0, 9);
    let slot = world.machines.clone();
    // A bit of its guest's memory flips.
    world.machines.get_mut(&0).unwrap().corrupt();
    world.ordered = 20;
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_ne!(world.file[19].receipt, want[19].receipt);
    let lies = world.signed.clone();
    let theirs = |number: usize| vec![truth(&want[number].receipt, 1), truth(&want[number].receipt, 2)];
    let ours = world.ours(19);
    assert!(world.cycle(&mut core, Event::Compared { ours: Box::new(ours), theirs: theirs(19) }).is_ok());
    assert!(core.is_stopped());
    world.peers = told_by_two(&want[..20]);
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(core.size(), 19, "a wrong state is not covered up with the results of others");
    assert_eq!(world.rewinds[..3], [0, 1, 2], "each attempt is told from the one before");
    world.slot = Some(slot);
    // In between the process may be restarted.
    let mut core = world.core();
    world.rewinds.clear();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(world.rewinds, [0], "once is enough");
    assert_eq!(receipts(&world.file), receipts(&want[..20]));
    assert!(core.is_stopped(), "its word alone does not count");
    for done in &world.file {
        let number = done.receipt.number;
        let contradicts = lies[&number] != done.receipt;
        assert_eq!(
            done.signature.is_none(),
            contradicts,
            "what contradicts a signature stays unsigned: {number}"
        );
    }
    world.ordered = 30;
    assert!(world.settle(&mut core).is_ok());
    let ours = world.ours(29);
    assert!(
        world.cycle(&mut core, Event::Compared { ours: Box::new(ours), theirs: vec![theirs(29)[0]] }).is_ok()
    );
    assert!(core.is_stopped());
    assert!(world.cycle(&mut core, Event::Compared { ours: Box::new(ours), theirs: theirs(29) }).is_ok());
    assert!(!core.is_stopped() && !world.stopped);
    assert!(world.file[29].signature.is_some());
}

/// The host altered the replies on their way, and the slot that it goes back to is newer than the lies.
#[test]
fn a_replica_that_was_lied_to_for_long_finds_the_part_of_its_log_that_others_have_too() {
    let want = honest(30);
    for (from, to) in [(19, 20), (9, 20), (1, 20), (0, 20), (12, 17)] {
        let (mut world, _) = World::settled(0, 20);
        let mut log = world.log(from);
        for number in from..20 {
            let done = &mut world.file[number as usize];
            if number < to {
                done.receipt.result = [0xbd; 32];
            }
            log.push(Sha256Tree::leaf(&done.receipt.leaf().encoded()));
            done.receipt.log_root = log.root();
        }
        world.slot = Some(world.machines.clone());
        world.peers = told_by_two(&want);
        let mut core = world.core();
        let ours = world.ours(19);
        let theirs = [1, 2].map(|replica| truth(&want[19].receipt, replica)).to_vec();
        let compared = Event::Compared { ours: Box::new(ours), theirs };
        assert!(world.cycle(&mut core, compared).is_ok());
        assert!(core.is_stopped());
        world.ordered = 30;
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(receipts(&world.file), receipts(&want), "lies about {from} to {to}");
        assert_eq!((world.rewinds.len(), world.evidence.len()), (1, 1));

        let agree = |number: usize| Event::Compared {
            ours: Box::new(world.ours(number as u64)),
            theirs: [1, 2].map(|replica| truth(&want[number].receipt, replica)).to_vec(),
        };
        let (adopted, executed) = (agree(19), agree(29));
        assert!(world.cycle(&mut core, adopted).is_ok());
        assert!(core.is_stopped(), "what others told shows nothing about the guest");
        assert!(world.cycle(&mut core, executed).is_ok());
        assert!(!core.is_stopped() && !world.stopped);
    }
}

#[test]
fn a_guest_that_is_wrong_in_its_slot_too_is_taken_back_again_and_again_and_serves_nothing() {
    let want = honest(30);
    let (mut world, mut core) = World::settled(0, 10);
    let healthy = world.machines.clone();
    world.machines.get_mut(&0).unwrap().corrupt();
    world.slot = Some(world.machines.clone());
    world.ordered = 20;
    world.peers = told_by_two(&want[..20]);
    assert!(world.settle(&mut core).is_ok());
    let theirs = |number: usize| [1, 2].map(|replica| truth(&want[number].receipt, replica)).to_vec();
    let compared = Event::Compared { ours: Box::new(world.ours(19)), theirs: theirs(19) };
    assert!(world.cycle(&mut core, compared).is_ok());
    assert!(world.settle(&mut core).is_ok());
    assert!(core.is_stopped());
    let attempts = world.rewinds.len() as u32;
    assert!(attempts > 1 && world.rewinds == (0..attempts).collect::<Vec<_>>(), "{:?}", world.rewinds);

    // It is compared now and then, as long as it takes.
    world.slot = Some(healthy);
    world.ordered = 30;
    world.peers = told_by_two(&want);
    for _ in 0..3 {
        assert!(world.settle(&mut core).is_ok());
        let compared = Event::Compared { ours: Box::new(world.ours(29)), theirs: theirs(29) };
        assert!(world.cycle(&mut core, compared).is_ok());
    }
    assert!(!core.is_stopped() && !world.stopped);
    assert!(receipts(&world.file) == receipts(&want), "it has the log of the others again");
}

#[test]
fn an_upgrade_takes_the_state_to_the_next_image_at_its_number_also_after_a_loss() {
    let mut world = World::ordering(0, 30);
    world.upgrades = vec![12, 20];
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(30)), "the same service");
    let next: Vec<u64> = world.machines.values().map(Machine::next).collect();
    assert_eq!(next, [12, 20, 30]);
    world.machines.remove(&2);
    world.ordered = 33;
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(33)));
    assert!(world.evidence.is_empty());
}

/// Answers that a guest, or a host in its place, may invent.
fn nonsense() -> impl Strategy<Value = Output> {
    let state = any::<([u8; 32], u64)>().prop_map(|(root, size)| StateCommitment { root, size });
    let executed = (prop::collection::vec(any::<u8>(), 0..20), state)
        .prop_map(|(reply, state)| Executed { reply, state });
    prop_oneof![
        (0u64..12, prop::collection::vec(executed, 0..9))
            .prop_map(|(first, executed)| Output::Applied(Applied { first, executed })),
        (0u64..40).prop_map(|next| Output::Refused { status: status::STALE, next }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the guest answers and whenever, nothing is stored out of order or signed twice (the world asserts both), and a
    /// guest that is in order again leads on.
    #[test]
    fn out_of_order_and_invented_outputs_do_not_break_the_replica(outputs in prop::collection::vec(nonsense(), 1..40)) {
        let (mut world, mut core) = World::settled(0, 5);
        world.ordered = 12;
        for output in outputs {
            let effects = core.step(Event::Wake);
            for effect in effects {
                if let Ok(Some(event)) = world.perform(effect) {
                    let mut effects = core.step(event);
                    if matches!(effects.first(), Some(Effect::Feed { .. })) {
                        effects = core.step(Event::Output(output.clone()));
                    }
                    let mut rounds = 0;
                    while let Some(effect) = effects.pop() {
                        rounds += 1;
                        prop_assert!(rounds < 50, "it does not come to an end");
                        match effect {
                            Effect::Feed { .. } => effects = core.step(Event::Gone),
                            effect => if let Ok(Some(event)) = world.perform(effect) {
                                effects = core.step(event);
                            },
                        }
                    }
                }
            }
            prop_assert!(core.is_idle());
            prop_assert_eq!(core.size(), world.file.len() as u64);
        }
    }

    /// Events that nobody asked for change nothing.
    #[test]
    fn events_out_of_turn_change_nothing(output in nonsense()) {
        let (_, mut core) = World::settled(0, 5);
        for event in [Event::Output(output), Event::Signed(vec![None]), Event::Persisted, Event::Imported, Event::Gone,
            Event::Peers(Vec::new()), Event::Truncated(Peaks::default()), Event::Fetched(Vec::new())]
        {
            prop_assert!(core.step(event).is_empty());
            prop_assert!(core.is_idle());
            prop_assert_eq!(core.size(), 5);
        }
    }

    #[test]
    fn random_bytes_are_no_evidence_or_decode_to_what_encodes_so(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(evidence) = Evidence::decoded(&bytes) {
            prop_assert_eq!(evidence.encoded(), bytes);
        }
    }
}

#[test]
fn wrong_answers_of_the_signer_are_not_stored() {
    let mut world = World::ordering(0, 3);
    let mut core = world.core();
    let mut signing = None;
    let mut events = vec![Event::Wake];
    while let Some(event) = events.pop() {
        for effect in core.step(event) {
            match effect {
                Effect::Sign(receipts) => signing = Some(receipts.len()),
                effect => events.extend(world.perform(effect).ok().flatten()),
            }
        }
    }
    let asked = signing.unwrap();
    assert!(core.step(Event::Signed(vec![None; asked + 1])).is_empty());
    assert!(core.step(Event::Signed(Vec::new())).is_empty());
    assert!(!core.is_idle(), "it still waits for one signature for each receipt");
    assert_eq!(core.step(Event::Signed(vec![None; asked])).len(), 1);
}
