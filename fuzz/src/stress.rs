//! The load service beside its twin: a command either changes nothing or does what it says, and yields on the way.

use quorate_stress::{Command, Knock, Misbehaviour, Outcome, PACE_UNITS, Place, Reply, Stress, Work};

use crate::cut::Cut;
use crate::must;

/// Commands of one life at most.
const STEPS: usize = 24;
/// Most elementary steps of one command here: a guest may be told to work for years.
const UNITS: u64 = 3 * PACE_UNITS;
/// Most bytes of the working set.
const BUDGET: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Longest output of one doorbell.
const OUTPUT: u32 = 262_144;

/// Feeds what the bytes choose, or decodes them as a reply.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    if cut.byte() == 255 {
        let bytes = cut.rest();
        if let Ok(reply) = Reply::decode(bytes) {
            assert_eq!(reply.encode(), bytes);
        }
        return;
    }
    let mut life =
        Life { stress: [(); 2].map(|()| Stress::new(BUDGET)), work: Work::default(), steps: 0, set: 0 };
    for _ in 0..STEPS {
        if cut.is_empty() {
            break;
        }
        life.feed(&input(&mut cut));
    }
}

struct Life {
    stress: [Stress; 2],
    work: Work,
    steps: u64,
    /// Bytes of the working set.
    set: u64,
}

impl Life {
    fn feed(&mut self, input: &[u8]) {
        let command = Command::decode(input);
        if let Ok(command) = &command {
            assert_eq!(command.encode(), input);
        }
        let units = command.as_ref().map_or(0, |command| self.units(command));
        if units > UNITS {
            return;
        }
        let (outcome, yields) = self.both(input);
        assert!(yields <= units / PACE_UNITS, "{yields} yields in {units} steps");
        assert!(yields >= units / (2 * PACE_UNITS), "only {yields} yields in {units} steps");
        match command {
            Ok(command) => self.expect(command, outcome),
            Err(_) => assert_eq!(outcome, Outcome::Reply(Reply::Malformed)),
        }
        self.unchanged();
    }

    /// Elementary steps of a command; those that are refused need none.
    fn units(&self, command: &Command) -> u64 {
        let Work { pages_per_step, integer_rounds, float_rounds, chase_steps, .. } = self.work;
        let touched =
            if self.set == 0 { 0 } else { u64::from(pages_per_step) * 64 + u64::from(chase_steps) * 16 };
        let step = 1 + u64::from(integer_rounds) + u64::from(float_rounds) * 64 + touched;
        match command {
            Command::Configure(work) if work.working_set_bytes / PAGE * PAGE <= BUDGET => {
                work.working_set_bytes / PAGE * PAGE / 8
            }
            Command::Fill { bytes, .. } if bytes / 8 * 8 <= self.set => bytes / 8,
            Command::Step { count } => step.saturating_mul((*count).into()),
            _ => 0,
        }
    }

    /// Both replicas say the same and yield as often.
    fn both(&mut self, input: &[u8]) -> (Outcome, u64) {
        let [one, other] = self.stress.each_mut().map(|stress| {
            let mut yields = 0;
            (stress.apply(input, &mut || yields += 1), yields)
        });
        assert_eq!(one, other, "two replicas differ");
        one
    }

    fn expect(&mut self, command: Command, outcome: Outcome) {
        let refused = Outcome::Reply(Reply::TooLarge);
        match command {
            Command::Configure(work) if work.working_set_bytes / PAGE * PAGE > BUDGET => {
                assert_eq!(outcome, refused)
            }
            Command::Configure(work) => {
                (self.work, self.set) = (work, work.working_set_bytes / PAGE * PAGE);
                self.done(outcome);
            }
            Command::Fill { bytes, .. } if bytes / 8 * 8 > self.set => assert_eq!(outcome, refused),
            Command::Fill { .. } => self.done(outcome),
            Command::Step { count } => {
                self.steps += u64::from(count);
                self.done(outcome);
            }
            Command::Emit { bytes, .. } if bytes > OUTPUT => assert_eq!(outcome, refused),
            Command::Emit { count, bytes } => assert_eq!(outcome, Outcome::Emit { count, bytes }),
            Command::Misbehave(misbehaviour) => assert_eq!(outcome, Outcome::Misbehave(misbehaviour)),
            Command::Exit { code } => assert_eq!(outcome, Outcome::Exit(code)),
        }
    }

