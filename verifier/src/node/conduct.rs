//! The points at which a crashing or Byzantine verifier differs from an honest one.
//!
//! Production runs [`Honest`], whose methods are empty and vanish at compile time. Tests link the library with other conducts; this
//! is the only way in which their nodes differ from the real one.

use quorate_transport::Role;

use crate::core::Signer;
use crate::protocol::{FromVerifier, ToVerifier};

/// A step between two effects, where a process may be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// A request has been taken from the queue of its VM.
    RequestTaken,
    /// The image of a new VM is about to be stored.
    BeforeImage,
    /// The image is stored, the registration is not.
    AfterImage,
    /// A record is about to be written.
    BeforePersist,
    /// A record is written and not yet synced.
    BetweenWriteAndSync,
    /// A record is durable, the answer has not left.
    AfterPersist,
    /// An answer has been handed to the connection.
    AfterSend,
    /// A machine is about to be booted from its image.
    BeforeBoot,
    /// A transition is about to be executed.
    BeforeReplay,
    /// A transition has been executed and not yet compared.
    AfterReplay,
    /// A state is about to be pulled from a host.
    BeforePull,
    /// Pages of a state are arriving.
    DuringPull,
    /// A state has been pulled and not yet adopted.
    AfterPull,
    /// Evidence is about to be stored.
    BeforeEvidence,
    /// The sign-log is about to be replaced by a shorter one.
    BeforeCompaction,
}

impl Step {
    /// Every step, so that a test which ends the process at each of them cannot forget one.
    pub const ALL: [Self; 15] = [
        Self::RequestTaken,
        Self::BeforeImage,
        Self::AfterImage,
        Self::BeforePersist,
        Self::BetweenWriteAndSync,
        Self::AfterPersist,
        Self::AfterSend,
        Self::BeforeBoot,
        Self::BeforeReplay,
        Self::AfterReplay,
        Self::BeforePull,
        Self::DuringPull,
        Self::AfterPull,
        Self::BeforeEvidence,
        Self::BeforeCompaction,
    ];

    /// Name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestTaken => "request-taken",
            Self::BeforeImage => "before-image",
            Self::AfterImage => "after-image",
            Self::BeforePersist => "before-persist",
            Self::BetweenWriteAndSync => "between-write-and-sync",
            Self::AfterPersist => "after-persist",
            Self::AfterSend => "after-send",
            Self::BeforeBoot => "before-boot",
            Self::BeforeReplay => "before-replay",
            Self::AfterReplay => "after-replay",
            Self::BeforePull => "before-pull",
            Self::DuringPull => "during-pull",
            Self::AfterPull => "after-pull",
            Self::BeforeEvidence => "before-evidence",
            Self::BeforeCompaction => "before-compaction",
        }
    }

    /// The step with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// What happens to a request before the rules see it.
#[derive(Clone, Debug)]
pub enum Taken {
    /// The rules decide.
    ByTheRules,
    /// No answer at all.
    Silence,
    /// This answer, without any check and without a record.
    Instead(Box<FromVerifier>),
}

/// How a node behaves where nodes may differ. All methods default to honest behaviour.
///
/// They are called on the threads that serve a VM or write the sign-log, so a conduct may block to be slow.
pub trait Conduct: Send + Sync + 'static {
    /// Called at each [`Step`]; a crashing conduct ends the process here.
    fn step(&self, _step: Step) {}

    /// Called with each request before the rules see it.
    fn take(&self, _request: &ToVerifier, _from: Role, _signer: &Signer) -> Taken {
        Taken::ByTheRules
    }

    /// Called with each answer before it leaves; `None` drops it.
    fn release(&self, answer: FromVerifier, _signer: &Signer) -> Option<FromVerifier> {
        Some(answer)
    }
}

/// Follows the protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Honest;

impl Conduct for Honest {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_step_has_its_own_name_and_is_listed_once() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        assert!(Step::ALL.windows(2).all(|pair| pair[0] < pair[1]), "in order of declaration, none twice");
        assert!(Step::ALL.iter().all(|step| Step::parse(step.name()) == Some(*step)));
        assert_eq!(Step::parse("never"), None);
    }
}
