//! From proposed slots to certificates, and from certificates to released outputs (output commit).
//!
//! Pure: attestations go in, certificates and releasable outputs come out, in slot order for each client's sake.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::epoch::GroupChain;
use quorate_attest::error::VerifyError;
use quorate_attest::id::Slot;
use quorate_attest::vm::{Attestation, SlotCertificate, SlotStatement, Tally};

/// A slot that got its quorum.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate, with the votes present when the quorum was reached.
    pub certificate: SlotCertificate,
    /// The outputs of the transition, to be released now.
    pub outputs: Vec<Vec<u8>>,
}

/// Slots on their way to a certificate.
#[derive(Debug)]
pub struct Pipeline {
    group: Arc<GroupChain>,
    pending: BTreeMap<Slot, Pending>,
    certified: Option<Slot>,
}

#[derive(Debug)]
struct Pending {
    tally: Tally,
    outputs: Vec<Vec<u8>>,
}

impl Pipeline {
    /// Starts behind `certified`, the newest slot that needs no more votes.
    pub fn new(group: Arc<GroupChain>, certified: Option<Slot>) -> Self {
        Self { group, pending: BTreeMap::new(), certified }
    }

    /// Newest certified slot.
    pub fn certified(&self) -> Option<Slot> {
        self.certified
    }

    /// Slots still waiting for votes.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// A slot was proposed; its outputs wait for the quorum. One that was proposed in an earlier epoch gets its certificate
    /// from the members of that epoch, or none.
    ///
    /// # Errors
    /// The statement belongs to another group or to an unknown epoch.
    pub fn propose(&mut self, statement: SlotStatement, outputs: Vec<Vec<u8>>) -> Result<(), VerifyError> {
        let slot = statement.slot;
        let tally = Tally::new(self.group.past(statement.group, statement.epoch)?, statement)?;
        self.pending.insert(slot, Pending { tally, outputs });
        Ok(())
    }

    /// The outputs of a slot that was proposed before they were known.
    pub fn outputs_known(&mut self, slot: Slot, outputs: Vec<Vec<u8>>) {
        if let Some(pending) = self.pending.get_mut(&slot) {
            pending.outputs = outputs;
        }
    }

    /// Votes so far and votes needed for a pending slot.
    pub fn progress(&self, slot: Slot) -> Option<(u64, u64)> {
        self.pending.get(&slot).map(|pending| pending.tally.progress())
    }

