//! What a replica feeds to its guest and what the guest answers.
//!
//! Both travel as body of a [`Request`](crate::request::Request) and of its [`Reply`](crate::request::Reply), signed by the replica
//! for its own VM, so that the host treats them like the messages of any client.

use alloc::boxed::Box;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use super::ServiceSpec;
use crate::encoding::{Bounded, bounded_bytes, bounded_list};
use crate::key::PublicKey;
use crate::merkle::ProofError;
use crate::request::BODY_LIMIT;
use crate::state_tree::{
    AbsenceProof, EntryProof, KEY_LIMIT, RANGE_LIMIT, RangeProof, StateCommitment, VALUE_LIMIT,
};

/// Most requests in one input.
pub const BATCH_LIMIT: usize = 256;

/// Most parties that vote about time: the members of a group.
pub const VOTERS_LIMIT: usize = 64;

/// Operation number of a vote about time, the same in every service. Its body is a u64: milliseconds since 1970.
pub const TICK: u16 = 0xffff;

/// The first input of a service's guest, behind the specification of its VM.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Genesis {
    /// The service.
    pub spec: ServiceSpec,
    /// Whose votes about time count.
    #[borsh(deserialize_with = "bounded_list::<VOTERS_LIMIT, _, _>")]
    pub voters: Vec<PublicKey>,
    /// How many of them may be Byzantine: service time is the `f + 1`-th largest vote.
    pub f: u64,
}

/// A request with its place in the orchestrators' log.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ordered {
    /// Entry of the orchestrators' log that ordered it.
    pub log_index: u64,
    /// The encoded request, signed by the client for [`ServiceSpec::id`] as instance. It may be anything: what does not
    /// decode is answered `MALFORMED`.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub request: Vec<u8>,
}

/// A question about the state, answered on a fork.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Query {
    /// The value of a key, or that there is none.
    Get {
        /// The key.
        #[borsh(deserialize_with = "bounded_bytes::<KEY_LIMIT, _>")]
        key: Vec<u8>,
    },
    /// All entries from `low` to `high`, both included, or the first `limit` of them.
    Range {
        /// Lowest key.
        #[borsh(deserialize_with = "bounded_bytes::<KEY_LIMIT, _>")]
        low: Vec<u8>,
        /// Highest key.
        #[borsh(deserialize_with = "bounded_bytes::<KEY_LIMIT, _>")]
        high: Vec<u8>,
        /// Most entries, 1 to 256. The proof then ends at the last of them.
        limit: u16,
    },
    /// Number of entries executed and commitment only.
    Head,
    /// Entries behind a key as they are, for another guest to [`Input::Import`]: as many as fit.
    Export {
        /// Last key that is known; empty, which no key is, from the start.
        #[borsh(deserialize_with = "bounded_bytes::<KEY_LIMIT, _>")]
        after: Vec<u8>,
    },
}

impl Bounded for Query {
    const LIMIT: usize = 2 * (KEY_LIMIT + 4) + 16;
}

/// An entry of the state, without proof.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateEntry {
    /// The key, not empty.
    #[borsh(deserialize_with = "bounded_bytes::<KEY_LIMIT, _>")]
    pub key: Vec<u8>,
    /// The value.
    #[borsh(deserialize_with = "bounded_bytes::<VALUE_LIMIT, _>")]
    pub value: Vec<u8>,
}

/// What a service's guest receives.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Input {
    /// Which service this is. Entry 0 of its log.
    Genesis(Genesis),
    /// Requests of consecutive entries of the service's log.
    Apply {
        /// Number of the first, from 1 on.
        first: u64,
        /// The requests, at most [`BATCH_LIMIT`].
        #[borsh(deserialize_with = "bounded_list::<BATCH_LIMIT, _, _>")]
        requests: Vec<Ordered>,
    },
    /// A question; on forks only. In an attested instance it changes nothing, but it dirties memory.
    Query(Query),
    /// In the place of [`Input::Genesis`]: the service goes on with the state that another guest exported.
    Import {
        /// The service, as at its genesis.
        genesis: Genesis,
        /// Entries executed before.
        number: u64,
        /// Further entries of the state, ascending.
        #[borsh(deserialize_with = "bounded_list::<RANGE_LIMIT, _, _>")]
        entries: Vec<StateEntry>,
        /// Commitment that the whole state must have, with the last part.
        complete: Option<StateCommitment>,
    },
}

