//! What this orchestrator has signed: durable before a signature leaves, and never contradicted.
//!
//! Receipts are signed in ascending order of their index, one for each. The record of an index covers the receipt *and* the decision that
//! belongs to it. A grant of a generation is recorded apart: there is one for each generation of a VM, wherever in the log it stands.
//!
//! ```text
//! log index     0 ─────────────── below the window ──────────── window ───────────── next ─────▶
//!               signed once; not again, whatever the disk says │ the same again: yes │ new: record, then sign
//!                                                              │ another: safety stop│
//! ```
//!
//! So a node whose state was restored from an old copy, but whose sign-log was not, says nothing that contradicts what it said before.

use std::collections::{BTreeMap, VecDeque};

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{Epoch, Generation, GroupId, StatementDigest, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::receipt::Receipt;
use quorate_attest::vm::{Action, Decision};
use quorate_verifier::sign_log::{Entry, Opened, PAYLOAD_BYTES_MAX, SignLog, SignLogError, Storage};
use sha2::{Digest as _, Sha256};

/// Frame kind of the first entry.
const IDENTITY: u8 = 1;
/// Frame kind of [`Promises`].
const PROMISES: u8 = 2;
/// Frame kind of [`SignState`]: everything before it is summed up.
const SUMMARY: u8 = 3;
/// Frame kind of the reason of a safety stop.
const STOPPED: u8 = 4;
/// Version of the records.
const VERSION: u16 = 1;
/// Newest indexes whose digests are remembered.
const WINDOW: usize = 8192;
/// The log is replaced by a summary when it has grown past this.
const COMPACTION_BYTES: u64 = 32 << 20;

/// What is about to be signed: receipts of consecutive entries and the grants among their decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Promises {
    /// Index of the first.
    pub first: u64,
    /// One for each entry: digest over its receipt and its decision.
    pub digests: Vec<[u8; 32]>,
    /// Generations granted.
    pub grants: Vec<Grant>,
}

impl Promises {
    /// Adds the entry that follows the ones so far.
    pub fn add(&mut self, receipt: &Receipt, decision: Option<&Decision>) {
        let covered = (receipt.to_statement().digest(), decision.map(Decision::digest));
        self.digests.push(Sha256::digest(to_bytes(&covered)).into());
        if let Some(decision) = decision
            && matches!(decision.action, Action::Grant { .. })
        {
            // A later epoch repeats a grant under its own number; that makes no other grant of it.
            let (vm, generation) = (decision.vm, decision.generation);
            let decision = Decision { epoch: Epoch::ZERO, ..decision.clone() }.digest();
            self.grants.push(Grant { vm, generation, decision });
        }
    }
}

/// The right to create one generation of a VM, given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Grant {
    /// The VM.
    pub vm: VmId,
    /// The generation.
    pub generation: Generation,
    /// The decision, whatever epoch repeats it.
    pub decision: StatementDigest,
}

/// A promise that would contradict an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A receipt with another content was signed for this index.
    #[error("another receipt was signed for log index {index}")]
    Receipt {
        /// Place in the log.
        index: u64,
    },
    /// This generation was granted by another decision.
    #[error("generation {generation} of VM {vm} was granted by another decision")]
    Grant {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
    },
}

/// What has been signed so far. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignState {
    /// Lowest index that was never signed.
    next: u64,
    /// Digests of the indexes just below `next`.
    window: VecDeque<[u8; 32]>,
    /// The newest generation granted of each VM.
    grants: BTreeMap<VmId, (Generation, StatementDigest)>,
}

