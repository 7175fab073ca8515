//! One run: members, faults from the seed, actors, and what must hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_agreement_simulation::{Behaviour, Cluster, Disk, Rules, run};
use quorate_attest::id::{Generation, VmId};
use quorate_control::Submission;

use crate::Plant;
use crate::actors::{Actors, Seen};
use crate::keys::{self, MEMBERS};
use crate::replica::Replica;
use crate::rng::Rng;

/// Steps in which faults happen.
const STEPS: u64 = 120;
/// Virtual time between two steps.
const STEP: Duration = Duration::from_millis(60);
/// Steps in which everything must be answered once all is healed.
const HEALED_STEPS: u64 = 400;
/// The member that is Byzantine, where one is.
const FAULTY: u16 = MEMBERS - 1;

/// Who is Byzantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nobody; any number of members crash.
    Honest,
    /// One member in the consensus.
    Consensus(Behaviour),
    /// One member lies to those who ask.
    Lying,
    /// One member tells some the truth and lies to others.
    TwoFaced,
    /// One member answers with what it knew long ago.
    Stale,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Honest,
        Self::Consensus(Behaviour::Silent),
        Self::Consensus(Behaviour::Equivocating),
        Self::Consensus(Behaviour::Replaying),
        Self::Consensus(Behaviour::Flooding),
        Self::Lying,
        Self::TwoFaced,
        Self::Stale,
    ];
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Rules that were broken; empty unless a fault was planted.
    pub violations: Vec<String>,
    /// Entries of the log.
    pub entries: u64,
    /// What happened.
    pub seen: Seen,
    /// Stands for everything that happened: the same for the same seed.
    pub trace: String,
}

fn rules() -> Rules {
    let group = keys::orchestrators().id();
    Rules {
        validate: Arc::new(move |bytes| Submission::read(bytes, &group).operation().is_ok()),
        operation_id: Arc::new(move |bytes| Some(*Submission::read(bytes, &group).id().as_bytes())),
        ends_epoch: Arc::new(|_| false),
    }
}

/// Plays one seed.
pub fn play(seed: u64, scenario: Scenario, plant: Option<Plant>) -> Report {
    let (mut report, trace) = run(seed, MEMBERS, async |cluster| {
        let mut game = Game::new(cluster, seed, scenario, plant);
        game.start_all().await;
        for _ in 0..STEPS {
            game.fault().await;
            game.step().await;
        }
        game.heal().await;
        for _ in 0..HEALED_STEPS {
            game.settle().await;
            if game.is_settled() {
                break;
            }
        }
        game.report()
    });
    report.trace = trace;
    report
}

struct Game {
    cluster: Cluster,
    rng: Rng,
    seed: u64,
    scenario: Scenario,
    disks: Vec<Disk>,
    replicas: Vec<Arc<Mutex<Replica>>>,
    /// Members that crashed.
    down: Vec<u16>,
    actors: Actors,
    generations: Vec<(VmId, Generation)>,
    steps: u64,
}

impl Game {
    fn new(cluster: Cluster, seed: u64, scenario: Scenario, plant: Option<Plant>) -> Self {
        let disk = || if plant == Some(Plant::SkippedDedupe) { Disk::forgetful() } else { Disk::default() };
        Self {
            cluster,
            rng: Rng::new(seed ^ 0xfa17),
            seed,
            scenario,
            disks: (0..MEMBERS).map(|_| disk()).collect(),
            replicas: (0..MEMBERS).map(|_| Arc::new(Mutex::new(Replica::new()))).collect(),
            down: Vec::new(),
            actors: Actors::new(seed, plant),
            generations: Vec::new(),
            steps: 0,
        }
    }

    /// Members that follow the consensus.
    fn members(&self) -> Vec<u16> {
        let last = if matches!(self.scenario, Scenario::Consensus(_)) { FAULTY } else { MEMBERS };
        (0..last).collect()
    }

    async fn start_all(&mut self) {
        if let Scenario::Consensus(behaviour) = self.scenario {
            self.cluster.start_byzantine(FAULTY, behaviour).await;
        }
        for member in self.members() {
            self.start(member).await;
        }
    }

    /// Starts a member; its application executes again what its disk holds, as a node does.
    async fn start(&mut self, member: u16) {
        let place = usize::from(member);
        let disk = self.disks[place].clone();
        let mut replica = Replica::new();
        disk.entries().iter().for_each(|entry| replica.apply(entry));
        let replica = Arc::new(Mutex::new(replica));
        self.replicas[place] = Arc::clone(&replica);
        self.cluster.start(member, &disk, rules(), move |entry| lock(&replica).apply(entry)).await;
        self.down.retain(|down| *down != member);
    }

