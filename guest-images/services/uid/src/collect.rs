//! Library mode: a binding certified by signatures that a client collects, without an ordered log.
//!
//! It is here for comparison and for groups that have no log. It decides uniqueness only: who may ask, quarantine and
//! limits are the caller's. Two proposals for one (UID, counter) can split the replicas so that neither gets a quorum,
//! and since no replica votes twice, that counter is dead for ever. The client must then be told so: [`Collector`] answers
//! [`Outcome::Conflict`] after a bounded number of steps. There are no ballots and nothing is ever unlocked; whoever needs
//! one of the two to win uses the ordered service.
//!
//! A replica votes at most once for a (UID, counter) and at most for one UID that is to have a name ([`Voter`]). What it
//! voted for must be kept durably before the signature leaves; these types do no I/O.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

use quorate_attest::VerifyError;
use quorate_attest::certificate::{Certificate, Tally};
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::Signature;
use quorate_attest::statement::{Expected, Statement};

use crate::field::{Name, Uid};
use crate::record::{Action, Bind, UID_BIND};

/// Why a replica does not vote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It voted for another statement that excludes this one. Sent to the client with the signature of that vote.
    #[error("voted for another binding of this UID or name")]
    Voted(Box<Statement>),
    /// The change does not follow from what is certified.
    #[error("the change does not follow from the certified state")]
    Stale,
    /// The statement is no binding.
    #[error("not a binding: {0}")]
    Malformed(VerifyError),
}

impl Refusal {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Voted(_) => "BindingConflict",
            Self::Stale => "BindingStale",
            Self::Malformed(error) => error.kind(),
        }
    }
}

/// What one replica remembers.
#[derive(Debug, Clone)]
pub struct Voter {
    group: GroupConfig,
    expected: Expected,
    certified: BTreeMap<Uid, Bind>,
    voted: BTreeMap<(Uid, u64), Statement>,
    names: BTreeMap<Name, (Uid, u64)>,
}

impl Voter {
    /// A replica of this group that has voted for nothing; `expected` is of [`UID_BIND`].
    pub fn new(group: GroupConfig, expected: Expected) -> Self {
        let (certified, voted, names) = Default::default();
        Self { group, expected, certified, voted, names }
    }

    /// Decides whether to sign. The same statement may be asked for again.
    ///
    /// # Errors
    /// It may not be signed.
    pub fn vote(&mut self, statement: &Statement) -> Result<(), Refusal> {
        let bind = binding(&self.expected, statement).map_err(Refusal::Malformed)?;
        let place = (bind.uid, bind.counter);
        match self.voted.get(&place) {
            Some(voted) if voted == statement => return Ok(()),
            Some(voted) => return Err(Refusal::Voted(Box::new(voted.clone()))),
            None => {}
        }
        if !follows(self.certified.get(&bind.uid), &bind) {
            return Err(Refusal::Stale);
        }
        // A name once voted for stays with its UID, certified or not: neither split nor deletion frees it here.
        if let Some(holder) = self.names.get(&bind.name).filter(|(uid, _)| *uid != bind.uid) {
            let voted = self.voted.get(holder).ok_or(Refusal::Stale)?;
            return Err(Refusal::Voted(Box::new(voted.clone())));
        }
        self.names.insert(bind.name, place);
        self.voted.insert(place, statement.clone());
        Ok(())
    }

    /// Takes a certificate: later changes of this UID follow from it.
    ///
    /// # Errors
    /// It does not verify, or does not follow from what is certified.
    pub fn learn(&mut self, certificate: &Certificate) -> Result<(), Refusal> {
        certificate.verify(&self.group, &self.expected).map_err(Refusal::Malformed)?;
        let bind = binding(&self.expected, &certificate.statement).map_err(Refusal::Malformed)?;
        if !follows(self.certified.get(&bind.uid), &bind) {
            return Err(Refusal::Stale);
        }
        self.names.entry(bind.name.clone()).or_insert((bind.uid, bind.counter));
        self.certified.insert(bind.uid, bind);
        Ok(())
    }
}

fn binding(expected: &Expected, statement: &Statement) -> Result<Bind, VerifyError> {
    expected.check(statement)?;
    if statement.kind != UID_BIND {
        return Err(VerifyError::WrongDomain { want: UID_BIND, got: statement.kind });
    }
    Ok(Bind::decoded(&statement.body)?)
}

