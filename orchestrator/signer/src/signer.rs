//! The shell around [`SignState`]: carries out its effects in order, with the sign-log and the keys.

use quorate_attest::cosignature::cosign;
use quorate_attest::key::SecretKey;
use quorate_verifier::sign_log::{Opened, SignLogError, Storage};

use crate::journal::{Identity, Journal, JournalError};
use crate::protocol::{FromSigner, Public, Refused, ToSigner};
use crate::rules::Rules;
use crate::state::{Effect, Request, SignState, Verdict};

/// The keys of a replica.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Signs statements.
    pub vote: SecretKey,
    /// Signs heads of logs.
    pub cosigner: SecretKey,
    /// Name under which heads are cosigned: that of the group, a slash, that of the member.
    pub cosigner_name: String,
}

impl Keys {
    /// The owner of a sign-log.
    #[must_use]
    pub fn identity(&self, rules: &Rules) -> Identity {
        Identity::new(rules.group, self.vote.public(), self.cosigner.public())
    }
}

/// Rules, keys and sign-log.
#[derive(Debug)]
pub struct Signer<S> {
    rules: Rules,
    keys: Keys,
    journal: Journal<S>,
    state: SignState,
}

impl<S: Storage> Signer<S> {
    /// Takes up what was signed before.
    ///
    /// # Errors
    /// As [`Journal::restore`].
    pub fn new(opened: Opened<S>, rules: Rules, keys: Keys) -> Result<Self, JournalError> {
        let (journal, state) = Journal::restore(opened, keys.identity(&rules), rules.epoch)?;
        Ok(Self { rules, keys, journal, state })
    }

    /// Answers a batch at the price of one sync. `now` is POSIX time in seconds and goes into cosignatures only.
    ///
    /// # Errors
    /// Storage failed: nothing of the batch was signed, and nothing will be.
    pub fn handle(&mut self, now: u64, batch: &[ToSigner]) -> Result<Vec<FromSigner>, SignLogError> {
        let requests: Vec<Request> = batch.iter().flat_map(requests).collect();
        let mut answers = Vec::new();
        for effect in self.state.step(&self.rules, &requests) {
            match effect {
                Effect::Record(promises) => self.journal.record(&promises, &self.state)?,
                Effect::Release(verdicts) => answers = self.release(now, batch, verdicts),
            }
        }
        Ok(answers)
    }

    fn release(&self, now: u64, batch: &[ToSigner], verdicts: Vec<Verdict>) -> Vec<FromSigner> {
        let mut verdicts = verdicts.into_iter();
        let answer = |asked: &ToSigner| match asked {
            ToSigner::Sign { statements } => {
                let signed = statements.iter().zip(verdicts.by_ref());
                let signatures = signed.map(|(bytes, verdict)| match verdict {
                    Verdict::Sign => Ok(self.keys.vote.sign(bytes)),
                    other => Err(refused(other)),
                });
                FromSigner::Signed { signatures: signatures.collect() }
            }
            ToSigner::Cosign(_) => match verdicts.next() {
                Some(Verdict::Cosign(checkpoint)) => {
                    match cosign(&self.keys.cosigner_name, &self.keys.cosigner, now, &checkpoint) {
                        Ok(line) => FromSigner::Cosigned { line: line.to_string() },
                        Err(error) => FromSigner::Refused(Refused::new(error.kind(), error)),
                    }
                }
                Some(other) => FromSigner::Refused(refused(other)),
                None => FromSigner::Refused(Refused::new("Inconsistent", "no verdict")),
            },
            ToSigner::Public => FromSigner::Public(self.public()),
        };
        batch.iter().map(answer).collect()
    }

    /// Who signs, and what was signed last.
    #[must_use]
    pub fn public(&self) -> Public {
        Public {
            vote: self.keys.vote.public(),
            cosigner: self.keys.cosigner.public(),
            cosigner_name: self.keys.cosigner_name.clone(),
            floors: self.state.floors(),
            heads: self.state.heads(),
        }
    }
}

fn requests(asked: &ToSigner) -> Vec<Request> {
    match asked {
        ToSigner::Sign { statements } => statements.iter().cloned().map(Request::Sign).collect(),
        ToSigner::Cosign(head) => vec![Request::Cosign(head.clone())],
        ToSigner::Public => Vec::new(),
    }
}

fn refused(verdict: Verdict) -> Refused {
    match verdict {
        Verdict::Refuse(refusal) => Refused::new(refusal.kind(), &refusal),
        // A verdict of the other sort would be a bug of the state; nothing is signed then.
        Verdict::Sign | Verdict::Cosign(_) => Refused::new("Inconsistent", "verdict of another request"),
    }
}

#[cfg(test)]
mod tests;