    async fn fault(&mut self) {
        match self.rng.below(100) {
            0..4 => {
                let members = self.members();
                let member = members[self.rng.below(members.len() as u64) as usize];
                self.cluster.crash(member).await;
                if !self.down.contains(&member) {
                    self.down.push(member);
                }
            }
            4..12 => {
                if let Some(member) = self.down.first().copied() {
                    self.start(member).await;
                }
            }
            12..15 => {
                let one = self.rng.below(MEMBERS.into()) as u16;
                let other = self.rng.below(MEMBERS.into()) as u16;
                self.cluster.partition(&[one, other]).await;
            }
            15..20 => {
                let (latency, jitter) = (self.rng.below(80), self.rng.below(60));
                let loss = self.rng.below(25);
                let ms = Duration::from_millis;
                self.cluster.connect(ms(latency + 1), ms(jitter), loss).await;
            }
            _ => {}
        }
    }

    async fn heal(&mut self) {
        let ms = Duration::from_millis;
        self.cluster.connect(ms(10), ms(5), 0).await;
        for member in self.down.clone() {
            self.start(member).await;
        }
    }

    async fn step(&mut self) {
        let next = |vm: &VmId| {
            let replicas = self.replicas.iter().map(|replica| lock(replica));
            replicas.filter_map(|replica| Some(replica.control.vm(vm)?.next_generation)).max()
        };
        self.actors.look(&next);
        self.actors.act();
        self.settle().await;
    }

    /// Everybody repeats what has no answer, time passes, answers come, rules are checked.
    async fn settle(&mut self) {
        self.steps += 1;
        for pending in &self.actors.pending {
            for member in self.members() {
                if self.rng.percent(30) {
                    self.cluster.submit(member, pending.bytes.clone());
                }
            }
        }
        self.cluster.sleep(STEP).await;
        let (scenario, replicas, down) = (self.scenario, &self.replicas, &self.down);
        let rng = &mut self.rng;
        self.actors.listen(&mut |member, operation| {
            if down.contains(&member) || rng.percent(20) {
                return None;
            }
            let replica = lock(&replicas[usize::from(member)]);
            if member != FAULTY {
                return replica.answer(member, operation);
            }
            match scenario {
                Scenario::Lying => replica.lie(member, operation),
                Scenario::TwoFaced if rng.percent(50) => replica.lie(member, operation),
                Scenario::Stale => {
                    replica.answer(member, operation).filter(|a| a.receipt.index + 8 < replica.len())
                }
                _ => replica.answer(member, operation),
            }
        });
        self.check();
    }

    fn check(&mut self) {
        let violations = &mut self.actors.violations;
        for (member, disk) in self.disks.iter().enumerate() {
            violations.extend(disk.violations().into_iter().map(|text| format!("member {member}: {text}")));
        }
        let longest = self.replicas.iter().max_by_key(|replica| lock(replica).len()).map(Arc::clone);
        let Some(longest) = longest else { return };
        for (member, replica) in self.replicas.iter().enumerate() {
            if Arc::ptr_eq(replica, &longest) {
                continue;
            }
            let (replica, longest) = (lock(replica), lock(&longest));
            let newest = replica.len().checked_sub(1);
            // The log root of the newest entry covers all entries before it, the state root all that they did.
            if let Some(index) = newest
                && replica.receipt(index) != longest.receipt(index)
            {
                violations.push(format!("member {member} executed another log up to entry {index}"));
            }
        }
        let longest = lock(&longest);
        for (operation, (index, outcome)) in &self.actors.believed {
            let Some(honest) = longest.answer(0, operation) else { continue };
            if honest.receipt.index != *index || honest.outcome != *outcome {
                violations.push(format!("an outcome at entry {index} was believed that is not so"));
            }
        }
        for (vm, record) in longest.control.vms() {
            match self.generations.iter_mut().find(|(known, _)| known == vm) {
                Some((_, generation)) if record.generation < *generation => {
                    violations.push(format!("generation {generation} fell to {}", record.generation));
                }
                Some((_, generation)) => *generation = record.generation,
                None => self.generations.push((*vm, record.generation)),
            }
        }
        violations.sort();
        violations.dedup();
    }

    fn is_settled(&self) -> bool {
        let lengths: Vec<_> =
            self.members().iter().map(|member| lock(&self.replicas[usize::from(*member)]).len()).collect();
        self.actors.pending.is_empty() && lengths.iter().all(|length| *length == lengths[0])
    }

    fn report(mut self) -> Report {
        if !self.is_settled() {
            let waiting = self.actors.pending.len();
            let lengths: Vec<_> = self.replicas.iter().map(|replica| lock(replica).len()).collect();
            let text =
                format!("after healing {waiting} operations have no answer; logs of {lengths:?} entries");
            self.actors.violations.push(text);
        }
        // Forgetting anything that somebody was told of is a violation even if all members forgot it alike.
        let entries = self.replicas.iter().map(|replica| lock(replica).len()).max().unwrap_or(0);
        for (index, _) in self.actors.believed.values() {
            if *index >= entries {
                self.actors.violations.push(format!("entry {index} was acknowledged and is gone"));
            }
        }
        let (seed, violations, seen) = (self.seed, self.actors.violations, self.actors.seen);
        Report { seed, violations, entries, seen, trace: String::new() }
    }
}

fn lock(replica: &Mutex<Replica>) -> MutexGuard<'_, Replica> {
    replica.lock().unwrap_or_else(PoisonError::into_inner)
}
