//! What other replicas say, as far as they signed it.

use std::collections::BTreeMap;

use quorate_attest::merkle::Digest;
use quorate_attest::service::ServiceReceipt;
use quorate_ordering::services::{ExecutedEntry, SignedReceipt};
use sha2::{Digest as _, Sha256};

use super::{Core, Identity};

impl Core {
    /// What `f + 1` others say about an entry, with the reply if one of them still has it.
    pub(super) fn agreed(&self, told: &[ExecutedEntry], number: u64) -> Option<(ServiceReceipt, Vec<u8>)> {
        let about = || told.iter().filter(|entry| entry.receipt.number == number);
        let receipts: Vec<_> = about().map(ExecutedEntry::signed).collect();
        let receipt = self.agreement(&receipts)?.first()?.receipt;
        let reply = about().map(|entry| &entry.reply).find(|reply| {
            let digest: Digest = Sha256::digest(reply).into();
            digest == receipt.result
        });
        // Of an old entry nobody keeps it any more.
        Some((receipt, reply.cloned().unwrap_or_default()))
    }

    /// Receipts that say the same, each signed by another replica than this one: `f + 1`, so that an honest one is among them.
    pub(super) fn agreement(&self, receipts: &[SignedReceipt]) -> Option<Vec<SignedReceipt>> {
        let Identity { group, replica, service } = &self.identity;
        let is_signed = |signed: &SignedReceipt| {
            let receipt = &signed.receipt;
            receipt.service == *service
                && receipt.group == group.id()
                && receipt.epoch == group.epoch
                && receipt.verify_vote(group, signed.replica, &signed.signature).is_ok()
        };
        let mut of_others: BTreeMap<u16, &SignedReceipt> = BTreeMap::new();
        for signed in receipts.iter().filter(|signed| signed.replica != *replica) {
            // Anybody can name another: only what that one signed takes its place.
            if !of_others.contains_key(&signed.replica) && is_signed(signed) {
                of_others.insert(signed.replica, signed);
            }
        }
        let mut groups: Vec<Vec<SignedReceipt>> = Vec::new();
        for signed in of_others.into_values() {
            match groups.iter_mut().find(|group| group.iter().any(|other| other.receipt == signed.receipt)) {
                Some(group) => group.push(*signed),
                None => groups.push(vec![*signed]),
            }
        }
        groups.into_iter().find(|group| group.len() as u64 >= self.rule.matching_replies())
    }
}