    /// Adds one verifier's attestation. A bad one is refused with the reason and changes nothing. A good one may complete
    /// the quorum of its slot.
    ///
    /// # Errors
    /// Those of [`Tally::add`]; the error names the verifier.
    pub fn attested(
        &mut self,
        slot: Slot,
        attestation: Attestation,
    ) -> Result<Option<Certified>, VerifyError> {
        let Some(pending) = self.pending.get_mut(&slot) else { return Ok(None) };
        if !pending.tally.add(attestation)? {
            return Ok(None);
        }
        let certificate = pending.tally.certificate()?;
        let outputs = std::mem::take(&mut pending.outputs);
        self.pending.remove(&slot);
        // Its voters have signed every slot before. Some of those may have lost their votes in a restart of this host.
        self.pending.retain(|earlier, pending| *earlier > slot || !pending.outputs.is_empty());
        self.certified = self.certified.max(Some(slot));
        Ok(Some(Certified { certificate, outputs }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{attestation, chain, group, next_epoch, statement, verifier};
    use quorate_attest::vm::Mode;

    #[test]
    fn outputs_are_released_with_the_certificate_and_not_before() {
        let group = group(4, 1);
        let mut pipeline = Pipeline::new(chain(&group), None);
        let slot = statement(&group, 5, 0);
        pipeline.propose(slot.clone(), vec![b"out".to_vec()]).unwrap();
        assert!(pipeline.attested(Slot(5), attestation(&slot, 0)).unwrap().is_none());
        assert!(pipeline.attested(Slot(5), attestation(&slot, 2)).unwrap().is_none());
        assert_eq!((pipeline.certified(), pipeline.outstanding()), (None, 1));
        let certified = pipeline.attested(Slot(5), attestation(&slot, 3)).unwrap().unwrap();
        assert_eq!(certified.outputs, [b"out".to_vec()]);
        assert_eq!((pipeline.certified(), pipeline.outstanding()), (Some(Slot(5)), 0));
        assert!(
            pipeline.attested(Slot(5), attestation(&slot, 1)).unwrap().is_none(),
            "a late vote changes nothing"
        );
    }

    #[test]
    fn slots_of_an_epoch_that_ended_are_certified_by_its_members_and_new_ones_by_the_new_members() {
        let before = chain(&group(4, 1));
        let after = next_epoch(&before, |config| config.members[0].vote_key = verifier(9).public());
        let mut pipeline = Pipeline::new(Arc::clone(&after), None);
        let (last, first) = (statement(&before, 5, 0), statement(&after, 6, 0));
        pipeline.propose(last.clone(), Vec::new()).unwrap();
        pipeline.propose(first.clone(), Vec::new()).unwrap();
        let new_key = |statement| Attestation::sign(statement, 0, Mode::Replayed, &verifier(9));
        let kind = |result: Result<Option<Certified>, VerifyError>| result.map(|_| ()).map_err(|e| e.kind());
        assert_eq!(kind(pipeline.attested(Slot(5), new_key(&last))), Err("BadSignature"));
        assert_eq!(kind(pipeline.attested(Slot(6), attestation(&first, 0))), Err("BadSignature"));
        for index in 0..3 {
            pipeline.attested(Slot(5), attestation(&last, index)).unwrap();
        }
        assert_eq!(pipeline.certified(), Some(Slot(5)));
        pipeline.attested(Slot(6), new_key(&first)).unwrap();
        pipeline.attested(Slot(6), attestation(&first, 1)).unwrap();
        pipeline.attested(Slot(6), attestation(&first, 2)).unwrap();
        assert_eq!(pipeline.certified(), Some(Slot(6)));
        let unknown =
            statement(&next_epoch(&after, |config| config.operators.push(verifier(8).public())), 7, 0);
        let error = pipeline.propose(unknown, Vec::new()).unwrap_err();
        assert_eq!(error.kind(), "EpochUnlinked");
    }

    #[test]
    fn one_verifier_twice_is_no_quorum() {
        let group = group(4, 1);
        let mut pipeline = Pipeline::new(chain(&group), None);
        let slot = statement(&group, 5, 0);
        pipeline.propose(slot.clone(), Vec::new()).unwrap();
        pipeline.attested(Slot(5), attestation(&slot, 0)).unwrap();
        pipeline.attested(Slot(5), attestation(&slot, 1)).unwrap();
        let again = pipeline.attested(Slot(5), attestation(&slot, 1));
        assert_eq!(again.map_err(|error| error.kind()).map(|_| ()), Err("DuplicateSigner"));
        assert_eq!(pipeline.certified(), None);
    }

    #[test]
    fn a_lying_verifiers_attestation_of_another_state_is_refused_by_name() {
        let group = group(4, 1);
        let mut pipeline = Pipeline::new(chain(&group), None);
        let slot = statement(&group, 5, 0);
        pipeline.propose(slot.clone(), Vec::new()).unwrap();
        let lie = attestation(&statement(&group, 5, 1), 2);
        let error = pipeline.attested(Slot(5), lie).unwrap_err();
        assert_eq!(error.kind(), "BadSignature");
        for index in [0, 1, 3] {
            pipeline.attested(Slot(5), attestation(&slot, index)).unwrap();
        }
        assert_eq!(pipeline.certified(), Some(Slot(5)));
    }

    #[test]
    fn slots_that_lost_their_votes_in_a_restart_do_not_hold_up_the_later_ones() {
        let group = group(4, 1);
        let mut pipeline = Pipeline::new(chain(&group), None);
        let slots: Vec<_> = (4..8).map(|slot| statement(&group, slot, 0)).collect();
        pipeline.propose(slots[0].clone(), vec![b"a client waits for this".to_vec()]).unwrap();
        slots[1..].iter().for_each(|slot| pipeline.propose(slot.clone(), Vec::new()).unwrap());
        for index in 0..3 {
            pipeline.attested(Slot(6), attestation(&slots[2], index)).unwrap();
        }
        assert_eq!((pipeline.certified(), pipeline.outstanding()), (Some(Slot(6)), 2));
        assert_eq!((pipeline.progress(Slot(4)), pipeline.progress(Slot(5))), (Some((0, 3)), None));
    }
}