fn follows(last: Option<&Bind>, next: &Bind) -> bool {
    let Some(last) = last else {
        return next.counter == 1 && next.action == Action::Add && next.previous == [0; 32];
    };
    let turn = last.counter.checked_add(1).filter(|counter| *counter != u64::MAX) == Some(next.counter);
    let possible = match next.action {
        Action::Add => false,
        Action::Transfer => last.action == Action::Delete,
        Action::Delete | Action::Rename | Action::SetAttributes => last.action != Action::Delete,
    };
    turn && possible && next.previous == last.digest()
}

/// Where a collection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// More answers may still decide it.
    Pending,
    /// A quorum signed.
    Certified(Box<Certificate>),
    /// Too many replicas have signed something that excludes it. This counter of the UID is dead, or the name taken.
    Conflict,
    /// The rounds are over and nobody has shown a conflict: too many are silent.
    Inconclusive,
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A replica's signature on the proposed statement.
    Vote {
        /// Index in the group.
        replica: u16,
        /// Its signature.
        signature: Signature,
    },
    /// A replica shows what it signed instead.
    Refusal {
        /// Index in the group.
        replica: u16,
        /// What it signed.
        statement: Box<Statement>,
        /// Its signature on that.
        signature: Signature,
    },
    /// The client has waited for one more round.
    Round,
}

/// Collects one proposal's signatures. A step ends in an outcome, counts something new, or is an error; so after at most
/// two answers of each replica and the given number of rounds there is an outcome.
#[derive(Debug, Clone)]
pub struct Collector {
    group: GroupConfig,
    expected: Expected,
    statement: Statement,
    bind: Bind,
    tally: Tally,
    voters: BTreeSet<u16>,
    refused: BTreeSet<u16>,
    rounds_left: u32,
    outcome: Outcome,
}

impl Collector {
    /// Starts with a proposal. `stated` is the quorum that the client's configuration names.
    ///
    /// # Errors
    /// `BadConfig`: the stated quorum is not the one that size and fault budget demand; or the statement is no binding of
    /// what is expected.
    pub fn new(
        group: GroupConfig,
        stated: u64,
        expected: Expected,
        statement: Statement,
        rounds: u32,
    ) -> Result<Self, VerifyError> {
        group.check_stated_quorum(stated)?;
        let bind = binding(&expected, &statement)?;
        let tally = Tally::new(&group, &expected, statement.clone())?;
        let (voters, refused, outcome) = (BTreeSet::new(), BTreeSet::new(), Outcome::Pending);
        Ok(Self { group, expected, statement, bind, tally, voters, refused, rounds_left: rounds, outcome })
    }

    /// Where it stands.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Takes one event; behind an outcome nothing changes.
    ///
    /// # Errors
    /// The event proves nothing and was not counted.
    pub fn step(&mut self, event: &Event) -> Result<&Outcome, VerifyError> {
        if self.outcome == Outcome::Pending {
            match event {
                Event::Vote { replica, signature } => self.vote(*replica, *signature)?,
                Event::Refusal { replica, statement, signature } => {
                    self.refusal(*replica, statement, signature)?;
                }
                Event::Round => self.round(),
            }
        }
        Ok(&self.outcome)
    }

    fn vote(&mut self, replica: u16, signature: Signature) -> Result<(), VerifyError> {
        let enough = self.tally.add(replica, signature)?;
        self.voters.insert(replica);
        if enough {
            self.outcome = Outcome::Certified(Box::new(self.tally.certificate()?));
        }
        Ok(())
    }

    fn refusal(&mut self, replica: u16, other: &Statement, signature: &Signature) -> Result<(), VerifyError> {
        let key = self.group.member(replica)?.vote_key;
        let bind = binding(&self.expected, other)?;
        let same_place = (bind.uid, bind.counter) == (self.bind.uid, self.bind.counter);
        let same_name = bind.name == self.bind.name && bind.uid != self.bind.uid;
        if *other == self.statement || !(same_place || same_name) {
            return Err(VerifyError::Inconsistent {
                reason: "the statement shown does not exclude this one",
            });
        }
        other.verify(&key, signature)?;
        self.refused.insert(replica);
        let lost = self.refused.difference(&self.voters).count() as u64;
        let rule = self.group.rule()?;
        if rule.n().saturating_sub(lost) < rule.quorum() {
            self.outcome = Outcome::Conflict;
        }
        Ok(())
    }

    fn round(&mut self) {
        self.rounds_left = self.rounds_left.saturating_sub(1);
        if self.rounds_left == 0 {
            self.outcome = if self.refused.is_empty() { Outcome::Inconclusive } else { Outcome::Conflict };
        }
    }
}
