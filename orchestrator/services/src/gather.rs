//! From single replicas' receipts to what `f + 1` of them say. Pure.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::VerifyError;
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::ServiceId;
use quorate_attest::key::Signature;
use quorate_attest::service::{ServiceReceipt, ServiceReceiptCertificate, ServiceReceiptTally};
use quorate_attest::statement::Kind;

/// Entries about which receipts are remembered; the lowest are forgotten first.
const ENTRIES_REMEMBERED: usize = 1024;

/// Two receipts of one replica for one entry: no honest one signs both.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Contradiction {
    /// Index of the replica in its group.
    pub replica: u16,
    /// One receipt, with its signature.
    pub first: (ServiceReceipt, Signature),
    /// The other.
    pub second: (ServiceReceipt, Signature),
}

impl Bounded for Contradiction {
    const LIMIT: usize = 2 + 2 * (ServiceReceipt::LIMIT + 64);
}

impl Contradiction {
    /// Checks that it convicts the replica: both signed by it, of one group, epoch, service and entry, and different.
    ///
    /// # Errors
    /// It convicts nobody.
    pub fn verify(&self, replicas: &GroupConfig) -> Result<(), VerifyError> {
        let place =
            |receipt: &ServiceReceipt| (receipt.group, receipt.epoch, receipt.service, receipt.number);
        let ((first, _), (second, _)) = (&self.first, &self.second);
        if first == second || place(first) != place(second) || first.group != replicas.id() {
            return Err(VerifyError::NoConflict { reason: "the receipts do not contradict each other" });
        }
        for (receipt, signature) in [&self.first, &self.second] {
            receipt.verify_vote(replicas, self.replica, signature)?;
        }
        Ok(())
    }
}

/// A replica's receipt against what `f + 1` others certify: it lies or executes differently, unless more than `f` of them lie.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Dissent {
    /// Index of the replica in its group.
    pub replica: u16,
    /// Its receipt, with its signature.
    pub said: (ServiceReceipt, Signature),
    /// What the others certify.
    pub certificate: ServiceReceiptCertificate,
}

impl Bounded for Dissent {
    const LIMIT: usize = 2 + ServiceReceipt::LIMIT + 64 + ServiceReceiptCertificate::LIMIT;
}

impl Dissent {
    /// Checks that the replica signed another receipt for the entry than the one that is certified.
    ///
    /// # Errors
    /// It shows nothing against the replica.
    pub fn verify(&self, replicas: &GroupConfig) -> Result<(), VerifyError> {
        let (said, signature) = &self.said;
        let expected = replicas.expected(said.service.instance(), Kind::SERVICE_RECEIPT);
        self.certificate.verify(replicas, &expected)?;
        if self.certificate.receipt == *said || self.certificate.receipt.number != said.number {
            return Err(VerifyError::NoConflict { reason: "the receipts do not contradict each other" });
        }
        said.check(&expected)?;
        said.verify_vote(replicas, self.replica, signature)
    }
}

/// What hearing a receipt led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Not enough of them agree yet.
    Counted,
    /// `f + 1` replicas agree on it.
    Certified(Box<ServiceReceiptCertificate>),
    /// The replica contradicts what it signed before. It is not counted.
    Contradicts(Box<Contradiction>),
}

/// Receipts about the entries of one service.
#[derive(Debug)]
pub struct Gather<'a> {
    replicas: &'a GroupConfig,
    service: ServiceId,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    candidates: Vec<ServiceReceiptTally>,
    heard: BTreeMap<u16, (ServiceReceipt, Signature)>,
}

impl<'a> Gather<'a> {
    /// Nothing heard yet.
    pub fn new(replicas: &'a GroupConfig, service: ServiceId) -> Self {
        Self { replicas, service, entries: BTreeMap::new() }
    }

    /// Takes a replica's receipt. The same one again changes nothing.
    ///
    /// # Errors
    /// It is of another service, group or epoch, contradicts itself, or the replica did not sign it.
    pub fn add(
        &mut self,
        replica: u16,
        receipt: ServiceReceipt,
        signature: Signature,
    ) -> Result<Heard, VerifyError> {
        if receipt.service != self.service {
            let (want, got) = (self.service.instance(), receipt.service.instance());
            return Err(VerifyError::WrongVm { want, got });
        }
        let fresh = ServiceReceiptTally::new(self.replicas, receipt)?;
        receipt.verify_vote(self.replicas, replica, &signature)?;
        let entry = self.entries.entry(receipt.number).or_default();
        match entry.heard.get(&replica) {
            Some((known, _)) if *known == receipt => {}
            Some(known) => {
                let (first, second) = (*known, (receipt, signature));
                return Ok(Heard::Contradicts(Box::new(Contradiction { replica, first, second })));
            }
            None => {
                entry.heard.insert(replica, (receipt, signature));
                let place = entry.candidates.iter().position(|tally| *tally.subject() == receipt);
                let place = place.unwrap_or_else(|| {
                    entry.candidates.push(fresh);
                    entry.candidates.len() - 1
                });
                entry.candidates[place].add(replica, signature)?;
            }
        }
        let certified = self.certified(receipt.number);
        while self.entries.len() > ENTRIES_REMEMBERED {
            self.entries.pop_first();
        }
        Ok(certified.map_or(Heard::Counted, |certificate| Heard::Certified(Box::new(certificate))))
    }

    /// What `f + 1` replicas say about an entry, once they do.
    pub fn certified(&self, number: u64) -> Option<ServiceReceiptCertificate> {
        self.entries.get(&number)?.candidates.iter().find_map(|tally| tally.certificate().ok())
    }

    /// Most equal receipts about an entry, and how many are needed.
    pub fn progress(&self, number: u64) -> (u64, u64) {
        let need = self.replicas.rule().map_or(0, |rule| rule.matching_replies());
        let tallies = self.entries.get(&number).into_iter().flat_map(|entry| &entry.candidates);
        (tallies.map(|tally| tally.progress().0).max().unwrap_or(0), need)
    }

    /// What replicas signed about an entry against the certified receipt.
    pub fn dissents(&self, number: u64) -> Vec<Dissent> {
        let Some(certificate) = self.certified(number) else { return Vec::new() };
        let heard = self.entries.get(&number).into_iter().flat_map(|entry| &entry.heard);
        heard
            .filter(|(_, (receipt, _))| *receipt != certificate.receipt)
            .map(|(replica, said)| Dissent {
                replica: *replica,
                said: *said,
                certificate: certificate.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
