//! Ways to misbehave: what a node does to the honest answer.

use quorate_attest::encoding::DecodeError;
use quorate_attest::id::{Epoch, ServiceId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::service::{Answer, ServiceReceipt};
use quorate_attest::statement::Kind;
use quorate_ordering::protocol::FromOrchestrator;
use quorate_ordering::services::{SERVICE_ANSWER_BYTES_MAX, ServiceAnswer};
use quorate_transport::Wire;

/// How a node behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conduct {
    Honest,
    /// Never answers.
    Silent,
    /// Its own wrong results, and wrong numbers.
    Liar,
    /// Orders rightly; the same wrong results as all others of the cabal.
    Cabal,
    /// Of the cabal, but only towards clients to be deceived.
    Equivocator,
    /// Of the cabal in every second answer.
    Wavering,
    /// Knows and tells only the first entries of the service.
    Stale(u64),
    /// Statements that it signs, but about something else.
    Replay(Replay),
    /// Of the cabal, and gives its own signatures under other indices too.
    Doubler,
    /// Right statements, wrong signatures.
    BadSig,
    /// Claims a number of entries that nobody ordered; the same as others or one of its own.
    Framer {
        alone: bool,
    },
    /// Bytes that are no answer.
    Fuzz,
    /// Leaves things out of what it shows of the state.
    Omit,
    /// Went back to these entries and executes other things behind them. The signer's memory is whole, or went back too.
    Rollback {
        to: u64,
        floor: bool,
    },
    /// Follows the other log.
    Split,
}

/// What a repeated statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    Service,
    Epoch,
    Kind,
    /// The entry before.
    Number,
}

/// A frame that has no honest sender.
pub struct Raw {
    tag: u8,
    body: Vec<u8>,
}

impl Wire for Raw {
    fn tag(&self) -> u8 {
        self.tag
    }

    fn limit(_: u8) -> Option<usize> {
        Some(usize::MAX)
    }

    fn encode_body(&self) -> Vec<u8> {
        self.body.clone()
    }

    fn decode_body(_: u8, _: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::Malformed { name: "Raw", offset: 0, reason: "nobody reads it".to_owned() })
    }
}

impl Raw {
    /// One of many ways to be no answer.
    pub fn instead_of(answer: &FromOrchestrator, count: u64) -> Self {
        let (tag, mut body) = (answer.tag(), answer.encode_body());
        match count % 7 {
            0 => body.truncate(body.len() / 2),
            1 => body.push(0),
            2 => body = vec![0xff; 64],
            3 => body = vec![0; SERVICE_ANSWER_BYTES_MAX + 1],
            4 => return Self { tag: 250, body },
            5 => body.clear(),
            _ => body.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x55),
        }
        Self { tag, body }
    }
}

/// A signature that is none.
pub fn broken(signature: &Signature) -> Signature {
    let mut bytes = signature.to_bytes();
    bytes[40] ^= 1;
    Signature::from_bytes(bytes)
}

impl Replay {
    /// A receipt about something else, truly signed.
    pub fn of(self, receipt: &ServiceReceipt, key: &SecretKey) -> (ServiceReceipt, Signature) {
        let mut replayed = *receipt;
        let mut statement = receipt.to_statement();
        match self {
            Self::Service => replayed.service = ServiceId::from_bytes([3; 32]),
            Self::Epoch => replayed.epoch = Epoch(1),
            Self::Kind => statement.kind = Kind::RECEIPT,
            Self::Number => {}
        }
        let signature = if self == Self::Kind { statement.sign(key) } else { replayed.sign(key) };
        (replayed, signature)
    }
}

/// Leaves something out of an answer of a fork.
pub fn omit(answer: &mut ServiceAnswer, count: u64) {
    let ServiceAnswer::Answered(answered) = answer else { return };
    match &mut answered.answer {
        Answer::Range { proof, more } => match count % 6 {
            0 => drop(proof.entries.pop()),
            1 if !proof.entries.is_empty() => drop(proof.entries.remove(0)),
            2 if !proof.entries.is_empty() => drop(proof.entries.remove(proof.entries.len() / 2)),
            3 => {
                proof.entries.clear();
                *more = false;
            }
            4 => {
                // The last entry poses as the neighbour behind the range.
                proof.after = proof.entries.pop();
            }
            _ => {
                (proof.before, proof.after) = (None, None);
                proof.entries.clear();
            }
        },
        Answer::Present(entry) => {
            let absent = quorate_attest::state_tree::AbsenceProof {
                before: count.is_multiple_of(2).then(|| entry.clone()),
                after: count.is_multiple_of(3).then(|| entry.clone()),
            };
            answered.answer = Answer::Absent(absent);
        }
        _ => {}
    }
}
