//! What was signed, and what may be signed next. Pure: no files, no clock, no keys.
//!
//! ```text
//! number of a service   0 ─── below the window ─── window ─────────────── newest ────────▶
//!                         refused: StaleSlot       │ remembered: the same │ new: record,
//!                                                  │ again, or DoubleVote │ then sign
//!                                                  │ skipped: StaleSlot   │
//!
//! size of a log         0 ─── refused: Stale ───── floor ──── new, if it continues the floor ──▶
//! ```
//!
//! A batch is decided in order, and each decision sees those before it. What is new leaves as one [`Effect::Record`], which has to be durable
//! before [`Effect::Release`] is carried out. The state has changed by then: whoever cannot make the record durable must end.

use std::collections::{BTreeMap, VecDeque};

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::id::{StatementDigest, VmId};
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, verify_consistency};
use quorate_attest::statement::Kind;

use crate::protocol::{CosignRequest, Floor, Head};
use crate::rules::{Promise, Refusal, Rules};

/// Most newest numbers of one service and kind that are remembered.
pub const WINDOW: usize = 8192;
/// Most numbers that are remembered over all services; they share it equally.
pub const DIGESTS_MAX: usize = 1 << 20;
/// Most services, counted for each kind.
pub const INSTANCES_MAX: usize = 1024;
/// Most logs.
pub const ORIGINS_MAX: usize = 1024;

/// One thing that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A signature over the encoding of a statement.
    Sign(Vec<u8>),
    /// A cosignature over the head of a log.
    Cosign(CosignRequest),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The vote key signs the bytes of the request.
    Sign,
    /// The cosigner key signs this.
    Cosign(Checkpoint),
    /// Nothing is signed.
    Refuse(Refusal),
}

/// What has to be durable before signatures leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Promises {
    /// Statements.
    pub statements: Vec<Promise>,
    /// Heads.
    pub heads: Vec<Head>,
}

impl Promises {
    fn is_empty(&self) -> bool {
        self.statements.is_empty() && self.heads.is_empty()
    }
}

/// What a batch leads to, to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make this durable.
    Record(Promises),
    /// Then answer: one verdict for each request.
    Release(Vec<Verdict>),
}

/// A record that contradicts the records before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record contradicts those before it")]
pub struct Contradiction;

type Window = VecDeque<(u64, StatementDigest)>;

/// Everything that was signed and is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignState {
    signed: BTreeMap<(VmId, Kind), Window>,
    heads: BTreeMap<String, (u64, Digest)>,
}

impl SignState {
    /// Decides a batch.
    pub fn step(&mut self, rules: &Rules, batch: &[Request]) -> Vec<Effect> {
        let mut promises = Promises::default();
        let verdicts = batch.iter().map(|request| self.decide(rules, request, &mut promises));
        let verdicts = verdicts.collect();
        let record = (!promises.is_empty()).then_some(Effect::Record(promises));
        record.into_iter().chain([Effect::Release(verdicts)]).collect()
    }

    fn decide(&mut self, rules: &Rules, request: &Request, promises: &mut Promises) -> Verdict {
        let decided = match request {
            Request::Sign(bytes) => self.sign(rules, bytes, promises),
            Request::Cosign(head) => self.cosign(rules, head, promises),
        };
        decided.unwrap_or_else(Verdict::Refuse)
    }

    fn sign(&mut self, rules: &Rules, bytes: &[u8], promises: &mut Promises) -> Result<Verdict, Refusal> {
        let promise = rules.promise(bytes)?;
        if self.is_new(&promise)? {
            self.add(&promise);
            promises.statements.push(promise);
        }
        Ok(Verdict::Sign)
    }

    fn is_new(&self, promise: &Promise) -> Result<bool, Refusal> {
        let Promise { instance, kind, seq, digest } = *promise;
        let Some(window) = self.signed.get(&(instance, kind)) else {
            if self.signed.len() >= INSTANCES_MAX {
                return Err(Refusal::Limit { what: "services", limit: INSTANCES_MAX });
            }
            return Ok(true);
        };
        let (Some((lowest, _)), Some((newest, _))) = (window.front(), window.back()) else { return Ok(true) };
        if seq > *newest {
            return Ok(true);
        }
        match window.binary_search_by_key(&seq, |(number, _)| *number).map(|place| window.get(place)) {
            Ok(Some((_, known))) if *known == digest => Ok(false),
            Ok(_) => Err(Refusal::DoubleVote { instance, kind, seq }),
            Err(_) => Err(Refusal::StaleSlot { seq, lowest: *lowest, newest: *newest }),
        }
    }