impl Bounded for Input {
    const LIMIT: usize = BODY_LIMIT;
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Executed {
    /// The encoded [`Reply`](crate::request::Reply) to the client. For genesis, and for bytes that no client signed for this
    /// service, its client is [`PublicKey::NOBODY`] and its other fields are zero.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub reply: Vec<u8>,
    /// The state after it.
    pub state: StateCommitment,
}

/// Results of one [`Input::Genesis`], [`Input::Apply`] or [`Input::Import`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Applied {
    /// Number of the first. Behind an import the number that is next; 0 while parts of it are missing.
    pub first: u64,
    /// One for each request, or for the first of them when replies fill the output: the rest is to be sent again. One for
    /// genesis, none for an import.
    #[borsh(deserialize_with = "bounded_list::<BATCH_LIMIT, _, _>")]
    pub executed: Vec<Executed>,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Answer {
    /// The key is there.
    Present(EntryProof),
    /// The key is not there.
    Absent(AbsenceProof),
    /// Every entry from `low` to `high`, or to the last entry listed when `more`.
    Range {
        /// The entries with their proof.
        proof: RangeProof,
        /// Whether the limit ended the range early.
        more: bool,
    },
    /// Nothing but what stands beside it.
    Head,
    /// Entries of the state.
    Entries {
        /// Ascending.
        #[borsh(deserialize_with = "bounded_list::<RANGE_LIMIT, _, _>")]
        entries: Vec<StateEntry>,
        /// Whether further ones follow.
        more: bool,
    },
}

/// What a service's guest emits.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Output {
    /// Requests were executed.
    Applied(Applied),
    /// A question was answered.
    Answered {
        /// Entries of the service's log executed before it: the newest has this number less one.
        size: u64,
        /// The state that the answer is proved against.
        state: StateCommitment,
        /// The answer.
        answer: Box<Answer>,
    },
    /// The input was not taken; nothing changed.
    Refused {
        /// One of [`crate::request::status`].
        status: u16,
        /// Number of the entry that would be next; 0 before genesis.
        next: u64,
    },
}

impl Bounded for Output {
    const LIMIT: usize = BODY_LIMIT;
}

impl Answer {
    /// Checks the answer to `query` against a certified state.
    ///
    /// # Errors
    /// `ProofInvalid`: it does not answer the question, or its proof does not hold.
    pub fn verify(&self, query: &Query, state: &StateCommitment) -> Result<(), ProofError> {
        match (self, query) {
            (Self::Present(entry), Query::Get { key }) if entry.key == *key => entry.verify(state),
            (Self::Absent(proof), Query::Get { key }) => proof.verify(state, key),
            (Self::Range { proof, more }, Query::Range { low, high, limit }) => {
                if proof.entries.len() > usize::from(*limit) {
                    return Err(ProofError::new("more entries than were asked for"));
                }
                match (more, proof.entries.last()) {
                    (false, _) => proof.verify(state, low, high),
                    // Short of the limit only what fits is left out: it still ends at an entry of the range.
                    (true, Some(last)) if last.key <= *high => proof.verify(state, low, &last.key),
                    (true, Some(_)) => Err(ProofError::new("entries beyond the range that was asked for")),
                    (true, None) => Err(ProofError::new("a range that goes on shows no entry")),
                }
            }
            (Self::Head, Query::Head) => Ok(()),
            _ => Err(ProofError::new("the answer is to another question")),
        }
    }
}

const _: () = assert!(VALUE_LIMIT + KEY_LIMIT < BODY_LIMIT);