    fn done(&self, outcome: Outcome) {
        let Outcome::Reply(reply) = outcome else { panic!("{outcome:?} instead of a reply") };
        let Reply::Done { steps, working_set_bytes, .. } = reply else { panic!("{reply:?}") };
        assert_eq!((steps, working_set_bytes), (self.steps, self.set));
        assert_eq!(must(Reply::decode(&reply.encode())), reply);
    }

    /// What was refused left steps and working set as they were.
    fn unchanged(&mut self) {
        let (outcome, _) = self.both(&Command::Step { count: 0 }.encode());
        self.done(outcome);
    }
}

fn input(cut: &mut Cut<'_>) -> Vec<u8> {
    let command = match cut.below(12) {
        0 => return cut.take(80).to_vec(),
        1 | 2 => {
            let working_set_bytes = if cut.byte() == 255 { cut.number() } else { u64::from(cut.word()) * 17 };
            let mut rounds = || match cut.byte() {
                255 => cut.number() as u32,
                byte => u32::from(byte % 8),
            };
            Command::Configure(Work {
                working_set_bytes,
                pages_per_step: rounds(),
                integer_rounds: rounds(),
                float_rounds: rounds(),
                chase_steps: rounds(),
            })
        }
        3 => {
            let bytes = if cut.byte() == 255 { cut.number() } else { u64::from(cut.word()) * 8 };
            Command::Fill { bytes, seed: cut.number() }
        }
        4 => Command::Emit { count: cut.number() as u32, bytes: cut.number() as u32 },
        5 => Command::Exit { code: cut.number() },
        6 => Command::Misbehave(match cut.below(5) {
            0 => Misbehaviour::Store(cut.one(&Place::ALL)),
            1 => Misbehaviour::Knock(cut.one(&Knock::ALL)),
            2 => Misbehaviour::Call { operation: cut.number(), pointer: cut.number(), length: cut.number() },
            3 => Misbehaviour::FloodLogs { count: cut.number() as u32 },
            _ => Misbehaviour::Panic,
        }),
        _ => Command::Step { count: if cut.byte() == 255 { cut.number() as u32 } else { cut.word().into() } },
    };
    command.encode()
}

/// Lives with commands of every kind, and replies.
pub fn seeds() -> Vec<Vec<u8>> {
    let mixed = |seed: u32| (0..200u32).map(move |at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 19) as u8);
    let mut seeds: Vec<Vec<u8>> = (0..12).map(|seed| mixed(seed * 256).collect()).collect();
    let work = Work {
        working_set_bytes: 65_536,
        pages_per_step: 3,
        integer_rounds: 5,
        float_rounds: 2,
        chase_steps: 9,
    };
    let commands = [
        Command::Configure(work),
        Command::Fill { bytes: 65_536, seed: 7 },
        Command::Step { count: 200 },
        Command::Emit { count: 3, bytes: OUTPUT },
        Command::Misbehave(Misbehaviour::Mismatch { stored: 1, operation: 2 }),
        Command::Exit { code: 9 },
    ];
    let raw = |command: &Command| [&[0][..], &crate::cut::framed(&command.encode())].concat();
    seeds.push([vec![0], commands.iter().flat_map(raw).collect()].concat());
    let replies = [
        Reply::Done { steps: 1, integer: 2, float: 3, working_set_bytes: 4096 },
        Reply::Malformed,
        Reply::TooLarge,
        Reply::Result(Some(-1)),
    ];
    seeds.extend(replies.iter().map(|reply| [vec![255], reply.encode()].concat()));
    seeds
}