    fn add(&mut self, promise: &Promise) {
        let services = self.signed.len();
        let window = self.signed.entry((promise.instance, promise.kind)).or_default();
        window.push_back((promise.seq, promise.digest));
        let first = window.len() == 1;
        let share = (DIGESTS_MAX / (services + usize::from(first)).max(1)).min(WINDOW);
        if first {
            // One more to share with.
            self.signed.values_mut().for_each(|window| shorten(window, share));
        } else {
            shorten(window, share);
        }
    }

    fn cosign(
        &mut self,
        rules: &Rules,
        asked: &CosignRequest,
        promises: &mut Promises,
    ) -> Result<Verdict, Refusal> {
        let Head { origin, size, root } = &asked.head;
        let checkpoint = rules.checkpoint(origin, *size, *root)?;
        let known = self.heads.get(origin);
        let (floor, floor_root) = known.copied().unwrap_or((0, Sha256Tree::empty()));
        if *size < floor {
            return Err(Refusal::StaleHead { size: *size, floor });
        }
        if *size == floor {
            // Asked again, perhaps because the answer was lost: whatever the proof says, it is the same head or another.
            let same = *root == floor_root;
            return if same {
                Ok(Verdict::Cosign(checkpoint))
            } else {
                Err(Refusal::HeadConflict { size: floor })
            };
        }
        if asked.old_size != floor {
            return Err(Refusal::FloorMismatch { old: asked.old_size, floor });
        }
        verify_consistency::<Sha256Tree>(floor, &floor_root, *size, root, &asked.proof)?;
        if known.is_none() && self.heads.len() >= ORIGINS_MAX {
            return Err(Refusal::Limit { what: "logs", limit: ORIGINS_MAX });
        }
        self.heads.insert(origin.clone(), (*size, *root));
        promises.heads.push(asked.head.clone());
        Ok(Verdict::Cosign(checkpoint))
    }

    /// Takes over what was read back from the disk.
    ///
    /// # Errors
    /// When it could not have been signed after what was taken over before.
    pub fn restore(&mut self, promises: &Promises) -> Result<(), Contradiction> {
        for promise in &promises.statements {
            if !self.is_new(promise).map_err(|_| Contradiction)? {
                return Err(Contradiction);
            }
            self.add(promise);
        }
        for Head { origin, size, root } in &promises.heads {
            let before = self.heads.insert(origin.clone(), (*size, *root));
            if before.is_some_and(|(floor, _)| floor >= *size) || self.heads.len() > ORIGINS_MAX {
                return Err(Contradiction);
            }
        }
        Ok(())
    }

    /// Records from which [`Self::restore`] makes this state again.
    #[must_use]
    pub fn summary(&self) -> Vec<Promises> {
        let one = |(&(instance, kind), window): (&(VmId, Kind), &Window)| {
            let promise = |&(seq, digest): &_| Promise { instance, kind, seq, digest };
            Promises { statements: window.iter().map(promise).collect(), heads: Vec::new() }
        };
        let heads = Promises { statements: Vec::new(), heads: self.heads() };
        self.signed.iter().map(one).chain([heads]).collect()
    }

    /// The newest head of each log.
    #[must_use]
    pub fn heads(&self) -> Vec<Head> {
        let heads = self.heads.iter();
        heads.map(|(origin, &(size, root))| Head { origin: origin.clone(), size, root }).collect()
    }

    /// What is remembered of each service.
    #[must_use]
    pub fn floors(&self) -> Vec<Floor> {
        let floor = |(&(instance, kind), window): (&(VmId, Kind), &Window)| {
            let (&(lowest, _), &(newest, digest)) = (window.front()?, window.back()?);
            Some(Floor { instance, kind, lowest, newest, digest })
        };
        self.signed.iter().filter_map(floor).collect()
    }
}

fn shorten(window: &mut Window, share: usize) {
    window.drain(..window.len().saturating_sub(share));
}

#[cfg(test)]
mod tests;
