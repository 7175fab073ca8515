//! Verifiers that do not follow the protocol.

use quorate_attest::id::{Nonce, PageRoot};
use quorate_attest::vm::{Activation, Mode, SlotStatement};
use quorate_transport::Role;
use quorate_verifier::core::Signer;
use quorate_verifier::node::conduct::{Conduct, Step, Taken};
use quorate_verifier::protocol::{Attested, FromVerifier, ToVerifier, Voted};

/// Any conduct, chosen at run time.
pub struct Chosen(Box<dyn Conduct>);

impl Chosen {
    /// Wraps a conduct.
    pub fn new(conduct: impl Conduct) -> Self {
        Self(Box::new(conduct))
    }
}

impl Conduct for Chosen {
    fn step(&self, step: Step) {
        self.0.step(step);
    }

    fn take(&self, request: &ToVerifier, from: Role, signer: &Signer) -> Taken {
        self.0.take(request, from, signer)
    }

    fn release(&self, answer: FromVerifier, signer: &Signer) -> Option<FromVerifier> {
        self.0.release(answer, signer)
    }
}

/// Takes every request and answers none.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Conduct for Silent {
    fn take(&self, _request: &ToVerifier, _from: Role, _signer: &Signer) -> Taken {
        Taken::Silence
    }
}

/// Answers everything with a valid signature under something else than what was asked: a state that nobody reached, an
/// instance that nobody proposed, a head of another question.
#[derive(Clone, Copy, Debug)]
pub struct Lying;

impl Conduct for Lying {
    fn take(&self, request: &ToVerifier, _from: Role, signer: &Signer) -> Taken {
        match request {
            ToVerifier::Propose(propose) => attested(&invented(&propose.proposal.statement), signer),
            ToVerifier::Activate(activate) => {
                let other =
                    Activation { instance: Nonce::from_bytes([0xee; 16]), ..activate.activation.clone() };
                voted(&other, signer)
            }
            _ => Taken::ByTheRules,
        }
    }

    fn release(&self, answer: FromVerifier, _signer: &Signer) -> Option<FromVerifier> {
        Some(match answer {
            FromVerifier::Head(mut head) => {
                head.nonce = Nonce::from_bytes([0xee; 16]);
                FromVerifier::Head(head)
            }
            other => other,
        })
    }
}

fn invented(statement: &SlotStatement) -> SlotStatement {
    let mut invented = statement.clone();
    invented.body.page_root = PageRoot::from_bytes([0xee; 32]);
    invented
}

/// Signs whatever it is asked to, checks nothing and remembers nothing: two statements for one slot, two instances of
/// one generation. More than f of this kind end all guarantees.
#[derive(Clone, Copy, Debug)]
pub struct SignsAnything;

impl Conduct for SignsAnything {
    fn take(&self, request: &ToVerifier, _from: Role, signer: &Signer) -> Taken {
        match request {
            ToVerifier::Propose(propose) => attested(&propose.proposal.statement, signer),
            ToVerifier::Activate(activate) => voted(&activate.activation, signer),
            _ => Taken::ByTheRules,
        }
    }
}

fn attested(statement: &SlotStatement, signer: &Signer) -> Taken {
    let attestation = signer.attest(statement, Mode::Replayed);
    let attested = Attested { slot: statement.slot, attestation, cosignature: String::new() };
    Taken::Instead(Box::new(FromVerifier::Attested(attested)))
}

fn voted(activation: &Activation, signer: &Signer) -> Taken {
    let (generation, verifier) = (activation.generation, signer.index());
    let signature = signer.vote(activation);
    Taken::Instead(Box::new(FromVerifier::Voted(Voted { generation, verifier, signature })))
}