impl SignState {
    /// Lowest index that was never signed.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Lowest index that may still be signed.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.next - self.window.len() as u64
    }

    /// Whether nothing of this contradicts what was signed. Indexes below the floor are for the caller to leave unsigned.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self, promises: &Promises) -> Result<(), Contradiction> {
        for (index, digest) in (promises.first..).zip(&promises.digests) {
            let known = index.checked_sub(self.floor()).and_then(|place| self.window.get(place as usize));
            if known.is_some_and(|known| known != digest) {
                return Err(Contradiction::Receipt { index });
            }
        }
        for Grant { vm, generation, decision } in &promises.grants {
            let known = self.grants.get(vm).filter(|(newest, _)| newest == generation);
            if known.is_some_and(|(_, known)| known != decision) {
                return Err(Contradiction::Grant { vm: *vm, generation: *generation });
            }
        }
        Ok(())
    }

    /// The part of this that is not recorded yet; none if all of it is.
    #[must_use]
    pub fn fresh(&self, promises: &Promises) -> Option<Promises> {
        let skip = usize::try_from(self.next.saturating_sub(promises.first)).unwrap_or(usize::MAX);
        let digests = promises.digests.get(skip..).unwrap_or_default().to_vec();
        let newer =
            |grant: &&Grant| self.grants.get(&grant.vm).is_none_or(|(newest, _)| *newest < grant.generation);
        let grants: Vec<_> = promises.grants.iter().filter(newer).copied().collect();
        let first = promises.first.max(self.next);
        (!digests.is_empty() || !grants.is_empty()).then_some(Promises { first, digests, grants })
    }

    /// Takes over what has become durable.
    pub fn record(&mut self, promises: &Promises) {
        if promises.first > self.next {
            // A gap: what was signed in it is not known, so nothing in it will be signed.
            self.window.clear();
            self.next = promises.first;
        }
        let skip = usize::try_from(self.next - promises.first).unwrap_or(usize::MAX);
        for digest in promises.digests.get(skip..).unwrap_or_default() {
            self.window.push_back(*digest);
            self.next += 1;
        }
        let excess = self.window.len().saturating_sub(WINDOW);
        self.window.drain(..excess);
        for Grant { vm, generation, decision } in &promises.grants {
            let newest = self.grants.entry(*vm).or_insert((*generation, *decision));
            if newest.0 < *generation {
                *newest = (*generation, *decision);
            }
        }
    }
}

/// Whose sign-log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Identity {
    version: u16,
    group: GroupId,
    vote_key: PublicKey,
}

impl Identity {
    /// The holder of `vote_key` in the orchestrators' group, in all its epochs.
    #[must_use]
    pub fn new(group: GroupId, vote_key: PublicKey) -> Self {
        Self { version: VERSION, group, vote_key }
    }

    /// The first entry of its sign-log.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { kind: IDENTITY, payload: to_bytes(self) }
    }
}

/// The sign-log with the state it leads to.
#[derive(Debug)]
pub struct SignJournal<S> {
    log: SignLog<S>,
    identity: Identity,
    state: SignState,
    stopped: Option<String>,
}

impl<S: Storage> SignJournal<S> {
    /// Reads the state back.
    ///
    /// # Errors
    /// `SignStateMissing` for the log of another identity, `WalCorrupt` for records that do not decode.
    pub fn restore(opened: Opened<S>, identity: Identity) -> Result<Self, SignLogError> {
        let mut entries = opened.entries.iter();
        if entries.next() != Some(&identity.entry()) {
            let reason = "the sign-log belongs to another identity or group".to_owned();
            return Err(SignLogError::SignStateMissing { path: "sign-log".into(), reason });
        }
        let (mut state, mut stopped) = (SignState::default(), None);
        for entry in entries {
            match entry.kind {
                PROMISES => state.record(&decode(entry)?),
                SUMMARY => state = decode(entry)?,
                STOPPED => stopped = Some(decode(entry)?),
                _ => return Err(unknown()),
            }
        }
        Ok(Self { log: opened.log, identity, state, stopped })
    }

    /// What has been signed.
    #[must_use]
    pub fn state(&self) -> &SignState {
        &self.state
    }

    /// Why nothing may be signed any more.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Makes promises durable. When this returns `Ok`, the signatures may leave.
    ///
    /// # Errors
    /// As [`SignLog::append`].
    pub fn record(&mut self, promises: &Promises) -> Result<(), SignLogError> {
        let Some(fresh) = self.state.fresh(promises) else { return Ok(()) };
        self.log.append(PROMISES, &to_bytes(&fresh))?;
        self.state.record(&fresh);
        if self.log.size() > COMPACTION_BYTES {
            self.compact()?;
        }
        Ok(())
    }

    /// Records that nothing may be signed any more.
    ///
    /// # Errors
    /// As [`SignLog::append`].
    pub fn stop(&mut self, reason: &str) -> Result<(), SignLogError> {
        self.log.append(STOPPED, &to_bytes(reason))
    }

    fn compact(&mut self) -> Result<(), SignLogError> {
        let summary = Entry { kind: SUMMARY, payload: to_bytes(&self.state) };
        let stopped = self.stopped.as_ref().map(|reason| Entry { kind: STOPPED, payload: to_bytes(reason) });
        let entries: Vec<_> = [self.identity.entry(), summary].into_iter().chain(stopped).collect();
        self.log.rewrite(&entries)
    }
}

fn unknown() -> SignLogError {
    // The checksum was right, so this is not damage but another version, or a bug: either way it cannot be obeyed.
    SignLogError::WalCorrupt { offset: 0 }
}

fn decode<T: BorshSerialize + BorshDeserialize>(entry: &Entry) -> Result<T, SignLogError> {
    from_bytes(&entry.payload, PAYLOAD_BYTES_MAX).map_err(|_| unknown())
}

#[cfg(test)]
mod tests;
