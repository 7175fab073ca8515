//! Answers to questions about the state, with proofs that fit into one output.

use alloc::vec::Vec;

use quorate_attest::request::{BODY_LIMIT, status};
use quorate_attest::service::{Answer, CONFIG_LIMIT, Query, StateEntry, VOTERS_LIMIT};
use quorate_attest::state_tree::{KEY_LIMIT, RANGE_LIMIT, StateTree, VALUE_LIMIT};

use crate::limits::ENTRIES_LIMIT;

/// Most entries that a query may ask for.
const LIMIT: u16 = 256;

/// Hashes of a path in the largest state.
const PATH_LIMIT: usize = ENTRIES_LIMIT.ilog2() as usize;

/// Bytes of a proof of one entry beside key and value.
const PROOF_BYTES: usize = 4 + 4 + 8 + 4 + 32 * PATH_LIMIT;

/// Bytes of an output with an answer beside its entries.
const ANSWER_BYTES: usize = 1 + 8 + 40 + 1 + 4 + 1 + 1 + 1;

/// Bytes of entries that an export holds at most: an input that imports them carries the genesis besides.
const EXPORT_BYTES: usize = BODY_LIMIT - (CONFIG_LIMIT + 32 * VOTERS_LIMIT + 1024);

/// An entry and two neighbours always fit, so a range that goes on shows one entry at least.
const _: () = assert!(ANSWER_BYTES + 3 * (PROOF_BYTES + KEY_LIMIT + VALUE_LIMIT) <= BODY_LIMIT);

/// The answer to `query`.
///
/// # Errors
/// `MALFORMED`: its bounds or its limit make no sense.
pub(crate) fn answer(tree: &StateTree, query: &Query) -> Result<Answer, u16> {
    match query {
        Query::Get { key } => match (tree.membership(key), tree.absence(key)) {
            (Some(present), _) => Ok(Answer::Present(present)),
            (None, Some(absent)) => Ok(Answer::Absent(absent)),
            (None, None) => Err(status::NOT_FOUND),
        },
        Query::Range { low, high, limit } if (1..=LIMIT).contains(limit) && low <= high => {
            Ok(range(tree, low, high, usize::from(*limit)))
        }
        Query::Range { .. } => Err(status::MALFORMED),
        Query::Head => Ok(Answer::Head),
        Query::Export { after } => Ok(export(tree, after)),
    }
}

fn range(tree: &StateTree, low: &[u8], high: &[u8], limit: usize) -> Answer {
    let entries = tree.entries();
    let start = entries.partition_point(|(key, _)| key.as_slice() < low);
    let end = entries.partition_point(|(key, _)| key.as_slice() <= high);
    let bytes =
        |index: usize| entries.get(index).map_or(0, |(key, value)| PROOF_BYTES + key.len() + value.len());
    let mut used = ANSWER_BYTES + start.checked_sub(1).map_or(0, bytes);
    let mut stop = start;
    // Behind the last entry its neighbour must fit, too.
    while stop < end && stop - start < limit && used + bytes(stop) + bytes(stop + 1) <= BODY_LIMIT {
        used += bytes(stop);
        stop += 1;
    }
    let last = stop.checked_sub(1).and_then(|last| entries.get(last));
    match last {
        Some((last, _)) if stop < end => Answer::Range { proof: tree.range(low, last), more: true },
        _ => Answer::Range { proof: tree.range(low, high), more: false },
    }
}

fn export(tree: &StateTree, after: &[u8]) -> Answer {
    let start = tree.entries().partition_point(|(key, _)| key.as_slice() <= after);
    let rest = tree.entries().get(start..).unwrap_or_default();
    let mut used = 0;
    let fitting = rest.iter().take(RANGE_LIMIT).take_while(|(key, value)| {
        used += 8 + key.len() + value.len();
        used <= EXPORT_BYTES
    });
    let entries: Vec<StateEntry> =
        fitting.map(|(key, value)| StateEntry { key: key.clone(), value: value.clone() }).collect();
    let more = entries.len() < rest.len();
    Answer::Entries { entries, more }
}
