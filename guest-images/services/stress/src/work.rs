//! The work itself.

use alloc::vec::Vec;

use crate::command::{Command, Misbehaviour, Reply, Work};

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// Elementary steps between two calls of the `pace` hook.
pub const PACE_UNITS: u64 = 1 << 20;

/// Longest output of one doorbell.
const OUTPUT_BYTES_MAX: u32 = 262_144;

/// What the program does with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send one output.
    Reply(Reply),
    /// Send `count` outputs of `bytes` bytes.
    Emit {
        /// Number of outputs.
        count: u32,
        /// Bytes of each.
        bytes: u32,
    },
    /// Break this rule.
    Misbehave(Misbehaviour),
    /// End the program.
    Exit(u64),
}

/// State of the service.
pub struct Stress {
    budget_bytes: u64,
    work: Work,
    set: Vec<u64>,
    steps: u64,
    integer: u64,
    floats: [f64; 64],
    chased: usize,
}

impl Stress {
    /// An idle service that allocates at most `budget_bytes` for its working set.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            work: Work::default(),
            set: Vec::new(),
            steps: 0,
            integer: 0x9e37_79b9_7f4a_7c15,
            floats: core::array::from_fn(|at| at as f64 * 0.015_625 + 0.5),
            chased: 0,
        }
    }

    /// Carries out one input. `pace` is called at bounded intervals of work.
    pub fn apply(&mut self, input: &[u8], pace: &mut dyn FnMut()) -> Outcome {
        let Ok(command) = Command::decode(input) else { return Outcome::Reply(Reply::Malformed) };
        let mut pace = Pace { left: PACE_UNITS, hook: pace };
        match command {
            Command::Configure(work) => Outcome::Reply(self.configure(work, &mut pace)),
            Command::Fill { bytes, seed } => Outcome::Reply(self.fill(bytes, seed, &mut pace)),
            Command::Step { count } => {
                for _ in 0..count {
                    self.step(&mut pace);
                }
                Outcome::Reply(self.done())
            }
            Command::Emit { bytes, .. } if bytes > OUTPUT_BYTES_MAX => Outcome::Reply(Reply::TooLarge),
            Command::Emit { count, bytes } => Outcome::Emit { count, bytes },
            Command::Misbehave(misbehaviour) => Outcome::Misbehave(misbehaviour),
            Command::Exit { code } => Outcome::Exit(code),
        }
    }

    fn done(&self) -> Reply {
        let float: f64 = self.floats.iter().sum();
        let working_set_bytes = self.set.len() as u64 * 8;
        Reply::Done { steps: self.steps, integer: self.integer, float: float.to_bits(), working_set_bytes }
    }

    fn configure(&mut self, work: Work, pace: &mut Pace<'_>) -> Reply {
        let pages = work.working_set_bytes / PAGE_BYTES as u64;
        if pages * PAGE_BYTES as u64 > self.budget_bytes {
            return Reply::TooLarge;
        }
        // The old set goes first, so that both never have to fit.
        self.set = Vec::new();
        self.chased = 0;
        let words = pages as usize * PAGE_WORDS;
        let mut set = Vec::new();
        if set.try_reserve_exact(words).is_err() {
            self.work = Work { working_set_bytes: 0, ..work };
            return Reply::TooLarge;
        }
        while set.len() < words {
            let more = (words - set.len()).min(PACE_UNITS as usize);
            set.resize(set.len() + more, 0);
            pace.spend(more as u64);
        }
        self.set = set;
        self.work = work;
        self.done()
    }

    fn fill(&mut self, bytes: u64, seed: u64, pace: &mut Pace<'_>) -> Reply {
        let words = bytes / 8;
        if words > self.set.len() as u64 {
            return Reply::TooLarge;
        }
        let mut state = seed;
        for chunk in self.set[..words as usize].chunks_mut(PACE_UNITS as usize) {
            for word in chunk.iter_mut() {
                *word = split_mix(&mut state);
            }
            pace.spend(chunk.len() as u64);
        }
        self.done()
    }

    fn step(&mut self, pace: &mut Pace<'_>) {
        self.steps += 1;
        self.integer ^= self.steps;
        pace.spend(1);
        self.mix(pace);
        self.dirty(pace);
        self.multiply(pace);
        self.chase(pace);
    }

    fn mix(&mut self, pace: &mut Pace<'_>) {
        for _ in 0..self.work.integer_rounds {
            self.integer = xor_shift(self.integer).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
            pace.spend(1);
        }
    }

    fn dirty(&mut self, pace: &mut Pace<'_>) {
        let pages = self.set.len() / PAGE_WORDS;
        if pages == 0 {
            return;
        }
        for _ in 0..self.work.pages_per_step {
            self.integer = xor_shift(self.integer);
            let at = (self.integer >> 20) as usize % pages * PAGE_WORDS + self.integer as usize % PAGE_WORDS;
            self.set[at] = self.set[at].wrapping_add(self.integer);
            pace.spend(64);
        }
    }

    fn multiply(&mut self, pace: &mut Pace<'_>) {
        let factor = (self.integer & 0xffff) as f64 * 1e-9 + 0.5;
        for _ in 0..self.work.float_rounds {
            for value in &mut self.floats {
                *value = *value * factor + 1.0 / (1.0 + *value * *value);
            }
            pace.spend(64);
        }
    }

    fn chase(&mut self, pace: &mut Pace<'_>) {
        let words = self.set.len();
        if words == 0 {
            return;
        }
        for step in 0..u64::from(self.work.chase_steps) {
            let next =
                self.set[self.chased] ^ (self.chased as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step;
            self.chased = (next % words as u64) as usize;
            pace.spend(16);
        }
        self.integer ^= self.chased as u64;
    }
}

/// Counts elementary steps and calls the hook each time enough have gone by.
struct Pace<'a> {
    left: u64,
    hook: &'a mut dyn FnMut(),
}

impl Pace<'_> {
    fn spend(&mut self, units: u64) {
        match self.left.checked_sub(units) {
            Some(left) if left > 0 => self.left = left,
            _ => {
                self.left = PACE_UNITS;
                (self.hook)();
            }
        }
    }
}

fn xor_shift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

/// One word of Steele, Lea and Flood's SplitMix64, whose output does not compress.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
