//! A host that, together with f+1 verifiers who sign anything, has two statements for one slot certified.
//!
//! The last f+1 verifiers are its accomplices. The honest ones are split: one half sees the slot as it was, the other half
//! a slot in which nothing happened. Either half and the accomplices are a quorum. No honest party can prevent that; who
//! holds both certificates can prove it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_attest::encoding::to_bytes;
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::Slot;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{ConflictingCertificates, SlotCertificate, Tally};
use quorate_host::conduct::{Conduct, Step, View};
use quorate_host::link::Asker;
use quorate_host::window::Window;
use quorate_verifier::protocol::{FromVerifier, Propose, Refused, ToVerifier};

use super::idle_slot;
use crate::report::{Outcome, RefusedBy};

/// File with both certificates ([`ConflictingCertificates`], canonical borsh) in the host's data directory.
pub const CONFLICT_FILE: &str = "conflicting-certificates.bin";
/// The first slots are left alone, so that clients have seen the VM work.
const FIRST_SLOT: u64 = 4;
/// Time for a certificate.
const PATIENCE: Duration = Duration::from_secs(20);

/// Has one slot certified twice.
#[derive(Debug, Default)]
pub struct Equivocate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    split: Option<Split>,
    other: Option<Propose>,
}

/// Who sees what.
#[derive(Clone, Copy, Debug)]
struct Split {
    /// Verifiers below see the slot as it was.
    truth_below: usize,
    /// Verifiers from here on sign anything.
    liars_from: usize,
}

impl Split {
    fn of(group: &GroupConfig) -> Option<Self> {
        let faults = usize::try_from(group.f).ok()?;
        let liars_from = group.members.len().checked_sub(faults + 1)?;
        Some(Self { truth_below: liars_from.div_ceil(2), liars_from })
    }

    fn is_deceived(self, verifier: usize) -> bool {
        (self.truth_below..self.liars_from).contains(&verifier)
    }
}

impl Equivocate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conduct for Equivocate {
    fn reached(&self, step: Step, view: &View<'_>) {
        let Some(vm) = view.vm.as_ref().filter(|_| step == Step::SlotDurable) else { return };
        let mut state = self.lock();
        if state.other.is_some() || vm.head.is_none_or(|head| head.slot.0 + 1 < FIRST_SLOT) {
            return;
        }
        let (Some(split), Some(other)) = (Split::of(&view.loaded.group), idle_slot(view)) else { return };
        (state.split, state.other) = (Some(split), Some(other.clone()));
        let second = Second {
            group: Arc::clone(&view.loaded.group),
            askers: view.askers.clone(),
            window: Arc::clone(vm.window),
            data_dir: view.loaded.config.data_dir.clone(),
            other,
            split,
        };
        tokio::spawn(second.certify());
    }

    fn propose(&self, verifier: usize, propose: Propose) -> Propose {
        let state = self.lock();
        match (&state.other, state.split) {
            (Some(other), Some(split))
                if split.is_deceived(verifier)
                    && other.proposal.statement.slot == propose.proposal.statement.slot =>
            {
                other.clone()
            }
            _ => propose,
        }
    }
}

/// Gathers the second certificate.
struct Second {
    group: Arc<GroupChain>,
    askers: Vec<Asker>,
    window: Arc<Window>,
    data_dir: PathBuf,
    other: Propose,
    split: Split,
}

impl Second {
    async fn certify(self) {
        let slot = self.other.proposal.statement.slot;
        let both = async { tokio::join!(self.first(slot), self.second()) };
        let Ok((first, Some((second, votes, need)))) = tokio::time::timeout(PATIENCE, both).await else {
            tracing::error!(slot = slot.0, "the slot was not certified twice");
            return;
        };
        let pair = ConflictingCertificates { first, second };
        if let Err(error) = write(&self.data_dir, &pair) {
            tracing::error!(%error, "the certificates cannot be written");
        }
        let kind = "ConflictingCertificates".to_owned();
        let scope = self.group.expected(pair.first.statement.vm, Kind::SLOT_SAMPLED);
        let detail = match pair.verify(&self.group, &scope) {
            Ok(both) => format!("slot {} is certified twice; verifiers {both:?} signed both", slot.0),
            Err(error) => format!("slot {} is not certified twice: {error}", slot.0),
        };
        let refusals = vec![RefusedBy { name: "nobody".into(), refused: Refused { kind, detail } }];
        Outcome { attack: "too-many-liars", votes, need, refusals }.publish(&self.data_dir);
    }

    /// The certificate that the host gets in the ordinary way.
    async fn first(&self, slot: Slot) -> SlotCertificate {
        loop {
            let seen = self.window.changes();
            if let Some(certificate) = self.window.certificate(slot) {
                return certificate;
            }
            self.window.wait(seen).await;
        }
    }

    async fn second(&self) -> Option<(SlotCertificate, u64, u64)> {
        let mut tally = Tally::new(&self.group, self.other.proposal.statement.clone()).ok()?;
        while !tally.is_complete() {
            for asker in &self.askers {
                let index = asker.index();
                let wanted = usize::from(index) >= self.split.truth_below && !tally.contains(index);
                if !wanted {
                    continue;
                }
                let answer = asker.ask(&ToVerifier::Propose(self.other.clone())).await;
                match answer {
                    Ok(FromVerifier::Attested(attested)) => {
                        if let Err(error) = tally.add(attested.attestation) {
                            tracing::warn!(error_kind = error.kind(), verifier = index, %error, "no vote");
                        }
                    }
                    // One that is behind has not got the slot before yet; its link brings it.
                    other => tracing::info!(verifier = index, ?other, "no vote yet"),
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (votes, need) = tally.progress();
        Some((tally.certificate().ok()?, votes, need))
    }
}

/// Beside its final name first, so that a reader finds all of it or nothing.
fn write(data_dir: &Path, pair: &ConflictingCertificates) -> std::io::Result<()> {
    let path = data_dir.join(CONFLICT_FILE);
    let partial = path.with_extension("partial");
    std::fs::write(&partial, to_bytes(pair))?;
    std::fs::rename(partial, path)
}
